"""What captions, split, sizes, manifest and the order of training take for many small files; the time a file must not grow.

    python benchmarks/manifest_scale.py

No footage is read. Half of the files have a caption beside them, half are in lists of their folders of 100, each has a
line of a captioner's, and every tenth shot looks like another. Floors: 10,000 files in 10 s, and four times the files in five
times the time.
"""

import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common import report

from cinelora.families.wan21 import WAN21
from cinelora.footage.buckets import bucket
from cinelora.footage.captions import find_captions, to_write, write_lines
from cinelora.footage.holdout import Unit, split
from cinelora.footage.manifest import Manifest, Sample, read_manifest, write_manifest
from cinelora.latents.dataset import BucketSampler

COUNTS = (2_500, 10_000, 40_000)
PER_FOLDER = 100
MODEL = (480, 832)
HEIGHTS = (804, 1038, 1080, 816, 800)


def lay_out(root: Path, count: int) -> dict[str, str]:
    """The captions of so many files; the shots, one a file."""
    paths = [f"{i // PER_FOLDER:04}/{i:06}.mp4" for i in range(count)]
    for first in range(0, count, PER_FOLDER):
        of_folder = [root / path for path in paths[first : first + PER_FOLDER]]
        of_folder[0].parent.mkdir(parents=True)
        rows = [
            json.dumps({"file_name": path.name, "text": f"a car at night, {path.name}"}) for path in of_folder[1::2]
        ]
        (of_folder[0].parent / "metadata.jsonl").write_text("\n".join(rows))
        for path in of_folder[::2]:
            path.with_suffix(".txt").write_text(f"a man walks, {path.name}")
    return {f"{path}@0-80": path for path in paths}


def seconds_of(count: int, folder: Path) -> dict[str, float]:
    """Seconds of each step for so many files."""
    root, prepared, seconds = folder / "footage", folder / "prepared", dict[str, float]()
    shots = lay_out(root, count)

    def timed(name: str, work: Callable[[], Any]) -> Any:
        since = time.perf_counter()
        done = work()
        seconds[name] = time.perf_counter() - since
        return done

    timed("write a captioner's lines", lambda: write_lines(prepared, dict.fromkeys(shots, "a street"), "model:1"))
    timed("what is left to caption", lambda: to_write(root, shots, prepared, "model:2"))
    captions = timed("captions", lambda: find_captions(root, shots, prepared))
    assert not captions.missing
    units = [Unit(path, f"{i:064x}", 0, 80, str(i - i % 10 // 9)) for i, path in enumerate(shots.values())]
    sides = timed("split", lambda: split(units, 0.1, 0, "auto"))
    sizes = timed(
        "sizes", lambda: [bucket((HEIGHTS[i % 5], 1920 - i % 7), MODEL, WAN21.geometry) for i in range(count)]
    )
    samples = tuple(
        Sample(name, unit.path, unit.content, tuple(range(0, 66, 2)), captions.texts[name], side, "window", size=size)
        for name, unit, side, size in zip(shots, units, sides, sizes, strict=True)
    )
    timed("write the manifest", lambda: write_manifest(prepared / "manifest.jsonl", Manifest(samples, ())))
    assert timed("read the manifest", lambda: read_manifest(prepared / "manifest.jsonl")).samples == samples
    shapes = [(16, 9, height // 8, width // 8) for height, width in sizes]
    order = timed("order of training", lambda: BucketSampler(shapes, batch_size=4, world_size=2))
    timed("a hundred of its steps", lambda: [order.group(step) for step in range(100)])
    return {**seconds, "all": sum(seconds.values())}


def main() -> None:
    """Measure, print and keep."""
    rows: list[dict[str, Any]] = []
    for count in COUNTS:
        with tempfile.TemporaryDirectory() as folder:
            rows.append({"files": count, **{name: round(s, 3) for name, s in seconds_of(count, Path(folder)).items()}})
    growth = rows[-1]["all"] / rows[1]["all"]
    floors = {"10,000 files in 10 s": rows[1]["all"] <= 10, "four times the files in five times the time": growth <= 5}
    print("\n".join(json.dumps(row) for row in rows), json.dumps(floors), sep="\n")
    report("manifest_scale", {"rows": rows, "growth": round(growth, 2), "floors": floors})


if __name__ == "__main__":
    main()
