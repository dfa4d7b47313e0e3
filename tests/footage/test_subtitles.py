"""Captions that are part of a film's pictures are found by coming back at one height; a sign in a scene is not taken for one."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest
from footage_clips import as_frames, write_film
from PIL import Image, ImageDraw, ImageFont
from test_survey import surveyed

from cinelora.config.schema import DataConfig, FootageLimits
from cinelora.families.wan21 import WAN21
from cinelora.footage.build_dataset import Wanted, prepare
from cinelora.footage.lettering import caption_lines
from cinelora.footage.shot_filter import judge
from cinelora.footage.subtitles import overlaid

HEIGHT, WIDTH, SHOT = 360, 640, 30
SAID = (
    "Where is she?",
    "I never asked you to wait.",
    "He said it was nothing.",
    "No.",
    "We leave at dawn,\nbefore they come.",
)
LIMITS = FootageLimits(logo=None, text=None)


def scene(seed: int) -> np.ndarray:
    """A shot whose camera moves fast along blotches and edges."""
    rng = np.random.default_rng(50 + seed)
    wide = cv2.resize(rng.integers(30, 220, (7, 16, 3), np.uint8), (WIDTH + 180, HEIGHT), interpolation=cv2.INTER_CUBIC)
    for _ in range(40):
        x, y, side = (int(value) for value in rng.integers(0, (WIDTH + 180, HEIGHT, 60)))
        cv2.rectangle(
            wide, (x, y), (x + side, y + side // 2), tuple(int(value) for value in rng.integers(0, 255, 3)), 2
        )
    return np.stack([wide[:, 6 * i : 6 * i + WIDTH] for i in range(SHOT)])


def written(film: np.ndarray, text: str, at: tuple[int, int] | None = None, speed: int = 0) -> np.ndarray:
    """The film with a caption low in the middle, or with a sign ``at`` a place in the scene, which the camera leaves behind."""
    drawn, font = [], ImageFont.load_default(size=HEIGHT * 0.055)
    for number, frame in enumerate(film):
        picture = Image.fromarray(frame)
        pen = ImageDraw.Draw(picture)
        box = pen.multiline_textbbox((0, 0), text, font=font, align="center")
        place = ((WIDTH - box[2]) / 2, 0.93 * HEIGHT - box[3]) if at is None else (at[0] - speed * number, at[1])
        pen.multiline_text(place, text, "white", font, align="center", stroke_width=2, stroke_fill="black")
        drawn.append(np.asarray(picture))
    return np.stack(drawn)


def film_of(path: Path, shots: list[np.ndarray]) -> Path:
    return write_film(path, as_frames(np.concatenate(shots)), options={"crf": "20"}, time_base=Fraction(1, 24))


@pytest.fixture(scope="module")
def subtitled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("subtitled")
    film_of(folder / "film.mp4", [written(scene(seed), text) for seed, text in enumerate(SAID)] + [scene(9)])
    return folder / "film.mp4"


def test_shots_with_captions_are_refused_and_a_box_above_them_is_offered(subtitled: Path) -> None:
    survey = surveyed(subtitled)
    band = overlaid(survey).band
    assert band is not None
    assert 0.18 < band < 0.24, "two lines of 5.5 % and what is under them"
    shots = judge(survey, LIMITS)
    reason = f"subtitles in the lowest {band:.0%} of it; data.subtitles=crop cuts them off"
    assert [reason in shot.against for shot in shots] == [True] * len(SAID) + [False]
    assert not any(shot.against for shot in judge(survey, LIMITS, subtitles="keep"))
    cropped = judge(survey, LIMITS, subtitles="crop")
    assert [shot.bars for shot in cropped] == [(0.0, 0.0, 0.0, band)] * len(shots)
    assert not any(shot.against for shot in cropped)


def test_what_is_cut_off_is_said_and_no_sample_has_any_of_it(subtitled: Path, tmp_path: Path) -> None:
    data = DataConfig(root=str(subtitled.parent), prepared=str(tmp_path / "prepared"), caption="x", limits=LIMITS)
    data.subtitles = "crop"
    found = prepare(data, Wanted(1, 16, (112, 192), WAN21.geometry, 0), 0)
    assert any("it has subtitles: the lowest" in line for line in found.notes)
    assert {judged.shot.bars[3] > 0.18 for judged in found.shots if judged.shot.bars} == {True}
    survey = surveyed(subtitled)
    assert all(line[1] > 1 - found.shots[0].shot.bars[3] for line in survey.lines[:, 0] if line[3])


def test_signs_and_clean_films_have_no_subtitles(tmp_path: Path) -> None:
    signs = [
        written(scene(s), text, (440 + 40 * s, 220 + 25 * s), 6)
        for s, text in enumerate(("HOTEL", "OPEN", "CINEMA", "BAR"))
    ]
    for name, shots in (("signs.mp4", signs), ("clean.mp4", [scene(seed) for seed in range(5)])):
        survey = surveyed(film_of(tmp_path / name, shots))
        assert overlaid(survey).band is None
        assert not any("subtitles" in " ".join(shot.against) for shot in judge(survey, LIMITS))


def test_one_caption_shown_throughout_is_no_subtitle(tmp_path: Path) -> None:
    """A line that never changes is a mark of the film: the limits for logos and lettering are there for it."""
    survey = surveyed(film_of(tmp_path / "mark.mp4", [written(scene(seed), "Vienna 1948") for seed in range(4)]))
    assert (survey.lines[:, 0, 3] > 0).all()
    assert overlaid(survey).band is None


@pytest.mark.parametrize("size", [(1, 1), (16, 16), (30, 40), (270, 480)])
def test_any_picture_has_lines_or_none(size: tuple[int, int]) -> None:
    for picture in (np.zeros(size, np.uint8), np.random.default_rng(0).integers(0, 256, size, np.uint8)):
        assert caption_lines(picture).shape == (3, 4)
