"""A clip that begins at a picture, by SparseCtrl-RGB (Guo et al. 2023): a network beside the motion network, which sees a frame.

Enters: the latents of the first frame, and noisy latents. Leaves: what is added to the motion network's own, level by level.

Shape suffixes: B batch, C channels, T frames, H and W latent height and width, N tokens, D features.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import SparseControlNetModel
from torch import Tensor

from cinelora.errors import ModelError, first_line


@dataclass(frozen=True)
class SparseFrame:
    """The first frame's latents (B, C, 1, H, W), and the network that is shown them."""

    latents: Tensor
    control: SparseControlNetModel

    def beside(self, other: SparseFrame) -> SparseFrame:
        """This batch and another after it as one."""
        return SparseFrame(torch.cat([self.latents, other.latents]), self.control)

    def rows(self, chosen_B: Tensor) -> SparseFrame:
        """That of the chosen samples."""
        return SparseFrame(self.latents[chosen_B], self.control)

    def residuals(self, latents_BCTHW: Tensor, timestep: Tensor, text_BTND: Tensor) -> dict[str, Any]:
        """What the motion network takes beside its inputs; the other frames are unknown, which a mask says."""
        shown = torch.zeros_like(latents_BCTHW)
        shown[:, :, :1] = self.latents.to(shown)
        mask = torch.zeros_like(shown[:, :1])
        mask[:, :, 0] = 1
        down, mid = self.control(
            latents_BCTHW, timestep, text_BTND, controlnet_cond=shown, conditioning_mask=mask, return_dict=False
        )
        return {"down_block_additional_residuals": down, "mid_block_additional_residual": mid}


def load_control(folder: Path) -> SparseControlNetModel:
    """SparseCtrl-RGB in diffusers' layout. Raises ``ModelError`` for another network, such as the one for scribbles."""
    try:
        control: SparseControlNetModel = SparseControlNetModel.from_pretrained(
            folder, local_files_only=True, use_safetensors=True
        )
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise ModelError(f"SparseCtrl in {folder} does not load: {first_line(error)}") from error
    if not control.use_simplified_condition_embedding:
        raise ModelError(f"{folder} is SparseCtrl for scribbles: use the one for RGB")
    return control
