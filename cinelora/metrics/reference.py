"""How near a clip comes to a reference of its own: PSNR, SSIM, LPIPS, and whether it changes in time as the reference does.

Enters: pairs of clips of one shape, in [0, 1]. Leaves: one number each, averaged over pairs. The networks come from
``features``; it does not know where their weights lie.

Shape suffixes: T frames, N pairs of images, C colours, H and W height and width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import torch
from torch import Tensor

from cinelora.metrics.clip_metric import Clip, Needs, OverClips, in_parts
from cinelora.metrics.networks import FrameDistance

WINDOW, SIGMA = 11, 1.5
"""Pixels and deviation of SSIM's Gaussian window."""
BLOCK = 48
"""Places whose windows are taken together."""
AT_ONCE = 8
"""Frames compared together: maps of a whole 720p clip would take gigabytes."""


def ssim_map(one_NCHW: Tensor, other_NCHW: Tensor) -> Tensor:
    """SSIM of images in [0, 1] at each place, (N, C, H, W); pictures are mirrored at their edges, as torchmetrics does."""
    # A Gaussian window is a weighted mean along the rows, then one along the columns. Both are products with matrices, of
    # which row i holds the weights that place i gives to its neighbours: (H, H) @ (H, W) @ (W, W).
    rows, columns = (_windows(size) for size in one_NCHW.shape[2:])

    def mean(image: Tensor) -> Tensor:
        wide = torch.cat([image[..., near] @ part.to(image).T for near, part in columns], dim=-1)
        return torch.cat([part.to(image) @ wide[..., near, :] for near, part in rows], dim=-2)

    return windowed_ssim(one_NCHW, other_NCHW, mean)


def windowed_ssim(one: Tensor, other: Tensor, mean: Callable[[Tensor], Tensor], data_range: float = 1.0) -> Tensor:
    """SSIM of images (..., H, W) at each place for which ``mean`` says what its window sees there.

    ``(2 m1 m2 + c1) (2 s12 + c2) / ((m1^2 + m2^2 + c1) (s1^2 + s2^2 + c2))`` with c1 = (0.01 range)^2, c2 = (0.03 range)^2;
    the window is a Gaussian of 11 pixels and deviation 1.5. Source: Wang, Bovik, Sheikh, Simoncelli 2004, Image quality
    assessment, equation 13.
    """
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    first, second = mean(one), mean(other)
    both = first * second
    squares = first.square() + second.square()
    # the two variances are only ever added, so that their squares go through the window together
    spread = mean(one.square() + other.square()) - squares
    shared = mean(one * other) - both
    return (2 * both + c1) * (2 * shared + c2) / ((squares + c1) * (spread + c2))


def mean_ssim(one_NCHW: Tensor, other_NCHW: Tensor) -> Tensor:
    """Mean of ``ssim_map`` over images, colours and places."""
    parts = in_parts(AT_ONCE, one_NCHW, other_NCHW)
    return torch.cat([ssim_map(one, other).mean((1, 2, 3)) for one, other in parts]).mean()


@cache
def _windows(size: int) -> list[tuple[slice, Tensor]]:
    """The Gaussian window around each place, folded back at the edges: for each block of places what it sees, and weights.

    Matrices, as a CPU multiplies those fastest; in blocks, as most of one large one would be zeros.
    """
    reach = WINDOW // 2
    weights = torch.exp(-torch.arange(-reach, reach + 1).double().square() / (2 * SIGMA**2))
    windows, places = torch.zeros(size, size, dtype=torch.float64), torch.arange(size)
    # A neighbour outside the picture is replaced by its mirror image: place -2 by 2, and behind the last place likewise. So
    # its weight is added to that of a place inside.
    for offset, weight in zip(range(-reach, reach + 1), weights / weights.sum(), strict=True):
        neighbours = (places + offset).abs()
        windows[places, torch.minimum(neighbours, 2 * (size - 1) - neighbours)] += weight
    near = [slice(max(0, first - reach), min(size, first + BLOCK + reach)) for first in range(0, size, BLOCK)]
    blocks = torch.split(windows.float(), BLOCK)
    return [(seen, block[:, seen].contiguous()) for seen, block in zip(near, blocks, strict=True)]


class PeakSignalToNoise(OverClips):
    """PSNR: mean over clips of ``10 log10(1 / MSE)`` of a whole clip, in dB. 0 to 100 dB, higher is nearer.

    An equal clip would have infinity, which no mean survives: it counts as 100 dB, a squared error of 1e-10. Differs from
    the PSNR of the mean error, and from the mean over frames. Do not trust it for sharpness: what is blurred scores well.
    Source: Huynh-Thu and Ghanbari 2008, Scope of validity of PSNR.
    """

    higher_is_better = True
    needs = Needs(reference=True)

    def score(self, clip: Clip) -> Tensor:
        """``-10 log10(max(MSE, 1e-10))``."""
        error = (clip.frames_TCHW - clip.beside_TCHW).square().mean(dtype=torch.float64)
        return -10 * error.clamp(min=1e-10).log10()


class StructuralSimilarity(OverClips):
    """SSIM: mean over frames and clips of the structural similarity with the reference. -1 to 1, higher is nearer.

    Formula and source: ``windowed_ssim``; means over colours and places. A shift of two pixels costs more than the eye sees.
    """

    higher_is_better = True
    needs = Needs(reference=True, side=WINDOW)

    def score(self, clip: Clip) -> Tensor:
        """Mean SSIM of paired frames."""
        return mean_ssim(clip.frames_TCHW, clip.beside_TCHW)


class OfFrameDistance(OverClips):
    """A measure of clips by a network's distances between frames."""

    higher_is_better = False
    needs = Needs(reference=True)

    def __init__(self, network: FrameDistance, **options: Any) -> None:
        super().__init__(**options)
        self.network = network
        self.needs = replace(self.needs, side=network.side)


class PerceptualDistance(OfFrameDistance):
    """LPIPS: mean over paired frames of a distance of network features. 0 upwards, lower is nearer.

    ``sum_l mean_hw |w_l (f_l - g_l)|^2`` of features of unit length per place. With AlexNet and the published weights this
    is LPIPS; with the embedded model's image encoder it is a number of its own, and is never called LPIPS.
    Source: Zhang, Isola, Efros, Shechtman, Wang 2018, The unreasonable effectiveness of deep features.
    """

    def score(self, clip: Clip) -> Tensor:
        """Mean distance of paired frames."""
        return self.network.paired(clip).mean()


class TemporalPerceptualDistance(OfFrameDistance):
    """tLP: ``100 mean_t |d(g_t-1, g_t) - d(r_t-1, r_t)|`` of a clip g and its reference r. 0 upwards, lower is nearer.

    Whether the clip changes as much as the reference from frame to frame: too still and too restless both count. It says
    nothing of whether the pictures are alike. Offered where LPRO is asked for, a name for which no definition of a video
    metric is published. Source: Chu et al. 2020, TecoGAN, section 5 (there with LPIPS of AlexNet).
    """

    needs = Needs(reference=True, frames=2)

    def score(self, clip: Clip) -> Tensor:
        """``100 mean |d(g_t-1, g_t) - d(r_t-1, r_t)|``."""
        generated, real = self.network.steps(clip)
        return 100 * (generated - real).abs().mean()
