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

from cinelora.errors import FootageError
from cinelora.footage.image_reader import SUFFIXES, picture_size, read_picture, srgb_curve
from cinelora.footage.keyframe_image import fitted, read_keyframe
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


def red_is_green() -> bytes:
    """A profile whose red is sRGB's green and the other way round: whoever ignores it sees at once."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    first, second = profile.index(b"rXYZ"), profile.index(b"gXYZ")
    profile[first : first + 4], profile[second : second + 4] = b"gXYZ", b"rXYZ"
    return bytes(profile)


def test_a_profile_is_heeded_in_every_mode_and_before_transparency(tmp_path: Path, paint: np.ndarray) -> None:
    picture, profile = Image.fromarray(paint), red_is_green()
    turned = paint[..., [1, 0, 2]].astype(int)
    alpha = np.where(np.arange(24) < 12, 255, 100).astype(np.uint8)[None].repeat(16, 0)
    seen = picture.copy()
    seen.putalpha(Image.fromarray(alpha))
    seen.save(tmp_path / "alpha.png", icc_profile=profile)
    assert np.abs(read_picture(tmp_path / "alpha.png") - turned * alpha[..., None] / 255).max() <= 1
    flat = picture.quantize(200)
    flat.save(tmp_path / "palette.png", icc_profile=profile)
    assert np.abs(read_picture(tmp_path / "palette.png") - np.asarray(flat.convert("RGB"))[..., [1, 0, 2]]).max() <= 1
    for name in ("a.png", "a.tif", "a.webp"):
        picture.save(tmp_path / name, icc_profile=profile, **({"lossless": True} if name == "a.webp" else {}))
        assert np.abs(read_picture(tmp_path / name) - turned).max() <= 1, name
    gray = picture.convert("L")
    gray.save(tmp_path / "gray.png", icc_profile=profile)  # grey by red and green alike stays grey
    assert np.abs(read_picture(tmp_path / "gray.png").astype(int) - np.asarray(gray)[..., None]).max() <= 1
    rgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    ImageCms.profileToProfile(picture, rgb, lab, outputMode="LAB").save(tmp_path / "lab.tif")
    assert np.abs(read_picture(tmp_path / "lab.tif").astype(int) - paint).mean() < 2


@pytest.mark.filterwarnings("error")
def test_image_is_read_as_footage_is_and_handed_over_without_a_warning(tmp_path: Path, paint: np.ndarray) -> None:
    torch = pytest.importorskip("torch")
    ramp = np.linspace(0, 65535, 24 * 16).astype(np.uint16).reshape(16, 24)
    Image.fromarray(ramp).save(tmp_path / "gray16.png")
    assert np.abs(read_keyframe(tmp_path / "gray16.png")[..., 0] - ramp / 257).max() <= 0.5
    hidden = Image.fromarray(paint)
    hidden.putalpha(0)
    hidden.save(tmp_path / "hidden.png")
    assert not read_keyframe(tmp_path / "hidden.png").any()
    Image.fromarray(paint).save(tmp_path / "srgb.png")
    assert np.array_equal(read_keyframe(tmp_path / "srgb.png"), paint)
    frames = [Image.new("RGB", (8, 8), (level, 0, 0)) for level in (60, 200)]
    frames[0].save(tmp_path / "moving.webp", save_all=True, append_images=frames[1:], lossless=True)
    assert (read_keyframe(tmp_path / "moving.webp")[..., 0] == 60).all()
    (tmp_path / "cut.png").write_bytes((tmp_path / "srgb.png").read_bytes()[:80])
    with pytest.raises(FootageError, match=r"image=.*cut\.png cannot be read as a picture: "):
        read_keyframe(tmp_path / "cut.png")
    for fit in ("cover", "contain"):
        torch.from_numpy(fitted(read_keyframe(tmp_path / "srgb.png"), 32, 32, fit)).add_(1)


def test_a_picture_of_another_shape_is_cut_or_stands_on_black(paint: np.ndarray) -> None:
    portrait = np.full((60, 30, 3), 200, np.uint8)
    portrait[:10] = 90  # the head
    whole = fitted(portrait, 32, 48, "contain")
    columns = whole.any((0, 2)).nonzero()[0]
    assert (columns[0], columns[-1], len(columns)) == (16, 31, 16)
    assert (whole[1, 16:32] < 120).all()
    assert (fitted(portrait, 32, 48) > 150).all()
    assert np.array_equal(fitted(paint, 16, 24, "contain"), paint)
    assert np.array_equal(fitted(paint, 16, 24), paint)


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


def test_postscript_by_the_name_of_a_picture_starts_no_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow would have Ghostscript run it, as PostScript is a program."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("PIL.EpsImagePlugin.gs_binary", None)
    (tmp_path / "gs").write_text(f"#!/bin/sh\n: > {tmp_path / 'mark'}\n")
    (tmp_path / "gs").chmod(0o755)
    for suffix in SUFFIXES:
        path = tmp_path / f"a{suffix}"
        path.write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n%%EndComments\nshowpage\n")
        assert picture_size(path) in (None, (0, 0))
        with pytest.raises(UnreadableClip, match="no picture"):
            open_clip(path)
    assert not (tmp_path / "mark").exists()
