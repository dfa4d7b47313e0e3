"""What ``python -m tools.scale_model distil`` is asked: which transformer, into how many steps, from what teacher."""

from __future__ import annotations

from dataclasses import dataclass

from cinelora.config.schema import setting


@dataclass(frozen=True)
class DistilRequest:
    """Train an adapter with which a transformer of model=tiny draws in few unguided steps what it draws in many guided ones.

    python -m tools.scale_model distil out=outputs/distilled.safetensors
    """

    out: str = setting("outputs/distilled.safetensors", role="path")
    """file of the adapter"""
    kind: str = setting("i2v", ("t2v", "i2v"))
    """the transformer"""
    frames: int = setting(33, at_least=1, frames=True)
    """frames of a clip, 4n+1"""
    steps: int = setting(4, at_least=1)
    """steps that the adapter draws in"""
    fine: int = setting(10, at_least=1)
    """steps of the teacher for one of the adapter"""
    guidance: float = setting(5.0, above=0)
    """guidance of the teacher"""
    shift: float = setting(3.0, above=0)
    """sigma shift of both"""
    rank: int = setting(32, at_least=1)
    """rank of the adapter, on every projection"""
    samples: int = setting(2048, at_least=1)
    """rendered scenes that are learnt from"""
    heldout: int = setting(64, at_least=1)
    """other scenes that are measured on"""
    batch: int = setting(64, at_least=1)
    """scenes of a step"""
    training_steps: int = setting(4000, at_least=1)
    """steps of AdamW"""
    rate: float = setting(1e-3, above=0, at_most=1)
    """learning rate at its highest; it falls to zero by a cosine"""
    limit_s: int = setting(0, at_least=0)
    """seconds after which learning is done, its rate at zero by then; 0 = none"""

    @property
    def nodes(self) -> list[int]:
        """The teacher's step at which each step of the adapter begins, and the last one's end."""
        return [self.fine * number for number in range(self.steps + 1)]
