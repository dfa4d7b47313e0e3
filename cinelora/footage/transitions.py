"""What lies between two pictures of a film: the same scene, a dissolve or a wipe. Small grey pictures enter, numbers leave.

Each measure asks whether one explanation fits so much better than another that motion cannot be what is seen. It knows neither
files nor which frames are looked at.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from cinelora.footage.video_reader import Pixels

Floats = NDArray[np.float32]
SAME_SCENE = 0.9
"""Correlation from which two pictures show one scene. Real cuts between alike scenes reach 0.89."""
MATCH_SIZE, MATCH_REACH = (80, 45), (12, 7)
"""Width and height of the pictures that are matched, and how far one is moved."""
HOPELESS = 0.3
"""Correlation below which it is not asked whether things have moved, each its own way: that takes ten times as long."""
TINY_SIZE, TINY_REACH = (40, 22), (6, 3)
"""Width and height of pictures whose mixtures are looked for, and how far each part of a mixture may have moved."""
FITTED, FITTED_BETTER, FITTED_SIDE = 0.75, 0.18, 0.65
"""Of the variance of a picture in the middle of a dissolve a mixture of those before and after it explains this share at least,
and this much more than either alone; of those a quarter of the way off, the last. Chosen on 33 made films
(``benchmarks/footage_cuts.py tuning``)."""
LEAST_SUM, MOST_SUM, LEAST_PART, STEADY = 0.8, 1.25, 0.2, 0.1
"""Both parts of a mixture add up to 1 nearly, neither is all of it, and the second grows by this share from look to look."""
UNLIKE, MOVED_ALONE = 0.7, 0.6
"""Correlation of what is before and after a frame up to which a wipe is looked for, and a dissolve: beyond, things have moved."""
WIPED, WIPED_SIDE, WIPE_RESIDUE, WIPE_STEP = 0.8, 0.5, 0.2, 0.08
"""A wipe: a straight line parts the picture into what was before and what comes after, so nearly, in the middle and a quarter of
the way off; what is in neither is at most this share of how they differ; the line moves by this share of the picture from look
to look."""


def match(before: Pixels, after: Pixels) -> float:
    """How well the middle of a picture is found in the one before, wherever it has moved to: 1 for unchanged.

    Light that grows or falls evenly makes no difference.
    """
    one, other = (cv2.resize(picture, MATCH_SIZE, interpolation=cv2.INTER_AREA) for picture in (before, after))
    across, down = MATCH_REACH
    return float(cv2.matchTemplate(one, other[down:-down, across:-across], cv2.TM_CCOEFF_NORMED).max())


def warped_match(flow: cv2.DISOpticalFlow, before: Pixels, after: Pixels) -> float:
    """The same where each thing in the picture may have moved its own way."""
    height, width = before.shape
    moved_HW2 = flow.calc(before, after, None)
    places = np.stack(np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)), -1)
    put_back = cv2.remap(after, places + moved_HW2, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    across, down = 8, 5
    one, other = (
        cv2.resize(picture, MATCH_SIZE, interpolation=cv2.INTER_AREA)[down:-down, across:-across]
        for picture in (before, put_back)
    )
    return float(cv2.matchTemplate(one, other, cv2.TM_CCOEFF_NORMED).max())


def tiny(gray: Pixels) -> Floats:
    """A picture so small that what moves hardly moves from one pixel to the next."""
    return np.asarray(cv2.resize(gray, TINY_SIZE, interpolation=cv2.INTER_AREA), np.float32)


def moved_apart(before: Floats, picture: Floats) -> float:
    """Mean difference in levels of a tiny picture to another, moved as is best."""
    across, down = TINY_REACH
    own = picture[down:-down, across:-across]
    places = sliding_window_view(before, own.shape)
    return float(np.abs(places - own).mean((2, 3)).min())


# -- dissolves ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Mixture:
    """How a picture is explained by two others: share of its variance by both, by the better one alone, and the two factors."""

    both: float
    alone: float
    first: float
    second: float

    @property
    def part(self) -> float:
        """How much of the mixture is the second."""
        return self.second / (self.first + self.second + 1e-6)

    @property
    def is_whole(self) -> bool:
        """Whether the factors add up as those of a dissolve do."""
        return LEAST_SUM < self.first + self.second < MOST_SUM


def fitted(before: Floats, picture: Floats, after: Floats) -> Mixture:
    """The mixture of two tiny pictures, each moved as is best, that a third is likest to; least squares."""
    # Every place within reach is a column of pixels of mean 0 and deviation 1. With the correlations p and q of the picture to
    # a column on each side, and r between those two, the normal equations of two unknowns give the factors
    # (p - q r) / (1 - r^2) and (q - p r) / (1 - r^2), and p and q times these add up to the share of variance explained.
    across, down = TINY_REACH
    own = picture[down:-down, across:-across].ravel()
    own = own - own.mean()
    deviation = float(own.std()) + 1e-3
    (columns, spreads), (others, other_spreads) = _columns(before), _columns(after)
    p, q = (side @ own / (deviation * own.size) for side in (columns, others))
    r = columns @ others.T / own.size
    rest = np.maximum(1 - r**2, 0.05)
    first, second = (p[:, None] - q * r) / rest, (q - p[:, None] * r) / rest
    share = np.where((first > 0) & (second > 0), first * p[:, None] + second * q, 0)
    one, other = np.unravel_index(int(share.argmax()), share.shape)
    return Mixture(
        both=float(share[one, other]),
        alone=float(max(p.max(), q.max(), 0)) ** 2,
        first=float(first[one, other] * deviation / spreads[one]),
        second=float(second[one, other] * deviation / other_spreads[other]),
    )


def _columns(picture: Floats) -> tuple[Floats, Floats]:
    """The middle of a tiny picture from every place within reach, each of mean 0 and deviation 1; and what the deviation was."""
    across, down = TINY_REACH
    height, width = picture.shape[0] - 2 * down, picture.shape[1] - 2 * across
    columns = sliding_window_view(picture, (height, width)).reshape(-1, height * width)
    columns = columns - columns.mean(1, keepdims=True)
    spreads = np.sqrt((columns**2).mean(1)) + 1e-3
    return columns / spreads[:, None], spreads


def dissolve(before: Floats, near: tuple[Floats, Floats, Floats], after: Floats) -> float:
    """How well a dissolve explains three tiny pictures between two others, of 1; 0 where it does not.

    ``near`` are a picture and those half the way to each end.
    """
    middle = fitted(before, near[1], after)
    is_mixed = middle.both > FITTED and middle.both - middle.alone > FITTED_BETTER and middle.is_whole
    if not is_mixed or not LEAST_PART < middle.part < 1 - LEAST_PART:
        return 0.0
    # Two unrelated pictures may be fitted once by chance, or by motion; not three times with the second growing evenly.
    early, late = (fitted(before, picture, after) for picture in (near[0], near[2]))
    grows = early.part + STEADY < middle.part < late.part - STEADY
    sides = all(side.both > FITTED_SIDE and side.first + side.second > LEAST_SUM for side in (early, late))
    return min(middle.both, 1.0) if grows and sides else 0.0


# -- wipes -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Parted:
    """A picture parted by a straight line: how nearly, along which axis, whether what comes after grows from the left or top (1)
    or from the other end (-1), where the line is (0 to 1), and how much is like neither side."""

    nearly: float
    axis: int
    way: int
    place: float
    residue: float


def parted(before: Floats, picture: Floats, after: Floats) -> Parted:
    """The straight line that best parts a tiny picture into what is before and what is after."""
    old, new = _apart(picture, before), _apart(picture, after)
    likes_new = old - new
    total = float(np.abs(likes_new).sum()) + 1e-6
    best = (-1.0, 0, 1, 0.0)
    for axis in (0, 1):
        lines = likes_new.sum(axis)
        # with the line after k lines: what speaks for the new in them, less what speaks for it in the rest
        sums = 2 * np.concatenate([[0.0], np.cumsum(lines)]) - lines.sum()
        for way in (1, -1):
            k = int((way * sums).argmax())
            best = max(best, (float(way * sums[k]) / total, axis, way, k / len(lines)))
    residue = float(np.minimum(old, new).mean()) / (float(np.abs(before - after).mean()) + 1e-6)
    return Parted(*best, residue)


def _apart(picture: Floats, other: Floats) -> Floats:
    """How far each pixel is from the likest one that is near it in another picture."""
    height, width = picture.shape
    padded = np.pad(other, ((1, 1), (2, 2)), mode="edge")
    shifted = sliding_window_view(padded, (height, width)).reshape(-1, height, width)
    return np.asarray(np.abs(shifted - picture).min(0), np.float32)


def wipe(before: Floats, near: tuple[Floats, Floats, Floats], after: Floats) -> float:
    """How nearly a line that moves on parts three tiny pictures between two others, of 1; 0 where none does."""
    middle = parted(before, near[1], after)
    if middle.nearly <= WIPED or middle.residue >= WIPE_RESIDUE or not 0.05 < middle.place < 0.95:
        return 0.0
    early, late = (parted(before, picture, after) for picture in (near[0], near[2]))
    alike = all((s.axis, s.way) == (middle.axis, middle.way) and s.nearly > WIPED_SIDE for s in (early, late))
    steps = ((middle.place - early.place) * middle.way, (late.place - middle.place) * middle.way)
    return middle.nearly if alike and min(steps) > WIPE_STEP else 0.0
