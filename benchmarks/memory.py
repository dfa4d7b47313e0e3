"""What ``plan=true`` predicts against what a step of the full shape takes: peak memory and seconds, policy by policy.

    python benchmarks/memory.py [names ...] [steps=3] [small=true] [gradients=true]

Each configuration is built as ``train.py`` builds it, on random weights, and torn down. Names choose some of them, and cases
of an earlier run on the same kind of device are kept beside. ``gradients=true`` also compares adapter gradients between
policies of one job and precision, which should differ in nothing but the order of sums. A ``limit`` is one that the
allocator enforces, as on a smaller card.
"""

from __future__ import annotations

import json
import statistics
import sys
from dataclasses import dataclass
from typing import Any

import torch
from common import RESULTS, report
from train_step import MODEL, SMALL, Job, measure

from cinelora.config.schema import MemoryConfig
from cinelora.io.hardware import default_device, hardware
from cinelora.planning.cards import GPUS, gpu_named
from cinelora.planning.estimate import GIB
from cinelora.planning.planner import choose_policy, step_of

WINDOW, LONG, STILLS, STILL = (
    Job(33, 480, 832, 1),
    Job(81, 480, 832, 1),
    Job(1, 720, 1280, 4),
    Job(1, 720, 1280, 1),
)
SMALL_JOB = Job(9, 48, 64, 2)


@dataclass(frozen=True)
class Case:
    """A job, how its frozen weights are held, and what its blocks keep."""

    job: Job
    dtype: str
    memory: MemoryConfig


def shares(recompute: float, offload: bool = False, swap: float = 0.0, limit: float | None = None) -> MemoryConfig:
    """A policy by its shares."""
    return MemoryConfig("plain", recompute, offload, swap, limit)


CASES = {
    "still-bf16-plain": Case(STILL, "bf16", shares(0.0)),
    "stills-bf16-recompute": Case(STILLS, "bf16", shares(1.0)),
    "stills-fp8-half": Case(STILLS, "fp8", shares(0.5)),
    "window-bf16-plain": Case(WINDOW, "bf16", shares(0.0)),
    "window-fp8-plain": Case(WINDOW, "fp8", shares(0.0)),
    "window-bf16-recompute": Case(WINDOW, "bf16", shares(1.0)),
    "window-fp8-recompute": Case(WINDOW, "fp8", shares(1.0)),
    "window-fp8-three-quarters": Case(WINDOW, "fp8", shares(0.75)),
    "window-fp8-offload": Case(WINDOW, "fp8", shares(1.0, True)),
    "window-fp8-swap-half": Case(WINDOW, "fp8", shares(1.0, True, 0.5)),
    "window-fp8-swap": Case(WINDOW, "fp8", shares(1.0, True, 1.0)),
    "window-bf16-swap": Case(WINDOW, "bf16", shares(1.0, True, 1.0)),
    "window-fp8-24": Case(WINDOW, "fp8", MemoryConfig(limit_gib=24)),
    "window-fp8-16": Case(WINDOW, "fp8", MemoryConfig(limit_gib=16)),
    "long-fp8": Case(LONG, "fp8", MemoryConfig()),
    "long-bf16": Case(LONG, "bf16", MemoryConfig()),
    "long-fp8-80": Case(LONG, "fp8", MemoryConfig(limit_gib=80)),
    "long-bf16-80": Case(LONG, "bf16", MemoryConfig(limit_gib=80)),
}


def earlier() -> dict[str, Any]:
    """Cases measured before, unless that was on other hardware or with another torch."""
    path, here = RESULTS / "memory.json", hardware()
    kept = json.loads(path.read_text()) if path.is_file() else {}
    same = all(kept.get(fact) == here[fact] for fact in ("device", "torch"))
    return {name: case for name, case in kept.items() if same and name in CASES}


def main(words: list[str]) -> None:
    """Measure, compare and report."""
    options = dict(word.split("=") for word in words if "=" in word)
    small, device = options.get("small") == "true", default_device()
    total = torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else None
    known = gpu_named(torch.cuda.get_device_name(device)) if total else None
    gradients: dict[tuple[Job, str], torch.Tensor] = {}
    found: dict[str, Any] = {} if small else earlier()
    for name in [word for word in words if "=" not in word] or list(CASES):
        case = CASES[name]
        job, model = (SMALL_JOB, SMALL) if small else (case.job, MODEL)
        config = job.config(model, case.dtype, case.memory)
        policy, _ = choose_policy(config, total and total / GIB)
        step = step_of(config)
        predicted = sum(step.peak(policy).values()) / GIB
        if total:
            torch.cuda.set_per_process_memory_fraction(min(1.0, (case.memory.limit_gib or 1e9) * GIB / total), device)
        try:
            got = measure("ours", job, model, case.memory, case.dtype, int(options.get("steps", 3)), device)
        except torch.OutOfMemoryError as error:
            found[name] = {"predicted_gib": predicted, "failed": str(error).splitlines()[0]}
            print(name, found[name], flush=True)
            continue
        seconds = statistics.median(got["seconds"])
        found[name] = {
            "policy": str(policy),
            "predicted_gib": predicted,
            "peak_gib": got["peak_gib"],
            "peak_off_by": predicted / got["peak_gib"] - 1 if got["peak_gib"] else None,
            "predicted_s": step.seconds(policy, known or GPUS[0]),
            "seconds": got["seconds"],
            "median_s": seconds,
            "first_step_s": got["first"],
            "loaded_gib": got["loaded_gib"],
        }
        if options.get("gradients") == "true":
            reference = gradients.setdefault((job, case.dtype), got["gradient"])
            error = (got["gradient"].double() - reference.double()).norm() / reference.double().norm()
            found[name]["gradient_off_by"] = float(error)
        print(name, {key: value for key, value in found[name].items() if key != "seconds"}, flush=True)
        if not small:
            report("memory", found)


if __name__ == "__main__":
    main(sys.argv[1:])
