"""What a run takes before it runs: which memory policy fits the GPU, and why.

Enters: checked settings and the GPU's memory. Leaves: a ``Policy`` and sentences. It needs neither torch nor weights.
"""

from __future__ import annotations

from cinelora.config.schema import TrainConfig
from cinelora.errors import ConfigError
from cinelora.models.footprint import (
    GIB,
    GPUS,
    Gpu,
    Policy,
    Shape,
    Step,
    described,
    fastest,
    gpu_named,
    least_bytes,
    num_tokens,
    peak_bytes,
    share_of,
    step_seconds,
    usable_bytes,
)

FULL_SIZE = 1e9
"""Parameters from which training on a CPU is refused: a step would take hours."""


def step_of(config: TrainConfig) -> Step:
    """One micro-batch of a run."""
    model, lora = config.model, config.lora
    tokens = num_tokens(config.stage.num_frames, model.height, model.width)
    return Step(tokens, config.stage.batch_size, lora.rank, lora.targets)


def choose_policy(config: TrainConfig, room_gib: float | None) -> tuple[Policy, str]:
    """The policy that is asked for, or the fastest that fits ``room_gib`` (None: no GPU), and a line that says why.

    Raises ``ConfigError`` where none fits, with what would.
    """
    memory, shape, step = config.memory, Shape.of(config.model, config.stage.transformer), step_of(config)
    compile = config.model.compile_blocks if config.model.compile_blocks is not None else room_gib is not None
    if room_gib is None and shape.parameters > FULL_SIZE:
        raise ConfigError(
            f"model={config.model.name} has {shape.parameters / 1e9:.1f} billion parameters and there is no GPU here: "
            "full-size models train on one; plan=true says what it takes on which card, and model=tiny runs on two cores"
        )
    if room_gib is None or config.stage.name == "pretrain" or memory.recompute is not None:
        recompute, swap = (share_of(shape.layers, share or 0.0) for share in (memory.recompute, memory.swap))
        policy = Policy(recompute, bool(memory.offload), swap, compile)
        return policy, f"memory={memory.name}: {described(policy, shape)}"
    room = usable_bytes(min(room_gib, memory.limit_gib or room_gib))
    chosen = fastest(shape, step, config.model.dtype, room, compile)
    if chosen is None:
        raise ConfigError(refusal(config, shape, step, room, compile))
    parts = peak_bytes(shape, step, config.model.dtype, chosen)
    told = ", ".join(f"{name} {size / GIB:.1f}" for name, size in parts.items() if size >= GIB / 20)
    return chosen, (
        f"memory=auto: {described(chosen, shape)}, the fastest that fits {room / GIB:.1f} GiB: "
        f"{sum(parts.values()) / GIB:.1f} GiB at the peak ({told})"
    )


def refusal(config: TrainConfig, shape: Shape, step: Step, room: float, compile: bool) -> str:
    """What does not fit, and the nearest setting that does."""
    needs = least_bytes(shape, step, config.model.dtype, compile)
    ways = []
    if config.model.dtype != "fp8" and fastest(shape, step, "fp8", room, compile):
        ways.append("model.dtype=fp8")
    smaller = (Step(step.tokens, samples, step.rank, step.targets) for samples in range(step.samples - 1, 0, -1))
    if fit := next((s for s in smaller if fastest(shape, s, config.model.dtype, room, compile)), None):
        ways.append(f"stage.batch_size={fit.samples} with stage.accumulation")
    return (
        f"a step of {step.samples} x {step.tokens} tokens takes {needs / GIB:.1f} GiB at the least, and "
        f"{room / GIB:.1f} GiB can be used here: choose {' or '.join(ways) or 'fewer frames or a smaller size'}"
    )


# -- plan=true ---------------------------------------------------------------------------------------------------------

CARDS = (16, 24, 48, 80, 141)


def plan_lines(config: TrainConfig, gpu: str | None, room_gib: float | None) -> list[str]:
    """What a training run takes on the GPU at hand (its driver's name and GiB, or None), and on cards of other sizes."""
    shape, step = Shape.of(config.model, config.stage.transformer), step_of(config)
    known = gpu_named(gpu or "") or GPUS[0]
    lora, stage = config.lora, config.stage
    lines = [
        f"plan of stage={stage.name} on {config.model.name}, {stage.transformer}: {step.samples} x {step.tokens:,} tokens, "
        f"{stage.steps:,} steps of {stage.accumulation}",
        f"transformer {shape.parameters / 1e6:,.1f} million parameters; adapter "
        f"{shape.adapter(lora.rank, lora.targets) / 1e6:.2f} million, rank {lora.rank} on {lora.targets}",
    ]
    if room_gib is not None:
        lines.append(f"here, {gpu}, {room_gib:.0f} GiB: {_here(config, shape, step, known, room_gib)}")
    else:
        lines.append(f"here: no GPU, {'which this takes' if shape.parameters > FULL_SIZE else 'and none is needed'}")
    where = f"this {known.name}" if room_gib is not None and gpu_named(gpu or "") else f"an {known.name}"
    lines.append(
        f"{'GiB':>4}  {'dtype':5}  {'peak':>5}  {'s/step':>6}  {'hours':>6}  how (seconds as on {where}, from its rates)"
    )
    for card in CARDS:
        rows = [row for dtype in ("bf16", "fp8") if (row := _row(config, shape, step, known, card, dtype))]
        lines += rows or [
            f"{card:>4}  nothing fits: fewer frames, a smaller size or stage.batch_size={max(1, step.samples // 2)}"
        ]
    return lines


def _here(config: TrainConfig, shape: Shape, step: Step, gpu: Gpu, room_gib: float) -> str:
    try:
        policy, why = choose_policy(config, room_gib)
    except ConfigError as error:
        return str(error)
    if config.model.dtype == "fp32":
        return f"{why}; what fp32 takes in time was never measured"
    seconds = step_seconds(shape, step, config.model.dtype, policy, gpu) * config.stage.accumulation
    return f"{why}; about {seconds:.2f} s a step, {seconds * config.stage.steps / 3600:.1f} h"


def _row(config: TrainConfig, shape: Shape, step: Step, gpu: Gpu, card: int, dtype: str) -> str | None:
    policy = fastest(shape, step, dtype, usable_bytes(card), compile=True)
    if policy is None:
        return None
    peak = sum(peak_bytes(shape, step, dtype, policy).values()) / GIB
    seconds = step_seconds(shape, step, dtype, policy, gpu) * config.stage.accumulation
    hours = seconds * config.stage.steps / 3600
    return f"{card:>4}  {dtype:5}  {peak:>5.1f}  {seconds:>6.2f}  {hours:>6.1f}  {described(policy, shape)}"
