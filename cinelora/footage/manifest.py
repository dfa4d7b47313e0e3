"""The manifest: which stills or windows of which clips are trained on, and what was left out and why; as values and as a file.

Also how texts of the footage folder are read, nothing outside the folder. No video library is imported here, so that a
rank which only trains, from latents that are encoded already, need not wait for one.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from cinelora.errors import FileError, FootageError
from cinelora.footage.holdout import Split
from cinelora.io import plain_data
from cinelora.io.atomic import write_text
from cinelora.io.plain_data import MOST_OF_LISTS, builder, sealed, without_collecting


@dataclass(frozen=True)
class Sample:
    """One still or window: which frames of which clip, and what they show.

    ``path`` is relative to the footage folder, with forward slashes; ``file_hash`` the sha256 of the file's content;
    ``frames`` the indices in the clip, already at the model's frame rate, so that a 24 fps clip skips some.
    ``box`` is what bars leave of the picture as shown: left, top, right, bottom in pixels; ``size`` the height and width it
    is trained at, ``None`` for the model's own. ``weights`` is empty, or says how much of the frame after each is blended in.
    ``colours`` is a hash of what its colours go through: a LUT, tone mapping. ``fields`` is how an interlaced film is made whole.
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
    fields: Literal["", "tff", "bff", "tff film", "bff film"] = ""


def usual_size(samples: Iterable[Sample], model: tuple[int, int]) -> tuple[int, int] | None:
    """Height and width that most of the training samples have, some of them the ``model``'s own; None where there are none."""
    sizes = Counter(sample.size or model for sample in samples if sample.split == "train")
    return sizes.most_common(1)[0][0] if sizes else None


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


# -- manifest ----------------------------------------------------------------------------------------------------------


def write_manifest(path: Path, manifest: Manifest) -> None:
    """Write a manifest as JSON lines, a sample or a skipped clip each, whole or not at all."""
    records = [*map(asdict, manifest.samples), *map(asdict, manifest.skipped)]
    text = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    write_text(path, sealed(text, "lines"))


def read_manifest(path: Path) -> Manifest:
    """Read what ``write_manifest`` wrote. Raises ``FootageError`` for anything else."""
    if not path.is_file():
        raise FootageError(f"no manifest at {path}")
    samples, skipped = list[Sample](), list[Skipped]()
    as_sample, as_skipped = builder(Sample, path), builder(Skipped, path)
    with without_collecting():
        for number, record in json_lines(path, read_text(path.parent, path.name)):
            try:
                if isinstance(record, dict) and "reason" in record:
                    skipped.append(as_skipped(record))
                else:
                    samples.append(as_sample(record))
            except FileError as error:
                raise FootageError(f"{error}; line {number} is not a line of a manifest") from error
        return Manifest(tuple(samples), tuple(skipped))


# -- text --------------------------------------------------------------------------------------------------------------


def read_text(root: Path, path: str, follow_links: bool = False) -> str:
    """A text below ``root``, with or without a byte order mark.

    Raises ``FootageError`` for what is outside, cannot be opened, or is not UTF-8.
    """
    if not is_inside(root, path, follow_links):
        raise FootageError(f"{root / path} leads out of the footage folder; put a copy of the file there")
    try:
        return plain_data.read_text(root / path, MOST_OF_LISTS)
    except FileError as error:
        raise FootageError(str(error)) from error


def json_lines(path: Path, text: str) -> Iterator[tuple[int, Any]]:
    """Number and value of each line that is not blank. Raises ``FootageError`` with the number of one that is not JSON."""
    try:
        yield from plain_data.json_lines(text, path)
    except FileError as error:
        raise FootageError(str(error)) from error
