"""What a UNet of Stable Diffusion's line takes on a device, with motion modules or without: parameters, bytes, seconds.

Enters: the width of its widest level. Leaves: what ``estimate.Shape`` answers. A UNet's levels are of many widths and sizes, so
that bytes and seconds are measured for the whole, by latent, and not counted block by block (``benchmarks/unets.py``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from cinelora.families import family_of
from cinelora.planning.cards import GPUS, Gpu
from cinelora.planning.estimate import Shape, weight_bytes

if TYPE_CHECKING:
    from cinelora.config.schema import ModelConfig
    from cinelora.planning.estimate import Drawing, Policy, Prediction, Step

WIDEST = 1280
"""Channels of the widest level of SD1.5, whose sizes stand here."""
SPATIAL = (320, 320, 640, 640, 1280, 1280, 1280, 1280, 1280, 1280, 640, 640, 640, 320, 320, 320)
"""Channels of its spatial transformers, on the way down, in the middle, on the way up."""
TEMPORAL = (*(320, 320, 640, 640, 1280, 1280, 1280, 1280), *(1280,) * 6, *(640,) * 3, *(320,) * 3)
"""The same of motion modules v1 and v3."""
TEXT = 768


class Taken(NamedTuple):
    """Bytes by latent in bf16, and seconds by latent on an H200, of a network."""

    parameters: int
    kept: float
    """Bytes of what is kept for a backward pass."""
    recomputed: float
    """The same where blocks are recomputed."""
    drawn: float
    """Bytes that come and go while a prediction is made without gradients."""
    forward_s: float
    backward_s: float
    """Seconds of a backward pass that makes no gradients of weights."""


IMAGE = Taken(859_520_964, 200e3, 60e3, 46e3, 0.74e-6, 1.28e-6)
MOTION = Taken(859_520_964 + 417_137_600, 335e3, 87e3, 46e3, 1.17e-6, 1.90e-6)
CLIPS = Taken(1_411_233_860, 432e3, 57e3, 46e3, 1.2e-6, 2.0e-6)
"""Of ``UNet3DConditionModel``: bytes counted on torch's meta device, seconds as of motion modules, which were measured."""
COMPILING_S, COMPILED_SAVES = 70.0, 0.12
"""What compiling transformer blocks takes once, and the share of a step that it saves (H200, 16 frames of 512x512)."""


@dataclass(frozen=True)
class UNetShape(Shape):
    """The sizes of a UNet; ``layers`` is 1, as its blocks are recomputed all or none."""

    @classmethod
    def of_model(cls, model: ModelConfig, kind: str) -> UNetShape:
        """The network ``kind`` of a model."""
        return cls(1, model.hidden_size, model.ffn_dim, TEXT, None, kind, family_of(model))

    @property
    def taken(self) -> Taken:
        """What the network takes."""
        network = self.family.network(self.network)
        if network.makes_stills_alone:
            return IMAGE
        return MOTION if "motion_adapter" in network.beside else CLIPS

    @property
    def scale(self) -> float:
        """Its width by SD1.5's."""
        return self.hidden / WIDEST

    @property
    def parameters(self) -> int:
        """All values; about, where it is no SD1.5."""
        return round(self.taken.parameters * self.scale**2)

    @property
    def block_matrices(self) -> int:
        """Its weights are in no row of blocks."""
        return 0

    @property
    def block_rest(self) -> int:
        """Likewise."""
        return 0

    @property
    def around(self) -> int:
        """All values."""
        return self.parameters

    def adapter(self, rank: int, targets: str) -> int:
        """Values of an adapter's factors."""
        widths: tuple[int, ...] = TEMPORAL if self.taken is MOTION else SPATIAL
        if self.taken is MOTION:
            values = sum(16 * width for width in widths)
        else:
            values = sum(6 * width + 2 * TEXT for width in widths)
            values += sum(8 * width for width in widths) if targets != "cross_attention" else 0
        values += sum(14 * width for width in widths) if targets == "all_linear" else 0
        return round(rank * values * self.scale)

    def products(self, tokens: int, dtype: str, gpu: Gpu, own: int) -> tuple[float, float]:
        """Seconds of a prediction of ``own`` latents, and no attention apart from it."""
        return own * self.taken.forward_s * self.scale * GPUS[0].bf16 / gpu.bf16, 0.0

    def recomputed_in_words(self, count: int) -> str:
        """All of it or nothing is computed again, each layer by itself."""
        return "every layer recomputed"

    def pays_to_compile(self, seconds: float) -> bool:
        """Whether compiling saves more than it takes: its steps are quick, and its levels many."""
        return COMPILED_SAVES * seconds > COMPILING_S

    def step_peak(self, step: Step, policy: Policy) -> dict[str, float]:
        """Bytes at the height of a training step, by what they are for."""
        width = 2.0 if step.dtype == "fp32" else 1.0
        each = self.taken.recomputed if policy.recompute else self.taken.kept
        adapter = (step.kept + step.gradient + (4.0 if step.averaged else 0.0)) * self.adapter(step.rank, step.targets)
        return {
            "weights": weight_bytes(self, step.dtype),
            "adapter, gradients and optimizer": adapter,
            "activations": step.samples * step.tokens * each * width * self.scale,
        }

    def step_seconds(self, step: Step, policy: Policy, gpu: Gpu) -> float:
        """Seconds of a micro-batch."""
        taken, passes = self.taken, 2 if policy.recompute else 1
        each = passes * taken.forward_s + taken.backward_s
        return step.samples * step.tokens * each * self.scale * GPUS[0].bf16 / gpu.bf16

    def drawn_peak(self, prediction: Prediction, drawing: Drawing) -> dict[str, float]:
        """Bytes while a prediction is made without gradients."""
        width = (2.0 if prediction.dtype == "fp32" else 1.0) * (2.0 if drawing.together else 1.0)
        return {
            "weights": weight_bytes(self, prediction.dtype),
            "activations": prediction.tokens * self.taken.drawn * width * self.scale,
        }
