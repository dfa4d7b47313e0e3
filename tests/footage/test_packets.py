"""Frames that are sought are those of decoding from the start, in whatever way films are cut into packets."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from footage_clips import as_frames, write_film

from cinelora.footage.packets import is_shown
from cinelora.footage.video_reader import Handling, PyAVReader, open_video

MILLISECONDS = Fraction(1, 1000)
FILMS: dict[str, dict[str, Any]] = {
    "b_frames.mp4": {"options": {"g": "20", "bf": "3"}},
    "open_gop_h264.mkv": {"options": {"g": "20", "bf": "3", "x264-params": "open-gop=1"}},
    "open_gop_hevc.mp4": {
        "codec": "libx265",
        "options": {"x265-params": "keyint=20:open-gop=1:bframes=4:log-level=none", "preset": "ultrafast"},
    },
    "alt_ref.webm": {
        "codec": "libvpx-vp9",
        "options": {"g": "30", "auto-alt-ref": "1", "lag-in-frames": "16", "cpu-used": "8", "b": "200k"},
    },
    "alt_ref_vp8.webm": {
        "codec": "libvpx",
        "options": {"g": "30", "auto-alt-ref": "1", "lag-in-frames": "16", "cpu-used": "5", "b": "200k"},
    },
    "av1.mp4": {"codec": "libsvtav1", "options": {"g": "20", "preset": "12"}},
    "prores.mov": {"codec": "prores_ks", "pixel_format": "yuv422p10le"},
    "mpeg4.avi": {"codec": "mpeg4", "options": {"g": "12", "bf": "2", "b": "800k"}},
    "no_times.avi": {"options": {"g": "12", "bf": "2"}},
    "variable_rate.mkv": {
        "options": {"g": "20", "bf": "2"},
        "pts": lambda i: 40 * i + 5 * (i % 7) + 200 * (i // 30),
        "time_base": MILLISECONDS,
    },
    "before_zero.mkv": {"options": {"g": "20", "bf": "2"}, "pts": lambda i: 40 * i - 400, "time_base": MILLISECONDS},
    "edit_list.mp4": {
        "options": {"g": "20", "bf": "2"},
        "pts": lambda i: i - 10,
        "muxer": {"avoid_negative_ts": "disabled"},
    },
    "late_start.ts": {"options": {"g": "20", "bf": "2"}},
    "mpeg2.mpg": {"codec": "mpeg2video", "options": {"g": "12", "bf": "2", "b": "1M"}},
    "one_keyframe.mp4": {"options": {"g": "1000", "intra-refresh": "1"}},
}
LENGTHS = {"edit_list.mp4": 70}


@pytest.fixture(scope="module")
def moving() -> np.ndarray:
    """80 pictures of noise that moves over a gradient: none is like another."""
    noise = np.random.default_rng(0).integers(0, 90, (64, 256, 3))
    ramp = np.linspace(0, 160, 96, dtype=int)[None, :, None]
    return np.stack([(noise[:, 2 * i : 2 * i + 96] + ramp).astype(np.uint8) for i in range(80)])


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory, moving: np.ndarray) -> Path:
    folder = tmp_path_factory.mktemp("films")
    for name, how in FILMS.items():
        how = dict(how)
        write_film(folder / name, as_frames(moving, how.pop("pixel_format", "yuv420p")), **how)
    return folder


def assert_seeks_right(path: Path, lone: list[int]) -> None:
    reader = open_video(path, "pyav")
    linear = [reader.convert(frame) for frame in reader._all_frames()]
    assert reader.num_frames == len(linear)
    middle = len(linear) // 2
    for wanted in [[number] for number in lone] + [list(range(middle, min(middle + 17, len(linear))))]:
        got = list(reader.frames(wanted))
        assert len(got) == len(wanted)
        assert all(np.array_equal(picture, linear[number]) for picture, number in zip(got, wanted, strict=True))
    assert [seconds for seconds, _ in reader.scaled(16, 24)] == list(reader.times)
    start = reader.times[middle]
    assert [seconds for seconds, _ in reader.scaled(16, 24, start)] == list(reader.times[middle:])


@pytest.mark.parametrize("name", FILMS)
def test_sought_frames_are_those_of_decoding_from_the_start(films: Path, name: str) -> None:
    length = LENGTHS.get(name, 80)
    assert open_video(films / name).num_frames == length
    assert_seeks_right(films / name, [0, 1, 11, 12, 19, 20, 21, 38, 41, 59, length - 1])


@pytest.mark.parametrize("name", ["av1.mkv", "bigbuckbunny.mp4", "h264_10bit.mp4", "nasa_13013.mp4", "scene_cuts.mp4"])
def test_real_clips_are_sought_right(real: Path, name: str) -> None:
    assert_seeks_right(real / name, [0, 7, 29])


@pytest.mark.parametrize("name", [name for name in FILMS if name != "no_times.avi"])
def test_a_window_is_had_without_decoding_from_the_start(
    films: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(PyAVReader, "_numbered")
    assert len(list(open_video(films / name).frames(range(40, 57)))) == 17


def test_times_are_real_where_the_rate_varies(films: Path) -> None:
    milliseconds = [40 * i + 5 * (i % 7) + 200 * (i // 30) for i in range(80)]
    assert open_video(films / "variable_rate.mkv").times == pytest.approx(np.array(milliseconds) / 1000)
    for name in ("before_zero.mkv", "edit_list.mp4", "late_start.ts", "no_times.avi"):
        reader = open_video(films / name)
        assert reader.times == pytest.approx(np.arange(reader.num_frames) / 25, abs=1e-3)


class Packet(bytes):
    """What ``is_shown`` looks at."""

    is_discard = False
    size = property(len)


@pytest.mark.parametrize(
    ("codec", "content", "shown"),
    [
        ("vp8", b"\x10", True),
        ("vp8", b"\x00", False),
        ("vp9", b"\x82\x49", True),  # profile 0, a keyframe that is shown
        ("vp9", b"\x80\x49", False),
        ("vp9", b"\x88\x00", True),  # shows a frame that is there already
        ("vp9", b"\xb1\x00", True),  # profile 3 has a bit more
        ("vp9", b"\xb0\x00", False),
        ("vp9", b"\x80\xc1", True),  # a superframe
        ("h264", b"\x00", True),
    ],
)
def test_frames_that_are_only_referred_to_are_none(codec: str, content: bytes, shown: bool) -> None:
    assert is_shown(Packet(content), codec) == shown


SET_BACK: dict[str, dict[str, Any]] = {
    "shared_times.mkv": {"pts": lambda i: 40 * (i + (i % 12 == 5)), "options": {"g": "24", "bf": "0"}},
    "at_a_key.mkv": {"pts": lambda i: 40 * i - (1010 if i >= 40 else 0), "options": {"g": "20", "bf": "0"}},
    "some_frames.mkv": {"pts": lambda i: 40 * i - (250 if i >= 45 else 0), "options": {"g": "20", "bf": "0"}},
}
"""Two frames of one time stamp, and clocks that are set back by more and by less than a decoder holds back."""


@pytest.mark.parametrize("name", SET_BACK)
def test_a_survey_and_a_reader_number_frames_alike(tmp_path: Path, moving: np.ndarray, name: str) -> None:
    how = SET_BACK[name]
    path = tmp_path / name
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=25, options=how["options"])
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        packets = [packet for frame in as_frames(moving) for packet in stream.encode(frame)] + stream.encode()
        for number, packet in enumerate(packets):
            packet.time_base, packet.pts, packet.dts = MILLISECONDS, how["pts"](number), 40 * number - 2000
            container.mux(packet)
    reader = open_video(path)
    asked = list(reader.frames(range(reader.num_frames)))
    surveyed = [picture for _, picture in reader.scaled(64, 96)]
    assert len(asked) == len(surveyed) == 80
    assert all(np.abs(a.astype(int) - b).mean() < 8 for a, b in zip(asked, surveyed, strict=True))
    assert np.abs(asked[50].astype(int) - moving[50]).mean() < np.abs(asked[50].astype(int) - moving[51]).mean()


def test_decord_is_asked_only_where_every_frame_is_a_key(tmp_path: Path, moving: np.ndarray) -> None:
    """A seek of it may land frames off where others refer across a keyframe."""
    for gop, backend in ((1, "decord"), (24, "pyav")):
        params = f"keyint={gop}:open-gop=1:bframes=4:lossless=1:log-level=none"
        path = write_film(
            tmp_path / f"{gop}.mp4",
            as_frames(moving, "yuv444p"),
            "libx265",
            {"x265-params": params, "preset": "ultrafast"},
        )
        reader = open_video(path)
        assert reader.backend == backend, reader.why
        whole = list(open_video(path, "pyav").frames(range(80)))
        for start in range(0, 60, 7):
            window = list(reader.frames(range(start, start + 17)))
            assert all(np.abs(a.astype(int) - b).max() <= 2 for a, b in zip(window, whole[start:], strict=False))
    assert open_video(path, handling=Handling(exact=False)).backend == "pyav"
