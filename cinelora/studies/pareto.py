"""The Pareto plot of a study, as SVG for the page and as PNG: seconds across, and what they buy upwards.

Enters: points with the number of their row. Leaves: a picture in either form, drawn from the same marks. What no other point
beats in both is on the front, filled and joined by a line.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from cinelora.io.html.figure import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, scale, text, ticks

if TYPE_CHECKING:
    from cinelora.io.media import Pixels

INK, GRID, FRONT, OTHERS = "#333333", "#e4e4e4", "#1b7f79", "#9aa0a8"
ENLARGED = 2
"""Pixels of the PNG for each unit of the picture."""
LETTER = 6.5
"""Width of a digit, roughly."""
APART = (24.0, 14.0)
"""How far dots are from each other, across and upwards, for each to have a label of its own."""


@dataclass(frozen=True)
class Spot:
    """A row in the plot: its number in the table, its seconds, and its value."""

    number: int
    seconds: float
    value: float


@dataclass(frozen=True)
class Line:
    """From one point to another."""

    ends: tuple[float, float, float, float]
    colour: str
    width: int = 1


@dataclass(frozen=True)
class Dot:
    """A disc, or a ring where it is not ``full``."""

    x: float
    y: float
    colour: str
    full: bool


@dataclass(frozen=True)
class Words:
    """One line of text at a point, ``anchor`` as in SVG."""

    x: float
    y: float
    words: str
    anchor: str = "middle"
    colour: str = INK


Mark = Line | Dot | Words


def front(spots: list[Spot], more_is_better: bool) -> list[Spot]:
    """What no other spot beats: those that take less time have less of the value; by seconds."""
    sign = 1.0 if more_is_better else -1.0
    found: list[Spot] = []
    for spot in sorted(spots, key=lambda spot: (spot.seconds, -sign * spot.value)):
        if not found or sign * spot.value > sign * found[-1].value:
            found.append(spot)
    return found


def marks(spots: list[Spot], title: str, across: str, more_is_better: bool) -> list[Mark]:
    """The picture of ``spots``, on axes that are linear and begin where the spots do."""
    x_ticks, y_ticks = ticks([spot.seconds for spot in spots]), ticks([spot.value for spot in spots])
    x, y = scale(x_ticks, LEFT, RIGHT), scale(y_ticks, BOTTOM, TOP)
    best = front(spots, more_is_better)
    drawn: list[Mark] = [
        *(Line((x(tick), TOP, x(tick), BOTTOM), GRID) for tick in x_ticks),
        *(Line((LEFT, y(tick), RIGHT, y(tick)), GRID) for tick in y_ticks),
        *(Words(x(tick), BOTTOM + 18, f"{tick:g}") for tick in x_ticks),
        *(Words(LEFT - 8, y(tick) + 4, f"{tick:g}", "end") for tick in y_ticks),
        Words((LEFT + RIGHT) / 2, HEIGHT - 12, across),
        Words(LEFT, 28, f"{title} ({'higher' if more_is_better else 'lower'} is better)", "start"),
        Words(LEFT, 46, "filled: no other setting beats it in both; numbers are rows of the table", "start", OTHERS),
    ]
    for one, two in pairwise(best):
        drawn.append(Line((x(one.seconds), y(one.value), x(two.seconds), y(two.value)), FRONT, 2))
    for spot in spots:
        colour = FRONT if spot in best else OTHERS
        drawn.append(Dot(x(spot.seconds), y(spot.value), colour, spot in best))
    for at_x, at_y, words, leads in labels([(x(s.seconds), y(s.value), s.number, s in best) for s in spots]):
        fits = at_x + 8 + LETTER * len(words) < WIDTH
        end, anchor = (at_x + 8, "start") if fits else (WIDTH - 4.0, "end")
        drawn.append(Words(end, at_y - 6, words, anchor, FRONT if leads else OTHERS))
    return drawn


def labels(dots: list[tuple[float, float, int, bool]]) -> list[tuple[float, float, str, bool]]:
    """Numbers of dots, those of dots that lie too close for a label each in one, at the right-most; what leads is told so."""
    groups: list[list[tuple[float, float, int, bool]]] = []
    for dot in sorted(dots):
        near = (group for group in groups if dot[0] - group[-1][0] < APART[0] and abs(dot[1] - group[-1][1]) < APART[1])
        group = next(near, None)
        if group is None:
            groups.append([dot])
        else:
            group.append(dot)
    return [
        (
            group[-1][0],
            group[-1][1],
            ", ".join(str(number) for number in sorted(d[2] for d in group)),
            any(d[3] for d in group),
        )
        for group in groups
    ]


def as_svg(drawn: list[Mark]) -> str:
    """The marks as SVG, texts escaped."""
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12">'
    ]
    for mark in drawn:
        match mark:
            case Line((x1, y1, x2, y2), colour, width):
                parts.append(
                    f'<path d="M{x1:.1f} {y1:.1f}L{x2:.1f} {y2:.1f}" stroke="{colour}" stroke-width="{width}"/>'
                )
            case Dot(x, y, colour, full):
                inside = colour if full else "white"
                parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{inside}" stroke="{colour}"/>')
            case Words(x, y, words, anchor, colour):
                parts.append(text(x, y, words, anchor, colour))
    return "\n".join([*parts, "</svg>"])


def as_png(drawn: list[Mark]) -> Pixels:
    """The marks as pixels (H, W, 3)."""
    import numpy as np
    from PIL import Image, ImageDraw, ImageFont

    zoom = ENLARGED
    picture = Image.new("RGB", (WIDTH * zoom, HEIGHT * zoom), "white")
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(12 * zoom)
    for mark in drawn:
        match mark:
            case Line(ends, colour, width):
                draw.line([end * zoom for end in ends], fill=colour, width=width * zoom)
            case Dot(x, y, colour, full):
                box = [(x - 4) * zoom, (y - 4) * zoom, (x + 4) * zoom, (y + 4) * zoom]
                draw.ellipse(box, fill=colour if full else "white", outline=colour, width=zoom)
            case Words(x, y, words, anchor, colour):
                where = {"start": "ls", "middle": "ms", "end": "rs"}[anchor]
                draw.text((x * zoom, y * zoom), words, fill=colour, font=font, anchor=where)
    return np.asarray(picture)
