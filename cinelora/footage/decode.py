"""Reading clips: a file enters, its frames leave as RGB pixels, whichever of two libraries could decode it.

decord is asked first: it seeks by frame and is the faster for windows scattered over a clip. PyAV, with a newer FFmpeg,
takes what decord 0.6 cannot (AV1, for one). Every clip is opened with PyAV before that, which answers for damaged files
without writing to the terminal and knows what the header promises. It does not know what the frames are for.

Frames are counted from 0 in the order they are shown, at the clip's average rate, as if that were constant.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import av
import decord
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter
from numpy.typing import NDArray

from cinelora.errors import FootageError
from cinelora.footage.colour import (
    MATRICES,
    PRIMARIES,
    RANGES,
    TRANSFERS,
    Hdr,
    guessed_matrix,
    hdr_kind,
    swscale_colours,
)

Pixels = NDArray[np.uint8]
Backend = Literal["decord", "pyav"]

THUMBNAIL = (36, 64)
"""Height and width of the frames that shots are looked for in, whatever the clip's own shape."""
BATCH = 16
"""Frames decord decodes at a time: 1080p frames take 6 MB each."""

decord.logging.set_level(decord.logging.QUIET)


class UnreadableClip(FootageError):
    """A clip that no library decodes as its header promises; ``reason`` goes without the path."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, reason)
        self.path, self.reason = path, reason

    def __str__(self) -> str:
        return f"{self.path} cannot be read: {self.reason}"


@dataclass(frozen=True)
class Header:
    """What a file says of its video, measured on the first frame.

    ``height`` and ``width`` are as shown, a phone's ``rotation`` (degrees, counter-clockwise) applied; ``pixel_aspect``
    is the width of a pixel over its height; ``duration_s`` the promised length, ``None`` where the header is silent.
    ``matrix``, ``range``, ``transfer`` and ``primaries`` are named as ``ffprobe`` names them; an unnamed matrix is guessed
    as players do, an unnamed range is limited, the others stay "".
    """

    fps: Fraction
    height: int
    width: int
    pixel_aspect: Fraction
    duration_s: Fraction | None
    rotation: int
    time_base: Fraction
    first_pts: int
    codec: str
    pixel_format: str
    bits: int
    matrix: str
    range: str
    transfer: str
    primaries: str

    def seconds(self, pts: int) -> float:
        """Time since the first frame."""
        return float((pts - self.first_pts) * self.time_base)

    @property
    def hdr(self) -> Hdr:
        """Which kind of HDR it is, "" for none."""
        return hdr_kind(self.matrix, self.transfer, self.primaries)


class Reader:
    """One open clip. The subclasses differ in the library alone."""

    backend: Backend

    def __init__(self, path: Path, header: Header) -> None:
        self.path, self.header = path, header

    @property
    def fps(self) -> Fraction:
        """Average frames per second."""
        return self.header.fps

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.header.height, self.header.width

    @property
    def num_frames(self) -> int:
        """Frames that can be decoded."""
        raise NotImplementedError

    def frames(self, indices: Sequence[int]) -> Iterator[Pixels]:
        """RGB frames HWC at ``indices``, which must not descend. Raises ``UnreadableClip`` where one cannot be had."""
        raise NotImplementedError

    def thumbnails(self) -> Iterator[Pixels]:
        """Every frame of the clip in one pass, as luma of shape ``THUMBNAIL``. Raises ``UnreadableClip``."""
        raise NotImplementedError

    @cached_property
    def times(self) -> NDArray[np.float64]:
        """When each frame is shown, in seconds from the first: frame i is the one of ``times[i]``, in every method."""
        try:
            with av.open(str(self.path)) as container:
                stream: Any = container.streams.best("video")
                pts = sorted(p.pts for p in container.demux(stream) if p.pts is not None and not p.is_discard)
                return np.array([self.header.seconds(at) for at in pts if at >= self.header.first_pts])
        except (av.FFmpegError, ValueError) as error:
            raise self.unreadable(error) from error

    def scaled(
        self, height: int, width: int, start_s: float = 0.0, end_s: float | None = None, threads: int = 1
    ) -> Iterator[tuple[float, Pixels]]:
        """Every frame from ``start_s`` to before ``end_s`` in one pass, by PyAV, averaged down to (height, width, 3).

        Yields seconds from the first frame, one of ``times``, and RGB as shown. ``threads`` decode, 0 = one a core.
        Raises ``UnreadableClip``.
        """
        turns = self.header.rotation // 90
        across = (width, height) if turns % 2 == 0 else (height, width)
        convert, as_rgb = VideoReformatter(), swscale_colours(self.header.matrix, self.header.range)
        for seconds, frame in self._frames_from(start_s, threads):
            if end_s is not None and seconds >= end_s:
                return
            small = convert.reformat(frame, *across, "rgb24", interpolation=Interpolation.AREA, threads=1, **as_rgb)
            yield seconds, np.rot90(small.to_ndarray(), turns)

    def _frames_from(self, start_s: float, threads: int) -> Iterator[tuple[float, av.VideoFrame]]:
        """Every frame shown at ``start_s`` or later, with its second."""
        try:
            with av.open(str(self.path)) as container:
                stream: Any = container.streams.best("video")
                stream.codec_context.thread_count, stream.thread_type = threads, "AUTO"
                target = self.header.first_pts + math.floor(start_s / stream.time_base)
                for packet in self._packets_before(container, stream, target):
                    for frame in packet.decode():
                        seconds = self.header.seconds(frame.pts)
                        if seconds >= start_s:
                            yield seconds, frame
        except (av.FFmpegError, ValueError) as error:
            raise self.unreadable(error) from error

    def _packets_before(self, container: Any, stream: Any, target: int) -> Iterator[Any]:
        """Packets from a keyframe on that is shown at ``target`` or before, else from the start.

        Where a keyframe is shown later than it is decoded, or an index is coarse, the first seek lands too late.
        """
        for back_s in (0, 5, 60):
            at = target - int(back_s / stream.time_base)
            if at <= self.header.first_pts:
                break
            container.seek(at, stream=stream)
            packets = container.demux(stream)
            landed = next(packets, None)
            if landed is not None and landed.is_keyframe and landed.pts is not None and landed.pts <= target:
                return chain((landed,), packets)
        container.seek(min(self.header.first_pts, 0), stream=stream)
        return iter(container.demux(stream))

    def unreadable(self, error: object) -> UnreadableClip:
        """The error to raise, with the last line of the library's own as its reason."""
        return UnreadableClip(str(self.path), _last_line(error))


class DecordReader(Reader):
    """A clip through decord."""

    backend: Backend = "decord"

    def __init__(self, path: Path, header: Header) -> None:
        super().__init__(path, header)
        self._video = self._open()

    @property
    def num_frames(self) -> int:
        """Frames in the index that decord builds on opening."""
        return len(self._video)

    def frames(self, indices: Sequence[int]) -> Iterator[Pixels]:  # noqa: D102
        for start in range(0, len(indices), BATCH):
            yield from self._batch(self._video, list(indices[start : start + BATCH]))

    def thumbnails(self) -> Iterator[Pixels]:  # noqa: D102
        height, width = THUMBNAIL
        video = self._open(height=height, width=width)
        for start in range(0, len(video), BATCH):
            batch_THWC = self._batch(video, list(range(start, min(start + BATCH, len(video)))))
            # BT.601 weights: what is compared is only ever luma of the same clip
            yield from (batch_THWC @ np.array([0.299, 0.587, 0.114])).round().astype(np.uint8)

    def _open(self, **size: int) -> Any:
        try:
            return decord.VideoReader(str(self.path), **size)
        except (decord.DECORDError, RuntimeError) as error:
            raise self.unreadable(error) from error

    def _batch(self, video: Any, indices: list[int]) -> Pixels:
        try:
            batch: Pixels = video.get_batch(indices).asnumpy()
        except (decord.DECORDError, IndexError) as error:
            raise self.unreadable(error) from error
        return batch


class PyAVReader(Reader):
    """A clip through PyAV, decoded from its start each time: slow at the end of long clips, right about every frame."""

    backend: Backend = "pyav"

    @cached_property
    def num_frames(self) -> int:
        """Frames decoded in one pass: some headers do not say."""
        return sum(1 for _ in self._decode())

    def frames(self, indices: Sequence[int]) -> Iterator[Pixels]:  # noqa: D102
        wanted = iter(indices)
        index = next(wanted, None)
        for position, frame in enumerate(self._decode()):
            if index is None:
                return
            if position == index:
                pixels = np.rot90(_uint8(frame, "rgb24"), self.header.rotation // 90)
            while position == index:
                yield pixels
                index = next(wanted, None)
        if index is not None:
            raise UnreadableClip(str(self.path), f"it ends before frame {index}")

    def thumbnails(self) -> Iterator[Pixels]:  # noqa: D102
        height, width = THUMBNAIL
        for frame in self._decode():
            yield _uint8(frame.reformat(width=width, height=height), "gray")

    def _decode(self) -> Iterator[av.VideoFrame]:
        try:
            with av.open(str(self.path)) as container:
                stream = container.streams.best("video")
                stream.thread_type = "AUTO"  # type: ignore[union-attr]
                yield from container.decode(stream)  # type: ignore[misc]
        except (av.FFmpegError, ValueError) as error:
            raise self.unreadable(error) from error


def open_video(path: Path, backend: Backend | None = None) -> Reader:
    """Open a clip, by ``backend`` or by the first that reads its first and last frame.

    Raises ``UnreadableClip`` for a file that is empty, damaged, or has no video.
    """
    header = read_header(path)
    if backend == "pyav":
        return PyAVReader(path, header)
    try:
        reader = DecordReader(path, header)
        _agrees(reader)
    except UnreadableClip:
        if backend == "decord":
            raise
        return PyAVReader(path, header)
    return reader


def read_header(path: Path) -> Header:
    """Read what a file says of its video, and decode its first frame. Raises ``UnreadableClip``."""
    if path.stat().st_size == 0:
        raise UnreadableClip(str(path), "the file is empty")
    try:
        with av.open(str(path)) as container:
            stream = container.streams.best("video")
            if not isinstance(stream, av.VideoStream):
                raise UnreadableClip(str(path), "it has no video, only sound or data")
            frame = next(container.decode(stream), None)
            if frame is None:
                raise UnreadableClip(str(path), "it has no frames")
            return _header(container, stream, frame)
    except (av.FFmpegError, ValueError) as error:
        raise UnreadableClip(str(path), _last_line(error)) from error


def _header(container: Any, stream: av.VideoStream, frame: av.VideoFrame) -> Header:
    sideways = frame.rotation % 180 != 0
    aspect = stream.sample_aspect_ratio or Fraction(1)
    return Header(
        fps=stream.average_rate or stream.guessed_rate or Fraction(25),
        height=frame.width if sideways else frame.height,
        width=frame.height if sideways else frame.width,
        pixel_aspect=1 / aspect if sideways else aspect,
        duration_s=_promised_s(container, stream),
        rotation=frame.rotation,
        time_base=stream.time_base or Fraction(1, av.time_base),
        first_pts=frame.pts or 0,
        codec=stream.codec_context.codec.canonical_name,
        pixel_format=frame.format.name,
        bits=max(component.bits for component in frame.format.components),
        matrix="gbr"
        if frame.format.is_rgb
        else MATRICES.get(frame.colorspace) or guessed_matrix(frame.height, frame.width),
        range="full"
        if frame.format.is_rgb or "yuvj" in frame.format.name
        else RANGES.get(frame.color_range, "limited"),
        transfer=TRANSFERS.get(frame.color_trc, ""),
        primaries=PRIMARIES.get(frame.color_primaries, ""),
    )


def _promised_s(container: Any, stream: av.VideoStream) -> Fraction | None:
    """Length of the video alone: sound may run on after it. Matroska keeps it in a tag, or only for the whole file."""
    if stream.duration and stream.time_base:
        return stream.duration * stream.time_base
    tag = stream.metadata.get("DURATION")
    if tag:
        hours, minutes, seconds = tag.split(":")
        return 3600 * int(hours) + 60 * int(minutes) + Fraction(seconds)
    if container.duration and len(container.streams) == 1:
        return Fraction(container.duration, av.time_base)
    return None


def _agrees(reader: Reader) -> None:
    """Decode the first and the last frame; decord answers for some files with other pictures or none."""
    first, *_ = reader.frames([0, max(reader.num_frames - 1, 0)])
    if first.shape[:2] != reader.size:
        raise UnreadableClip(str(reader.path), f"decoded to {first.shape[:2]}, not {reader.size}")


def _uint8(frame: av.VideoFrame, pixel_format: str) -> Pixels:
    return frame.to_ndarray(format=pixel_format).astype(np.uint8, copy=False)


def _last_line(error: object) -> str:
    """FFmpeg's words without error number and path, decord's without its C++ trace."""
    if isinstance(error, av.FFmpegError) and error.strerror:
        return error.strerror[0].lower() + error.strerror[1:]
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
