"""What the embedded model can do, measured on scenes that nothing was trained on.

    python benchmarks/scale_model.py [vae] [captions] [i2v] [style] [motion] [trap] [figure] [work=<folder>]

Without words all parts run, in this order; ``figure`` draws docs/images/trap.svg again from the results. Results, with
hardware and versions, are in benchmarks/results/scale_model.json, pictures in benchmarks/results/scale_model/. ``work``
keeps adapters, encoded footage and drawn stills for the next time. On two cores an hour; on a GPU, where more is drawn,
some minutes.
"""

from __future__ import annotations

import itertools
import json
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from common import RESULTS, ROOT, report, train
from scale_tools.readers import (
    Reader,
    composition,
    flicker,
    horizontal_flow,
    likeness,
    motion,
    psnr,
)
from scale_tools.stills import CHOICES, PLAIN, known_reader
from scale_tools.studio import FRAMES, HELDOUT_SEED, Studio, acting, caption
from torch import Tensor

from cinelora.families.family import Part
from cinelora.io.atomic import write_text
from cinelora.io.hardware import hardware, quiet_libraries
from cinelora.io.html.figure import LEFT, TOP, Dot, Line, Words, as_svg, axes
from cinelora.io.plain_data import read_json
from cinelora.nn.pixels import pixels_to_range
from tools.scale_model.render import LOOKS
from tools.scale_model.render.scenes import Scene, draw_scene

FIGURE = ROOT / "docs" / "images" / "trap.svg"
COLOURS = ("#1b7f79", "#c44536", "#3d5a98", "#b07d12")
Point = tuple[float, float, str]
Results = dict[str, Any]

COUNTS = {
    "cpu": {"vae": 6, "i2v": 16, "reference": 96, "style": 64, "motion": 10, "trap": 5, "trap_stills": 32},
    "cuda": {"vae": 24, "i2v": 48, "reference": 256, "style": 128, "motion": 32, "trap": 32, "trap_stills": 128},
}
"""Scenes of each part."""
PROMPTS = {"coat": 4, "time": 6, "count": 6, "camera": 8}
"""Groups of prompts that differ in one attribute: 24 + 18 + 18 + 16 prompts."""
PANS = ("pans left", "pans right")
LEAST_FLOW = 0.3
"""Pixels a frame under which a camera counts as standing still; a rendered pan has 1.2."""
GUIDANCES = (1.0, 2.0, 4.0)
STEPS = 400
"""Optimizer steps of the motion stage and of every way into the trap; a style run has the framework's default."""
WEIGHTS = (0.25, 0.5, 1.0)
FLOORS = {"psnr_db": 28.0, "flicker": 2.0, "captions": 0.85, "ssim": 0.9, "motion": (0.5, 2.0), "fallen_by": 0.7}
"""What must be reached. Flicker is in levels of 255; film grain alone gives 1.1 to 1.3."""


def scenes(count: int, first: int = 0, **overrides: Any) -> list[Scene]:
    """Held-out scenes; parts start at different ``first``."""
    return [draw_scene(HELDOUT_SEED + first + number, **overrides) for number in range(count)]


# -- the model by itself -----------------------------------------------------------------------------------------------


def vae(studio: Studio, work: Path) -> Results:
    """PSNR of clips without grain in every look, and how much changes where nothing changes in the original."""
    found: Results = {}
    rows = []
    for look in LOOKS:
        values, changes = [], []
        for scene in scenes(studio.counts["vae"]):
            clip = studio.render(scene, look)
            rebuilt = studio.pixels(studio.t2v.encode_video(pixels_to_range(clip, studio.device)))[0]
            clip = clip.cpu()
            values.append(psnr(rebuilt, clip))
            changes.append(flicker(rebuilt, clip))
        rows += [(look, clip), (f"{look}, through the VAE", rebuilt)]
        found[look] = {"psnr_db": mean(values), "worst_db": min(values), "flicker_levels": mean(changes)}
        print(f"vae, {look}: {found[look]}")
    studio.sheet("vae", rows, columns=5)
    looks = [found[look] for look in LOOKS]
    return found | {
        "floors": {
            "PSNR in every look": all(look["psnr_db"] >= FLOORS["psnr_db"] for look in looks),
            "no flicker": all(look["flicker_levels"] <= FLOORS["flicker"] for look in looks),
        }
    }


def captions(studio: Studio, work: Path) -> Results:
    """Share of prompts whose one changed attribute is right in the pixels."""
    reader, own = known_reader(studio, work)
    transformer = studio.transformer("t2v", {})
    found, right = stills_read(studio, transformer, reader)
    found["camera"], hits = pans(studio, transformer)
    found["all"] = share(right + hits)
    print(f"captions, all: {found['all']}")
    return {"reader": own, **found, "floors": {"prompts right": found["all"]["right"] >= FLOORS["captions"]}}


def stills_read(studio: Studio, transformer: torch.nn.Module, reader: Reader) -> tuple[Results, list[bool]]:
    """Stills of prompts that differ in coat, hour or number of people, and which of them the reader finds right."""
    found: Results = {}
    right: list[bool] = []
    rows = []
    for name, values in CHOICES.items():
        noon = {} if name == "time" else {"time": "noon"}
        asked = variants(name, values, **PLAIN, **noon)
        stills = drawings(studio, transformer, asked, 1)[:, 0]
        read = [row[name] for row in reader.read(stills)]
        wanted = [getattr(scene, name) for scene in asked]
        hits = [got == value for got, value in zip(read, wanted, strict=True)]
        truth = reader.read(studio.first_frames(asked, "daylight"))
        found[name] = share(hits) | {
            "misread": [f"{value} as {got}" for value, got, hit in zip(wanted, read, hits, strict=True) if not hit],
            "reader_on_these_scenes_rendered": mean(
                row[name] == value for row, value in zip(truth, wanted, strict=True)
            ),
        }
        print(f"captions, {name}: {found[name]}")
        right += hits
        label = f"{name}: {', '.join(map(str, values))}"
        rows += [(label, stills[first : first + len(values)]) for first in (0, len(values))]
    studio.sheet("captions", rows)
    return found, right


def pans(studio: Studio, transformer: torch.nn.Module) -> tuple[Results, list[bool]]:
    """Prompts whose camera pans to the left and to the right, and whether it does."""
    asked = variants("camera", PANS, **{**PLAIN, "act": "stands", "time": "noon"})
    clips = drawings(studio, transformer, asked, studio.frames)
    studio.sheet("pans", [(scene.camera, clip) for scene, clip in list(zip(asked, clips, strict=True))[:4]])
    stride = studio.frames // 4
    flows = [horizontal_flow(clip, stride) for clip in clips]
    truth = [horizontal_flow(studio.render(scene, "daylight").cpu(), stride) for scene in asked]
    hits, rendered = (
        [follows(flow, scene.camera) for flow, scene in zip(measured, asked, strict=True)]
        for measured in (flows, truth)
    )
    found = share(hits) | {
        "flow_px_per_frame": flows,
        "rendered_flow_px_per_frame": truth,
        "flow_on_these_scenes_rendered": mean(rendered),
    }
    print(f"captions, camera: {found}")
    return found, hits


def follows(flow: float, camera: str) -> bool:
    """Whether a flow is that of a pan: a camera that pans to the right sees the scene move to the left."""
    return flow < -LEAST_FLOW if camera == "pans right" else flow > LEAST_FLOW


def variants(name: str, values: tuple[Any, ...], **fixed: Any) -> list[Scene]:
    """Scenes in groups that share everything but the attribute ``name``."""
    groups = scenes(PROMPTS[name], 1000 + 20 * list(PROMPTS).index(name), **fixed)
    return [replace(scene, **{name: value}) for scene in groups for value in values]


def drawings(studio: Studio, transformer: torch.nn.Module, asked: list[Scene], frames: int) -> Tensor:
    """What a transformer draws of scenes: a group, whose scenes have one seed, also has one noise."""
    return studio.draw(transformer, [caption(scene) for scene in asked], frames, seeds=[scene.seed for scene in asked])


def i2v(studio: Studio, work: Path) -> Results:
    """First frame kept (SSIM), and motion against the rendered clip."""
    transformer = studio.transformer("i2v", {})
    chosen = scenes(studio.counts["i2v"], 200)
    truth = torch.stack([studio.render(scene, "daylight").cpu() for scene in chosen])
    clips = studio.draw(transformer, [caption(scene) for scene in chosen], FRAMES, studio.condition(truth[:, 0]))
    kept = likenesses(clips[:, 0], truth[:, 0])
    ratios = [motion(clip) / motion(original) for clip, original in zip(clips, truth, strict=True)]
    pairs = list(zip(truth, clips, strict=True))[:4]
    studio.sheet("i2v", [row for t, c in pairs for row in (("rendered", t), ("drawn from its first frame", c))])
    low, high = FLOORS["motion"]
    found = {
        "clips": len(clips),
        "first_frame_ssim": mean(kept),
        "worst_first_frame_ssim": min(kept),
        "motion_ratio_median": statistics.median(ratios),
        "motion_ratio_of_means": mean(map(motion, clips)) / mean(map(motion, truth)),
        "motion_ratios": ratios,
    }
    print(f"i2v: {found}")
    return found | {
        "floors": {
            "first frame": found["first_frame_ssim"] >= FLOORS["ssim"],
            "motion": low <= found["motion_ratio_of_means"] <= high,
        }
    }


# -- the two stages ----------------------------------------------------------------------------------------------------


def trained(work: Path, name: str, *settings: str) -> Path:
    """A finished run of ``train.py`` on the shipped noir clips: the one that ``work`` keeps, or a new one."""
    out = work / name
    summary = out / "summary.json"
    if not summary.exists() or read_json(summary)["interrupted"]:
        shutil.rmtree(out, ignore_errors=True)
        print(f"training {name}: {' '.join(settings)}")
        # the whole captions alone, as every figure of this report was measured; look_colours.py has the others
        train(out, "data=noir", "data.caption_lines=first", f"cache={work / 'cache'}", *settings)
    return out


def style_run(work: Path, *words: str) -> Path:
    """Stage 1 at the framework's defaults, of the model that ``words`` name."""
    return trained(work, "style", "stage=style", *words)


def motion_run(work: Path, style: Path | None) -> Path:
    """Stage 2 on top of ``style``, or on the base model."""
    above = [f"adapter={style}"] if style else []
    return trained(work, "motion" if style else "motion-alone", "stage=motion", f"stage.steps={STEPS}", *above)


def style(studio: Studio, work: Path) -> Results:
    """How far stage 1 moves stills of prompts never trained on towards held-out noir, and that scenes stay."""
    run = style_run(work, *studio.words)
    transformer = studio.transformer(studio.stills, {"style": run / "style.safetensors"})
    chosen = scenes(studio.counts["style"], 300)
    prompts = [caption(scene, "noir") for scene in chosen]
    found: Results = {
        "run": picked(run, "step", "samples", "seconds", "adapter_effect", "heldout_change"),
        "prompts": len(prompts),
        "rendered_noir": studio.distance(studio.first_frames(chosen, "noir", grain=True)),
    }
    for guidance in GUIDANCES:
        base = studio.draw(transformer, prompts, 1, guidance=guidance)[:, 0]
        with acting(transformer, {"style": 1.0}):
            adapted = studio.draw(transformer, prompts, 1, guidance=guidance)[:, 0]
        far, near = studio.distance(base), studio.distance(adapted)
        found[f"guidance {guidance:g}"] = {
            "base": far,
            "adapted": near,
            "fallen_by": 1 - near / far,
            "composition_same_seed": mean(map(composition, base, adapted)),
            "composition_other_seed": mean(map(composition, base, adapted.roll(1, 0))),
        }
        print(f"style, guidance {guidance:g}: {found[f'guidance {guidance:g}']}")
        studio.sheet(f"style-{guidance:g}", [("base", base[:6]), ("with the style adapter", adapted[:6])])
    usual = found[f"guidance {studio.guidance:g}"]
    return found | {
        "floors": {
            "style distance falls": usual["fallen_by"] >= FLOORS["fallen_by"],
            "composition stays": usual["composition_same_seed"] > usual["composition_other_seed"],
        }
    }


def motion_stage(studio: Studio, work: Path) -> Results:
    """Held-out loss of base, style adapter and both, and how the look holds to the last frame."""
    first = style_run(work)
    second = motion_run(work, first)
    losses = {
        "base": start_of(motion_run(work, None)),
        "style": start_of(second),
        "style and motion": read_json(second / "summary.json")["heldout_loss"],
    }
    found: Results = {"run": picked(second, "step", "samples", "seconds", "adapter_effect"), "heldout_loss": losses}
    print(f"motion stage: {found}")
    prompts = [caption(scene, "noir") for scene in scenes(studio.counts["motion"], 500)]
    adapters = {kind: second / f"{kind}.safetensors" for kind in ("style", "motion")}
    t2v = studio.transformer("t2v", {"style": adapters["style"]})
    untouched = studio.draw(t2v, prompts, 1)[:, 0]
    with acting(t2v, {"style": 1.0}):
        keyframes = studio.draw(t2v, prompts, 1)[:, 0]
    far = studio.distance(untouched)
    found["base_keyframes"] = far
    transformer, shown = studio.transformer("i2v", adapters), studio.condition(keyframes)
    rows = []
    for name, acts in {"base": (), "style": ("style",), "style and motion": ("style", "motion")}.items():
        with acting(transformer, {kind: float(kind in acts) for kind in adapters}):
            clips = studio.draw(transformer, prompts, FRAMES, shown)
        distances = [studio.distance(clips[:, at]) for at in (0, FRAMES // 2, -1)]
        found[name] = {
            "distance_first_middle_last": distances,
            "last_fallen_by": 1 - distances[-1] / far,
            "first_frame_ssim": mean(likenesses(clips[:, 0], keyframes)),
            "motion": mean(map(motion, clips)),
        }
        rows += [(f"{name}, scene {number}", clips[number]) for number in (0, 1)]
        print(f"motion stage, {name}: {found[name]}")
    studio.sheet("motion", rows)
    return found | {
        "floors": {
            "held-out loss below the base's": losses["style and motion"] < losses["base"],
            "held-out loss below the style adapter's": losses["style and motion"] < losses["style"],
            "look kept to the last frame": found["style and motion"]["last_fallen_by"] >= FLOORS["fallen_by"],
        }
    }


# -- stills on image-to-video ------------------------------------------------------------------------------------------


def ways(work: Path) -> dict[str, Path]:
    """The adapters of the same number of steps spent in four ways."""
    stills = ("stage=style", f"stage.steps={STEPS}")
    on_i2v = (*stills, "stage.transformer=i2v")
    # the default drops one image in ten, and would teach the adapter the still in just these samples
    shown = ("stage.image_condition=true", "stage.allow_leak=true", "dropout.image=0")
    return {
        "stills on T2V": trained(work, "trap-t2v", *stills) / "style.safetensors",
        "stills on I2V, image shown": trained(work, "trap-shown", *on_i2v, *shown) / "style.safetensors",
        "stills on I2V, image dropped": trained(work, "trap-dropped", *on_i2v) / "style.safetensors",
        "windows on I2V": motion_run(work, None) / "motion.safetensors",
    }


def trap(studio: Studio, work: Path) -> Results:
    """What each way does to the image-to-video transformer, by the adapter's scale, and to stills of text-to-video."""
    chosen = scenes(studio.counts["trap"], 600)
    prompts = [caption(scene, "noir") for scene in chosen]
    first = {look: studio.first_frames(chosen, look).cpu() for look in ("daylight", "noir")}
    shown = {look: studio.condition(frames) for look, frames in first.items()}
    still_prompts = [caption(scene, "noir") for scene in scenes(studio.counts["trap_stills"], 700)]

    def clip_numbers(transformer: torch.nn.Module, look: str) -> Results:
        clips = studio.draw(transformer, prompts, FRAMES, shown[look])
        return {
            # of later frames: the first is given
            "style_distance": studio.distance(clips[:, 8::8].flatten(0, 1)),
            "first_frame_ssim": mean(likenesses(clips[:, 0], first[look])),
            "motion": mean(map(motion, clips)),
        }

    def still_distance(transformer: torch.nn.Module) -> float:
        return studio.distance(studio.draw(transformer, still_prompts, 1)[:, 0])

    bare = studio.transformer("i2v", {})
    base: Results = {
        "points": [{"weight": 0.0, **clip_numbers(bare, "daylight")}],
        "from_noir": clip_numbers(bare, "noir"),
        "t2v_stills": still_distance(studio.transformer("t2v", {})),
    }
    print(f"trap, base: {base}")
    found: Results = {"steps": STEPS, "base": base, "ways": {}}
    for way, file in ways(work).items():
        points = list(base["points"])
        on_i2v, on_t2v = (studio.transformer(kind, {"way": file}) for kind in ("i2v", "t2v"))
        for weight in WEIGHTS:
            with acting(on_i2v, {"way": weight}):
                points.append({"weight": weight, **clip_numbers(on_i2v, "daylight")})
            print(f"trap, {way}: {points[-1]}")
        with acting(on_i2v, {"way": 1.0}), acting(on_t2v, {"way": 1.0}):
            found["ways"][way] = {
                "points": points,
                "from_noir": clip_numbers(on_i2v, "noir"),
                "t2v_stills": still_distance(on_t2v),
            }
        print(f"trap, {way}, from noir: {found['ways'][way]['from_noir']}, {found['ways'][way]['t2v_stills']} on T2V")
    return found


def draw_figure(results: Results) -> None:
    """Style distance against first-frame fidelity, a line for each way; its last points bear their weights."""
    lines = {
        way: [
            (
                point["first_frame_ssim"],
                point["style_distance"],
                f"{point['weight']:g}" if point["weight"] >= 0.5 else "",
            )
            for point in found["points"]
        ]
        for way, found in results["trap"]["ways"].items()
    }
    write_text(FIGURE, line_figure(lines, "SSIM of the first frame with the one given", "style distance to noir"))


def line_figure(lines: dict[str, list[Point]], x_label: str, y_label: str) -> str:
    """Lines of points (x, y, name of the point or ""), a colour each, with their names above; both axes linear."""
    points = [point for line in lines.values() for point in line]
    drawn, across, up = axes([x for x, _, _ in points], [0.0, *(y for _, y, _ in points)], x_label)
    drawn.append(Words(LEFT, TOP - 8, y_label, "start"))
    for number, ((name, line), colour) in enumerate(zip(lines.items(), COLOURS, strict=False)):
        placed = [(across(x), up(y), label) for x, y, label in line]
        drawn += [Line(x1, y1, x2, y2, colour, 2) for (x1, y1, _), (x2, y2, _) in itertools.pairwise(placed)]
        for x, y, label in placed:
            drawn += [Dot(x, y, colour), Words(x + 7, y - 6, label, "start", colour)]
        drawn.append(Words(LEFT + 280 * (number % 2), 18 + 20 * (number // 2), f"● {name}", "start", colour))
    return as_svg(drawn)


# -- numbers -----------------------------------------------------------------------------------------------------------


def mean(values: Any) -> float:
    """Arithmetic mean of any numbers."""
    return statistics.mean(map(float, values))


def share(hits: list[bool]) -> Results:
    """How many, and the share of them that is right."""
    return {"prompts": len(hits), "right": mean(hits)}


def likenesses(stills_NHWC: Tensor, others_NHWC: Tensor) -> list[float]:
    """SSIM of each still with its counterpart."""
    return [likeness(one, other) for one, other in zip(stills_NHWC, others_NHWC, strict=True)]


def picked(run: Path, *keys: str) -> Results:
    """Some numbers of a run's summary."""
    summary = read_json(run / "summary.json")
    return {key: summary[key] for key in keys}


def start_of(run: Path) -> float:
    """Held-out loss of a run before its first step: its end, less what became of it."""
    summary = read_json(run / "summary.json")
    return float(summary["heldout_loss"] / (1 + summary["heldout_change"]))


def rounded(value: Any) -> Any:
    """Numbers to four digits, however deep they lie."""
    if isinstance(value, dict):
        return {key: rounded(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [rounded(inner) for inner in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value


PARTS: dict[str, Callable[[Studio, Path], Results]] = {
    "vae": vae,
    "captions": captions,
    "i2v": i2v,
    "style": style,
    "motion": motion_stage,
    "trap": trap,
}


def main(words: list[str]) -> None:
    if unknown := [word for word in words if word not in {*PARTS, "figure"} and not word.startswith("work=")]:
        sys.exit(f"{', '.join(unknown)}: no part of the report; there are {', '.join(PARTS)}, figure and work=<folder>")
    quiet_libraries()
    sys.stdout.reconfigure(line_buffering=True)
    parts = [word for word in words if word in PARTS] or ([] if "figure" in words else list(PARTS))
    keep = next((Path(word.removeprefix("work=")) for word in words if word.startswith("work=")), None)
    path = RESULTS / "scale_model.json"
    results: Results = json.loads(path.read_text()) if path.exists() else {}
    with tempfile.TemporaryDirectory() as scratch:
        work = (keep or Path(scratch)).resolve()
        if parts:
            studio = Studio(work / "cache", COUNTS)
        for name in parts:
            started = time.perf_counter()
            found = PARTS[name](studio, work)
            seconds = round(time.perf_counter() - started)
            results[name] = rounded(found) | {"seconds": seconds, "on": hardware()["device"]}
            results["weights"] = {kind: bundle.fingerprint(Part.TRANSFORMER) for kind, bundle in studio.pair.items()}
            print(f"{name}: {seconds} s, floors met: {found.get('floors', 'none set')}")
            report("scale_model", results)
    if "trap" in parts or "figure" in words:
        draw_figure(results)


if __name__ == "__main__":
    main(sys.argv[1:])
