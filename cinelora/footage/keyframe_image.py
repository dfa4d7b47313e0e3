"""A picture from disk as the first frame of a clip: uint8 RGB, upright, covering the frame."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from cinelora.errors import FootageError
from cinelora.footage.read_frames import cover_box


def read_image(path: Path, height: int, width: int) -> NDArray[np.uint8]:
    """The picture (height, width, 3), cut evenly at its sides where its shape differs.

    Raises ``FootageError`` where it cannot be read.
    """
    try:
        with Image.open(path) as picture:
            upright = ImageOps.exif_transpose(picture).convert("RGB")
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise FootageError(f"image={path} cannot be read as a picture: {error}") from error
    box = cover_box((upright.height, upright.width), 1.0, height, width)
    return np.asarray(upright.resize((width, height), Image.Resampling.BICUBIC, box=box))
