"""A picture from disk as the first frame of a clip: uint8 RGB, upright, in the clip's size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from cinelora.errors import FootageError
from cinelora.footage.image_reader import read_picture
from cinelora.footage.read_frames import cover_box
from cinelora.footage.video_reader import Pixels, UnreadableClip


def read_keyframe(path: Path) -> Pixels:
    """The whole picture of ``image=``, the first frame of an animation. Raises ``FootageError`` where it cannot be read."""
    try:
        return read_picture(path, animated=True)
    except UnreadableClip as error:
        raise FootageError(f"image={path} cannot be read as a picture: {error.reason}") from error


def fitted(picture_HWC: Pixels, height: int, width: int, fit: str = "cover") -> Pixels:
    """The picture (height, width, 3): ``cover`` cuts evenly at its sides what is too much, ``contain`` puts black beside it."""
    picture, whole = Image.fromarray(picture_HWC), picture_HWC.shape[:2]
    if fit == "cover":
        box = cover_box(whole, 1.0, height, width)
        return np.array(picture.resize((width, height), Image.Resampling.BICUBIC, box=box))
    shrunk = min(height / whole[0], width / whole[1])
    inner_height, inner_width = (max(1, round(side * shrunk)) for side in whole)
    frame = np.zeros((height, width, 3), np.uint8)
    top, left = (height - inner_height) // 2, (width - inner_width) // 2
    small = picture.resize((inner_width, inner_height), Image.Resampling.BICUBIC)
    frame[top : top + inner_height, left : left + inner_width] = np.asarray(small)
    return frame
