"""A logo is small and the same in one set-up after the other; what a tripod shows again and again is a room."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from footage_clips import write_plainly
from test_survey import surveyed

from cinelora.config.schema import FootageLimits
from cinelora.footage.shot_filter import judge

HEIGHT, WIDTH, SHOT = 180, 320, 24


def take(setup: int, number: int, shift: float = 0.0) -> np.ndarray:
    """A shot of one set-up, whose camera moves by ``shift`` pixels a frame; somebody moves in it, in each take anew."""
    rng = np.random.default_rng(setup)
    wide = cv2.resize(rng.integers(40, 200, (6, 14, 3), np.uint8), (WIDTH + 100, HEIGHT), interpolation=cv2.INTER_CUBIC)
    for _ in range(60):
        x, y = (int(value) for value in rng.integers(0, (WIDTH + 100, HEIGHT)))
        tone = tuple(int(value) for value in rng.integers(0, 255, 3))
        cv2.rectangle(wide, (x, y), (x + int(rng.integers(5, 60)), y + int(rng.integers(3, 40))), tone, 1)
    film = np.stack([wide[:, round(i * shift) : round(i * shift) + WIDTH] for i in range(SHOT)])
    for i, frame in enumerate(film):
        centre = (int(160 + 70 * np.sin(i / (8 + number))), int(95 + 25 * np.cos(i / 9 + number)))
        frame[:] = cv2.circle(frame.copy(), centre, 30, (200, 150, 120), -1)
    return film


def with_logo(film: np.ndarray, opacity: float) -> np.ndarray:
    """A word in a corner, as stations have it."""
    drawn = film.copy()
    for frame in drawn:
        lettered = cv2.putText(frame.copy(), "KINO", (250, 28), cv2.FONT_HERSHEY_DUPLEX, 0.7, (250, 250, 250), 2)
        frame[:] = cv2.addWeighted(frame, 1 - opacity, lettered, opacity, 0)
    return drawn


def shares(path: Path, shots: list[np.ndarray]) -> tuple[set[float | None], int]:
    """What is measured of the logo in the film of these shots, and how many shots are left out for one."""
    write_plainly(path, np.concatenate(shots), 16)
    judged = judge(surveyed(path), FootageLimits())
    return {shot.measures["logo"] for shot in judged}, sum("a logo" in " ".join(shot.against) for shot in judged)


@pytest.mark.parametrize(("setups", "takes"), [(1, 6), (2, 6), (3, 9), (4, 12)])
def test_takes_of_a_few_set_ups_have_no_logo(tmp_path: Path, setups: int, takes: int) -> None:
    assert shares(tmp_path / "film.mp4", [take(number % setups, number) for number in range(takes)]) == ({None}, 0)


@pytest.mark.parametrize("moves", [0.0, 1.5])
def test_nothing_is_a_logo_where_there_is_none(tmp_path: Path, moves: float) -> None:
    found, left_out = shares(tmp_path / "film.mp4", [take(number % 7, number, moves) for number in range(9)])
    assert left_out == 0
    assert found != {None}
    assert max(value or 0.0 for value in found) < 0.002


@pytest.mark.parametrize(("moves", "opacity"), [(0.0, 1.0), (1.5, 1.0), (0.0, 0.6), (1.5, 0.6)])
def test_a_logo_over_many_set_ups_is_found(tmp_path: Path, moves: float, opacity: float) -> None:
    shots = [with_logo(take(number % 7, number, moves), opacity) for number in range(9)]
    _, left_out = shares(tmp_path / "film.mp4", shots)
    assert left_out >= 9


def test_one_of_two_set_ups_shown_most_of_the_time_has_no_more_votes_than_the_other(tmp_path: Path) -> None:
    """Ten takes of one room beside four others: most pictures share its edges, and it is one set-up of five."""
    shots = [take(0, number) for number in range(10)] + [take(setup, setup) for setup in range(1, 5)]
    found, left_out = shares(tmp_path / "film.mp4", shots)
    assert left_out == 0
    assert max(value or 0.0 for value in found) < 0.002
