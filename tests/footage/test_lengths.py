"""Whole films are used however odd their clocks, and of damaged ones what decodes; each with a word on it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from footage_clips import as_frames, scan, write_film, write_plainly
from test_survey import surveyed

from cinelora.config.schema import DataConfig
from cinelora.families.wan21 import WAN21
from cinelora.footage.build_dataset import Prepared, Wanted, prepare
from cinelora.footage.shot_filter import DAMAGED
from cinelora.footage.video_reader import UnreadableClip, open_video

KEY = {
    "encryption_scheme": "cenc-aes-ctr",
    "encryption_key": "76a6c65c5ea762046bd749a2e632ccbb",
    "encryption_kid": "a7e61c373e219033c21091fa607bf3b8",
}


def prepared(root: Path) -> Prepared:
    data = DataConfig(name="folder", root=str(root), judged=False, prepared=str(root.parent / "prepared"))
    return prepare(data, Wanted(5, 16, (48, 80), WAN21.geometry, 0))


def write_stamped(path: Path, video: np.ndarray, first: int = 0, held: int = 1) -> Path:
    """A film whose first frame comes ``first`` frames late and whose last is ``held`` so many."""
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=24, options={"bf": "0", "g": "12"})
        stream.height, stream.width, stream.pix_fmt = video.shape[1], video.shape[2], "yuv420p"
        packets = [packet for frame in [*as_frames(video), None] for packet in stream.encode(frame)]
        for packet in packets:
            one = round(1 / (24 * packet.time_base))
            packet.pts = packet.dts = packet.pts + first * one
            packet.duration = (held if packet is packets[-1] else 1) * one
            container.mux(packet)
    return path


@pytest.mark.parametrize(
    ("name", "first", "held"),
    [("late.mkv", 144, 1), ("hours.mkv", 24 * 36000, 1), ("held.mp4", 0, 96), ("held.mkv", 9, 80)],
)
def test_a_film_that_starts_late_or_holds_its_last_picture_is_whole(
    footage: Path, room: np.ndarray, name: str, first: int, held: int
) -> None:
    write_stamped(footage / name, room, first, held)
    found = prepared(footage)
    assert (found.skipped, found.notes) == ((), ())
    assert [(shot.shot.start, shot.shot.end) for shot in found.shots] == [(0, len(room))]


def test_a_film_that_is_cut_off_gives_what_is_there(footage: Path, room: np.ndarray) -> None:
    write_plainly(footage / "a.mkv", np.concatenate([room, room]), 16)
    content = (footage / "a.mkv").read_bytes()
    (footage / "a.mkv").write_bytes(content[: len(content) * 6 // 10])
    found = prepared(footage)
    assert found.skipped == ()
    assert found.notes[0].startswith("a.mkv: it is truncated: ")
    samples = scan(footage, num_frames=5, caption="x").samples
    assert len(samples) >= 1
    reader = open_video(footage / "a.mkv")
    assert all(len(list(reader.frames(sample.frames))) == 5 for sample in samples)


def test_a_broadcast_that_begins_within_a_group_of_pictures_is_whole(footage: Path, room: np.ndarray) -> None:
    path = write_film(footage / "a.ts", as_frames(np.concatenate([room, room])), options={"g": "24", "bf": "2"})
    content = path.read_bytes()
    path.write_bytes(content[188 * (len(content) // 188 // 6) :])
    found = prepared(footage)
    assert (found.skipped, found.notes) == ((), ())
    assert found.shots[-1].shot.end == 56


def spoil(path: Path, first: float, last: float) -> None:
    content = bytearray(path.read_bytes())
    noise = np.random.default_rng(1).integers(0, 256, len(content), np.uint8).tobytes()
    start, end = int(len(content) * first), int(len(content) * last)
    content[start:end] = noise[start:end]
    path.write_bytes(content)


def test_what_is_damaged_is_cut_out_and_the_rest_can_be_read(footage: Path, room: np.ndarray) -> None:
    path = write_film(footage / "a.ts", as_frames(np.concatenate([room] * 3)), options={"g": "12", "bf": "0"})
    spoil(path, 0.6, 0.7)
    survey = surveyed(path)
    assert survey.damaged.any()
    found = prepared(footage)
    assert any("damaged" in note or "truncated" in note for note in found.notes)
    assert all((DAMAGED in shot.shot.against) == bool(survey.damaged[shot.shot.start]) for shot in found.shots)
    reader = open_video(path)
    used = [frame for s in found.shots if not s.against(True) for picks, _ in s.picks for frame in picks]
    assert len(used) >= 15
    assert len(list(reader.frames(sorted(set(used))))) == len(set(used))


def test_what_is_encrypted_is_said_to_be(footage: Path, room: np.ndarray) -> None:
    path = write_film(footage / "a.mp4", as_frames(room), muxer=KEY)
    with pytest.raises(UnreadableClip, match="it is encrypted"):
        open_video(path)
