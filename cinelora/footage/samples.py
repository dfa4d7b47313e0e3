"""Samples: a folder of clips enters, a manifest of the stills or windows to train on leaves, and later their pixels.

Clips are taken in the order of their paths, so the same folder always gives the same manifest. What cannot be used is
named with its reason and left out. Nothing outside the folder is read. It does not know latents or models.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image
from tqdm.auto import tqdm

from cinelora.errors import FootageError
from cinelora.files import sha256_file, write_text
from cinelora.footage.decode import Pixels, Reader, UnreadableClip, open_video
from cinelora.footage.shots import Shot, find_shots

SUFFIXES = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v")
CAPTION_FILES = ("captions.jsonl", "metadata.jsonl")
Split = Literal["train", "heldout"]
MISSING_SHARE, MISSING_S = Fraction(1, 10), Fraction(1, 4)
"""A clip is called truncated when more than both is missing of the length in its header: headers are a little off."""


@dataclass(frozen=True)
class Sample:
    """One still or window: which frames of which clip, and what they show.

    ``path`` is relative to the footage folder, with forward slashes; ``file_hash`` the sha256 of the file's content;
    ``frames`` the indices in the clip, already at the model's frame rate, so that a 24 fps clip skips some.
    ``box`` is what bars leave of the picture as shown: left, top, right, bottom in pixels; ``size`` the height and width it
    is trained at, ``None`` for the model's own. ``weights`` is empty, or says how much of the frame behind each is blended in.
    ``colours`` is a hash of what its colours go through: a LUT, tone mapping.
    """

    id: str
    path: str
    file_hash: str
    frames: tuple[int, ...]
    caption: str
    split: Split
    kind: Literal["still", "window"]
    box: tuple[int, int, int, int] | None = None
    size: tuple[int, int] | None = None
    weights: tuple[float, ...] = ()
    colours: str = ""


@dataclass(frozen=True)
class Skipped:
    """A clip that was left out, or its shot (first frame, and the frame after the last), and why."""

    path: str
    reason: str
    shot: tuple[int, int] | None = None


@dataclass(frozen=True)
class Manifest:
    """What a footage folder gives."""

    samples: tuple[Sample, ...]
    skipped: tuple[Skipped, ...]


@dataclass(frozen=True)
class Clip:
    """A readable clip with the frame indices of its samples."""

    path: str
    file_hash: str
    caption: str
    picks: tuple[tuple[int, ...], ...]


# -- scan --------------------------------------------------------------------------------------------------------------


def scan(
    root: Path,
    *,
    num_frames: int,
    fps: int,
    caption: str | None,
    trigger: str | None,
    holdout: float,
    stills_per_shot: int,
    window_stride: int,
    seed: int,
) -> Manifest:
    """Find every clip under ``root`` and choose its samples: stills where ``num_frames`` is 1, else windows.

    ``fps`` is the model's rate; ``window_stride`` counts frames at that rate. ``caption`` stands for every clip's own;
    ``trigger`` is put before each. Folders named ``train`` and ``heldout`` decide the split where both are there;
    otherwise the share ``holdout`` of the clips is held out, chosen by ``seed`` and content.

    Raises ``FootageError`` where the folder is missing or empty, a caption is missing, or no clip can be used.
    """
    if not root.is_dir():
        raise FootageError(f"no footage folder at {root}; set data.root=<folder with clips>")
    paths, skipped = find_clips(root)
    if not paths and not skipped:
        raise FootageError(f"no clips in {root}: looked there and below for {', '.join(SUFFIXES)}")
    captions = _captions(root, paths, caption)
    clips: list[Clip] = []
    for path in tqdm(paths, desc="scan", unit="clip", leave=False, disable=None):
        try:
            picks = _pick(root / path, num_frames, fps, stills_per_shot, window_stride)
        except UnreadableClip as error:
            skipped.append(Skipped(path, error.reason))
        else:
            clips.append(Clip(path, sha256_file(root / path), _with_trigger(captions[path], trigger), picks))
    skipped.sort(key=lambda clip: clip.path)
    if not clips:
        reasons = "; ".join(f"{clip.path} ({clip.reason})" for clip in skipped[:3])
        more = f"; and {len(skipped) - 3} more" if len(skipped) > 3 else ""
        raise FootageError(f"none of the {len(skipped)} clips in {root} can be used: {reasons}{more}")
    splits = _splits(root, clips, holdout, seed)
    kind: Literal["still", "window"] = "still" if num_frames == 1 else "window"
    samples = tuple(
        Sample(_sample_id(clip.path, frames), clip.path, clip.file_hash, frames, clip.caption, splits[clip.path], kind)
        for clip in clips
        for frames in clip.picks
    )
    return Manifest(samples, tuple(skipped))


def find_clips(root: Path) -> tuple[list[str], list[Skipped]]:
    """Paths of the clips under ``root``, relative and sorted, and the links that lead out of it.

    Hidden files are passed over: macOS leaves a ``._name.mp4`` beside every clip it copies.
    """
    found: list[str] = []
    skipped: list[Skipped] = []
    for folder, subfolders, files in os.walk(root):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        links = [name for name in subfolders if (Path(folder) / name).is_symlink()]
        clips = [name for name in files if name.lower().endswith(SUFFIXES) and not name.startswith(".")]
        for name in [*links, *clips]:
            path = (Path(folder) / name).relative_to(root).as_posix()
            if not _is_inside(root, path):
                skipped.append(Skipped(path, "the link leads out of the footage folder"))
            elif name in clips:
                found.append(path)
    return sorted(found), skipped


def _is_inside(root: Path, path: str) -> bool:
    return (root / path).resolve().is_relative_to(root.resolve())


def _sample_id(path: str, frames: tuple[int, ...]) -> str:
    return f"{path}@{frames[0]}" if len(frames) == 1 else f"{path}@{frames[0]}-{frames[-1]}"


# -- frames of a clip --------------------------------------------------------------------------------------------------


def _pick(
    path: Path, num_frames: int, fps: int, stills_per_shot: int, window_stride: int
) -> tuple[tuple[int, ...], ...]:
    """The frame indices of a clip's samples, none of them across a cut."""
    reader, shots = _survey(path)
    if num_frames == 1:
        return tuple((frame,) for shot in shots for frame in still_frames(shot, stills_per_shot))
    windows = [w for shot in shots for w in window_frames(shot, reader.fps, fps, num_frames, window_stride)]
    if not windows:
        longest = max(resampled_length(end - start, reader.fps, fps) for start, end in shots)
        what = "lasts" if len(shots) == 1 else f"its longest shot of {len(shots)} lasts"
        raise UnreadableClip(str(path), f"{what} {longest} frames at {fps} fps; a window needs {num_frames}")
    return tuple(windows)


def _survey(path: Path) -> tuple[Reader, list[Shot]]:
    """Decode a clip once from end to end; where decord stops on the way, PyAV has the last word."""
    reader = open_video(path)
    try:
        shots = find_shots(reader.thumbnails())
    except UnreadableClip:
        if reader.backend == "pyav":
            raise
        reader = open_video(path, "pyav")
        shots = find_shots(reader.thumbnails())
    if not shots:
        raise UnreadableClip(str(path), "it has no frames")
    _refuse_truncated(reader, num_frames=shots[-1][1])
    return reader, shots


def _refuse_truncated(reader: Reader, num_frames: int) -> None:
    promised_s, length_s = reader.header.duration_s, num_frames / reader.fps
    if promised_s is not None and promised_s - length_s > max(MISSING_S, promised_s * MISSING_SHARE):
        reason = f"it is truncated: {float(length_s):.1f} s of {float(promised_s):.1f} s are there"
        raise UnreadableClip(str(reader.path), reason)


def still_frames(shot: Shot, count: int) -> list[int]:
    """At most ``count`` frames at even distances inside a shot.

    Its first and last are left out where it is long enough: beside a cut a frame may be blended, or of the other shot.
    """
    start, end = shot
    inside = end - start - 2
    if inside < 1:
        return [(start + end) // 2]
    return sorted({start + 1 + (2 * k + 1) * inside // (2 * count) for k in range(count)})


def resampled_length(num_frames: int, source_fps: Fraction, fps: int) -> int:
    """How many frames at ``fps`` find their nearest frame among ``num_frames`` at ``source_fps``."""
    return math.ceil((num_frames - Fraction(1, 2)) * fps / source_fps)


def window_frames(
    shot: Shot, source_fps: Fraction, fps: int, num_frames: int, stride: int
) -> Iterator[tuple[int, ...]]:
    """Windows of ``num_frames`` at ``fps`` that begin ``stride`` frames apart within a shot.

    Frame i at ``fps`` is the source frame nearest in time, floor(i * source_fps / fps + 1/2), counted from the shot's
    first: 24 fps to 16 gives 0, 2, 3, 5, 6, 8.
    """
    start, end = shot
    length = resampled_length(end - start, source_fps, fps)
    nearest = [start + math.floor(i * source_fps / fps + Fraction(1, 2)) for i in range(length)]
    for first in range(0, length - num_frames + 1, stride):
        yield tuple(nearest[first : first + num_frames])


# -- captions ----------------------------------------------------------------------------------------------------------


def _captions(root: Path, paths: Sequence[str], caption: str | None) -> dict[str, str]:
    """The caption of every clip that can be opened. Raises ``FootageError`` where one has none."""
    if caption is not None:
        return dict.fromkeys(paths, caption)
    listed = _listed_captions(root)
    found = {path: _text_beside(root, path) or listed.get(path, "") for path in paths}
    missing = [path for path, text in found.items() if not text and _opens(root / path)]
    if missing:
        first, others = missing[0], f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        beside = Path(first).with_suffix(".txt").name
        raise FootageError(
            f"no caption for {first}{others} in {root}: set data.caption=<one for all clips>, "
            f"or write {beside} beside it, or list it in captions.jsonl"
        )
    return found


def _opens(path: Path) -> bool:
    try:
        open_video(path)
    except UnreadableClip:
        return False
    return True


def _with_trigger(caption: str, trigger: str | None) -> str:
    return f"{trigger}, {caption}" if trigger else caption


def prompt_with_trigger(prompt: str, trigger: str | None) -> str:
    """The prompt as training saw its captions: behind the trigger word, unless it is already there."""
    return _with_trigger(prompt, None if trigger and trigger in prompt else trigger)


def _text_beside(root: Path, path: str) -> str:
    beside = Path(path).with_suffix(".txt").as_posix()
    return _read_text(root, beside).strip() if (root / beside).is_file() else ""


def _listed_captions(root: Path) -> dict[str, str]:
    """Captions of ``CAPTION_FILES``: a line ``{"file_name": ..., "text": ...}`` for each clip."""
    captions: dict[str, str] = {}
    for name in CAPTION_FILES:
        if not (root / name).is_file():
            continue
        for number, record in _json_lines(root / name, _read_text(root, name)):
            if not (isinstance(record, dict) and isinstance(record.get("file_name"), str) and "text" in record):
                raise FootageError(f'{root / name}, line {number}: want {{"file_name": "...", "text": "..."}}')
            captions.setdefault(record["file_name"], str(record["text"]).strip())
    return captions


def _read_text(root: Path, path: str) -> str:
    if not _is_inside(root, path):
        raise FootageError(f"{root / path} leads out of the footage folder; put a copy of the file there")
    try:
        return (root / path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise FootageError(f"{root / path} is not UTF-8 text (byte {error.start}); save it as UTF-8") from error


def _json_lines(path: Path, text: str) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip():
            try:
                yield number, json.loads(line)
            except json.JSONDecodeError as error:
                raise FootageError(f"{path}, line {number}: not JSON ({error.msg})") from error


# -- split -------------------------------------------------------------------------------------------------------------


def _splits(root: Path, clips: Sequence[Clip], holdout: float, seed: int) -> dict[str, Split]:
    """The split of every clip, as a whole: neighbouring windows are too alike to be on both sides."""
    if (root / "train").is_dir() and (root / "heldout").is_dir():
        return {clip.path: "heldout" if clip.path.startswith("heldout/") else "train" for clip in clips}
    hashes = {clip.file_hash for clip in clips}
    heldout = set(_drawn(hashes, holdout, seed))
    return {clip.path: "heldout" if clip.file_hash in heldout else "train" for clip in clips}


def _drawn(hashes: Iterable[str], holdout: float, seed: int) -> list[str]:
    """The share ``holdout`` of the contents, at least one and never all; copies of a clip fall on one side."""
    order = sorted(hashes, key=lambda content: hashlib.sha256(f"{seed}:{content}".encode()).hexdigest())
    if holdout <= 0 or len(order) < 2:
        return []
    return order[: min(max(round(holdout * len(order)), 1), len(order) - 1)]


# -- pixels ------------------------------------------------------------------------------------------------------------


def read_frames(root: Path, sample: Sample, height: int, width: int) -> Pixels:
    """The pixels of a sample: uint8 RGB of shape (len(sample.frames), height, width, 3).

    The picture covers the frame and is cut evenly at its sides, antialiased; pixels that are not square become so.
    Raises ``FootageError`` where the clip is gone, damaged, or outside ``root``.
    """
    path = root / sample.path
    if not _is_inside(root, sample.path) or not path.is_file():
        raise FootageError(f"{sample.path} of the manifest is not in {root}; scan the footage again")
    status = path.stat()
    try:
        reader = _opened(path, status.st_mtime_ns, status.st_size)
        return np.stack([*_framed(reader, sample.frames, height, width)])
    except UnreadableClip:
        return np.stack([*_framed(open_video(path, "pyav"), sample.frames, height, width)])


@lru_cache(maxsize=1)
def _opened(path: Path, mtime_ns: int, size: int) -> Reader:
    """The clip read last stays open: its samples follow one another, and opening decodes more than a still does."""
    return open_video(path)


def _framed(reader: Reader, indices: Sequence[int], height: int, width: int) -> Iterator[Pixels]:
    box = cover_box(reader.size, float(reader.header.pixel_aspect), height, width)
    for frame_HWC in reader.frames(indices):
        picture = Image.fromarray(frame_HWC)
        yield np.asarray(picture.resize((width, height), Image.Resampling.BICUBIC, box=box))


def cover_box(size: tuple[int, int], pixel_aspect: float, height: int, width: int) -> tuple[float, float, float, float]:
    """The largest centred box (left, top, right, bottom) in a picture of ``size`` with the shape of height x width."""
    source_height, source_width = size
    box_width = min(source_width, source_height * (width / height) / pixel_aspect)
    box_height = min(source_height, source_width * (height / width) * pixel_aspect)
    left, top = (source_width - box_width) / 2, (source_height - box_height) / 2
    return left, top, left + box_width, top + box_height


# -- manifest ----------------------------------------------------------------------------------------------------------


def write_manifest(path: Path, manifest: Manifest) -> None:
    """Write a manifest as JSON lines, a sample or a skipped clip each, whole or not at all."""
    records = [*map(asdict, manifest.samples), *map(asdict, manifest.skipped)]
    write_text(path, "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records))


def _with_tuples(record: dict[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in record.items()}


def read_manifest(path: Path) -> Manifest:
    """Read what ``write_manifest`` wrote. Raises ``FootageError`` for anything else."""
    samples: list[Sample] = []
    skipped: list[Skipped] = []
    if not path.is_file():
        raise FootageError(f"no manifest at {path}")
    for number, record in _json_lines(path, _read_text(path.parent, path.name)):
        try:
            if "reason" in record:
                skipped.append(Skipped(**_with_tuples(record)))
            else:
                samples.append(Sample(**_with_tuples(record)))
        except (TypeError, KeyError, AttributeError) as error:
            raise FootageError(f"{path}, line {number} is not a line of a manifest: {error}") from error
    return Manifest(tuple(samples), tuple(skipped))
