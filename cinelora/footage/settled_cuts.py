"""Where shots begin, of the numbers that a survey kept: the detector's own cuts enter and a network's, one set of cuts leaves.

Arithmetic on arrays of a whole file, so that parts of it need not agree on the last digit of what a network says at their border.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cinelora.footage.transitions import SAME_SCENE

MIXED = 0.75
"""How nearly frames of a fade or dissolve are the mean of those around them: 0.96 between pictures that stand, 0.83 in a fade
of one that moves, 0.73 at most in shots of 30 clips. Those between two that both move are found by ``transitions``."""
LIKELY, LEAST_LIKELY = 0.5, 0.15
"""What a network says of a frame that is in a transition, and the least that it says of a dissolve that is found without it."""
SHARP, LONG = 0.4, 3
"""A transition shorter than ``LONG`` frames counts as a cut if the network gives its middle at least ``SHARP``."""
NEAR = 2
"""Frames by which two detectors may place the same cut apart."""


@dataclass(frozen=True)
class Settled:
    """``cut`` is 1 where a shot begins, ``mixed`` is ``MIXED`` or more where frames belong to no shot."""

    cut: NDArray[np.uint8]
    mixed: NDArray[np.float32]


def settled(
    cut: NDArray[np.uint8], mixed: NDArray[np.float32], same: NDArray[np.float32], likely_N2: NDArray[np.float32]
) -> Settled:
    """The cuts of a file. Without a network, where all it says is 0, they are the detector's own."""
    # Light that is ramped makes each frame the mean of those around it, as a fade does; but what a fade ends in matches nothing.
    mixed = mixed.copy()
    for a, b in _runs(mixed >= MIXED):
        if same[max(0, a - 1) : b + 1].min() >= SAME_SCENE:
            mixed[a:b] = 0.0
    if not likely_N2.any():
        return Settled(cut, mixed)
    # What the network calls a transition from frame a to b - 1 lies between the pictures a and b: a cut at frame 40 is a 39.
    found, between = np.zeros_like(cut), mixed.copy()
    for a, b in _transitions(likely_N2):
        first, last = min(a + 1, len(cut) - 1), min(b, len(cut) - 1)
        # Light that flashes, flickers or is ramped changes all of the picture as well, but not its scene.
        if same[first : last + 1].min() >= SAME_SCENE:
            continue
        middle = (first + last) // 2 if b - a >= LONG else a + 1 + int(likely_N2[a:b, 0].argmax())
        found[min(middle, len(cut) - 1)] = 1
        if b - a >= LONG:
            between[max(0, min(a, middle - LONG)) : max(b, middle + LONG)] = 1.0
    # The other detector's dissolves need a word of the network's. Its cuts and wipes do not: shots of a few frames, cuts between
    # alike scenes and all wipes are often unknown to the network.
    own = cut.copy()
    for a, b in _runs((mixed >= MIXED) & (mixed <= 1)):
        if likely_N2[a:b].max() < LEAST_LIKELY:
            own[a:b], between[a:b] = 0, 0.0
    for number in np.flatnonzero(own).tolist():
        near = slice(max(0, number - NEAR), number + NEAR + 1)
        if not found[near].any() and not (between[near] > mixed[near]).any():
            found[number] = 1
    return Settled(found, between)


def _transitions(likely_N2: NDArray[np.float32]) -> Iterator[tuple[int, int]]:
    """First frame, and frame after the last, of what the network calls transitions."""
    for a, b in _runs(likely_N2.max(1) > LIKELY):
        if b - a >= LONG or likely_N2[a:b, 0].max() >= SHARP:
            yield a, b


def _runs(flags: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """First frame, and frame after the last, of each run of flagged frames."""
    borders = np.flatnonzero(np.diff(np.concatenate([[0], flags.astype(np.int8), [0]])))
    return [(int(a), int(b)) for a, b in zip(borders[::2], borders[1::2], strict=True)]
