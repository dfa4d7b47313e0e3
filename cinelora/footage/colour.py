"""What a file says of its colours: the numbers of FFmpeg enter, names and the kind of HDR leave.

Names are those of FFmpeg's own ``ffprobe``, which follow ITU-T H.273. It does not know files or frames.
"""

from __future__ import annotations

from typing import Any, Literal

from av.video.reformatter import ColorRange, Colorspace

Hdr = Literal["pq", "hlg", "bt2020", ""]

UNSPECIFIED = 2
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


def swscale_colours(matrix: str, luma_range: str) -> dict[str, Any]:
    """What PyAV's ``reformat`` must be told to turn a frame into full-range RGB by this matrix and range."""
    source = ColorRange.JPEG if luma_range == "full" else ColorRange.MPEG
    return {
        "src_colorspace": IN_SWSCALE.get(matrix),
        "src_color_range": source,
        "dst_color_range": ColorRange.JPEG,
    }


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
