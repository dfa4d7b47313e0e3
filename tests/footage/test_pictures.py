"""Stills of every kind come as upright RGB of 8 bits, or say why not."""

from __future__ import annotations

import io
import struct
import zlib
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image, ImageCms

from cinelora.footage.image_reader import picture_size, read_picture, srgb_curve
from cinelora.footage.scan_folder import open_clip
from cinelora.footage.video_reader import UnreadableClip


@pytest.fixture(scope="module")
def paint() -> np.ndarray:
    ramp = np.linspace(0, 255, 24).astype(np.uint8)
    picture = np.zeros((16, 24, 3), np.uint8)
    picture[:8], picture[8:] = ramp[:, None], (200, 40, 60)
    return picture


def write_by_ffmpeg(path: Path, pixels: np.ndarray, codec: str, pixel_format: str) -> None:
    source = "gbrpf32le" if pixels.dtype == np.float32 else "rgb48le" if pixels.dtype == np.uint16 else "rgb24"
    frame = av.VideoFrame.from_ndarray(pixels, format=source).reformat(format=pixel_format)
    with av.open(str(path), "w", format="image2") as container:
        stream: Any = container.add_stream(codec, rate=25)
        stream.height, stream.width, stream.pix_fmt = *pixels.shape[:2], pixel_format
        frame.pts, frame.time_base = 0, Fraction(1, 25)
        container.mux(stream.encode(frame))
        container.mux(stream.encode())


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.bmp", "a.webp", "a.jpg", "a.jpeg"])
def test_a_still_is_a_clip_of_one_frame(tmp_path: Path, paint: np.ndarray, name: str) -> None:
    options = {"webp": {"lossless": True}, "jpg": {"quality": 100, "subsampling": 0}, "jpeg": {"quality": 100}}
    Image.fromarray(paint).save(tmp_path / name, **options.get(name[2:], {}))  # type: ignore[arg-type]
    reader = open_clip(tmp_path / name)
    assert (reader.num_frames, reader.size, list(reader.times)) == (1, (16, 24), [0.0])
    assert np.abs(next(iter(reader.frames([0]))).astype(int) - paint).mean() < 3
    assert picture_size(tmp_path / name) == (16, 24)


def test_modes_come_as_rgb(tmp_path: Path, paint: np.ndarray) -> None:
    picture = Image.fromarray(paint)
    gray = np.asarray(picture.convert("L"))
    Image.fromarray(gray.astype(np.uint16) * 257).save(tmp_path / "gray16.png")
    assert np.array_equal(read_picture(tmp_path / "gray16.png"), np.repeat(gray[..., None], 3, -1))
    see_through = picture.convert("RGBA")
    see_through.putalpha(Image.fromarray(np.where(np.arange(24) < 12, 255, 0).astype(np.uint8)[None].repeat(16, 0)))
    see_through.save(tmp_path / "alpha.png")
    over_black = np.where(np.arange(24)[None, :, None] < 12, paint, 0)
    assert np.array_equal(read_picture(tmp_path / "alpha.png"), over_black)
    picture.quantize(200).save(tmp_path / "palette.png")
    assert np.abs(read_picture(tmp_path / "palette.png").astype(int) - paint).max() < 8
    picture.convert("CMYK").save(tmp_path / "cmyk.jpg", quality=100)
    assert np.abs(read_picture(tmp_path / "cmyk.jpg").astype(int) - paint).mean() < 6
    write_by_ffmpeg(tmp_path / "rgb16.tif", paint.astype(np.uint16) * 257, "tiff", "rgb48le")
    assert np.abs(read_picture(tmp_path / "rgb16.tif").astype(int) - paint).max() <= 1
    write_by_ffmpeg(tmp_path / "rgb16.png", paint.astype(np.uint16) * 257, "png", "rgb48be")
    assert np.abs(read_picture(tmp_path / "rgb16.png").astype(int) - paint).max() <= 1


def test_a_phones_picture_is_upright_and_a_profile_is_heeded(tmp_path: Path, paint: np.ndarray) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(paint).save(tmp_path / "turned.png", exif=exif)
    assert np.array_equal(read_picture(tmp_path / "turned.png"), np.rot90(paint, -1))
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
    Image.fromarray(paint).save(tmp_path / "srgb.png", icc_profile=profile.tobytes())
    assert np.abs(read_picture(tmp_path / "srgb.png").astype(int) - paint).max() <= 1
    Image.fromarray(paint).save(tmp_path / "broken.png", icc_profile=b"no profile")
    assert np.array_equal(read_picture(tmp_path / "broken.png"), paint)


def test_exr_is_linear_light(tmp_path: Path) -> None:
    light = np.zeros((8, 16, 3), np.float32)
    light[...] = (np.arange(16, dtype=np.float32) / 10)[None, :, None]
    write_by_ffmpeg(tmp_path / "a.exr", light, "exr", "gbrpf32le")
    expected = np.rint(255 * srgb_curve(light)).astype(int)
    assert np.abs(read_picture(tmp_path / "a.exr") - expected).max() <= 1
    assert expected[0, 10, 0] == 255
    assert round(float(srgb_curve(np.array([0.214]))[0]), 2) == 0.5
    assert picture_size(tmp_path / "a.exr") == (8, 16)
    assert open_clip(tmp_path / "a.exr").size == (8, 16)


def png_bomb() -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(99))) + chunk(b"IEND", b"")
    )


def test_what_is_no_picture_is_said_in_words(tmp_path: Path, paint: np.ndarray) -> None:
    whole = io.BytesIO()
    Image.fromarray(paint).resize((300, 200)).save(whole, "jpeg")
    moving = [Image.new("RGB", (8, 8), (level, 0, 0)) for level in (0, 99, 200)]
    for suffix in ("gif", "webp", "png"):
        moving[0].save(tmp_path / f"moving.{suffix}", save_all=True, append_images=moving[1:])
    Image.fromarray(paint[..., 0].astype(np.float32)).save(tmp_path / "floats.tif")
    contents = {
        "empty.png": (b"", "the file is empty"),
        "letter.jpg": (b"dear editor " * 40, "it is no picture"),
        "bomb.png": (png_bomb(), "60000x60000|decompression bomb|exceeds"),
        "cut.jpg": (whole.getvalue()[:800], "truncated"),
        "letter.exr": (b"dear editor " * 40, "no picture, or damaged"),
        "moving.gif": (None, "animation"),
        "moving.webp": (None, "animation"),
        "moving.png": (None, "animation"),
        "floats.tif": (None, "no known white"),
    }
    for name, (content, reason) in contents.items():
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(UnreadableClip, match=reason):
            open_clip(tmp_path / name)
