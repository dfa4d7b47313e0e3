"""A network finds subtitles and titles and leaves signs alone; without it, strokes are looked for and one sentence says so."""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from test_subtitles import HEIGHT, LIMITS, SHOT, WIDTH, film_of, scene, written

from cinelora.config.schema import DataConfig
from cinelora.errors import FootageError
from cinelora.families.wan21 import WAN21
from cinelora.footage import survey_pool
from cinelora.footage.build_dataset import WEAK, Prepared, Wanted, prepare
from cinelora.footage.contact_sheet import lines
from cinelora.footage.lettering_network import FILE, MOST_LETTERS, network, weights_of
from cinelora.footage.manifest import Manifest
from cinelora.footage.shot_detection import About, Survey, joined, load_survey, survey_part
from cinelora.footage.shot_filter import TITLED, judge
from cinelora.footage.subtitles import overlaid
from cinelora.footage.survey_pool import survey_path
from cinelora.footage.video_reader import Handling, open_video

WANTED = Wanted(1, 16, (112, 192), WAN21.geometry, 0)


@pytest.fixture(scope="session")
def weights() -> Path:
    try:
        return weights_of(None)
    except FootageError as error:
        pytest.skip(f"{error}: pip install 'cinelora[lettering]'")


def surveyed(path: Path, lettering: Path | None) -> Survey:
    reader = open_video(path, handling=Handling(lettering=lettering))
    arrays = survey_part(reader, 0.0, math.inf, lambda _: None)
    return Survey(About(reader.fps, reader.size, Fraction(1), "pyav", "h264"), arrays)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Survey:
    """Three shots, two pictures each, under a moving camera and one that stands."""
    still = np.repeat(scene(3)[:1], SHOT, 0)
    film = film_of(tmp_path_factory.mktemp("plain") / "film.mp4", [scene(1), scene(2), still])
    survey = surveyed(film, None)
    assert [survey.num_frames // 3 * n <= first < survey.num_frames for n, first in enumerate(survey.sample[::2])] == [
        True
    ] * 3
    return survey


def bearing(survey: Survey, *lines_of_pictures: tuple[int, tuple[float, float, float, float]]) -> Survey:
    """The survey as if a network had found these lines in its pictures."""
    letters = np.zeros((len(survey.sample), MOST_LETTERS, 4), np.float32)
    for number, line in lines_of_pictures:
        letters[number, int((letters[number, :, 3] > 0).sum())] = line
    return replace(survey, arrays={**survey.arrays, "letters": letters})


# -- which lines were laid over, and which are part of the scene -------------------------------------------------------

LINE, SIGN, NAME = (0.3, 0.88, 0.7, 0.94), (0.1, 0.3, 0.3, 0.4), (0.1, 0.8, 0.3, 0.86)


def moved(line: tuple[float, float, float, float], across: float) -> tuple[float, float, float, float]:
    return (line[0] + across, line[1], line[2] + across, line[3])


def test_lines_low_in_the_middle_of_half_the_shots_are_subtitles_and_what_is_above_them_is_offered(
    plain: Survey,
) -> None:
    found = overlaid(bearing(plain, (0, LINE), (0, (0.4, 0.8, 0.6, 0.86)), (3, LINE)))
    assert found.subtitled == {0, 3}
    assert found.band == pytest.approx(1 - 0.8 + 0.015, abs=0.003)
    assert not found.titled
    assert not found.signed


def test_strokes_at_the_height_of_other_subtitles_are_one_that_the_network_missed(plain: Survey) -> None:
    strokes = np.zeros_like(plain.lines)
    strokes[4, 0], strokes[5, 0] = (0.47, 0.89, 0.53, 0.93), (0.3, 0.89, 0.36, 0.93)
    missed = replace(plain, arrays={**plain.arrays, "lines": strokes})
    assert overlaid(bearing(missed, (0, LINE), (3, LINE))).subtitled == {0, 3, 4}
    assert overlaid(bearing(missed, (0, SIGN))).subtitled == frozenset()


def test_one_line_low_in_the_middle_is_a_title_and_no_film_is_cropped_for_it(plain: Survey) -> None:
    found = overlaid(bearing(plain, (0, LINE)))
    assert (found.band, found.subtitled) == (None, frozenset())
    assert found.titled == {0: pytest.approx(0.4 * 0.06)}


@pytest.mark.parametrize("line", [LINE, SIGN, NAME, (0.45, 0.4, 0.55, 0.5)])
def test_letters_that_move_with_the_scene_are_a_sign(plain: Survey, line: tuple[float, float, float, float]) -> None:
    found = overlaid(bearing(plain, (0, line), (1, moved(line, 0.1))))
    assert found.signed.keys() == {0, 1}
    assert not found.titled
    assert not found.subtitled


def test_what_stays_in_the_middle_is_a_title_and_what_stays_elsewhere_only_under_a_moving_camera(plain: Survey) -> None:
    title = (0.3, 0.4, 0.7, 0.5)
    assert overlaid(bearing(plain, (4, title), (5, title))).titled.keys() == {4, 5}
    assert overlaid(bearing(plain, (0, NAME), (1, NAME))).titled.keys() == {0, 1}
    found = overlaid(bearing(plain, (4, NAME), (5, NAME)))
    assert found.unsure == {4, 5}
    assert not found.titled
    assert not found.signed


def test_a_sign_is_a_number_and_a_title_a_reason(plain: Survey) -> None:
    signed, titled = (bearing(plain, (0, line), (1, moved(line, 0.1 * (line is SIGN)))) for line in (SIGN, NAME))
    first, *others = judge(signed, LIMITS)
    assert first.against == ()
    assert first.measures["signs"] == pytest.approx(0.02)
    assert [shot.measures["signs"] for shot in others] == [0, 0]
    for how in ("refuse", "crop"):
        first, *others = judge(titled, LIMITS, subtitles=how)
        assert first.against == (TITLED,)
        assert not any(shot.against for shot in others)
    assert not any(shot.against for shot in judge(titled, LIMITS, subtitles="keep"))
    assert "signs" not in judge(plain, LIMITS)[0].measures


# -- the network -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small letters, a title over the picture, a sign that the camera leaves behind, and nothing."""
    folder = tmp_path_factory.mktemp("film")
    shots = [written(scene(number), text) for number, text in enumerate(("Where is she?", "No.", "We leave at dawn."))]
    title = written(scene(4), "CHAPTER TWO", ((WIDTH - 150) // 2, HEIGHT // 2 - 10))
    sign = written(scene(5), "HOTEL", (400, 100), 6)
    film_of(folder / "film.mp4", [*shots, title, sign, scene(6)])
    return folder / "film.mp4"


@pytest.fixture(scope="module")
def lettered(film: Path, weights: Path) -> Survey:
    return surveyed(film, weights)


def test_subtitles_and_a_title_are_found_and_a_sign_is_left_alone(lettered: Survey) -> None:
    reasons = [" ".join(shot.against).partition(" ")[0] for shot in judge(lettered, LIMITS)]
    assert reasons == ["subtitles"] * 3 + ["a", "", ""]
    band = overlaid(lettered).band
    assert band is not None
    assert 0.1 < band < 0.16, "a line of 5.5 % and what is under it"
    assert judge(lettered, LIMITS)[4].measures["signs"] > 0


def test_the_network_adds_to_a_survey_and_changes_none_of_its_numbers(film: Path, lettered: Survey) -> None:
    with_it, without = lettered.arrays, surveyed(film, None).arrays
    assert with_it.keys() - without.keys() == {"letters"}
    for name, numbers in without.items():
        np.testing.assert_array_equal(with_it[name], numbers)


@pytest.mark.parametrize("size", [(16, 16), (832, 16), (1664, 832), (350, 832)])
def test_pictures_of_any_shape_are_looked_at(weights: Path, size: tuple[int, int]) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    found = network(weights).lines(picture)
    assert found.shape == (MOST_LETTERS, 4)
    assert np.isfinite(found).all()


# -- in a prepared folder ----------------------------------------------------------------------------------------------


def prepared(film: Path, folder: Path, **settings: object) -> Prepared:
    data = DataConfig(root=str(film.parent), prepared=str(folder), caption="x", limits=LIMITS)
    for name, value in settings.items():
        setattr(data, name, value)
    return prepare(data, WANTED, 0)


def subtitled_shots(found: Prepared) -> int:
    return sum(" ".join(judged.shot.against).startswith("subtitles in") for judged in found.shots)


def test_a_file_is_surveyed_again_with_one_sentence_where_lettering_is_looked_for_in_another_way(
    film: Path, weights: Path, tmp_path: Path
) -> None:
    plain = prepared(film, tmp_path, lettering="plain")
    assert plain.notes == ()
    learned = prepared(film, tmp_path)
    assert subtitled_shots(learned) == 3
    assert [note for note in learned.notes if "surveyed again" in note] == [
        "film.mp4: surveyed again, as lettering is looked for in another way than before"
    ]
    assert any(note.startswith("letters are part of the scene in ") for note in learned.notes)
    survey = load_survey(survey_path(tmp_path, learned.files[0].survey))
    assert survey is not None
    assert survey.letters is not None
    assert not any("surveyed again" in note for note in prepared(film, tmp_path).notes)


def test_a_survey_with_letters_serves_where_none_are_asked_for(
    film: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fresh = prepared(film, tmp_path / "plain", lettering="plain")
    assert subtitled_shots(prepared(film, tmp_path / "learned")) == 3

    def looked(*_: object) -> None:
        raise AssertionError("the footage was read again")

    monkeypatch.setattr(survey_pool, "survey_one", looked)
    plain = prepared(film, tmp_path / "learned", lettering="plain")
    assert [judged.shot for judged in plain.shots] == [judged.shot for judged in fresh.shots]
    assert plain.notes == fresh.notes == ()
    assert not any(judged.shot.against for judged in prepared(film, tmp_path / "learned", judged=False).shots)


def test_parts_of_a_film_are_joined_with_their_letters(film: Path, weights: Path, lettered: Survey) -> None:
    handling = Handling(lettering=weights)
    parts = [
        survey_part(open_video(film, handling=handling), *span, lambda _: None)
        for span in ((0.0, 4.0), (4.0, math.inf))
    ]
    both = joined(parts)
    _, ours, theirs = np.intersect1d(both["sample"], lettered.sample, return_indices=True)
    assert len(theirs) >= 10
    assert lettered.letters is not None
    np.testing.assert_array_equal(both["letters"][ours], lettered.letters[theirs])


@pytest.mark.parametrize("content", [None, b"", b"\x08\x0a not the weights"])
def test_without_its_weights_one_sentence_says_so_and_strokes_are_looked_for(
    film: Path, tmp_path: Path, content: bytes | None
) -> None:
    path = tmp_path / "weights.onnx"
    if content is not None:
        path.write_bytes(content)
    found = prepared(film, tmp_path / "prepared", lettering_weights=str(path))
    said = [line for line in lines(found, Manifest((), ())) if WEAK in line]
    assert len(said) == 1
    assert said[0].startswith(f"data.lettering_weights={path}: ")
    assert (f"is not {Path(FILE).name} of rapidocr 3.10.0" in said[0]) == (content is not None)
    survey = load_survey(survey_path(tmp_path / "prepared", found.files[0].survey))
    assert survey is not None
    assert survey.letters is None


def test_weights_with_one_bit_changed_are_not_loaded(weights: Path, tmp_path: Path) -> None:
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "changed.onnx").write_bytes(content)
    for load in (weights_of, network):
        with pytest.raises(FootageError, match="its content is another"):
            load(tmp_path / "changed.onnx")
    (tmp_path / "copy.onnx").write_bytes(weights.read_bytes())
    assert weights_of(tmp_path / "copy.onnx") == tmp_path / "copy.onnx"
