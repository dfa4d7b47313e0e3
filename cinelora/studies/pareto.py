"""The Pareto plot of a study: seconds across, and what they buy upwards; as marks, which the page shows as SVG, and as PNG.

Enters: points with the number of their row. Leaves: a picture in either form, of the same marks. What no other point
beats in both is on the front, filled and joined by a line.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import cycle, pairwise
from typing import TYPE_CHECKING

from cinelora.io.html.figure import HEIGHT, LEFT, RIGHT, WIDTH, Dot, Line, Mark, Scale, Words, axes

if TYPE_CHECKING:
    from cinelora.io.media import Pixels

FRONT, OTHERS = "#1b7f79", "#9aa0a8"
COLOURS = (FRONT, "#b3541e", "#5b4b9a", "#8a7a12", "#a3315f")
"""Of several groups in one picture."""
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
class Group:
    """Spots of one colour; ``real`` is the value of held-out footage, where that was measured."""

    spots: list[Spot]
    real: float | None = None


def front(spots: list[Spot], more_is_better: bool) -> list[Spot]:
    """What no other spot beats: those that take less time have less of the value; by seconds."""
    # From the fastest on, whoever has more of the value than all before is beaten by nobody. Of spots that take equally long, the
    # best comes first, so that the others do not get on the front.
    sign = 1.0 if more_is_better else -1.0
    found: list[Spot] = []
    for spot in sorted(spots, key=lambda spot: (spot.seconds, -sign * spot.value)):
        if not found or sign * spot.value > sign * found[-1].value:
            found.append(spot)
    return found


def marks(spots: list[Spot], title: str, across: str, more_is_better: bool) -> list[Mark]:
    """The picture of ``spots``, on axes that are linear and begin where the spots do."""
    drawn, x, y = axes([spot.seconds for spot in spots], [spot.value for spot in spots], across)
    best = front(spots, more_is_better)
    drawn += [
        Words(LEFT, 28, f"{title} ({'higher' if more_is_better else 'lower'} is better)", "start"),
        Words(LEFT, 46, "filled: no other setting beats it in both; numbers are rows of the table", "start", OTHERS),
    ]
    return [*drawn, *_spots(spots, best, x, y, FRONT, OTHERS)]


def marks_of_groups(groups: Mapping[str, Group], title: str, across: str, more_is_better: bool | None) -> list[Mark]:
    """The picture of several groups, each in a colour and with a front of its own; None: there is no better, and no front."""
    spots = [spot for group in groups.values() for spot in group.spots]
    real = [group.real for group in groups.values() if group.real is not None]
    drawn, x, y = axes([spot.seconds for spot in spots], [*(spot.value for spot in spots), *real], across)
    better = {True: "higher is better", False: "lower is better", None: "neither way is better"}[more_is_better]
    drawn.append(Words(LEFT, 24, f"{title} ({better})", "start"))
    at = float(LEFT)
    for (name, group), colour in zip(groups.items(), cycle(COLOURS)):
        drawn.append(Words(at, 42, name, "start", colour))
        at += LETTER * (len(name) + 3)
        if group.real is not None:
            drawn.append(Line(LEFT, y(group.real), RIGHT, y(group.real), colour))
        best = group.spots if more_is_better is None else front(group.spots, more_is_better)
        drawn += _spots(group.spots, best, x, y, colour, colour, joined=more_is_better is not None)
    told = "filled: no other setting of the model beats it in both" if more_is_better is not None else ""
    told = "; ".join(filter(None, [told, "level lines: held-out footage" if real else ""]))
    return [*drawn, Words(LEFT, 58, told, "start", OTHERS)] if told else drawn


def _spots(
    spots: list[Spot], best: list[Spot], x: Scale, y: Scale, colour: str, others: str, joined: bool = True
) -> list[Mark]:
    """Dots with the numbers of their rows, and the line through the ``best``, in one colour, or the others in another."""
    # What is drawn later lies on top: the front's line below all dots, and words above everything.
    along = pairwise(best) if joined else ()
    drawn: list[Mark] = [
        Line(x(one.seconds), y(one.value), x(two.seconds), y(two.value), colour, 2) for one, two in along
    ]
    drawn += [Dot(x(s.seconds), y(s.value), colour if s in best else others, s in best) for s in spots]
    for at_x, at_y, words, leads in labels([(x(s.seconds), y(s.value), s.number, s in best) for s in spots]):
        fits = at_x + 8 + LETTER * len(words) < WIDTH
        end, anchor = (at_x + 8, "start") if fits else (WIDTH - 4.0, "end")
        drawn.append(Words(end, at_y - 6, words, anchor, colour if leads else others))
    return drawn


def labels(dots: list[tuple[float, float, int, bool]]) -> list[tuple[float, float, str, bool]]:
    """Numbers of dots, those of dots that lie too close for a label each in one, at the right-most; what leads is told so."""
    # Dots pass from left to right, so that a group's last dot is its right-most, and closeness to that one is enough.
    groups: list[list[tuple[float, float, int, bool]]] = []
    for dot in sorted(dots):
        near = (group for group in groups if dot[0] - group[-1][0] < APART[0] and abs(dot[1] - group[-1][1]) < APART[1])
        if group := next(near, None):
            group.append(dot)
        else:
            groups.append([dot])
    # one label for a group: at the dot that is furthest to the right, where nothing of the group lies under it
    found = []
    for group in groups:
        numbers = ", ".join(str(number) for number in sorted(dot[2] for dot in group))
        found.append((*group[-1][:2], numbers, any(dot[3] for dot in group)))
    return found


def as_png(drawn: list[Mark]) -> Pixels:
    """The marks as pixels (H, W, 3)."""
    import numpy as np
    from PIL import Image, ImageDraw, ImageFont

    zoom = ENLARGED
    picture = Image.new("RGB", (WIDTH * zoom, HEIGHT * zoom), "white")
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(12 * zoom)
    for mark in drawn:
        match mark:
            case Line(x1, y1, x2, y2, colour, width):
                draw.line([end * zoom for end in (x1, y1, x2, y2)], fill=colour, width=width * zoom)
            case Dot(x, y, colour, full, radius):
                box = [(end + way * radius) * zoom for way in (-1, 1) for end in (x, y)]
                draw.ellipse(box, fill=colour if full else "white", outline=colour, width=zoom)
            case Words(x, y, words, anchor, colour):
                where = {"start": "ls", "middle": "ms", "end": "rs"}[anchor]
                draw.text((x * zoom, y * zoom), words, fill=colour, font=font, anchor=where)
    return np.asarray(picture)


def as_one_png(plots: list[list[Mark]], columns: int) -> Pixels:
    """Plots as pixels (H, W, 3), side by side in ``columns`` columns."""
    import numpy as np

    pictures = [as_png(plot) for plot in plots]
    pictures += [np.full_like(pictures[0], 255)] * (-len(pictures) % columns)
    rows = [pictures[first : first + columns] for first in range(0, len(pictures), columns)]
    return np.concatenate([np.concatenate(row, axis=1) for row in rows])
