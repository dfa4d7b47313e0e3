"""Pictures and clips as files: png, mp4, and a contact sheet of several clips in one picture.

Enters: RGB pixels (T, H, W, 3). Leaves: files, written whole or not at all. PyAV and Pillow are imported where they are used.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cinelora.io.atomic import write_whole

Pixels = NDArray[np.uint8]
SHEET_TEXT, SHEET_GAP = 16, 4
"""Height of the contact sheet's letters and the gap between pictures, in pixels."""


# -- pictures ----------------------------------------------------------------------------------------------------------


def write_png(path: Path, image_HWC: Pixels) -> None:
    """Write one RGB picture, whole or not at all; raises as ``write_whole``."""
    from PIL import Image

    write_whole(path, lambda draft: Image.fromarray(image_HWC).save(draft, format="png"))


def write_mp4(path: Path, video_THWC: Pixels, fps: int, crf: int = 16) -> None:
    """Write RGB frames as h264 mp4 that plays everywhere: yuv420p, BT.709, limited range, index at the front.

    ``crf`` is x264's constant rate factor: 16 shows no loss, 30 much.

    Raises ``ValueError`` for no frames or an odd side (4:2:0 halves both), otherwise as ``write_whole``.
    """
    num_frames, height, width, channels = video_THWC.shape
    if num_frames == 0 or height % 2 or width % 2 or channels != 3:
        raise ValueError(f"an mp4 takes frames of even height and width in RGB, not {video_THWC.shape}")
    write_whole(path, lambda draft: _encode_mp4(draft, video_THWC, fps, crf))


def _encode_mp4(draft: Path, video_THWC: Pixels, fps: int, crf: int) -> None:
    import av
    from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc

    with av.open(str(draft), "w", format="mp4", options={"movflags": "+faststart"}) as container:
        stream = container.add_stream("libx264", rate=fps, options={"crf": str(crf), "preset": "medium"})
        stream.width, stream.height, stream.pix_fmt = video_THWC.shape[2], video_THWC.shape[1], "yuv420p"
        # untagged files are taken for BT.601 below 720 lines by some players, which shifts every colour
        context = stream.codec_context
        context.color_range, context.colorspace = ColorRange.MPEG, Colorspace.ITU709
        context.color_primaries, context.color_trc = ColorPrimaries.BT709, ColorTrc.BT709
        for frame_HWC in video_THWC:
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame_HWC), format="rgb24").reformat(
                format="yuv420p",
                src_color_range=ColorRange.JPEG,
                dst_color_range=ColorRange.MPEG,
                dst_colorspace=Colorspace.ITU709,
            )
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def contact_sheet(rows: list[tuple[str, Pixels]], columns: int = 6) -> Pixels:
    """One picture of several clips: for each ``(label, frames THWC)`` its label above up to ``columns`` frames.

    Frames are taken at even distances, first and last included. Returns RGB pixels HWC.
    """
    from PIL import Image, ImageDraw, ImageFont

    # Strips first, then their labels, as a label is broken where the widest strip ends; the heights of both say how tall it gets.
    strips = [np.concatenate(_with_gaps(_spread(video_THWC, columns)), axis=1) for _, video_THWC in rows]
    width = max(strip.shape[1] for strip in strips)
    font = ImageFont.load_default(SHEET_TEXT)
    labels = [_wrap(label, width, font.getlength) for label, _ in rows]
    line_height = math.ceil(SHEET_TEXT * 1.4)
    heights = [len(lines) * line_height + len(strip) + SHEET_GAP for lines, strip in zip(labels, strips, strict=True)]
    sheet = Image.new("RGB", (width, sum(heights)), "white")
    draw, top = ImageDraw.Draw(sheet), 0
    for lines, strip, height in zip(labels, strips, heights, strict=True):
        for number, line in enumerate(lines):
            draw.text((SHEET_GAP, top + number * line_height), line, fill="black", font=font)
        sheet.paste(Image.fromarray(strip), (0, top + len(lines) * line_height))
        top += height
    return np.asarray(sheet)


def _spread(video_THWC: Pixels, columns: int) -> list[Pixels]:
    picked = np.linspace(0, len(video_THWC) - 1, min(columns, len(video_THWC))).round().astype(int)
    return [video_THWC[i] for i in picked]


def _with_gaps(frames_HWC: list[Pixels]) -> list[Pixels]:
    gap = np.full((frames_HWC[0].shape[0], SHEET_GAP, 3), 255, np.uint8)
    return [part for frame_HWC in frames_HWC for part in (frame_HWC, gap)][:-1]


def _wrap(label: str, width: int, length: Callable[[str], float]) -> list[str]:
    lines = [""]
    for word in label.split():
        longer = f"{lines[-1]} {word}".strip()
        if length(longer) <= width - 2 * SHEET_GAP or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines
