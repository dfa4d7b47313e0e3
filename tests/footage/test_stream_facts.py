"""What a file says of its pictures is heeded, as a player does, or named."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from footage_clips import as_frames, mean_difference, scan, write_film, write_plainly
from PIL import Image

from cinelora.footage.image_reader import REC_709, primaries_to_srgb, read_picture
from cinelora.footage.scan_folder import open_clip
from cinelora.footage.stream_facts import is_dolby_alone
from cinelora.footage.video_reader import Handling, UnreadableClip, open_container, open_video

ACES = (0.7347, 0.2653, 0.0, 1.0, 0.0001, -0.077, 0.32168, 0.33767)


def first(path: Path, **handling: Any) -> np.ndarray:
    return next(open_clip(path, handling=Handling(**handling)).frames([0]))


def with_matrix(path: Path, target: Path, a: float, b: float, c: float, d: float) -> Path:
    """A copy of an mp4 whose display matrix is this."""
    content = bytearray(path.read_bytes())
    at = content.find(b"tkhd") + 4 + 4 + 20 + 16
    struct.pack_into(">9i", content, at, *(round(value * 65536) for value in (a, b, 0, c, d, 0, 0, 0)), 1 << 30)
    target.write_bytes(content)
    return target


@pytest.mark.parametrize(
    ("matrix", "shown"),
    [
        ((1, 0, 0, 1), lambda p: p),
        ((-1, 0, 0, 1), lambda p: p[:, ::-1]),
        ((1, 0, 0, -1), lambda p: p[::-1]),
        ((-1, 0, 0, -1), lambda p: p[::-1, ::-1]),
        ((0, 1, -1, 0), lambda p: np.rot90(p, -1)),
        ((0, -1, 1, 0), lambda p: np.rot90(p, 1)),
        ((0, 1, 1, 0), lambda p: p.swapaxes(0, 1)),
        ((0, -1, -1, 0), lambda p: p[::-1, ::-1].swapaxes(0, 1)),
        ((0.985, 0.174, -0.174, 0.985), lambda p: p),
    ],
)
def test_a_picture_is_laid_down_as_a_player_shows_it(
    tmp_path: Path, room: np.ndarray, matrix: tuple[float, ...], shown: Callable[[np.ndarray], np.ndarray]
) -> None:
    write_plainly(tmp_path / "stored.mp4", room[:4], 16)
    want = shown(first(tmp_path / "stored.mp4"))
    reader = open_clip(with_matrix(tmp_path / "stored.mp4", tmp_path / "turned.mp4", *matrix))
    assert np.array_equal(next(reader.frames([0])), want)
    assert reader.size == want.shape[:2]
    _, small = next(reader.scaled(*reader.size))
    assert mean_difference(small, want) < 3


def test_a_film_turned_by_no_quarter_is_left_out(footage: Path, room: np.ndarray) -> None:
    write_plainly(footage / "a.mp4", room, 16)
    with_matrix(footage / "a.mp4", footage / "skewed.mp4", 0.985, 0.174, -0.174, 0.985)
    (left,) = scan(footage, num_frames=5, caption="x").skipped
    assert (left.path, "not a multiple of 90 degrees" in left.reason) == ("skewed.mp4", True)


@pytest.mark.parametrize(("compatible", "alone"), [(0, True), (1, False), (4, False)])
def test_dolby_vision_without_another_layer_is_hdr(
    tmp_path: Path, room: np.ndarray, compatible: int, alone: bool
) -> None:
    quiet = {"preset": "ultrafast", "x265-params": "log-level=none"}
    path = write_film(tmp_path / "hevc.mp4", as_frames(room[:3], "yuv420p10le"), "libx265", quiet)
    content = bytearray(path.read_bytes())
    entry = content.rfind(b"hev1") - 4
    (size,) = struct.unpack_from(">I", content, entry)
    record = bytes([1, 0, 5 << 1, 6 << 3 | 5, compatible << 4]) + bytes(19)
    content[entry + size : entry + size] = struct.pack(">I4s", 32, b"dvcC") + record
    for name in (b"hev1", b"stsd", b"stbl", b"minf", b"mdia", b"trak", b"moov"):
        at = entry if name == b"hev1" else content.rfind(name, 0, entry) - 4
        struct.pack_into(">I", content, at, struct.unpack_from(">I", content, at)[0] + 32)
    path.write_bytes(content)
    if alone:
        with pytest.raises(UnreadableClip, match="Dolby Vision"):
            open_video(path)
    else:
        assert mean_difference(first(path), room[0]) < 6


def test_a_record_of_dolby_vision_in_matroska_is_found(tmp_path: Path, room: np.ndarray) -> None:
    quiet = {"preset": "ultrafast", "x265-params": "log-level=none"}
    path = write_film(tmp_path / "hevc.mkv", as_frames(room[:3], "yuv420p10le"), "libx265", quiet)
    with open_container(path) as container:
        stream = container.streams.video[0]
        frame = next(container.decode(stream))
        assert not is_dolby_alone(path, stream, frame)
        element = b"\x41\xe7\x84dvcC\x41\xed\x98" + bytes([1, 0, 5 << 1, 0, 0]) + bytes(19)
        path.write_bytes(path.read_bytes() + element)
        assert is_dolby_alone(path, stream, frame)


@pytest.mark.parametrize(("codec", "pixel_format"), [("png", "rgba"), ("qtrle", "argb"), ("prores_ks", "yuva444p10le")])
def test_what_is_transparent_is_over_black_in_films_as_in_stills(tmp_path: Path, codec: str, pixel_format: str) -> None:
    drawn = np.zeros((64, 96, 4), np.uint8)
    drawn[..., :3], drawn[:, :32, 3], drawn[:, 32:64, 3] = (200, 60, 240), 255, 128
    frame = av.VideoFrame.from_ndarray(drawn, format="rgba").reformat(format=pixel_format)
    film = write_film(tmp_path / "film.mov", [frame], codec)
    Image.fromarray(drawn).save(tmp_path / "still.png")
    still = read_picture(tmp_path / "still.png").astype(int)
    shown, (_, small) = first(film), next(open_clip(film).scaled(64, 96))
    for x in (16, 48, 80):  # in the middle of each third
        assert np.abs(shown[32, x] - still[32, x]).max() <= 5
        assert np.abs(small[32, x] - still[32, x]).max() <= 5
    assert shown[32, 80].max() == 0


def write_exr(path: Path, linear_HW3: np.ndarray, chromaticities: tuple[float, ...] | None) -> Path:
    """An uncompressed EXR of 32-bit floats, as "OpenEXR File Layout" has it."""

    def attribute(name: str, kind: str, value: bytes) -> bytes:
        return f"{name}\0{kind}\0".encode() + struct.pack("<i", len(value)) + value

    height, width = linear_HW3.shape[:2]
    box = struct.pack("<4i", 0, 0, width - 1, height - 1)
    channels = b"".join(name + b"\0" + struct.pack("<iiii", 2, 0, 1, 1) for name in (b"B", b"G", b"R")) + b"\0"
    head = struct.pack("<II", 20000630, 2) + attribute("channels", "chlist", channels)
    if chromaticities:
        head += attribute("chromaticities", "chromaticities", struct.pack("<8f", *chromaticities))
    head += attribute("compression", "compression", b"\0") + attribute("dataWindow", "box2i", box)
    head += attribute("displayWindow", "box2i", box) + attribute("lineOrder", "lineOrder", b"\0")
    head += attribute("pixelAspectRatio", "float", struct.pack("<f", 1))
    head += attribute("screenWindowCenter", "v2f", bytes(8)) + attribute(
        "screenWindowWidth", "float", struct.pack("<f", 1)
    )
    head += b"\0"
    row = 8 + width * 12
    places = struct.pack(f"<{height}Q", *(len(head) + 8 * height + y * row for y in range(height)))
    lines = (
        struct.pack("<ii", y, width * 12) + linear_HW3[y, :, ::-1].T.astype("<f4").tobytes() for y in range(height)
    )
    path.write_bytes(head + places + b"".join(lines))
    return path


def test_an_exr_is_in_the_primaries_that_it_names(tmp_path: Path) -> None:
    linear = np.full((8, 12, 3), (0.5, 0.05, 0.05), np.float32)
    plain = read_picture(write_exr(tmp_path / "plain.exr", linear, None))
    assert tuple(plain[4, 6]) == (188, 63, 63)
    # AP0 of BT.709, as ACES publishes it
    to_ap0 = np.array([[0.4396, 0.3830, 0.1774], [0.0898, 0.8134, 0.0968], [0.0175, 0.1115, 0.8710]], np.float32)
    aces = read_picture(write_exr(tmp_path / "aces.exr", linear @ to_ap0.T, ACES))
    assert np.abs(aces[4, 6].astype(int) - plain[4, 6]).max() <= 1
    assert np.array_equal(read_picture(write_exr(tmp_path / "same.exr", linear, REC_709)), plain)
    assert np.array_equal(read_picture(write_exr(tmp_path / "bad.exr", linear, (0.0,) * 8)), plain)


def test_primaries_keep_white_white() -> None:
    assert primaries_to_srgb(ACES) @ np.ones(3) == pytest.approx(np.ones(3), abs=1e-4)


@pytest.mark.parametrize(("code", "words"), [((9, 16), "PQ"), ((9, 18), "HLG"), ((12, 13), "smpte432"), ((1, 13), "")])
def test_a_png_says_its_colours_by_cicp(tmp_path: Path, code: tuple[int, int], words: str) -> None:
    path = tmp_path / "still.png"
    Image.new("RGB", (16, 12), (90, 60, 30)).save(path)
    content = path.read_bytes()
    chunk = b"cICP" + bytes([*code, 0, 1])
    whole = struct.pack(">I", 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
    path.write_bytes(content[:33] + whole + content[33:])
    if words:
        with pytest.raises(UnreadableClip, match=words):
            read_picture(path)
    else:
        assert tuple(read_picture(path)[0, 0]) == (90, 60, 30)


def test_a_film_that_names_no_matrix_is_in_the_one_that_is_said(tmp_path: Path, street: np.ndarray) -> None:
    colourful = street[:2].copy()
    colourful[:, :24] = (200, 40, 40)
    path = write_film(tmp_path / "untagged.mp4", as_frames(colourful, "yuv444p"))
    guess, said = open_video(path), open_video(path, handling=Handling(matrix="bt709"))
    assert (guess.header.matrix, guess.header.is_guess, said.header.matrix) == ("smpte170m", True, "bt709")
    assert mean_difference(next(said.frames([0])), next(guess.frames([0]))) > 2
    assert guess.handling.colours != said.handling.colours
    assert Fraction(25) == said.fps
