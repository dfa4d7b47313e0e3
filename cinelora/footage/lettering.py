"""Lettering in a single picture: titles and credits by their area, captions by their lines.

Enters: the luma of a picture as a survey looks at it, 480 pixels wide. Leaves: a share of it, or the places of lines.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
Sides = tuple[int, int, int, int]
"""Left, top, right and bottom."""
MOST_LINES = 3
"""Lines of a picture that are kept: the lowest."""
LOWEST, CENTRED = 0.6, 0.06
"""Captions are below this share of the height; the middle of a line is at most this share of the width from the picture's."""
LEAST_HIGH, MOST_HIGH = 0.02, 0.1
"""How high a line of captions is, as a share of the picture."""
TONES, STROKE = ((130, 35), (170, 60), (200, 90)), 7
"""Pairs of limits, all of which are tried: the least luma of a letter, and by how many levels it is lighter than what is
around. A letter's strokes are thinner than ``STROKE`` pixels."""


def lettering(gray: Pixels) -> float:
    """Share of the picture under lines of letters: rows of strokes, closely packed, of two tones.

    Strokes are where the morphological gradient is high; those of one line, joined sideways, make a box that is longer than
    high, well filled, and crossed many times by each of its rows. Words of one or two letters are missed, lettering larger
    than a sixth of the picture too; railings and blinds can pass for it.
    """
    gradient = cv2.morphologyEx(gray, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8))
    least = max(60.0, cv2.threshold(gradient, 0, 255, cv2.THRESH_OTSU)[0])
    strokes = (gradient > least).astype(np.uint8)
    lines = cv2.morphologyEx(strokes, cv2.MORPH_CLOSE, np.ones((1, 11), np.uint8))
    _, _, boxes, _ = cv2.connectedComponentsWithStats(lines)
    area = sum(w * h for x, y, w, h, a in boxes[1:] if _is_line(gray, strokes, x, y, w, h, a / (w * h)))
    return float(area / gray.size)


def _is_line(gray: Pixels, strokes: Pixels, x: int, y: int, w: int, h: int, filled: float) -> bool:
    if not (5 <= h <= gray.shape[0] / 6 and w >= max(16, 2.5 * h) and filled >= 0.55):
        return False
    inside = strokes[y : y + h, x : x + w]
    if not 0.4 < inside.mean() < 0.85:
        return False
    crossings = np.count_nonzero(np.diff(inside.astype(np.int8), axis=1), axis=1)
    low, high = np.percentile(gray[y : y + h, x : x + w], (5, 95))
    return bool(np.median(crossings) >= 1.5 * w / h and high - low >= 70)


def caption_lines(gray: Pixels) -> NDArray[np.float32]:
    """Lines of light letters, low and in the middle: (``MOST_LINES``, 4) of left, top, right and bottom, as shares; 0 = none.

    A picture alone cannot tell captions from what looks like them; a film can (``subtitles``).
    """
    height, width = gray.shape
    top = int(LOWEST * height)
    # Letters are thin and lighter than what is around: that is what an opening with a disc wider than their strokes takes away.
    low = gray[top:]
    rise = cv2.morphologyEx(low, cv2.MORPH_TOPHAT, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (STROKE, STROKE)))
    lines: list[Sides] = []
    for white, least in TONES:
        for line in _lines(((rise > least) & (low > white)).astype(np.uint8), height):
            if all(line[3] <= other[1] or line[1] >= other[3] for other in lines):
                lines.append(line)
    found = np.zeros((MOST_LINES, 4), np.float32)
    for row, (left, upper, right, lower) in zip(found, sorted(lines, key=lambda line: -line[3]), strict=False):
        row[:] = left / width, (top + upper) / height, right / width, (top + lower) / height
    return found


def _lines(strokes: Pixels, height: int) -> list[Sides]:
    """Captions among strokes: words are what is joined sideways, and lines are words of one height."""
    words = cv2.morphologyEx(strokes, cv2.MORPH_CLOSE, np.ones((1, 13), np.uint8))
    words = cv2.morphologyEx(words, cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
    _, _, boxes, _ = cv2.connectedComponentsWithStats(words)
    sides = [(x, y, x + w, y + h) for x, y, w, h, _ in boxes[1:].tolist() if _is_word(w, h, height)]
    return [line for line in joined(sides) if _is_caption(line, strokes)]


def _is_word(width: int, high: int, height: int) -> bool:
    return LEAST_HIGH * height <= high <= MOST_HIGH * height and width >= 0.6 * high


def joined(words: list[Sides], keep: bool = False) -> list[Sides]:
    """The words of each line as one box, where they fill half of it; elsewhere none, or to ``keep`` them, each as a line."""
    lines: list[list[Sides]] = []
    for word in sorted(words, key=lambda word: word[1] + word[3]):
        middle, high = (word[1] + word[3]) / 2, word[3] - word[1]
        for line in lines:
            upper, lower = min(one[1] for one in line), max(one[3] for one in line)
            if abs((upper + lower) / 2 - middle) < 0.4 * max(high, lower - upper):
                line.append(word)
                break
        else:
            lines.append([word])
    found = []
    for line in lines:
        left, upper, right, lower = (pick(one[i] for one in line) for i, pick in enumerate((min, min, max, max)))
        if 2 * sum((one[2] - one[0]) * (one[3] - one[1]) for one in line) >= (right - left) * (lower - upper):
            found.append((left, upper, right, lower))
        elif keep:
            found += line
    return found


def _is_caption(line: Sides, strokes: Pixels) -> bool:
    """Whether a line is in the middle, longer than high, and crossed by strokes as letters are."""
    left, upper, right, lower = line
    width, high = right - left, lower - upper
    if width < 1.2 * high or abs(left + right - strokes.shape[1]) > 2 * CENTRED * strokes.shape[1]:
        return False
    inside = strokes[upper:lower, left:right]
    crossings = np.count_nonzero(np.diff(inside.astype(np.int8), axis=1), axis=1)
    return bool(np.median(crossings) >= 0.7 * width / high and 0.08 < inside.mean() < 0.75)
