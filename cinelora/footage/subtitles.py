"""Lettering that was laid over a film's pictures: subtitles and titles, told apart from signs, which are part of the scene.

Enters: a survey, which holds the lines of letters of every sampled picture: those that a network found, or else lines of light
strokes. Leaves: which pictures bear subtitles and how much of the picture these take from below, and which bear titles.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import groupby, pairwise

import numpy as np
from numpy.typing import NDArray

from cinelora.footage.shot_detection import Survey

SAME_LINE, LENGTHS = 0.02, 0.03
"""Lines are of one height up to this share of the picture's height, and of one length up to this share of its width."""
SHOTS, LEAST_LENGTHS, LEAST_SHARE = 3, 3, 0.05
"""What lines of one height need to be subtitles: shots that they are in, different lengths, and their share of the pictures. A
sign comes back with its scene alone, and is always as long."""
MARGIN, MOST = 0.015, 0.3
"""The strip above the lines that is cut off with them, and the most that is cut off in all, as shares of the height."""
MOST_HIGH = 0.12
"""How high a line of subtitles is, with what the network puts around it, as a share of the height."""
Letters = NDArray[np.float32]
"""Left, top, right and bottom of a line that a network found."""
Line = tuple[int, float, float, float, float]
"""The picture's number, and the line's left, top, right and bottom."""
CENTRED = 0.02
"""How far the middle of a subtitle or title is from the picture's at most, as a share of the width."""
SAME_PLACE, ELSEWHERE = 0.01, 0.02
"""In the next picture of a shot the middle of a line is where it was up to the first, and has moved from the second on."""
SAME_LENGTH, SAME_HEIGHT = 0.04, 1.5
"""Lines of two pictures may be one if their lengths are alike up to the first, and their heights up to this factor: the network's
boxes fit tightly sideways, and loosely above and below."""
LOOSE = 0.01
"""By this share of the height the network's boxes end below the letters."""
TRAVELLED = 0.03
"""Widths that a camera moves from one picture to the next before lettering that stays where it is must have been laid over."""


@dataclass(frozen=True)
class Overlaid:
    """What is laid over a film: the sampled pictures with subtitles, with titles, and with signs, which are part of the scene.

    Titles and signs with the share of the picture that is under them; ``unsure`` are pictures with lines that may be either.
    ``band`` is the share of the height, from below, that subtitles take; None in a film without subtitles.
    """

    band: float | None = None
    subtitled: frozenset[int] = frozenset()
    titled: dict[int, float] = field(default_factory=dict)
    signed: dict[int, float] = field(default_factory=dict)
    unsure: frozenset[int] = frozenset()


def overlaid(survey: Survey) -> Overlaid:
    """What is laid over a film, by a network's lines where it was asked, else by lines of light strokes that come back."""
    if survey.letters is not None:
        return _overlaid(survey, survey.letters)
    band = _band_by_strokes(survey)
    if band is None:
        return Overlaid()
    return Overlaid(band, frozenset(np.flatnonzero((survey.lines[:, :, 3] > 1 - band).any(axis=1)).tolist()))


# -- by a network ------------------------------------------------------------------------------------------------------


def _overlaid(survey: Survey, letters_N84: NDArray[np.float32]) -> Overlaid:
    lines: dict[str, dict[int, list[Letters]]] = {"subtitle": {}, "title": {}, "sign": {}, "either": {}}
    for shot in _pictures_of_shots(survey):
        for place, number in enumerate(shot):
            beside = [other for other in shot[max(0, place - 1) : place + 2] if other != number]
            for line in letters_N84[number]:
                if line[3]:
                    kind = _kind(survey, letters_N84, line, number, beside)
                    lines[kind].setdefault(number, []).append(line)
    low, over = lines["subtitle"], lines["title"]
    # A few lines low in the middle are titles, as "Berlin, 1948", for which no film is cropped.
    shots = [shot for shot in _pictures_of_shots(survey) if not low.keys().isdisjoint(shot)]
    if not low or len(shots) < min(SHOTS, (len(survey.shots) + 1) // 2):
        over = {number: low.get(number, []) + over.get(number, []) for number in low.keys() | over.keys()}
        return Overlaid(None, frozenset(), _shares(over), _shares(lines["sign"]), frozenset(lines["either"]))
    # One picture in fifty may have a line above that is none.
    tops = [min(float(line[1]) for line in of_it) for of_it in low.values()]
    band = 1 - float(np.quantile(tops, 0.02)) + MARGIN
    return Overlaid(
        band,
        frozenset(low) | _short_ones(survey, list(low.values())),
        _shares(over),
        _shares(lines["sign"]),
        frozenset(lines["either"]),
    )


def _short_ones(survey: Survey, lines: list[list[Letters]]) -> frozenset[int]:
    """Pictures with light strokes in the middle, at the height where others have subtitles: the network misses many a "No."."""
    heights = np.array([max(float(line[3]) for line in of_it) for of_it in lines])
    at_one = abs(survey.lines[:, :, 3, None] - heights[None, None] + LOOSE).min(axis=2) <= SAME_LINE
    middle = abs(survey.lines[:, :, 0] + survey.lines[:, :, 2] - 1) <= 2 * CENTRED
    return frozenset(np.flatnonzero((at_one & middle).any(axis=1)).tolist())


def _kind(survey: Survey, letters_N84: NDArray[np.float32], line: Letters, number: int, beside: list[int]) -> str:
    """What a line is: "subtitle", "title", "sign", or "either" where pictures ``beside`` its own in the shot cannot tell."""
    # A network finds the letters of signs as well as those of subtitles. What tells them apart is that signs move with the
    # scene. So a line low in the middle is a subtitle unless it moves, as subtitles may come and go between two pictures.
    # Elsewhere a line must stay where it is, and be in the middle, or stay while the camera moves: a title, or somebody's name.
    alike = [(other, its) for other in beside for its in letters_N84[other] if its[3] and _are_alike(line, its)]
    same = [other for other, its in alike if _apart(line, its) <= SAME_PLACE]
    if _is_low(line) and (same or not any(_apart(line, its) > ELSEWHERE for _, its in alike)):
        return "subtitle"
    if same and (_off_centre(line) <= CENTRED or max(_travelled(survey, number, o) for o in same) >= TRAVELLED):
        return "title"
    return "sign" if beside and not same else "either"


def _shares(lines: dict[int, list[Letters]]) -> dict[int, float]:
    """The share of each picture that its lines take."""
    return {number: float(sum(np.prod(line[2:] - line[:2]) for line in of_it)) for number, of_it in lines.items()}


def _pictures_of_shots(survey: Survey) -> Iterator[list[int]]:
    """The numbers of the pictures of each shot that has any."""
    ends = np.searchsorted(survey.sample, [*(start for start, _ in survey.shots), survey.num_frames])
    return (list(range(first, end)) for first, end in pairwise(ends.tolist()) if first < end)


def _is_low(line: Letters) -> bool:
    return bool(line[1] >= 1 - MOST and line[3] - line[1] <= MOST_HIGH and _off_centre(line) <= CENTRED)


def _off_centre(line: Letters) -> float:
    return abs(float(line[0] + line[2]) / 2 - 0.5)


def _are_alike(line: Letters, other: Letters) -> bool:
    """Whether two lines are of one size, and so may be one line."""
    (length, high), (its_length, its_high) = line[2:] - line[:2], other[2:] - other[:2]
    return bool(abs(length - its_length) < SAME_LENGTH and max(high, its_high) < SAME_HEIGHT * min(high, its_high))


def _apart(line: Letters, other: Letters) -> float:
    """How far the middles of two lines are from each other, across or down, as a share of that side."""
    return float(np.abs((other[:2] + other[2:]) - (line[:2] + line[2:])).max() / 2)


def _travelled(survey: Survey, number: int, other: int) -> float:
    """Widths that the camera moved between two pictures of a shot."""
    first, last = sorted(survey.sample[[number, other]].tolist())
    frames = slice(first + 1, last + 1)
    interval = np.diff(survey.seconds[first : last + 1])
    return float(np.hypot(survey.pan_x[frames] @ interval, survey.pan_y[frames] @ interval))


# -- by strokes --------------------------------------------------------------------------------------------------------


def _band_by_strokes(survey: Survey) -> float | None:
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
