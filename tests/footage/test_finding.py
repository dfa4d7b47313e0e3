"""What is found in a folder, in which order, and why the rest is not."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cinelora.footage.scan_folder import content_hash, find_clips, is_there, members, open_clip
from cinelora.footage.video_reader import UnreadableClip


def picture(path: Path, size: tuple[int, int] = (16, 12), level: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (level, 90, 60)).save(path)
    return path


def test_films_pictures_and_sequences_are_found_in_order(footage: Path) -> None:
    (footage / "b").mkdir()
    for name in ("z.MP4", "a.mkv", "b/c.webm", "notes.txt", "sound.wav", ".hidden.mp4", "metadata.csv"):
        (footage / name).write_bytes(b"x")
    picture(footage / "still.png")
    for number in range(9, 20):
        picture(footage / "scan" / f"shot_{number:04}.png")
    for number in range(98, 107):
        picture(footage / f"{number}.jpg")
    (footage / "film.xyz").write_bytes(b"x")
    found = find_clips(footage)
    assert found.clips == ["[98-106].jpg", "a.mkv", "b/c.webm", "scan/shot_[0009-0019].png", "still.png", "z.MP4"]
    assert found.left_out == {"film.xyz": "files of the kind .xyz are not read"}
    assert [path.name for path in members(footage / found.clips[0])] == [f"{number}.jpg" for number in range(98, 107)]
    assert members(footage / "scan/shot_[0009-0019].png")[-1] == footage / "scan/shot_0019.png"


def test_what_is_no_sequence_are_stills(footage: Path) -> None:
    for number in (1, 2, 3, 4, 5, 6, 7, 11, 12):
        picture(footage / "gaps" / f"{number:03}.png")
    for number in range(10):
        picture(footage / "sizes" / f"{number:03}.png", (16, 12) if number % 2 else (12, 16))
        picture(footage / "captioned" / f"{number:03}.png").with_suffix(".txt").write_text("a cat")
        picture(footage / "listed" / f"{number:03}.png")
    (footage / "listed" / "metadata.jsonl").write_text(
        "".join(f'{{"file_name": "{number:03}.png", "text": "a dog"}}\n' for number in range(10))
    )
    found = find_clips(footage)
    assert len(found.clips) == 9 + 3 * 10
    assert not any("[" in clip for clip in found.clips)


def test_numbers_may_grow_beyond_their_zeros(footage: Path) -> None:
    for number in range(95, 105):
        picture(footage / f"f{number:02}.png")
    for number in range(95, 105):
        picture(footage / f"g{number:03}.png")
    assert find_clips(footage).clips == ["f[95-104].png", "g[095-104].png"]


def test_links_loops_pipes_and_odd_names_are_named(footage: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    for name in ("film.mp4", "other.mp4"):
        (outside / name).write_bytes(b"x")
    (footage / "sub").mkdir()
    (footage / "sub" / "real.mp4").write_bytes(b"x")
    (footage / "sub" / "loop").symlink_to(footage)
    (footage / "again.mp4").symlink_to(footage / "sub" / "real.mp4")
    (footage / "out.mp4").symlink_to(outside / "film.mp4")
    (footage / "folder").symlink_to(outside)
    (footage / "gone.mp4").symlink_to(outside / "nothing.mp4")
    (footage / "self.mp4").symlink_to("self.mp4")
    os.mkfifo(footage / "pipe.mp4")
    (footage / "folder.mp4").mkdir()
    (footage / "\U0001f3ac film.mp4").write_bytes(b"x")
    with open(os.fsencode(footage) + b"/caf\xe9.mp4", "wb") as file:
        file.write(b"x")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.path.relpath(footage / "socket.mp4"))
    found = find_clips(footage)
    assert found.clips == ["again.mp4", "sub/real.mp4", "\U0001f3ac film.mp4"]
    out = "the link leads out of the footage folder: data.follow_links=true follows it"
    assert found.left_out == {
        "caf\\udce9.mp4": "its name is not UTF-8: rename it",
        "folder": out,
        "gone.mp4": "the link leads nowhere, or back to itself",
        "out.mp4": out,
        "pipe.mp4": "it is a pipe, socket or device",
        "self.mp4": "the link leads nowhere, or back to itself",
        "socket.mp4": "it is a pipe, socket or device",
        "sub/loop": "the link leads back to a folder it lies in",
    }
    (outside / "back").symlink_to(footage)
    followed = find_clips(footage, follow_links=True)
    assert {"out.mp4", "folder/film.mp4", "folder/other.mp4"} < set(followed.clips)
    assert followed.left_out["folder/back"] == "the link leads back to a folder it lies in"


def test_content_is_hashed_over_every_picture(footage: Path) -> None:
    for number in range(8):
        picture(footage / f"{number:03}.png", level=number)
    (clip,) = find_clips(footage).clips
    before = content_hash(footage / clip)
    assert len(before) == 64
    picture(footage / "004.png", level=200)
    assert content_hash(footage / clip) != before
    (footage / "005.png").unlink()
    assert not is_there(footage / clip)
    with pytest.raises(UnreadableClip, match=r"005\.png is not there"):
        open_clip(footage / clip)


def test_a_sequence_reads_as_a_clip(footage: Path) -> None:
    for number in range(10):
        picture(footage / f"s_{number:03}.png", level=20 * number)
    reader = open_clip(footage / find_clips(footage).clips[0])
    assert (reader.backend, reader.num_frames, reader.fps, reader.size) == ("pillow", 10, 24, (12, 16))
    assert [int(frame[0, 0, 0]) for frame in reader.frames([0, 3, 3, 9])] == [0, 60, 60, 180]
    part = list(reader.scaled(6, 8, reader.times[4], reader.times[7]))
    assert [(seconds, int(small[0, 0, 0])) for seconds, small in part] == [(n / 24, 20 * n) for n in (4, 5, 6)]
    Image.fromarray(np.zeros((20, 20, 3), np.uint8)).save(footage / "s_005.png")
    with pytest.raises(UnreadableClip, match=r"changes from 16x12 to 20x20 in s_005\.png"):
        list(reader.frames(range(10)))


def noise(path: Path, seed: int, shift: int = 0) -> None:
    """A picture of soft blotches, moved sideways."""
    small = np.random.default_rng(seed).integers(0, 256, (9, 40, 3), np.uint8)
    wide = np.asarray(Image.fromarray(small).resize((640, 144), Image.Resampling.BICUBIC))
    Image.fromarray(wide[:, shift : shift + 256]).save(path)


def test_photographs_that_a_camera_numbered_are_stills(footage: Path) -> None:
    for number in range(12):
        noise(footage / f"IMG_{4001 + number}.JPG", number)
        noise(footage / f"pan_{number:04}.png", 99, 6 * number)  # the width in 43 frames
        noise(footage / f"cut_{number:04}.png", 7 + number // 4, 4 * number)
    assert find_clips(footage).clips == [
        *(f"IMG_{4001 + n}.JPG" for n in range(12)),
        "cut_[0000-0011].png",
        "pan_[0000-0011].png",
    ]
