"""Both libraries read the same pictures; what neither can read is said in words."""

from __future__ import annotations

import struct
from contextlib import suppress
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from footage_clips import Put, mean_difference, write_plainly

from cinelora.footage.video_reader import UnreadableClip, open_video
from cinelora.io.media import write_mp4


def frames_of(path: Path, indices: list[int], backend: str | None = None) -> np.ndarray:
    return np.stack(list(open_video(path, backend).frames(indices)))  # type: ignore[arg-type]


def test_pixels_come_back_as_they_were_written(put: Put, street: np.ndarray) -> None:
    path = put("a.mp4", street)
    reader = open_video(path)
    assert (reader.backend, reader.num_frames, reader.fps, reader.size) == ("pyav", 40, 16, (48, 80))
    assert mean_difference(frames_of(path, [0, 17, 39]), street[[0, 17, 39]]) < 4


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.mov"])
def test_both_libraries_give_the_same_frames(put: Put, street: np.ndarray, name: str) -> None:
    path, indices = put(name, street), [0, 1, 11, 12, 13, 30, 39]
    greys = [frames_of(path, indices, backend).mean(-1) for backend in ("decord", "pyav")]
    assert mean_difference(*greys) < 1.5  # decord repeats colours that FFmpeg interpolates
    assert open_video(path, "pyav").num_frames == open_video(path, "decord").num_frames == 40


def test_a_frame_asked_for_twice_comes_twice(put: Put, street: np.ndarray) -> None:
    path = put("a.mp4", street)
    for backend in ("decord", "pyav"):
        first, again, other = frames_of(path, [5, 5, 6], backend)
        assert np.array_equal(first, again)
        assert not np.array_equal(first, other)


def test_asking_past_the_end_is_an_error(put: Put, street: np.ndarray) -> None:
    path = put("a.mp4", street)
    for backend in ("decord", "pyav"):
        with pytest.raises(UnreadableClip):
            frames_of(path, [39, 40], backend)


def test_colours_survive_the_bt709_tags(tmp_path: Path) -> None:
    paint = np.broadcast_to(np.array([40, 200, 60], np.uint8), (8, 32, 32, 3))
    write_mp4(tmp_path / "green.mp4", np.ascontiguousarray(paint), 16)
    for backend in ("decord", "pyav"):
        assert mean_difference(frames_of(tmp_path / "green.mp4", [3], backend), paint[:1]) < 3


def test_a_phones_rotation_is_applied_alike(put: Put, street: np.ndarray) -> None:
    path = put("a.mp4", street)
    upright = struct.pack(">9i", 65536, 0, 0, 0, 65536, 0, 0, 0, 1 << 30)
    turned = struct.pack(">9i", 0, 65536, 0, -65536, 0, 0, 48 << 16, 0, 1 << 30)
    content = path.read_bytes()
    at = content.index(upright, content.index(b"tkhd"))
    path.write_bytes(content[:at] + turned + content[at + len(turned) :])
    for backend in (None, "pyav"):
        reader = open_video(path, backend)  # type: ignore[arg-type]
        assert reader.size == (80, 48)
        assert mean_difference(next(iter(reader.frames([7]))), np.rot90(street[7], -1)) < 4


def test_pixels_that_are_not_square_are_known(tmp_path: Path, street: np.ndarray) -> None:
    write_plainly(tmp_path / "wide.mkv", street[:8], 16, aspect="4:3")
    assert open_video(tmp_path / "wide.mkv").header.pixel_aspect == Fraction(4, 3)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [("empty.mp4", b"", "empty"), ("text.mp4", b"this is a letter, not a film\n" * 40, "invalid data")],
)
def test_what_is_no_clip_is_said_in_words(tmp_path: Path, name: str, content: bytes, reason: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UnreadableClip, match=reason):
        open_video(tmp_path / name)


def test_nothing_drowns_the_sentence(put: Put, street: np.ndarray, capfd: pytest.CaptureFixture[str]) -> None:
    path = put("a.mkv", street)
    path.write_bytes(path.read_bytes()[:4000])
    for content in (path.read_bytes(), path.read_bytes()[:60], b"no film at all" * 99):
        path.write_bytes(content)
        with suppress(UnreadableClip):
            list(open_video(path).scaled(36, 64))
    assert capfd.readouterr().err == ""


def test_real_clips_that_decord_cannot_open_go_through_pyav(real: Path) -> None:
    reader = open_video(real / "av1.mkv")
    assert (reader.backend, reader.num_frames, reader.size) == ("pyav", 125, (360, 640))
    ten_bit = open_video(real / "h264_10bit.mp4")
    assert (ten_bit.num_frames, ten_bit.size) == (30, (200, 200))
    assert next(iter(ten_bit.frames([29]))).dtype == np.uint8


@pytest.mark.parametrize("name", ["bigbuckbunny.mp4", "nasa_13013.mp4", "scene_cuts.mp4"])
def test_real_clips_are_the_same_through_both(real: Path, name: str) -> None:
    count = open_video(real / name).num_frames
    indices = [0, count // 3, count // 3 + 1, count - 1]
    greys = [frames_of(real / name, indices, backend).mean(-1) for backend in ("decord", "pyav")]
    assert mean_difference(*greys) < 2


def test_a_pass_over_the_clip_starts_and_ends_on_the_frame(put: Put, street: np.ndarray) -> None:
    reader = open_video(put("a.mkv", street))
    assert reader.times == pytest.approx(np.arange(40) / 16, abs=1e-3)  # Matroska counts milliseconds
    whole = list(reader.scaled(24, 40))
    assert [seconds for seconds, _ in whole] == list(reader.times)
    assert mean_difference(whole[7][1], street[7].reshape(24, 2, 40, 2, 3).mean((1, 3))) < 4
    for start, end in [(0, 12), (11, 14), (12, 40), (31, 33)]:
        part = list(reader.scaled(24, 40, reader.times[start], reader.times[end] if end < 40 else None))
        assert [seconds for seconds, _ in part] == list(reader.times[start:end])
        assert all(np.array_equal(a, b) for (_, a), (_, b) in zip(part, whole[start:end], strict=True))


def test_headers_say_what_the_colours_are(tmp_path: Path, put: Put, street: np.ndarray) -> None:
    write_mp4(tmp_path / "tagged.mp4", street[:4], 16)
    header = open_video(tmp_path / "tagged.mp4").header
    assert (header.codec, header.pixel_format, header.bits, header.hdr) == ("h264", "yuv420p", 8, "")
    assert (header.matrix, header.range, header.transfer, header.primaries) == ("bt709", "limited", "bt709", "bt709")
    untagged = open_video(put("a.mkv", street)).header
    assert (untagged.matrix, untagged.range, untagged.transfer) == ("smpte170m", "limited", "")
