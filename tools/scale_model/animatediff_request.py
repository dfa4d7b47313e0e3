"""What ``python -m tools.scale_model animatediff`` is asked: which parts are trained, on how much, for how long."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cinelora.config.schema import setting
from cinelora.errors import ConfigError

PARTS = ("vae", "text", "image", "motion", "report")
"""In the order in which they are trained: each stands on those before it."""


@dataclass(frozen=True)
class AnimateDiffRequest:
    """Train the embedded AnimateDiff on rendered footage: its encoders, the image network, the motion modules; then look at it.

    python -m tools.scale_model animatediff out=outputs/animatediff
    """

    out: str = setting("outputs/animatediff", role="path")
    """folder of the model; parts that it holds already go on learning"""
    work: str = setting("outputs/animatediff-work", role="path")
    """folder that keeps encoded footage for the next part"""
    parts: str = setting("all", ("all", *PARTS))
    """which part is trained; report = measure and draw"""
    frames: int = setting(16, at_least=2, at_most=16)
    """frames of a clip"""
    fps: int = setting(8, at_least=1)
    """frames per second"""
    height: int = setting(128, at_least=64, multiple_of=64)
    """height in pixels, a multiple of 64, as of every AnimateDiff"""
    width: int = setting(192, at_least=64, multiple_of=64)
    """width in pixels, likewise"""
    vae_clips: int = setting(2400, at_least=1)
    """clips of every look that the VAE learns from"""
    vae_steps: int = setting(30_000, at_least=1)
    """steps of the VAE"""
    vae_batch: int = setting(32, at_least=1)
    """frames of a step of the VAE"""
    vae_limit_s: int = setting(0, at_least=0)
    """seconds after which the VAE is done; 0 = none"""
    vae_rate: float = setting(2e-3, above=0, at_most=1)
    """learning rate of the VAE"""
    text_steps: int = setting(2000, at_least=1)
    """steps of the text encoder"""
    text_batch: int = setting(256, at_least=1)
    """captions of a step of the text encoder"""
    text_limit_s: int = setting(0, at_least=0)
    """seconds after which the text encoder is done; 0 = none"""
    text_rate: float = setting(1e-3, above=0, at_most=1)
    """learning rate of the text encoder"""
    clips: int = setting(6000, at_least=1)
    """clips in daylight that both networks learn from"""
    heldout: int = setting(64, at_least=12)
    """other clips that they are measured on"""
    image_steps: int = setting(30_000, at_least=1)
    """steps of the image network"""
    image_batch: int = setting(256, at_least=1)
    """stills of a step of the image network"""
    image_limit_s: int = setting(0, at_least=0)
    """seconds after which the image network is done; 0 = none"""
    image_rate: float = setting(2e-3, above=0, at_most=1)
    """learning rate of the image network"""
    motion_steps: int = setting(10_000, at_least=1)
    """steps of the motion modules"""
    motion_batch: int = setting(24, at_least=1)
    """clips of a step of the motion modules"""
    motion_limit_s: int = setting(0, at_least=0)
    """seconds after which the motion modules are done; 0 = none"""
    motion_rate: float = setting(1e-3, above=0, at_most=1)
    """learning rate of the motion modules"""
    sampler_steps: int = setting(25, at_least=1)
    """denoising steps of what the report draws"""
    guidance: float = setting(4.0, at_least=0)
    """guidance of what the report draws"""
    seed: int = setting(0, at_least=0)
    """seeds the weights at first, and all chance"""
    workers: int = setting(0, at_least=0)
    """processes that render; 0 = none of their own"""

    @property
    def size(self) -> tuple[int, int, int]:
        """Frames, height and width."""
        return self.frames, self.height, self.width

    @property
    def wanted(self) -> tuple[str, ...]:
        """The parts, in order."""
        return PARTS if self.parts == "all" else (self.parts,)


def check_animatediff(request: AnimateDiffRequest) -> None:
    """Refuse parts that stand on what is not there; raises ``ConfigError``."""
    if request.parts in ("image", "motion", "report") and not Path(request.out, "base", "vae").is_dir():
        raise ConfigError(
            f"parts={request.parts} needs trained encoders, and out={request.out} holds none: vae and text first"
        )
