"""Lettering found by a network: PP-OCRv6's small detector of text, run by OpenCV.

Enters: a picture in RGB. Leaves: the places of its lines of letters. The weights are those of the wheel of rapidocr 3.10.0
(Apache-2.0, its MODEL_LICENSES.md), or a copy of them: only a file of that very content is loaded, which is data and no code.
``subtitles`` decides which lines are subtitles, titles or signs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import lru_cache
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from cinelora.errors import FileError, FootageError
from cinelora.footage.lettering import Sides, joined
from cinelora.io.plain_data import read_bytes

Pixels = NDArray[np.uint8]
PACKAGE, FILE = "rapidocr", "rapidocr/models/PP-OCRv6_det_small.onnx"
SHA256 = "090f04abcd9d9a7498bc4ebf677e4cb9bdce1fe4197ddb7e529f1ef44e1ff94f"
OPENCV = 5
"""The first version whose networks have all that these weights need."""
MOST_BYTES = 2**24
"""The file has 9.9 MB."""
WIDTH = 832
"""Pixels across which small letters are found: of a picture of 480, a fifth of them is not."""
LOW, LOW_FROM = 160, 2 / 3
HIGH_SCALE, HIGH_TO = 640 / WIDTH, 0.7
"""Subtitles are small and low, and looked for in the lower third at full width; titles are larger, and found at 640 pixels."""
STEP = 32
"""Sides of what the network is shown are multiples of this."""
MEAN, SPREAD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of blue, green and red, in this order, which each colour is made to have (PaddleOCR, ``NormalizeImage`` of its detectors)."""
LETTER, SCORE = 0.3, 0.8
"""A pixel is part of a line from this probability on; a line's pixels have this in the mean (PaddleOCR: 0.3; measured here)."""
UNCLIP = 1.5
"""What the network marks is a line shrunk by its area over its girth times this (PaddleOCR, ``DBPostProcess``)."""
HIGHEST = 0.2
"""What is higher than this share of the picture is no line of letters but grass, or bricks."""
MOST_LETTERS = 8
"""Lines of a picture that are kept: the largest."""


def weights_of(path: Path | None) -> Path:
    """The file of weights: ``path``, or the one of the wheel that is installed. Raises ``FootageError`` where it is not there."""
    if path is None:
        try:
            path = Path(str(distribution(PACKAGE).locate_file(FILE)))
        except PackageNotFoundError as error:
            raise FootageError("cinelora[lettering] is not installed") from error
    _read(path)
    if int(cv2.__version__.partition(".")[0]) < OPENCV:
        raise FootageError(f"OpenCV {cv2.__version__} does not read it (opencv-python-headless>={OPENCV} does)")
    return path


def _read(path: Path) -> bytes:
    try:
        content = read_bytes(path, MOST_BYTES)
    except FileError as error:
        raise FootageError(str(error)) from error
    if sha256(content).hexdigest() != SHA256:
        raise FootageError(f"{path} is not {Path(FILE).name} of {PACKAGE} 3.10.0: its content is another")
    return content


@lru_cache(maxsize=1)
def network(path: Path) -> LetteringNetwork:
    """The network of these weights, loaded once a process. Raises ``FootageError``."""
    return LetteringNetwork(_read(path))


class LetteringNetwork:
    """The detector; one object serves one thread."""

    def __init__(self, weights: bytes) -> None:
        self._net = cv2.dnn.readNetFromONNX(np.frombuffer(weights, np.uint8))

    def lines(self, picture_HWC: Pixels) -> NDArray[np.float32]:
        """Lines of letters in a picture ``WIDTH`` pixels wide, in its lower third small ones too.

        Returns (``MOST_LETTERS``, 4) of left, top, right and bottom, as shares of the picture; rows of zeros fill the rest.
        """
        height, width = picture_HWC.shape[:2]
        from_row = max(0, height - _rounded(max(LOW, height * (1 - LOW_FROM))))
        upper = picture_HWC[: max(STEP, round(HIGH_TO * height))]
        smaller = (max(1, round(side * HIGH_SCALE)) for side in (width, len(upper)))
        small = np.asarray(cv2.resize(upper, tuple(smaller), interpolation=cv2.INTER_AREA), np.uint8)
        words = [*self._words(picture_HWC[from_row:], 1, from_row), *self._words(small, 1 / HIGH_SCALE, 0)]
        words = [word for word in words if word[3] - word[1] <= HIGHEST * height]
        lines = sorted(joined(words, keep=True), key=lambda line: (line[0] - line[2]) * (line[3] - line[1]))
        found = np.zeros((MOST_LETTERS, 4), np.float32)
        for row, line in zip(found, lines, strict=False):
            row[:] = np.divide(line, (width, height, width, height))
        return found

    def _words(self, picture_HWC: Pixels, scale: float, from_row: int) -> Iterator[Sides]:
        """What the network takes for words and lines in a part of the picture, ``scale`` times as large, from a row on."""
        height, width = picture_HWC.shape[:2]
        framed = np.zeros((_rounded(height), _rounded(width), 3), np.uint8)
        framed[:height, :width] = picture_HWC
        blob = ((framed[..., ::-1] / np.float32(255) - np.array(MEAN)) / np.array(SPREAD)).astype(np.float32)
        self._net.setInput(np.ascontiguousarray(blob.transpose(2, 0, 1)[None]))
        letters_HW = self._net.forward()[0, 0]
        _, labels, boxes, _ = cv2.connectedComponentsWithStats((letters_HW > LETTER).astype(np.uint8))
        for number, (x, y, w, h, _) in enumerate(boxes[1:].tolist(), 1):
            inside = labels[y : y + h, x : x + w] == number
            if min(w, h) > 2 and letters_HW[y : y + h, x : x + w][inside].mean() >= SCORE:
                grown = UNCLIP * w * h / (2 * (w + h))
                sides = (x - grown, y - grown, x + w + grown, y + h + grown)
                left, top, right, bottom = (round(side * scale) for side in sides)
                yield left, top + from_row, right, bottom + from_row


def _rounded(pixels: float) -> int:
    return math.ceil(pixels / STEP) * STEP
