"""Which frames a shot gives: near their time, never of another shot, sharp where that is asked for."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from cinelora.config.schema import FootageLimits
from cinelora.footage.copies import look_of
from cinelora.footage.frame_selection import (
    LEAST_NEW,
    even_stills,
    new_share,
    resampled,
    resampled_length,
    sharp_stills,
    windows,
)
from cinelora.footage.shot_detection import MEASURED, PER_SAMPLE, About, Survey
from cinelora.footage.shot_filter import Shot, judge, sharpness_of


def film(seconds: np.ndarray, fps: Fraction, change: np.ndarray | None = None) -> Survey:
    arrays = {
        "seconds": seconds,
        "change": np.ones(len(seconds)) if change is None else change,
        "sharpness": np.arange(len(seconds)) * 7 % 11,
    }
    return Survey(About(fps, (48, 80), Fraction(1), "pyav", "h264"), arrays)


def steady(count: int, fps: Fraction) -> Survey:
    return film(np.arange(count) / float(fps), fps)


def taken(survey: Survey, shot: tuple[int, int], num_frames: int, stride: int) -> list[tuple[int, ...]]:
    return [frames for frames, _ in windows(survey, Shot(*shot), 16, num_frames, stride, blend=False)]


def test_resampling_takes_the_nearest_frame() -> None:
    (from_24,) = taken(steady(24, Fraction(24)), (0, 24), 16, 16)
    assert from_24 == (0, 2, 3, 5, 6, 8, 9, 11, 12, 14, 15, 17, 18, 20, 21, 23)
    (same,) = taken(steady(43, Fraction(16)), (10, 43), 33, 33)
    assert same == tuple(range(10, 43))
    (from_8,) = taken(steady(4, Fraction(8)), (0, 4), 7, 7)
    assert from_8 == (0, 1, 1, 2, 2, 3, 3)


@pytest.mark.parametrize("source", [Fraction(24000, 1001), Fraction(25), Fraction(30), Fraction(60), Fraction(12)])
def test_windows_stay_in_their_shot_and_near_their_time(source: Fraction) -> None:
    found = taken(steady(190, source), (50, 190), 17, 5)
    assert found
    for number, window in enumerate(found):
        assert 50 <= window[0] <= window[-1] < 190
        for i, frame in enumerate(window):
            assert abs((frame - 50) / source - Fraction(number * 5 + i, 16)) <= 1 / (2 * source)
    assert resampled_length(33, Fraction(16), 16) == 33


def test_a_varying_rate_keeps_the_speed_of_motion() -> None:
    # twice as many frames a second in its second half
    seconds = np.concatenate([np.arange(24) / 12, 2 + np.arange(48) / 24])
    frames, _ = resampled(film(seconds, Fraction(18)), Shot(0, 72), 16, blend=False)
    assert len(frames) >= 63
    for i, frame in enumerate(frames[:63]):
        assert abs(seconds[frame] - i / 16) <= np.abs(seconds - i / 16).min() + 1e-9


def test_repeated_frames_are_passed_over() -> None:
    # 24 frames a second in a file of 30: every fifth is shown twice
    change = np.ones(60)
    change[5::5] = 0.0
    frames, _ = resampled(film(np.arange(60) / 30, Fraction(30), change), Shot(0, 60), 16, blend=False)
    assert not set(frames) & set(range(5, 60, 5))
    # of a shot that hardly moves every frame is as good as the one before
    frozen, _ = resampled(film(np.arange(60) / 30, Fraction(30), np.zeros(60)), Shot(0, 60), 16, blend=False)
    assert len(set(frozen)) == 32


def test_blending_mixes_the_two_frames_around_a_time() -> None:
    ((frames, weights),) = windows(steady(25, Fraction(24)), Shot(0, 25), 16, 17, 17, blend=True)
    assert frames[:5] == (0, 1, 3, 4, 6)
    assert weights[:5] == (0, 0.5, 0, 0.5, 0)
    ((frames, weights),) = windows(steady(17, Fraction(16)), Shot(0, 17), 16, 17, 17, blend=True)
    assert (frames, weights) == (tuple(range(17)), ())
    for first, last in [(0, 30), (7, 41)]:
        for frames, weights in windows(steady(50, Fraction(25)), Shot(first, last), 16, 9, 3, blend=True):
            behind = [frame + 1 for frame, weight in zip(frames, weights, strict=True) if weight]
            assert max(behind) < last
            places = [(f + w - first) / 25 for f, w in zip(frames, weights, strict=True)]
            assert np.diff(places) == pytest.approx(np.full(8, 1 / 16), abs=1e-3)


def test_stills_lie_evenly_and_off_the_borders() -> None:
    assert even_stills(0, 40, 2) == [10, 29]
    assert even_stills(100, 104, 2) == [101, 102]
    assert even_stills(7, 8, 3) == [7]
    assert even_stills(7, 9, 3) == [8]
    for length in range(3, 60):
        assert all(0 < frame < length - 1 for frame in even_stills(0, length, 5))


def test_sharp_stills_are_the_sharpest_of_each_part() -> None:
    survey = steady(44, Fraction(25))
    first, second = sharp_stills(survey, Shot(0, 44), 2)
    assert first == 2 + int(survey.sharpness[2:22].argmax())
    assert second == 22 + int(survey.sharpness[22:42].argmax())
    assert sharp_stills(survey, Shot(10, 12), 2) == even_stills(10, 12, 2)


@pytest.mark.parametrize("length", range(13))
def test_shots_of_any_length_are_filtered_and_picked_from(length: int) -> None:
    """A flash, or a slip of the detector, leaves shots of a few frames; a file may be one."""
    rng = np.random.default_rng(length)
    for before in (0, 30):
        count = before + length
        arrays: dict[str, np.ndarray] = {name: rng.random(count, np.float32) * 9 for name in MEASURED}
        arrays |= {
            "mixed": rng.random(count, np.float32),
            "same": rng.random(count, np.float32),
            "likely": np.zeros((count, 2), np.float32),
            "seconds": np.arange(count) / 24,
            "damaged": np.zeros(count, np.uint8),
        }
        arrays["cut"] = np.isin(np.arange(count), [before]).astype(np.uint8)
        arrays |= {name: np.zeros((0, *shape), kind) for name, (kind, shape) in PER_SAMPLE.items()}
        survey = Survey(About(Fraction(24), (48, 80), Fraction(1), "pyav", "h264"), arrays)
        shots = judge(survey, FootageLimits())
        assert [frame for shot in shots for frame in range(shot.start, shot.end)] == list(range(count))
        for shot in (*shots, *judge(survey, None)):
            assert look_of(survey, shot) is None
            assert all(shot.start <= frame < shot.end for frame in sharp_stills(survey, shot, 2))
            for blend in (False, True):
                for frames, _ in windows(survey, shot, 16, 5, 1, blend):
                    assert shot.start <= frames[0] <= frames[-1] < shot.end
        assert sharpness_of(survey) >= 0


def test_windows_hold_enough_pictures() -> None:
    """Pictures that come four times a second or less are no motion; drawings on threes are."""
    for fps, some in ((1, 0), (4, 0), (8, 1), (12, 1)):
        survey = steady(40 * fps, Fraction(fps))
        for blend in (False, True):
            assert any(windows(survey, Shot(0, 40 * fps), 16, 33, 33, blend)) == some
    held = np.concatenate([np.arange(40) / 24, 10 + np.arange(40) / 24])  # no frames for eight seconds
    for frames in taken(film(held, Fraction(24)), (0, 80), 17, 4):
        assert new_share(frames) >= LEAST_NEW
    assert new_share([3]) == 1
