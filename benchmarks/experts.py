"""Does the boundary matter? Two experts taught one look on their own ranges of noise, drawn with one, the other and both.

    python benchmarks/experts.py [steps=1000] [prompts=48] [work=<folder>]

Both experts begin as the embedded text-to-video transformer, and stage 1 teaches each the noir stills on the noise levels that
are its own, as ``model=wan22_a14b`` does. Then stills of held-out scenes are drawn with either adapter on its own part of the
way, with both, and with either on the whole way, where it was never taught. What is measured is the style distance to held-out
noir (docs/scale-model.md), and how far the composition of the base model's still of the same seed stays.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from common import ROOT, report, train
from safetensors.torch import load_file, save_file
from scale_tools.readers import composition
from scale_tools.studio import Studio, acting, caption
from torch import Tensor

from cinelora.clone_only import SHIPPED
from cinelora.config.schema import SamplerConfig
from cinelora.families.family import HIGH, LOW
from cinelora.families.wan.conditions import Condition
from cinelora.families.wan22 import WAN22_A14B
from cinelora.io.hardware import quiet_libraries
from cinelora.io.media import contact_sheet, write_png
from cinelora.nn.flow_matching import FlowMatching
from cinelora.sampling.denoise import Course, Guided
from tools.scale_model.render.scenes import draw_scene

PICTURE, COLUMNS = ROOT / "docs" / "images" / "experts.png", 4
HELDOUT = 900_400
BATCH = 8
ACTS = {
    "neither": ((), ()),
    "high-noise expert on its part": ((HIGH,), ()),
    "low-noise expert on its part": ((), (LOW,)),
    "both, each on its part": ((HIGH,), (LOW,)),
    "high-noise expert all the way": ((HIGH,), (HIGH,)),
    "low-noise expert all the way": ((LOW,), (LOW,)),
}
"""Which adapters act above the boundary, and which below it."""


def experts_below(work: Path) -> dict[str, Path]:
    """The embedded transformer twice, as two files: one value of each tensor differs, by the last bit of bf16.

    Two files of the same weights are refused, and rightly so.
    """
    found = {}
    for number, expert in enumerate((HIGH, LOW)):
        folder = work / expert
        shutil.copytree(SHIPPED / "t2v" / "transformer", folder, dirs_exist_ok=True)
        [path] = folder.glob("*.safetensors")
        tensors = load_file(path)
        for value in tensors.values() if number else ():
            value.view(-1)[0] *= 1 + 2**-7
        path.chmod(0o644)
        save_file(tensors, path, {"format": "pt"})
        found[expert] = folder
    return found


def taught(work: Path, steps: int) -> Path:
    """The run that teaches both."""
    out = work / "style"
    if not (out / "summary.json").is_file():
        high, low = experts_below(work).values()
        family = ["model.family=wan22_a14b", f"model.t2v_high={high}", f"model.t2v_low={low}", "model.i2v="]
        train(out, "stage=style", "data=noir", "model=tiny", *family, f"stage.steps={steps}", f"cache={work / 'cache'}")
    return out


def drawn(studio: Studio, run: Path, prompts: list[str], acts: tuple[tuple[str, ...], tuple[str, ...]]) -> Tensor:
    """Stills (N, H, W, 3) uint8 with these adapters above and below the boundary."""
    roles = {expert: f"style_{expert}" for expert in (HIGH, LOW)}
    transformer = studio.transformer("t2v", {role: run / f"{role}.safetensors" for role in roles.values()})
    boundary = WAN22_A14B.network("t2v").boundary or 0.0
    noise, stills = studio.noise(list(range(len(prompts))), 1), []
    for first in range(0, len(prompts), BATCH):
        part = slice(first, first + BATCH)
        text = studio.texts(prompts[part])
        empty = studio.texts([""]).expand(len(text), -1, -1)
        guided = Guided(transformer, Condition(text), Condition(empty), studio.guidance)
        course = Course(noise[part], FlowMatching.solver(SamplerConfig(steps=studio.steps), studio.shift))
        for levels, there in (((boundary, 1.0), acts[0]), ((0.0, boundary), acts[1])):
            scales = {role: float(expert in there) for expert, role in roles.items()}
            with torch.no_grad(), acting(transformer, scales):
                course.go(guided, course.ahead(levels))
        stills.append(studio.pixels(course.latents_BCTHW)[:, 0])
    return torch.cat(stills)


def main(words: list[str]) -> None:
    """Teach, draw, measure and report."""
    quiet_libraries()
    options = dict(word.split("=") for word in words)
    work = Path(options["work"]) if "work" in options else Path(tempfile.mkdtemp())
    count = int(options.get("prompts", 48))
    run = taught(work, int(options.get("steps", 1000)))
    studio = Studio(work / "cache", {"cpu": {"reference": 96}, "cuda": {"reference": 256}})
    scenes = [draw_scene(HELDOUT + number) for number in range(count)]
    prompts = [caption(scene, "noir") for scene in scenes]
    found: dict[str, Any] = {
        "prompts": count,
        "rendered_noir": studio.distance(studio.first_frames(scenes, "noir", True)),
    }
    base, rows = None, []
    for name, acts in ACTS.items():
        stills = drawn(studio, run, prompts, acts)
        base = stills if base is None else base
        far = studio.distance(stills)
        kept = sum(map(composition, base, stills)) / count
        found[name] = {"style_distance": far, "composition_of_the_base": kept}
        rows.append((name, stills[:COLUMNS].numpy()))
        print(name, found[name], flush=True)
    for name in ACTS:
        found[name]["fallen_by"] = 1 - found[name]["style_distance"] / found["neither"]["style_distance"]
    write_png(PICTURE, contact_sheet(rows, COLUMNS))
    report("experts", found)


if __name__ == "__main__":
    main(sys.argv[1:])
