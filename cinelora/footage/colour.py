"""Colours: a decoded frame and what its file says of its colours enter, RGB pixels leave.

Names are those of FFmpeg's own ``ffprobe``, which follow ITU-T H.273. It does not know files or clips.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import cv2
import numpy as np
from av.video.reformatter import ColorRange, Colorspace, Interpolation, VideoReformatter
from numpy.typing import NDArray

if TYPE_CHECKING:
    from av import VideoFrame

    from cinelora.footage.lut import Grade

Pixels = NDArray[np.uint8]
Hdr = Literal["pq", "hlg", "bt2020", ""]

MATRICES = {
    **{0: "gbr", 1: "bt709", 4: "fcc", 5: "bt470bg", 6: "smpte170m", 7: "smpte240m", 8: "ycgco"},
    **{9: "bt2020nc", 10: "bt2020c", 14: "ictcp"},
}
TRANSFERS = {
    **{1: "bt709", 4: "gamma22", 5: "gamma28", 6: "smpte170m", 7: "smpte240m", 8: "linear", 9: "log100", 10: "log316"},
    **{13: "iec61966-2-1", 14: "bt2020-10", 15: "bt2020-12", 16: "smpte2084", 17: "smpte428", 18: "arib-std-b67"},
}
PRIMARIES = {
    **{1: "bt709", 4: "bt470m", 5: "bt470bg", 6: "smpte170m", 7: "smpte240m", 8: "film", 9: "bt2020"},
    **{10: "smpte428", 11: "smpte431", 12: "smpte432", 22: "ebu3213"},
}
RANGES = {1: "limited", 2: "full"}

IN_SWSCALE = {
    **{"fcc": Colorspace.FCC, "smpte240m": Colorspace.SMPTE240M, "bt2020nc": Colorspace.BT2020},
    **{"bt709": Colorspace.ITU709, "bt470bg": Colorspace.ITU601, "smpte170m": Colorspace.ITU601},
}
LUMA = {
    **{"bt709": (0.2126, 0.0722), "bt470bg": (0.299, 0.114), "smpte170m": (0.299, 0.114)},
    **{"fcc": (0.30, 0.11), "smpte240m": (0.212, 0.087), "bt2020nc": (0.2627, 0.0593)},
}
"""Weights of red and blue in luma: ITU-T H.273, table 4."""
PLANES_OF_8_BITS = frozenset(f"yuv{j}{sampling}p" for j in ("", "j") for sampling in ("420", "422", "440", "444"))
ACCURATE = (
    Interpolation.BILINEAR | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT | Interpolation.FULL_CHR_H_INP
)
"""What all colours are measured against: swscale at its best, which takes ten times as long as at its fastest."""


class Orientation(NamedTuple):
    """How stored pictures are laid down: rows and columns change places first, then they are mirrored."""

    transposed: bool = False
    left_right: bool = False
    upside_down: bool = False

    def __call__(self, pixels: Pixels) -> Pixels:
        """The picture as shown."""
        shown = pixels.swapaxes(0, 1) if self.transposed else pixels
        return shown[:: -1 if self.upside_down else 1, :: -1 if self.left_right else 1]


UPRIGHT = Orientation()


class ToRgb:
    """Frames of one clip as RGB, HWC and upright: within 2 levels of 255 of swscale's accurate conversion.

    ``matrix`` and ``luma_range`` are the clip's; ``turn`` lays its pictures down. What is transparent is over black, as in
    stills. One object serves one thread.
    """

    def __init__(self, matrix: str, luma_range: str, turn: Orientation = UPRIGHT, grade: Grade | None = None) -> None:
        self.matrix, self.range, self.turn, self.grade = matrix, luma_range, turn, grade
        self._full, self._small = VideoReformatter(), VideoReformatter()

    def __call__(self, frame: VideoFrame) -> Pixels:
        """The frame in its own size."""
        # Three ways, from slow to fast. A LUT needs more levels than 8 bits have, so its frames are floats. Most films are
        # YUV of 8 bits, for which OpenCV multiplies by the matrix faster than swscale does. swscale converts all else.
        if self.grade is not None:
            pixels = self.grade(self._as_floats(frame))
        elif has_alpha(frame):
            pixels = self.accurately(frame)
        elif self.matrix in LUMA and frame.format.name in PLANES_OF_8_BITS:
            pixels = self._quickly(frame)
        else:
            pixels = self.accurately(frame)
        return self.turn(self._over_black(pixels, frame))

    def accurately(self, frame: VideoFrame) -> Pixels:
        """swscale's accurate conversion, unturned: into planes, which it writes twice as fast as interleaved pixels."""
        green, blue, red = _planes(self._full.reformat(frame, format="gbrp", **self._in_swscale, **_with(ACCURATE)))
        return np.asarray(cv2.merge((red, green, blue)), np.uint8)

    def scaled(self, frame: VideoFrame, height: int, width: int) -> Pixels:
        """The frame averaged down to ``height`` and ``width``, those of the upright picture."""
        if self.turn.transposed:
            height, width = width, height
        averaged = {"height": height, "width": width, **_with(Interpolation.AREA)}
        if self.grade is not None:
            small = self._small.reformat(frame, **averaged)
            return self.turn(self._over_black(self.grade(self._as_floats(small)), small))
        if has_alpha(frame):
            frame = self._small.reformat(frame, **averaged)
        small = self._small.reformat(frame, format="rgb24", **self._in_swscale, **averaged)
        return self.turn(self._over_black(np.asarray(small.to_ndarray(), np.uint8), frame))

    def _over_black(self, pixels: Pixels, frame: VideoFrame) -> Pixels:
        if not has_alpha(frame):
            return pixels
        alpha_HW1 = _planes(self._full.reformat(frame, format="gbrap", **_with(ACCURATE)))[3][..., None]
        return np.rint(pixels * (alpha_HW1 / 255.0)).astype(np.uint8)

    def _as_floats(self, frame: VideoFrame) -> VideoFrame:
        return self._full.reformat(frame, format="gbrpf32le", **self._in_swscale, **_with(ACCURATE))

    def _quickly(self, frame: VideoFrame) -> Pixels:
        """Only the colours' planes are interpolated by swscale; OpenCV, which is faster, applies the matrix."""
        # A film in 4:2:0 has one pair of colour values for four pixels. swscale makes it 4:4:4, a pair for each; then one
        # 3x4 product per pixel gives RGB.
        whole = self._full.reformat(frame, format="yuv444p", **_with(Interpolation.BILINEAR))
        pixels = cv2.transform(cv2.merge(_planes(whole)), to_rgb_matrix(self.matrix, self.range))
        return np.asarray(pixels, np.uint8)

    @property
    def _in_swscale(self) -> dict[str, Any]:
        return {
            "src_colorspace": IN_SWSCALE.get(self.matrix),
            "src_color_range": ColorRange.JPEG if self.range == "full" else ColorRange.MPEG,
            "dst_color_range": ColorRange.JPEG,
        }


def has_alpha(frame: VideoFrame) -> bool:
    """Whether parts of it may be transparent."""
    return any(component.is_alpha for component in frame.format.components)


def _with(interpolation: Interpolation) -> dict[str, Any]:
    return {"interpolation": interpolation, "threads": 1}  # the decoder has the other cores


def _planes(frame: VideoFrame) -> list[Pixels]:
    return [np.frombuffer(p, np.uint8).reshape(p.height, p.line_size)[:, : p.width] for p in frame.planes]  # type: ignore[call-overload]


@cache
def to_rgb_matrix(matrix: str, luma_range: str) -> NDArray[np.float32]:
    """3x4: RGB of 0 to 255 is its product with (Y, Cb, Cr, 1) of 8 bits. ITU-T H.273, 8.3, equations 38 to 45."""
    # A picture is stored as luma Y = red R + green G + blue B, with three weights that sum to 1, and as two differences:
    # Cb is (B - Y) / (2 - 2 blue) and Cr is (R - Y) / (2 - 2 red), each then within -1/2 and 1/2. So
    #   R = Y + 2 (1 - red) Cr       and       B = Y + 2 (1 - blue) Cb,
    # and G is what is left of Y once R and B are taken off. Hence the rows below.
    red, blue = LUMA[matrix]
    green = 1 - red - blue
    # In the limited range black is 16 and white 235, and the differences span 224 levels: both are stretched to 255.
    # The differences are stored with 128 added.
    luma, chroma, black = (1.0, 1.0, 0.0) if luma_range == "full" else (255 / 219, 255 / 224, 16.0)
    to_red, to_blue = 2 * (1 - red) * chroma, 2 * (1 - blue) * chroma
    weights = np.array(
        [[luma, 0.0, to_red], [luma, -to_blue * blue / green, -to_red * red / green], [luma, to_blue, 0.0]]
    )
    offset = -weights @ np.array([black, 128.0, 128.0])
    return np.column_stack([weights, offset]).astype(np.float32)


def hdr_kind(matrix: str, transfer: str, primaries: str) -> Hdr:
    """Which kind of picture no ordinary screen shows as it is: PQ, HLG, wide primaries; "" for ordinary ones."""
    if transfer == "smpte2084":
        return "pq"
    if transfer == "arib-std-b67":
        return "hlg"
    wide = primaries == "bt2020" or matrix in ("bt2020nc", "bt2020c") or transfer in ("bt2020-10", "bt2020-12")
    return "bt2020" if wide else ""


def guessed_matrix(height: int, width: int) -> str:
    """The matrix of a file that names none, as players guess it: BT.709 from HD on, BT.601 below.

    The border is mpv's (``mp_csp_guess_colorspace``): 1280 pixels wide, or more than 576 lines.
    """
    return "bt709" if width >= 1280 or height > 576 else "smpte170m"
