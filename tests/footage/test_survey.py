"""One pass over a file: cuts where they are, numbers that follow the picture, and the same in one part or several."""

from __future__ import annotations

import math
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest
from footage_clips import Put, write_plainly
from PIL import Image, ImageDraw, ImageFont

from cinelora.config.schema import FootageLimits
from cinelora.footage.shot_detection import (
    PER_FRAME,
    PER_SAMPLE,
    About,
    Survey,
    bars,
    joined,
    lettering,
    load_survey,
    looked_at,
    parts,
    save_survey,
    survey_part,
)
from cinelora.footage.shot_filter import MIXED, judge
from cinelora.footage.video_reader import open_video

REPO = Path(__file__).parents[2]
LABELLED = {
    "scene_cuts.mp4": [30, 76, 137, 187, 242],
    "nasa_13013.mp4": [240],  # and a dissolve around frames 150 to 180, which is no cut
    **{name: [] for name in ("bigbuckbunny.mp4", "h264_10bit.mp4", "av1.mkv")},
}
"""First frame of each new shot, found by looking at the frames one by one."""


def surveyed(path: Path) -> Survey:
    reader = open_video(path)
    arrays = survey_part(reader, 0.0, math.inf, lambda _: None)
    return Survey(About(reader.fps, reader.size, Fraction(1), "pyav", "h264"), arrays)


def test_a_cut_between_two_scenes_is_found_to_the_frame(put: Put, street: np.ndarray, room: np.ndarray) -> None:
    path = put("cut.mp4", np.concatenate([street[:21], room[:19], street[20:]]))
    assert surveyed(path).shots == [(0, 21), (21, 40), (40, 60)]


def test_a_cut_between_dark_scenes_that_are_alike_is_found(tmp_path: Path) -> None:
    rooms = sorted((REPO / "data" / "noir").rglob("*-room.mp4"))[:3]
    film = np.concatenate([np.stack(list(open_video(path).frames(range(49)))) for path in rooms])
    write_plainly(tmp_path / "rooms.mp4", film, 16)
    assert surveyed(tmp_path / "rooms.mp4").shots == [(0, 49), (49, 98), (98, 147)]


def test_a_moving_camera_is_one_shot(put: Put, street: np.ndarray, room: np.ndarray) -> None:
    assert surveyed(put("street.mp4", street)).shots == [(0, 40)]
    assert surveyed(put("room.mp4", room)).shots == [(0, 40)]


@pytest.mark.parametrize("frames", [1, 2])
def test_a_flash_is_no_cut(put: Put, street: np.ndarray, frames: int) -> None:
    flashed = street.copy()
    flashed[20 : 20 + frames] = 250
    assert surveyed(put("flash.mp4", flashed)).shots == [(0, 40)]


@pytest.mark.parametrize("frames", [1, 2, 5, 6, 7])
def test_a_shot_of_a_few_frames_is_judged_like_any_other(put: Put, street: np.ndarray, frames: int) -> None:
    """A dissolve is looked for in nine frames around each; a shot may have fewer."""
    survey = surveyed(put("street.mp4", street))
    survey.arrays["cut"][[20, 20 + frames]] = 1
    shots = judge(survey, FootageLimits())
    assert [(shot.start, shot.end) for shot in shots] == [(0, 20), (20, 20 + frames), (20 + frames, 40)]
    assert shots[1].against[0].startswith("too short")


@pytest.mark.parametrize("name", LABELLED)
def test_the_cuts_of_real_clips_are_found_to_the_frame(real: Path, name: str) -> None:
    found = [start for start, _ in surveyed(real / name).shots][1:]
    assert found == LABELLED[name]


def test_parts_give_what_the_whole_gives(put: Put, street: np.ndarray, room: np.ndarray) -> None:
    reader = open_video(put("film.mp4", np.concatenate([street, room, street[::-1], room[::-1]])))
    whole = survey_part(reader, 0.0, math.inf, lambda _: None)
    # the borders lie in the middle of a shot, on a cut, and just beside one
    ends = [0.0, 1.3, 2.5, 5.0, 7.45, math.inf]
    pieces = [survey_part(reader, a, b, lambda _: None) for a, b in zip(ends, ends[1:], strict=False)]
    together = joined(pieces)
    assert all(np.array_equal(together[name], whole[name]) for name in ("cut", "seconds", "change", "luma", "cells"))
    assert Survey(About(reader.fps, reader.size, Fraction(1), "", ""), together).shots == [
        (0, 40),
        (40, 80),
        (80, 120),
        (120, 160),
    ]
    assert together["sample"].max() < 160
    assert np.all(np.diff(together["sample"]) > 0)


def test_long_files_have_parts() -> None:
    assert parts(None) == parts(12.0) == [(0.0, math.inf)]
    assert parts(7200.0)[:2] == [(0.0, 300.0), (300.0, 600.0)]
    assert len(parts(7200.0)) == 24
    assert parts(7200.0)[-1] == (6900.0, math.inf)


def test_numbers_follow_the_picture(put: Put, street: np.ndarray) -> None:
    blurred = np.stack([cv2.GaussianBlur(frame, (9, 9), 0) for frame in street])
    sharp, soft = surveyed(put("a.mp4", street)), surveyed(put("b.mp4", blurred))
    assert np.median(soft.sharpness) < 0.5 * np.median(sharp.sharpness)
    light = surveyed(put("c.mp4", np.concatenate([np.full_like(street[:5], 2), np.full_like(street[:5], 254)])))
    assert light.black[2] == 1
    assert light.burnt[7] == 1
    still = surveyed(put("d.mp4", np.repeat(street[:1], 12, axis=0)))
    assert np.median(still.motion[1:]) < 0.002 < 0.02 < np.median(sharp.motion[1:])
    assert np.median(still.change[1:]) < 0.08


def test_motion_is_in_widths_a_second(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    wide = cv2.GaussianBlur(rng.integers(0, 255, (96, 400, 3), np.uint8), (7, 7), 0)
    pan = np.stack([wide[:, 4 * i : 4 * i + 160] for i in range(32)])  # 4 of 160 pixels a frame, 16 frames a second
    write_plainly(tmp_path / "pan.mp4", pan, 16)
    found = surveyed(tmp_path / "pan.mp4")
    assert float(np.median(found.pan_x[1:])) == pytest.approx(-0.4, rel=0.1)
    assert abs(float(np.median(found.pan_y[1:]))) < 0.02


def test_bars_are_flat_and_dark_scenes_are_not(street: np.ndarray) -> None:
    gray = cv2.cvtColor(street[0], cv2.COLOR_RGB2GRAY)
    assert bars(gray) == (0, 0, 0, 0)
    boxed = np.full((80, 100), 16, np.uint8)
    boxed[16:64, 10:90] = gray
    assert bars(boxed) == pytest.approx((0.1, 0.2, 0.1, 0.2))
    night = boxed.astype(int) + np.random.default_rng(0).integers(-8, 9, boxed.shape)
    assert bars(np.clip(night, 0, 255).astype(np.uint8)) == (0, 0, 0, 0)
    assert bars(np.zeros((40, 40), np.uint8)) == (-1, -1, -1, -1)


TEXTS = [
    ("a line that is spoken", 16, (140, 230)),
    ("DIRECTED BY SOMEBODY", 28, (60, 120)),
    ("Chapter One\nin which it rains", 22, (120, 100)),
]


def written(picture: np.ndarray, text: str, size: int, at: tuple[int, int]) -> np.ndarray:
    image = Image.fromarray(picture)
    ImageDraw.Draw(image).multiline_text(at, text, 255, ImageFont.load_default(size), stroke_width=1, stroke_fill=0)
    return np.asarray(image)


@pytest.mark.parametrize(("text", "size", "at"), TEXTS)
def test_lettering_is_seen_on_black_and_on_a_picture(
    street: np.ndarray, text: str, size: int, at: tuple[int, int]
) -> None:
    gray = cv2.cvtColor(cv2.resize(street[0], (480, 270)), cv2.COLOR_RGB2GRAY)
    assert lettering(gray) < 0.005
    for picture in (np.full((270, 480), 8, np.uint8), gray):
        assert lettering(written(picture, text, size, at)) > 0.01


def test_real_pictures_are_not_taken_for_lettering(real: Path) -> None:
    for name in ("bigbuckbunny.mp4", "av1.mkv"):
        assert np.median(surveyed(real / name).text) < 0.005


def test_rendered_scenes_are_taken_neither_for_lettering_nor_for_fades() -> None:
    clips = sorted((REPO / "data").glob("*/*/*.mp4"))
    assert len(clips) == 56
    for path in clips:
        reader = open_video(path)
        grays = [cv2.cvtColor(f, cv2.COLOR_RGB2GRAY) for f in reader.frames(range(0, 49, 12))]
        assert np.median([lettering(gray) for gray in grays]) < 0.005, path
    for path in clips[::4]:
        assert surveyed(path).mixed.max() < MIXED, path


def test_a_survey_comes_back_from_disk(put: Put, tmp_path: Path, street: np.ndarray) -> None:
    survey = surveyed(put("a.mp4", street))
    save_survey(tmp_path / "a.npz", survey)
    again = load_survey(tmp_path / "a.npz")
    assert again is not None
    assert again.about == survey.about
    assert all(np.array_equal(again.arrays[name], survey.arrays[name]) for name in (*PER_FRAME, *PER_SAMPLE, "thumbs"))
    assert again.thumb(0).startswith(b"\xff\xd8")
    (tmp_path / "a.npz").write_bytes((tmp_path / "a.npz").read_bytes()[:-40])
    assert load_survey(tmp_path / "a.npz") is None
    assert load_survey(tmp_path / "b.npz") is None


def test_the_size_looked_at() -> None:
    sizes: Iterable[tuple[tuple[int, int], tuple[int, int]]] = [
        ((1080, 1920), (270, 480)),
        ((1920, 1080), (480, 270)),
        ((200, 200), (200, 200)),
        ((1, 1), (16, 16)),
    ]
    for size, looked in sizes:
        assert looked_at(size, Fraction(1)) == looked
    assert looked_at((576, 720), Fraction(64, 45)) == (270, 480)
