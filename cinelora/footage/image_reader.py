"""The one reader of pictures, given as footage or as ``image=``: upright, in sRGB of 8 bits, whatever the file is.

Enters: picture files. Leaves: pixels, or the same ``Reader`` as of a film: a still is a clip of one frame, numbered pictures are
one of many. Pillow reads them; FFmpeg what Pillow cannot, EXR and TIFF of
16 bits. It does not know which pictures belong together.
"""

from __future__ import annotations

import io
import struct
import warnings
from collections.abc import Iterator, Sequence
from fractions import Fraction
from functools import cached_property
from itertools import groupby, repeat
from pathlib import Path

import av
import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

from cinelora.errors import reason
from cinelora.footage.colour import PRIMARIES, TRANSFERS, hdr_kind
from cinelora.footage.video_reader import (
    HDR_NAMES,
    Handling,
    Header,
    Pixels,
    Reader,
    Timed,
    UnreadableClip,
    refuse_large,
    resized,
)

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".exr", ".bmp", ".gif")
PILLOW_KINDS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "JPEG2000")
"""What Pillow may take a file for, whatever its name says. PostScript, another of its kinds, is a program."""
FFMPEG_KINDS = {".exr": "exr_pipe", ".tif": "tiff_pipe", ".tiff": "tiff_pipe", ".png": "png_pipe"}
TINY = (32, 18)
EXR_HEAD = 2**16
"""Bytes of an EXR that its attributes lie in."""
REC_709 = (0.64, 0.33, 0.30, 0.60, 0.15, 0.06, 0.3127, 0.3290)
BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
"""Makes responses of the eye's three cones of XYZ: white is adapted in these."""
PNG_HEAD = 2**16
SDR_CICP = ((1, 13), (1, 1), (1, 6))
"""Primaries and transfer of a PNG's cICP that a screen shows as they are."""
_DAMAGED = (
    OSError,
    EOFError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    struct.error,
    MemoryError,
)
"""What Pillow's plugins raise over files that end early or contradict themselves."""


def picture_size(path: Path) -> tuple[int, int] | None:
    """Height and width as stored, from the header alone; ``None`` where it cannot be read."""
    try:
        if path.suffix.lower() == ".exr":
            with av.open(f"file:{path}", format="exr_pipe") as container:
                stream = container.streams.video[0]
                return stream.height, stream.width
        with warnings.catch_warnings(action="ignore"), Image.open(path, formats=PILLOW_KINDS) as picture:
            return picture.height, picture.width
    except (*_DAMAGED, av.FFmpegError, Image.DecompressionBombError):
        return None


def tiny_picture(path: Path) -> NDArray[np.float32] | None:
    """The picture's lightness at ``TINY`` width and height, to tell whether two look alike; None where it cannot be read."""
    try:
        if path.suffix.lower() == ".exr":
            small = cv2.resize(_by_ffmpeg(path), TINY, interpolation=cv2.INTER_AREA)
            return np.asarray(small.mean(2), np.float32)
        with warnings.catch_warnings(action="ignore"), Image.open(path, formats=PILLOW_KINDS) as picture:
            refuse_large(path, picture.width, picture.height)
            picture.draft(
                "L", (8 * TINY[0], 8 * TINY[1])
            )  # a JPEG is decoded at an eighth, which is eight times as fast
            return np.asarray(picture.convert("L").resize(TINY, Image.Resampling.BOX), np.float32)
    except (*_DAMAGED, UnreadableClip, Image.DecompressionBombError):
        return None


def read_picture(path: Path, animated: bool = False) -> Pixels:
    """The picture upright, RGB HWC in sRGB: its profile heeded, what is transparent over black.

    Of an animation the first frame, if ``animated`` ones are welcome. Raises ``UnreadableClip``.
    """
    try:
        if path.suffix.lower() == ".exr":
            return _by_ffmpeg(path)
        # What Pillow warns of (large pictures, odd metadata) is either refused below or changes no pixel.
        with warnings.catch_warnings(action="ignore"), Image.open(path, formats=PILLOW_KINDS) as picture:
            _refuse_odd(path, picture, animated)
            _refuse_hdr(path, picture)
            return np.array(_in_srgb(ImageOps.exif_transpose(picture)))
    except UnidentifiedImageError as error:
        if not path.stat().st_size:
            raise UnreadableClip(path, "the file is empty") from error
        if path.suffix.lower() not in FFMPEG_KINDS:
            raise UnreadableClip(path, "it is no picture") from error
        return _by_ffmpeg(path)
    except (*_DAMAGED, Image.DecompressionBombError) as error:
        text = reason(error) or type(error).__name__
        raise UnreadableClip(path, text[0].lower() + text[1:]) from error


def _refuse_odd(path: Path, picture: Image.Image, animated: bool) -> None:
    refuse_large(path, picture.width, picture.height)
    if not animated and getattr(picture, "n_frames", 1) > 1 and picture.format in ("GIF", "WEBP", "PNG"):
        raise UnreadableClip(path, "it is an animation: make a film of it")
    if picture.mode in ("I", "F"):
        raise UnreadableClip(
            path, f"its pixels of 32 bits ({picture.mode}) have no known white: make it EXR or 16 bits"
        )


def _refuse_hdr(path: Path, picture: Image.Image) -> None:
    """Raise ``UnreadableClip`` for a PNG whose cICP says that its numbers are no sRGB. PNG 3, 11.3.2.6; ITU-T H.273."""
    if picture.format != "PNG":
        return
    with path.open("rb") as file:
        head = file.read(PNG_HEAD)
    at = head.find(b"cICP", 0, max(head.find(b"IDAT"), 0))
    if at < 0 or tuple(head[at + 4 : at + 6]) in SDR_CICP:
        return
    primaries, transfer = PRIMARIES.get(head[at + 4], "?"), TRANSFERS.get(head[at + 5], "?")
    kind = HDR_NAMES.get(hdr_kind("", transfer, primaries))
    what = f"HDR ({kind})" if kind else f"in {primaries} primaries and {transfer}, by its cICP"
    raise UnreadableClip(path, f"it is {what}: convert it to sRGB")


def _in_srgb(picture: Image.Image) -> Image.Image:
    # A profile says what the file's numbers look like: without it a photograph in Adobe RGB would be trained on too pale. It is
    # of the stored colours, so it comes before transparency: what is blended with black is no colour of the profile any more.
    profile = picture.info.get("icc_profile")
    see_through = picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info
    alpha = picture.convert("RGBA").getchannel("A") if see_through else None
    colours = _turned(_opaque(picture), profile)
    # What shines through a transparent picture is not in the file. Black is what an editor shows there.
    return Image.composite(colours, Image.new("RGB", colours.size), alpha) if alpha else colours


def _opaque(picture: Image.Image) -> Image.Image:
    """The stored colours in 8 bits, as one of the modes that a profile can be of: L, RGB, CMYK or LAB."""
    # Grey of 16 bits: Pillow's own conversion would clip every value above 255 to white. 65535 / 255 = 257, so that
    # the lightest value stays the lightest.
    if picture.mode.startswith("I;16"):
        return Image.fromarray(np.rint(np.asarray(picture) / 257).astype(np.uint8))
    if picture.mode in ("L", "LA", "1"):
        return picture.convert("L")
    return picture if picture.mode in ("CMYK", "LAB") else picture.convert("RGB")


def _turned(colours: Image.Image, profile: bytes | None) -> Image.Image:
    """The colours as sRGB has them; a profile that is damaged, or of other colours than the file's, says nothing."""
    try:
        source = None if profile is None else ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if colours.mode == "LAB" and source is None:
            source = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB"))
        if source is not None:
            if colours.mode == "L" and source.profile.xcolor_space.strip() == "RGB":
                colours = colours.convert("RGB")
            turned = ImageCms.profileToProfile(colours, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
            return turned or colours.convert("RGB")
    except (ImageCms.PyCMSError, OSError):
        pass
    return colours.convert("RGB")


def _by_ffmpeg(path: Path) -> Pixels:
    """EXR is linear light, which the curve of sRGB is put over; other pictures have it already."""
    # The format is named, not guessed: FFmpeg takes a file for whatever its first bytes look like, and some formats
    # open other files in turn.
    kind = FFMPEG_KINDS[path.suffix.lower()]
    try:
        with av.open(f"file:{path}", format=kind) as container:
            stream = container.streams.video[0]
            refuse_large(path, stream.width, stream.height)
            frame = next(container.decode(stream))
            if path.suffix.lower() != ".exr":
                return np.asarray(frame.to_ndarray(format="rgb24"), np.uint8)
            linear = frame.reformat(format="gbrpf32le").to_ndarray() @ primaries_to_srgb(_chromaticities(path)).T
    except (av.FFmpegError, ValueError, StopIteration) as error:
        raise UnreadableClip(path, "it is no picture, or damaged") from error
    return np.rint(255 * srgb_curve(np.nan_to_num(linear))).astype(np.uint8)


def _chromaticities(path: Path) -> tuple[float, ...]:
    """x and y of an EXR's red, green, blue and white: those of BT.709 where the file names none. "OpenEXR File Layout"."""
    with path.open("rb") as file:
        head = file.read(EXR_HEAD)
    at = head.find(b"chromaticities\0chromaticities\0\x20\0\0\0")
    found = struct.unpack_from("<8f", head, at + 34) if 0 <= at <= len(head) - 66 else REC_709
    # what is no triangle of colours says nothing
    return found if np.isfinite(found).all() and abs(np.linalg.det(_xyz(found)[0])) > 1e-4 else REC_709


def primaries_to_srgb(chromaticities: tuple[float, ...]) -> NDArray[np.float32]:
    """3x3: linear RGB of BT.709 from that of these primaries, their white made BT.709's (Bradford)."""
    if np.allclose(chromaticities, REC_709, atol=1e-3):
        return np.eye(3, dtype=np.float32)
    (theirs, their_white), (ours, our_white) = _xyz(chromaticities), _xyz(REC_709)
    cones = np.diag((BRADFORD @ our_white) / (BRADFORD @ their_white))
    adapted = np.linalg.inv(BRADFORD) @ cones @ BRADFORD
    return np.asarray(np.linalg.inv(ours) @ adapted @ theirs, np.float32)


def _xyz(chromaticities: tuple[float, ...]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """3x3 that makes CIE XYZ of linear RGB, and the white's XYZ. SMPTE RP 177."""
    xy = np.reshape(chromaticities, (4, 2)).astype(float)
    columns = np.column_stack([xy, 1 - xy.sum(1)]).T / np.where(xy[:, 1], xy[:, 1], 1e-9)
    colours, white = columns[:, :3], columns[:, 3]
    # Each primary has a direction only; how much of each makes white tells their lengths.
    lengths = np.linalg.lstsq(colours, white, rcond=None)[0]
    return colours * lengths, white


def srgb_curve(linear: NDArray[np.floating]) -> NDArray[np.float32]:
    """Linear light of 0 to 1 as sRGB writes it; what is beyond is clipped. IEC 61966-2-1, equations 5 and 6."""
    light = np.clip(linear, 0, 1).astype(np.float32)
    written: NDArray[np.float32] = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    return written


class PictureReader(Reader):
    """Pictures as the frames of a clip, one a frame. All must have the first one's size."""

    backend = "pillow"
    is_timed = True

    def __init__(self, path: Path, files: list[Path], handling: Handling) -> None:
        self.files = files
        first = _read_of(path, files[0])
        super().__init__(path, _header(files, first, handling.sequence_fps), "it is a picture", handling)

    @cached_property
    def times(self) -> NDArray[np.float64]:  # noqa: D102
        return np.arange(len(self.files)) / float(self.fps)

    def frames(self, indices: Sequence[int]) -> Iterator[Pixels]:  # noqa: D102
        for index, same in groupby(indices):
            if index >= len(self.files):
                raise self.unreadable(f"it ends before frame {index}")
            yield from repeat(self._read(index), len(list(same)))

    def scaled(self, height: int, width: int, start_s: float = 0.0, end_s: float | None = None) -> Timed:  # noqa: D102
        for number, seconds in enumerate(self.times):
            if start_s <= seconds and (end_s is None or seconds < end_s):
                self._picture = self._read(number)
                small = cv2.resize(self._picture, (width, height), interpolation=cv2.INTER_AREA)
                yield float(seconds), np.asarray(small, np.uint8)

    def latest_scaled(self, height: int, width: int) -> Pixels:  # noqa: D102
        return resized(self._picture, height, width)

    def _read(self, number: int) -> Pixels:
        pixels = _read_of(self.path, self.files[number])
        self.refuse_change(self.size, pixels.shape[:2], f"in {self.files[number].name}")
        if self.handling.lut is None:
            return pixels
        return self.convert(av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24"))


def _read_of(clip: Path, file: Path) -> Pixels:
    try:
        return read_picture(file)
    except UnreadableClip as error:
        raise UnreadableClip(clip, error.reason if file == clip else f"{file.name}: {error.reason}") from error


def _header(files: list[Path], first: Pixels, fps: Fraction) -> Header:
    return Header(
        fps=fps,
        height=first.shape[0],
        width=first.shape[1],
        duration_s=len(files) / fps,
        time_base=1 / fps,
        codec=files[0].suffix.lower().lstrip("."),
        pixel_format="rgb24",
        matrix="gbr",
        range="full",
        transfer="iec61966-2-1",
        primaries="bt709",
    )
