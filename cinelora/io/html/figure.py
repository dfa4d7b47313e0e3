"""Figures as SVG: nothing but text, so that they need no library and can be compared.

Enters: numbers with names. Leaves: marks on a plane (lines, dots and words), and their SVG. It does not know what they are
numbers of.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from markupsafe import Markup

from cinelora.io.html.template import render

Bar = tuple[str, float, float | None, float | None]
"""A name, a value, and its bounds where it has any."""
Scale = Callable[[float], float]

WIDTH, HEIGHT = 640, 400
LEFT, TOP, RIGHT, BOTTOM = 64, 64, 620, 348  # the frame of the axes, in the picture's units
INK, GRID = "#333333", "#e4e4e4"


@dataclass(frozen=True)
class Line:
    """From one point to another."""

    x1: float
    y1: float
    x2: float
    y2: float
    colour: str
    width: int = 1


@dataclass(frozen=True)
class Dot:
    """A disc, or a ring where it is not ``full``."""

    x: float
    y: float
    colour: str
    full: bool = True
    radius: float = 4


@dataclass(frozen=True)
class Words:
    """One line of text at a point, ``anchor`` as in SVG."""

    x: float
    y: float
    words: str
    anchor: str = "middle"
    colour: str = INK


Mark = Line | Dot | Words


def as_svg(marks: Iterable[Mark], width: int = WIDTH, height: int = HEIGHT) -> Markup:
    """The marks as SVG, which a page takes as it is: texts are escaped."""
    return Markup(render("figure.svg.j2", marks=marks, width=width, height=height))


def axes(xs: Iterable[float], ys: Iterable[float], x_label: str) -> tuple[list[Mark], Scale, Scale]:
    """Two linear axes that span the numbers: their grid with its numbers, and where in the picture a number of each lies."""
    x_ticks, y_ticks = ticks(list(xs)), ticks(list(ys))
    across, up = scale(x_ticks, LEFT, RIGHT), scale(y_ticks, BOTTOM, TOP)
    grid: list[Mark] = [
        *(Line(across(x), TOP, across(x), BOTTOM, GRID) for x in x_ticks),
        *(Line(LEFT, up(y), RIGHT, up(y), GRID) for y in y_ticks),
        *(Words(across(x), BOTTOM + 18, f"{x:g}") for x in x_ticks),
        *(Words(LEFT - 8, up(y) + 4, f"{y:g}", "end") for y in y_ticks),
        Words((LEFT + RIGHT) / 2, HEIGHT - 12, x_label),
    ]
    return grid, across, up


def interval_figure(bars: list[Bar], colours: list[str]) -> Markup:
    """Values with their bounds, one below the other on a shared axis; a colour each, and the first one's value as a line."""
    width, row, left, right = 360, 26, 96, 344
    height = row * len(bars) + 30
    numbers = ticks([number for _, *numbers in bars for number in numbers if number is not None])
    across, end = scale(numbers, left, right), height - 24
    first = across(bars[0][1])
    marks: list[Mark] = [
        *(Line(across(x), 4, across(x), end, "#e6e6e3") for x in numbers),
        *(Words(across(x), height - 8, f"{x:g}", colour="#777777") for x in numbers),
        *(Line(first, y, first, min(y + 3, end), colours[0]) for y in range(4, end, 6)),  # dashed
    ]
    for number, ((name, value, low, high), colour) in enumerate(zip(bars, colours, strict=True)):
        y = row * number + 17
        marks.append(Words(left - 12, y + 4, name, "end"))
        if low is not None and high is not None:
            marks.append(Line(across(low), y, across(high), y, colour, 3))
        marks.append(Dot(across(value), y, colour, radius=4.5))
    return as_svg(marks, width, height)


def ticks(values: list[float]) -> list[float]:
    """Three to seven round numbers at even distances that span ``values``."""
    low, high = min(values), max(values)
    rough = max(high - low, 1e-9 + 1e-3 * abs(high)) / 5
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= rough)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [round(number * step, 10) for number in range(first, max(last, first + 1) + 1)]


def scale(numbers: list[float], start: float, end: float) -> Scale:
    """A function from the span of ``numbers`` to the picture's units."""
    low, high = numbers[0], numbers[-1]
    return lambda value: start + (value - low) / (high - low) * (end - start)
