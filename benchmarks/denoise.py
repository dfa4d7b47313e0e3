"""One prediction at full size, as a denoising step makes two of: diffusers + peft, and ours in bf16 and fp8.

    python benchmarks/denoise.py [480p33] [480p81] [720p81] [plain] [bf16] [merged] [fp8] [int8] [rounds=1] [steps=3] [small=true]

Random weights, image-to-video, an adapter of rank 8 on cross-attention: live in the plain loop and in ours, and in
``merged`` folded into the weights. ``int8`` is fp8 with attention in int8 in every layer, whatever its guard finds.
``difference`` is the relative distance of the predicted velocity to the plain loop's, or to that of fp8 where it is left away;
results without the plain loop are in benchmarks/results/denoise_int8.json.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from common import report
from torch import Tensor
from train_step import (
    MODEL,
    POLICIES,
    SMALL,
    Job,
    matmul_rate,
    ours,
    peak_gib,
    plain,
    same_factors,
    start_afresh,
    timed,
)

from cinelora.adapters.lora_layers import merge
from cinelora.families.wan.conditions import Condition, ImageCondition, predict_velocity
from cinelora.families.wan21 import WAN21
from cinelora.io.hardware import default_device
from cinelora.nn.int8_attention import Guard, kernel_on, round_attention
from cinelora.planning.estimate import Shape

JOBS = {"480p33": Job(33, 480, 832, 1), "480p81": Job(81, 480, 832, 1), "720p81": Job(81, 720, 1280, 1)}
SMALL_JOB = Job(9, 48, 64, 1)
CONTENDERS = ("plain", "bf16", "merged", "fp8", "int8")


@dataclass
class Predictor:
    """The velocity of latents at a timestep, some latents, and the guard of attention in int8, if any."""

    velocity: Callable[[Tensor, float], Tensor]
    latents: Tensor
    guard: Guard | None


def predictor(contender: str, job: Job, model: Any, device: torch.device) -> Predictor:
    """Build a transformer and its inputs anew, from the same random values each time."""
    config = job.config(model, "fp8" if contender in ("fp8", "int8") else "bf16", POLICIES["plain"])
    start_afresh(device)
    built = plain(config, device) if contender == "plain" else ours(config, device)
    same_factors(built)
    transformer = built.transformer.eval()
    guard = round_attention(transformer, kernel_on(device), keeps=False) if contender == "int8" else None
    if contender == "merged":
        merge(transformer, {"motion": 1.0})
    shape, size = Shape.of(config.model, "i2v"), (job.height // 8, job.width // 8)
    frames, generator = WAN21.geometry.num_latent_frames(job.frames), torch.Generator(device).manual_seed(0)

    def draw(*sizes: int) -> Tensor:
        return torch.randn(1, *sizes, device=device, generator=generator)

    image = ImageCondition(draw(16, frames, *size), draw(WAN21.network("i2v").image_tokens, shape.image or 0))
    condition, latents = Condition(draw(WAN21.text_tokens, shape.text), image), draw(16, frames, *size)

    @torch.no_grad()
    def velocity(latents_BCTHW: Tensor, timestep: float) -> Tensor:
        return predict_velocity(transformer, latents_BCTHW, torch.full((1,), timestep, device=device), condition)

    return Predictor(velocity, latents, guard)


def measure(contender: str, job: Job, model: Any, steps: int, device: torch.device) -> dict[str, Any]:
    """Seconds and peak of one prediction, and what it predicts."""
    built, kept = predictor(contender, job, model, device), dict[str, Tensor]()

    def predict() -> None:
        kept["velocity"] = built.velocity(built.latents, 500.0)

    seconds, first = timed(predict, steps, device)
    told = {"int8_errors": built.guard.facts["errors"]} if built.guard else {}
    return {
        "seconds": seconds,
        "first": first,
        "peak_gib": peak_gib(device),
        "velocity": kept["velocity"].cpu(),
        **told,
    }


def main(words: list[str]) -> None:
    """Measure and report."""
    options = dict(word.split("=") for word in words if "=" in word)
    small, device = options.get("small") == "true", default_device()
    model = replace(SMALL if small else MODEL, compile_blocks={"true": True}.get(options.get("compile", "")))
    contenders = [name for name in CONTENDERS if name in words] or list(CONTENDERS)
    found: dict[str, Any] = {"matmul_tflops": matmul_rate(device) / 1e12, "jobs": {}}
    for name in [name for name in JOBS if name in words] or list(JOBS):
        job, rows = SMALL_JOB if small else JOBS[name], {}
        for contender in contenders * int(options.get("rounds", 1)):
            got = measure(contender, job, model, int(options.get("steps", 3)), device)
            row = rows.setdefault(contender, got | {"seconds": []})
            row["seconds"] += got["seconds"]
            print(
                f"{name}, {contender}: {statistics.median(got['seconds']):.3f} s, {got['peak_gib']:.1f} GiB", flush=True
            )
        found["jobs"][name] = {
            "tokens": WAN21.geometry.num_tokens(job.frames, job.height, job.width),
            "contenders": summary(rows),
        }
        print(name, found["jobs"][name], flush=True)
    if not small:
        report("denoise" if "plain" in contenders else "denoise_int8", found)


def summary(rows: dict[str, Any]) -> dict[str, Any]:
    """Medians, spread, ratio and distance to the plain loop, or to fp8 with exact attention where that was left away."""
    told, reference = {}, rows.get("plain") or rows.get("fp8")
    for contender, row in rows.items():
        median = statistics.median(row["seconds"])
        told[contender] = {
            "median_s": median,
            "range_s": [min(row["seconds"]), max(row["seconds"])],
            "first_s": row["first"],
            "peak_gib": row["peak_gib"],
            **{key: row[key] for key in ("int8_errors",) if key in row},
        }
        if reference:
            told[contender]["times_faster"] = statistics.median(reference["seconds"]) / median
            off = (row["velocity"] - reference["velocity"]).norm() / reference["velocity"].norm()
            told[contender]["difference"] = float(off)
    return told


if __name__ == "__main__":
    main(sys.argv[1:])
