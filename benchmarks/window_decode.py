"""Random windows of 33 frames: footage as we read it, beside decord and PyAV used plainly, in one process.

    python benchmarks/window_decode.py [windows=12] [frames=300] [clips=<words in their names>]

Real clips (../shared/footage) are looped to 720p and 1080p by libx264 with keyframes 12 to 250 frames apart. Every way keeps
its file open and draws the same windows, in turns, after one that is not counted. Plainly: decord's ``get_batch``; PyAV's
``seek``, ``decode`` and ``to_ndarray("rgb24")`` with threads on AUTO. ``share`` is the speed of ours as a share of the faster of
the two, median and range over windows; ``apart`` how many levels each is from FFmpeg's accurate colours in one frame.
"""

from __future__ import annotations

import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import decord
import numpy as np
from common import ROOT, report
from numpy.typing import NDArray

from cinelora.footage.video_reader import PyAVReader, open_video

FOOTAGE = ROOT.parent / "shared" / "footage"
LENGTH = 33
CLIPS = {
    f"{source}_{height}p_gop{gop}": (source, height, gop)
    for source, height in (("bigbuckbunny", 720), ("scene_cuts", 720), ("nasa_13013", 1080), ("bigbuckbunny", 1080))
    for gop in (12, 48, 250)
}
Pixels = NDArray[np.uint8]
Draw = Callable[[int], list[Pixels]]


def looped(source: Path, frames: int) -> Iterator[av.VideoFrame]:
    """The clip's frames, over and over."""
    done = 0
    while done < frames:
        with av.open(str(source)) as container:
            for frame in container.decode(container.streams.best("video")):
                yield frame
                done += 1
                if done == frames:
                    return


def encode(source: Path, target: Path, height: int, gop: int, frames: int) -> None:
    """Loop ``source`` into h264 of ``height`` lines, 16:9, as most footage is: 4:2:0, B-frames, tagged BT.709."""
    with av.open(str(target), "w") as container:
        options = {"crf": "20", "preset": "veryfast", "g": str(gop)}
        stream: Any = container.add_stream("libx264", rate=25, options=options)
        stream.height, stream.width, stream.pix_fmt = height, height * 16 // 9, "yuv420p"
        stream.codec_context.colorspace, stream.codec_context.color_range = 1, 1
        for number, frame in enumerate(looped(source, frames)):
            scaled = frame.reformat(stream.width, stream.height, "yuv420p")
            scaled.pts, scaled.time_base, scaled.pict_type = number, Fraction(1, 25), 0
            container.mux(stream.encode(scaled))
        container.mux(stream.encode())


def by_decord(path: Path) -> Draw:
    """One batch of frames."""
    video = decord.VideoReader(str(path))
    return lambda start: list(video.get_batch(list(range(start, start + LENGTH))).asnumpy())


def by_pyav(path: Path) -> Draw:
    """Seek, decode, convert."""
    container = av.open(str(path))
    stream = container.streams.best("video")
    stream.thread_type = "AUTO"

    def draw(start: int) -> list[Pixels]:
        first = int(start / 25 / stream.time_base)
        container.seek(first, stream=stream)
        frames: list[Pixels] = []
        for frame in container.decode(stream):
            if frame.pts >= first:
                frames.append(frame.to_ndarray(format="rgb24"))
            if len(frames) == LENGTH:
                break
        return frames

    return draw


def by_us(path: Path) -> Draw:
    """What a stage reads its windows with."""
    reader = open_video(path)
    return lambda start: list(reader.frames(range(start, start + LENGTH)))


def measured(path: Path, windows: int, frames: int) -> dict[str, Any]:
    """Seconds of every way on the same windows, and how right its colours are."""
    ways = {"decord": by_decord(path), "pyav": by_pyav(path), "ours": by_us(path)}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    draws = random.Random(0)
    pictures: dict[str, Pixels] = {}
    for turn in range(windows + 1):
        start = draws.randrange(frames - LENGTH)
        for name in sorted(ways, key=lambda _: draws.random()):
            begun = time.perf_counter()
            window = ways[name](start)
            if turn:
                seconds[name].append(time.perf_counter() - begun)
            pictures[name] = window[0]
    shares = [min(d, p) / o for d, p, o in zip(*seconds.values(), strict=True)]
    exact = PyAVReader(path, open_video(path).header)
    ((_, frame),) = exact._wanted([start])
    accurate = exact.convert.accurately(frame).astype(int)
    medians = {name: round(statistics.median(values), 4) for name, values in seconds.items()}
    return {
        **{f"{name}_s": value for name, value in medians.items()},
        "share": round(min(medians["decord"], medians["pyav"]) / medians["ours"], 3),
        "share_range": [round(min(shares), 3), round(max(shares), 3)],
        "apart": {name: int(np.abs(picture - accurate).max()) for name, picture in pictures.items()},
    }


def main(words: list[str]) -> None:
    """Measure and keep."""
    options = dict(word.split("=") for word in words)
    windows, frames = int(options.get("windows", 12)), int(options.get("frames", 300))
    rows: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, (source, height, gop) in CLIPS.items():
            if not all(word in name for word in options.get("clips", "").split()):
                continue
            path = Path(folder) / f"{name}.mp4"
            encode(FOOTAGE / f"{source}.mp4", path, height, gop, frames)
            rows[name] = measured(path, windows, frames)
            print(name, rows[name], flush=True)
            path.unlink()
    report("window_decode", {"frames_of_a_window": LENGTH, "windows": windows, "clips": rows})


if __name__ == "__main__":
    main(sys.argv[1:])
