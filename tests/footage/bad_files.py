"""Damaged, odd and hostile files, made here: a folder of them, and what must be said of each.

``make`` gives every file's path below the folder and a pattern: of the reason it is left out for, or "" where it reads. Some may
do either, depending on where damage falls: ``EITHER``.
"""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from footage_clips import as_frames, write_film
from PIL import Image

EITHER = ".*"
OUT = "the link leads out of the footage folder"
NO_FILM = "none of the kinds of film|invalid data"


def noise(frames: int, height: int = 48, width: int = 64, seed: int = 0) -> np.ndarray:
    """Pictures that move over one another, so that no packet is empty."""
    wide = np.random.default_rng(seed).integers(0, 256, (height, width + 2 * frames, 3)).astype(np.uint8)
    return np.stack([wide[:, 2 * i : 2 * i + width] for i in range(frames)])


def film(path: Path, frames: int = 40, front: bool = True, **how: object) -> bytes:
    """An h264 clip; its index at the ``front`` or the end."""
    muxer = {"movflags": "+faststart"} if front and path.suffix == ".mp4" else {}
    write_film(path, as_frames(noise(frames)), options={"g": "10", "preset": "ultrafast"}, muxer=muxer, **how)  # type: ignore[arg-type]
    return path.read_bytes()


def make(root: Path, outside: Path) -> dict[str, str]:
    """Fill both folders; the patterns by path below ``root``."""
    root.mkdir(parents=True, exist_ok=True)
    outside.mkdir(parents=True, exist_ok=True)
    film(outside / "secret.mp4", 12)
    said: dict[str, str] = {}
    for group in (_cut_short, _other_content, _odd_films, _patched, _names_and_links, _pictures):
        said |= group(root, outside)
    return said


def _cut_short(root: Path, _: Path) -> dict[str, str]:
    whole = film(root / "whole.mp4")
    said = {"whole.mp4": ""}
    for percent in (1, 3, 10, 20, 30, 45, 60, 75, 90, 98):
        (root / f"cut_{percent:02}.mp4").write_bytes(whole[: len(whole) * percent // 100])
        said[f"cut_{percent:02}.mp4"] = EITHER
    late = film(root / "late_index.mp4", front=False)
    (root / "late_index.mp4").write_bytes(late[: len(late) * 8 // 10])
    for name in ("cut.mkv", "cut.avi", "cut.ts"):
        content = film(root / name)
        (root / name).write_bytes(content[: len(content) * 6 // 10])
        said[name] = EITHER
    return {**said, "late_index.mp4": "invalid data"}


def _other_content(root: Path, outside: Path) -> dict[str, str]:
    secret = outside / "secret.mp4"
    (outside / "secret.ts").write_bytes(film(outside / "secret.ts", 12))
    picture = io.BytesIO()
    Image.fromarray(noise(1)[0]).save(picture, "jpeg")
    contents = {
        "empty.mp4": (b"", "the file is empty"),
        "letter.mp4": (b"dear editor, " * 300, NO_FILM),
        "page.webm": (b"<!doctype html><html><body>not found</body></html>" * 20, NO_FILM),
        "random.avi": (np.random.default_rng(1).bytes(5000), NO_FILM),
        "header_then_noise.mp4": (
            struct.pack(">I", 24) + b"ftypisom\0\0\2\0isomiso2" + np.random.default_rng(2).bytes(9000),
            EITHER,
        ),
        "picture.mp4": (picture.getvalue(), NO_FILM),
        "playlist.mp4": (
            f"#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:4,\nfile://{outside}/secret.ts\n#EXT-X-ENDLIST\n".encode(),
            NO_FILM,
        ),
        "concat.mp4": (f"ffconcat version 1.0\nfile '{secret}'\n".encode(), NO_FILM),
        "session.mp4": (
            b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n",
            NO_FILM,
        ),
        "subtitles.mkv": (b"1\n00:00:00,000 --> 00:00:02,000\nhello\n\n" * 40, NO_FILM),
    }
    for name, (content, _) in contents.items():
        (root / name).write_bytes(content)
    _write_sound(root / "sound.mp4")
    matroska = film(root / "inside.mkv")
    (root / "matroska_inside.mp4").write_bytes(matroska)
    (root / "trailing_noise.mp4").write_bytes(film(root / "plain.mp4") + bytes(3000))
    return {
        **{name: reason for name, (_, reason) in contents.items()},
        **{
            "sound.mp4": "no video",
            "inside.mkv": "",
            "matroska_inside.mp4": "",
            "plain.mp4": "",
            "trailing_noise.mp4": "",
        },
    }


def _write_sound(path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        for start in range(0, 16000, 1024):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 16000, start
            container.mux(stream.encode(frame))  # type: ignore[attr-defined]
        container.mux(stream.encode())  # type: ignore[attr-defined]


def _odd_films(root: Path, _: Path) -> dict[str, str]:
    film(root / "one_frame.mp4", 1)
    write_film(root / "one_pixel.mkv", as_frames(noise(3, 1, 1), "yuv444p"), codec="ffv1")
    huge = np.zeros((1, 4320, 7680, 3), np.uint8)
    write_film(root / "8k.mp4", as_frames(huge), options={"preset": "ultrafast"})
    film(root / "1000_fps.mp4", time_base=Fraction(1, 1000))
    film(root / "one_an_hour.mp4", 3, pts=lambda i: 3600 * i, time_base=Fraction(1, 1))
    film(root / "before_zero.mkv", pts=lambda i: 40 * i - 800, time_base=Fraction(1, 1000))
    film(root / "same_times.mkv", pts=lambda i: i // 2, time_base=Fraction(1, 25))
    for name, size, later in (("changing.ts", (80, 96), 20), ("begun_anew.ts", (48, 64), 0)):
        first = film(root / name, 20)
        write_film(root / name, as_frames(noise(20, *size)), options={"g": "10"}, pts=lambda i, later=later: i + later)  # type: ignore[misc]
        (root / name).write_bytes(first + (root / name).read_bytes())
    fits = ("one_frame.mp4", "one_pixel.mkv", "8k.mp4", "1000_fps.mp4", "one_an_hour.mp4", "before_zero.mkv")
    return {
        **dict.fromkeys(fits, ""),
        "same_times.mkv": EITHER,
        "changing.ts": "changes from 64x48 to 96x80",
        "begun_anew.ts": "",
    }


def _patched(root: Path, _: Path) -> dict[str, str]:
    whole = film(root / "whole.mp4")

    def patch(name: str, box: bytes, offset: int, change: Callable[[int], int]) -> None:
        content = bytearray(whole)
        at = content.index(box) + 4 + offset
        (value,) = struct.unpack_from(">I", content, at)
        struct.pack_into(">I", content, at, change(value))
        (root / name).write_bytes(bytes(content))

    patch("no_duration.mp4", b"mdhd", 16, lambda _: 0)
    patch("duration_x10.mp4", b"mdhd", 16, lambda value: value * 10)
    patch("no_timescale.mp4", b"mdhd", 12, lambda _: 0)
    patch("no_time_between.mp4", b"stts", 12, lambda _: 0)
    patch("million_samples.mp4", b"stsz", 8, lambda _: 1_000_000)
    patch("sizes_beyond.mp4", b"stsz", 12, lambda _: 2**31 - 1)
    patch("offset_beyond.mp4", b"stco", 8, lambda _: 2**31 - 1)
    draws = np.random.default_rng(3)
    for name in ("flipped.mp4", "flipped.mkv", "flipped.webm"):
        codec = "libvpx-vp9" if name.endswith("webm") else "libx264"
        write_film(
            root / name, as_frames(noise(40)), codec, {"g": "10", "cpu-used": "8"} if "vp9" in codec else {"g": "10"}
        )
        content = bytearray((root / name).read_bytes())
        for at in draws.integers(len(content) // 3, len(content) * 2 // 3, 60):
            content[at] ^= 1 << int(draws.integers(8))
        (root / name).write_bytes(bytes(content))
    names = (
        "no_duration",
        "duration_x10",
        "no_timescale",
        "no_time_between",
        "million_samples",
        "sizes_beyond",
        "offset_beyond",
    )
    return {
        **{f"{name}.mp4": EITHER for name in names},
        **dict.fromkeys(("flipped.mp4", "flipped.mkv", "flipped.webm"), EITHER),
    }


def _names_and_links(root: Path, outside: Path) -> dict[str, str]:
    film(root / "\U0001f3ac caf\u00e9 'a|b' [1-2]; %d.mp4", 12)
    with open(os.fsencode(root) + b"/caf\xe9.mp4", "wb") as file:
        file.write((root / "whole.mp4").read_bytes())
    (root / "folder.mp4").mkdir()
    film(root / "folder.mp4" / "inner.mp4", 12)
    (root / "loop").symlink_to(root)
    (root / "self.mp4").symlink_to("self.mp4")
    (root / "nowhere.mp4").symlink_to(outside / "nothing.mp4")
    (root / "out.mp4").symlink_to(outside / "secret.mp4")
    (root / "outer").symlink_to(outside)
    (root / "inside_link.mp4").symlink_to("whole.mp4")
    os.mkfifo(root / "pipe.mp4")
    (root / "locked.mp4").write_bytes((root / "whole.mp4").read_bytes())
    (root / "locked.mp4").chmod(0)
    (root / "film.r3d").write_bytes(b"RED2")
    return {
        "\U0001f3ac caf\u00e9 'a|b' [1-2]; %d.mp4": "",
        "caf\\udce9.mp4": "not UTF-8",
        "folder.mp4/inner.mp4": "",
        "loop": "leads back to a folder it lies in",
        "self.mp4": "leads nowhere, or back to itself",
        "nowhere.mp4": "leads nowhere, or back to itself|" + OUT,
        "out.mp4": OUT,
        "outer": OUT,
        "inside_link.mp4": "",
        "pipe.mp4": "pipe, socket or device",
        "locked.mp4": "permission denied" if os.geteuid() else "",  # to root nothing is locked
        "film.r3d": r"kind \.r3d",
    }


def _pictures(root: Path, _: Path) -> dict[str, str]:
    picture = Image.fromarray(noise(1)[0])
    whole = io.BytesIO()
    picture.resize((300, 200)).save(whole, "jpeg")
    (root / "bomb.png").write_bytes(_png_of(60000, 60000))
    (root / "cut.jpg").write_bytes(whole.getvalue()[:900])
    (root / "empty.jpg").write_bytes(b"")
    (root / "letter.png").write_bytes(b"dear editor " * 40)
    (root / "letter.exr").write_bytes(b"dear editor " * 40)
    (root / "png_inside.jpg").write_bytes(_png_of(4, 4))
    picture.save(root / "png_inside.jpg", "png")
    moving = [Image.new("RGB", (8, 8), (level, 0, 0)) for level in (0, 99, 200)]
    for suffix in ("gif", "webp"):
        moving[0].save(root / f"moving.{suffix}", save_all=True, append_images=moving[1:])
    picture.save(root / "scan_[0001-0010].png")
    for number in (*range(1, 10), *range(11, 20)):
        picture.resize((32, 24)).save(root / f"frame_{number:03}.png")
    (root / "frame_015.png").write_bytes((root / "frame_015.png").read_bytes()[:200])
    return {
        "bomb.png": "60000x60000|exceeds|decompression",
        "cut.jpg": "truncated",
        "empty.jpg": "the file is empty",
        "letter.png": "no picture",
        "letter.exr": "no picture",
        "png_inside.jpg": "",
        "moving.gif": "animation",
        "moving.webp": "animation",
        "scan_[0001-0010].png": "",
        "frame_[001-009].png": "",
        "frame_[011-019].png": r"frame_015\.png: .*truncated",
    }


def _png_of(height: int, width: int) -> bytes:
    """A PNG whose header promises more than it holds."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(99))) + chunk(b"IEND", b"")
    )
