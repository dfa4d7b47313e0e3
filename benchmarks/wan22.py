"""Wan2.2 at full shapes: training steps and predictions, the plain diffusers + peft loop and ours, on random weights.

    python benchmarks/wan22.py [a14b_stills] [a14b_window] [5b_window] [5b_clip] [limits] [plain] [bf16] [fp8] [steps=3]
        [small=true]

Without words all take part. An expert of A14B is one transformer of the shape of Wan2.1's, so that what holds for one step holds
for each expert; the image-to-video one has no tokens of the first frame. ``5b_clip`` is a prediction of 121 frames. Every peak
stands beside what the plan says of it. ``limits`` are what has to fit a smaller card, which the allocator enforces: TI2V-5B
trains on 49 frames and draws 121, decoding included, in 16 GiB, and A14B draws 81 frames of 720p in 24.
"""

from __future__ import annotations

import statistics
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from common import report
from train_step import (
    POLICIES,
    Built,
    Job,
    bundle_of,
    measure,
    ours,
    peak_gib,
    plain,
    same_factors,
    start_afresh,
    summary,
    timed,
)

from cinelora.config.schema import InferConfig, MemoryConfig, ModelConfig, TrainConfig
from cinelora.config.shipped import values
from cinelora.families import family_of
from cinelora.families.family import Part
from cinelora.families.machinery import machinery_of
from cinelora.io.hardware import default_device
from cinelora.memory.block_swap import arrange
from cinelora.planning.estimate import GIB, Policy, Prediction, Shape
from cinelora.planning.planner import choose_drawing, choose_policy, step_of
from cinelora.sampling.denoise import Denoise, Guided, Unguided


def random_model(name: str, **changes: Any) -> ModelConfig:
    """A model of ``conf/`` with random weights."""
    return replace(ModelConfig(**values(f"model/{name}")), weights="random", **changes)


SMALL = {"num_layers": 4, "num_heads": 4, "hidden_size": 128, "ffn_dim": 256}
JOBS: dict[str, tuple[str, Job]] = {
    "a14b_stills": ("wan22_a14b", Job(1, 720, 1280, 4, "t2v")),
    "a14b_window": ("wan22_a14b", Job(33, 480, 832, 1)),
    "5b_window": ("wan22_5b", Job(49, 704, 1280, 1)),
}
CLIP = ("wan22_5b", Job(121, 704, 1280, 1))
CONTENDERS = ("plain", "bf16", "fp8")


def planned_gib(config: TrainConfig, device: torch.device) -> float:
    """The peak that the plan says of a training step, under the policy that it chooses here."""
    room = torch.cuda.get_device_properties(device).total_memory / GIB if device.type == "cuda" else None
    policy, _ = choose_policy(config, room)
    return sum(step_of(config).peak(replace(policy, compile=device.type == "cuda")).values()) / GIB


def trained(name: str, contenders: list[str], steps: int, small: bool, device: torch.device) -> dict[str, Any]:
    """Steps of one job by each contender."""
    model_name, job = JOBS[name]
    model, rows = random_model(model_name, **(SMALL if small else {})), dict[str, Any]()
    job = replace(job, frames=min(job.frames, 9), height=64, width=96) if small else job
    for contender in contenders:
        dtype = "fp8" if contender == "fp8" else "bf16"
        rows[contender] = measure(contender, job, model, POLICIES["auto"], dtype, steps, device)
        row = rows[contender]
        print(f"{name}, {contender}: {statistics.median(row['seconds']):.3f} s, {row['peak_gib']:.2f} GiB", flush=True)
    told = summary(rows, 1.0, 1.0)
    for contender, row in told.items():
        del row["share_of_matmul"], row["kernels_ms"]
        if contender != "plain":
            config = job.config(model, "fp8" if contender == "fp8" else "bf16", MemoryConfig())
            row["planned_gib"] = planned_gib(config, device)
    return told


def predicting(
    built: Built, config: TrainConfig, device: torch.device, together: bool | None = None
) -> tuple[Any, dict[str, torch.Tensor]]:
    """A prediction of the job's clip with its first frame shown, and where its velocity is kept.

    ``together``: both halves of guidance, in one batch or in turn; None for one of them alone.
    """
    model, family = config.model, family_of(config.model)
    size = family.geometry.latent_size(config.stage.num_frames, model.height, model.width)
    generator, shape = torch.Generator(device).manual_seed(0), Shape.of(model, "i2v")

    def draw(*sizes: int) -> torch.Tensor:
        return torch.randn(1, *sizes, device=device, generator=generator)

    kind = machinery_of(model).condition
    image = kind.drawn_image(family.network("i2v"), size, shape.image, draw)
    condition, latents, kept = kind(draw(family.text_tokens, shape.text), image), draw(*size), dict[str, torch.Tensor]()
    transformer = built.transformer.eval()
    halves = (condition, kind(draw(family.text_tokens, shape.text), image))
    denoise: Denoise = Unguided(transformer, condition)
    if together is not None:
        denoise = Guided(transformer, *halves, 5.0, together)

    @torch.no_grad()
    def predict() -> None:
        kept["velocity"] = denoise(latents, torch.full((1,), 500.0, device=device))

    return predict, kept


def drawn(contenders: list[str], steps: int, small: bool, device: torch.device) -> dict[str, Any]:
    """One prediction of a whole clip by each contender."""
    model_name, job = CLIP
    model, told, reference = random_model(model_name, **(SMALL if small else {})), dict[str, Any](), None
    job = replace(job, frames=9, height=64, width=96) if small else job
    for contender in contenders:
        config = job.config(model, "fp8" if contender == "fp8" else "bf16", POLICIES["plain"])
        start_afresh(device)
        built = plain(config, device) if contender == "plain" else ours(config, device)
        same_factors(built)
        predict, kept = predicting(built, config, device)
        seconds, first = timed(predict, steps, device)
        median, velocity = statistics.median(seconds), kept["velocity"].cpu()
        reference = reference or (median, velocity)
        tokens = family_of(model).geometry.num_tokens(job.frames, job.height, job.width)
        one = Prediction(Shape.of(config.model, "i2v"), tokens, config.model.dtype, guided=False)
        told[contender] = {"median_s": median, "range_s": [min(seconds), max(seconds)], "first_s": first}
        told[contender] |= {"peak_gib": peak_gib(device), "times_faster": reference[0] / median}
        told[contender] |= {"difference": float((velocity - reference[1]).norm() / reference[1].norm())}
        if contender != "plain":
            told[contender]["planned_gib"] = sum(one.peak(one.fastest(1e15, compile=True, swap=0)).values()) / GIB
        print(f"5b_clip, {contender}: {told[contender]}", flush=True)
        del built, predict, kept
    return told


def limited(gib: float, device: torch.device) -> None:
    """Bound the allocator to the memory of a card of ``gib`` GiB."""
    start_afresh(device)
    if device.type == "cuda":
        torch.cuda.set_per_process_memory_fraction(gib * GIB / torch.cuda.get_device_properties(device).total_memory)


def within_limits(small: bool, device: torch.device) -> dict[str, Any]:
    """What has to fit a smaller card: its peak, what the plan said, and the way."""
    found: dict[str, Any] = {}
    changes = SMALL if small else {}
    # training
    _, job = JOBS["5b_window"]
    job = replace(job, frames=9, height=64, width=96) if small else job
    limited(16, device)
    memory = MemoryConfig(limit_gib=16)
    row = measure("fp8", job, random_model("wan22_5b", **changes), memory, "fp8" if not small else "bf16", 1, device)
    found["5b_trains_16"] = {"peak_gib": row["peak_gib"], "s": row["seconds"][0], "how": row["policy"]}
    print(found["5b_trains_16"], flush=True)
    # drawing
    for name, model_name, gib, clip in (
        ("5b_draws_16", "wan22_5b", 16.0, CLIP[1]),
        ("a14b_draws_24", "wan22_a14b", 24.0, Job(81, 720, 1280, 1)),
    ):
        clip = replace(clip, frames=9, height=64, width=96) if small else clip
        limited(gib, device)
        model = random_model(model_name, **changes, dtype="bf16" if small else "fp8")
        model = replace(model, height=clip.height, width=clip.width)
        asked = InferConfig(model=model, prompt="", memory=InferConfig().memory, num_frames=clip.frames)
        room = gib if device.type == "cuda" else None
        drawing, how = choose_drawing(asked, "i2v", clip.frames, 1, None, room)
        config = clip.config(model, model.dtype, MemoryConfig())
        transformer = bundle_of(config, device).load_transformer(on_host=drawing.swap)
        arrange(transformer, Policy(recompute=drawing.swap, swap=drawing.swap, compile=drawing.compile))
        predict, kept = predicting(Built(transformer, [], how), config, device, drawing.together)
        started = time.perf_counter()
        predict()
        seconds, peak = time.perf_counter() - started, peak_gib(device)
        del transformer, predict
        found[name] = {"peak_gib": peak, "first_s": seconds, "how": how, "decoded": decoded(config, kept, device)}
        print(name, found[name], flush=True)
    return found


def decoded(config: TrainConfig, kept: dict[str, torch.Tensor], device: torch.device) -> dict[str, float]:
    """Peak and seconds of decoding what was drawn, under the same limit, when the transformer is gone."""
    start_afresh(device)
    bundle, started = (
        machinery_of(config.model).from_config(config.model, "i2v", Path("none"), device),
        time.perf_counter(),
    )
    with bundle.loaded(Part.VAE):
        bundle.decode(kept["velocity"] * 0.1)
        return {"peak_gib": peak_gib(device), "s": time.perf_counter() - started}


def main(words: list[str]) -> None:
    """Measure and report."""
    options = dict(word.split("=") for word in words if "=" in word)
    small, device, steps = options.get("small") == "true", default_device(), int(options.get("steps", 3))
    contenders = [name for name in CONTENDERS if name in words] or list(CONTENDERS)
    if small:
        contenders = [name for name in contenders if name != "fp8"]
    jobs = [*JOBS, "5b_clip", "limits"]
    found: dict[str, Any] = {}
    for name in [name for name in jobs if name in words] or jobs:
        if name == "limits":
            found[name] = within_limits(small, device)
        elif name == "5b_clip":
            found[name] = drawn(contenders, steps, small, device)
        else:
            found[name] = trained(name, contenders, steps, small, device)
        print(name, found[name], flush=True)
    if not small:
        report("wan22", found)


if __name__ == "__main__":
    main(sys.argv[1:])
