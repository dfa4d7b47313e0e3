"""Attention in int8 on a GPU: how far off it is, how fast, and what it does to clips of the embedded model.

    python benchmarks/int8_attention.py [right] [speed] [steps] [clips]

``right``: both kernels against attention in double precision, for lengths around their tiles, strange values and layouts; ends
with an error if one is further off than 8 bits explain. ``speed``: against torch's exact attention in the same process, 40
heads of 128, on values that attend as video does and on random ones. ``steps``: the 14 B shape's velocity step by step, from
equal latents and along its own course, random weights. ``clips``: the embedded model's clips with exact attention and with the
same arithmetic in torch, from equal noise; on any machine. Results are in benchmarks/results/int8_attention.json.
"""

from __future__ import annotations

import json
import math
import statistics
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import torch
from common import RESULTS, ROOT
from denoise import JOBS, predictor
from scale_model import mean, rounded, scenes
from scale_tools.readers import likeness, motion
from scale_tools.studio import FRAMES, Studio, caption
from torch import Tensor
from train_step import MODEL

from cinelora.config.schema import SamplerConfig
from cinelora.families.wan.conditions import Condition
from cinelora.io.hardware import default_device, hardware
from cinelora.nn.flow_matching import FlowMatching
from cinelora.nn.int8_attention import (
    Guard,
    RoundingKernel,
    distance,
    emulated,
    exact,
    guard_of,
    kernel_on,
    round_attention,
)
from cinelora.sampling.denoise import Course, Guided

HEADS, WIDTH, CLIPS = 40, 128, 4
GRIDS = {"33 frames 480p": (9, 30, 52), "81 frames 480p": (21, 30, 52), "81 frames 720p": (21, 45, 80)}


def in_double(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """Attention and its log-sum-exp in float64, head by head."""
    seen, weight = (
        torch.empty(query.shape, device=query.device),
        torch.empty(query.shape[0], query.shape[2], query.shape[1]),
    )
    for b in range(query.shape[0]):
        for h in range(query.shape[2]):
            q, k, v = (x[b, :, h].double() for x in (query, key, value))
            scores = q @ k.T * WIDTH**-0.5
            seen[b, :, h], weight[b, h] = (scores.softmax(-1) @ v).float(), scores.logsumexp(-1).float().cpu()
    return seen, weight.to(query.device)


def rope(x: Tensor, grid: tuple[int, ...]) -> Tensor:
    """Rotary embedding over time, height and width, as Wan's transformers have it."""
    places = torch.stack(torch.meshgrid(*[torch.arange(n, device=x.device) for n in grid], indexing="ij"), -1)
    angles = [
        places.reshape(-1, 3).float()[:, i : i + 1] * 1e4 ** (-torch.arange(0, d, 2, device=x.device) / d)
        for i, d in enumerate((44, 42, 42))
    ]
    turn = torch.polar(torch.ones_like(a := torch.cat(angles, 1)), a)[None, :, None]
    return torch.view_as_real(torch.view_as_complex(x.float().unflatten(-1, (-1, 2))) * turn).flatten(-2).to(x.dtype)


def like_video(grid: tuple[int, ...], heads: int, device: torch.device, seed: int = 0) -> list[Tensor]:
    """Queries and keys that share a field which is smooth in time and space; a few channels of K are far from zero."""
    generator = torch.Generator(device).manual_seed(seed)

    def draw(*size: int) -> Tensor:
        return torch.randn(*size, generator=generator, device=device)

    places = torch.stack(torch.meshgrid(*[torch.linspace(0, 1, n, device=device) for n in grid], indexing="ij"), -1)
    tensors = [torch.empty(1, math.prod(grid), heads, WIDTH, device=device, dtype=torch.bfloat16) for _ in range(3)]
    for h in range(heads):
        waves = draw(3, WIDTH) * torch.tensor([6.0, 10.0, 10.0], device=device)[:, None]
        field = math.sqrt(2) * torch.cos(places.reshape(-1, 3) @ waves + 6.28 * draw(WIDTH))
        shared, gain = 0.55 + 0.25 * abs(math.sin(h)), torch.exp(0.3 * draw(WIDTH))
        far = (torch.rand(WIDTH, generator=generator, device=device) < 5 / WIDTH) * draw(WIDTH).sign() * 8
        own = (1 - shared**2) ** 0.5
        for x, offset in zip(tensors, (far.abs().sign() * 1.5 * draw(WIDTH), far), strict=False):
            x[0, :, h] = ((shared * field + own * draw(len(field), WIDTH)) * gain + offset).bfloat16()
        tensors[2][0, :, h] = (
            (0.5 * field + draw(len(field), WIDTH)) * torch.exp(0.5 * draw(WIDTH)) + 0.5 * draw(WIDTH)
        ).bfloat16()
    return [rope(tensors[0], grid), rope(tensors[1], grid), tensors[2]]


def right(device: torch.device) -> dict[str, Any]:
    """Both kernels against double precision and against the same arithmetic in torch."""
    kernels = {"Triton": RoundingKernel(device, False)}
    if torch.cuda.get_device_capability(device) == (9, 0):
        kernels["Hopper"] = RoundingKernel(device, True)
    found: dict[str, Any] = {"trial takes": "Hopper" if kernel_on(device).on_hopper else "Triton"}

    def random(batch: int, tokens: int, heads: int) -> Tensor:
        return torch.randn(batch, tokens, heads, WIDTH, device=device).bfloat16()

    for name, kernel in kernels.items():
        rows = {}
        for q_n, k_n, heads in (
            (1, 1, 40),
            (5, 5, 3),
            (17, 17, 5),
            (127, 127, 12),
            (128, 128, 2),
            (129, 129, 12),
            (300, 77, 3),
            (64, 1560, 4),
            (1560, 1560, 40),
            (4001, 4001, 7),
        ):
            query, key, value = random(2, q_n, heads), random(2, k_n, heads), random(2, k_n, heads)
            seen, weight = kernel(query, key, value, True)
            expected, expected_weight = in_double(query, key, value)
            near, _ = emulated(query, key, value)
            off, allowed = distance(seen, expected), distance(near, expected)
            rows[f"{q_n} x {k_n}, {heads} heads"] = [off, allowed, float((weight - expected_weight).abs().max())]
            assert torch.equal(seen, kernel(query, key, value)[0]), "the same twice differs"
            assert off < 1.3 * allowed + 2**-8, (name, q_n, k_n, off, allowed)
            assert rows[f"{q_n} x {k_n}, {heads} heads"][2] < 2**-4, (name, q_n, k_n, "weights")
        # layouts: a view of one tensor that holds all three, heads before tokens
        packed = random(1, 500, 3 * 4)
        views = packed.unflatten(2, (3, 4)).unbind(2)
        assert distance(kernel(*views)[0], kernel(*(v.contiguous() for v in views))[0]) == 0
        assert (
            distance(kernel(*(v.transpose(1, 2).contiguous().transpose(1, 2) for v in views))[0], kernel(*views)[0])
            == 0
        )
        # values: nothing, next to nothing, outliers, and not a number
        zeros = torch.zeros_like(query)
        assert bool(kernel(zeros, key, value)[0].isfinite().all())
        assert bool(kernel(query, zeros, zeros)[0].isfinite().all())
        assert bool(kernel(query * 1e-6, key * 1e-6, value * 1e-6)[0].isfinite().all())
        wild = value.clone()
        wild[:, 7] *= 1000
        rows["a value of a thousand"] = distance(kernel(query, key, wild)[0], in_double(query, key, wild)[0])
        for which in range(3):
            broken = [query.clone(), key.clone(), value.clone()]
            broken[which][0, 70, 1, 3] = torch.nan
            told = kernel(*broken)[0][0, :, 1]
            assert bool(told.isnan().any()), (name, which, "not a number is passed over in silence")
        found[name] = rows
        print(name, json.dumps(rows), flush=True)
    return found


def milliseconds(call: Any, times: int = 7) -> list[float]:
    """Milliseconds on the GPU of each of ``times`` calls, after two that are not counted."""
    for _ in range(2):
        call()
    taken = []
    for _ in range(times):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        call()
        end.record()
        end.synchronize()
        taken.append(begin.elapsed_time(end))
    return taken


def speed(device: torch.device) -> dict[str, Any]:
    """Milliseconds, and distance from torch's own attention in bf16."""
    found: dict[str, Any] = {}
    names = {"exact": lambda *t: exact(*t)[0]}
    names |= {"int8, Triton": lambda *t: RoundingKernel(device, False)(*t)[0]}
    if torch.cuda.get_device_capability(device) == (9, 0):
        names |= {"int8, Hopper": lambda *t: RoundingKernel(device, True)(*t)[0]}
    for name, grid in GRIDS.items():
        tensors = like_video(grid, HEADS, device)
        expected, tokens, row = exact(*tensors)[0], math.prod(grid), {}
        for which, call in names.items():
            before = torch.cuda.memory_allocated()
            torch.cuda.reset_peak_memory_stats()
            off, peak = distance(call(*tensors), expected), torch.cuda.max_memory_allocated() - before
            taken = milliseconds(partial(call, *tensors))
            middle = statistics.median(taken)
            row[which] = {
                "ms": middle,
                "range_ms": [min(taken), max(taken)],
                "tflops": 4 * tokens**2 * HEADS * WIDTH / middle / 1e9,
                "off": off,
                "peak_gib": peak / 2**30,
            }
        noise = [torch.randn_like(tensors[0]) for _ in range(3)]
        row["int8 on random values, off"] = distance(kernel_on(device)(*noise)[0], exact(*noise)[0])
        found[name] = {"tokens": tokens, **row}
        print(name, json.dumps(found[name]), flush=True)
    return found


def steps(device: torch.device) -> dict[str, Any]:
    """How far int8 puts the 14 B shape's velocity off in each of ten Euler steps, and its own course off the exact one.

    33 frames of 480p, fp8 weights, not guided. One transformer predicts all: its guard says when it rounds.
    """
    built = predictor("int8", JOBS["480p33"], MODEL, device)
    assert built.guard is not None
    solver = FlowMatching.solver(SamplerConfig(name="euler", steps=10), 3.0)
    times, sigmas = [float(time) for time in solver.timesteps], [float(sigma) for sigma in solver.sigmas]

    def velocity(latents: Tensor, time: float, is_exact: bool) -> Tensor:
        assert built.guard is not None
        built.guard.exact_now = is_exact
        return built.velocity(latents, time)

    exactly, rounded, rows = built.latents, built.latents, []
    for time, now, then in zip(times, sigmas, sigmas[1:], strict=False):
        expected = velocity(exactly, time, True)
        off = distance(velocity(exactly, time, False), expected)
        rounded = rounded + (then - now) * velocity(rounded, time, False)
        exactly = exactly + (then - now) * expected
        rows.append({"time": time, "velocity_off": off, "latents_off": distance(rounded, exactly)})
        print(rows[-1], flush=True)
    again = distance(velocity(exactly, times[-1], True), velocity(exactly, times[-1], True))
    return {"steps": rows, "exact_twice": again, **rounded_facts(built.guard)}


def rounded_facts(guard: Guard) -> dict[str, Any]:
    """The errors of layers that the guard found."""
    return {"errors of layers": guard.facts["errors"]}


def clips(_: torch.device) -> dict[str, Any]:
    """The embedded model's clips from text: exact attention against the arithmetic of int8, in all steps and in all but the ends.

    Its heads have 48 channels, which no kernel is made for; the arithmetic in torch fills them up with zeros.
    """
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as cache:
        studio = Studio(Path(cache), {"cpu": {}, "cuda": {}}, RESULTS / "int8_attention", steps=20, guidance=5.0)
        chosen = scenes(CLIPS, 300)
        asked = [caption(scene) for scene in chosen]
        transformer = studio.transformer("t2v", {})
        whole = drawn(studio, transformer, asked, None, 0)
        rows = [("exact", whole[0])]
        guard = round_attention(transformer, emulated, keeps=False)
        for name, ends in (("int8 in every step", 0), ("int8 but in the first and the last step", 1)):
            clip = drawn(studio, transformer, asked, guard, ends)
            rows.append((name, clip[0]))
            pairs = list(zip(clip, whole, strict=True))
            found[name] = {
                "psnr_db": [psnr(ours, theirs) for ours, theirs in pairs],
                "ssim": mean(likeness(a, b) for ours, theirs in pairs for a, b in zip(ours, theirs, strict=True)),
                "motion_over_exact": mean(map(motion, clip)) / mean(map(motion, whole)),
            }
        again = drawn(studio, transformer, asked, None, 0, seeds=list(range(50, 50 + CLIPS)))
        found["another seed, exact"] = {"psnr_db": [psnr(a, b) for a, b in zip(again, whole, strict=True)]}
        found["errors of layers"] = guard.facts["errors"]
        studio.sheet("clips", rows)
    print(json.dumps(found), flush=True)
    return {"clips": CLIPS, "steps": 20, **rounded(found)}


def drawn(
    studio: Studio, transformer: Any, asked: list[str], guard: Guard | None, ends: int, seeds: list[int] | None = None
) -> Tensor:
    """Clips (N, T, H, W, 3) uint8. Attention is exact without ``guard``; with it, in the first and last ``ends`` steps."""
    videos = []
    if there := guard_of(transformer):
        there.exact_now = guard is None
    for number, prompt in enumerate(asked):
        noise = studio.noise([seeds[number] if seeds else number], FRAMES)
        denoise = Guided(transformer, *(Condition(studio.texts([text])) for text in (prompt, "")), studio.guidance)
        course = Course(noise, FlowMatching.solver(SamplerConfig(steps=studio.steps), studio.shift))
        while left := course.ahead():
            if guard:
                guard.exact_now = course.done < ends or left <= ends
            course.go(denoise, 1)
        videos.append(studio.pixels(course.latents_BCTHW)[0])
    return torch.stack(videos)


def psnr(ours: Tensor, theirs: Tensor) -> float:
    """Of two clips in 255 levels, in dB."""
    return float(20 * math.log10(255) - 10 * (ours.float() - theirs.float()).square().mean().clamp_min(1e-9).log10())


def main(words: list[str]) -> None:
    """Measure and report; results of parts that are not asked for stay."""
    path = RESULTS / "int8_attention.json"
    kept = json.loads(path.read_text()) if path.exists() else {}
    found = {name: kept[name] for name in ("right", "speed", "steps", "clips") if name in kept}
    for name in words or ["right", "speed"]:
        parts = {"right": right, "speed": speed, "steps": steps, "clips": clips}
        found[name] = parts[name](default_device()) | {"measured_on": hardware()}
    path.write_text(json.dumps(found, indent=1) + "\n")
    print(f"results in {path.relative_to(ROOT)}")


if __name__ == "__main__":
    torch.backends.cuda.matmul.allow_tf32 = False
    with torch.no_grad():
        main(sys.argv[1:])
