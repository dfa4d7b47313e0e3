"""Film that shows each picture for several frames, or for an hour: cuts are where scenes change, and nowhere else."""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import count
from pathlib import Path

import cv2
import numpy as np
import pytest
from footage_clips import as_frames, write_film
from test_survey import surveyed

from cinelora.config.schema import DataConfig, FootageLimits
from cinelora.families.wan21 import WAN21
from cinelora.footage import build_dataset
from cinelora.footage.build_dataset import Wanted, prepare
from cinelora.footage.shot_detection import PER_FRAME, survey_part
from cinelora.footage.shot_filter import are_repeats, judge
from cinelora.footage.survey_pool import Outcome, Task, _whole
from cinelora.footage.video_reader import UnreadableClip, open_video

SIZE = (90, 160)


def pan(seed: int, count: int, fps: int, speed: float = 0.3) -> np.ndarray:
    """``count`` pictures of a scene that moves by ``speed`` widths a second."""
    height, width = SIZE
    rng = np.random.default_rng(seed)
    reach = int(speed * width * count / fps) + 2
    wide = cv2.resize(
        rng.integers(20, 235, (6, 14, 3), np.uint8), (width + reach, height), interpolation=cv2.INTER_CUBIC
    )
    for _ in range(30):
        x, y, side = rng.integers(0, width + reach), rng.integers(0, height), rng.integers(4, 16)
        wide[y : y + side, x : x + side] = rng.integers(0, 255, 3)
    starts = (np.arange(count) * speed * width / fps).astype(int)
    return np.stack([wide[:, start : start + width] for start in starts])


def held(pictures: int, fps: int, seed: int, length: int, grain: float) -> np.ndarray:
    """A pan of ``length`` frames at ``fps`` that shows ``pictures`` a second, with grain that is new in each frame."""
    drawn = pan(seed, length, fps)[np.arange(length) * pictures // fps * fps // pictures]
    noise = np.random.default_rng(seed).normal(0, grain, drawn.shape[:3])[..., None]
    return np.clip(drawn + noise, 0, 255).astype(np.uint8)


@pytest.mark.parametrize(
    ("pictures", "fps", "grain"),
    [(8, 24, 0), (8, 24, 2), (12, 24, 0), (12, 60, 0), (24, 60, 0), (24, 60, 2), (8, 60, 0), (6, 24, 0)],
)
def test_pictures_that_are_held_are_no_shots(tmp_path: Path, pictures: int, fps: int, grain: float) -> None:
    length = 2 * fps
    film = np.concatenate([held(pictures, fps, seed, length, grain) for seed in range(3)])
    path = write_film(tmp_path / "held.mp4", as_frames(film), options={"crf": "16"}, time_base=Fraction(1, fps))
    survey = surveyed(path)
    assert survey.shots == [(0, length), (length, 2 * length), (2 * length, 3 * length)]
    assert len(survey.sample) < 24  # no picture is kept of every step
    for shot in judge(survey, FootageLimits(logo=None)):
        assert not shot.against_motion, (pictures, fps, shot.against_motion)


def test_cuts_every_few_frames_are_found_where_scenes_differ(tmp_path: Path) -> None:
    """As regular as held pictures, but no scene is like the next."""
    film = np.concatenate([pan(seed, 4, 24) for seed in range(20)])
    survey = surveyed(write_film(tmp_path / "montage.mp4", as_frames(film), options={"crf": "16"}))
    assert len(survey.shots) >= 17


def test_repeats_are_told_from_steps_whatever_the_grain() -> None:
    rng = np.random.default_rng(0)
    for period in (2, 3, 5, 8):
        change = rng.uniform(1.5, 1.9, 80).astype(np.float32)
        change[::period] = rng.uniform(8, 14, len(change[::period]))
        assert np.array_equal(~are_repeats(change), np.arange(80) % period == 0)
    plain = rng.uniform(0.5, 3, 80).astype(np.float32)
    assert not are_repeats(plain).any()
    plain[40] = 30.0  # one jolt in a shot makes no repeats
    assert not are_repeats(plain).any()
    for length in range(5):
        assert len(are_repeats(plain[:length])) == length


def test_a_gap_in_time_is_a_cut_and_no_window_stands_still(tmp_path: Path) -> None:
    root = tmp_path / "footage"
    root.mkdir()
    hour = 3600 * 24
    times = {"gap.mkv": lambda i: i + hour * (i >= 60), "once_a_second.mp4": lambda i: 24 * i}
    for name, pts in times.items():
        write_film(root / name, as_frames(pan(5, 120, 24)), "mpeg4", {"b": "2M"}, pts, Fraction(1, 24))
    data = DataConfig(root=str(root), prepared=str(tmp_path / "prepared"), caption="x", judged=False)
    found = prepare(data, Wanted(33, 16, SIZE, WAN21.geometry, 0), 0)
    shots = {judged.id: judged for judged in found.shots}
    assert not found.skipped
    assert list(shots) == ["gap.mkv@0-60", "gap.mkv@60-120", "once_a_second.mp4@0-120"]
    assert [len(judged.picks) for judged in shots.values()] == [1, 1, 0]
    assert shots["once_a_second.mp4@0-120"].short == "shows 1.0 pictures a second; a window at 16 fps needs 4.8"


@pytest.mark.parametrize("part", ["judge", "picked", "look_of"])
def test_what_goes_wrong_with_one_file_costs_that_file(
    part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Filtering and picking were to raise nothing; should they, a night's run is not lost for one clip."""
    root = tmp_path / "footage"
    root.mkdir()
    for seed, name in enumerate(("a.mp4", "b.mp4")):
        write_film(root / name, as_frames(pan(seed, 48, 24)))
    whole, calls = getattr(build_dataset, part), count()

    def broken(*given: object) -> object:
        if next(calls) == 0:
            raise ValueError("operands could not be broadcast")
        return whole(*given)

    monkeypatch.setattr(build_dataset, part, broken)
    data = DataConfig(root=str(root), prepared=str(tmp_path / "prepared"), caption="x")
    found = prepare(data, Wanted(1, 16, SIZE, WAN21.geometry, 0), 0)
    assert {judged.path for judged in found.shots} == {"b.mp4"}
    assert [(left.path, left.reason) for left in found.skipped] == [
        ("a.mp4", "it cannot be handled: ValueError: operands could not be broadcast")
    ]


def test_a_survey_that_numbers_other_frames_than_its_reader_is_refused(tmp_path: Path) -> None:
    """A window would be cut from other pictures than those that were judged. Fewer at the end are a damaged tail."""
    path = write_film(tmp_path / "a.mp4", as_frames(pan(0, 24, 24)))
    reader = open_video(path, "pyav")
    arrays = survey_part(reader, 0.0, math.inf, lambda _: None)
    task = Task(tmp_path, tmp_path, path.name, 0, sha256="0" * 64)

    def whole(kept: list[int]) -> Outcome:
        return _whole(task, reader, arrays | {name: arrays[name][kept] for name in PER_FRAME})

    assert whole(list(range(20))).sha256 == task.sha256
    with pytest.raises(UnreadableClip, match="its time stamps name 24 frames, but 23 are decoded"):
        whole([*range(10), *range(11, 24)])
