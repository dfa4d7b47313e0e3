"""Reading clips: a file enters, its frames leave as RGB pixels, whichever of two libraries could decode it.

PyAV reads every clip there is an FFmpeg decoder for, by seeking, with colours converted as ``colour`` says. decord reads
those whose colours it converts as well: it is asked only where none are subsampled and every frame is a key, and its first
and last frame are compared.
Only the containers of film are opened: a playlist would name other files. It does not know what the frames are for.

Frames are counted from 0 in the order they are shown.
"""

from __future__ import annotations

import math
import stat
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property, partial
from itertools import chain, islice, repeat
from pathlib import Path
from typing import Any, Literal

import av
import cv2
import numpy as np
from numpy.typing import NDArray

from cinelora.errors import FootageError
from cinelora.footage.colour import (
    LUMA,
    MATRICES,
    PRIMARIES,
    RANGES,
    TRANSFERS,
    UPRIGHT,
    Hdr,
    Orientation,
    ToRgb,
    guessed_matrix,
    has_alpha,
    hdr_kind,
)
from cinelora.footage.interlaced import NEIGHBOURS, Fields, is_suspect, measured, whole_frames
from cinelora.footage.lut import Grade, read_cube, tone_mapping
from cinelora.footage.packets import (
    PacketIndex,
    decoded,
    is_plain,
    last_shown,
    packets_from,
    read_index,
    sought,
    with_lost,
)
from cinelora.footage.stream_facts import is_dolby_alone, turn_of
from cinelora.io.atomic import sha256_json

Pixels = NDArray[np.uint8]
Timed = Iterator[tuple[float, Pixels]]
"""Frames, each with its second."""
Backend = Literal["decord", "pyav", "pillow"]

CONTAINERS = "mov,matroska,avi,mxf,mpegts,mpeg"
"""What FFmpeg may take a file for. Its playlists (hls, concat, sdp) would open what they name, wherever it lies."""
TIMEOUT_S = 60.0
"""How long opening or reading may wait for a disk."""
LARGEST = 2**27
"""Pixels of a picture that is decoded at all: four times 8K."""
BATCH = 16
"""Frames decord decodes at a time: 1080p frames take 6 MB each."""
HDR_NAMES = {"pq": "PQ", "hlg": "HLG", "bt2020": "BT.2020"}
TONE_MAPPING = 1
"""Raised whenever tone mapping would give other colours."""
REORDERED = 16
"""Frames that no codec holds back more of; more that come late were not held back."""
SUSPECTED_EVERY = 5
"""Frames from one that is looked at for combs to the next: cheap, as what is suspected is measured."""
LONG_S, FIELDS_AT, FIELDS_RUN = 20.0, (0.25, 0.5, 0.75), 40
"""Of longer films fields are measured at these parts of their length, else at the start; this many frames each."""
AGREE = 2
"""Levels of 255 by which decord's pixels may differ from FFmpeg's accurate conversion."""


class UnreadableClip(FootageError):
    """A clip that no library decodes as its header promises; ``reason`` goes without the path."""

    def __init__(self, path: Path | str, reason: str) -> None:
        super().__init__(path, reason)  # both, so that the error can travel between processes
        self.path, self.reason = path, reason

    def __str__(self) -> str:
        return f"{self.path} cannot be read: {self.reason}"


@dataclass(frozen=True)
class Handling:
    """How footage is read, beside what it says of itself.

    ``exact``: colours must be FFmpeg's to ``AGREE`` levels; otherwise decord is taken wherever it decodes, with its own.
    ``matrix``: what films that name none are taken to be in, "auto" for a guess. ``hdr``: what is done with PQ, HLG and
    BT.2020. ``lut``: a .cube file that every frame goes through, of the content ``lut_sha256``. ``sequence_fps``: the rate of
    numbered pictures. ``interlaced``: what a survey does with film of two moments a frame. ``follow_links``: links may lead
    out of the folder. ``cuts``, ``lettering``: the weights of the networks that a survey finds cuts and letters with, if any.
    """

    exact: bool = True
    matrix: str = "auto"
    hdr: Literal["refuse", "tone_map"] = "refuse"
    interlaced: Literal["auto", "refuse", "keep"] = "auto"
    lut: Path | None = None
    lut_sha256: str = ""
    sequence_fps: Fraction = Fraction(24)
    cuts: Path | None = None
    follow_links: bool = False
    lettering: Path | None = None

    @property
    def detector(self) -> str:
        """What a survey finds cuts with, as the survey says it."""
        return "learned" if self.cuts else "plain"

    @property
    def colours(self) -> str:
        """12 hex digits over what colours go through; "" where that is nothing."""
        through: dict[str, object] = {"lut": self.lut_sha256, "tone_mapping": self.hdr == "tone_map" and TONE_MAPPING}
        through |= {} if self.matrix == "auto" else {"matrix": self.matrix}
        return sha256_json(through)[:12] if any(through.values()) else ""

    def grade(self, kind: Hdr) -> Grade | None:
        """The LUTs for footage that is HDR of a ``kind``, or none. Raises ``FootageError`` for a damaged LUT."""
        cubes = [tone_mapping(kind)] if kind else []
        if self.lut is not None:
            cubes.append(read_cube(self.lut))
        return Grade(cubes) if cubes else None


PLAIN = Handling()


@dataclass(frozen=True)
class Header:
    """What a file says of its video, measured on the first frame.

    ``height`` and ``width`` are as shown, as a phone's ``turn`` has it; ``pixel_aspect``
    is the width of a pixel over its height; ``duration_s`` the promised length, ``None`` where the header is silent.
    ``matrix``, ``range``, ``transfer`` and ``primaries`` are named as ``ffprobe`` names them; an unnamed matrix is guessed
    as players do (``is_guess``), an unnamed range is limited, the others stay "". ``is_dolby``: in Dolby Vision's own colours.
    ``is_skewed``: to be turned by no quarter, and read as it is stored.
    """

    fps: Fraction
    height: int
    width: int
    duration_s: Fraction | None
    time_base: Fraction
    codec: str
    pixel_format: str
    matrix: str
    range: str
    transfer: str
    primaries: str
    pixel_aspect: Fraction = Fraction(1)
    turn: Orientation = UPRIGHT
    first_pts: int = 0
    is_plain: bool = True
    bits: int = 8
    is_guess: bool = False
    is_dolby: bool = False
    is_skewed: bool = False
    has_alpha: bool = False

    def seconds(self, pts: int) -> float:
        """Time since the first frame."""
        # A time stamp counts ticks of the stream's time base, often 1/12800 s or 1/1000 s. The first frame's need not be 0:
        # a camera may count on from its last recording. Whole numbers are multiplied first and divided once, so that the same
        # frame has the same second wherever it is computed.
        return (pts - self.first_pts) * self.time_base.numerator / self.time_base.denominator

    @property
    def coded(self) -> tuple[int, int]:
        """Height and width as they are decoded, before any turn."""
        return (self.width, self.height) if self.turn.transposed else (self.height, self.width)

    @property
    def is_subsampled(self) -> bool:
        """Whether one colour stands for several pixels."""
        return any(sampling in self.pixel_format for sampling in ("420", "422", "411"))

    @property
    def hdr(self) -> Hdr:
        """Which kind of HDR it is, "" for none."""
        return hdr_kind(self.matrix, self.transfer, self.primaries)


class Reader:
    """One open clip. The subclasses differ in the library alone; ``why`` says what chose it."""

    backend: Backend

    def __init__(self, path: Path, header: Header, why: str = "", handling: Handling = PLAIN) -> None:
        self.path, self.header, self.why, self.handling = path, header, why, handling
        self.damaged: set[float] = set()
        self.fields: Fields = ""
        self.suspects, self._is_measured = 0, handling.interlaced == "keep"
        self._latest: av.VideoFrame | None = None

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
        """Frames that can be asked for."""
        return len(self.times)

    @cached_property
    def convert(self) -> ToRgb:
        """What makes RGB of PyAV's frames."""
        header = self.header
        return ToRgb(header.matrix, header.range, header.turn, self.handling.grade(header.hdr))

    @cached_property
    def times(self) -> NDArray[np.float64]:
        """When each frame is shown, in seconds from the first: frame i is the one of ``times[i]``, in every method.

        Raises ``UnreadableClip``.
        """
        if self.index is None:
            return np.arange(sum(1 for _ in self._all_frames())) / float(self.fps)
        ticks: NDArray[np.int64] = self.index.shown_pts - self.header.first_pts
        return ticks * self.header.time_base.numerator / self.header.time_base.denominator

    @cached_property
    def index(self) -> PacketIndex | None:
        """Where each frame lies in the file; ``None`` where only decoding from the start tells."""
        with self._opened() as (container, stream):
            return read_index(container, stream, self.header.first_pts)

    @cached_property
    def is_timed(self) -> bool:
        """Whether a frame's second tells which it is; where it does not, frames are counted from the start.

        Finding out reads every packet. A part of a file is told, as only what is timed has parts.
        """
        return self.index is not None

    def measured_fields(self) -> Fields:
        """How the fields of the film lie, measured at some places of it; nothing needs to be suspected afterwards."""
        self._is_measured = True
        length_s = float(self.header.duration_s or 0)
        starts = [length_s * place for place in FIELDS_AT] if length_s > LONG_S else [0.0]
        runs = ((frame for _, frame in islice(self._frames_from(start), FIELDS_RUN)) for start in starts)
        return measured(runs)

    def held_until_s(self, last_s: float) -> float:
        """When the frame of ``last_s`` is over, in seconds from the first, if it is the last of all; else ``last_s``."""
        with self._opened() as (container, stream):
            pts, held = last_shown(container, stream)
        tick = float(self.header.time_base)
        return last_s + held * tick if self.header.seconds(pts) - last_s < tick else last_s

    def frames(self, indices: Sequence[int]) -> Iterator[Pixels]:
        """RGB frames HWC at ``indices``, which must not descend. Raises ``UnreadableClip`` where one cannot be had."""
        raise NotImplementedError

    def scaled(self, height: int, width: int, start_s: float = 0.0, end_s: float | None = None) -> Timed:
        """Every frame from ``start_s`` to before ``end_s`` in one pass, by PyAV, averaged down to (height, width, 3).

        Yields seconds from the first frame, one of ``times``, and RGB as shown; for a frame that is damaged, the next.
        The second of each of those is left in ``damaged``. One thread decodes, as many files are surveyed side by side. Raises
        ``UnreadableClip``.
        """
        timed = self._frames_from(start_s)
        for number, (seconds, frame) in enumerate(whole_frames(timed, self.fields) if self.fields else timed):
            self.suspects += number % SUSPECTED_EVERY == 0 and not self._is_measured and is_suspect(frame)
            if end_s is not None and seconds >= end_s:
                return
            self.refuse_change(self.header.coded, (frame.height, frame.width), f"after {seconds:.1f} s")
            self._latest = frame
            yield seconds, self.convert.scaled(frame, height, width)

    def latest_scaled(self, height: int, width: int) -> Pixels:
        """The frame that ``scaled`` gave last, as (height, width, 3)."""
        assert self._latest is not None
        if height * width < math.prod(self.size):
            return self.convert.scaled(self._latest, height, width)
        return resized(self.convert.scaled(self._latest, *self.size), height, width)

    def unreadable(self, error: object) -> UnreadableClip:
        """The error to raise, with the last line of the library's own as its reason."""
        return UnreadableClip(self.path, _last_line(error))

    def refuse_change(self, size: tuple[int, int], now: tuple[int, int], where: str) -> None:
        """Raise ``UnreadableClip`` where a picture has another height and width than those before."""
        if now != size:
            raise self.unreadable("its picture changes from {1}x{0} to {3}x{2} ".format(*size, *now) + where)

    def _frames_from(self, start_s: float) -> Iterator[tuple[float, av.VideoFrame]]:
        """Every frame shown at ``start_s`` or later, with its second."""
        # Where packets are no reliable sign of frames (interlaced fields, AVI without time stamps, two frames of one time stamp)
        # there is no index. Frames are then counted from the start, and a frame's second is its number over the rate.
        if not self.is_timed:
            frames = enumerate(self._all_frames(threads=1))
            yield from ((n / float(self.fps), frame) for n, frame in frames if n / float(self.fps) >= start_s)
            return
        target = self.header.first_pts + math.floor(start_s / self.header.time_base)
        # Otherwise one seek to a keyframe at or before the second, and from there on every frame. If no seek lands there,
        # the file is opened again and decoded from its start: a container that has been asked to seek may not come back
        # to the first packet.
        with self._opened(threads=1) as (container, stream):
            packets = packets_from(container, stream, target, self.header.first_pts) if start_s > 0 else None
            yield from self._timed(stream.codec_context, packets or (), start_s)
        if packets is None:
            with self._opened(threads=1) as (container, stream):
                yield from self._timed(stream.codec_context, container.demux(stream), start_s)

    def _timed(self, context: Any, packets: Iterable[Any], start_s: float) -> Iterator[tuple[float, av.VideoFrame]]:
        """Frames whose times ascend: damage may bring some late, which are passed over."""
        # A frame that comes late was only held back: it is dropped, as its place has been filled by the next one. But when
        # more than any decoder holds back come late in a row, the time stamps themselves have begun at 0 again, as where
        # two recordings were joined without new stamps. Then no second names one frame any more.
        last, late = -math.inf, 0
        for pts, frame in with_lost(context, packets):
            seconds = self.header.seconds(pts)
            late = late + 1 if seconds <= last else 0
            if late > REORDERED:
                raise self.unreadable(f"its time stamps start again after {last:.1f} s: cut it there")
            last = max(last, seconds)
            if seconds >= start_s and not late:
                if frame.is_corrupt or frame.pts != pts:
                    self.damaged.add(seconds)
                yield seconds, frame

    def _all_frames(self, threads: int = 0) -> Iterator[av.VideoFrame]:
        """Every frame that can be decoded, from the start."""
        with self._opened(threads) as (container, stream):
            for packet in container.demux(stream):
                yield from decoded(stream.codec_context, packet)

    @contextmanager
    def _opened(self, threads: int = 0) -> Iterator[tuple[Any, Any]]:
        with _in_words(self.path), open_container(self.path) as container:
            stream: Any = container.streams.best("video")
            stream.codec_context.thread_count, stream.thread_type = threads, "AUTO"
            yield container, stream


class PyAVReader(Reader):
    """A clip through PyAV: it seeks to the keyframe before what is asked for, and stays open for the next."""

    backend: Backend = "pyav"

    def frames(self, indices: Sequence[int]) -> Iterator[Pixels]:  # noqa: D102
        counts = Counter(indices)
        for number, frame in self._whole(counts) if self.fields else self._wanted(sorted(counts)):
            now = (frame.height, frame.width)
            self.refuse_change(self.header.coded, now, f"after {float(self.times[number]):.1f} s")
            yield from repeat(self.convert(frame), counts[number])

    def _whole(self, wanted: Counter[int]) -> Iterator[tuple[int, av.VideoFrame]]:
        """Interlaced frames made whole, for which those around them are read as well."""
        near = {n for number in wanted for n in range(number - NEIGHBOURS, number + NEIGHBOURS + 1)}
        read = self._wanted(sorted(n for n in near if 0 <= n < self.num_frames))
        whole = whole_frames(read, self.fields, lambda before, number: number == before + 1)
        yield from ((number, frame) for number, frame in whole if number in wanted)

    def _wanted(self, numbers: list[int]) -> Iterator[tuple[int, av.VideoFrame]]:
        """Frames by their ascending numbers: by seeking as far as that goes, the rest by decoding from the start."""
        # `waiting` holds the numbers that are still to come, the next one last. Seeking is fast, but may fail halfway in a
        # damaged file; what has been yielded by then is right and stays. Decoding from the start then finds the others.
        waiting = list(reversed(numbers))
        if numbers and numbers[-1] >= self.num_frames:
            raise self.unreadable(f"it ends before frame {numbers[-1]}")
        for number, frame in self._sought(numbers):
            if number == waiting[-1]:
                yield waiting.pop(), frame
        for number, frame in self._numbered() if waiting else ():
            if number == waiting[-1]:
                yield waiting.pop(), frame
            if not waiting:
                return
        if waiting:
            raise self.unreadable(f"frame {waiting[-1]}, {self.times[waiting[-1]]:.1f} s in, is damaged")

    def _sought(self, numbers: list[int]) -> Iterator[tuple[int, av.VideoFrame]]:
        if self.index is not None:
            with _in_words(self.path):
                yield from sought(*self._kept_open, self.index, numbers)

    @cached_property
    def _kept_open(self) -> tuple[Any, Any]:
        container = open_container(self.path)
        stream = container.streams.best("video")
        stream.thread_type = "AUTO"
        return container, stream

    def _numbered(self) -> Iterator[tuple[int, av.VideoFrame]]:
        """Every frame from the start that is not damaged, with its number."""
        if self.index is None:
            yield from enumerate(self._all_frames())
            return
        numbers = {int(pts): number for number, pts in enumerate(self.index.shown_pts)}
        for frame in self._all_frames():
            if frame.pts in numbers and not frame.is_corrupt:
                yield numbers[frame.pts], frame


class DecordReader(Reader):
    """A clip through decord."""

    backend: Backend = "decord"

    def __init__(self, path: Path, header: Header, why: str = "") -> None:
        super().__init__(path, header, why)
        import decord  # here, because most processes open no clip with it, and start sooner

        decord.logging.set_level(decord.logging.QUIET)
        self._errors = (decord.DECORDError, RuntimeError, IndexError, UnicodeEncodeError)
        with _in_words(path, self._errors):
            self._video: Any = decord.VideoReader(str(path))

    @property
    def num_frames(self) -> int:
        """Frames in the index that decord builds on opening."""
        return len(self._video)

    def frames(self, indices: Sequence[int]) -> Iterator[Pixels]:  # noqa: D102
        for start in range(0, len(indices), BATCH):
            with _in_words(self.path, self._errors):
                batch = self._video.get_batch(list(indices[start : start + BATCH])).asnumpy()
            yield from batch


# -- opening -----------------------------------------------------------------------------------------------------------


def open_video(path: Path, backend: Backend | None = None, handling: Handling = PLAIN) -> Reader:
    """Open a clip by ``backend``, or by decord where its pixels are FFmpeg's to ``AGREE`` levels, else by PyAV.

    Raises ``UnreadableClip`` for a file that is empty, damaged, or has no video.
    """
    header = read_header(path)
    if header.is_dolby:
        raise UnreadableClip(path, "it is HDR (Dolby Vision without a layer that other players show): convert it")
    if header.hdr and handling.hdr == "refuse":
        raise UnreadableClip(path, f"it is HDR ({HDR_NAMES[header.hdr]}): data.hdr=tone_map maps its colours")
    if header.is_guess and handling.matrix != "auto":
        header = replace(header, matrix=handling.matrix)
    if header.matrix not in (*LUMA, "gbr"):
        raise UnreadableClip(
            path, f"its colours are kept as {header.matrix}, which is not converted: write it as bt709"
        )
    # decord is faster on many files, but has colours of its own. So each rule below names one reason for PyAV; decord is
    # chosen only where none holds and its first and last frame agree with FFmpeg's. `why` is stored with the survey.
    by_pyav = partial(PyAVReader, path, header, handling=handling)
    if backend == "pyav":
        return by_pyav("asked for")
    if header.hdr or handling.lut:
        return by_pyav("colours go through a LUT")
    if header.has_alpha:
        return by_pyav("what is transparent is put over black")
    if header.is_guess and handling.matrix != "auto":
        return by_pyav(f"its matrix is said to be {header.matrix}")
    if handling.exact and backend is None and header.is_subsampled:
        return by_pyav(f"decord repeats the colours of {header.pixel_format} instead of interpolating")
    try:
        reader = DecordReader(path, header, "asked for")
        why = _against(reader, handling.exact)
    except UnreadableClip as error:
        if backend == "decord":
            raise
        return by_pyav(f"decord does not read it: {error.reason}")
    if backend is None:
        if why:
            return by_pyav(why)
        reader.why = "its frames are FFmpeg's" if handling.exact else "its colours are taken as they are"
    return reader


def _against(decord_reader: DecordReader, exact: bool) -> str:
    """What speaks against decord: it answers for some files with other pictures or none. "" for nothing."""
    last = max(decord_reader.num_frames - 1, 0)
    theirs = list(decord_reader.frames([0, last]))
    if theirs[0].shape[:2] != decord_reader.size:
        return f"decord decodes to {theirs[0].shape[:2]}, not {decord_reader.size}"
    # A seek of decord may land some frames off where frames refer to others across a keyframe, which no few frames that are
    # compared would tell. So exact frames are had of it only where each is a keyframe, and others where none refers so.
    ours = PyAVReader(decord_reader.path, decord_reader.header)
    if ours.index is None or (ours.index.has_open_gops if not exact else not ours.index.is_all_keys):
        return (
            "decord seeks by keyframes, and not every frame is one" if exact else "decord may miss frames of open GOPs"
        )
    if not exact:
        return ""
    if ours.num_frames != last + 1:
        return f"decord counts {last + 1} frames, not {ours.num_frames}"
    apart = max(int(np.abs(a.astype(np.int16) - b).max()) for a, b in zip(theirs, ours.frames([0, last]), strict=True))
    return f"decord's colours are up to {apart} levels off" if apart > AGREE else ""


def open_container(path: Path) -> Any:
    """A regular file as FFmpeg opens it, if it is a film. Raises ``UnreadableClip`` and FFmpeg's own errors."""
    try:
        status = path.stat()
    except OSError as error:
        raise UnreadableClip(path, error.strerror or "it cannot be opened") from error
    if not stat.S_ISREG(status.st_mode):
        raise UnreadableClip(path, "it is no file but a folder, pipe or device")
    if status.st_size == 0:
        raise UnreadableClip(path, "the file is empty")
    options = {"format_whitelist": CONTAINERS, "protocol_whitelist": "file"}
    try:
        return av.open(f"file:{path}", options=options, timeout=TIMEOUT_S)
    except av.error.ArgumentError as error:
        raise UnreadableClip(path, "it is none of the kinds of film that are read") from error


def resized(pixels: Pixels, height: int, width: int) -> Pixels:
    """A picture in another size: averaged where it becomes smaller."""
    way = cv2.INTER_AREA if height * width < math.prod(pixels.shape[:2]) else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(pixels, (width, height), interpolation=way), np.uint8)


def refuse_large(path: Path, width: int, height: int) -> None:
    """Raise ``UnreadableClip`` for a picture that would not fit in memory."""
    if width * height > LARGEST:
        raise UnreadableClip(path, f"its picture of {width}x{height} is too large")


def read_header(path: Path) -> Header:
    """Read what a file says of its video, and decode its first frame. Raises ``UnreadableClip``."""
    with _in_words(path), open_container(path) as container:
        stream = container.streams.best("video")
        if not isinstance(stream, av.VideoStream):
            raise UnreadableClip(path, "it has no video, only sound or data")
        # What is encrypted decodes to noise, or to nothing: each packet says so, or the codec has no name but "encrypted".
        first = next(packets := container.demux(stream)) if stream.codec_context else None
        if first is None or first.has_sidedata("encryption_info"):
            raise UnreadableClip(path, "it is encrypted (DRM)" if first else "it is encrypted, or of an unknown codec")
        refuse_large(path, stream.width, stream.height)
        packets = chain((first,), packets)
        frame = next(chain.from_iterable(decoded(stream.codec_context, packet) for packet in packets), None)
        if frame is None:
            raise UnreadableClip(path, "it has no frames")
        return _header(path, container, stream, frame)


@contextmanager
def _in_words(path: Path, kinds: tuple[type[Exception], ...] = (av.FFmpegError, ValueError)) -> Iterator[None]:
    """Orientation a library's error into one that names the clip."""
    try:
        yield
    except kinds as error:
        raise UnreadableClip(path, _last_line(error)) from error


def _header(path: Path, container: Any, stream: av.VideoStream, frame: av.VideoFrame) -> Header:
    # A phone stores its picture lying on its side and notes the turn; all that is said of the shape is said of the
    # picture as shown, so height and width change places, and so do the sides of a pixel that is not square.
    height, width, aspect = frame.height, frame.width, stream.sample_aspect_ratio or Fraction(1)
    found = turn_of(frame)
    turn = found or UPRIGHT
    if turn.transposed:
        height, width, aspect = width, height, 1 / aspect
    is_rgb, name = frame.format.is_rgb, frame.format.name
    named = "gbr" if is_rgb else MATRICES.get(frame.colorspace)
    return Header(
        fps=stream.average_rate or stream.guessed_rate or Fraction(25),
        height=height,
        width=width,
        pixel_aspect=aspect,
        duration_s=_promised_s(container, stream, frame.pts),
        turn=turn,
        is_skewed=found is None,
        time_base=stream.time_base or Fraction(1, av.time_base),
        first_pts=frame.pts or 0,
        is_plain=is_plain(container, stream),
        codec=stream.codec_context.codec.canonical_name,
        pixel_format=name,
        bits=max(component.bits for component in frame.format.components),
        matrix=named or guessed_matrix(frame.height, frame.width),
        is_guess=not named,
        is_dolby=is_dolby_alone(path, stream, frame),
        has_alpha=has_alpha(frame),
        range="full" if is_rgb or "yuvj" in name else RANGES.get(frame.color_range, "limited"),
        transfer=TRANSFERS.get(frame.color_trc, ""),
        primaries=PRIMARIES.get(frame.color_primaries, ""),
    )


def _promised_s(container: Any, stream: av.VideoStream, first_pts: int | None) -> Fraction | None:
    """Length of the video alone, from its first frame that can be decoded on: sound may run on after it."""
    # A film cut out of a broadcast keeps the broadcast's clock, and may begin with frames whose keyframe is missing. So what
    # counts is the end that is promised, less the first frame's time. Matroska gives the end in a tag, or only for the whole
    # file; some write a length there, which is known by its lying before the first frame.
    base, start = stream.time_base or Fraction(1, av.time_base), stream.start_time or 0
    first_s = (start if first_pts is None else first_pts) * base
    if stream.duration and stream.time_base:
        return (start + stream.duration) * base - first_s
    end_s = None
    if tag := stream.metadata.get("DURATION"):
        hours, minutes, seconds = tag.split(":")
        end_s = 3600 * int(hours) + 60 * int(minutes) + Fraction(seconds)
    elif container.duration and len(container.streams) == 1:
        end_s = Fraction(container.duration, av.time_base)
    return end_s - first_s if end_s is not None and end_s > first_s else end_s


def _last_line(error: object) -> str:
    """FFmpeg's words without error number and path, decord's without its C++ trace."""
    if isinstance(error, av.FFmpegError) and error.strerror:
        return error.strerror[0].lower() + error.strerror[1:]
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
