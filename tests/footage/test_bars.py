"""Black bars are cut off shot by shot, each side by itself, and dark scenes keep their sides."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from footage_clips import write_plainly
from test_survey import surveyed

from cinelora.config.schema import FootageLimits
from cinelora.footage.shot_filter import judge

HEIGHT, WIDTH, SHOT = 96, 160, 40
Bars = tuple[int, int, int, int]
"""Pixels at left, top, right, bottom."""
NO_LIMITS = FootageLimits(**dict.fromkeys(FootageLimits.__dataclass_fields__))


def scene(seed: int, level: float = 1.0) -> np.ndarray:
    """Soft blotches that move, one shot of them; at a low ``level`` a dark scene with grain."""
    random = np.random.default_rng(seed)
    small = random.integers(60, 255, (8, 30, 3), np.uint8)
    wide = cv2.resize(small, (2 * WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
    moved = np.stack([wide[:, shift : shift + WIDTH] for shift in range(0, 2 * SHOT, 2)])
    return np.clip(moved * level + random.integers(0, 12, moved.shape), 0, 255).astype(np.uint8)


def barred(video: np.ndarray, left: int, top: int, right: int, bottom: int) -> np.ndarray:
    film = np.zeros_like(video)
    inner = (WIDTH - left - right, HEIGHT - top - bottom)
    for frame, picture in zip(film, video, strict=True):
        frame[top : HEIGHT - bottom, left : WIDTH - right] = cv2.resize(picture, inner, interpolation=cv2.INTER_AREA)
    return film


def found(path: Path, shots: list[tuple[Bars, float]]) -> list[tuple[int, ...]]:
    """The bars of each shot in pixels, after a cut film of them went to disk."""
    film = [barred(scene(seed, level), *bars) for seed, (bars, level) in enumerate(shots)]
    write_plainly(path, np.concatenate(film), 16)
    judged = [shot for shot in judge(surveyed(path), NO_LIMITS) if shot.end - shot.start >= SHOT // 2]
    assert [shot.start // SHOT for shot in judged] == list(range(len(shots)))
    sides = (WIDTH, HEIGHT) * 2
    return [tuple(round(bar * side) for bar, side in zip(shot.bars or (0,) * 4, sides, strict=True)) for shot in judged]


SCOPE, PILLARS, FLAT, NONE = (0, 12, 0, 12), (20, 0, 20, 0), (0, 6, 0, 6), (0, 0, 0, 0)


@pytest.mark.parametrize(
    "bars",
    [
        [SCOPE, PILLARS, FLAT, NONE],  # a reel
        [SCOPE, NONE, SCOPE, NONE],  # opens up for a part of its scenes
        [(0, 8, 0, 18)] * 2,  # not alike
        [(0, 0, 0, 14)] * 2,  # on one side
        [(20, 12, 20, 12)] * 2,  # on all sides
        [SCOPE],
        [NONE, NONE],
    ],
)
def test_every_shot_loses_its_own_bars(tmp_path: Path, bars: list[Bars]) -> None:
    got = found(tmp_path / "film.mp4", [(bar, 1.0) for bar in bars])
    assert np.abs(np.array(got) - bars).max() <= 1


def test_a_dark_shot_has_the_bars_of_the_others_and_no_more(tmp_path: Path) -> None:
    got = found(tmp_path / "film.mp4", [(SCOPE, 1.0), (SCOPE, 0.12), (SCOPE, 1.0)])
    assert np.abs(np.array(got) - SCOPE).max() <= 1


def test_a_scene_that_is_dark_at_one_side_keeps_it(tmp_path: Path) -> None:
    lit, night = scene(0), scene(1)
    night[:, :, :30] = 0  # a wall in the dark
    write_plainly(tmp_path / "film.mp4", np.concatenate([lit, night, scene(2), scene(3)]), 16)
    assert [shot.bars for shot in judge(surveyed(tmp_path / "film.mp4"), NO_LIMITS)] == [None] * 4
