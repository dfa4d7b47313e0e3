"""Clips and pictures as a page holds them: as they are while there is room, else smaller and coarser.

Enters: mp4 files. Leaves: their bytes, within a budget for all of them. It does not know what they show.
"""

from __future__ import annotations

import io
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from cinelora.footage.video_reader import UnreadableClip, open_video
from cinelora.io.media import Pixels, write_mp4

BUDGET = 19_000_000
"""Bytes of clips in one page; base64 makes 25 MB of them, which leaves room for pictures below 30 MB."""
LADDER = ((480, 23), (384, 27), (320, 30), (256, 33), (192, 36))
"""Longer side in pixels and quality (crf) of smaller copies, from good to bad."""
PICTURE_SIDE = 320


def within_budget(files: list[Path], budget: int = BUDGET) -> tuple[dict[Path, bytes], str | None]:
    """The content of ``files`` that can be read, and a sentence where it had to be made smaller, or parts had to be left out."""
    there = {file: file.read_bytes() for file in dict.fromkeys(files) if is_readable(file)}
    if _size(there) <= budget:
        return there, None
    # Each step of the ladder starts from the files, not from the step before: a copy of a copy would lose twice. A step is given
    # up as soon as it is too large, and the last one's clips are dropped from the end until the rest fits.
    for side, quality in LADDER:
        smaller = {}
        for file in there:
            smaller[file] = shrunk(file, side, quality)
            if _size(smaller) > budget:
                break
        else:
            note = f"the clips in this page are copies of at most {side} pixels a side; the files beside it are whole"
            return smaller, note
    while _size(smaller) > budget:
        smaller.popitem()
    left_out = f"{len(there) - len(smaller)} clips are not in this page, which would grow too large to open"
    return smaller, f"{left_out}; they lie in clips/ beside it"


def is_readable(file: Path) -> bool:
    """Whether a clip is there and whole; who measures says why not."""
    try:
        return file.is_file() and open_video(file).num_frames > 0
    except UnreadableClip:
        return False


def shrunk(file: Path, longest: int, quality: int) -> bytes:
    """A clip's smaller copy, sides even, as yuv420p wants them; its frames and their rate stay."""
    reader = open_video(file)
    height, width = reader.size
    factor = min(1.0, longest / max(height, width))
    size = (2 * round(width * factor / 2), 2 * round(height * factor / 2))
    frames = map(Image.fromarray, reader.frames(range(reader.num_frames)))
    smaller = np.stack([np.asarray(frame.resize(size, Image.Resampling.LANCZOS)) for frame in frames])
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "clip.mp4"
        write_mp4(copy, smaller, round(reader.fps), quality)
        return copy.read_bytes()


def thumbnail(picture_HWC: Pixels) -> bytes:
    """A picture as a small JPEG."""
    image, out = Image.fromarray(picture_HWC), io.BytesIO()
    image.thumbnail((PICTURE_SIDE, PICTURE_SIDE), Image.Resampling.LANCZOS)
    image.save(out, format="jpeg", quality=88)
    return out.getvalue()


def _size(contents: dict[Path, bytes]) -> int:
    return sum(map(len, contents.values()))
