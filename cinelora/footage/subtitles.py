"""Subtitles that are part of a film's pictures: lines of letters that come back at one height, each time of another length.

Enters: a survey, which holds the lines of every sampled picture. Leaves: how much of the picture they take from below.
"""

from __future__ import annotations

from itertools import groupby

import numpy as np

from cinelora.footage.shot_detection import Survey

SAME_LINE, LENGTHS = 0.02, 0.03
"""Lines are of one height up to this share of the picture's height, and of one length up to this share of its width."""
SHOTS, LEAST_LENGTHS, LEAST_SHARE = 3, 3, 0.05
"""What lines of one height need to be subtitles: shots that they are in, different lengths, and their share of the pictures. A
sign comes back with its scene alone, and is always as long."""
MARGIN, MOST = 0.015, 0.3
"""The strip above the lines that is cut off with them, and the most that is cut off in all, as shares of the height."""
Line = tuple[int, float, float, float, float]
"""The picture's number, and the line's left, top, right and bottom."""


def subtitle_band(survey: Survey) -> float | None:
    """The share of the picture's height, from below, that subtitles take; None where there are none, or in too few shots."""
    lines: list[Line] = [
        (number, *line) for number, of_picture in enumerate(survey.lines.tolist()) for line in of_picture if line[3]
    ]
    heights = sorted({round(line[4], 2) for line in lines}, reverse=True)
    coming_back = (height for height in heights if _come_back(survey, [line for line in lines if _is_at(line, height)]))
    lowest = next(coming_back, None)
    if lowest is None:
        return None
    stacks = [_top(list(of_picture), lowest) for _, of_picture in groupby(lines, key=lambda line: line[0])]
    tops = [top for top in stacks if top is not None]
    # One picture in fifty may have a line above that is none.
    band = 1 - float(np.quantile(tops, 0.02)) + MARGIN
    return band if band <= MOST else None


def _is_at(line: Line, height: float) -> bool:
    return abs(line[4] - height) <= SAME_LINE


def _come_back(survey: Survey, lines: list[Line]) -> bool:
    """Whether lines of one height are in many shots, of many lengths, and in a good share of all pictures."""
    pictures = sorted({line[0] for line in lines})
    starts = np.array([start for start, _ in survey.shots])
    shots = np.unique(np.searchsorted(starts, survey.sample[pictures], side="right"))
    lengths = {round((line[3] - line[1]) / LENGTHS) for line in lines}
    return len(shots) >= SHOTS and len(lengths) >= LEAST_LENGTHS and len(pictures) >= LEAST_SHARE * len(survey.lines)


def _top(lines: list[Line], lowest: float) -> float | None:
    """The upper edge of a picture's subtitles: of the line at the ``lowest`` height and those right above it; None without."""
    top, high = None, 0.0
    for _, _, upper, _, lower in sorted(lines, key=lambda line: -line[4]):
        if top is None and abs(lower - lowest) > SAME_LINE:
            continue
        if top is None or top - lower < 1.6 * high:
            top, high = upper, lower - upper
    return top
