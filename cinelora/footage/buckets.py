"""Buckets: the few sizes and lengths that footage is trained at, so that a film in 2.39:1 trains as 2.39:1.

Enters: the size of a picture as shown, or the length of a shot, the model's own, and its latent space. Leaves: a size and a
number of frames whose tokens are at most the model's, so that what was planned for the model's size holds for every bucket. It
reads no footage.

A size is a pure function of the picture's and the model's: new footage never moves old samples to another bucket. A picture
is first taken for the nearest of ``SHAPES``, so that a film whose bars were found a line higher or lower shares the bucket of
the others.
"""

from __future__ import annotations

import math
from fractions import Fraction
from functools import lru_cache

from cinelora.families.family import Geometry

Size = tuple[int, int]
"""Height and width in pixels."""

WIDE = (
    *(1.0, 1.1, 1.19, 1.25, 4 / 3, 1.43, 1.5, 1.6, 5 / 3, 16 / 9),
    *(1.85, 2.0, 2.2, 2.39, 2.55, 2.76, 3.0, 3.3, 3.65, 4.0),
)
"""Width over height in film and television, from square over Academy (within 3 % of 4:3), IMAX (1.43), 16:9, 1.85, 70 mm (2.2),
CinemaScope (2.39, 2.55) and Ultra Panavision (2.76) to three screens (4.0); others fill gaps, so that no shape between lies more
than 5 % from the nearest."""
SHAPES = tuple(sorted({*WIDE, *(1 / shape for shape in WIDE)}))
"""Those, and upright as phones film."""
OWN = 0.97
"""Pictures of which the model's own size keeps this fraction are trained at it: it is what the model knows, and 16:9 is 2.5 %
off at 480x832."""
LARGEST = 1.5
"""Times that a picture is enlarged, per side: beyond, it would teach blur, so half or a quarter of the pixels are used."""
BUDGETS = (1, 2, 4)
"""Parts of the model's pixels: below a quarter objects are so small in tokens that it is no longer the task it was trained on."""


def shown(size: Size, pixel_aspect: Fraction | float = 1, box: tuple[int, int, int, int] | None = None) -> Size:
    """Height and width of what is seen: of ``box`` (left, top, right, bottom) where there is one, in square pixels."""
    left, top, right, bottom = box or (0, 0, size[1], size[0])
    return bottom - top, max(1, round((right - left) * pixel_aspect))


@lru_cache(4096)
def bucket(picture: Size, model: Size, geometry: Geometry) -> Size:
    """The size that a ``picture`` (height, width, in square pixels) is trained at by a ``model`` of a height and width.

    Multiples of a token's side (of 16 pixels in Wan2.1) with at most the model's pixels: the model's own size where that keeps
    97 % of the picture, else, for the nearest of ``SHAPES``, the size with the greatest (share of the pixels used) x (share of
    the picture kept) ** 2. At 480p and 720p of Wan2.1 at most 3 % of a picture in one of these shapes is cut off, and 8 % of any
    from 1:4 to 4:1; beyond, what is longer. Pictures smaller than that by more than ``LARGEST`` per side get a half or a quarter
    of the pixels; a quarter in any case.
    """
    # Three steps, for a picture of 1920x804 (2.39:1) and a model of 480x832:
    #   1. The nearest shape is 2.39. Nearness is of ratios, hence the logarithm: 2:1 is as far from 1:1 as 1:2 is.
    #   2. 480x832 would keep 73 % of the picture. That is too little, so a size of its own is sought: at most 480 x 832
    #      = 399,360 pixels, which is 1560 cells (tokens of a frame) of 16x16, cut to 2.39.
    #   3. If the picture had to be enlarged by more than 1.5 for that, half of the pixels are tried, then a quarter.
    aspect = picture[1] / picture[0]
    shape = min(SHAPES, key=lambda shape: abs(math.log(shape / aspect)))
    found = model if kept(aspect, model) >= OWN else _filled(shape, model[0] * model[1], geometry.cell)
    for part in BUDGETS[1:]:
        if enlargement(picture, found) <= LARGEST:
            break
        found = _filled(shape, model[0] * model[1] / part, geometry.cell)
    return found


def clip_size(aspect: float, model: Size, geometry: Geometry) -> Size:
    """The size of a generated clip in a shape, width over height: that of ``bucket``, with all of the ``model``'s pixels.

    Shapes beyond 1:4 and 4:1 are taken for those.
    """
    shape = min(max(aspect, SHAPES[0]), SHAPES[-1])
    return model if kept(aspect, model) >= OWN else _filled(shape, model[0] * model[1], geometry.cell)


def kept(aspect: float, size: Size) -> float:
    """Fraction of a picture, width over height ``aspect``, that is left when it is cut to the shape of ``size``."""
    ratio = aspect * size[0] / size[1]
    return min(ratio, 1 / ratio)


def enlargement(picture: Size, size: Size) -> float:
    """Times that each side of a ``picture`` is stretched to cover ``size``."""
    return max(size[0] / picture[0], size[1] / picture[1])


@lru_cache(1024)
def _filled(shape: float, pixels: float, cell: int) -> Size:
    """The best size of at most ``pixels`` pixels for a picture of a shape; it has one cell at the least."""
    # Whole cells cannot have every shape: for each number of rows there are two candidates, a bit too narrow and a bit too
    # wide. Each is worth the fraction of the budget that it uses, times the square of the fraction of the picture that it
    # keeps: losing picture is worse than losing pixels, as what is cut off is never seen in training.
    cells = int(pixels / cell**2)
    sizes = {(rows, columns) for rows in range(1, cells + 1) for columns in _columns(rows, shape, cells)}

    def worth(size: Size) -> float:
        return size[0] * size[1] / cells * kept(shape, size) ** 2

    # of two as good the one nearer to a square, so that a shape and the same upright are each other turned
    rows, columns = max(sorted(sizes), key=worth, default=(1, 1))
    return rows * cell, columns * cell


def _columns(rows: int, shape: float, cells: int) -> set[int]:
    """Those just below and above the shape, as far as they fit in."""
    return {min(columns, cells // rows) for columns in (int(rows * shape), int(rows * shape) + 1)} - {0}


def window_length(length: int, wanted: int, least: int | None, geometry: Geometry) -> int | None:
    """Frames of the windows of a shot of ``length`` frames at the model's rate; None where it is too short for any.

    ``wanted`` where they are there. A shorter shot is used only where ``least`` says from how many frames on; the latent
    frames after the first are then halved until it fits, so that lengths stay few: of 33 frames 17, 9 and 5.
    """
    # Of 4n+1 frames n is halved and rounded down: 33 = 4*8+1 -> 4*4+1 = 17 -> 4*2+1 = 9 -> 4*1+1 = 5.
    temporal = geometry.temporal
    while wanted > length:
        wanted = (wanted - 1) // (2 * temporal) * temporal + 1
        if least is None or wanted < max(least, temporal + 1):
            return None
    return wanted
