"""Does a clip hold still in time, and does it move at all? Reference-free measures of one clip against itself.

Enters: videos (B, 3, T, H, W) in [0, 1]. Leaves: one number each, averaged over clips. A frozen clip scores best on
consistency, so it is always read beside the motion.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.functional.image import structural_similarity_index_measure as ssim


class OverClips(Metric):
    """Mean of ``score`` over all clips seen, on all ranks."""

    total: Tensor
    clips: Tensor

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("clips", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, video_BCTHW: Tensor) -> None:
        """Take clips (B, 3, T, H, W) in [0, 1] with at least two frames."""
        for clip_CTHW in video_BCTHW:
            self.total += self.score(clip_CTHW.transpose(0, 1))
            self.clips += 1

    def compute(self) -> Tensor:
        """The mean so far."""
        return (self.total / self.clips).float()

    def score(self, frames_TCHW: Tensor) -> Tensor:
        """The number of one clip."""
        raise NotImplementedError


class TemporalSSIM(OverClips):
    """TSSIM: mean SSIM of adjacent frames (Wang et al. 2004 on each pair). 0 to 1, higher is steadier, frozen is 1."""

    higher_is_better = True

    def score(self, frames_TCHW: Tensor) -> Tensor:
        """Mean SSIM(I_t, I_t+1), pair by pair: all at once take 50 GiB for 81 frames of 720p."""
        pairs = zip(frames_TCHW[1:], frames_TCHW[:-1], strict=True)
        return torch.stack([torch.as_tensor(ssim(a[None], b[None], data_range=1.0)) for a, b in pairs]).mean()


class Motion(OverClips):
    """Mean absolute difference of adjacent frames in levels of 255. 0 is a frozen clip; neither high nor low is better."""

    def score(self, frames_TCHW: Tensor) -> Tensor:
        """255 * mean |I_t+1 - I_t|."""
        return 255 * (frames_TCHW[1:] - frames_TCHW[:-1]).abs().mean()


class Flicker(OverClips):
    """Standard deviation over time of the change in mean brightness, in levels of 255. Lower is steadier, 0 is best."""

    higher_is_better = False

    def score(self, frames_TCHW: Tensor) -> Tensor:
        """255 * std_t(mean(I_t+1) - mean(I_t))."""
        brightness_T = frames_TCHW.mean(dim=(1, 2, 3))
        return 255 * brightness_T.diff().std(correction=0)


METRICS: dict[str, type[OverClips]] = {"tssim": TemporalSSIM, "motion": Motion, "flicker": Flicker}


def measure(names: list[str], video_THWC: np.ndarray) -> dict[str, float]:
    """The numbers that ``names`` ask for, of one clip (uint8), by this rank alone; a single frame has none in time."""
    if len(video_THWC) < 2:
        return {}
    video = torch.from_numpy(video_THWC).permute(3, 0, 1, 2)[None].float() / 255
    numbers = {}
    for name in names:
        metric = METRICS[name](sync_on_compute=False)
        metric.update(video)
        numbers[name] = round(float(metric.compute()), 5)
    return numbers
