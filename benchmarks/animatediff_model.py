"""What the embedded AnimateDiff can do, measured on scenes that nothing was trained on, as `scale_model.py` measures the pair.

    python benchmarks/animatediff_model.py model=<folder with base and motion> [vae] [captions] [clips] [style] [work=<folder>]

Without words all parts run, in this order. Results, with hardware and versions, are in benchmarks/results/animatediff_model.json,
pictures in benchmarks/results/animatediff_model/. ``work`` keeps rendered stills for the next time.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from common import RESULTS, report
from scale_model import FLOORS, Results, caption, mean, pans, rounded, scenes, share, stills_read, style, vae
from scale_tools.readers import flicker, motion
from scale_tools.stills import known_reader
from scale_tools.unet_studio import UnetStudio

from cinelora.io.hardware import hardware, quiet_libraries

COUNTS = {
    "cpu": {"vae": 4, "clips": 12, "style": 64, "reference": 96},
    "cuda": {"vae": 12, "clips": 48, "style": 128, "reference": 256},
}
"""Scenes of each part."""
OBEYED = 0.8
"""Share of the captions that must be right."""


def captions(studio: UnetStudio, work: Path) -> Results:
    """Share of prompts whose one changed attribute is right: of stills by the image network, pans by the motion network."""
    reader, own = known_reader(studio, work)
    found, right = stills_read(studio, studio.transformer("image", {}), reader)
    found["camera"], hits = pans(studio, studio.transformer("motion", {}))
    found["all"] = share(right + hits)
    print(f"captions, all: {found['all']}")
    return {"reader": own, **found, "floors": {"prompts right": found["all"]["right"] >= OBEYED}}


def clips(studio: UnetStudio, work: Path) -> Results:
    """How much clips move, against the rendered ones of their captions, and how much the VAE alone flickers."""
    chosen = scenes(studio.counts["clips"], 200)
    truth = torch.stack([studio.render(scene, "daylight").cpu() for scene in chosen])
    drawn = studio.draw(studio.transformer("motion", {}), [caption(scene) for scene in chosen], studio.frames)
    rebuilt = [studio.pixels(studio.t2v.encode_video(clip.permute(3, 0, 1, 2)[None] / 127.5 - 1))[0] for clip in truth]
    rows = [(caption(scene), truth[at]) for at, scene in enumerate(chosen[:6])]
    studio.sheet("clips", [row for at, one in enumerate(rows) for row in (one, ("drawn", drawn[at]))])
    ratio = mean(map(motion, drawn)) / mean(map(motion, truth))
    low, high = FLOORS["motion"]
    found = {
        "clips": len(drawn),
        "motion": mean(map(motion, drawn)),
        "motion_ratio_of_means": ratio,
        "vae_flicker_levels": mean(map(flicker, rebuilt, truth)),
    }
    print(f"clips: {found}")
    return found | {"floors": {"motion": low <= ratio <= high}}


PARTS: dict[str, Callable[[UnetStudio, Path], Results]] = {
    "vae": vae,
    "captions": captions,
    "clips": clips,
    "style": style,
}


def main(words: list[str]) -> None:
    folders = dict(word.split("=", 1) for word in words if word.startswith(("model=", "work=")))
    parts = [word for word in words if "=" not in word] or list(PARTS)
    if "model" not in folders or len(folders) + len(set(parts) & {*PARTS}) < len(words):
        sys.exit(f"say model=<folder>, and parts of the report: {', '.join(PARTS)}")
    quiet_libraries()
    path = RESULTS / "animatediff_model.json"
    results: Results = json.loads(path.read_text()) if path.exists() else {}
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(folders.get("work", scratch)).resolve()
        work.mkdir(parents=True, exist_ok=True)
        studio = UnetStudio(Path(folders["model"]).resolve(), COUNTS)
        for name in parts:
            started = time.perf_counter()
            found = PARTS[name](studio, work)
            seconds = round(time.perf_counter() - started)
            results[name] = rounded(found) | {"seconds": seconds, "on": hardware()["device"]}
            print(f"{name}: {seconds} s, floors met: {found['floors']}")
            report("animatediff_model", results)


if __name__ == "__main__":
    main(sys.argv[1:])
