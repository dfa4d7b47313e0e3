"""Which frames of a shot are trained on: stills that are sharp, windows at the model's rate that keep the speed of motion.

Enters: a survey, and a shot of it. Leaves: frame indices, and for windows how much of the frame after each is blended in.
It does not know why a shot is good.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from cinelora.footage.shot_detection import REPEATED, Survey
from cinelora.footage.shot_filter import Shot

STEADY_RATE = 0.25
"""How far, in frames, a frame's time may lie from that of a constant rate before the times themselves are taken."""
BESIDE_CUT = 2
"""Frames at each end of a shot that no still is taken from, where it is long enough: a blended frame is none."""
LEAST_NEW = 0.3
"""Share of a window's frames that must be another picture than the one before: 4 a second at 16 frames a second are no motion,
drawings on threes are (8 a second, or a half)."""
Window = tuple[tuple[int, ...], tuple[float, ...]]
"""Frames, and nothing or the fraction of the frame after each."""


def even_stills(start: int, end: int, count: int) -> list[int]:
    """At most ``count`` frames at even distances inside a shot, without its first and last where it is long enough."""
    inside = end - start - 2
    if inside < 1:
        return [(start + end) // 2]
    return sorted({start + 1 + (2 * k + 1) * inside // (2 * count) for k in range(count)})


def sharp_stills(survey: Survey, shot: Shot, count: int) -> list[int]:
    """The sharpest frame of each of ``count`` equal parts of a shot, those beside its cuts left out."""
    first, last = shot.start + BESIDE_CUT, shot.end - BESIDE_CUT
    if last - first < count:
        return even_stills(shot.start, shot.end, count)
    borders = [first + (last - first) * k // count for k in range(count + 1)]
    return [a + int(survey.sharpness[a:b].argmax()) for a, b in pairwise(borders)]


def resampled_length(num_frames: int, source_fps: Fraction, fps: int) -> int:
    """How many frames at ``fps`` find their nearest frame among ``num_frames`` at ``source_fps``."""
    return math.ceil((num_frames - Fraction(1, 2)) * fps / source_fps)


def windows(survey: Survey, shot: Shot, fps: int, num_frames: int, stride: int, blend: bool) -> Iterator[Window]:
    """Windows of ``num_frames`` at ``fps`` that begin ``stride`` frames apart within a shot.

    Frame i at ``fps`` is the source frame nearest in time, counted from the shot's first: at a constant rate
    floor(i * source_fps / fps + 1/2), so that 24 fps to 16 gives 0, 2, 3, 5, 6, 8. Frames that only repeat the one before
    are passed over, and so are windows of fewer new pictures than ``LEAST_NEW``.
    With ``blend`` it is the two frames around that time, mixed by how near they are.
    """
    frames, weights = resampled(survey, shot, fps, blend)
    for first in range(0, len(frames) - num_frames + 1, stride):
        window, mixed = tuple(frames[first : first + num_frames]), tuple(weights[first : first + num_frames])
        if new_share(window) >= LEAST_NEW:
            yield window, mixed if any(mixed) else ()


def new_share(frames: Sequence[int]) -> float:
    """Share of frames, after the first, that are another than the one before; 1 of a single frame."""
    return sum(a != b for a, b in pairwise(frames)) / (len(frames) - 1) if len(frames) > 1 else 1.0


def resampled(survey: Survey, shot: Shot, fps: int, blend: bool) -> tuple[list[int], list[float]]:
    """All frames of a shot at ``fps``, and the fraction of the frame after each."""
    # A model at 16 fps that is shown a film of 24 frame by frame would learn that people walk at two thirds of their speed.
    # So frames are chosen by time. `places` says for each frame wanted where its time lies among the source's frames: 2.25
    # is a quarter of the way from the third to the fourth. Without blending the nearest is used, else both, by nearness.
    #
    # Two sources need two ways. At a constant rate place i is i * source / fps, exactly, in fractions: with floats a place
    # of x.5 would fall to one side or the other by chance. A phone films at a rate that varies, and a film with repeated
    # frames has fewer than its rate says: there the time stamps themselves are interpolated.
    shown = _distinct(survey, shot)
    rate = survey.about.fps
    seconds = survey.seconds[shown]
    even = seconds[0] + (shown - shown[0]) / float(rate)
    if len(shown) == shot.end - shot.start and np.abs(seconds - even).max() * float(rate) < STEADY_RATE:
        length = resampled_length(len(shown), rate, fps)
        exact = [i * rate / fps for i in range(length)]
        if not blend:
            return [shot.start + math.floor(place + Fraction(1, 2)) for place in exact], [0.0] * length
        places = np.array(exact, float)
    else:
        length = math.ceil((seconds[-1] - seconds[0] + 0.5 / float(rate)) * fps)
        places = np.interp(seconds[0] + np.arange(length) / fps, seconds, np.arange(len(shown)))
    if not blend:
        return shown[np.floor(places + 0.5).astype(int)].tolist(), [0.0] * length
    return _mixed(shown, places)


def _mixed(shown: NDArray[np.int64], places: NDArray[np.float64]) -> tuple[list[int], list[float]]:
    """The frame before each place and the fraction of the one after it, in hundredths; none after the shot's last."""
    # 2.997 is rounded to a fraction of 1.00: that is frame 3 and nothing of the next.
    before = np.minimum(np.floor(places).astype(int), len(shown) - 1)
    weights = np.round(places - before, 2)
    before, weights = np.where(weights >= 1, before + 1, before), np.where(weights >= 1, 0.0, weights)
    frames = shown[np.minimum(before, len(shown) - 1)]
    after = shown[np.minimum(before + 1, len(shown) - 1)]
    # A reader blends a frame with the one that follows it in the file. Where that one was dropped because it repeats this
    # one, or belongs to the next shot, nothing is blended.
    weights[after != frames + 1] = 0.0
    return frames.tolist(), weights.tolist()


def _distinct(survey: Survey, shot: Shot) -> NDArray[np.int64]:
    # Film on television repeats frames, and so do screen recordings and animation "on twos". A window of them would show
    # motion that stops and starts; only frames that differ from the one before are kept, at their own times.
    frames = np.arange(shot.start, shot.end)
    fresh = survey.change[shot.start : shot.end] > REPEATED
    fresh[0] = True
    # a shot that hardly moves anywhere is not full of repeated frames
    return frames[fresh] if fresh.mean() >= 0.5 else frames
