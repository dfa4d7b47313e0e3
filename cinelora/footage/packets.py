"""The packets of a film: which frames there are, when each is shown, and where decoding must begin to have one.

Enters: an open file. Leaves: a ``PacketIndex`` made by reading packets without decoding any, and the frames that were asked for,
each recognised by its time stamp. It does not know colours or samples.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from heapq import heappop, heappush
from itertools import chain, islice
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

ONE_EACH = frozenset({"h264", "hevc", "av1", "vp9", "vp8", "prores", "mjpeg", "dnxhd", "ffv1"})
"""Codecs that show a frame for every packet of progressive film; others must first do so in the packets tried."""
TRIED = 16
PROGRESSIVE = (0, 1)
"""Orders of fields that do not say a frame may lie in two packets: unknown, and one field."""
Numbered = Iterator[tuple[int, av.VideoFrame]]
"""Frames, each with its number."""
SEEK_TRIES_S = (0, 5, 60)
"""Seconds further ahead that a keyframe is looked for: one may be shown later than it is decoded, an index be coarse."""


@dataclass(frozen=True)
class PacketIndex:
    """The packets of a stream as they follow one another in the file.

    ``pts`` are their time stamps, ``keys`` the positions decoding can begin at, ``shown`` says which are frames of the clip:
    an edit list cuts some off, and those before the first decodable frame are never seen.
    """

    pts: NDArray[np.int64]
    keys: NDArray[np.intp]
    shown: NDArray[np.bool_]

    @cached_property
    def order(self) -> NDArray[np.intp]:
        """Positions of the shown packets by time: frame i is in packet ``order[i]``."""
        positions = np.flatnonzero(self.shown)
        return positions[np.argsort(self.pts[positions], kind="stable")]

    @cached_property
    def shown_pts(self) -> NDArray[np.int64]:
        """The time stamp of every frame, ascending."""
        return self.pts[self.order]

    @property
    def is_all_keys(self) -> bool:
        """Whether decoding can begin at every frame."""
        return len(self.keys) == len(self.pts)

    @property
    def has_open_gops(self) -> bool:
        """Whether a frame that is stored after a keyframe is shown before it."""
        return bool((np.minimum.accumulate(self.pts[::-1])[::-1][self.keys] < self.pts[self.keys]).any())

    def spans(self, frames: Sequence[int]) -> list[Span]:
        """What must be decoded to have ``frames``, which ascend: from a keyframe to the last packet needed, each."""
        # Packets lie in the file in the order in which they are decoded, not shown. In a shot I B B P the P is stored before
        # the two B that are shown first, as both refer to it:  stored I0 P3 B1 B2,  shown 0 1 2 3.
        #
        # A keyframe must therefore lie before the wanted packet in both orders. In an open GOP some B frames follow their
        # keyframe in the file but are shown before it, and refer to the GOP before as well. Decoding from that keyframe
        # would give them damaged, or not at all: they need the keyframe before.
        spans: list[Span] = []
        for frame in frames:
            end = int(self.order[frame])
            before = self.keys[(self.keys <= end) & (self.pts[self.keys] <= self.pts[end])]
            if not len(before):
                raise NotThereError(f"no keyframe before frame {frame}")
            # Two spans that overlap or touch become one: what is decoded already is not decoded again after a seek.
            if spans and before[-1] <= spans[-1].end + 1:
                spans[-1].end = max(spans[-1].end, end)
                spans[-1].frames.append(frame)
            else:
                spans.append(Span(int(before[-1]), end, [frame]))
        return spans


@dataclass
class Span:
    """Packets ``start`` to ``end``, last included, and the frames wanted of them."""

    start: int
    end: int
    frames: list[int]


class NotThereError(Exception):
    """A seek landed elsewhere than the index says, or a frame did not come."""


def has_guessed_times(container: Any, stream: Any) -> bool:
    """AVI keeps no time stamps: those of reordered frames are guesses."""
    return container.format.name == "avi" and stream.codec_context.codec.canonical_name in ("h264", "hevc")


def is_plain(container: Any, stream: Any) -> bool:
    """Whether every packet is sure to be a frame with its own time stamp, which needs no trying."""
    codec = stream.codec_context.codec.canonical_name in ONE_EACH
    return codec and stream.codec_context.field_order in PROGRESSIVE and not has_guessed_times(container, stream)


def read_index(container: Any, stream: Any, first_pts: int) -> PacketIndex | None:
    """Read every packet of ``stream``; ``None`` where time stamps are missing, shared or step back, or packets are not frames."""
    if has_guessed_times(container, stream):
        return None
    codec = stream.codec_context.codec.canonical_name
    packets = [(p.pts, p.is_keyframe, is_shown(p, codec)) for p in container.demux(stream) if p.size]
    if any(pts is None for pts, _, _ in packets) or not any(shown for _, _, shown in packets):
        return None
    # Frames are recognised by their time stamps alone, so every shown packet must have one of its own. What is shown before
    # the first frame that can be decoded is no frame of the clip: a film cut out of a longer one may begin with the last B
    # frames of a GOP whose keyframe is missing.
    pts = np.array([pts for pts, _, _ in packets], np.int64)
    shown = np.array([shown for _, _, shown in packets]) & (pts >= first_pts)
    index = PacketIndex(pts, np.flatnonzero([key for _, key, _ in packets]), shown)
    if len(np.unique(index.shown_pts)) < len(index.order) or _steps_back(index, stream):
        return None
    return index if is_plain(container, stream) or _holds(container, stream, index) else None


def _steps_back(index: PacketIndex, stream: Any) -> bool:
    """Whether the clock is set back on the way, so that the order of time stamps is not that of the frames."""
    # What is stored before a keyframe is shown before it, in open GOPs too: only frames stored after it may be shown first.
    # Without B frames everything is shown in the order it is stored.
    stored = np.flatnonzero(index.shown)
    latest = np.maximum.accumulate(index.pts[stored])
    early = stored[index.pts[stored] < latest]
    return bool(np.isin(early, index.keys).any() or (len(early) and not stream.codec_context.has_b_frames))


def is_shown(packet: Any, codec: str) -> bool:
    """Neither cut off by an edit list nor a frame of VP8 or VP9 that only others refer to.

    RFC 6386, 9.1: bit 4 of the first byte. VP9 bitstream specification, 6.2: marker (2 bits), profile (2, one more where
    both are set), show_existing_frame, frame_type, show_frame; a superframe ends on a byte 110xxxxx and shows its last.
    """
    if packet.is_discard or not packet.size:
        return False
    if codec == "vp8":
        return bool(memoryview(packet)[0] & 0x10)
    # The superframe is excluded: it bundles hidden frames with a shown one, and its last byte says that it is one.
    if codec == "vp9" and memoryview(packet)[-1] & 0xE0 != 0xC0:
        bits = memoryview(packet)[0] << (1 if memoryview(packet)[0] & 0x30 == 0x30 else 0)
        return bool(bits & 0x08 or bits & 0x02)
    return True


def _holds(container: Any, stream: Any, index: PacketIndex) -> bool:
    """Whether the first packets give the frames that the index says."""
    end = min(TRIED, len(index.pts)) - 1
    frames = [int(frame) for frame in np.flatnonzero(index.order <= end)]
    try:
        return [number for number, _ in decode(container, stream, index, Span(0, end, frames))] == frames
    except NotThereError:
        return False


def sought(container: Any, stream: Any, index: PacketIndex, frames: Sequence[int]) -> Numbered:
    """Frames by their ascending numbers, each by the nearest keyframe before it; ends early where a seek fails."""
    with suppress(NotThereError):
        for span in index.spans(frames):
            yield from decode(container, stream, index, span)


def decode(container: Any, stream: Any, index: PacketIndex, span: Span) -> Numbered:
    """The frames of ``span`` in order, with their numbers. Raises ``NotThereError`` where they cannot be had this way.

    No packet after the last one needed is decoded, and none before it that no other depends on.
    """
    wanted = {int(index.shown_pts[frame]): frame for frame in span.frames}
    context, pts_wanted = stream.codec_context, set(wanted)
    # The packet None at the end flushes the decoder, which holds frames back until it knows what is shown next.
    for packet in chain(_checked(container, stream, index, span), [None]):
        # NONREF lets the decoder skip a frame that no other refers to, mostly half of the B frames. Only H.264 marks those
        # reliably; in HEVC a frame of a higher layer may depend on what is skipped.
        if packet is not None and context.name == "h264":
            context.skip_frame = "DEFAULT" if packet.pts in pts_wanted else "NONREF"
        for frame in decoded(context, packet):
            if frame.pts in wanted and not frame.is_corrupt:
                yield wanted.pop(frame.pts), frame
    if wanted:
        raise NotThereError(f"{len(wanted)} frames did not come")


def _checked(container: Any, stream: Any, index: PacketIndex, span: Span) -> Iterator[Any]:
    # A file may be damaged where no header says so. As the index was read from start to end, a packet that is not the
    # expected one means that the seek has lost its place, and no frame from here on can be trusted.
    packets = _landed(container, stream, index, span.start)
    for position, packet in zip(range(span.start, span.end + 1), packets, strict=False):
        if packet.pts != index.pts[position]:
            raise NotThereError("its packets have another order after a seek")
        yield packet


def _landed(container: Any, stream: Any, index: PacketIndex, start: int) -> Iterator[Any]:
    """Packets from position ``start`` on: a seek may land after it, then another is made, or before it."""
    # A container seeks by its own table of keyframes, which may list only some, or list them by the time of decoding. So
    # the first try aims at the keyframe itself, the next ones seconds ahead of it. Wherever a seek lands, the time stamp of
    # the first packet tells its position, if no other packet has the same one; up to `start` packets are then passed over.
    for back_s in SEEK_TRIES_S:
        at = max(int(index.pts[start]) - int(back_s / stream.time_base), min(int(index.pts.min()), 0))
        container.seek(at, stream=stream)
        packets = (packet for packet in container.demux(stream) if packet.size)
        landed = next(packets, None)
        if landed is not None:
            position, *others = map(int, np.flatnonzero(index.pts == landed.pts))
            if position <= start and not others:
                return islice(chain((landed,), packets), start - position, None)
    raise NotThereError("no seek lands before the keyframe")


def decoded(context: Any, packet: Any) -> list[av.VideoFrame]:
    """What the decoder gives back for a packet; one that is damaged costs its own frames, not the clip."""
    frames: list[av.VideoFrame] = []
    with suppress(av.error.InvalidDataError):
        frames = context.decode(packet)
    return frames


def with_lost(context: Any, packets: Iterable[Any]) -> Iterator[tuple[int, av.VideoFrame]]:
    """Frames with their time stamps; for one that is lost to damage the next stands, so that the count stays right."""
    # Every packet that goes in promises a frame of its time stamp. Promises wait in a heap, earliest first, as frames come
    # out in the order of showing and packets go in in another. When a frame of time t comes out, every promise up to t is
    # due: its own, and those of frames that were lost on the way. The frame is given out for each of them:
    #   packets 0 3 1 2, of which 1 is damaged, so that frames 0 2 3 come out  ->  (0, f0) (1, f2) (2, f2) (3, f3)
    codec, waiting = context.codec.canonical_name, list[int]()
    for packet in packets:
        if packet.pts is not None and is_shown(packet, codec):
            heappush(waiting, packet.pts)
        for frame in decoded(context, packet):
            while waiting and frame.pts is not None and waiting[0] <= frame.pts:
                yield heappop(waiting), frame


def last_shown(container: Any, stream: Any) -> tuple[int, int]:
    """The latest time stamp of the packets that are shown, and how long that frame is held; no frame is decoded."""
    codec = stream.codec_context.codec.canonical_name
    return max(
        ((p.pts, p.duration or 0) for p in container.demux(stream) if p.pts is not None and is_shown(p, codec)),
        default=(0, 0),
    )


def packets_from(container: Any, stream: Any, target: int, first_pts: int) -> Iterator[Any] | None:
    """Packets from a keyframe on that is shown at ``target`` or before; ``None`` where no seek finds one."""
    for back_s in SEEK_TRIES_S:
        at = target - int(back_s / stream.time_base)
        if at <= first_pts:
            break
        container.seek(at, stream=stream)
        packets = container.demux(stream)
        landed = next(packets, None)
        if landed is not None and landed.is_keyframe and landed.pts is not None and landed.pts <= target:
            return chain((landed,), packets)
    return None
