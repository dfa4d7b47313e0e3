"""Finds shots that are shown twice: copied as they are, shortened, scaled, graded or coded again.

Enters: the look of each shot, which is its pictures' hashes and the course of light in it. Leaves: which shots are copies
of which. Two takes of one set-up have the same pictures, nearly; they are no copies, as something else moves in each.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cinelora.footage.shot_detection import Survey
from cinelora.footage.shot_filter import FLAT_SPREAD, Shot

RATE = 12
"""Values of a course in a second: films of other rates have the same."""
TELLING = 0.15
"""Standard deviation in levels from which the light of a part of the picture says that something moves there; grain and coding
give less, as a rule."""
LEAST_SHARED, LEAST_VALUES = 0.75, 8
"""The least that two courses overlap by when one is moved along the other: a share of the shorter one, and a number of values."""
NOISE, MOVES_ALIKE = 0.1, 0.95
"""Standard deviation that coding and grain alone give a course, in levels; and the least correlation of copies without them."""
SPEEDS = (1.0, 25 / 24, 24 / 25)
"""How fast a copy may run: television shows films a little faster."""
NEAREST = 64
"""How many shots with like pictures a shot is compared with, the most alike first: a film may have hundreds of takes."""
Same = Callable[[int, int], bool]


@dataclass(frozen=True)
class Look:
    """What a shot is recognised by: the ``hashes`` of three pictures, or one, and the course of light in parts of it."""

    hashes: tuple[int, ...]
    course_PT: NDArray[np.float64]


def look_of(survey: Survey, shot: Shot) -> Look | None:
    """The look of a shot, from its first, middle and last picture; a still has one.

    None without a sampled picture, and where the spread of luma is under ``2 * FLAT_SPREAD``: such pictures are all alike.
    """
    if not shot.samples or float(np.median(survey.spread[shot.start : shot.end])) < 2 * FLAT_SPREAD:
        return None
    if survey.num_frames == 1:
        return Look((int(survey.hash[0]),), np.zeros((0, 0)))
    chosen = [shot.samples[0], shot.samples[len(shot.samples) // 2], shot.samples[-1]]
    return Look(tuple(int(survey.hash[number]) for number in chosen), _course(survey, shot))


def _course(survey: Survey, shot: Shot) -> NDArray[np.float64]:
    """The light of each part of the picture, in levels, ``RATE`` times a second, each value the mean over two such steps."""
    frames = slice(shot.start, shot.end)
    # Means, as single frames of a film that runs at another rate are of other moments. The mean from one time to another is the
    # difference of what has added up until then, which lies on a line between two frames.
    begins = survey.seconds[frames] - survey.seconds[shot.start]
    ends = np.append(begins[1:], begins[-1] + 1 / float(survey.about.fps))
    edges = np.arange(0, ends[-1] + 1e-6, 1 / RATE)
    added = [np.append(0, np.cumsum(part * (ends - begins))) for part in survey.cells[frames].T / 256]
    sums = np.stack([np.interp(edges, np.append(0, ends), part) for part in added])
    return np.asarray(sums[:, 2:] - sums[:, :-2]) * (RATE / 2)


def copies(looks: Sequence[Look | None], content: Sequence[Hashable | None], limit: float | None) -> dict[int, int]:
    """The numbers of shots that show the same as an earlier one, and of that one.

    Shots without a look show too little to be like another, unless their ``content`` is the same; one without is like none.
    ``limit`` is how many of 64 bits hashes may differ by; None for no search.
    """
    if limit is None:
        return {}
    found: dict[int, int] = {}
    # A still has one picture where a shot has three, so it may differ by a third of the bits: at 6 two people in one
    # room pass for each other, at 2 a copy that was scaled or compressed again is found.
    for pictures, bits in ((3, limit), (1, limit / 3)):
        known = [(i, look) for i, look in enumerate(looks) if look is not None and len(look.hashes) == pictures]

        def same(one: int, other: int, known: list[tuple[int, Look]] = known) -> bool:
            return move_alike(known[one][1].course_PT, known[other][1].course_PT)

        firsts = alike(np.array([look.hashes for _, look in known], np.uint64), bits, same=same) if known else ()
        found |= {known[i][0]: known[first][0] for i, first in enumerate(firsts) if first != i}
    earlier: dict[Hashable, int] = {}
    for number, name in enumerate(content):
        first = number if name is None else earlier.setdefault(name, number)
        if first != number:
            found.setdefault(number, found.get(first, first))
    return found


# -- pictures ----------------------------------------------------------------------------------------------------------


def alike(
    hashes_NP: NDArray[np.uint64], limit: float, block: int = 1024, same: Same | None = None
) -> NDArray[np.int64]:
    """For each of N shots, of which some pictures' hashes are given, the first shot that is like it: itself where none is.

    Two shots are alike when the mean number of differing bits over their pictures is at most ``limit``; and, where ``same`` is
    given, when it says so. It is asked about the ``NEAREST``, in that order, and the first counts.
    """
    # Every shot is compared with every one before it, by counting the bits in which their hashes differ: `^` leaves a 1 where
    # two bits differ. Ten thousand shots are 50 million pairs, so they are compared in blocks of 1024 x 1024, each a few
    # operations on whole arrays; one array of all pairs would not fit in memory.
    first = np.arange(len(hashes_NP))
    for start in range(0, len(hashes_NP), block):
        rows = hashes_NP[start : start + block]
        for before in range(0, start + len(rows), block):
            others = hashes_NP[before : min(before + block, start + len(rows))]
            apart = np.zeros((len(rows), len(others)), np.uint16)
            for place in range(hashes_NP.shape[1]):
                apart += np.bitwise_count(rows[:, None, place] ^ others[None, :, place])
            # In the block on the diagonal a shot meets itself and later ones: only earlier ones count.
            near = apart <= limit * hashes_NP.shape[1]
            near &= np.arange(before, before + len(others)) < np.arange(start, start + len(rows))[:, None]
            for row in np.flatnonzero(near.any(1)).tolist():
                places = np.flatnonzero(near[row])
                if same:
                    places = places[np.argsort(apart[row, places], kind="stable")][:NEAREST]
                found = (before + place for place in places.tolist() if not same or same(start + row, before + place))
                first[start + row] = min(first[start + row], next(found, start + row))
    for i in range(len(first)):  # what is like a copy is like the original
        first[i] = first[first[i]]
    return first


# -- motion ------------------------------------------------------------------------------------------------------------


def move_alike(one_PT: NDArray[np.float64], other_PT: NDArray[np.float64]) -> bool:
    """Whether two courses are one, which may begin later, end earlier and run a little faster in either.

    Where nothing moves in either, or there is too little of one to say, they are.
    """
    shorter, longer = sorted((one_PT, other_PT), key=lambda course: course.shape[1])
    tells = (
        np.maximum(shorter.std(1), longer.std(1)) >= TELLING if shorter.shape[1] >= LEAST_VALUES else np.zeros(0, bool)
    )
    if not tells.any():
        return True
    shorter, longer = shorter[tells], longer[tells]
    # Of a signal of variance S two noisy copies correlate by S / (S + N): little, where little moves.
    signal = float(longer.var(1).mean())
    least = MOVES_ALIKE * signal / (signal + NOISE**2)
    return any(_highest_correlation(_faster(shorter, speed), longer) >= least for speed in SPEEDS)


def _faster(course_PT: NDArray[np.float64], speed: float) -> NDArray[np.float64]:
    if speed == 1:
        return course_PT
    length = course_PT.shape[1]
    places = np.arange(0, length - 1 + 1e-6, speed)
    return np.stack([np.interp(places, np.arange(length), part) for part in course_PT])


def _highest_correlation(one_PT: NDArray[np.float64], other_PT: NDArray[np.float64]) -> float:
    """The highest that two courses have while the shorter is moved along the longer, and over its ends by a quarter.

    The correlation is that of all parts together, so that a part counts by how much moves in it.
    """
    shorter, longer = (
        course - course.mean(1, keepdims=True)
        for course in sorted((one_PT, other_PT), key=lambda course: course.shape[1])
    )
    length, whole = shorter.shape[1], longer.shape[1]
    hanging = max(0, min(length - LEAST_VALUES, int((1 - LEAST_SHARED) * length)))
    # At a lag, value i of the shorter course stands beside value i + lag of the longer one. The products of all lags come from
    # one transform: a take of an hour has thousands of lags, and a film hundreds of takes.
    lags = np.arange(-hanging, whole - length + hanging + 1)
    size = 1 << (length + whole).bit_length()
    spectra = np.fft.rfft(longer, size) * np.conj(np.fft.rfft(shorter, size))
    products = np.fft.irfft(spectra, size)[:, lags]
    # What both have in common at a lag is values `first` to `last` - 1 of either; sums over it are differences of running sums.
    first, last = np.maximum(0, -lags), np.minimum(length, whole - lags)
    count = last - first
    sums, squares = (_over(shorter**power, first, last) for power in (1, 2))
    other_sums, other_squares = (_over(longer**power, first + lags, last + lags) for power in (1, 2))
    together = (products - sums * other_sums / count).sum(0)
    own, other = (squares - sums**2 / count).sum(0), (other_squares - other_sums**2 / count).sum(0)
    return float((together / np.sqrt(np.maximum(own * other, 1e-12))).max())


def _over(course_PT: NDArray[np.float64], first: NDArray[np.int64], last: NDArray[np.int64]) -> NDArray[np.float64]:
    """Sums of a course from each ``first`` to before each ``last``."""
    added = np.pad(np.cumsum(course_PT, axis=1), ((0, 0), (1, 0)))
    return np.asarray(added[:, last] - added[:, first])
