"""A film for the network that finds cuts: frames enter one by one, and leave with what it says of each.

The network sees windows of small pictures. This module decides how windows overlap, and makes dark ones lighter. What the numbers
mean for shots is decided in ``settled_cuts``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray

from cinelora.footage.video_reader import Pixels

if TYPE_CHECKING:
    from cinelora.nn.cut_network import CutNetwork

Likely = NDArray[np.float32]
SIZE = (48, 27)
"""Width and height of the pictures that the network sees, whatever their shape was."""
WINDOW, MARGIN = 100, 10
"""Frames the network sees at once, and those at each end of them that are seen for the sake of the others. The authors keep the
middle 50 of 100; with the middle 80 it takes two thirds of the time."""
DARK_RANGE, STRETCHED_TO, MOST_STRETCH = 128.0, 235.0, 16.0
"""A window whose levels span less than the first (0.5 % at each end left out) is stretched to span the second, by the third as a
factor at most. Without that the network misses cuts at a tenth of the exposure."""


def stretched(window_THWC: Pixels) -> Pixels:
    """A window of pictures as it is, or spread over all levels where all of it is dark or dull."""
    low, high = np.percentile(window_THWC, (0.5, 99.5))
    if high - low >= DARK_RANGE:
        return window_THWC
    factor = min(MOST_STRETCH, STRETCHED_TO / max(float(high - low), 1.0))
    return np.asarray(np.clip((window_THWC - float(low)) * factor, 0, 255), np.uint8)


class CutStream:
    """Frames enter one by one; the numbers of all are there at the end."""

    def __init__(self, network: CutNetwork) -> None:
        self.network = network
        self.window: list[Pixels] = []
        self.found: list[Likely] = []
        self.seen = 0

    def see(self, frame_HWC: Pixels) -> None:
        """Take in the next frame, of any size."""
        small = np.asarray(cv2.resize(frame_HWC, SIZE, interpolation=cv2.INTER_AREA), np.uint8)
        self.window += [small] if self.window else [small] * (MARGIN + 1)
        self.seen += 1
        if len(self.window) == WINDOW:
            self._look()

    def _look(self) -> None:
        self.found.append(self.network.likely(stretched(np.stack(self.window)))[MARGIN : WINDOW - MARGIN])
        del self.window[: WINDOW - 2 * MARGIN]

    def likely(self) -> Likely:
        """The two numbers of every frame that came in (N, 2), as ``CutNetwork.forward`` has them; 0 of a single one."""
        if self.seen < 2:
            return np.zeros((self.seen, 2), np.float32)
        missing = self.seen - sum(len(piece) for piece in self.found)
        if missing:
            self.window += [self.window[-1]] * (WINDOW - len(self.window))
            self._look()
        return np.concatenate([*self.found, np.zeros((0, 2), np.float32)])[: self.seen]
