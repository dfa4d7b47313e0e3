"""What UNets of Stable Diffusion are conditioned on: text alone, the same for every frame.

Enters: embeddings and noisy latents. Leaves: predicted noise. Training and sampling know this by ``conditioning`` alone.

Shape suffixes: B batch, C channels, T frames, H and W latent height and width, N tokens, D features.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Self, TypeAlias

from diffusers import UNet2DConditionModel, UNetMotionModel
from torch import Tensor

from cinelora.errors import ModelError
from cinelora.families.animatediff.long_clips import attends_in_windows
from cinelora.families.animatediff.sparse_frame import SparseFrame
from cinelora.families.family import Network
from cinelora.families.text_condition import TextCondition

UNet: TypeAlias = "UNet2DConditionModel | UNetMotionModel"


@dataclass(frozen=True)
class FrameCondition(TextCondition):
    """Text (B, 77, D), padding included: CLIP's networks were taught with it; and the first frame, where SparseCtrl shows one."""

    text: Tensor
    image: SparseFrame | None = None

    @classmethod
    def of_batch(cls, batch: Mapping[str, Tensor], shows_image: bool) -> Self:
        """That of a batch of the data set."""
        return cls(batch["text"])

    @staticmethod
    def drawn_image(network: Network, size: Any, width: int | None, draw: Callable[..., Tensor]) -> None:
        """Nothing is shown."""
        return None

    def predict(self, transformer: UNet, latents_BCTHW: Tensor, timestep_B: Tensor) -> Tensor:
        """The noise (B, C, T, H, W) in float32, of a clip by a motion network, of frames each by itself by an image network.

        Raises ``ModelError`` for a lone frame, which motion modules were never taught, and for more frames than they take.
        """
        frames, dtype = latents_BCTHW.shape[2], transformer.conv_in.weight.dtype
        text, latents = self.text.to(dtype).repeat_interleave(frames, 0), latents_BCTHW.to(dtype)
        if isinstance(transformer, UNetMotionModel):
            refuse_length(transformer, frames)
            shown = self.image.residuals(latents, timestep_B, text) if self.image else {}
            noise: Tensor = transformer(latents, timestep_B, text, return_dict=False, **shown)[0]
            return noise.float()
        apart = latents.transpose(1, 2).flatten(0, 1)
        alone: Tensor = transformer(apart, timestep_B.repeat_interleave(frames), text, return_dict=False)[0]
        return alone.float().view(-1, frames, *alone.shape[1:]).transpose(1, 2)


def refuse_length(unet: UNetMotionModel, frames: int) -> None:
    """Raise ``ModelError`` for a clip that motion modules do not take."""
    if frames == 1:
        raise ModelError("a still is made by the image network: motion modules were taught clips alone")
    longest = unet.config.motion_max_seq_length
    if frames > longest and not attends_in_windows(unet):
        raise ModelError(
            f"num_frames={frames} is longer than the {longest} frames of this motion adapter: take at most {longest}"
        )
