"""A copy moves as the original does, however it was coded, cut, graded or sped up; another take of the same set-up does not."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest
from footage_clips import as_frames, write_film
from test_survey import surveyed

from cinelora.footage.copies import LEAST_SHARED, Look, _highest_correlation, copies, look_of
from cinelora.footage.shot_filter import Shot

HEIGHT, WIDTH, LENGTH, FPS = 180, 320, 96, 24
LIMIT = 6.0
"""As by default."""


def take(number: int) -> np.ndarray:
    """A room that stands still, and somebody who walks about in it, in each take otherwise."""
    rng, own = np.random.default_rng(0), np.random.default_rng(1000 + number)
    room = cv2.resize(rng.integers(40, 200, (6, 14, 3), np.uint8), (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
    walk = np.stack(
        [np.convolve(1.2 * own.normal(0, 1, LENGTH + 16).cumsum(), np.ones(17) / 17, "valid") for _ in range(2)]
    )
    film = []
    for across, down in np.clip(walk - walk[:, :1], -40, 40).T:
        film.append(cv2.circle(room.copy(), (int(160 + across), int(95 + down)), 24, (200, 150, 120), -1))
    grain = own.normal(0, 2, (LENGTH, HEIGHT, WIDTH))[..., None]
    return np.clip(np.stack(film) + grain, 0, 255).astype(np.uint8)


def look(path: Path, film: np.ndarray, fps: int = FPS, crf: int = 16) -> Look:
    write_film(path, as_frames(film), options={"crf": str(crf)}, time_base=Fraction(1, fps))
    survey = surveyed(path)
    found = look_of(survey, Shot(0, survey.num_frames, samples=tuple(range(len(survey.sample)))))
    assert found is not None
    return found


@pytest.fixture(scope="module")
def takes(tmp_path_factory: pytest.TempPathFactory) -> list[Look]:
    folder = tmp_path_factory.mktemp("takes")
    return [look(folder / f"{number}.mp4", take(number)) for number in range(5)]


def test_takes_of_one_set_up_are_kept_all(takes: list[Look]) -> None:
    apart = [
        sum((a ^ b).bit_count() for a, b in zip(takes[0].hashes, other.hashes, strict=True)) / 3 for other in takes
    ]
    assert max(apart) <= LIMIT, "their pictures are alike"
    assert copies(takes, [None] * len(takes), LIMIT) == {}


@pytest.mark.parametrize("how", ["again", "coarser", "smaller", "shorter", "faster", "graded"])
def test_a_copy_is_found_among_takes(how: str, takes: list[Look], tmp_path: Path) -> None:
    film, path = take(3), tmp_path / "copy.mp4"
    copy = {
        "again": lambda: look(path, film),
        "coarser": lambda: look(path, film, crf=34),
        "smaller": lambda: look(path, np.stack([cv2.resize(f, (160, 90), interpolation=cv2.INTER_AREA) for f in film])),
        "shorter": lambda: look(path, film[9:-6]),
        "faster": lambda: look(path, film, fps=25),
        "graded": lambda: look(path, (255 * (film / 255.0) ** 0.8 * np.array([1, 0.95, 0.85])).astype(np.uint8)),
    }[how]()
    assert copies([*takes, copy], [None] * 6, LIMIT) == {5: 3}


def test_where_nothing_moves_like_pictures_are_copies() -> None:
    still = Look((1, 2, 3), np.full((16, 40), 90.0))
    assert copies([still, still, Look((1, 2, 3), np.full((16, 5), 90.0))], [None] * 3, LIMIT) == {1: 0, 2: 0}
    assert copies([still, still], [None] * 2, None) == {}


@pytest.mark.parametrize(("length", "whole"), [(8, 8), (20, 21), (37, 90), (64, 64)])
def test_the_highest_correlation_is_that_of_the_best_lag(length: int, whole: int) -> None:
    """By its definition, lag after lag, where one course is hidden in the other."""
    rng = np.random.default_rng(length)
    longer = rng.normal(80, 3, (5, whole))
    shorter = longer[:, whole // 3 : whole // 3 + length] + rng.normal(0, 2, (5, min(length, whole - whole // 3)))
    length, hanging = shorter.shape[1], min(shorter.shape[1] - 8, int((1 - LEAST_SHARED) * shorter.shape[1]))
    best = -1.0
    for lag in range(-max(0, hanging), whole - length + max(0, hanging) + 1):
        pair = shorter[:, max(0, -lag) : whole - lag], longer[:, max(0, lag) : lag + length]
        one, other = (course - course.mean(1, keepdims=True) for course in pair)
        best = max(best, float((one * other).sum() / (np.linalg.norm(one) * np.linalg.norm(other))))
    assert _highest_correlation(longer, shorter) == pytest.approx(best, abs=1e-9)
