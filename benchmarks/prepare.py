"""Footage prepared at its real scale: a film of two hours, and ten thousand small files.

    python benchmarks/prepare.py [film] [rate] [files]

The film is 1080p at 24 frames a second, h264: a reel of two minutes (rendered scenes, enlarged, under a panning camera, with cuts
and film grain) is encoded, and its packets are written sixty times one behind the other, so that a machine without hours to
spare has one. The command is timed as a user types it; memory is the sum over its processes, read ten times a second (pages
that they share count in each), and so is processor time. Then: the same command again, and once more with a file added.
``rate`` is the same with films of 6 and 12 minutes by strokes, and of 6 by the network of cinelora[lettering]: what a minute
of film costs, and whether memory grows with the length.
"""

import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import psutil
from common import ROOT, report

from tools.scale_model.render import draw_scene, render_scene

FPS, HEIGHT, WIDTH = 24, 1080, 1920
SHOT, SHOTS, REELS = 96, 30, 60
RATES = (("plain", 3), ("plain", 6), ("auto", 3))
"""``data.lettering``, and reels."""
FLOOR_REAL_TIME, FLOOR_GB, FLOOR_AGAIN_S = 3.0, 1.5, 5.0


def reel_frames() -> Iterator[np.ndarray]:
    """Thirty shots of four seconds: a rendered scene, enlarged, under a camera that pans, with grain that changes by frame."""
    rng = np.random.default_rng(0)
    grain = [rng.normal(128, 4, (HEIGHT, WIDTH, 1)).clip(0, 255).astype(np.uint8).repeat(3, 2) for _ in range(7)]
    for number in range(SHOTS):
        looks = ("daylight", "noir", "western", "neon")
        scene = render_scene(draw_scene(500 + number), looks[number % 4], 1, 306, 544, FPS, grain=False)
        wide = cv2.resize(scene[0].numpy(), (WIDTH + 2 * SHOT, HEIGHT), interpolation=cv2.INTER_CUBIC)
        for i in range(SHOT):
            yield cv2.addWeighted(wide[:, 2 * i : 2 * i + WIDTH], 1, grain[i % 7], 1, -128)


def write_reel(path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=FPS, options={"crf": "23", "preset": "veryfast", "g": "48"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for frame in reel_frames():
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def write_film(reel: Path, path: Path, reels: int = REELS) -> None:
    """Write the reel's packets ``reels`` times, one after another."""
    with av.open(str(path), "w") as film:
        out = None
        for number in range(reels):
            with av.open(str(reel)) as source:
                stream = source.streams.video[0]
                out = out or film.add_stream_from_template(stream)
                shift = round(number * SHOTS * SHOT / FPS / stream.time_base)
                for packet in source.demux(stream):
                    if packet.dts is not None:
                        packet.pts, packet.dts, packet.stream = packet.pts + shift, packet.dts + shift, out
                        film.mux(packet)


def prepared(root: Path, folder: Path, *more: str) -> dict[str, float]:
    """Run the command; seconds, of the processors too, the peak of all its processes in GB, and most open files of any."""
    settings = [f"data.root={root}", f"data.prepared={folder}", "data.caption=a film", "data.limits.alike=null", *more]
    command = [sys.executable, "-m", "cinelora.prepare", "data=folder", *settings]
    started = time.perf_counter()
    process = psutil.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    peak, handles, curve, worked = 0.0, 0, list[float](), dict[int, float]()
    reader = threading.Thread(target=lambda: process.stdout.read(), daemon=True)
    reader.start()
    while process.poll() is None:
        used, open_files = 0.0, 0
        for one in [process, *process.children(recursive=True)]:
            try:
                used += one.memory_info().rss / 1e9
                open_files = max(open_files, one.num_fds())
                worked[one.pid] = sum(one.cpu_times()[:2])
            except psutil.Error:
                continue
        peak, handles = max(peak, used), max(handles, open_files)
        curve.append(used)
        time.sleep(0.1)
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}")
    third = max(1, len(curve) // 3)
    return {
        "seconds": time.perf_counter() - started,
        "cpu_seconds": sum(worked.values()),
        "peak_gb": peak,
        "peak_gb_first_third": max(curve[:third]),
        "peak_gb_last_third": max(curve[-third:]),
        "most_open_files": handles,
    }


def film(scratch: Path) -> dict[str, Any]:
    root = scratch / "film"
    root.mkdir()
    write_reel(scratch / "reel.mp4")
    write_film(scratch / "reel.mp4", root / "film.mp4")
    length_s = REELS * SHOTS * SHOT / FPS
    megabits = (root / "film.mp4").stat().st_size * 8 / 1e6 / length_s
    first = prepared(root, scratch / "prepared")
    again = prepared(root, scratch / "prepared")
    (root / "added.mp4").write_bytes((scratch / "reel.mp4").read_bytes())
    added = prepared(root, scratch / "prepared")
    found = {
        "hours": length_s / 3600,
        "megabits_a_second": megabits,
        "first": first,
        "real_time": length_s / first["seconds"],
        "again": again,
        "one_reel_added": added,
        "manifest_lines": len((scratch / "prepared" / "manifest.jsonl").read_text().splitlines()),
        "floors": {"real_time": FLOOR_REAL_TIME, "gb": FLOOR_GB, "again_s": FLOOR_AGAIN_S},
    }
    print(
        f"film of {found['hours']:.1f} h, {megabits:.1f} Mbit/s: {first['seconds']:.0f} s, {found['real_time']:.2f} times real "
        f"time, peak {first['peak_gb']:.2f} GB (first third {first['peak_gb_first_third']:.2f}, last "
        f"{first['peak_gb_last_third']:.2f}); again {again['seconds']:.1f} s; a reel added {added['seconds']:.1f} s"
    )
    return found


def rate(scratch: Path) -> dict[str, Any]:
    """What a minute of film costs, at two lengths and in two ways; how much more memory the longer takes."""
    write_reel(scratch / "reel.mp4")
    found = {}
    for lettering, reels in RATES:
        root, minutes = scratch / f"{lettering}-{reels}", reels * SHOTS * SHOT / FPS / 60
        root.mkdir()
        write_film(scratch / "reel.mp4", root / "film.mp4", reels)
        way = f"data.lettering={lettering}"
        first = prepared(root, scratch / f"prepared-{root.name}", way)
        again = prepared(root, scratch / f"prepared-{root.name}", way)
        a_minute = {
            "real_time": 60 * minutes / first["seconds"],
            "cpu_seconds_a_minute": first["cpu_seconds"] / minutes,
        }
        found[f"{way}, {minutes:g} minutes"] = {**a_minute, "first": first, "again": again}
        print(
            f"{way}, {minutes:g} minutes: {a_minute['real_time']:.2f} times real time, {a_minute['cpu_seconds_a_minute']:.1f} "
            f"CPU s a minute, peak {first['peak_gb']:.2f} GB; again {again['seconds']:.1f} s",
            flush=True,
        )
    return found


def files(scratch: Path, count: int = 10_000) -> dict[str, Any]:
    """Clips of a second, each other bytes: a hundred are encoded, and all get an end of their own that no player reads."""
    root = scratch / "files"
    root.mkdir()
    clips = []
    for number in range(100):
        path = scratch / "clip.mp4"
        with av.open(str(path), "w") as container:
            stream: Any = container.add_stream("libx264", rate=FPS, options={"crf": "23"})
            stream.width, stream.height, stream.pix_fmt = 192, 112, "yuv420p"
            for frame in render_scene(draw_scene(number), "daylight", FPS, 112, 192, FPS, grain=False).numpy():
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            container.mux(stream.encode())
        clips.append(path.read_bytes())
    for number in range(count):
        (root / f"{number:05}.mp4").write_bytes(clips[number % 100] + b"\0\0\0\x10free" + number.to_bytes(8, "big"))
    first = prepared(root, scratch / "prepared-files")
    again = prepared(root, scratch / "prepared-files")
    (root / "added.mp4").write_bytes(clips[0])
    added = prepared(root, scratch / "prepared-files")
    print(
        f"{count} files: {first['seconds']:.0f} s, peak {first['peak_gb']:.2f} GB (first third "
        f"{first['peak_gb_first_third']:.2f}, last {first['peak_gb_last_third']:.2f}), {first['most_open_files']} open files; "
        f"again {again['seconds']:.1f} s, one added {added['seconds']:.1f} s"
    )
    return {"count": count, "first": first, "again": again, "one_added": added}


if __name__ == "__main__":
    for name in sys.argv[1:] or ["film", "rate", "files"]:
        with tempfile.TemporaryDirectory() as folder:
            report(f"prepare_{name}", {"film": film, "rate": rate, "files": files}[name](Path(folder)))
