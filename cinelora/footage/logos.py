"""A logo in a film: something small that is drawn at the same place, whatever the picture shows.

Enters: a survey, which holds the edges of every sampled picture as bits. Leaves: the share of the picture under a logo.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from cinelora.footage.shot_detection import FLOW_SIZE, Survey

SETUPS, VOTES = 5, 0.9
"""Set-ups that a film needs before it can have a logo, and the share of them in which a logo's edges are at the same place."""
SAME_SETUP = 0.3
"""Correlation of the edges of two shots from which they are of one set-up; those of other scenes reach 0.1."""
LARGEST, LEAST_EDGE = 0.12, 6
"""The largest share of the picture that a logo's box covers, and the fewest pixels of edge in it, at ``FLOW_SIZE``."""
Box = tuple[float, float, float, float]


def logo_share(survey: Survey, film_bars: Box | None) -> float | None:
    """Share of the picture under edges that stand at the same place in one set-up after the other; None in a film of few."""
    # A camera on a tripod draws the same edges in every picture, and a film of two or three set-ups has much in common by chance.
    # So each shot is asked once, and shots that share a set-up have one vote: what they agree on is their room.
    edges_NHW = _one_picture_a_shot(survey, film_bars)
    if len(edges_NHW) < SETUPS:
        return None
    votes_MHW = np.stack([group.mean(0) >= 0.5 for group in _setups(edges_NHW)])
    if len(votes_MHW) < SETUPS:
        return None
    stays = _compact(votes_MHW.mean(0) >= VOTES)
    return float(cv2.dilate(stays.astype(np.uint8), np.ones((3, 3), np.uint8)).mean())


def _one_picture_a_shot(survey: Survey, film_bars: Box | None) -> NDArray[np.bool_]:
    """The edges of the middle picture of each shot, without the rims of the picture and of its bars, which are edges as well."""
    width, height = FLOW_SIZE
    left, top, right, bottom = film_bars or (0.0, 0.0, 0.0, 0.0)
    inside = np.zeros((height, width), bool)
    inside[
        2 + round(top * height) : height - 2 - round(bottom * height),
        2 + round(left * width) : width - 2 - round(right * width),
    ] = True
    of_shots = (range(*np.searchsorted(survey.sample, shot).tolist()) for shot in survey.shots)
    middles = [numbers[len(numbers) // 2] for numbers in of_shots if numbers]
    unpacked = [np.unpackbits(survey.edges[number]).reshape(height, width) > 0 for number in middles]
    return np.array([edges & inside for edges in unpacked], bool).reshape(-1, height, width)


def _setups(edges_NHW: NDArray[np.bool_]) -> list[NDArray[np.bool_]]:
    """The shots of each set-up together: those whose edges correlate with its first one's outside what all of them share."""
    shared = edges_NHW.mean(0) >= VOTES  # a logo makes all shots a little alike
    flat = edges_NHW[:, ~cv2.dilate(shared.astype(np.uint8), np.ones((5, 5), np.uint8)).astype(bool)].astype(np.float32)
    flat -= flat.mean(1, keepdims=True)
    flat /= np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-6)
    left, found = np.arange(len(flat)), list[NDArray[np.bool_]]()
    while len(left):
        like = flat[left] @ flat[left[0]] >= SAME_SETUP
        like[0] = True
        found.append(edges_NHW[left[like]])
        left = left[~like]
    return found


def _compact(stays_HW: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Of the edges those that belong to something small: strokes near each other are one thing."""
    joined = cv2.morphologyEx(stays_HW.astype(np.uint8), cv2.MORPH_CLOSE, np.ones((7, 7), np.uint8))
    _, labels, boxes, _ = cv2.connectedComponentsWithStats(joined)
    kept = np.zeros_like(stays_HW)
    for label, (_, _, width, height, _) in enumerate(boxes[1:], 1):
        own = stays_HW & (labels == label)
        if width * height <= LARGEST * stays_HW.size and own.sum() >= LEAST_EDGE:
            kept |= own
    return kept
