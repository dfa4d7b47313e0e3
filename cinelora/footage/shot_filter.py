"""What of a file is worth training on: the numbers of a survey enter, its shots leave, each with the reasons against it.

Pure arithmetic on arrays, so that other limits cost no second look at the footage. It does not know files, frames to be
picked, or other files; what is shown twice among all of them is found in ``copies``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cinelora.config.schema import FootageLimits
from cinelora.footage.logos import logo_share
from cinelora.footage.settled_cuts import MIXED
from cinelora.footage.shot_detection import HELD_FRAMES, MIX_REACH, REPEATED, STEP_SHARE, Survey
from cinelora.footage.subtitles import overlaid

FLAT_SPREAD = 6.0
"""Standard deviation of luma, in levels, below which a frame shows nothing: black, white, or a colour between two scenes."""
DARK_SPREAD, DARK_SHARE, DARK_LUMA = 1.5, 0.15, 3.0
"""A shot is a dark scene, and not flat, where the median of its spread is under ``2 * FLAT_SPREAD``, but at least
``DARK_SPREAD`` levels and ``DARK_SHARE`` of the median luma, which is at least ``DARK_LUMA``. Grain on black or grey spreads
less."""
RUN_FRAMES = 3
"""Flat or mixed frames in a row that part two shots; fewer are a flash."""
STEADY_S = 0.5
"""Seconds over which a camera's motion is averaged to tell a pan from a shake."""
FEW_SHOTS = 4
"""A film of fewer shots has no sharpness of its own, nor a leader and credits."""
BARS_LEAST, BARS_LIKE, BARS_AGREE = 0.01, 0.015, 0.6
"""Bars are at least so large a share of the side; opposite ones are as alike as this; and so many pictures of a film agree."""

NO_PICTURE = ("blank", "a fade", "lettering")
"""How reasons begin that say that a shot is lettering or nothing, rather than a bad picture."""
TITLED = "a title: lettering is laid over the picture; data.subtitles=keep keeps it"
DAMAGED = "damaged: frames are lost or broken"
UNSEEN = "not measured: lettering, as the shot is too short for a sampled picture"
Box = tuple[float, float, float, float]
Subtitles = Literal["crop", "refuse", "keep"]


@dataclass(frozen=True)
class Shot:
    """Frames ``start`` to ``end`` - 1 of a file, with what speaks against them.

    ``against`` holds for stills and windows, ``against_motion`` for windows alone: a picture that stands still is still a
    picture. ``measures`` are None where they could not be taken. ``bars`` are shares of the picture to be cut at left, top,
    right, bottom; ``samples`` numbers of its pictures.
    """

    start: int
    end: int
    against: tuple[str, ...] = ()
    against_motion: tuple[str, ...] = ()
    measures: dict[str, float | None] = field(default_factory=dict)
    bars: Box | None = None
    samples: tuple[int, ...] = ()


def judge(
    survey: Survey,
    limits: FootageLimits | None,
    typical_sharpness: float | None = None,
    subtitles: Subtitles = "refuse",
) -> list[Shot]:
    """The shots of a file, in order; None for limits finds cuts and nothing else.

    ``typical_sharpness`` is what sharpness is compared with in a file of few shots, where its own median says little.
    """
    if limits is None:
        return [piece for start, end in survey.shots for piece in _pieces(survey, start, end, shown=False)]
    survey = _with_titles(survey)
    shots = [piece for start, end in survey.shots for piece in _pieces(survey, start, end)]
    film_bars, shapes = bars_of(survey.bars), shapes_of(survey)
    usual = sharpness_of(survey) if len(survey.shots) >= FEW_SHOTS or not typical_sharpness else typical_sharpness
    logo = logo_share(survey, film_bars) if limits.logo is not None else None
    judged = [_judged(survey, shot, limits, shapes, usual, logo) for shot in shots]
    return _named_ends(_without_subtitles(survey, judged, subtitles))


# -- pieces: what is no picture is cut away ----------------------------------------------------------------------------


def _pieces(survey: Survey, start: int, end: int, shown: bool = True) -> Iterator[Shot]:
    """A shot in pieces: what is flat, mixed or damaged has its reason, the pictures between are shots.

    What they have ``shown`` may be passed over: damaged frames cannot be read in any case.
    """
    # Two signs cut a shot in pieces. A fade to black is both flat and mixed in places: there flat counts, so that the black
    # has one name. What is damaged is none of the two, and cut out whatever it shows. 0 to 3 number the kinds of frames, and
    # each run of one kind becomes a piece.
    least = min(RUN_FRAMES, survey.num_frames)
    flat = _long_runs(_shows_nothing(survey, slice(start, end)), least)
    mixed = _wider(_long_runs(survey.mixture[start:end] >= MIXED, least)) & ~flat
    damaged = survey.damaged[start:end] > 0
    kinds = np.where(damaged, 3, (flat + 2 * mixed) * shown)
    reasons = {0: (), 1: ("blank: nothing but one tone",), 2: ("a fade or dissolve",), 3: (DAMAGED,)}
    for kind, run in groupby(range(end - start), key=lambda i: int(kinds[i])):
        frames = list(run)
        first, stop = start + frames[0], start + frames[-1] + 1
        yield Shot(first, stop, reasons[kind], samples=_samples(survey, first, stop))


def _shows_nothing(survey: Survey, frames: slice) -> NDArray[np.bool_]:
    """Which frames of a shot are of one tone; in a dark scene fewer are."""
    spread = survey.spread[frames]
    usual, luma = float(np.median(spread)), float(np.median(survey.luma[frames]))
    is_dark = max(DARK_SPREAD, DARK_SHARE * luma) <= usual < 2 * FLAT_SPREAD and luma >= DARK_LUMA
    return np.asarray(spread < (DARK_SPREAD if is_dark else FLAT_SPREAD))


def _long_runs(flags: NDArray[np.bool_], least: int) -> NDArray[np.bool_]:
    runs = [[value] * len(list(run)) for value, run in groupby(flags.tolist())]
    return np.array([value and len(run) >= least for run in runs for value in run], bool)


def _wider(flags: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Runs with the frames at both ends of which only half the reach is mixed."""
    # A frame is marked where any within `MIX_REACH` - 1 of it is. The middle is cut out of the whole product by hand: for
    # shots shorter than the kernel numpy's "same" has the kernel's length, not the shot's.
    reach = MIX_REACH - 1
    return np.convolve(flags, np.ones(2 * reach + 1))[reach : reach + len(flags)] > 0 if len(flags) else flags


# -- verdicts ----------------------------------------------------------------------------------------------------------


def _judged(
    survey: Survey, shot: Shot, limits: FootageLimits, shapes: list[list[float]], usual: float, logo: float | None
) -> Shot:
    measures = measured(survey, shot, usual) | {"logo": logo}
    # What is no picture needs no further reason.
    bounds = [] if shot.against else BOUNDS
    reasons = [(bound.of_motion, bound.reason(measures, limits)) for bound in bounds]
    return replace(
        shot,
        against=(*shot.against, *(reason for of_motion, reason in reasons if reason and not of_motion)),
        against_motion=tuple(reason for of_motion, reason in reasons if reason and of_motion),
        measures=measures,
        bars=_shot_bars(survey, shot, shapes),
    )


def _without_subtitles(survey: Survey, shots: list[Shot], how: str) -> list[Shot]:
    """The shots of a film, without the part that subtitles take, or with a reason where they bear some, or titles."""
    if how == "keep":
        return shots
    found = overlaid(survey)
    shots = _refused(shots, found.titled, TITLED)
    if found.band is None:
        return shots
    if how == "crop":
        # Off every shot, as lines may stand between the pictures that were looked at, and one film is to have one shape.
        sides = ((shot, shot.bars or (0.0,) * 4) for shot in shots)
        return [
            replace(shot, bars=(left, top, right, max(bottom, found.band)))
            for shot, (left, top, right, bottom) in sides
        ]
    return _refused(
        shots, found.subtitled, f"subtitles in the lowest {found.band:.0%} of it; data.subtitles=crop cuts them off"
    )


def _with_titles(survey: Survey) -> Survey:
    """The survey with the shares of each picture under titles (``text``) and under ``signs``, where a network was asked."""
    if survey.letters is None:
        return survey
    found, signs = overlaid(survey), np.zeros_like(survey.text)
    # Where a line may be a sign or a title, strokes have the word, as they have without a network.
    text = np.where(np.isin(range(len(signs)), [*found.unsure]), survey.text, 0)
    for shares, numbers in ((text, found.titled), (signs, found.signed)):
        for number, share in numbers.items():
            shares[number] = max(float(shares[number]), share)
    return replace(survey, arrays={**survey.arrays, "text": text, "signs": signs})


def _refused(shots: list[Shot], pictures: Iterable[int], reason: str) -> list[Shot]:
    """The shots, with a reason against those that bear something in one of these pictures, and have none yet."""
    bear = frozenset(pictures)
    return [
        replace(shot, against=(reason,)) if bear.intersection(shot.samples) and not shot.against else shot
        for shot in shots
    ]


@dataclass(frozen=True)
class Bound:
    """A measure that must not lie below or above a limit, and the words for one that does."""

    limit: str
    measure: str
    least: bool
    words: str
    of_motion: bool = False

    def reason(self, measures: dict[str, float | None], limits: FootageLimits) -> str:
        """Why a shot fails, "" where it does not, or where it has no such measure, as a still has no length.

        Lettering that could not be looked for fails: any frame may bear it.
        """
        value, limit = measures[self.measure], getattr(limits, self.limit)
        if limit is None:
            return ""
        if value is None:
            return UNSEEN if self.measure == "text" else ""
        fails = value < limit if self.least else value > limit
        return self.words.format(value, limit) if fails else ""


BOUNDS = (
    Bound("min_seconds", "seconds", True, "too short: {:.2f} s of {:g} s"),
    Bound("sharpness", "sharpness", True, "blurred: {:.2f} of the film's sharpness, {:g} wanted"),
    Bound("dark", "black", False, "too dark: {:.0%} of it is black, {:.0%} allowed"),
    Bound("bright", "burnt", False, "too bright: {:.0%} of it is burnt out, {:.0%} allowed"),
    Bound("text", "text", False, "lettering on {:.1%} of it, {:.1%} allowed"),
    Bound("logo", "logo", False, "a logo: {:.1%} of every picture of the film is the same, {:.1%} allowed"),
    Bound("still", "motion", True, "stands still: {:.4f} widths a second, {:g} wanted", of_motion=True),
    Bound("fast", "motion", False, "too fast: {:.2f} widths a second, {:g} allowed", of_motion=True),
    Bound("shake", "shake", False, "shaken: {:.2f} widths a second to and fro, {:g} allowed", of_motion=True),
)


def measured(survey: Survey, shot: Shot, usual_sharpness: float) -> dict[str, float | None]:
    """The numbers that are held against limits: medians over the shot's frames, of lettering over its pictures.

    None for what cannot be measured: length and motion of a still, shake of a shot too short for its mean, lettering of one that
    has no sampled picture.
    """
    frames = slice(shot.start, shot.end)
    inner = slice(min(shot.start + 1, shot.end - 1), shot.end)  # the first frame's motion is across the cut
    seconds = survey.seconds[frames]
    fps = float(survey.about.fps)
    samples, is_still = list(shot.samples), survey.num_frames == 1
    texts = survey.text[samples]
    repeats = are_repeats(survey.change[inner])
    moving = survey.motion[inner][~repeats] if not repeats.all() else np.zeros(1)
    return {
        "seconds": None if is_still else float(seconds[-1] - seconds[0]) + 1 / fps,
        "sharpness": float(np.median(survey.sharpness[frames])) / max(usual_sharpness, 1e-6),
        "black": float(np.median(survey.black[frames])),
        "burnt": float(np.median(survey.burnt[frames])),
        "text": float(np.median(texts)) if len(texts) else None,
        "motion": None if is_still else float(np.median(moving)),
        "shake": _shake(survey, inner, repeats, fps),
        "repeats": float(repeats.mean()) if shot.end - shot.start > 1 else None,
    } | ({"signs": float(survey.signs[samples].max())} if samples and "signs" in survey.arrays else {})


def are_repeats(change: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Which frames of a shot repeat the one before: they hardly differ, or far less than steps between held pictures do."""
    # Compression and grain make a repeat differ a little. Pictures are held where all frames are either steps or differ by half
    # of the least of those at most, and no picture lasts longer than `HELD_FRAMES`.
    alike = change <= REPEATED
    usual = float(np.percentile(change, 95)) if len(change) else 0.0
    steps = np.flatnonzero(change >= STEP_SHARE * usual)
    is_held = 2 < len(steps) < 0.7 * len(change) and np.diff(steps).max() <= HELD_FRAMES
    rest = np.delete(change, steps) if is_held else change
    if not is_held or rest.max() > change[steps].min() / 2:
        return alike
    held = np.ones(len(change), bool)
    held[steps] = False
    return held


def _even(velocity: NDArray[np.float32], repeats: NDArray[np.bool_]) -> NDArray[np.float32]:
    """The velocity of pictures that are held, spread over the frames that each step stands for."""
    steps = np.flatnonzero(~repeats)
    if len(steps) < 2:
        return velocity
    starts = np.concatenate([[0], steps[:-1] + 1])  # a step moves what was held since the step before
    lengths = np.diff([*starts, len(velocity)])
    return np.repeat(np.add.reduceat(velocity, starts) / lengths, lengths)


def _shake(survey: Survey, frames: slice, repeats: NDArray[np.bool_], fps: float) -> float | None:
    """Mean distance of the camera's velocity from its own average over ``STEADY_S``, in widths a second; None of less."""
    width = max(3, round(STEADY_S * fps) | 1)
    total = 0.0
    for velocity in (survey.pan_x[frames], survey.pan_y[frames]):
        if len(velocity) < width:
            return None
        velocity = _even(velocity, repeats)
        steady = np.convolve(velocity, np.ones(width) / width, "valid")
        edge = width // 2
        total += float(np.abs(velocity[edge : edge + len(steady)] - steady).mean()) ** 2
    return math.sqrt(total)


def sharpness_of(survey: Survey) -> float:
    """The sharpness a film's frames have as a rule: the median over those that show something."""
    shown = survey.sharpness[survey.spread >= FLAT_SPREAD]
    return float(np.median(shown)) if len(shown) else 0.0


def _samples(survey: Survey, start: int, end: int) -> tuple[int, ...]:
    """The numbers of the sampled pictures that lie in frames ``start`` to ``end`` - 1."""
    return tuple(range(*np.searchsorted(survey.sample, (start, end)).tolist()))


def _named_ends(shots: list[Shot]) -> list[Shot]:
    """What comes before the first picture is the leader, and lettering after the last the credits."""
    plain = [i for i, shot in enumerate(shots) if not any(reason.startswith(NO_PICTURE) for reason in shot.against)]
    if len(shots) < FEW_SHOTS or not plain:
        return shots
    before, after = shots[: plain[0]], shots[plain[-1] + 1 :]
    return [*_named(before, "leader"), *shots[plain[0] : plain[-1] + 1], *_named(after, "credits")]


def _named(shots: list[Shot], name: str) -> Iterator[Shot]:
    return (replace(shot, against=tuple(f"{name}: {reason}" for reason in shot.against)) for shot in shots)


# -- bars -------------------------------------------------------------------------------------------------------------


def bars_of(bars_N4: NDArray[np.float32]) -> Box | None:
    """The bars most pictures of a film agree on, opposite ones alike; None where there are none."""
    known = bars_N4[bars_N4[:, 0] >= 0]
    if len(known) == 0:
        return None
    usual = np.median(known, axis=0)
    agree = np.abs(known - usual).max(1) <= BARS_LIKE
    if agree.mean() < BARS_AGREE:
        return None
    # Bars come in pairs, left and right or top and bottom, and are alike. A single dark side is a dark side of the scene.
    left, top, right, bottom = usual.tolist()
    if min(left, right) < BARS_LEAST or abs(left - right) > BARS_LIKE:
        left = right = 0.0
    if min(top, bottom) < BARS_LEAST or abs(top - bottom) > BARS_LIKE:
        top = bottom = 0.0
    return (left, top, right, bottom) if any((left, top, right, bottom)) else None


def shapes_of(survey: Survey) -> list[list[float]]:
    """For left, top, right and bottom: how far bars reach there somewhere in the film, as shares of the picture.

    A bar is what ends in a picture that is mostly not black, on the opposite side as well, in two sampled pictures or the only
    one; or on one side alone throughout the film; or what most pictures agree on, however dark.
    """
    found: list[list[float]] = []
    sure = np.where(survey.bars_lit > 0, survey.bars, 0.0)
    known, usual = sure[survey.bars[:, 0] >= 0], bars_of(survey.bars) or (0.0,) * 4
    for side in range(4):
        here, paired = known[:, side], known[:, (side + 2) % 4] >= BARS_LEAST
        shapes: list[float] = []
        for reach in sorted({float(value) for value in here if value >= BARS_LEAST}, reverse=True):
            if shapes and shapes[-1] - reach <= BARS_LIKE / 2:
                continue
            same = np.abs(here - reach) <= BARS_LIKE
            if (same & paired).sum() >= min(2, len(known)) or same.mean() >= BARS_AGREE:
                shapes.append(reach)
        found.append([*shapes, usual[side]])
    return found


def _shot_bars(survey: Survey, shot: Shot, shapes: list[list[float]]) -> Box | None:
    """Each side by itself: the largest of the film's shapes within what is black in all of the shot's pictures."""
    own = survey.bars[list(shot.samples)] if shot.samples else survey.bars[:0]
    own = own[own[:, 0] >= 0]
    # A shot that is too dark to tell, or has no sampled picture, has the bars of all the others, where they agree.
    black = own.min(0) if len(own) else bars_of(survey.bars) or np.zeros(4)
    left, top, right, bottom = (
        max((reach for reach in reaches if reach <= share + BARS_LIKE / 2), default=0.0)
        for reaches, share in zip(shapes, np.asarray(black).tolist(), strict=True)
    )
    return (left, top, right, bottom) if any((left, top, right, bottom)) else None
