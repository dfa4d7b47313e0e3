"""Read the pixels of one sample of a manifest: its frames, cut and resized to the size it is trained at.

Enters: the footage folder, and a ``Sample``. Leaves: uint8 RGB. It does not know latents or models.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

from cinelora.errors import FootageError
from cinelora.footage.interlaced import Fields
from cinelora.footage.manifest import Sample, is_inside
from cinelora.footage.scan_folder import is_there, open_clip, stamp
from cinelora.footage.video_reader import PLAIN, Handling, Pixels, Reader, UnreadableClip


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
        return _mixed(_opened(path, stamp(path), handling, sample.fields), sample, height, width)
    except UnreadableClip:
        return _mixed(open_clip(path, "pyav", handling, sample.fields), sample, height, width)


@lru_cache(maxsize=1)
def _opened(path: Path, stamp: tuple[int, int], handling: Handling, fields: Fields) -> Reader:
    """The clip read last stays open: its samples follow one another, and opening decodes more than a still does."""
    return open_clip(path, handling=handling, fields=fields)


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
