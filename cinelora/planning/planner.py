"""What a run takes before it runs: which memory policy fits the GPU, and why.

Enters: checked settings and the GPU's memory. Leaves: a ``Policy`` or ``Drawing``, and sentences. It needs neither torch
nor weights.
"""

from __future__ import annotations

from dataclasses import replace

from cinelora.config.clip_request import ClipRequest
from cinelora.config.schema import InferConfig, TrainConfig, zero_level
from cinelora.errors import ConfigError
from cinelora.geometry import SPATIAL, num_tokens
from cinelora.parallel.partition import Partition, share_samples
from cinelora.planning.estimate import (
    GIB,
    GPUS,
    WIDTHS,
    Drawing,
    Gpu,
    Policy,
    Shape,
    Step,
    described,
    drawing_bytes,
    drawing_seconds,
    fastest,
    fastest_drawing,
    gpu_named,
    least_bytes,
    peak_bytes,
    share_of,
    step_seconds,
    tiled_vae_bytes,
    usable_bytes,
    vae_bytes,
)
from cinelora.planning.parallel_layout import choose_partition, partition_in_words
from cinelora.planning.step_time import ClipShape, Machine, clip_seconds, step_cost, tokens_a_rank

FULL_SIZE = 1e9
"""Parameters from which training on a CPU is refused: a step would take hours."""


def step_of(config: TrainConfig) -> Step:
    """One micro-batch of a run, as one rank sees it: its share of the tokens."""
    model, lora = config.model, config.lora
    tokens = -(-num_tokens(config.stage.num_frames, model.height, model.width) // config.strategy.sequence)
    whole, averaged = config.stage.trains_every_weight, config.ema_decay > 0
    plan, zero = share_samples(config), zero_level(config.strategy)
    shared = {"sequence": plan.sequence, "ring": plan.ring}
    shards = {"zero": zero, "ranks": config.gpus * config.nodes if zero else 1}
    parked, samples = config.strategy.cpu_offload, config.stage.batch_size
    return Step(tokens, samples, lora.rank, lora.targets, whole, averaged, **shared, **shards, parked=parked)


def choose_policy(config: TrainConfig, room_gib: float | None) -> tuple[Policy, str]:
    """The policy that is asked for, or the fastest that fits ``room_gib`` (None: no GPU), and a line that says why.

    Raises ``ConfigError`` where none fits, with what would.
    """
    memory, shape, step = config.memory, Shape.of(config.model, config.stage.transformer), step_of(config)
    compile = config.model.compile_blocks if config.model.compile_blocks is not None else room_gib is not None
    if room_gib is None and shape.parameters > FULL_SIZE:
        needs = least_bytes(shape, step, config.model.dtype, compile=True) / GIB
        speed = "fp8" if config.model.dtype == "fp8" else "bf16"
        seconds = step_seconds(shape, step, speed, Policy(shape.layers, compile=True), GPUS[0])
        raise ConfigError(
            f"model={config.model.name} has {shape.parameters / 1e9:.1f} billion parameters and there is no GPU here: a step of "
            f"{step.samples} x {step.tokens} tokens wants {needs:.1f} GiB of one at the least, and takes about {seconds:.1f} s "
            f"on an {GPUS[0].name}; plan=true says it of others, and model=tiny runs on two cores"
        )
    if room_gib is None or memory.recompute is not None:
        least = 1.0 if step.shared else 0.0
        recompute, swap = (share_of(shape.layers, share or 0.0) for share in (memory.recompute or least, memory.swap))
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
    if config.model.dtype != "fp8" and not step.whole and fastest(shape, step, "fp8", room, compile):
        ways.append("model.dtype=fp8")
    smaller = (replace(step, samples=samples) for samples in range(step.samples - 1, 0, -1))
    if fit := next((s for s in smaller if fastest(shape, s, config.model.dtype, room, compile)), None):
        ways.append(f"stage.batch_size={fit.samples} with stage.accumulation")
    return (
        f"a step of {step.samples} x {step.tokens} tokens takes {needs / GIB:.1f} GiB at the least, and "
        f"{room / GIB:.1f} GiB can be used here: choose {' or '.join(ways) or 'fewer frames or a smaller size'}"
    )


# -- drawing -----------------------------------------------------------------------------------------------------------

COMPILING_S, COMPILED_SAVES = 30.0, 0.1
"""What compiling the blocks takes once, and the share of a bf16 prediction that it saves (H200: 10 to 18 %)."""


def choose_drawing(
    config: InferConfig, kind: str, num_frames: int, clips: int, gpu: str | None, room_gib: float | None
) -> tuple[Drawing, str]:
    """How ``kind`` draws so many clips on the GPU at hand (its driver's name and GiB, or None), and a line that says why.

    Raises ``ConfigError`` where nothing fits, with what would.
    """
    clip, plan = clip_of(config, kind, num_frames), partition_of(config)[0]
    shape, tokens, guided = clip.shape, tokens_a_rank(clip.tokens, plan), clip.predictions(plan) == 2
    swap = None if config.memory.swap is None else share_of(shape.layers, config.memory.swap)
    if room_gib is None:
        as_asked = Drawing(guided, swap or 0, bool(config.model.compile_blocks))
        return as_asked, _drawing_in_words(as_asked, shape, guided)
    room = usable_bytes(min(room_gib, config.memory.limit_gib or room_gib))
    machine = Machine(gpu_named(gpu or "") or GPUS[0], config.gpus)
    seconds = clips * config.sampler.steps * step_cost(clip, plan, machine).seconds
    pays = config.gpus * config.nodes == 1 and (config.model.dtype == "fp8" or seconds * COMPILED_SAVES > COMPILING_S)
    compile = pays if config.model.compile_blocks is None else config.model.compile_blocks
    drawing = fastest_drawing(shape, tokens, guided, config.model.dtype, room, compile, swap)
    if drawing is None:
        size = f"{num_frames} frames of {config.model.height}x{config.model.width}"
        raise ConfigError(f"{size} take {_drawing_refusal(config, shape, tokens, room, compile, swap)}")
    peak = sum(drawing_bytes(shape, tokens, config.model.dtype, drawing).values()) / GIB
    return drawing, f"{_drawing_in_words(drawing, shape, guided)}: {peak:.1f} of {room / GIB:.1f} GiB"


def _drawing_refusal(
    config: InferConfig, shape: Shape, tokens: int, room: float, compile: bool, swap: int | None
) -> str:
    """What does not fit, and the nearest settings that do."""
    dtype, leanest = config.model.dtype, Drawing(False, shape.layers if swap is None else swap, compile)
    least = sum(drawing_bytes(shape, tokens, dtype, leanest).values()) / GIB
    ways = ["fewer frames", "a smaller size"]
    for setting, others in (("memory.swap=null", (dtype, None)), ("model.dtype=fp8", ("fp8", swap))):
        if others != (dtype, swap) and fastest_drawing(shape, tokens, True, others[0], room, compile, others[1]):
            ways = [setting]
    return f"{least:.1f} GiB at the least, and {room / GIB:.1f} GiB can be used here: choose {' or '.join(ways)}"


def clip_of(config: InferConfig, kind: str, num_frames: int) -> ClipShape:
    """What the ``t2v`` or ``i2v`` transformer draws."""
    model, guided = config.model, config.sampler.guidance != 1
    shape = Shape.of(model, kind)
    return ClipShape(shape, model.num_heads, num_frames, model.height, model.width, guided, model.dtype)


def partition_of(config: InferConfig) -> tuple[Partition, str]:
    """How ranks share what ``config`` draws, chosen for the clip itself, and a line that says why; raises ``ConfigError``."""
    return choose_partition(clip_of(config, *ClipRequest(config).passes[-1]), config.sampler, config.gpus, config.nodes)


def _drawing_in_words(drawing: Drawing, shape: Shape, guided: bool) -> str:
    words = ["blocks compiled" if drawing.compile else "blocks not compiled"]
    if guided:
        words.append(f"both halves of guidance {'in one batch' if drawing.together else 'in turn'}")
    if drawing.swap:
        words.append(f"weights of {drawing.swap} of {shape.layers} blocks on the host")
    return ", ".join(words)


# -- plan=true ---------------------------------------------------------------------------------------------------------

CARDS = (16, 24, 48, 80, 141)


def plan_lines(config: TrainConfig, gpu: str | None, room_gib: float | None) -> list[str]:
    """What a training run takes on the GPU at hand (its driver's name and GiB, or None), and on cards of other sizes."""
    shape, step = Shape.of(config.model, config.stage.transformer), step_of(config)
    known = gpu_named(gpu or "") or GPUS[0]
    lora, stage = config.lora, config.stage
    adapter = f"adapter {shape.adapter(lora.rank, lora.targets) / 1e6:.2f} million, rank {lora.rank} on {lora.targets}"
    lines = [
        f"plan of stage={stage.name} on {config.model.name}, {stage.transformer}: {_tokens_of(step)}, "
        f"{stage.steps:,} steps of {stage.accumulation}",
        f"transformer {shape.parameters / 1e6:,.1f} million parameters; {'all trained' if step.whole else adapter}",
    ]
    if step.zero:
        lines.append(_strategy_line(config, shape, step))
    if every := config.preview.every_steps:
        lines.append(_preview_line(config, shape, step, known, stage.steps // every))
    if room_gib is not None:
        lines.append(f"here, {gpu}, {room_gib:.0f} GiB: {_here(config, shape, step, known, room_gib)}")
    else:
        lines.append(_no_gpu(shape))
    lines.append(
        f"{'GiB':>4}  {'dtype':5}  {'peak':>5}  {'s/step':>6}  {'hours':>6}  how (seconds as on {_where(gpu)}, from its rates)"
    )
    for card in CARDS:
        rows = [
            row
            for dtype in (("bf16",) if step.whole else ("bf16", "fp8"))
            if (row := _row(config, shape, step, known, card, dtype))
        ]
        lines += rows or [
            f"{card:>4}  nothing fits: fewer frames, a smaller size or stage.batch_size={max(1, step.samples // 2)}"
        ]
    return lines


def _tokens_of(step: Step) -> str:
    shared = f" ({step.tokens:,} on each of {step.sequence} ranks)" if step.sequence > 1 else ""
    return f"{step.samples} x {step.tokens * step.sequence:,} tokens{shared}"


def _where(gpu: str | None) -> str:
    known = gpu_named(gpu or "")
    return f"this {known.name}" if known else f"an {GPUS[0].name}"


def _no_gpu(shape: Shape) -> str:
    return f"here: no GPU, {'which this takes' if shape.parameters > FULL_SIZE else 'and none is needed'}"


def _strategy_line(config: TrainConfig, shape: Shape, step: Step) -> str:
    """What ZeRO leaves of what is sharded on a rank."""
    trained = shape.parameters if step.whole else shape.adapter(step.rank, step.targets)
    shards = {"what AdamW keeps": 12.0 * trained}
    if step.shared and step.whole:
        shards |= {"the weights": 4.0 * trained}
    elif step.shared:
        shards |= {"the frozen matrices": shape.layers * shape.block_matrices * WIDTHS[config.model.dtype]}
    parts = [f"{size / step.ranks / GIB:.2f} GiB of {size / GIB:.2f} of {what}" for what, size in shards.items()]
    where = "on the host" if step.parked else "on its GPU"
    return f"strategy={config.strategy.name} over {step.ranks} ranks: each has {' and '.join(parts)} {where}"


def _preview_line(config: TrainConfig, shape: Shape, step: Step, gpu: Gpu, count: int) -> str:
    """What the previews of a run take, when a step's activations are gone; they run uncompiled."""
    dtype, frames = "fp8" if config.model.dtype == "fp8" else "bf16", config.stage.num_frames
    tokens = step.tokens * step.sequence  # one rank draws them, alone
    seconds = 2 * config.preview.sampler_steps * drawing_seconds(shape, tokens, dtype, gpu)
    drawing = drawing_bytes(shape, tokens, config.model.dtype, Drawing(together=True))["activations"]
    vae = vae_bytes(frames, config.model.height, config.model.width)
    return (
        f"previews: {count} of {frames} frames, {seconds:.0f} s or more each, {drawing / GIB:.1f} GiB beside the weights, then "
        f"{vae / GIB:.1f} GiB for the VAE, or in tiles {tiled_vae_bytes(config.model.height, config.model.width) / GIB:.1f}"
    )


def _here(config: TrainConfig, shape: Shape, step: Step, gpu: Gpu, room_gib: float) -> str:
    try:
        policy, why = choose_policy(config, room_gib)
    except ConfigError as error:
        return str(error)
    if config.model.dtype == "fp32" and not step.whole:
        return f"{why}; what fp32 takes in time was never measured"
    dtype = "bf16" if step.whole else config.model.dtype
    seconds = step_seconds(shape, step, dtype, policy, gpu) * config.stage.accumulation
    return f"{why}; about {seconds:.2f} s a step, {seconds * config.stage.steps / 3600:.1f} h"


def _row(config: TrainConfig, shape: Shape, step: Step, gpu: Gpu, card: int, dtype: str) -> str | None:
    policy = fastest(shape, step, dtype, usable_bytes(card), compile=True)
    if policy is None:
        return None
    peak = sum(peak_bytes(shape, step, dtype, policy).values()) / GIB
    seconds = step_seconds(shape, step, dtype, policy, gpu) * config.stage.accumulation
    hours = seconds * config.stage.steps / 3600
    return f"{card:>4}  {dtype:5}  {peak:>5.1f}  {seconds:>6.2f}  {hours:>6.1f}  {described(policy, shape)}"


def drawing_lines(config: InferConfig, gpu: str | None, room_gib: float | None) -> list[str]:
    """What a clip takes on the GPU at hand (its driver's name and GiB, or None), part by part, and on other cards."""
    model, sampler, known = config.model, config.sampler, gpu_named(gpu or "") or GPUS[0]
    frames = ClipRequest(config).num_frames
    lines = [
        f"plan of a clip by {model.name}: {frames} frames of {model.height}x{model.width}, {sampler.steps} steps, "
        f"guidance {sampler.guidance:g}; one network is in memory at a time",
        f"VAE: {vae_bytes(frames, model.height, model.width) / GIB:.1f} GiB for the clip as a whole; where a GPU has less, in "
        f"tiles, {tiled_vae_bytes(model.height, model.width) / GIB:.1f} GiB and twice the time{_by_rows(config, frames)}",
    ]
    for kind, count in ClipRequest(config).passes:
        lines += _transformer_lines(config, kind, count, known, gpu, room_gib)
    return [*lines, *sharing_lines(config, gpu)]


def _by_rows(config: InferConfig, frames: int) -> str:
    """What ranks take of the VAE that decode some rows each."""
    ranks, rows = config.gpus * config.nodes, config.model.height // SPATIAL
    if not 1 < ranks <= rows:
        return ""
    share = SPATIAL * -(-rows // ranks)
    return f"; by rows on {ranks} ranks {vae_bytes(frames, share, config.model.width) / GIB:.1f} GiB each"


def _transformer_lines(
    config: InferConfig, kind: str, frames: int, known: Gpu, gpu: str | None, room_gib: float | None
) -> list[str]:
    clip, plan = clip_of(config, kind, frames), partition_of(config)[0]
    tokens, guided = tokens_a_rank(clip.tokens, plan), clip.predictions(plan) == 2
    what = "keyframe" if (kind, frames) == ("t2v", 1) else "clip"
    lines = [f"{what}: {kind}, {clip.shape.parameters / 1e6:,.1f} million parameters, {tokens:,} tokens a rank"]
    try:
        here = choose_drawing(config, kind, frames, 1, gpu, room_gib)[1]
    except ConfigError as error:
        here = str(error)
    lines.append(_no_gpu(clip.shape) if room_gib is None else f"here, {gpu}, {room_gib:.0f} GiB: {here}")
    lines.append(
        f"{'GiB':>4}  {'dtype':5}  {'peak':>5}  {'s/step':>6}  {'min':>6}  how (seconds as on {_where(gpu)}, from its rates)"
    )
    for card in CARDS:
        rows = [
            _drawing_row(config, replace(clip, dtype=dtype), plan, known, card, drawing)
            for dtype in ("bf16", "fp8")
            if (drawing := fastest_drawing(clip.shape, tokens, guided, dtype, usable_bytes(card), True, None))
        ]
        lines += rows or [f"{card:>4}  nothing fits: fewer frames or a smaller size"]
    return lines


def _drawing_row(config: InferConfig, clip: ClipShape, plan: Partition, gpu: Gpu, card: int, drawing: Drawing) -> str:
    peak = sum(drawing_bytes(clip.shape, tokens_a_rank(clip.tokens, plan), clip.dtype, drawing).values()) / GIB
    seconds = step_cost(clip, plan, Machine(gpu, config.gpus)).seconds
    minutes = seconds * config.sampler.steps / 60
    how = _drawing_in_words(drawing, clip.shape, clip.predictions(plan) == 2)
    return f"{card:>4}  {clip.dtype:5}  {peak:>5.1f}  {seconds:>6.2f}  {minutes:>6.1f}  {how}"


# -- many GPUs ---------------------------------------------------------------------------------------------------------

COUNTS, PER_NODE = (1, 2, 4, 8, 16, 32, 64), 8
ALONE = Partition(1, 1, 1)


def sharing_lines(config: InferConfig, gpu: str | None) -> list[str]:
    """What is foretold of the partition that is chosen, and of others on 1 to 64 GPUs like the one at hand."""
    known, clip = gpu_named(gpu or "") or GPUS[0], clip_of(config, *ClipRequest(config).passes[-1])
    ranks, machine, chosen = config.gpus * config.nodes, Machine(known), partition_of(config)[0]
    lines = [
        f"predicted, not measured, on {known.name}s with {machine.link.name}, nodes of {PER_NODE} with {machine.network.name}; "
        "a clip is from prompt to pixels, its keyframe aside",
        f"{'GPUs':>4}  {'s/step':>7}  {'times':>5}  {'s/clip':>7}  {'times':>5}  {'GB sent':>7}  "
        "partition (times one GPU's; GB a step and rank)",
    ]
    free = replace(config.sampler, guidance_mode="auto", ulysses=None, ring=None)
    for count in sorted({*(count for count in COUNTS if count <= clip.tokens), ranks}):
        per_node = config.gpus if count == ranks else min(count, PER_NODE)
        plan = chosen if count == ranks else choose_partition(clip, free, per_node, -(-count // per_node))[0]
        lines.append(_sharing_row(clip, config.sampler.steps, plan, Machine(known, per_node)))
    return lines


def _sharing_row(clip: ClipShape, steps: int, plan: Partition, machine: Machine) -> str:
    cost, seconds = step_cost(clip, plan, machine), clip_seconds(clip, steps, plan, machine)
    faster = step_cost(clip, ALONE, machine).seconds / cost.seconds, clip_seconds(clip, steps, ALONE, machine) / seconds
    return (
        f"{plan.ranks:>4}  {cost.seconds:>7.3f}  {faster[0]:>5.2f}  {seconds:>7.1f}  {faster[1]:>5.2f}  "
        f"{sum(cost.sent.values()) / 1e9:>7.3f}  {partition_in_words(plan, clip.heads)}"
    )
