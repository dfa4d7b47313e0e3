"""How sure a number is: intervals of means, of shares, and the sign test.

Enters: numbers of clips, or counts of votes. Leaves: bounds and probabilities. It does not know what was measured.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

DRAWS = 10_000
Z95 = 1.959963984540054
"""The normal distribution's 97.5 % point."""


@dataclass(frozen=True)
class Interval:
    """An estimate with its 95 % bounds, of ``count`` observations; no bounds where there is but one."""

    value: float
    low: float | None
    high: float | None
    count: int


def bootstrap_mean(values: NDArray[np.float64], seed: int = 0) -> Interval:
    """Mean of ``values`` (N) with its 95 % percentile bootstrap interval.

    ``DRAWS`` times N of them are drawn with replacement; the bounds are the 2.5 and 97.5 % points of the means. With few
    values it is too narrow: of 8 normal ones it holds the mean about nine times in ten. For a difference give paired differences.
    Source: Efron 1979, Bootstrap methods; Efron and Tibshirani 1993, chapter 13.
    """
    if len(values) < 2:
        return Interval(float(values.mean()), None, None, len(values))
    # Every draw is a row of N picks, and its mean one mean that might have come out: so the spread of all of them is that of the
    # mean. The seed is fixed, so that the same clips give the same interval.
    picks = np.random.default_rng(seed).integers(0, len(values), (DRAWS, len(values)))
    low, high = np.quantile(values[picks].mean(axis=1), [0.025, 0.975])
    return Interval(float(values.mean()), float(low), float(high), len(values))


def wilson(wins: int, count: int) -> Interval:
    """Share ``wins / count`` with Wilson's 95 % score interval; ``count`` is 1 or more.

    ``(p + z^2 / 2n +- z sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2 / n)``. Source: Wilson 1927.
    """
    # Unlike the usual share plus and minus its error, it stays within 0 and 1 and is right for few votes and for none lost.
    share, z2 = wins / count, Z95**2
    centre = share + z2 / (2 * count)
    half = Z95 * math.sqrt(share * (1 - share) / count + z2 / (4 * count**2))
    scale = 1 + z2 / count
    return Interval(share, max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale), count)


def sign_test(wins: int, count: int) -> float:
    """Two-sided probability of a split at least as uneven as ``wins`` of ``count``, were both sides equally good.

    ``min(1, 2 sum_k<=m C(n, k) / 2^n)`` with m the rarer side; ties are left out beforehand. Source: Dixon and Mood 1946.
    """
    # in whole numbers to the end: the powers of two are beyond a float's range from 1,024 votes on
    ways = total = 1
    for k in range(min(wins, count - wins)):
        ways = (
            ways * (count - k) // (k + 1)
        )  # C(n, k + 1), which would take as long as all before it if it were computed from the start
        total += ways
    return min(1.0, float(Fraction(2 * total, 2**count)))
