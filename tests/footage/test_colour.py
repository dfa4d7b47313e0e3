"""Colours are FFmpeg's own to two levels, whatever a film's matrix, range, depth and sampling."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
from av.video.reformatter import ColorRange, Colorspace, Interpolation, VideoReformatter
from footage_clips import write_film

from cinelora.footage.colour import hdr_kind
from cinelora.footage.video_reader import Handling, UnreadableClip, open_video

ACCURATE = (
    Interpolation.BILINEAR | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT | Interpolation.FULL_CHR_H_INP
)
MATRICES = {"bt709": (1, Colorspace.ITU709), "smpte170m": (6, Colorspace.ITU601)}
RANGES = {"limited": ColorRange.MPEG, "full": ColorRange.JPEG}
FORMATS = ["yuv420p", "yuv422p", "yuv444p", "yuv420p10le", "yuv422p10le", "yuv444p10le"]


@pytest.fixture(scope="module")
def chart() -> np.ndarray:
    """Gradients, saturated colours beside one another, thin lines and noise."""
    picture = np.zeros((96, 160, 3), np.uint8)
    ramp = np.linspace(0, 255, 160).astype(np.uint8)
    for channel in range(3):
        picture[8 * channel : 8 * channel + 8, :, channel] = ramp
    picture[24:32] = ramp[:, None]
    pure = np.array([[255 * (n >> 2 & 1), 255 * (n >> 1 & 1), 255 * (n & 1)] for n in range(8)], np.uint8)
    picture[32:64] = pure[np.arange(160) // 5 % 8]
    picture[64:80, ::3] = (255, 0, 0)
    picture[64:80:4] = (0, 255, 255)
    picture[80:] = np.random.default_rng(0).integers(0, 256, (16, 160, 3))
    return picture


def tagged(picture: np.ndarray, pixel_format: str, matrix: str, luma_range: str) -> av.VideoFrame:
    number, in_swscale = MATRICES[matrix]
    frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(
        format=pixel_format,
        src_color_range=ColorRange.JPEG,
        dst_color_range=RANGES[luma_range],
        dst_colorspace=in_swscale,
    )
    frame.colorspace, frame.color_range = number, RANGES[luma_range]
    return frame


def reference(path: Path, in_swscale: Colorspace, luma_range: str) -> np.ndarray:
    with av.open(str(path)) as container:
        frame = next(container.decode(video=0))
        accurate = VideoReformatter().reformat(
            frame,
            format="rgb24",
            interpolation=ACCURATE,
            src_colorspace=in_swscale,
            src_color_range=RANGES[luma_range],
            dst_color_range=ColorRange.JPEG,
        )
    return accurate.to_ndarray().astype(int)


def pixels_of(path: Path) -> np.ndarray:
    return next(iter(open_video(path).frames([0]))).astype(int)


@pytest.mark.parametrize("pixel_format", FORMATS)
@pytest.mark.parametrize("luma_range", RANGES)
@pytest.mark.parametrize("matrix", MATRICES)
def test_colours_are_ffmpegs_to_two_levels(
    tmp_path: Path, chart: np.ndarray, matrix: str, luma_range: str, pixel_format: str
) -> None:
    path = tmp_path / "a.mp4"
    write_film(path, [tagged(chart, pixel_format, matrix, luma_range)] * 2, options={"qp": "1"})
    header = open_video(path).header
    assert (header.matrix, header.range, header.pixel_format.replace("j", "")) == (matrix, luma_range, pixel_format)
    assert np.abs(pixels_of(path) - reference(path, MATRICES[matrix][1], luma_range)).max() <= 2


@pytest.mark.parametrize("luma_range", RANGES)
@pytest.mark.parametrize("matrix", MATRICES)
def test_paint_comes_back_as_it_was_mixed(tmp_path: Path, matrix: str, luma_range: str) -> None:
    for paint in [(255, 255, 255), (200, 30, 40), (30, 180, 60), (20, 40, 220), (120, 120, 120), (0, 0, 0)]:
        picture = np.broadcast_to(np.array(paint, np.uint8), (32, 32, 3))
        frame = tagged(np.ascontiguousarray(picture), "yuv420p", matrix, luma_range)
        write_film(tmp_path / "a.mp4", [frame], options={"qp": "1"})
        assert np.abs(pixels_of(tmp_path / "a.mp4") - picture).max() <= 3


@pytest.mark.parametrize(
    ("height", "width", "matrix"), [(576, 720, "smpte170m"), (578, 720, "bt709"), (272, 1280, "bt709")]
)
def test_untagged_film_is_taken_as_players_take_it(tmp_path: Path, height: int, width: int, matrix: str) -> None:
    picture = np.broadcast_to(np.array((200, 30, 40), np.uint8), (height, width, 3))
    frame = tagged(np.ascontiguousarray(picture), "yuv420p", matrix, "limited")
    frame.colorspace, frame.color_range = 2, 0
    write_film(tmp_path / "a.mp4", [frame], options={"qp": "1", "preset": "ultrafast"})
    assert open_video(tmp_path / "a.mp4").header.matrix == matrix
    assert np.abs(pixels_of(tmp_path / "a.mp4") - picture).max() <= 3


def test_a_matrix_that_is_not_converted_is_refused(tmp_path: Path, chart: np.ndarray) -> None:
    frame = tagged(chart, "yuv444p", "bt709", "limited")
    frame.colorspace = 8
    write_film(tmp_path / "a.mp4", [frame])
    with pytest.raises(UnreadableClip, match="kept as ycgco"):
        open_video(tmp_path / "a.mp4")


def test_other_codecs_and_odd_sizes_have_right_colours(tmp_path: Path, chart: np.ndarray) -> None:
    ways = {
        "prores.mov": ("prores_ks", chart, "yuv422p10le"),
        "vp9.webm": ("libvpx-vp9", chart, "yuv420p"),
        "odd.mkv": ("ffv1", chart[:95, :157], "yuv420p"),
        "rgb.mkv": ("libx264rgb", chart, "rgb24"),
        "gray.mkv": ("ffv1", chart, "gray"),
    }
    for name, (codec, picture, pixel_format) in ways.items():
        frame = tagged(np.ascontiguousarray(picture), pixel_format, "smpte170m", "limited")
        if pixel_format == "rgb24":
            frame.colorspace, frame.color_range = 2, 0
        write_film(tmp_path / name, [frame], codec=codec)
        luma_range = open_video(tmp_path / name).header.range
        apart = np.abs(pixels_of(tmp_path / name) - reference(tmp_path / name, Colorspace.ITU601, luma_range))
        assert pixels_of(tmp_path / name).shape == picture.shape
        assert apart.max() <= 2, name


def test_decord_is_taken_only_where_its_colours_are_right(tmp_path: Path, chart: np.ndarray) -> None:
    def chosen(matrix: str, pixel_format: str) -> tuple[str, str]:
        write_film(
            tmp_path / "a.mp4", [tagged(chart, pixel_format, matrix, "limited")] * 3, options={"qp": "1", "g": "1"}
        )
        reader = open_video(tmp_path / "a.mp4")
        return reader.backend, reader.why

    assert chosen("smpte170m", "yuv444p")[0] == "decord"
    assert chosen("smpte170m", "yuv420p") == ("pyav", "decord repeats the colours of yuv420p instead of interpolating")
    plain = open_video(tmp_path / "a.mp4", handling=Handling(exact=False))
    assert (plain.backend, plain.why) == ("decord", "its colours are taken as they are")


@pytest.mark.parametrize(
    ("tags", "kind"),
    [
        (("bt2020nc", "smpte2084", "bt2020"), "pq"),
        (("bt2020nc", "arib-std-b67", "bt2020"), "hlg"),
        (("bt709", "bt709", "bt2020"), "bt2020"),
        (("bt2020nc", "", ""), "bt2020"),
        (("bt709", "bt709", "bt709"), ""),
        (("smpte170m", "", ""), ""),
    ],
)
def test_hdr_is_recognised_by_its_tags(tags: tuple[str, str, str], kind: str) -> None:
    assert hdr_kind(*tags) == kind
