"""One pass over a file: its frames enter at a small size, and leave as numbers, with a picture now and then.

Cuts are PySceneDetect's, with what is around it here, and a network's where one is given; the other numbers say how light, sharp,
moving and alike frames are, and are judged elsewhere: a threshold that changes costs no second look at the footage. Nothing
grows with the length of a file but these numbers, 89 bytes a frame and some 6 KB a sampled picture. It does not know what a
good shot is.
"""

from __future__ import annotations

import dataclasses
import io
import json
import math
import re
import zipfile
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property, partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cinelora.errors import FileError
from cinelora.footage import transitions
from cinelora.footage.cut_stream import CutStream
from cinelora.footage.interlaced import Fields
from cinelora.footage.lettering import MOST_LINES, caption_lines, lettering
from cinelora.footage.lettering_network import MOST_LETTERS, network
from cinelora.footage.lettering_network import WIDTH as LETTERED_WIDTH
from cinelora.footage.settled_cuts import MIXED, Settled, settled
from cinelora.footage.transitions import SAME_SCENE, match
from cinelora.footage.video_reader import Pixels, Reader
from cinelora.io.atomic import write_whole
from cinelora.io.plain_data import build, opened, parse_json

if TYPE_CHECKING:
    from cinelora.nn.cut_network import CutNetwork

VERSION = 4
"""Raised whenever the same file would give other numbers."""
STILLS_VERSION = 2
"""Likewise, of pictures alone: version 1 sampled none of a still, so that bars, lettering and copies were not seen."""
WIDTH = 480
"""Pixels of the longer side that frames are looked at with; smaller footage is looked at as it is."""
FLOW_SIZE = (160, 90)
"""Width and height that motion is measured at, whatever the picture's shape."""
THUMB_WIDTH, THUMB_QUALITY = 240, 70
SAMPLE_AFTER, SAMPLE_EVERY_S = 3, 1.0
"""A picture is kept this many frames after a cut, where blended frames are over, and then once a second; of a file with
fewer frames, as a still, the last."""
PART_S = 300.0
"""Seconds of a part: long files are surveyed in parts, by several processes, and a killed survey resumes after the last."""
WARM_UP_S = 1.0
"""Seconds before a part that only tell how its first frame differs from those before."""

BLACK, BURNT = 24, 250
"""Luma up to which a pixel is black, and from which it is burnt out; bars are not always at 0."""
CUT_RATIO, CUT_LUMA = 3.0, 5.0
"""A cut is this many times the mean change of the two frames on each side, and this many levels at least. Measured on luma:
colour says nothing of a noir."""
LIT, MOST_GAIN, GAIN_STEP = 128.0, 16.0, 1.02
"""Before the detector sees a dark picture, it is multiplied until its lightest half per cent begins at ``LIT``, by ``MOST_GAIN``
at most. After a light scene the factor grows by ``GAIN_STEP`` a frame, so that this makes no cut."""
REPEATED = 0.08
"""Mean change in levels up to which a frame is the one before it, coded again."""
HELD_FRAMES, STEP_SHARE, HELD_SCENE = 8, 1 / 3, 0.7
"""Film may show each picture for some frames, as drawings on threes in 24 frames a second or 8 in 60: every new picture then
stands out from the repeats around it. It is no cut where another step, at least such a share as large, lies so near, beside a
repeat that differs by such a share of it at most, and the pictures on both sides match so well (correlation of 1) when one is
moved over the other."""
JUMP_RATIO, JUMP_MATCH, JUMP_DIP = 1.5, 0.75, 0.2
"""Where much moves a cut is this many times the mean change of the frames around it, the pictures on both sides match no better,
and those on the steps before and after it match so much better."""
REACH_S, REACH_FRAMES = 0.25, (4, 15)
"""Seconds before and after a frame that are compared to tell a dissolve, a wipe or a flash, and the least and most frames."""
GAP_S, GAP_TIMES = 1.0, 8.0
"""A frame that comes this many seconds, and this many times the usual interval, after the one before it begins another shot."""
MIX_REACH, MIX_LEVELS = 4, 4.0
"""A frame of a fade or dissolve is the mean of the frames this far before and after it, that differ by this many levels; measured
so small that what moves hardly moves from one pixel to the next."""
FLASH_FRAMES = 3
"""Two cuts so near to each other, with the same picture before and behind them, are a flash."""
RETURNS = ((0, 0), (0, 1), (0, 2), (0, 3), (1, 0), (2, 0), (3, 0))
"""Frames before the last one, and after the first one, of pictures that are the same in a flash or flicker."""
SURELY_SAME, CLEARLY = 0.95, 0.1
"""Correlation from which there is no cut between two pictures, and how much better than those beside a cut the pictures around a
flash match: one of a room and another of the same room, with a cut between them, reach 0.91 whichever are compared."""
NETWORK_FRAMES = 10
"""Frames before and after a part that a network is shown as well."""

cv2.setNumThreads(1)  # processes are what runs side by side

MEASURED = ("change", "motion", "pan_x", "pan_y", "luma", "spread", "black", "burnt", "sharpness")
CELLS = (4, 4)
"""Rows and columns of parts of the picture whose light is followed, to tell what moves in it."""
PER_FRAME: dict[str, tuple[Any, tuple[int, ...]]] = {
    **{"seconds": (np.float64, ()), "cut": (np.uint8, ()), "mixed": (np.float32, ()), "damaged": (np.uint8, ())},
    **{"same": (np.float32, ()), "likely": (np.float32, (2,))},
    **dict.fromkeys(MEASURED, (np.float32, ())),
    "cells": (np.uint16, (CELLS[0] * CELLS[1],)),
}
"""What is kept of a frame, with type and shape."""
PER_SAMPLE: dict[str, tuple[Any, tuple[int, ...]]] = {
    **{"sample": (np.int64, ()), "hash": (np.uint64, ()), "text": (np.float32, ()), "bars": (np.float32, (4,))},
    **{"bars_lit": (np.uint8, (4,)), "lines": (np.float32, (MOST_LINES, 4))},
    **{"edges": (np.uint8, (FLOW_SIZE[0] * FLOW_SIZE[1] // 8,)), "thumb_bytes": (np.int64, ())},
}
"""What is kept of a sampled picture, with type and shape; ``Survey`` says what each is."""
PER_LETTERED: dict[str, tuple[Any, tuple[int, ...]]] = {"letters": (np.float32, (MOST_LETTERS, 4))}
"""What a network adds to that, where it was asked for lettering."""
Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class About:
    """What is known of a surveyed file beside its frames; ``fps`` is its average rate, ``size`` its height and width as shown.

    ``notes`` say what of the file is not as it should be; ``fields`` how it was made whole, if it is interlaced; ``cuts`` which
    detector found them, "plain" or "learned".
    """

    fps: Fraction
    size: tuple[int, int]
    pixel_aspect: Fraction
    backend: str
    codec: str
    why: str = ""
    notes: tuple[str, ...] = ()
    fields: Fields = ""
    cuts: str = "plain"


@dataclass(frozen=True)
class Survey:
    """The numbers of one file.

    Per frame: ``seconds`` from the first; ``cut`` (1 where a shot begins); ``mixed`` (how nearly it is the mean of frames around
    it, or part of a dissolve, of 1; in a wipe 1 more); ``same`` (how well the frames before and after it match, 1 for one scene);
    ``likely`` (that a transition has its middle here, and that it covers this frame, by a network; 0 without one);
    ``damaged`` (1 where it is not as it was, or another stands for it);
    ``change`` (mean absolute difference of luma to the frame before, levels); mean ``luma`` and its ``spread``
    (standard deviation); ``black`` and ``burnt`` (shares of pixels); ``sharpness`` (standard deviation of the Laplacian);
    ``motion`` and its common part ``pan_x``, ``pan_y`` (widths of the frame a second); ``cells`` (mean luma of each of ``CELLS``,
    in 256ths of a level).

    Per sampled picture: its frame (``sample``), a 64-bit ``hash``, the share under lettering (``text``), ``bars`` (share of
    the picture that is black at left, top, right, bottom; -1 in a dark picture), ``bars_lit`` (1 where the picture beside is
    mostly not black), ``lines`` that may be captions (left, top, right and bottom of each, as shares of the picture; rows of
    zeros fill the rest), its ``edges`` (bits) and a JPEG. A network adds ``letters``: all lines of letters.
    """

    about: About
    arrays: Arrays

    def __getattr__(self, name: str) -> NDArray[Any]:
        try:
            return self.__dict__["arrays"][name]  # type: ignore[no-any-return]
        except KeyError as error:
            raise AttributeError(name) from error

    @property
    def letters(self) -> NDArray[np.float32] | None:
        """Lines of letters in each sampled picture, by a network; None where none was asked."""
        return self.arrays.get("letters")

    def without_letters(self) -> Survey:
        """The survey as it is where no network was asked for letters."""
        return replace(self, arrays={name: found for name, found in self.arrays.items() if name not in PER_LETTERED})

    @property
    def num_frames(self) -> int:
        """Frames that were decoded."""
        return len(self.arrays["seconds"])

    @property
    def shots(self) -> list[tuple[int, int]]:
        """First frame of each shot, and the frame after its last; in order and without gaps."""
        borders = [0, *(int(i) for i in np.flatnonzero(self._settled.cut) if i), self.num_frames]
        return list(pairwise(borders)) if self.num_frames else []

    @property
    def mixture(self) -> NDArray[np.float32]:
        """``mixed``, and 1 in the transitions that a network found."""
        return self._settled.mixed

    @cached_property
    def _settled(self) -> Settled:
        return settled(self.arrays["cut"], self.arrays["mixed"], self.arrays["same"], self.arrays["likely"])

    @cached_property
    def _thumb_ends(self) -> NDArray[np.int64]:
        return np.cumsum(self.arrays["thumb_bytes"])

    def thumb(self, number: int) -> bytes:
        """The JPEG of a sampled picture."""
        end = int(self._thumb_ends[number])
        return self.arrays["thumbs"][end - int(self.arrays["thumb_bytes"][number]) : end].tobytes()


# -- the pass ----------------------------------------------------------------------------------------------------------


def about(reader: Reader, seconds: NDArray[np.float64]) -> About:
    """What a reader knows of its file, whose frames come at ``seconds``."""
    header = reader.header
    fps = _usual_fps(header.fps, seconds)
    return About(fps, reader.size, header.pixel_aspect, reader.backend, header.codec, reader.why, fields=reader.fields)


def _usual_fps(average: Fraction, seconds: NDArray[np.float64]) -> Fraction:
    """The average rate, or that of most frames where it is another: a gap of an hour makes a wrong average."""
    interval = float(np.median(np.diff(seconds))) if len(seconds) > 1 else 0.0
    usual = Fraction(1 / interval).limit_denominator(1001) if interval > 0 else average
    return usual if usual > 2 * average or 0 < 2 * usual < average else average


def parts(duration_s: float | None) -> list[tuple[float, float]]:
    """Seconds at which the parts of a file begin and end; one part where its length is not known."""
    count = 1 if duration_s is None else max(1, round(duration_s / PART_S))
    return [(k * PART_S, math.inf if k == count - 1 else (k + 1) * PART_S) for k in range(count)]


def survey_part(
    reader: Reader, start_s: float, end_s: float, tick: Callable[[float], None], cut_network: CutNetwork | None = None
) -> Arrays:
    """The numbers of the frames from ``start_s`` until ``end_s``; ``tick`` hears how far it is, in seconds.

    ``cut_network`` says where transitions are likely. Raises ``UnreadableClip`` where decoding stops.
    """
    height, width = looked_at(reader.size, reader.header.pixel_aspect)
    eye = _Eye(float(reader.header.fps), start_s, end_s, _letters_by(reader), cut_network)
    for seconds, frame_HWC in reader.scaled(height, width, max(0.0, start_s - eye.warm_up_s)):
        if not eye.see(seconds, frame_HWC):
            break
        tick(seconds)
    arrays = eye.arrays()
    return arrays | {"damaged": np.array([second in reader.damaged for second in arrays["seconds"].tolist()], np.uint8)}


def _letters_by(reader: Reader) -> Callable[[], NDArray[np.float32]] | None:
    """What looks for letters in the frame that the reader gave last; None where no network is asked."""
    if reader.handling.lettering is None:
        return None
    look, (height, width) = network(reader.handling.lettering).lines, reader.size
    across = width * float(reader.header.pixel_aspect)
    scale = LETTERED_WIDTH / max(across, height / 2)  # of what is higher than two squares less is seen
    size = max(16, round(height * scale)), max(16, round(across * scale))
    return lambda: look(reader.latest_scaled(*size))


def looked_at(size: tuple[int, int], pixel_aspect: Fraction) -> tuple[int, int]:
    """Height and width that a picture of ``size`` is looked at with: square pixels, the longer side ``WIDTH`` at most."""
    height, width = float(size[0]), float(size[1] * pixel_aspect)
    shrunk = min(1.0, WIDTH / max(height, width))
    return max(16, 2 * round(height * shrunk / 2)), max(16, 2 * round(width * shrunk / 2))


def joined(pieces: Iterable[Arrays]) -> Arrays:
    """The numbers of all parts of a file, in their order."""
    # All arrays follow one another, and nothing else is needed at a border: `survey_part` has seen the frames of a second
    # before its part and some frames after it, so that a cut at the border is found by exactly one of the two parts, and
    # the first frame's change is measured against a real frame. Only numbers of frames are counted from the part's start.
    done: list[Arrays] = []
    first = 0
    for piece in pieces:
        done.append({**piece, "sample": piece["sample"] + first})
        first += len(piece["seconds"])
    whole = {name: np.concatenate([piece[name] for piece in done]) for name in done[0]}
    # Of a gap in time that reaches over a border the part behind it saw no frame before.
    jumps = np.diff(whole["seconds"])
    if len(jumps):
        whole["cut"][1:][jumps > max(GAP_S, GAP_TIMES * float(np.median(jumps)))] = 1
    return whole


class _Eye:
    """What is seen of frames one after another; those before ``start_s`` leave nothing but what the next differ from."""

    # Frames are counted twice. `seen` counts all that came in, the warm-up's `warm` frames among them: the detector, the
    # cuts and `mixed` use it. `rows` holds the part's own frames, so frame i of the part is number i + warm.
    #
    #   seen    0 ... warm-1 | warm ........ | ........
    #           warm-up        rows of part    a few more, for cuts and fades that are known only afterwards
    #                        ^ start_s       ^ end_s

    def __init__(
        self,
        fps: float,
        start_s: float,
        end_s: float,
        letters: Callable[[], NDArray[np.float32]] | None = None,
        cut_network: CutNetwork | None = None,
    ) -> None:
        # imported here because footage that was surveyed before needs no detector of cuts, and a process starts sooner
        from scenedetect import FrameTimecode
        from scenedetect.detectors import AdaptiveDetector

        self.fps, self.start_s, self.end_s = fps, start_s, end_s
        self.timecode = partial(FrameTimecode, fps=fps)
        self.detector = AdaptiveDetector(
            adaptive_threshold=CUT_RATIO, min_content_val=CUT_LUMA, min_scene_len=1, luma_only=True
        )
        self.flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST)
        self.rows: list[tuple[float, ...]] = []
        self.cells: list[NDArray[np.uint16]] = []
        self.samples: list[tuple[Any, ...]] = []
        self.look_for_letters, self.letters = letters, list[NDArray[np.float32]]()
        self.thumbs = io.BytesIO()
        self.cuts: set[int] = set()
        self.seen = self.warm = 0
        self.changes: list[float] = []
        self.same_scene: set[int] = set()
        self.gaps: set[int] = set()
        self.intervals = deque[float](maxlen=25)
        self.lightest = 0.0
        self.behind_cut: float = 0 if start_s == 0 else math.inf
        self.before: tuple[float, Pixels, Pixels] | None = None
        self.latest: Pixels | None = None
        self.reach = min(max(round(REACH_S * fps), REACH_FRAMES[0]), REACH_FRAMES[1])
        self.after = max(self.reach, NETWORK_FRAMES if cut_network else 0)
        self.warm_up_s = max(WARM_UP_S, (2 * self.reach + 1) / fps, self.after / fps)
        self.recent: deque[tuple[int, Pixels]] = deque(maxlen=2 * self.reach + 1)
        self.warper = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
        self.mixed: dict[int, float] = {}
        self.blended: dict[int, float] = {}
        self.same: dict[int, float] = {}
        self.stream = CutStream(cut_network) if cut_network else None

    def see(self, seconds: float, frame_HWC: Pixels) -> bool:
        """Look at the next frame; whether another is wanted."""
        gray = cv2.cvtColor(frame_HWC, cv2.COLOR_RGB2GRAY)
        inner = _inner(gray)
        small = cv2.resize(gray, FLOW_SIZE, interpolation=cv2.INTER_AREA)
        change, is_gap = self._change(gray), self._is_gap(seconds)
        self.changes.append(change)
        self.recent.append((self.seen, small))
        if self.stream:
            self.stream.see(frame_HWC)
        # The detector compares a frame with those on both sides, so it reports a cut some frames late; so does `_compare`, which
        # is about the middle of the frames that are kept. Hence a part reads on for some frames after its end.
        cuts = self.detector.process_frame(self.timecode(self.seen), self._lit(frame_HWC, inner))
        self.seen += 1
        self._cut_at([cut.frame_num for cut in cuts])
        if self.seen > self.reach:
            self._compare(self.seen - 1 - self.reach)
        if is_gap:
            self.gaps.add(self.seen - 1)
            self.behind_cut = 1
        if seconds >= self.end_s:
            return self.seen - self.warm - len(self.rows) <= self.after
        if seconds < self.start_s:
            self.warm += 1
        else:
            moved = self._moved(seconds, gray, small)
            self.rows.append((seconds, change, *moved, *_light(inner), _sharpness(inner)))
            self.cells.append(_cells(small))
            if self._is_due():
                self._sample(frame_HWC, gray, small)
        self.before, self.latest = (seconds, gray, small), frame_HWC
        return True

    def _lit(self, frame_HWC: Pixels, inner: Pixels) -> Pixels:
        """The frame, lighter where all of it is dark: scenes of a tenth of the exposure differ by less than a cut has to."""
        counts = cv2.calcHist([inner], [0], None, [256], [0, 256]).ravel()
        white = float(np.searchsorted(np.cumsum(counts), 0.995 * inner.size))
        self.lightest = max(white, self.lightest / GAIN_STEP)
        if self.lightest >= LIT:
            return frame_HWC
        # grain grows as well, and is taken out again
        lighter = cv2.convertScaleAbs(frame_HWC, alpha=min(MOST_GAIN, LIT / max(self.lightest, 1.0)))
        return np.asarray(cv2.blur(lighter, (5, 5)), np.uint8)

    def _is_gap(self, seconds: float) -> bool:
        """Whether so much time has passed since the frame before that the two are of no one shot."""
        if self.before is None:
            return False
        interval = seconds - self.before[0]
        usual = float(np.median(self.intervals)) if interval > GAP_S and self.intervals else math.inf
        self.intervals.append(interval)
        return interval > GAP_TIMES * usual

    def arrays(self) -> Arrays:
        """All numbers, by name."""
        if self.seen:
            self._cut_at([cut.frame_num for cut in self.detector.post_process(self.timecode(self.seen - 1))])
        for number in range(max(0, self.seen - self.reach), self.seen):
            self._compare(number)
        if self.rows and not self.samples and (self.start_s, self.end_s) == (0.0, math.inf):
            assert self.latest is not None
            assert self.before is not None
            self._sample(self.latest, *self.before[1:], alone=True)
        table = np.array(self.rows, np.float64).reshape(-1, 1 + len(MEASURED))
        numbers = range(self.warm, self.warm + len(table))
        found: Arrays = {name: column.astype(np.float32) for name, column in zip(MEASURED, table.T[1:], strict=True)}
        found["seconds"] = table[:, 0]
        cuts = {number for number in self.cuts if not self._is_held(number)} | self.gaps
        blends = self._blends(cuts)
        cuts |= {run[len(run) // 2] for run in _runs(blends)}
        found["cut"] = np.array([number in cuts for number in numbers], np.uint8)
        mixed = (max(self.mixed.get(number, 0.0), blends.get(number, 0.0)) for number in numbers)
        found["mixed"] = np.fromiter(mixed, np.float32, len(numbers))
        found["same"] = np.array([self.same[number] for number in numbers], np.float32)
        likely = self.stream.likely()[self.warm :] if self.stream else np.zeros((len(numbers), 2), np.float32)
        found["likely"] = likely[: len(numbers)]
        found["cells"] = np.array(self.cells, np.uint16).reshape(-1, *PER_FRAME["cells"][1])
        columns = list(zip(*self.samples, strict=True)) or [()] * len(PER_SAMPLE)
        for (name, (kind, shape)), column in zip(PER_SAMPLE.items(), columns, strict=True):
            found[name] = np.array(column, kind).reshape(-1, *shape)
        if self.look_for_letters:
            kind, shape = PER_LETTERED["letters"]
            found["letters"] = np.array(self.letters, kind).reshape(-1, *shape)
        found["thumbs"] = np.frombuffer(self.thumbs.getvalue(), np.uint8)
        return found

    def _cut_at(self, numbers: list[int]) -> None:
        # A flash, of a camera or lightning, is two cuts: into the white and out of it. The picture before the first and that
        # after the second are then alike, and both cuts are taken back.
        for number in numbers:
            near = [cut for cut in self.cuts if number - FLASH_FRAMES <= cut < number]
            if near and self._is_flash(min(near), number):
                self.cuts.difference_update(near)
            else:
                self.cuts.add(number)
                pictures = dict(self.recent)
                if number - 1 in pictures and match(pictures[number - 1], pictures[number]) >= HELD_SCENE:
                    self.same_scene.add(number)
                # Where pictures are held, that a step is no cut may be known only after the next: what is sampled is not.
                if not self._is_held(number):
                    self.behind_cut = self.seen - number

    def _compare(self, number: int) -> None:
        """Compare what lies before and after a frame, when enough of both was seen or the film is over."""
        pictures, last = dict(self.recent), self.seen - 1

        def at(other: int) -> Pixels:
            return pictures[min(max(other, 0), last)]

        if MIX_REACH <= number <= last - MIX_REACH:
            self.mixed[number] = _mixed(at(number - MIX_REACH), at(number), at(number + MIX_REACH))
        before, after = at(number - self.reach), at(number + self.reach)
        same = match(before, after)
        if transitions.HOPELESS < same < SAME_SCENE:
            same = max(same, transitions.warped_match(self.warper, before, after))
        ratio = self._ratio(number)
        if number > 0 and ratio >= JUMP_RATIO and self.changes[number] >= CUT_LUMA:
            here, *later = (match(at(number - 1 - back), at(number + on)) for back, on in RETURNS)
            comes_back = max(later)
            is_flash = comes_back >= SAME_SCENE and comes_back - here > CLEARLY
            if max(here, comes_back) >= SURELY_SAME or is_flash:
                self.cuts.discard(number)
            elif number not in self.cuts and self._is_jump(number, at):
                self._cut_at([number])
            if number not in self.cuts:
                same = max(same, here, comes_back)
        self.same[number] = same
        near = range(number - self.reach + 1, number + self.reach + 1)
        if same < transitions.UNLIKE and self.cuts.isdisjoint(near):
            half = max(1, self.reach // 2)
            early, middle, late = (transitions.tiny(at(number + far)) for far in (-half, 0, half))
            ends = transitions.tiny(before), transitions.tiny(after)
            near_it, wiped = (early, middle, late), transitions.wipe(ends[0], (early, middle, late), ends[1])
            is_mixed = not wiped and same < transitions.MOVED_ALONE
            if found := (1 + wiped if wiped else is_mixed and transitions.dissolve(ends[0], near_it, ends[1])):
                self.blended[number] = found

    def _ratio(self, number: int) -> float:
        """How many times larger a frame's change is than those of the two on each side."""
        beside = self.changes[max(0, number - 2) : number] + self.changes[number + 1 : number + 3]
        return self.changes[number] / max(sum(beside) / max(len(beside), 1), 0.1)

    def _is_jump(self, number: int, at: Callable[[int], Pixels]) -> bool:
        """Whether a frame begins another scene although much moves around it."""
        here, *beside = (match(at(step - 1), at(step)) for step in (number, number - 1, number + 1))
        return here < JUMP_MATCH and min(beside) - here > JUMP_DIP

    def _blends(self, cuts: set[int]) -> dict[int, float]:
        """Frames of dissolves and wipes, with how sure that is: two of three at least, none of them near a cut."""
        near = {cut + far for cut in cuts for far in range(-self.reach, self.reach + 1)}
        sure = {number: value for number, value in self.blended.items() if number not in near}
        paired = [n for n in sure if any(n + far in sure for far in (-2, -1, 1, 2))]
        half = max(1, self.reach // 2)
        return {n + far: max(sure[n], MIXED) for n in sorted(paired) for far in range(-half, half + 1)}

    def _is_held(self, number: int) -> bool:
        """Whether a cut is one of the steps from picture to picture in film that shows each for several frames."""
        if number not in self.same_scene:
            return False
        first = max(0, number - HELD_FRAMES - 1)
        changes = dict(enumerate(self.changes[first : number + HELD_FRAMES + 2], first))
        elsewhere = self.cuts - self.same_scene  # cuts to other scenes, which are no steps
        near = (number + way * far for far in range(1, HELD_FRAMES + 1) for way in (-1, 1))
        return any(
            changes[step] >= STEP_SHARE * changes[number]
            and any(
                changes[beside] <= STEP_SHARE * changes[step] for beside in (step - 1, step + 1) if beside in changes
            )
            for step in near
            if step in changes and step not in elsewhere
        )

    def _is_flash(self, first: int, behind: int) -> bool:
        pictures = dict(self.recent)
        before = pictures[first - 1]
        flash, after = (cv2.norm(before, pictures[number], cv2.NORM_L1) for number in (first, behind))
        return bool(after < flash / 2)

    def _change(self, gray: Pixels) -> float:
        """Mean change in levels against the frame before; 0 for the first."""
        if self.before is None or self.before[1].shape != gray.shape:
            return 0.0
        return cv2.norm(gray, self.before[1], cv2.NORM_L1) / gray.size

    def _moved(self, seconds: float, gray: Pixels, small: Pixels) -> tuple[float, float, float]:
        """Motion in widths a second against the frame before, and its common part across and down."""
        if self.before is None or self.before[1].shape != gray.shape:
            return 0.0, 0.0, 0.0
        past_s, _, past_small = self.before
        field_HW2 = self.flow.calc(past_small, small, None)
        widths = 1 / (FLOW_SIZE[0] * max(seconds - past_s, 1e-3))
        # The flow is measured in pixels of 160 x 90, whatever the picture's shape. Widths of the frame are the unit; what goes
        # down is first put back in proportion, as the small picture may be squeezed.
        across = field_HW2[..., 0]
        down = field_HW2[..., 1] * (gray.shape[0] / gray.shape[1] * FLOW_SIZE[0] / FLOW_SIZE[1])
        motion = float(cv2.magnitude(across, down).mean())
        return motion * widths, float(np.median(across)) * widths, float(np.median(down)) * widths

    def _is_due(self) -> bool:
        # `behind_cut` counts frames since the last cut. At 3 a picture is due, then once a second: each time the count is set
        # back to just after the first, so that every later picture waits a second more.
        due = self.behind_cut == SAMPLE_AFTER or self.behind_cut >= SAMPLE_AFTER + SAMPLE_EVERY_S * self.fps
        self.behind_cut = SAMPLE_AFTER + 1 if due else self.behind_cut + 1
        return due

    def _sample(self, frame_HWC: Pixels, gray: Pixels, small: Pixels, alone: bool = False) -> None:
        jpeg = _jpeg(frame_HWC)
        self.thumbs.write(jpeg)
        edges = np.packbits(cv2.Canny(small, 80, 160) > 0)
        number = len(self.rows) - 1
        black, lit = bars(gray, alone), [share > 0 for share in bars(gray, alone=True)]
        measured = (_hash(gray), lettering(gray), black, lit, caption_lines(gray))
        self.samples.append((number, *measured, edges, len(jpeg)))
        if self.look_for_letters:
            self.letters.append(self.look_for_letters())


def _runs(numbers: Iterable[int]) -> list[list[int]]:
    """Numbers, parted where one is missing."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return runs


# -- single frames -----------------------------------------------------------------------------------------------------


def _inner(gray: Pixels) -> Pixels:
    """The picture without what bars may cover: 15 % of each side, 13 for CinemaScope on a 16:9 screen or 4:3 on one."""
    height, width = gray.shape
    return gray[height * 3 // 20 : height - height * 3 // 20, width * 3 // 20 : width - width * 3 // 20]


def _light(gray: Pixels) -> tuple[float, float, float, float]:
    counts = cv2.calcHist([gray], [0], None, [256], [0, 256]).ravel() / gray.size
    levels = np.arange(256)
    mean = float(counts @ levels)
    spread = math.sqrt(max(float(counts @ levels**2) - mean**2, 0.0))
    return mean, spread, float(counts[: BLACK + 1].sum()), float(counts[BURNT:].sum())


def _sharpness(gray: Pixels) -> float:
    return float(cv2.meanStdDev(cv2.Laplacian(gray, cv2.CV_16S))[1][0, 0])


def _mixed(before: Pixels, frame: Pixels, behind: Pixels) -> float:
    """How nearly a frame is the mean of two others, 1 for equal; 0 where the two hardly differ."""
    # In a dissolve every picture is a mixture of two scenes, a bit more of the second each frame: the one in the middle is
    # the mean of its neighbours. In a shot with motion the middle frame is something else, at the cut it is like one of
    # the two, which is half of `apart` from the mean: the measure is then 0.
    middle, *ends = (transitions.tiny(picture) for picture in (frame, before, behind))
    apart = float(np.abs(ends[0] - ends[1]).mean())
    if apart < MIX_LEVELS:
        return 0.0
    rest = float(np.abs(middle - (ends[0] + ends[1]) / 2).mean())
    if 1 - 2 * rest / apart < MIXED:
        return max(0.0, 1 - 2 * rest / apart)
    # A soft picture that is panned slowly is the mean of those around it, too; but it is also one of them, moved.
    moved = min(transitions.moved_apart(end, middle) for end in ends)
    return max(0.0, 1 - rest / max(moved, 1e-3)) if 2 * moved < apart else 1 - 2 * rest / apart


def _cells(gray: Pixels) -> NDArray[np.uint16]:
    """Mean luma of each part of the picture, in 256ths of a level: what moves changes some parts, and by less than a level."""
    rows, columns = CELLS
    means = cv2.resize(gray.astype(np.float32), (columns, rows), interpolation=cv2.INTER_AREA)
    return np.asarray(means.ravel() * 256, np.uint16)


def _hash(gray: Pixels) -> int:
    """Whether each of 8 x 8 places is lighter than the one at its right (dHash)."""
    small = cv2.resize(gray, (9, 8), interpolation=cv2.INTER_AREA).astype(np.int16)
    return int.from_bytes(np.packbits(small[:, 1:] > small[:, :-1]).tobytes(), "big")


def bars(gray: Pixels, alone: bool = False) -> tuple[float, float, float, float]:
    """Share of the picture that is flat black at its left, top, right and bottom; -1 each where it is too dark to tell.

    Of a picture that stands ``alone``, with no others to agree, a bar must end in a line most of which is no longer black: what
    was photographed before black is not cut to its outline.
    """
    rows, columns = _are_bars(gray), _are_bars(gray.T)
    if rows.mean() > 0.7 or columns.mean() > 0.7:
        return -1.0, -1.0, -1.0, -1.0
    top, bottom = _bar(gray, rows, alone), _bar(gray[::-1], rows[::-1], alone)
    left, right = _bar(gray.T, columns, alone), _bar(gray.T[::-1], columns[::-1], alone)
    height, width = gray.shape
    return left / width, top / height, right / width, bottom / height


def _bar(lines: Pixels, are_bars: NDArray[np.bool_], alone: bool) -> int:
    """How many lines from the first on are a bar."""
    count = int(np.argmin(are_bars))
    # the line next to a bar may be half of each, from scaling
    beside = lines[min(count + 1, len(lines) - 1)]
    return 0 if alone and (beside > BLACK + 4).mean() < 0.5 else count


def _are_bars(lines: Pixels) -> NDArray[np.bool_]:
    """Which lines of the picture are black and flat: a dark scene is not flat, for its grain."""
    low, high = np.percentile(lines, (2, 98), axis=1)
    return np.asarray((high <= BLACK + 4) & (high - low <= 6))


def _jpeg(frame_HWC: Pixels) -> bytes:
    picture = Image.fromarray(frame_HWC)
    picture.thumbnail((THUMB_WIDTH, THUMB_WIDTH))
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=THUMB_QUALITY)
    return out.getvalue()


# -- on disk -----------------------------------------------------------------------------------------------------------


def save_arrays(path: Path, arrays: Arrays, note: dict[str, Any]) -> None:
    """Write numbers and a note as an ``.npz`` without pickle, whole or not at all."""
    text = np.frombuffer(json.dumps({"version": VERSION, **note}).encode(), np.uint8)
    write_whole(path, lambda draft: np.savez(draft, allow_pickle=False, note=text, **arrays))


def load_arrays(path: Path) -> tuple[Arrays, dict[str, Any]] | None:
    """What ``save_arrays`` wrote; None where there is nothing of this version, or only a damaged file."""
    try:
        with opened(path) as content, np.load(content, allow_pickle=False) as file:
            # Stored as they are, arrays take the bytes that the file has; one that is packed may unfold to any size.
            if any(entry.compress_type or entry.file_size > entry.compress_size for entry in file.zip.infolist()):
                return None
            arrays = {name: file[name] for name in file.files}
        note = parse_json(arrays.pop("note").tobytes().decode(), dict[str, Any], path)
    except (OSError, ValueError, KeyError, MemoryError, EOFError, RuntimeError, zipfile.BadZipFile, FileError):
        return None
    return (arrays, note) if note.pop("version", None) == VERSION and _are_whole(arrays) else None


def _are_whole(arrays: Arrays) -> bool:
    """Whether these are the arrays of a survey or a part of one: a number for each frame and each sample, and every thumbnail."""
    shapes = PER_FRAME | PER_SAMPLE | {name: PER_LETTERED[name] for name in arrays.keys() & PER_LETTERED}
    if arrays.keys() != {*shapes, "thumbs"}:
        return False
    lengths = {name: len(arrays["seconds" if name in PER_FRAME else "sample"]) for name in shapes if arrays[name].ndim}
    fit = all(
        name in lengths and arrays[name].dtype == kind and arrays[name].shape == (lengths[name], *shape)
        for name, (kind, shape) in shapes.items()
    )
    return (
        fit
        and bool(np.isfinite(arrays["seconds"]).all())
        and bool((arrays["thumb_bytes"] >= 0).all())
        and arrays["thumbs"].shape == (arrays["thumb_bytes"].sum(),)
        and bool(((arrays["sample"] >= 0) & (arrays["sample"] < len(arrays["seconds"]))).all())
    )


def save_survey(path: Path, survey: Survey) -> None:
    """Write a survey."""
    note = dataclasses.asdict(survey.about)
    save_arrays(path, survey.arrays, {key: str(v) if isinstance(v, Fraction) else v for key, v in note.items()})


def load_survey(path: Path) -> Survey | None:
    """What ``save_survey`` wrote; None as ``load_arrays``."""
    loaded = load_arrays(path)
    if loaded is None:
        return None
    arrays, note = loaded
    try:
        about = build(_Note, note, path)
        fractions = {"fps": _positive(about["fps"]), "pixel_aspect": _positive(about["pixel_aspect"])}
        return Survey(About(**{**about, **fractions}), arrays)  # type: ignore[arg-type]
    except (FileError, TypeError, ValueError, ZeroDivisionError):
        return None


class _Note(TypedDict):
    fps: str
    size: tuple[int, int]
    pixel_aspect: str
    backend: str
    codec: str
    why: str
    notes: tuple[str, ...]
    fields: Fields
    cuts: str


def _positive(text: str) -> Fraction:
    # Python would read 1e999999999 as well, and never be done with it.
    if not re.fullmatch(r"\d{1,18}(/\d{1,18})?", text, re.ASCII) or (value := Fraction(text)) <= 0:
        raise ValueError(f"{text} is no ratio")
    return value
