"""What every VAE of the factory shares: how it begins, and how far its pictures are from those it was given.

Enters: a VAE, videos in [-1, 1], posteriors. Leaves: losses, and what is measured.

Shape suffixes: B batch, C channels, T frames, H and W height and width, K places of a window.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from cinelora.metrics.reference import SIGMA, WINDOW, windowed_ssim
from tools.scale_model.training_film import Film, to_range

KL_WEIGHT = 3e-5
"""Weight of the mean divergence per latent value: enough to keep latents near a unit Gaussian, too little to blur."""
SSIM_WEIGHT = 0.6
"""Weight of ``1 - SSIM``, with which it is about as large as the rest of the reconstruction's loss."""
SSIM_EVERY = 4
"""Of the frames of a clip every fourth is compared in structure: neighbours say the same."""


def begin_simply(vae: nn.Module, residual_block: type[nn.Module]) -> None:
    """Let residual branches begin silent (Goyal et al. 2017, section 5.1) and everything else as orthogonal maps.

    What is left at first is a chain of resampling convolutions, which carries the picture from end to end.
    """
    # A block comes before its convolutions in ``modules()``, so the silent ones need a second round.
    for module in vae.modules():
        if isinstance(module, nn.Conv2d | nn.Conv3d):
            nn.init.orthogonal_(module.weight)
            nn.init.constant_(module.get_parameter("bias"), 0.0)
    for module in vae.modules():
        if isinstance(module, residual_block):
            nn.init.zeros_(module.get_parameter("conv2.weight"))


def reconstruction_loss(rebuilt_BCTHW: Tensor, video_BCTHW: Tensor) -> Tensor:
    """What two float32 videos in [-1, 1] differ by: pixels, edges, flicker and structure.

    Mean absolute error of pixels plus half that of their differences in space and in time, eight times the mean squared
    error, and ``SSIM_WEIGHT`` of what every fourth frame, the first included, lacks to an SSIM of 1.
    """
    error = rebuilt_BCTHW - video_BCTHW
    differences = (error.diff(dim=dim).abs().mean() for dim in (2, 3, 4) if error.shape[dim] > 1)
    pixels = error.abs().mean() + 0.5 * sum(differences, torch.zeros((), device=error.device))
    structure = 1 - structural_similarity(rebuilt_BCTHW[:, :, ::SSIM_EVERY], video_BCTHW[:, :, ::SSIM_EVERY])
    return pixels + 8 * error.square().mean() + SSIM_WEIGHT * structure


def structural_similarity(one: Tensor, other: Tensor, data_range: float = 2.0) -> Tensor:
    """Mean SSIM (``windowed_ssim``) of float32 pictures (..., H, W), of which each channel counts alone.

    The Gaussian window stays inside the picture, where that of ``ssim_map`` mirrors its edges; in a picture narrower than
    the window it is cut to the picture. Its matrices are made on the device, so that a CUDA graph can hold them.
    """
    # A Gaussian window is separable: two products with banded matrices are its average around every place.
    rows_KH, columns_LW = (_windows(one.shape[dim], one.device) for dim in (-2, -1))
    return windowed_ssim(one, other, lambda values: rows_KH @ values @ columns_LW.T, data_range).mean()


def _windows(size: int, device: torch.device) -> Tensor:
    """Every place of the Gaussian window along ``size`` pixels, a row each, (size - window + 1, size)."""
    window = min(WINDOW, size)
    middle_K1 = torch.arange(size - window + 1, device=device)[:, None] + (window - 1) / 2
    distance_KH = torch.arange(size, device=device) - middle_K1
    weights_KH = torch.exp(-0.5 * (distance_KH / SIGMA).square()) * (distance_KH.abs() <= (window - 1) / 2)
    return weights_KH / weights_KH.sum(1, keepdim=True)


def divergence(posterior: object) -> Tensor:
    """Mean per latent value of KL(N(mean, std) | N(0, 1))."""
    mean, logvar = posterior.mean.float(), posterior.logvar.float()  # type: ignore[attr-defined]
    per_value: Tensor = 0.5 * (mean.square() + logvar.exp() - 1 - logvar)
    return per_value.mean()


def psnr_by_look(rebuild: Callable[[Tensor], Tensor], film: Film) -> dict[str, float]:
    """Mean PSNR in dB of clips by look, ``10 log10(1 / MSE)`` of pixels in [0, 1]; ``rebuild`` takes one clip in [-1, 1]."""
    found: dict[str, list[float]] = {}
    for clip, look in zip(film.clips_NTHWC, film.looks, strict=True):
        video = to_range(clip[None])
        error = float(((rebuild(video).clamp(-1, 1) - video) / 2).square().mean())
        found.setdefault(look, []).append(10 * math.log10(1 / error))
    return {look: sum(values) / len(values) for look, values in found.items()}
