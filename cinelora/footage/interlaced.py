"""Interlaced film: whether two moments are woven into each frame, and frames of one moment in their place.

Enters: decoded frames. Leaves: how their fields lie, or as many frames without combs. FFmpeg's filters measure (idet), put
fields of telecined film together again (fieldmatch), and draw what is missing of the others (bwdif). It does not know files.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from fractions import Fraction
from typing import Literal, TypeVar, cast

import numpy as np
from av import VideoFrame
from av.filter import Graph
from numpy.typing import NDArray

Fields = Literal["", "tff", "bff", "tff film", "bff film"]
"""Which field is shown first, and whether it is film, of which only some frames are woven; "" for whole frames."""
Key = TypeVar("Key", int, float)

UNTIMED = Fraction(1, 1000)
"""Of frames that come without a time base; they are told apart by their order alone."""
NEIGHBOURS = 3
"""Frames before and behind that the filters look at."""
STEP, COMB, SUSPECT = 4, 15, 0.002
"""One in this many columns is read; a comb's lines differ by this many levels from both next to them; such a share of a picture
may be one."""
LEAST_SHARE, LOPSIDED, FILM_SHARE = 0.1, 0.4, 0.15
"""What weaving with the next frame must add to the combs that are there; how much less it adds the other way round; and the share
of frames that repeat a field from which on it is film: two of five do."""


def is_suspect(frame: VideoFrame) -> bool:
    """Whether the picture may be combed: many of its pixels stand out from the line above and the one below alike."""
    levels = _luma(frame)
    return levels is not None and _combed(levels) > SUSPECT


def _luma(frame: VideoFrame) -> NDArray[np.int16] | None:
    """Every fourth column of the luma, in levels of 8 bits; None of RGB, which no field was ever written in."""
    if frame.format.is_rgb or frame.format.components[0].bits > 16 or not frame.format.is_planar:
        return None
    plane, bits = frame.planes[0], frame.format.components[0].bits
    lines = np.frombuffer(plane, np.uint8 if bits == 8 else np.uint16)  # type: ignore[call-overload]
    columns = lines.reshape(plane.height, -1)[: plane.height // 2 * 2, : plane.width : STEP]
    return np.asarray(columns >> (bits - 8), np.int16)


def _combed(levels: NDArray[np.int16]) -> float:
    """Share of pixels that stand out from the lines above and below alike."""
    if len(levels) < 3:
        return 0.0
    above, below = levels[1:-1] - levels[:-2], levels[1:-1] - levels[2:]
    return float(((np.minimum(above, below) > COMB) | (np.maximum(above, below) < -COMB)).mean())


def measured(runs: Iterable[Iterable[VideoFrame]]) -> Fields:
    """How the fields of a film lie, by runs of its frames that follow one another."""
    # The upper field of the next frame is put beside the lower one of this, and the other way round. In whole frames both add as
    # many combs. Where the upper field is shown first, its next is no further from this lower field than this upper one is, and
    # adds none; the next lower field is three fields away, and adds many. What only looks like combs, as blinds, adds to none.
    count, repeated = 0, 0
    own = upper = lower = 0.0
    for run in runs:
        now: NDArray[np.int16] | None = None
        for _, frame in filtered(enumerate(run), "idet"):  # which passes frames on as they are
            repeated += frame.metadata.get("lavfi.idet.repeated.current_frame") in ("top", "bottom")
            before, now = now, _luma(frame)
            if before is not None and now is not None:
                own += _combed(before)
                upper += _combed(_woven(now, before))
                lower += _combed(_woven(before, now))
                count += 1
    most, least = max(upper, lower) - own, min(upper, lower) - own
    if count == 0 or most < max(SUSPECT * count, LEAST_SHARE * own) or least > LOPSIDED * most:
        return ""
    return cast(Fields, ("tff" if lower > upper else "bff") + " film" * (repeated >= FILM_SHARE * count))


def _woven(upper: NDArray[np.int16], lower: NDArray[np.int16]) -> NDArray[np.int16]:
    frame = upper.copy()
    frame[1::2] = lower[1::2]
    return frame


def whole_frames(
    frames: Iterable[tuple[Key, VideoFrame]], fields: Fields, follows: Callable[[Key, Key], bool] = lambda _a, _b: True
) -> Iterator[tuple[Key, VideoFrame]]:
    """As many frames, of one moment each; ``follows`` says which of two come one after the other in the film."""
    # Of film at 24 frames in 60 fields three of five frames are whole, two are woven of neighbours: fieldmatch finds the other
    # field beside them, so that nothing is invented, and one frame of five repeats another. Windows pass over repeated frames.
    # What finds no partner is video among film: it is marked, and bwdif draws its second field.
    order, _, film = fields.partition(" ")
    chain = f"fieldmatch=order={order}:mode=pc_n:combmatch=full,bwdif=mode=send_frame:parity={order}:deint=interlaced"
    yield from filtered(frames, chain if film else f"bwdif=mode=send_frame:parity={order}:deint=all", follows)


def filtered(
    frames: Iterable[tuple[Key, VideoFrame]], chain: str, follows: Callable[[Key, Key], bool] = lambda _a, _b: True
) -> Iterator[tuple[Key, VideoFrame]]:
    """Frames through filters that give one for each; a new chain begins where a frame does not follow the one before."""
    graph: Graph | None = None
    keys = deque[Key]()
    last: Key | None = None
    for key, frame in frames:
        if graph is not None and last is not None and not follows(last, key):
            yield from _rest(graph, keys)
            graph = None
        graph = graph or _graph(frame, chain)
        keys.append(key)
        last = key
        graph.push(frame)
        yield from _ready(graph, keys)
    if graph is not None:
        yield from _rest(graph, keys)


def _rest(graph: Graph, keys: deque[Key]) -> Iterator[tuple[Key, VideoFrame]]:
    graph.push(None)
    yield from _ready(graph, keys)
    keys.clear()


def _ready(graph: Graph, keys: deque[Key]) -> Iterator[tuple[Key, VideoFrame]]:
    with suppress(BlockingIOError, EOFError):
        while keys:
            frame = cast(VideoFrame, graph.pull())
            yield keys.popleft(), frame


def _graph(frame: VideoFrame, chain: str) -> Graph:
    graph = Graph()
    steps = [
        graph.add_buffer(
            width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base or UNTIMED
        )
    ]
    for step in chain.split(","):
        name, _, arguments = step.partition("=")
        steps.append(graph.add(name, arguments))
    graph.link_nodes(*steps, graph.add("buffersink")).configure()
    return graph
