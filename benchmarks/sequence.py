"""A sequence shared by several GPUs at full size: is it that of one, and what does it save.

    python benchmarks/sequence.py [check] [predict] [train] [gpus=2] [layers=40] [train_layers=20] [steps=1] [compile=true]
        [small=true]

Random weights of the 14B image-to-video shape with an adapter, in bf16, under the project's own launch. ``check``: velocities
and adapter gradients, of even and uneven lengths, two blocks deep, against those that each rank computes alone. ``predict``:
seconds of one prediction by one rank, by Ulysses, by a ring, and of both halves of guidance by two groups, of 81 frames in 480p
and 720p. ``train``: seconds and peak of one optimizer step, 33 frames of 480p and 81 of 720p, alone and with
``strategy.sequence`` = all ranks; half the blocks, so that one GPU holds what it is compared with, and what is foretold of all 40
beside it. Words choose parts; without any all run, in under 8 minutes on two H100. ``small=true`` takes the embedded shapes, to
try it on a CPU.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from common import report
from train_step import MODEL, POLICIES, SMALL, Built, Job, ours, peak_gib, same_factors, start_afresh, stepper, wait

from cinelora.config.schema import ModelConfig, StrategyConfig, TrainConfig
from cinelora.errors import ConfigError
from cinelora.families.wan.conditions import Condition, ImageCondition, predict_velocity
from cinelora.families.wan21 import WAN21
from cinelora.io.hardware import default_device, gpu_at_hand
from cinelora.parallel.launch import Rank, launch, process_group, rank_info
from cinelora.parallel.partition import Partition
from cinelora.parallel.sequence_parallel import SENT, alone, share, sharing_of
from cinelora.planning.estimate import GIB, Shape
from cinelora.planning.planner import choose_policy, step_of
from cinelora.sampling.denoise import GuidedAcrossRanks

CHECKS = {"480p33": Job(33, 480, 832, 1), "uneven": Job(33, 464, 816, 1)}
PREDICTIONS = {"480p81": Job(81, 480, 832, 1), "720p81": Job(81, 720, 1280, 1)}
STEPS = {"480p33": Job(33, 480, 832, 1), "720p81": Job(81, 720, 1280, 1)}
SMALL_JOBS = {"uneven": Job(9, 48, 80, 1)} | dict.fromkeys(["480p33", "480p81", "720p81"], Job(9, 48, 64, 1))
PARTS = ("check", "predict", "train")
Options = dict[str, str]


def measure(parts: list[str], options: Options) -> dict[str, Any]:
    """On every rank; what rank 0 found is reported."""
    rank, small = rank_info(), options.get("small") == "true"
    model = SMALL if small else MODEL
    found: dict[str, Any] = {"gpus": rank.world_size}
    with process_group(rank):
        for part, of in (("check", check), ("predict", predict), ("train", train)):
            if part in parts:
                found[part] = of(model, rank, options)
    return found


def say(rank: Rank, line: str) -> None:
    """By rank 0 alone."""
    if rank.global_rank == 0:
        print(line, flush=True)


def jobs_of(jobs: dict[str, Job], options: Options) -> dict[str, Job]:
    """At full size, or in that of the embedded model."""
    return {name: SMALL_JOBS[name] for name in jobs} if options.get("small") == "true" else jobs


def build(model: ModelConfig, job: Job, layers: int, sequence: int, options: Options, compile: bool) -> tuple[Any, ...]:
    """A transformer with an adapter as ``train.py`` builds it for so many ranks a sequence, and the settings of its run."""
    depth = model.num_layers if options.get("small") == "true" else layers
    config = job.config(replace(model, dtype="bf16", num_layers=depth), "bf16", POLICIES["auto"])
    config.model.compile_blocks = compile
    config = replace(config, gpus=dist.get_world_size(), strategy=StrategyConfig(sequence=sequence))
    start_afresh(default_device())
    built = ours(config, default_device())
    same_factors(built)
    return built, config


def inputs(
    model: ModelConfig, job: Job, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor, Condition, Condition]:
    """Noisy latents, a timestep, and two conditions, the same on every rank."""
    generator = torch.Generator(device).manual_seed(0)
    shape = Shape.of(model, "i2v")
    size = (WAN21.geometry.num_latent_frames(job.frames), job.height // 8, job.width // 8)

    def draw(*sizes: int) -> torch.Tensor:
        return torch.randn(1, *sizes, device=device, generator=generator)

    image = ImageCondition(draw(16, *size), draw(WAN21.network("i2v").image_tokens, shape.image or 0))
    texts = [Condition(draw(WAN21.text_tokens, shape.text), image) for _ in range(2)]
    return draw(16, *size), torch.full((1,), 500.0, device=device), texts[0], texts[1]


def ways(ranks: int) -> dict[str, tuple[int, int]]:
    """Ring and Ulysses degrees by name."""
    both = {f"ring {ranks // 2} x ulysses 2": (ranks // 2, 2)} if ranks > 2 else {}
    return {f"ulysses {ranks}": (1, ranks), f"ring {ranks}": (ranks, 1)} | both


# -- is it that of one -------------------------------------------------------------------------------------------------


def check(model: ModelConfig, rank: Rank, options: Options) -> dict[str, Any]:
    """Relative distances (2-norm) of a velocity, and of the adapter's gradient, to those that this rank computes alone."""
    built, config = build(model, CHECKS["480p33"], 2, 1, options, compile=False)
    share(built.transformer, 1, rank.world_size)
    found = {}
    for name, job in jobs_of(CHECKS, options).items():
        given = inputs(config.model, job, default_device())[:3]
        with alone(built.transformer):
            whole = velocity_and_gradient(built, given)
        for way, degrees in ways(rank.world_size).items():
            sharing = sharing_of(built.transformer)
            assert sharing is not None
            sharing.ring, sharing.ulysses = degrees
            shared = velocity_and_gradient(built, given)
            dist.all_reduce(shared[1])
            shared[1] /= rank.world_size
            off = [float((ours - theirs).norm() / theirs.norm()) for ours, theirs in zip(shared, whole, strict=True)]
            found[f"{name}, {way}"] = {"velocity_off_by": off[0], "gradient_off_by": off[1]}
            say(rank, f"check {name}, {way}: velocity {off[0]:.1e}, gradient {off[1]:.1e}")
    return found


def velocity_and_gradient(built: Built, given: tuple[Any, ...]) -> list[torch.Tensor]:
    """Of a prediction, in float32."""
    for parameter in built.parameters:
        parameter.grad = None
    velocity = predict_velocity(built.transformer, *given)
    velocity.square().mean().backward()
    gradients = [parameter.grad.flatten().float() for parameter in built.parameters if parameter.grad is not None]
    return [velocity.detach(), torch.cat(gradients)]


# -- one prediction ----------------------------------------------------------------------------------------------------


def predict(model: ModelConfig, rank: Rank, options: Options) -> dict[str, Any]:
    """Seconds of a prediction by one rank and by all; of a pair of them where each half of guidance has its own ranks."""
    layers, device = int(options.get("layers", 40)), default_device()
    built, config = build(model, PREDICTIONS["480p81"], layers, 1, options, compile=False)
    transformer = built.transformer.eval()
    share(transformer, 1, rank.world_size)
    sharing = sharing_of(transformer)
    assert sharing is not None
    found = {}
    for name, job in jobs_of(PREDICTIONS, options).items():
        latents, timestep, positive, negative = inputs(config.model, job, device)

        @torch.no_grad()
        def once(given: tuple[Any, ...] = (latents, timestep, positive)) -> None:
            predict_velocity(transformer, *given)

        rows = found[name] = {
            "tokens": WAN21.geometry.num_tokens(job.frames, job.height, job.width),
            "layers": config.model.num_layers,
        }
        with alone(transformer):
            rows["one rank"] = timed(once, rank, options)
        for way, degrees in ways(rank.world_size).items():
            sharing.ring, sharing.ulysses = degrees
            rows[way] = timed(once, rank, options)
        if rank.world_size % 2 == 0:
            half = rank.world_size // 2
            sharing.ring, sharing.ulysses = 1, half
            pair = GuidedAcrossRanks(transformer, positive, negative, 5.0, Partition(2, 1, half), rank)

            @torch.no_grad()
            def both(pair: GuidedAcrossRanks = pair, given: tuple[Any, ...] = (latents, timestep)) -> None:
                pair(*given)

            rows["halves of guidance"] = timed(both, rank, options)
        for way in [way for way in rows if isinstance(rows[way], dict)]:
            predictions = 2 if way == "halves of guidance" else 1
            rows[way]["times_faster"] = predictions * rows["one rank"]["median_s"] / rows[way]["median_s"]
            say(rank, f"predict {name}, {way}: {rows[way]}")
    return found


def timed(step: Callable[[], None], rank: Rank, options: Options) -> dict[str, Any]:
    """Seconds of a step after one to warm up, which all ranks begin together, the peak, and the bytes that this rank sent."""
    device, seconds = default_device(), []
    step()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    for _ in range(int(options.get("steps", 1))):
        wait(device)
        dist.barrier()
        SENT.clear()
        started = time.perf_counter()
        step()
        wait(device)
        seconds.append(time.perf_counter() - started)
    return {
        "median_s": statistics.median(seconds),
        "range_s": [min(seconds), max(seconds)],
        "sent_gb": {kind: sent / 1e9 for kind, sent in SENT.items()},
        "peak_gib": peak_gib(device),
    }


# -- one training step -------------------------------------------------------------------------------------------------


def train(model: ModelConfig, rank: Rank, options: Options) -> dict[str, Any]:
    """One optimizer step of a rank alone, and of all ranks that share its sequence and then average their gradients."""
    layers, found = int(options.get("train_layers", 20)), {}
    compile = options.get("compile", "true" if torch.cuda.is_available() else "false") == "true"
    for name, job in jobs_of(STEPS, options).items():
        rows: dict[str, Any] = {
            "tokens": WAN21.geometry.num_tokens(job.frames, job.height, job.width),
            "layers": layers,
        }
        for way, sequence in (("one rank", 1), (f"strategy.sequence={rank.world_size}", rank.world_size)):
            try:
                rows[way] = train_step(model, job, layers, sequence, rank, options, compile)
            except torch.OutOfMemoryError as error:
                rows[way] = {"failed": str(error).splitlines()[0]}
            say(rank, f"train {name}, {way}: {rows[way]}")
        found[name] = rows
    return found


def train_step(
    model: ModelConfig, job: Job, layers: int, sequence: int, rank: Rank, options: Options, compile: bool
) -> dict[str, Any]:
    """Times and peak of one way, beside the peak that the plan foretells, and what it foretells of all 40 blocks."""
    built, config = build(model, job, layers, sequence, options, compile)
    if sequence > 1:
        share(built.transformer, 1, sequence)
    step = stepper(built, config, default_device())

    def averaged() -> None:
        step()
        for parameter in built.parameters if sequence > 1 else []:
            dist.all_reduce(parameter.grad)

    row = timed(averaged, rank, options)
    room = gpu_at_hand()[1]
    if room is None:
        return row
    policy, row["policy"] = choose_policy(config, room)
    row["foretold_gib"] = foretold(config, policy)
    whole = replace(config, model=replace(config.model, num_layers=model.num_layers))
    try:
        row["with_all_blocks"] = choose_policy(whole, room)[1]
    except ConfigError as error:
        row["with_all_blocks"] = str(error)
    return row


def foretold(config: TrainConfig, policy: Any) -> float:
    """GiB at the peak, by the plan."""
    return sum(step_of(config).peak(policy).values()) / GIB


# -- reporting ---------------------------------------------------------------------------------------------------------


def table(found: dict[str, Any]) -> list[str]:
    """What was found, a line each."""
    lines = [f"{'':44} {'s':>8} {'times':>6} {'peak GiB':>9} {'sent GB':>8}"]
    for name, row in found.get("check", {}).items():
        lines.append(f"check {name:38} velocity {row['velocity_off_by']:.1e}, gradient {row['gradient_off_by']:.1e}")
    for part in ("predict", "train"):
        for name, rows in found.get(part, {}).items():
            ways = {way: row for way, row in rows.items() if isinstance(row, dict)}
            base = ways["one rank"].get("median_s")
            for way, row in ways.items():
                what = f"{part} {name} ({rows['tokens']:,}), {way}"
                if "failed" in row:
                    lines.append(f"{what:44} {row['failed'][:60]}")
                    continue
                times = row.get("times_faster") or (base / row["median_s"] if base else float("nan"))
                sent = sum(row["sent_gb"].values())
                lines.append(f"{what:44} {row['median_s']:8.3f} {times:6.2f} {row['peak_gib']:9.1f} {sent:8.2f}")
    return lines


def main(words: list[str]) -> None:
    """Launch, measure and report."""
    options = dict(word.split("=") for word in words if "=" in word)
    parts = [part for part in PARTS if part in words] or list(PARTS)
    gpus = int(options.get("gpus", torch.cuda.device_count() or 2))
    with tempfile.TemporaryDirectory() as logs:
        found = launch(measure, parts, options, ranks=gpus, log_dir=Path(logs))
    if options.get("small") != "true":
        report("sequence", found)
    print("\n".join(table(found)))


if __name__ == "__main__":
    from sequence import main as main_of_this_module  # ranks find its functions by the module's name

    main_of_this_module(sys.argv[1:])
