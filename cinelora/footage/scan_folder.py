"""What lies in a footage folder: films, pictures and numbered sequences, in a settled order, and why the rest is left out.

Enters: the folder. Leaves: relative paths with forward slashes; a numbered sequence is one path with its first and last
number, as ``scan/name_[0001-0240].png``. Nothing is opened but pictures, and nothing that is no regular file. It does
not know what is good footage.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np

from cinelora.footage.captions import LISTS
from cinelora.footage.image_reader import SUFFIXES as PICTURES
from cinelora.footage.image_reader import PictureReader, picture_size, tiny_picture
from cinelora.footage.interlaced import Fields
from cinelora.footage.video_reader import PLAIN, Backend, Handling, Reader, UnreadableClip, open_video
from cinelora.io.plain_data import MOST_OF_LISTS, read_bytes

FILMS = (".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi", ".mxf", ".ts", ".mts", ".m2ts", ".mpg", ".mpeg")
SIDECARS = frozenset(
    (
        ".txt .csv .tsv .json .jsonl .md .html .xml .yaml .yml .toml .ini .log .nfo "
        ".srt .vtt .ass .cube .3dl .edl .xmp .pdf .zip .npz .safetensors .parquet .db "
        ".wav .mp3 .flac .aac .m4a .ogg .opus .aif .aiff .wma"
    ).split()
)
"""Kinds that lie beside footage, passed over without a word: captions, lists, notes, sound, looks."""
LEAST_OF_SEQUENCE = 8
PAIRS = 5
"""Neighbours that are compared to tell a film from photographs."""
SAME_LEVELS, SAME_SHARE = 8.0, 0.6
"""Neighbours are alike up to this many levels of mean difference, or this share of a picture's own spread."""
HASHED_AT_ONCE = 2**26
NUMBERED = re.compile(r"(?P<stem>.*?)(?P<number>\d{1,9})(?P<suffix>\.\w+)")
SEQUENCE = re.compile(r"(?P<stem>.*)\[(?P<first>\d+)-(?P<last>\d+)\](?P<suffix>\.\w+)")
Numbered = dict[tuple[str, str, int], list[tuple[int, str]]]
"""Numbers and names of pictures, by what stands before and after the number and how many digits it is filled up to."""


@dataclass
class Found:
    """Clips by their sorted paths, and what was left out, with the reason."""

    clips: list[str]
    left_out: dict[str, str]


def find_clips(root: Path, follow_links: bool = False) -> Found:
    """Every film, picture and sequence under ``root``. Links out of it are named, or followed with ``follow_links``.

    Hidden files are passed over: macOS leaves a ``._name.mp4`` beside every clip it copies.
    """
    found = sorted(_look_into(root, root, follow_links, {root.resolve()}))
    return Found([path for path, reason in found if not reason], {path: reason for path, reason in found if reason})


def _look_into(root: Path, folder: Path, follow_links: bool, above: set[Path]) -> Iterator[tuple[str, str]]:
    """Yield every path in ``folder`` and below with the reason why it is left out, "" for a clip.

    ``above`` are the folders that led here, with links resolved.
    """
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        yield _named(root, folder), f"the folder cannot be opened: {(error.strerror or 'unknown').lower()}"
        return
    pictures: list[str] = []
    for entry in entries:
        path = Path(entry.path)
        name, suffix = _named(root, path), path.suffix.lower()
        if entry.name.startswith("."):
            continue
        if reason := _unusable(root, entry, follow_links, above):
            yield name, reason
        elif entry.is_dir():
            # A link to a folder inside the footage is skipped: its clips are found under their own path, and would be
            # trained on twice. A link that leads out is followed here, as `_unusable` has let it pass.
            if not entry.is_symlink() or not path.resolve().is_relative_to(root.resolve()):
                yield from _look_into(root, path, follow_links, above | {path.resolve()})
        elif suffix in FILMS:
            yield name, ""
        elif suffix in PICTURES:
            # Whether a picture is a still or a frame of a sequence depends on the other pictures of its folder.
            pictures.append(entry.name)
        elif suffix not in SIDECARS:
            yield name, f"files of the kind {suffix or path.name} are not read"
    yield from ((_named(root, folder / picture), "") for picture in _with_sequences(root, folder, pictures))


def _named(root: Path, path: Path) -> str:
    """The path as a manifest holds it; bytes that are not UTF-8 are written out."""
    return path.relative_to(root).as_posix().encode("utf-8", "backslashreplace").decode()


def _unusable(root: Path, entry: os.DirEntry[str], follow_links: bool, above: set[Path]) -> str:
    if not entry.name.isascii() and entry.name.encode("utf-8", "replace").decode() != entry.name:
        return "its name is not UTF-8: rename it"
    try:
        mode, target = entry.stat().st_mode, Path(entry.path).resolve()
    except (OSError, RuntimeError):
        return "the link leads nowhere, or back to itself"
    if entry.is_symlink() and not target.is_relative_to(root.resolve()) and not follow_links:
        return "the link leads out of the footage folder: data.follow_links=true follows it"
    if stat.S_ISDIR(mode):
        return "the link leads back to a folder it lies in" if target in above else ""
    return "" if stat.S_ISREG(mode) else "it is a pipe, socket or device"


# -- numbered sequences ------------------------------------------------------------------------------------------------


def _with_sequences(root: Path, folder: Path, names: list[str]) -> Iterator[str]:
    """Names of pictures, those that follow one another by number as one."""
    # Scanners and renderers write one file a frame: take_0001.png to take_0240.png. Pictures are put together in three
    # steps: those that differ in their number alone form a series; a series is cut where a number is missing or the size
    # changes; and only what is then `LEAST_OF_SEQUENCE` long or more, and looks like a film, becomes a clip. The rest are stills.
    alone = _captioned(root, folder, names)
    numbered: Numbered = defaultdict(list)
    for name in names:
        match = None if name in alone else NUMBERED.fullmatch(name)
        if match is None:
            yield name
        else:
            # 0007 is filled up to four digits, 7 is not; the two are different series, and `members` must know which.
            width = len(match["number"]) if match["number"].startswith("0") else 0
            numbered[match["stem"], match["suffix"], width].append((int(match["number"]), name))
    _join_widths(numbered)
    for (stem, suffix, width), pictures in numbered.items():
        for run in _runs(folder, sorted(pictures)):
            if len(run) < LEAST_OF_SEQUENCE or not _is_film([folder / name for _, name in run]):
                yield from (name for _, name in run)
            else:
                yield f"{stem}[{run[0][0]:0{width}}-{run[-1][0]:0{width}}]{suffix}"


def _join_widths(numbered: Numbered) -> None:
    """Put numbers that grew into all of their digits, as 1000 after 0999, with those that have leading zeros."""
    for (stem, suffix, width), pictures in list(numbered.items()):
        if width:
            plain = numbered.get((stem, suffix, 0), [])
            pictures += [picture for picture in plain if len(str(picture[0])) == width]
            numbered[stem, suffix, 0] = [picture for picture in plain if len(str(picture[0])) != width]


def _runs(folder: Path, pictures: list[tuple[int, str]]) -> Iterator[list[tuple[int, str]]]:
    """Pictures cut where a number is missing and, in runs long enough for a sequence, where the size changes."""
    for _, group in groupby(enumerate(pictures), key=lambda pair: pair[1][0] - pair[0]):
        run = [picture for _, picture in group]
        if len(run) < LEAST_OF_SEQUENCE:
            yield run
        else:
            yield from (list(same) for _, same in groupby(run, key=lambda picture: picture_size(folder / picture[1])))


def _is_film(pictures: list[Path]) -> bool:
    """Whether neighbours look alike, as frames do: a camera numbers photographs as well. What cannot be read says nothing."""
    # A few pairs, spread evenly, are looked at. Two unrelated pictures are about as far apart as each is from its own mean;
    # frames, even of a fast pan, are much nearer. A film may have cuts, so more than half of the pairs decide.
    count = min(PAIRS, len(pictures) - 1)
    places = [(len(pictures) - 1) * (2 * k + 1) // (2 * count) for k in range(count)]
    pairs = [(tiny_picture(pictures[place]), tiny_picture(pictures[place + 1])) for place in places]
    apart = [
        float(np.abs(a - b).mean()) <= max(SAME_LEVELS, SAME_SHARE * float(a.std() + b.std()) / 2)
        for a, b in pairs
        if a is not None and b is not None
    ]
    return not apart or 2 * sum(apart) >= len(apart)


def _captioned(root: Path, folder: Path, names: list[str]) -> set[str]:
    """Pictures with captions of their own, which are stills of a data set, however they are numbered."""
    lists = [place / name for place in {root, folder} for name in LISTS]
    listed = "".join(read_bytes(path, MOST_OF_LISTS).decode("utf-8", "replace") for path in lists if _is_small(path))
    return {
        name
        for name in names
        if (folder / name).with_suffix(".txt").is_file() or f'"{name}"' in listed or f"{name}," in listed
    }


def _is_small(path: Path) -> bool:
    return path.is_file() and not path.is_symlink() and os.access(path, os.R_OK) and path.stat().st_size < 2**28


def members(path: Path) -> list[Path]:
    """The files of a clip: itself, or the pictures of a sequence by their numbers."""
    match = SEQUENCE.fullmatch(path.name)
    if match is None or path.exists():
        return [path]
    width = len(match["first"]) if match["first"].startswith("0") else 0
    numbers = range(int(match["first"]), int(match["last"]) + 1)
    return [path.with_name(f"{match['stem']}{number:0{width}}{match['suffix']}") for number in numbers]


def is_there(path: Path) -> bool:
    """Whether every file of a clip is."""
    return all(member.is_file() for member in members(path))


def stamp(path: Path) -> tuple[int, int]:
    """Bytes of a clip's files, and when the newest was changed in nanoseconds. Raises ``OSError``."""
    states = [os.stat(member) for member in members(path)]
    return sum(state.st_size for state in states), max(state.st_mtime_ns for state in states)


def content_hash(path: Path, alive: Callable[[], None] = lambda: None) -> str:
    """SHA-256 of a clip's content, in hex; of a sequence over those of its files. ``alive`` is called every 64 MB or file."""
    hashes = [_file_hash(member, alive) for member in members(path)]
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()


def _file_hash(path: Path, alive: Callable[[], None]) -> str:
    digest, block = hashlib.sha256(), memoryview(bytearray(min(HASHED_AT_ONCE, path.stat().st_size + 1)))
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(block):
            digest.update(block[:count])
            alive()
    return digest.hexdigest()


def open_clip(path: Path, backend: Backend | None = None, handling: Handling = PLAIN, fields: Fields = "") -> Reader:
    """Open a film, a picture as a clip of one frame, or a numbered sequence. Raises ``UnreadableClip``.

    An interlaced film is made whole by its ``fields``, as its survey found them.
    """
    if path.suffix.lower() not in PICTURES:
        reader = open_video(path, "pyav" if fields else backend, handling)
        reader.fields = fields
        return reader
    files = members(path)
    if missing := next((file.name for file in files if not file.is_file()), None):
        raise UnreadableClip(path, f"{missing} is not there")
    return PictureReader(path, files, handling)
