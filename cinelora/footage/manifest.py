"""Samples: a folder of clips enters, a manifest of the stills or windows to train on leaves, and later their pixels.

Clips are taken in the order of their paths, so the same folder always gives the same manifest. What cannot be used is
named with its reason and left out. Nothing outside the folder is read. It does not know latents or models.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from cinelora.errors import FootageError
from cinelora.footage.holdout import Split
from cinelora.footage.scan_folder import is_there, open_clip, stamp
from cinelora.footage.video_reader import PLAIN, Handling, Pixels, Reader, UnreadableClip
from cinelora.io.atomic import write_text


@dataclass(frozen=True)
class Sample:
    """One still or window: which frames of which clip, and what they show.

    ``path`` is relative to the footage folder, with forward slashes; ``file_hash`` the sha256 of the file's content;
    ``frames`` the indices in the clip, already at the model's frame rate, so that a 24 fps clip skips some.
    ``box`` is what bars leave of the picture as shown: left, top, right, bottom in pixels; ``size`` the height and width it
    is trained at, ``None`` for the model's own. ``weights`` is empty, or says how much of the frame after each is blended in.
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


# -- files -------------------------------------------------------------------------------------------------------------


def is_inside(root: Path, path: str, follow_links: bool = False) -> bool:
    """Whether a path below ``root`` stays there: with its links followed, or by its words alone with ``follow_links``."""
    if follow_links:
        return not Path(path).is_absolute() and ".." not in Path(path).parts
    return (root / path).resolve().is_relative_to(root.resolve())


# -- pixels ------------------------------------------------------------------------------------------------------------


def read_frames(root: Path, sample: Sample, height: int, width: int, handling: Handling = PLAIN) -> Pixels:
    """The pixels of a sample: uint8 RGB of shape (len(sample.frames), height, width, 3), or of the sample's own size.

    What its box leaves of the picture covers the frame and is cut evenly at its sides, antialiased; pixels that are not
    square become so. ``handling`` is how the footage is read.
    Raises ``FootageError`` where the clip is gone, damaged, or outside ``root``.
    """
    path = root / sample.path
    if not (is_inside(root, sample.path, handling.follow_links) and is_there(path)):
        raise FootageError(f"{sample.path} of the manifest is not in {root}; scan the footage again")
    height, width = sample.size or (height, width)
    try:
        return _mixed(_opened(path, stamp(path), handling), sample, height, width)
    except UnreadableClip:
        return _mixed(open_clip(path, "pyav", handling), sample, height, width)


@lru_cache(maxsize=1)
def _opened(path: Path, stamp: tuple[int, int], handling: Handling) -> Reader:
    """The clip read last stays open: its samples follow one another, and opening decodes more than a still does."""
    return open_clip(path, handling=handling)


def _mixed(reader: Reader, sample: Sample, height: int, width: int) -> Pixels:
    """The sample's frames, each blended with the frame after it as the sample's weights say."""
    # A frame may be needed twice, as itself and as the one blended into the frame before it: each is decoded and scaled once.
    weights = sample.weights or (0.0,) * len(sample.frames)
    blends = list(zip(sample.frames, weights, strict=True))
    numbers = sorted({*sample.frames, *(frame + 1 for frame, weight in blends if weight)})
    pictures = dict(zip(numbers, _framed(reader, numbers, sample.box, height, width), strict=True))

    def blended(frame: int, weight: float) -> Pixels:
        if not weight:
            return pictures[frame]
        return np.rint((1 - weight) * pictures[frame] + weight * pictures[frame + 1]).astype(np.uint8)

    return np.stack([blended(*blend) for blend in blends])


def _framed(
    reader: Reader, indices: Sequence[int], bounds: tuple[int, int, int, int] | None, height: int, width: int
) -> Iterator[Pixels]:
    left, top, right, bottom = bounds or (0, 0, reader.size[1], reader.size[0])
    inner = cover_box((bottom - top, right - left), float(reader.header.pixel_aspect), height, width)
    box = (left + inner[0], top + inner[1], left + inner[2], top + inner[3])
    for frame_HWC in reader.frames(indices):
        picture = Image.fromarray(frame_HWC)
        yield np.asarray(picture.resize((width, height), Image.Resampling.BICUBIC, box=box))


def cover_box(size: tuple[int, int], pixel_aspect: float, height: int, width: int) -> tuple[float, float, float, float]:
    """The largest centred box (left, top, right, bottom) in a picture of ``size`` with the shape of height x width."""
    # Two boxes have the wanted shape and touch the picture's sides: one as wide as the picture, one as high. The smaller of
    # each side belongs to the one that fits in. It may begin at a fraction of a pixel; the resampling takes that.
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


def read_manifest(path: Path) -> Manifest:
    """Read what ``write_manifest`` wrote. Raises ``FootageError`` for anything else."""
    if not path.is_file():
        raise FootageError(f"no manifest at {path}")
    found: list[Sample | Skipped] = []
    for number, record in json_lines(path, read_text(path.parent, path.name)):
        try:
            fields = {key: tuple(value) if isinstance(value, list) else value for key, value in record.items()}
            found.append(Skipped(**fields) if "reason" in fields else Sample(**fields))
        except (TypeError, KeyError, AttributeError) as error:
            raise FootageError(f"{path}, line {number} is not a line of a manifest: {error}") from error
    samples = tuple(one for one in found if isinstance(one, Sample))
    return Manifest(samples, tuple(one for one in found if isinstance(one, Skipped)))


# -- text --------------------------------------------------------------------------------------------------------------


def read_text(root: Path, path: str, follow_links: bool = False) -> str:
    """A text below ``root``, with or without a byte order mark.

    Raises ``FootageError`` for what is outside, cannot be opened, or is not UTF-8.
    """
    if not is_inside(root, path, follow_links):
        raise FootageError(f"{root / path} leads out of the footage folder; put a copy of the file there")
    try:
        return (root / path).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise FootageError(
            f"{root / path} cannot be read ({error.strerror}); mend its permissions, or move it away"
        ) from error
    except UnicodeDecodeError as error:
        raise FootageError(f"{root / path} is not UTF-8 text (byte {error.start}); save it as UTF-8") from error


def json_lines(path: Path, text: str) -> Iterator[tuple[int, Any]]:
    """Number and value of each line that is not blank. Raises ``FootageError`` with the number of one that is not JSON."""
    for number, line in enumerate(text.split("\n"), start=1):  # other ends of lines may stand inside of a string
        if line.strip():
            try:
                yield number, json.loads(line)
            except json.JSONDecodeError as error:
                raise FootageError(f"{path}, line {number}: not JSON ({error.msg})") from error
