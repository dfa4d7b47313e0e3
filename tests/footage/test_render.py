"""The renderer: a seed is a scene, a look is how it is shown, and captions say what is there."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from footage_clips import mean_difference

from cinelora.errors import ConfigError
from cinelora.footage.render import LOOKS, render_clip
from cinelora.footage.render.__main__ import Request, main, parse_request
from cinelora.footage.render.scenes import CARS, describe, draw_scene
from cinelora.footage.samples import scan

REPO = Path(__file__).parents[2]


def test_the_seed_decides_the_pixels() -> None:
    clip = render_clip(4, "noir", 3, 32, 48, 16)
    assert (clip.video.shape, clip.video.dtype) == ((3, 32, 48, 3), np.uint8)
    torch.manual_seed(99)
    again = render_clip(4, "noir", 3, 32, 48, 16)
    assert np.array_equal(clip.video, again.video)
    assert clip.caption == again.caption
    assert not np.array_equal(clip.video, render_clip(5, "noir", 3, 32, 48, 16).video)


def test_noir_is_dark_and_without_colour_where_daylight_is_neither() -> None:
    for seed in (1, 2):
        noir, day = (render_clip(seed, look, 2, 48, 80, 16).video.astype(int) for look in ("noir", "daylight"))
        assert np.ptp(noir, axis=-1).max() <= 1
        assert np.ptp(day, axis=-1).mean() > 5
        assert noir.mean() < 0.6 * day.mean()
        assert noir.max() > 180


def test_the_picture_moves_but_does_not_jump(street: np.ndarray, room: np.ndarray) -> None:
    for video in (street, room):
        steps = [mean_difference(a, b) for a, b in pairwise(video)]
        assert min(steps) > 0.3
        assert max(steps) < 15


def test_captions_follow_the_scene() -> None:
    for seed in range(60):
        scene = draw_scene(seed)
        night, day = (describe(scene, LOOKS[look]) for look in ("noir", "daylight"))
        assert ("office" in night) == (scene.place == "room")
        assert (" rain" in night) == (scene.weather == "rain")
        assert ("car drives past" in night) == (scene.car is not None)
        assert ("smoke" in night) == scene.smoke
        assert ("hat" in night.replace("that", "")) == scene.hat
        assert ("walks" in night) == (scene.walk != 0)
        assert "by night" in night
        assert "by day" in day
        assert "headlamps" not in day
        # colours are named only where the look has any
        assert not any(f"{colour} car" in night for colour in CARS)
        assert scene.car is None or f"{scene.car} car" in day


def test_the_command_writes_a_set_that_can_be_scanned(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["look=daylight", f"out={tmp_path}", "clips=2", "heldout=1", "frames=5", "height=32", "width=48"]
    assert main(words) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3
    manifest = scan(
        tmp_path,
        num_frames=5,
        fps=16,
        caption=None,
        trigger=None,
        holdout=0.5,
        stills_per_shot=1,
        window_stride=5,
        seed=0,
    )
    assert [(s.split, s.path) for s in manifest.samples] == [
        ("heldout", "heldout/002-room.mp4"),
        ("train", "train/000-street.mp4"),
        ("train", "train/001-street.mp4"),
    ]
    for sample in manifest.samples:
        assert sample.caption == describe(draw_scene(int(Path(sample.path).name[:3])), LOOKS["daylight"])


def test_bad_requests_are_said_in_words(capsys: pytest.CaptureFixture[str]) -> None:
    assert parse_request(["clips=3", "out=a=b"]) == Request(clips=3, out="a=b")
    for word, part in [
        ("look=sepia", "noir, daylight"),
        ("clip=3", "clips="),
        ("frames=few", "whole number"),
        ("height=33", "even"),
        ("frames=0", "1 or more"),
        ("noir", "keys are"),
    ]:
        assert main([word]) == 2
        assert part in capsys.readouterr().err
    with pytest.raises(ConfigError, match="noir, daylight"):
        render_clip(0, "sepia", 1, 32, 48, 16)


def test_the_shipped_set_is_whole() -> None:
    root = REPO / "data" / "noir"
    manifest = scan(
        root,
        num_frames=33,
        fps=16,
        caption=None,
        trigger=None,
        holdout=0.2,
        stills_per_shot=2,
        window_stride=33,
        seed=0,
    )
    assert manifest.skipped == ()
    assert sum(sample.split == "train" for sample in manifest.samples) == 12
    assert sum(sample.split == "heldout" for sample in manifest.samples) == 3
    for sample in manifest.samples:
        assert sample.caption == describe(draw_scene(int(Path(sample.path).name[:3])), LOOKS["noir"])
    assert sum(path.stat().st_size for path in root.rglob("*.mp4")) < 1_500_000
