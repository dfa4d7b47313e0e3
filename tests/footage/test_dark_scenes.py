"""Scenes of a tenth of the exposure are scenes: their cuts are found, and the limit for darkness has the verdict on them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from footage_clips import write_plainly
from test_bars import SHOT, scene
from test_survey import surveyed

from cinelora.config.schema import FootageLimits
from cinelora.footage.shot_filter import Shot, judge

LIMITS = FootageLimits(logo=None, text=None)


def judged(path: Path, *shots: np.ndarray, limits: FootageLimits = LIMITS) -> list[Shot]:
    write_plainly(path, np.concatenate(shots).astype(np.uint8), 16)
    return judge(surveyed(path), limits)


def exposed(seed: int, exposure: float) -> np.ndarray:
    grain = np.random.default_rng(seed).normal(0, 0.7, (SHOT, 96, 160, 1))
    return np.clip(scene(seed) * exposure + grain, 0, 255)


@pytest.mark.parametrize("exposure", [0.1, 0.2])
def test_dark_scenes_are_cut_and_judged_by_their_limit(exposure: float, tmp_path: Path) -> None:
    shots = [exposed(seed, exposure) for seed in (1, 2, 3)]
    found = judged(tmp_path / "film.mp4", *shots, limits=replace(LIMITS, dark=None))
    assert [(shot.start, shot.end, shot.against) for shot in found] == [
        (i * SHOT, (i + 1) * SHOT, ()) for i in range(3)
    ]
    if exposure == 0.1:
        reasons = [shot.against for shot in judged(tmp_path / "film.mp4", *shots)]
        assert reasons == [("too dark: 100% of it is black, 97% allowed",)] * 3


def test_a_dark_scene_after_a_light_one_has_no_cut_of_its_own(tmp_path: Path) -> None:
    """It is lightened for the detector bit by bit."""
    long = np.concatenate([exposed(2, 0.1)] * 2)
    borders = [
        shot.start for shot in judged(tmp_path / "film.mp4", exposed(1, 1.0), long, limits=replace(LIMITS, dark=None))
    ]
    assert set(borders) <= {0, SHOT, 2 * SHOT}, "where the dark scene begins, and where it begins again"


def test_grain_on_one_tone_is_no_scene(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name, tone, grain in (("black", 0, 3), ("grey", 100, 4)):
        film = np.clip(tone + rng.normal(0, grain, (SHOT, 96, 160, 1)).repeat(3, 3), 0, 255)
        assert [shot.against[0] for shot in judged(tmp_path / f"{name}.mp4", film)] == ["blank: nothing but one tone"]
