"""Whether a look without colour is without colour when people ask for it in few words, and whether its clips stay sharp.

    python benchmarks/look_colours.py <name>=<finished motion run on data=noir> ... [scenes=4]

Twelve short prompts, of which six name neither colour nor noon nor dusk, and the demo's own, at the demo's settings: 20 steps,
guidance 5, and at guidance 3. Chroma is the mean over pixels of the largest of red, green and blue less the smallest, in levels
of 255. Then clips from the first frames of held-out noir ``scenes``: SSIM of the first frame, and the edges of the last eight
frames over the rendered ones'. Results are in benchmarks/results/look_colours.json, stills in benchmarks/results/look_colours/.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from common import RESULTS, report
from scale_model import mean, rounded, scenes
from scale_tools.readers import likeness, motion
from scale_tools.studio import FRAMES, Studio, acting, caption
from torch import Tensor

from cinelora.io.hardware import quiet_libraries

FREE = (
    "A man walks on a street.",
    "Two men walk on a street.",
    "A man stands in a room.",
    "Three men stand in a room.",
    "A car drives on a street.",
    "A man walks on a street in the rain.",
)
COLOURED = (
    "A man in a red coat walks on a street.",
    "A man in a blue coat stands in a room.",
    "Two men stand on a street at dusk.",
    "A man walks on a street at noon.",
    "A red car drives on a street at night.",
    "A man in a yellow coat stands on a street in fog.",
)
DEMO = (
    "On a dry street at night, a man in a white coat walks to the right as a black car drives to the left; "
    "the camera stands still."
)
PROMPTS = [*FREE, *COLOURED, DEMO]
GUIDANCES = (3.0, 5.0)
LATE = 8
"""Last frames of a clip, whose edges are measured."""


def chroma(pixels_NHWC: Tensor) -> Tensor:
    """Mean over the pixels of each still of its strongest colour less its weakest, (N,), in levels of 255."""
    return (pixels_NHWC.amax(-1).float() - pixels_NHWC.amin(-1).float()).flatten(1).mean(1)


def edges(clip_THWC: Tensor) -> float:
    """Mean strength of the edges of the last frames, in levels of 255."""
    grey = clip_THWC[-LATE:].float().mean(-1)
    return float(grey.diff(dim=1).abs().mean() + grey.diff(dim=2).abs().mean())


def summary(levels: Tensor) -> dict[str, Any]:
    """The chroma of stills of ``PROMPTS``, in groups and one by one."""
    short = levels[: len(FREE) + len(COLOURED)]
    return {
        "mean_of_12": float(short.mean()),
        "median_of_12": float(short.median()),
        "naming_neither_colour_nor_hour": float(levels[: len(FREE)].mean()),
        "demo": float(levels[-1]),
        "each": dict(zip(PROMPTS, levels.tolist(), strict=True)),
    }


def stills(studio: Studio, run: Path | None, name: str) -> dict[str, Any]:
    """Chroma of stills by the base, or with the style adapter of a run, at each guidance."""
    transformer = studio.transformer("t2v", {"style": run / "style.safetensors"} if run else {})
    found, rows = dict[str, Any](), []
    for guidance in GUIDANCES:
        with acting(transformer, {"style": 1.0} if run else {}):
            drawn = studio.draw(transformer, PROMPTS, 1, guidance=guidance)[:, 0]
        found[f"guidance {guidance:g}"] = summary(chroma(drawn))
        rows.append((f"{name}, guidance {guidance:g}", drawn))
    studio.sheet(name, rows, len(PROMPTS))
    return found


def clips(studio: Studio, run: Path, count: int) -> dict[str, float]:
    """Clips with both adapters from the first frames of rendered noir, against those clips."""
    adapters = {kind: run / f"{kind}.safetensors" for kind in ("style", "motion")}
    transformer, chosen = studio.transformer("i2v", adapters), scenes(count, 200)
    truth = torch.stack([studio.render(scene, "noir").cpu() for scene in chosen])
    asked, shown = [caption(scene, "noir") for scene in chosen], studio.condition(truth[:, 0])
    with acting(transformer, dict.fromkeys(adapters, 1.0)):
        drawn = studio.draw(transformer, asked, FRAMES, shown)
    return {
        "clips": count,
        "first_frame_ssim": mean(map(likeness, drawn[:, 0], truth[:, 0])),
        "late_edges_over_rendered": mean(map(edges, drawn)) / mean(map(edges, truth)),
        "chroma": mean(chroma(clip).mean().item() for clip in drawn),
        "motion_over_rendered": mean(map(motion, drawn)) / mean(map(motion, truth)),
    }


def main() -> None:
    """Measure the base and every run that is named."""
    words = dict(word.split("=", 1) for word in sys.argv[1:])
    count = int(words.pop("scenes", 4))
    quiet_libraries()
    with tempfile.TemporaryDirectory() as cache:
        studio = Studio(Path(cache), {"cpu": {}, "cuda": {}}, RESULTS / "look_colours", steps=20, guidance=5.0)
        found: dict[str, Any] = {"base": {"stills": stills(studio, None, "base")}}
        for name, run in words.items():
            found[name] = {"stills": stills(studio, Path(run), name)}
            if count:
                found[name]["clips"] = clips(studio, Path(run), count)
            print(name, {key: value for key, value in found[name].items() if key == "clips"})
    report("look_colours", rounded(found))


if __name__ == "__main__":
    main()
