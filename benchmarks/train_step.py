"""A training step at full size: the plain diffusers + peft loop, and ours in bf16 and fp8, on random weights.

    python benchmarks/train_step.py [stills] [window] [plain] [bf16] [fp8] [rounds=2] [steps=4] [memory=<policy>] [small=true]
        [compile=false] [profile=true]

Words choose jobs and contenders; without any all take part. Contenders are built in turns from the same weights, adapters
and batch, so that their gradients can be compared: ``cosine`` is that of all adapter gradients with the plain loop's.
``share`` is of the matmul rate measured in the same run, counting a forward pass and the gradients of activations; what is
computed again is not counted. ``profile=true`` says which kernels one more step went into. ``small=true`` takes the embedded
shapes, to try the script without a GPU.
"""

from __future__ import annotations

import gc
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from common import report
from diffusers import WanTransformer3DModel
from peft import LoraConfig

from cinelora.adapters.lora_layers import adapter_state, add_adapter
from cinelora.config.schema import LoraSpec, MemoryConfig, ModelConfig, StageConfig, TrainConfig
from cinelora.families import family_of
from cinelora.families.machinery import Bundle, machinery_of
from cinelora.families.noise_law import law_of
from cinelora.families.wan21 import WAN21
from cinelora.io.hardware import default_device
from cinelora.memory.block_swap import arrange
from cinelora.nn.flow_matching import keyed_generator
from cinelora.planning.estimate import GIB, Shape
from cinelora.planning.planner import choose_policy

CONTENDERS = ("plain", "bf16", "fp8")
POLICIES: dict[str, MemoryConfig] = {
    "auto": MemoryConfig(),
    "plain": MemoryConfig("plain", 0.0, False, 0.0),
    "recompute": MemoryConfig("recompute", 1.0, False, 0.0),
    "offload": MemoryConfig("offload", 1.0, True, 0.0),
    "swap": MemoryConfig("swap", 1.0, True, 1.0),
}
MODEL = ModelConfig(name="wan21_14b_720p", t2v="random", i2v="random", weights="random")
SMALL = replace(MODEL, num_layers=4, num_heads=4, hidden_size=128, ffn_dim=256)


@dataclass(frozen=True)
class Job:
    """What one step is of."""

    frames: int
    height: int
    width: int
    samples: int
    network: str = "i2v"

    def config(self, model: ModelConfig, dtype: str, memory: MemoryConfig) -> TrainConfig:
        """The same as settings of a run on one of the model's networks."""
        shown = self.network == "i2v"
        stage = {"name": "motion" if shown else "style", "transformer": self.network, "image_condition": shown}
        return TrainConfig(
            model=replace(model, dtype=dtype, height=self.height, width=self.width),
            stage=StageConfig(**stage, num_frames=self.frames, batch_size=self.samples),
            lora=LoraSpec(),
            memory=memory,
        )


JOBS = {"stills": Job(1, 720, 1280, 4), "window": Job(33, 480, 832, 1)}
SMALL_JOBS = {"stills": Job(1, 64, 96, 4), "window": Job(9, 48, 64, 1)}


@dataclass
class Built:
    """A transformer with what trains, and how its blocks run."""

    transformer: WanTransformer3DModel
    parameters: list[torch.nn.Parameter]
    policy: str


def bundle_of(config: TrainConfig, device: torch.device) -> Bundle:
    """The model's checkpoint of the network that is trained."""
    return machinery_of(config.model).from_config(config.model, config.stage.transformer, Path("none"), device)


def plain(config: TrainConfig, device: torch.device) -> Built:
    """What one would write with diffusers and peft: frozen bf16, adapters by peft, every block checkpointed."""
    transformer = bundle_of(config, device).load_transformer()
    targets = r".*attn2\.(to_q|to_k|to_v|to_out.0|add_k_proj|add_v_proj)"
    transformer.add_adapter(LoraConfig(r=8, lora_alpha=16, target_modules=targets))
    transformer.enable_gradient_checkpointing()
    named = {name: p for name, p in transformer.named_parameters() if p.requires_grad}
    for parameter in named.values():
        parameter.data = parameter.data.float()
    ordered = sorted(named, key=lambda name: name.replace(".default", ""))
    return Built(transformer.train(), [named[name] for name in ordered], "all blocks recomputed, eager")


def ours(config: TrainConfig, device: torch.device) -> Built:
    """As ``train.py`` builds it."""
    room = torch.cuda.get_device_properties(device).total_memory / GIB if device.type == "cuda" else None
    policy, why = choose_policy(config, room)
    transformer = bundle_of(config, device).load_transformer(on_host=policy.swap)
    add_adapter(transformer, "motion", LoraSpec(8, 16.0, 0.0, "cross_attention"), seed=0)
    arrange(transformer, policy)
    named = {name: p for name, p in transformer.named_parameters() if p.requires_grad}
    assert len(named) == len(adapter_state(transformer, "motion"))
    ordered = sorted(named, key=lambda name: name.replace(".motion", ""))
    return Built(transformer.train(), [named[name] for name in ordered], why)


def same_factors(built: Built) -> None:
    """Give every contender the same adapter, of which no factor is zero: else half of the gradients were."""
    for number, parameter in enumerate(built.parameters):
        values = torch.randn(parameter.shape, generator=keyed_generator(0, "factor", number))
        parameter.data.copy_(values * (0.02 if number % 2 else 1 / parameter.shape[1] ** 0.5))


def stepper(built: Built, config: TrainConfig, device: torch.device) -> Callable[[], None]:
    """One optimizer step on a fixed batch, as large as one of a run by ``config``; at rate 0, which moves nothing."""
    stage, shape, family = config.stage, built.transformer.config, family_of(config.model)
    size = family.geometry.latent_size(stage.num_frames, config.model.height, config.model.width)
    generator = torch.Generator(device).manual_seed(0)

    def draw(*sizes: int) -> torch.Tensor:
        return torch.randn(stage.batch_size, *sizes, device=device, generator=generator)

    latents, noise = (draw(*size) for _ in range(2))
    law, kind = law_of(family.network(stage.transformer)), machinery_of(config.model).condition
    shown = kind.drawn_image(family.network(stage.transformer), size, shape.image_dim, draw)
    condition = kind(draw(family.text_tokens, shape.text_dim), shown)
    sigma = torch.linspace(0.3, 0.7, stage.batch_size, device=device)
    optimizer = torch.optim.AdamW(built.parameters, lr=0.0, fused=True)

    def step() -> None:
        optimizer.zero_grad()
        noisy = law.add_noise(latents, noise, sigma)
        predicted = condition.predict(built.transformer, noisy, law.timestep(sigma))
        law.loss(predicted, law.target(latents, noise), condition.counts(latents)).mean().backward()
        torch.nn.utils.clip_grad_norm_(built.parameters, 1.0)
        optimizer.step()

    return step


def timed(step: Callable[[], None], steps: int, device: torch.device) -> tuple[list[float], float]:
    """Seconds of each step after two to warm up, which compile, and what the first took."""
    started = time.perf_counter()
    step()
    wait(device)
    first = time.perf_counter() - started
    step()
    seconds = []
    for _ in range(steps):
        wait(device)
        started = time.perf_counter()
        step()
        wait(device)
        seconds.append(time.perf_counter() - started)
    return seconds, first


def wait(device: torch.device) -> None:
    """Until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def profile(step: Callable[[], None], device: torch.device, rows: int = 25) -> dict[str, float]:
    """Milliseconds of one step by kernel, the longest first."""
    with torch.profiler.profile() as seen:
        step()
        wait(device)
    spent: dict[str, float] = {}
    for event in seen.events():
        if event.device_type == torch.autograd.DeviceType.CUDA:
            spent[event.name[:100]] = spent.get(event.name[:100], 0.0) + event.time_range.elapsed_us() / 1000
    return dict(sorted(spent.items(), key=lambda item: -item[1])[:rows])


def matmul_rate(device: torch.device, size: int = 8192) -> float:
    """FLOP/s of a large bf16 product."""
    size = size if device.type == "cuda" else 512
    left, right = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    times = []
    for _ in range(12):
        wait(device)
        started = time.perf_counter()
        for _ in range(10):
            left @ right
        wait(device)
        times.append((time.perf_counter() - started) / 10)
    return 2 * size**3 / min(times)


def step_flops(shape: Shape, tokens: int, samples: int) -> float:
    """Products of a forward pass and of the gradients of activations."""
    width, context = shape.hidden, shape.context
    per_token = 2 * (6 * width**2 + 2 * width * shape.ffn)  # all but keys and values of the context
    of_context = context * 4 * width**2
    attention = 4 * width * tokens * (tokens + context)
    forward = shape.layers * (tokens * per_token + of_context + attention)
    backward = shape.layers * (tokens * per_token + 2.5 * attention)
    return samples * (forward + backward)


def start_afresh(device: torch.device) -> None:
    """Forget what was built, compiled and used before."""
    gc.collect()
    torch.compiler.reset()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def peak_gib(device: torch.device) -> float:
    """Most that tensors took at once since ``start_afresh``; 0 where nobody counts."""
    return torch.cuda.max_memory_allocated(device) / GIB if device.type == "cuda" else 0.0


def measure(
    contender: str,
    job: Job,
    model: ModelConfig,
    memory: MemoryConfig,
    dtype: str,
    steps: int,
    device: torch.device,
    kernels: bool = False,
) -> dict[str, Any]:
    """The ``plain`` loop or ours, built, timed and torn down; its gradients beside its times."""
    config = job.config(model, dtype, memory)
    start_afresh(device)
    built = plain(config, device) if contender == "plain" else ours(config, device)
    same_factors(built)
    loaded = torch.cuda.memory_allocated(device) / GIB if device.type == "cuda" else 0.0
    step = stepper(built, config, device)
    seconds, first = timed(step, steps, device)
    peak = peak_gib(device)
    gradient = torch.cat([p.grad.flatten().float().cpu() for p in built.parameters if p.grad is not None])
    return {
        "seconds": seconds,
        "first": first,
        "loaded_gib": loaded,
        "peak_gib": peak,
        "policy": built.policy,
        "gradient": gradient,
        "kernels_ms": profile(step, device) if kernels else {},
    }


def main(words: list[str]) -> None:
    """Measure and report."""
    options = dict(word.split("=") for word in words if "=" in word)
    small, device = options.get("small") == "true", default_device()
    model, jobs = (SMALL, SMALL_JOBS) if small else (MODEL, JOBS)
    model = replace(model, compile_blocks={"true": True, "false": False}.get(options.get("compile", "")))
    chosen = [job for job in jobs if job in words] or list(jobs)
    contenders = [name for name in CONTENDERS if name in words] or list(CONTENDERS)
    rate = matmul_rate(device)
    print(f"matmul {rate / 1e12:.1f} TFLOP/s")
    found: dict[str, Any] = {"matmul_tflops": rate / 1e12, "jobs": {}}
    for name in chosen:
        job, rows = jobs[name], {}
        tokens = WAN21.geometry.num_tokens(job.frames, job.height, job.width)
        for _ in range(int(options.get("rounds", 2))):
            for contender in contenders:
                try:
                    got = measure(
                        "plain" if contender == "plain" else "ours",
                        job,
                        model,
                        POLICIES[options.get("memory", "auto")],
                        "fp8" if contender == "fp8" else "bf16",
                        int(options.get("steps", 4)),
                        device,
                        options.get("profile") == "true",
                    )
                except torch.OutOfMemoryError as error:
                    print(f"{name}, {contender}: out of memory: {str(error).splitlines()[0]}")
                    continue
                row = rows.setdefault(contender, got | {"seconds": []})
                row["seconds"] += got["seconds"]
                print(
                    f"{name}, {contender}: {statistics.median(got['seconds']):.3f} s, {got['peak_gib']:.1f} GiB, {got['policy']}",
                    flush=True,
                )
                for kernel, milliseconds in got["kernels_ms"].items():
                    print(f"  {milliseconds:9.1f} ms  {kernel}", flush=True)
        found["jobs"][name] = summary(rows, step_flops(Shape.of(model, "i2v"), tokens, job.samples), rate)
        for contender, row in found["jobs"][name].items():
            print(name, contender, {key: value for key, value in row.items() if key != "seconds"})
    if not small:
        report("train_step", found)


def summary(rows: dict[str, Any], flops: float, rate: float) -> dict[str, Any]:
    """Medians, spread, ratio to the plain loop, share of the ceiling, and gradients against the plain loop's."""
    reference = rows.get("plain")
    told = {}
    for contender, row in rows.items():
        median = statistics.median(row["seconds"])
        told[contender] = {
            "median_s": median,
            "range_s": [min(row["seconds"]), max(row["seconds"])],
            "first_step_s": row["first"],
            "peak_gib": row["peak_gib"],
            "loaded_gib": row["loaded_gib"],
            "share_of_matmul": flops / median / rate,
            "policy": row["policy"],
            "seconds": row["seconds"],
            "kernels_ms": row["kernels_ms"],
        }
        if reference:
            told[contender]["times_faster"] = statistics.median(reference["seconds"]) / median
            one, other = row["gradient"].double(), reference["gradient"].double()
            told[contender]["cosine"] = float(one @ other / one.norm() / other.norm())
            told[contender]["gradient_off_by"] = float((one - other).norm() / other.norm())
    return told


if __name__ == "__main__":
    main(sys.argv[1:])
