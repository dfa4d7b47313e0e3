"""Clips longer than motion modules take, by FreeNoise (Qiu et al. 2023): windows that overlap, and noise that comes again.

Enters: a motion network, or noise. Leaves: the same network, which attends in windows; noise for all frames.
"""

from __future__ import annotations

import torch
from diffusers import UNetMotionModel
from diffusers.models.attention import FreeNoiseTransformerBlock
from diffusers.pipelines.free_noise_utils import AnimateDiffFreeNoiseMixin
from torch import Tensor

STRIDE = 4
"""Frames from one window to the next."""


class _Windows(AnimateDiffFreeNoiseMixin):  # type: ignore[misc]
    """What diffusers' pipelines do to their network, without a pipeline."""

    def __init__(self, unet: UNetMotionModel) -> None:
        self.unet = self.motion_adapter = unet
        self.device, self.dtype = unet.device, unet.dtype


def attend_in_windows(unet: UNetMotionModel, window: int) -> None:
    """Let frames attend inside windows of ``window`` frames alone, whose results are blended where they overlap.

    Before adapters hang on the network: its layers are made again, under the names that they had.
    """
    _Windows(unet).enable_free_noise(context_length=window, context_stride=STRIDE)
    unet.eval().requires_grad_(False)


def attends_in_windows(unet: UNetMotionModel) -> bool:
    """Whether a network takes clips of any length."""
    return any(isinstance(module, FreeNoiseTransformerBlock) for module in unet.modules())


def windowed_noise(noise_BCTHW: Tensor, window: int, generator: torch.Generator) -> Tensor:
    """Noise whose frames after the first ``window`` are those before them, ``STRIDE`` at a time, in another order.

    Windows of noise that have nothing in common would be clips that have nothing in common.
    """
    noise, frames = noise_BCTHW.clone(), noise_BCTHW.shape[2]
    for first in range(window, frames, STRIDE):
        begin = first - window
        # drawn for a whole stride, also where fewer frames are left
        order = begin + torch.randperm(min(frames, begin + STRIDE) - begin, generator=generator)
        noise[:, :, first : first + STRIDE] = noise[:, :, order[: frames - first]]
    return noise
