"""HDR is refused or mapped by its formulas, and a team's LUT is applied as it is written."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
from footage_clips import write_film

from cinelora.errors import FootageError
from cinelora.footage.lut import (
    WHITE,
    Cube,
    Grade,
    eetf,
    hlg_to_light,
    light_to_pq,
    pq_to_light,
    read_cube,
    tone_mapped,
    tone_mapping,
)
from cinelora.footage.video_reader import Handling, UnreadableClip, open_video

TRANSFERS = {"pq": (9, 16, 9), "hlg": (9, 18, 9), "bt2020": (9, 14, 9)}


def hdr_film(path: Path, kind: str, levels: list[float]) -> Path:
    """A frame of grey patches of these signals, 10 bits."""
    luma = np.repeat(np.rint(64 + 876 * np.array(levels)).astype(np.uint16), 16)[None].repeat(32, 0)
    frame = av.VideoFrame(luma.shape[1], 32, "yuv420p10le")
    for plane, values in zip(
        frame.planes, (luma, *[np.full((16, luma.shape[1] // 2), 512, np.uint16)] * 2), strict=True
    ):
        rows = np.zeros((plane.height, plane.line_size // 2), np.uint16)
        rows[:, : plane.width] = values
        plane.update(rows.tobytes())
    frame.colorspace, frame.color_trc, frame.color_primaries = TRANSFERS[kind]
    frame.color_range = 1
    return write_film(path, [frame], options={"qp": "1"})


def test_formulas_meet_their_published_values() -> None:
    assert pq_to_light(np.array([0.0, 0.5081, 0.7518, 1.0])) == pytest.approx([0, 100, 1000, 10000], rel=2e-3, abs=1e-6)
    assert light_to_pq(pq_to_light(np.linspace(0.01, 1, 9))) == pytest.approx(np.linspace(0.01, 1, 9))
    grey = hlg_to_light(np.array([[0.75] * 3, [1.0] * 3]))
    assert grey[:, 0] == pytest.approx([203, 1000], rel=5e-3)  # BT.2408: 75 % of HLG is diffuse white
    light = np.linspace(0, 1000, 400)
    assert (np.diff(eetf(light)) > 0).all()
    assert eetf(np.array([1.0, 10.0, 50.0, 1000.0])) == pytest.approx([1, 10, 50, WHITE], rel=1e-3)


@pytest.mark.parametrize("kind", TRANSFERS)
def test_hdr_is_refused_with_the_way_out_or_mapped(tmp_path: Path, kind: str) -> None:
    levels = [0.0, 0.2, 0.4, 0.5, 0.6, 0.75, 0.9, 1.0]
    path = hdr_film(tmp_path / "a.mp4", kind, levels)
    with pytest.raises(UnreadableClip, match=r"it is HDR .*data\.hdr=tone_map"):
        open_video(path)
    reader = open_video(path, handling=Handling(hdr="tone_map"))
    pixels = next(iter(reader.frames([0])))[16, 8::16].astype(int)
    expected = 255 * tone_mapped(np.repeat(np.array(levels)[:, None], 3, 1), kind)  # type: ignore[arg-type]
    assert np.abs(pixels - expected).max() <= 2
    ((_, small),) = reader.scaled(8, 32)
    assert np.abs(small[4, 2::4].astype(int) - expected).max() < 30  # patches blend at their borders


@pytest.mark.parametrize("kind", TRANSFERS)
def test_the_grid_is_fine_enough(kind: str) -> None:
    signals = np.random.default_rng(0).random((40, 50, 3)).astype(np.float32)
    frame = av.VideoFrame.from_ndarray(signals, format="gbrpf32le")
    apart = np.abs(Grade([tone_mapping(kind)])(frame) - 255 * tone_mapped(signals.astype(float), kind))  # type: ignore[arg-type]
    assert np.quantile(apart, 0.99) <= 3


def test_wide_colours_come_into_bt709() -> None:
    red_709_in_2020 = np.array([0.6274, 0.0691, 0.0164]) ** (1 / 2.4)
    assert tone_mapped(red_709_in_2020[None], "bt2020")[0] == pytest.approx([1, 0, 0], abs=0.08)
    assert tone_mapped(np.array([[0.5, 0.5, 0.5]]), "bt2020")[0] == pytest.approx([0.5] * 3, abs=1e-3)


def test_saturated_hdr_goes_through_its_own_matrix(tmp_path: Path) -> None:
    signal = np.array([0.62, 0.30, 0.45])
    luma = signal @ np.array([0.2627, 0.6780, 0.0593])
    chroma = ((signal[2] - luma) / 1.8814, (signal[0] - luma) / 1.4746)  # BT.2020, table 4
    codes = (64 + 876 * luma, 512 + 896 * chroma[0], 512 + 896 * chroma[1])
    frame = av.VideoFrame(64, 32, "yuv444p10le")
    for plane, code in zip(frame.planes, codes, strict=True):
        plane.update(np.full((plane.height, plane.line_size // 2), round(code), np.uint16).tobytes())
    frame.colorspace, frame.color_trc, frame.color_primaries = TRANSFERS["pq"]
    frame.color_range = 1
    write_film(tmp_path / "a.mp4", [frame], options={"qp": "1"})
    reader = open_video(tmp_path / "a.mp4", handling=Handling(hdr="tone_map"))
    assert np.abs(next(iter(reader.frames([0])))[16, 32] - 255 * tone_mapped(signal[None], "pq")[0]).max() <= 3


def negative(size: int) -> Cube:
    steps = 1 - np.linspace(0, 1, size)
    blue, green, red = np.meshgrid(steps, steps, steps, indexing="ij")
    return Cube(np.stack([red, green, blue], -1))


def test_a_teams_lut_is_applied(tmp_path: Path) -> None:
    frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), (200, 100, 40), np.uint8), format="rgb24")
    film = write_film(tmp_path / "a.mp4", [frame.reformat(format="yuv444p")], options={"qp": "1"})
    plain = next(iter(open_video(film).frames([0]))).astype(int)
    lut = tmp_path / "o'dd, [name]:=%d;\U0001f3ac.cube"
    for cube in (negative(2), negative(17), Cube(1 - np.linspace(0, 1, 9)[:, None].repeat(3, 1))):
        lut.write_text('# made by hand\nTITLE "a look"\n\n' + cube.as_text())
        read_cube.cache_clear()
        reader = open_video(film, handling=Handling(lut=lut, lut_sha256="x"))
        assert reader.why == "colours go through a LUT"
        assert np.abs(next(iter(reader.frames([0]))) - (255 - plain)).max() <= 2
        ((_, small),) = reader.scaled(8, 8)
        assert np.abs(small - (255 - plain[:8, :8])).max() <= 2


def test_the_order_of_a_lut_is_red_first(tmp_path: Path) -> None:
    rows = [f"{r} {g} {b}" for b in (0, 1) for g in (0, 1) for r in (0, 0.5)]
    (tmp_path / "a.cube").write_text("LUT_3D_SIZE 2\n" + "\n".join(rows))
    frame = av.VideoFrame.from_ndarray(np.full((4, 4, 3), (1.0, 0.5, 0.25), np.float32), format="gbrpf32le")
    assert Grade([read_cube(tmp_path / "a.cube")])(frame)[0, 0].tolist() == [128, 128, 64]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "names no size"),
        (b"\x89PNG\xff\xfe", "not UTF-8 text"),
        (b"LUT_3D_SIZE 2\n0 0 0\n", "1 rows of colours where LUT_3D_SIZE 2 makes 8"),
        (b"LUT_3D_SIZE 999\n0 0 0\n", "want 2 to 256"),
        (b"LUT_3D_SIZE two\n", "line 1: .* no row of numbers"),
        (b"LUT_1D_SIZE 2\n0 0 0\n1 1\n", "line 3: a row has 3 numbers, not 2"),
        (b"LUT_1D_SIZE 2\n0 0 0\n1 1 x\n", "line 3"),
        (b"LUT_1D_SIZE 2\n0 0 0\n1 1 nan\n", "no colours"),
        (b"LUT_1D_SIZE 2\nDOMAIN_MIN 1 1 1\n0 0 0\n1 1 1\n", "empty domain"),
        (b"LUT_1D_SIZE 2\nLUT_3D_SIZE 2\n0 0 0\n1 1 1\n", "or two"),
    ],
)
def test_a_damaged_lut_is_said(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "a.cube").write_bytes(content)
    with pytest.raises(FootageError, match=reason):
        read_cube(tmp_path / "a.cube")
    with pytest.raises(FootageError, match="No such file"):
        read_cube(tmp_path / "gone.cube")


def test_what_colours_go_through_has_a_name() -> None:
    assert Handling().colours == Handling(exact=False).colours == ""
    names = {
        Handling(hdr="tone_map").colours,
        Handling(lut=Path("a"), lut_sha256="1").colours,
        Handling(lut=Path("a"), lut_sha256="2").colours,
    }
    assert len(names) == 3
    assert {len(name) for name in names} == {12}
