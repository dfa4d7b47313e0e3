"""The renderer: a seed is a scene, a look is how it is shown, and captions say what is there."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import pairwise, product
from pathlib import Path

import numpy as np
import pytest
import torch
from footage_clips import mean_difference, scan

from cinelora.cli.small_command import request_of
from cinelora.errors import ConfigError
from cinelora.footage.manifest import Sample
from tools.scale_model.__main__ import PROGRAMS, main
from tools.scale_model.render import (
    LOOKS,
    VOCABULARY,
    Scene,
    describe,
    describe_in_part,
    draw_scene,
    render_clip,
    render_scene,
)
from tools.scale_model.render.write_clips import RenderRequest

REPO = Path(__file__).parents[2]
PLAIN = {"act": "stands", "car": None, "weather": "dry", "place": "street", "time": "noon"}


def shots(look: str, num_frames: int, scene: Scene, size: tuple[int, int] = (56, 96), fps: int = 16) -> np.ndarray:
    return render_scene(scene, look, num_frames, *size, fps, grain=False).numpy().astype(int)


def drift(video: np.ndarray) -> float:
    """Pixels by which the picture moves to the right from first to last frame, added up over phase correlations."""
    luma = video.mean(-1) - video.mean((1, 2, 3))[:, None, None]
    window = np.hanning(luma.shape[1])[:, None] * np.hanning(luma.shape[2])
    moved = 0.0
    for a, b in pairwise(np.fft.fft2(luma * window)):
        cross = b * a.conj()
        peak = np.fft.ifft2(cross / (np.abs(cross) + 1e-9)).real.max(0)
        shift = int(peak.argmax())
        moved += shift if shift < luma.shape[2] / 2 else shift - luma.shape[2]
    return moved


def coat_columns(video: np.ndarray) -> list[int]:
    """Widths of the runs of columns in which a saturated red is seen."""
    frame = video[len(video) // 2]
    red = (frame[..., 0] > 2.2 * frame[..., 1]) & (frame[..., 0] > 2.2 * frame[..., 2]) & (frame[..., 0] > 60)
    columns = "".join("x" if seen else " " for seen in red.sum(0) > 3)
    return [len(run) for run in re.findall("x+", columns)]


def test_the_seed_decides_the_pixels() -> None:
    clip = render_clip(4, "noir", 3, 32, 48, 16)
    assert (clip.video.shape, clip.video.dtype) == ((3, 32, 48, 3), np.uint8)
    torch.manual_seed(99)
    again = render_clip(4, "noir", 3, 32, 48, 16)
    assert np.array_equal(clip.video, again.video)
    assert clip.caption == again.caption == describe(draw_scene(4), "noir")
    assert not np.array_equal(clip.video, render_clip(5, "noir", 3, 32, 48, 16).video)


def test_no_generator_but_the_seeds_is_used() -> None:
    """Random numbers that a device drew would differ between devices."""
    before = torch.get_rng_state()
    render_clip(4, "neon", 2, 32, 48, 16)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("look", LOOKS)
def test_nothing_waits_for_the_device_or_mixes_devices(look: str) -> None:
    """The meta device has shapes but no numbers: whatever asks for one, or adds a CPU tensor, fails on it."""
    for scene in (draw_scene(5, place="street", weather="rain", car="red", count=3), draw_scene(5, place="room")):
        assert render_scene(scene, look, 3, 32, 48, 16, device="meta").shape == (3, 32, 48, 3)


def test_a_clip_drawn_in_groups_of_frames_is_the_same_clip(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = render_clip(5, "daylight", 5, 32, 48, 16).video
    monkeypatch.setattr("tools.scale_model.render.film.PIXELS_ON_CPU", 2 * 32 * 48)
    assert np.abs(whole.astype(int) - render_clip(5, "daylight", 5, 32, 48, 16).video).max() <= 1


def test_overrides_keep_the_rest() -> None:
    for seed in range(30):
        scene = draw_scene(seed, place="street")
        for name, values in VOCABULARY.items():
            for value in values if name != "place" else ():
                assert draw_scene(seed, **{"place": "street", name: value}) == replace(scene, **{name: value})
        room = draw_scene(seed, place="room")
        assert room == replace(scene, place="room", weather="dry", car=None)
    assert draw_scene(3, place="street", weather="rain", car="red").car == "red"
    assert draw_scene(3, place="room").weather == "dry"
    for wrong, part in [
        ({"coat": "mauve"}, "red, green"),
        ({"hue": "red"}, "coat"),
        ({"place": "room", "car": "red"}, "place=street"),
    ]:
        with pytest.raises(ConfigError, match=part):
            draw_scene(0, **wrong)


@pytest.mark.parametrize("look", LOOKS)
def test_every_scene_can_be_seen_in_every_look(look: str) -> None:
    for place in VOCABULARY["place"]:
        video = shots(look, 2, draw_scene(7, place=place), (32, 48))
        assert video.shape == (2, 32, 48, 3)
        assert video.std() > 8


def test_noir_is_dark_and_without_colour_where_daylight_is_neither() -> None:
    for place in VOCABULARY["place"]:
        scene = draw_scene(1, place=place, time="noon")
        noir, day = (shots(look, 2, scene) for look in ("noir", "daylight"))
        assert np.ptp(noir, axis=-1).max() <= 1
        assert np.ptp(day, axis=-1).mean() > 5
        assert noir.mean() < 0.6 * day.mean()
        assert noir.max() > 150


def test_the_same_scene_is_seen_in_all_looks() -> None:
    """Edges stay where they are when only light and film change."""
    scene = draw_scene(3, **{**PLAIN, "coat": "white", "camera": "stands still"})
    edges = []
    for look in LOOKS:
        luma = shots(look, 1, scene, (112, 192))[0].mean(-1)
        steps = np.hypot(np.diff(luma, axis=0)[:, 1:], np.diff(luma, axis=1)[1:]) / luma.std()
        edges.append(steps.ravel() > np.quantile(steps, 0.93))
    for other in edges[1:]:
        assert np.corrcoef(edges[0], other)[0, 1] > 0.2


def test_hours_differ_in_brightness_and_colour() -> None:
    for place in VOCABULARY["place"]:
        noon, dusk, night = (
            shots("daylight", 1, draw_scene(8, place=place, time=time)).mean((0, 1, 2))
            for time in ("noon", "dusk", "night")
        )
        assert noon.mean() > 1.15 * dusk.mean() > 1.3 * night.mean()
        assert dusk[0] / dusk[2] > 1.25 * noon[0] / noon[2]
        assert night[0] / night[2] < 0.9 * noon[0] / noon[2]


@pytest.mark.parametrize("look", ["daylight", "western"])
def test_cameras_move_as_they_are_called(look: str) -> None:
    def seen(camera: str, seed: int) -> float:
        scene = draw_scene(seed, **{**PLAIN, "camera": camera, "count": 1})
        return drift(shots(look, 33, scene, (112, 192))[::4])

    for seed in (1, 2):
        assert 20 < seen("pans left", seed) < 60
        assert -60 < seen("pans right", seed) < -20
        assert abs(seen("stands still", seed)) < 3


def test_a_camera_that_moves_in_makes_the_subject_larger() -> None:
    area = {}
    for camera in ("moves in", "moves out", "stands still"):
        video = shots("daylight", 33, draw_scene(2, **{**PLAIN, "camera": camera, "coat": "red", "count": 1}))[[0, -1]]
        red = (video[..., 0] > 2 * video[..., 1]) & (video[..., 0] > 2 * video[..., 2])
        area[camera] = red[1].sum() / red[0].sum()
    assert area["moves in"] > 1.4
    assert area["moves out"] < 0.7
    assert 0.95 < area["stands still"] < 1.05


@pytest.mark.parametrize("count", VOCABULARY["count"])
def test_people_are_as_many_as_the_caption_says(count: int) -> None:
    scene = draw_scene(11, **{**PLAIN, "coat": "red", "count": count, "camera": "stands still"})
    runs = [width for width in coat_columns(shots("daylight", 1, scene, (112, 192))) if width > 4]
    assert len(runs) == count


def test_the_picture_moves_but_does_not_jump() -> None:
    scene = draw_scene(1, place="street", act="walks left", coat="black", car=None, time="noon", weather="dry")
    street = render_scene(scene, "daylight", 40, 48, 80, 16).numpy()
    room = render_scene(draw_scene(2, place="room", act="walks left"), "noir", 40, 48, 80, 16).numpy()
    for video in (street, room):
        steps = [mean_difference(a, b) for a, b in pairwise(video)]
        assert min(steps) > 0.1
        assert max(steps) < 15


def test_captions_follow_the_scene() -> None:
    counts = {1: "man in a ", 2: "two men in ", 3: "three men in "}
    for seed in range(120):
        scene = draw_scene(seed)
        night, day = (describe(scene, look) for look in ("noir", "daylight"))
        for caption in (night, day):
            assert len(caption) <= 160
            assert counts[scene.count] in caption.lower()
            assert f"the camera {scene.camera}" in caption.lower()
            assert ("in a room" in caption.lower()) == (scene.place == "room")
            assert ("in the rain" in caption) == (scene.weather == "rain")
            assert ("in fog" in caption) == (scene.weather == "fog")
            assert ("to the left" in caption.replace("drives to the left", "")) == (scene.act == "walks left")
            assert ("walk" in caption) == (scene.act != "stands")
            assert (f"drives to the {scene.car_direction}" in caption) == (scene.car is not None)
            assert ("hat" in caption) == scene.hat
        assert f"at {scene.time}" in day
        assert "at night" in night
        assert f"{scene.coat} coat" in day
        assert scene.car is None or f"{scene.car} car" in day
        # colours are named only where the look has any
        assert not any(re.search(rf"\b{colour}\b", night.lower()) for colour in VOCABULARY["coat"])
        assert not any(look in (night + day).lower() for look in LOOKS)
        # asked to, a caption also tells what the look hides, and nothing else in other words
        hidden = describe(scene, "noir", hidden=True)
        assert f"at {scene.time}" in hidden
        assert f"{scene.coat} coat" in hidden
        assert (
            hidden.replace(scene.coat, "long").replace(f"at {scene.time}", "at night").replace(f"{scene.car} ", "")
            == night
        )


def test_captions_in_part_say_nothing_that_the_whole_one_does_not() -> None:
    words, telling = re.compile("[a-z-]+"), []
    for seed, look in product(range(60), ("noir", "daylight")):
        whole = describe(draw_scene(seed), look)
        parts = [describe_in_part(draw_scene(seed), look, number) for number in range(12)]
        for part in parts:
            assert set(words.findall(part.lower())) <= set(words.findall(whole.lower()))
        assert np.mean([len(part) for part in parts]) < 0.7 * len(whole)
        assert len(set(parts)) > 3
        telling += [bool(re.search("noon|dusk|night", part)) for part in parts]
    assert 0.1 < np.mean(telling) < 0.5


def test_the_command_writes_a_set_that_can_be_scanned(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["render", "look=daylight", f"out={tmp_path}", "clips=2", "heldout=1", "frames=5", "height=32", "width=48"]
    assert main([*words, "captions=3"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3
    manifest = scan(
        tmp_path,
        num_frames=5,
        prepared=str(tmp_path.parent / "prepared"),
        holdout=0.5,
        stills_per_shot=1,
        window_stride=5,
        caption_lines="each",
    )
    places = [draw_scene(seed).place for seed in range(3)]
    assert [(s.split, s.path) for s in manifest.samples] == [
        ("heldout", f"heldout/002-{places[2]}.mp4"),
        *[("train", f"train/000-{places[0]}.mp4")] * 3,
        *[("train", f"train/001-{places[1]}.mp4")] * 3,
    ]
    for sample in manifest.samples:
        assert sample.caption == told_of(sample, "daylight")


def told_of(sample: Sample, look: str, hidden: bool = False) -> str:
    """The caption of a shipped or written sample: the whole one, or that of its line."""
    scene, line = draw_scene(int(Path(sample.path).name[:3])), int((sample.id + "#0").split("#")[1])
    return describe_in_part(scene, look, line, hidden) if line else describe(scene, look, hidden)


def test_bad_requests_are_said_in_words(capsys: pytest.CaptureFixture[str]) -> None:
    assert request_of(PROGRAMS["render"], ["clips=3", "out=a=b"]) == RenderRequest(clips=3, out="a=b")
    for word, part in [
        ("look=sepia", "look=sepia: wants daylight|noir|western|neon"),
        ("clip=3", "clip is not a setting, did you mean clips?"),
        ("frames=few", "whole number"),
        ("height=33", "height=33: wants a multiple of 2, such as 32 (height in pixels, an even number)"),
        ("frames=0", "at least 1"),
        ("height=2", "height=2: wants 16 or more"),
        ("noir", "'noir' is not key=value"),
    ]:
        assert main(["render", word]) == 2
        assert part in capsys.readouterr().err
    with pytest.raises(ConfigError, match="daylight, noir"):
        render_clip(0, "sepia", 1, 32, 48, 16)


@pytest.mark.parametrize(
    ("look", "num_train", "num_heldout", "limit_bytes"),
    [("noir", 34 * 4, 6, 3_500_000), ("daylight", 12, 4, 1_500_000)],
)
def test_the_shipped_sets_are_whole(
    look: str, num_train: int, num_heldout: int, limit_bytes: int, tmp_path: Path
) -> None:
    root = REPO / "data" / look
    manifest = scan(
        root,
        prepared=str(tmp_path),
        num_frames=33,
        holdout=0.2,
        caption_lines="each",
    )
    assert manifest.skipped == ()
    assert sum(sample.split == "train" for sample in manifest.samples) == num_train
    assert sum(sample.split == "heldout" for sample in manifest.samples) == num_heldout
    for sample in manifest.samples:
        assert sample.caption == told_of(sample, look, hidden=True)
    assert sum(path.stat().st_size for path in root.rglob("*.mp4")) < limit_bytes
