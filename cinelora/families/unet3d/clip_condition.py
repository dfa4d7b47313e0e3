"""What the UNet of clips is conditioned on: one text for all frames.

Enters: embeddings and noisy latents. Leaves: predicted noise. Training and sampling know this by ``conditioning`` alone.

Shape suffixes: B batch, C channels, T frames, H and W latent height and width.
"""

from __future__ import annotations

from dataclasses import dataclass

from diffusers import UNet3DConditionModel
from torch import Tensor

from cinelora.families.animatediff.unet_conditions import FrameCondition


@dataclass(frozen=True)
class ClipCondition(FrameCondition):
    """Text (B, 77, D), padding included, as frames' networks have it."""

    def predict(self, transformer: UNet3DConditionModel, latents_BCTHW: Tensor, timestep_B: Tensor) -> Tensor:
        """The noise (B, C, T, H, W) in float32, of clips of any length; a still is one of one frame."""
        dtype = transformer.conv_in.weight.dtype
        noise: Tensor = transformer(latents_BCTHW.to(dtype), timestep_B, self.text.to(dtype), return_dict=False)[0]
        return noise.float()
