"""Rendered clips on the device that encoders learn from, and the pieces that are cut out of them.

Enters: seeds and looks. Leaves: clips in uint8 with their scenes, and batches of pieces in [-1, 1].

Shape suffixes: N clips, B batch, C channels, T frames, H and W height and width.
"""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm.auto import tqdm

from tools.scale_model.render import render_scene
from tools.scale_model.render.scenes import Scene, draw_scene


@dataclass(frozen=True)
class Film:
    """Rendered clips of several looks: ``clips_NTHWC`` uint8 on the device, with the scene and look of each."""

    clips_NTHWC: Tensor
    scenes: list[Scene]
    looks: list[str]


def render_film(
    seeds: range, looks: list[str], size: tuple[int, int, int], fps: int, device: torch.device, workers: int
) -> Film:
    """A clip (frames, height, width = ``size``) at ``fps`` of each seed, the looks in turn, by ``workers`` processes or here.

    Without grain: noise that nobody can predict teaches a VAE nothing.
    """
    scenes = [draw_scene(seed) for seed in seeds]
    chosen = [looks[i % len(looks)] for i in range(len(scenes))]
    draw = partial(_rendered, size=size, fps=fps, device=str(device))
    show = partial(tqdm, desc="rendering", unit="clip", total=len(scenes), mininterval=2)
    if workers:
        with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
            clips = [torch.from_numpy(clip) for clip in show(pool.map(draw, scenes, chosen, chunksize=4))]
    else:
        clips = [torch.from_numpy(draw(scene, look)) for scene, look in show(zip(scenes, chosen, strict=True))]
    return Film(torch.stack(clips).to(device), scenes, chosen)


def _rendered(scene: Scene, look: str, size: tuple[int, int, int], fps: int, device: str) -> NDArray[np.uint8]:
    clip: NDArray[np.uint8] = render_scene(scene, look, *size, fps, grain=False, device=device).cpu().numpy()
    return clip


@dataclass(frozen=True)
class Cut:
    """Pieces that are cut out of a film at random: ``count`` at a time, of (frames, height, width) = ``size``."""

    clips_NTHWC: Tensor
    count: int
    size: tuple[int, ...]

    @classmethod
    def of(cls, film: Film, count: int, *size: int) -> Cut:
        """Pieces of (frames, height, width) = ``size``, or of the film's where that is smaller."""
        return cls(film.clips_NTHWC, count, tuple(map(min, size, film.clips_NTHWC.shape[1:4])))

    def draw(self, generator: torch.Generator) -> tuple[Tensor, ...]:
        """Of each piece its clip, first frame, top, left, and whether it is mirrored, (B,) each, on the host."""
        starts = (whole - size + 1 for whole, size in zip(self.clips_NTHWC.shape[1:4], self.size, strict=True))
        highest = (len(self.clips_NTHWC), *starts, 2)
        return tuple(torch.randint(limit, (self.count,), generator=generator) for limit in highest)

    def pieces(self, which_B: Tensor, first_B: Tensor, top_B: Tensor, left_B: Tensor, mirrored_B: Tensor) -> Tensor:
        """The pieces so drawn, float32 (B, 3, T, H, W) in [-1, 1]."""
        t, y, x = (
            start[:, None] + torch.arange(size, device=start.device)
            for start, size in zip((first_B, top_B, left_B), self.size, strict=True)
        )
        # One indexing for the batch: the four tensors broadcast to (B, T, H, W), clip, frame, row and column of each pixel.
        at = (which_B[:, None, None, None], t[:, :, None, None], y[:, None, :, None], x[:, None, None, :])
        picked = self.clips_NTHWC[at]
        pieces = torch.where(mirrored_B.bool()[:, None, None, None, None], picked.flip(3), picked)
        return to_range(pieces)


def to_range(clips_BTHWC: Tensor) -> Tensor:
    """uint8 (B, T, H, W, 3) as float32 (B, 3, T, H, W) in [-1, 1]."""
    return clips_BTHWC.permute(0, 4, 1, 2, 3).float() / 127.5 - 1
