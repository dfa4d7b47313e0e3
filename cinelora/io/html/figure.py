"""Figures as SVG: nothing but text, so that they need no library and can be compared.

Enters: numbers with names. Leaves: SVG, its texts escaped. It does not know what they are numbers of.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from html import escape

Point = tuple[float, float, str]
Bar = tuple[str, float, float | None, float | None]
"""A name, a value, and its bounds where it has any."""

WIDTH, HEIGHT = 640, 400
LEFT, TOP, RIGHT, BOTTOM = 64, 64, 620, 348  # the frame of the axes, in the picture's units
COLOURS = ("#1b7f79", "#c44536", "#3d5a98", "#b07d12")


def line_figure(lines: dict[str, list[Point]], x_label: str, y_label: str) -> str:
    """Lines of points (x, y, name of the point or ""), a colour each, with their names above; both axes linear."""
    points = [point for line in lines.values() for point in line]
    x_ticks, y_ticks = ticks([x for x, _, _ in points]), ticks([0.0, *(y for _, y, _ in points)])
    across, up = scale(x_ticks, LEFT, RIGHT), scale(y_ticks, BOTTOM, TOP)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        *(f'<path d="M{across(x):.1f} {TOP}V{BOTTOM}" stroke="#e4e4e4"/>' for x in x_ticks),
        *(f'<path d="M{LEFT} {up(y):.1f}H{RIGHT}" stroke="#e4e4e4"/>' for y in y_ticks),
        *(text(across(x), BOTTOM + 18, f"{x:g}", "middle") for x in x_ticks),
        *(text(LEFT - 8, up(y) + 4, f"{y:g}", "end") for y in y_ticks),
        text((LEFT + RIGHT) / 2, HEIGHT - 12, x_label, "middle"),
        f'<g transform="rotate(-90 16 {(TOP + BOTTOM) / 2})">{text(16, (TOP + BOTTOM) / 2 + 4, y_label, "middle")}</g>',
    ]
    for number, (name, line) in enumerate(lines.items()):
        colour = COLOURS[number % len(COLOURS)]
        way = " ".join(f"{across(x):.1f},{up(y):.1f}" for x, y, _ in line)
        parts.append(f'<polyline points="{way}" fill="none" stroke="{colour}" stroke-width="2"/>')
        for x, y, label in line:
            parts.append(f'<circle cx="{across(x):.1f}" cy="{up(y):.1f}" r="4" fill="{colour}"/>')
            parts.append(text(across(x) + 7, up(y) - 6, label, "start", colour))
        parts.append(text(LEFT + 280 * (number % 2), 22 + 20 * (number // 2), f"● {name}", "start", colour))
    return "\n".join([*parts, "</svg>"]) + "\n"


def interval_figure(bars: list[Bar], colours: list[str]) -> str:
    """Values with their bounds, one below the other on a shared axis; a colour each, and the first one's value as a line."""
    width, row, left, right = 360, 26, 96, 344
    height = row * len(bars) + 30
    marks = ticks([number for _, *numbers in bars for number in numbers if number is not None])
    across = scale(marks, left, right)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="12">',
        *(f'<path d="M{across(x):.1f} 4V{height - 24}" stroke="#e6e6e3"/>' for x in marks),
        *(text(across(x), height - 8, f"{x:g}", "middle", "#777777") for x in marks),
        f'<path d="M{across(bars[0][1]):.1f} 4V{height - 24}" stroke="{colours[0]}" stroke-dasharray="3 3"/>',
    ]
    for number, ((name, value, low, high), colour) in enumerate(zip(bars, colours, strict=True)):
        y = row * number + 17
        parts.append(text(left - 12, y + 4, name, "end"))
        if low is not None and high is not None:
            parts.append(f'<path d="M{across(low):.1f} {y}H{across(high):.1f}" stroke="{colour}" stroke-width="3"/>')
        parts.append(f'<circle cx="{across(value):.1f}" cy="{y}" r="5" fill="{colour}"/>')
    return "".join([*parts, "</svg>"])


def text(x: float, y: float, words: str, anchor: str, colour: str = "#333333") -> str:
    """One line of text, ``anchor`` at (x, y)."""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}">{escape(words)}</text>'


def ticks(values: list[float]) -> list[float]:
    """Three to seven round numbers at even distances that span ``values``."""
    low, high = min(values), max(values)
    rough = max(high - low, 1e-9 + 1e-3 * abs(high)) / 5
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= rough)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [round(number * step, 10) for number in range(first, max(last, first + 1) + 1)]


def scale(numbers: list[float], start: float, end: float) -> Callable[[float], float]:
    """A function from the span of ``numbers`` to the picture's units."""
    low, high = numbers[0], numbers[-1]
    return lambda value: start + (value - low) / (high - low) * (end - start)
