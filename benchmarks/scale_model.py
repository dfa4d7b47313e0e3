"""What the embedded model can do, measured on scenes that nothing was trained on.

    python benchmarks/scale_model.py [vae] [captions] [i2v] [style] [motion] [trap]

Without words all parts run, in this order. Results, with hardware and versions, in benchmarks/results/scale_model.json,
pictures in benchmarks/results/scale_model/. On two cores an hour; on a GPU some minutes.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from common import RESULTS, report, train
from scale_tools.readers import (
    composition,
    horizontal_flow,
    motion,
    psnr,
    style_distance,
    style_features,
    train_reader,
)
from scale_tools.studio import FRAMES, HELDOUT_SEED, Studio, acting, caption
from torchmetrics.functional.image import structural_similarity_index_measure as ssim

from cinelora.files import contact_sheet, write_png
from cinelora.footage.render import LOOKS
from cinelora.footage.render.scenes import VOCABULARY, Scene, draw_scene
from cinelora.models.wan import pixels_to_range

PICTURES = RESULTS / "scale_model"
READ = {name: VOCABULARY[name] for name in ("coat", "time", "count")}
PLAIN = {"place": "street", "weather": "dry", "camera": "stands still", "car": None}
STYLE_PROMPTS = 64
Results = dict[str, Any]


def scenes(count: int, first: int = 0, **overrides: Any) -> list[Scene]:
    """Held-out scenes."""
    return [draw_scene(HELDOUT_SEED + first + number, **overrides) for number in range(count)]


def vae(studio: Studio, work: Path) -> Results:
    """PSNR of clips without grain in every look (floor 28 dB), and how much the error changes between frames."""
    found: Results = {}
    rows = []
    for look in LOOKS:
        values, flicker = [], []
        for scene in scenes(6):
            clip = studio.render(scene, look)
            rebuilt = studio.pixels(studio.t2v.encode_video(pixels_to_range(clip, studio.device)))
            clip = clip.cpu()
            values.append(psnr(rebuilt, clip))
            flicker.append(motion(rebuilt) / motion(clip))
        rows += [(look, clip.numpy()), (f"{look}, through the VAE", rebuilt.numpy())]
        found[look] = {"psnr_db": statistics.mean(values), "worst_db": min(values), "motion": statistics.mean(flicker)}
        print(f"vae {look}: {found[look]}", flush=True)
    write_png(PICTURES / "vae.png", contact_sheet(rows, columns=5))
    return found


def captions(studio: Studio, work: Path) -> Results:
    """Share of prompts whose one changed attribute is right in the pixels (floor 0.85)."""
    reader, own = pixel_reader(studio)
    transformer = studio.transformer("t2v", {})
    found: Results = {"reader_on_rendered_stills": own}
    right: list[bool] = []
    asked = [("coat", 4), ("time", 6), ("count", 6)]
    rows = []
    for name, repeats in asked:
        values = VOCABULARY[name]
        variants = [
            (scene, value)
            for i in range(repeats)
            for value in values
            for scene in scenes(1, 100 + i, **{**PLAIN, **({"time": "noon"} if name != "time" else {}), name: value})
        ]
        stills = studio.draw(transformer, [caption(scene) for scene, _ in variants], 1)[:, 0]
        read = [row[name] for row in reader.read(stills)]
        hits = [value == got for (_, value), got in zip(variants, read, strict=True)]
        found[name] = {"prompts": len(hits), "right": sum(hits) / len(hits)}
        right += hits
        rows.append((f"{name}: {', '.join(map(str, values))}", stills[: len(values)].numpy()))
        print(f"captions {name}: {found[name]}", flush=True)
    write_png(PICTURES / "captions.png", contact_sheet(rows, columns=6))
    turns = [
        (scene, side)
        for i in range(8)
        for side in ("left", "right")
        for scene in scenes(1, 120 + i, **{**PLAIN, "camera": f"pans {side}", "act": "stands", "time": "noon"})
    ]
    clips = studio.draw(transformer, [caption(scene) for scene, _ in turns], FRAMES)
    flows = [horizontal_flow(clip) for clip in clips]
    # a camera that pans to the right sees the scene move to the left
    hits = [(flow < 0) == (side == "right") and abs(flow) > 0.2 for flow, (_, side) in zip(flows, turns, strict=True)]
    truth = [horizontal_flow(studio.render(scene, "daylight").cpu()) for scene, _ in turns]
    found["camera"] = {
        "prompts": len(hits),
        "right": sum(hits) / len(hits),
        "flow_px_per_frame": [round(flow, 2) for flow in flows],
        "rendered_flow_px_per_frame": [round(flow, 2) for flow in truth],
    }
    write_png(
        PICTURES / "pans.png", contact_sheet([(t[1], c.numpy()) for t, c in list(zip(turns, clips, strict=True))[:4]])
    )
    right += hits
    found["all"] = {"prompts": len(right), "right": sum(right) / len(right)}
    print(f"captions: {found['camera']} {found['all']}", flush=True)
    return found


def pixel_reader(studio: Studio) -> tuple[Any, dict[str, float]]:
    """A reader trained on rendered stills, and what it reads rightly of 240 others."""
    number = 2400
    drawn = [draw_scene(HELDOUT_SEED + 10_000 + i, **PLAIN) for i in range(number + 240)]
    drawn = [scene if i % 2 else replace(scene, time="noon") for i, scene in enumerate(drawn)]
    stills = torch.cat([studio.render(scene, "daylight", frames=1) for scene in drawn])
    labels = {
        name: torch.tensor([values.index(getattr(scene, name)) for scene in drawn], device=studio.device)
        for name, values in READ.items()
    }
    reader = train_reader(READ, stills[:number], {name: value[:number] for name, value in labels.items()})
    read = reader.read(stills[number:])
    own = {
        name: statistics.mean(
            row[name] == getattr(scene, name) for row, scene in zip(read, drawn[number:], strict=True)
        )
        for name in READ
    }
    print(f"reader on rendered stills: {own}", flush=True)
    return reader, own


def i2v(studio: Studio, work: Path) -> Results:
    """First frame kept (SSIM, floor 0.9) and motion against the rendered clip (within a factor of 2)."""
    transformer = studio.transformer("i2v", {})
    drawn = scenes(16, 200)
    truth = [studio.render(scene, "daylight").cpu() for scene in drawn]
    clips = studio.draw(transformer, [caption(scene) for scene in drawn], FRAMES, [clip[0] for clip in truth])
    kept = [likeness(clip[0], original[0]) for clip, original in zip(clips, truth, strict=True)]
    ratios = [motion(clip) / motion(original) for clip, original in zip(clips, truth, strict=True)]
    rows = [
        row
        for t, c in list(zip(truth, clips, strict=True))[:4]
        for row in (("rendered", t.numpy()), ("i2v", c.numpy()))
    ]
    write_png(PICTURES / "i2v.png", contact_sheet(rows))
    found = {
        "clips": len(clips),
        "first_frame_ssim": statistics.mean(kept),
        "worst_first_frame_ssim": min(kept),
        "motion_ratio_median": statistics.median(ratios),
        "motion_ratio_of_means": statistics.mean(map(motion, clips)) / statistics.mean(map(motion, truth)),
        "motion_ratios": [round(ratio, 2) for ratio in ratios],
    }
    print(f"i2v: {found}", flush=True)
    return found


def likeness(one_HWC: torch.Tensor, other_HWC: torch.Tensor) -> float:
    """SSIM of two stills."""
    one, other = (still.permute(2, 0, 1)[None].float() / 255 for still in (one_HWC, other_HWC))
    return float(ssim(one, other, data_range=1.0))


# -- the two stages ----------------------------------------------------------------------------------------------------


def style_run(work: Path, *settings: str) -> Path:
    """A finished ``stage=style`` run on the shipped noir clips, at the defaults but for ``settings``."""
    name = "style" + "".join(s.split("=")[1] for s in settings if s.startswith("stage."))
    out = work / name
    if not (out / "summary.json").exists():
        train(out, "stage=style", "data=noir", f"cache={work / 'cache'}", *settings)
    return out


def motion_run(work: Path, style: Path | None) -> Path:
    """A finished ``stage=motion`` run on top of ``style``."""
    out = work / ("motion" if style else "motion-alone")
    if not (out / "summary.json").exists():
        above = [f"adapter={style}"] if style else []
        train(out, "stage=motion", "data=noir", f"cache={work / 'cache'}", "stage.steps=400", *above)
    return out


def noir_features(studio: Studio) -> torch.Tensor:
    """Style features of 128 held-out noir stills."""
    stills = torch.cat([studio.render(scene, "noir", frames=1, grain=True) for scene in scenes(128, 400)])
    return style_features(studio.t2v, stills)


def style(studio: Studio, work: Path) -> Results:
    """How far stage 1 moves stills towards held-out noir (floor 70 % of the base's distance), and that scenes stay."""
    run = style_run(work)
    transformer = studio.transformer("t2v", {"style": run / "style.safetensors"})
    reference = noir_features(studio)
    prompts = [caption(scene, "noir") for scene in scenes(STYLE_PROMPTS, 300)]
    rendered = torch.cat([studio.render(scene, "noir", frames=1, grain=True) for scene in scenes(STYLE_PROMPTS, 300)])
    found: Results = {"steps": json.loads((run / "summary.json").read_text())["step"], "prompts": len(prompts)}
    found["rendered_noir"] = style_distance(style_features(studio.t2v, rendered), reference)
    for guidance in (1.0, 2.0, 4.0):
        base = studio.draw(transformer, prompts, 1, guidance=guidance)[:, 0]
        with acting(transformer, {"style": 1.0}):
            adapted = studio.draw(transformer, prompts, 1, guidance=guidance)[:, 0]
        far, near = (style_distance(style_features(studio.t2v, stills), reference) for stills in (base, adapted))
        same = [composition(a, b) for a, b in zip(base, adapted, strict=True)]
        other = [composition(a, b) for a, b in zip(base, adapted.roll(1, 0), strict=True)]
        found[f"guidance {guidance:g}"] = {
            "base": far,
            "adapted": near,
            "fallen_by": 1 - near / far,
            "composition_same_seed": statistics.mean(same),
            "composition_other_seed": statistics.mean(other),
        }
        print(f"style, guidance {guidance:g}: {found[f'guidance {guidance:g}']}", flush=True)
        rows = [
            (f"{name}, guidance {guidance:g}", stills[:6].numpy())
            for name, stills in (("base", base), ("adapted", adapted))
        ]
        write_png(PICTURES / f"style-{guidance:g}.png", contact_sheet(rows))
    return found


def motion_stage(studio: Studio, work: Path) -> Results:
    """Held-out loss of base, style adapter and both, and how the look holds to the last frame."""
    first = style_run(work)
    second = motion_run(work, first)
    losses = {
        "base": heldout_loss(work, None),
        "style": json.loads((second / "summary.json").read_text()),
    }
    above = losses["style"]
    found: Results = {
        "heldout_loss": {
            "base": losses["base"],
            "style": above["heldout_loss"] / (1 + above["heldout_change"]),
            "style and motion": above["heldout_loss"],
        }
    }
    reference = noir_features(studio)
    prompts = [caption(scene, "noir") for scene in scenes(12, 500)]
    adapters = {kind: second / f"{kind}.safetensors" for kind in ("style", "motion")}
    t2v = studio.transformer("t2v", {"style": adapters["style"]})
    with acting(t2v, {"style": 1.0}):
        keyframes = studio.draw(t2v, prompts, 1)[:, 0]
    transformer = studio.transformer("i2v", adapters)
    rows = []
    for name, weights in {
        "base": {},
        "style": {"style": 1.0},
        "both": {"style": 1.0, "motion": 1.0},
        "motion": {"motion": 1.0},
    }.items():
        with acting(transformer, {**dict.fromkeys(adapters, 0.0), **weights}):
            clips = studio.draw(transformer, prompts, FRAMES, list(keyframes))
        distances = [style_distance(style_features(studio.t2v, clips[:, at]), reference) for at in (0, 16, 32)]
        found[name] = {
            "distance_first_middle_last": distances,
            "first_frame_ssim": statistics.mean(likeness(c[0], k) for c, k in zip(clips, keyframes, strict=True)),
            "motion": statistics.mean(map(motion, clips)),
        }
        rows.append((f"i2v with {name}", clips[0].numpy()))
        print(f"motion stage, {name}: {found[name]}", flush=True)
    write_png(PICTURES / "motion.png", contact_sheet(rows))
    return found


def heldout_loss(work: Path, adapter: Path | None) -> float:
    """Held-out loss of ``stage=motion`` before its first step, on top of ``adapter`` or of the base."""
    out = work / "loss-of-base"
    if not (out / "summary.json").exists():
        train(out, "stage=motion", "data=noir", f"cache={work / 'cache'}", "stage.steps=1", "optimizer.lr=1e-12")
    return float(json.loads((out / "summary.json").read_text())["heldout_loss"])


def trap(studio: Studio, work: Path) -> Results:
    """The same steps spent in four ways, and what each does to the image-to-video transformer."""
    ways = {
        "a: stills on t2v": style_run(work, "stage.steps=400"),
        "b: stills on i2v, condition shown": style_run(
            work, "stage.steps=400", "stage.transformer=i2v", "stage.image_condition=true", "stage.allow_leak=true"
        ),
        "c: stills on i2v, condition dropped": style_run(work, "stage.steps=400", "stage.transformer=i2v"),
        "d: windows on i2v": motion_run(work, None),
    }
    reference = noir_features(studio)
    drawn = scenes(12, 600)
    first = [studio.render(scene, "daylight", frames=1)[0] for scene in drawn]
    noir = [studio.render(scene, "noir", frames=1)[0] for scene in drawn]
    found: Results = {}
    for way, run in ways.items():
        file = run / ("motion.safetensors" if way.startswith("d") else "style.safetensors")
        transformer = studio.transformer("i2v", {"way": file})
        found[way] = {}
        for weight in (0.0, 0.25, 0.5, 1.0):
            with acting(transformer, {"way": weight}):
                day = studio.draw(transformer, [caption(s) for s in drawn], FRAMES, first)
                night = studio.draw(transformer, [caption(s, "noir") for s in drawn], FRAMES, noir)
            found[way][str(weight)] = {
                "distance_from_daylight_frame": style_distance(style_features(studio.t2v, day[:, -1]), reference),
                "distance_from_noir_frame": style_distance(style_features(studio.t2v, night[:, -1]), reference),
                "first_frame_ssim": statistics.mean(likeness(c[0], f.cpu()) for c, f in zip(day, first, strict=True)),
                "motion_on_daylight": statistics.mean(map(motion, day)),
                "motion_on_noir": statistics.mean(map(motion, night)),
            }
            print(f"trap, {way}, weight {weight}: {found[way][str(weight)]}", flush=True)
    t2v = studio.transformer("t2v", {"way": ways["a: stills on t2v"] / "style.safetensors"})
    prompts = [caption(s, "noir") for s in scenes(48, 700)]
    for weight in (0.0, 1.0):
        with acting(t2v, {"way": weight}):
            stills = studio.draw(t2v, prompts, 1)[:, 0]
        found[f"t2v stills, way a, weight {weight}"] = style_distance(style_features(studio.t2v, stills), reference)
    return found


PARTS: dict[str, Callable[[Studio, Path], Results]] = {
    "vae": vae,
    "captions": captions,
    "i2v": i2v,
    "style": style,
    "motion": motion_stage,
    "trap": trap,
}


def main(words: list[str]) -> None:
    chosen = [word for word in words if word in PARTS] or list(PARTS)
    keep = next((Path(word.removeprefix("work=")) for word in words if word.startswith("work=")), None)
    PICTURES.mkdir(parents=True, exist_ok=True)
    path = RESULTS / "scale_model.json"
    results: Results = json.loads(path.read_text()) if path.exists() else {}
    with tempfile.TemporaryDirectory() as scratch:
        work = keep or Path(scratch)
        studio = Studio(work / "cache")
        for name in chosen:
            started = time.perf_counter()
            results[name] = {**PARTS[name](studio, work), "seconds": round(time.perf_counter() - started)}
            report("scale_model", results)


if __name__ == "__main__":
    main(sys.argv[1:])
