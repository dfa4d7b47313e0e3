"""What a run takes before it runs: which memory policy fits the GPU, and why.

Enters: checked settings and the GPU's memory. Leaves: a ``Policy`` or ``Drawing``, and sentences. It needs neither torch
nor weights.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from cinelora.config.clip_request import ClipRequest
from cinelora.config.lessons import expert_of, lessons_of, taught
from cinelora.config.schema import InferConfig, ModelConfig, PreviewConfig, TrainConfig, zero_level
from cinelora.errors import ConfigError
from cinelora.families import experts_of, family_of
from cinelora.families.family import Expert, Use
from cinelora.io.hub import is_hub_name
from cinelora.parallel.partition import Partition, share_samples
from cinelora.planning import estimate
from cinelora.planning.cards import GPUS, SHOWN, Gpu, gpu_named
from cinelora.planning.estimate import GIB, Drawing, HostCopies, Policy, Prediction, Shape, Step, share_of
from cinelora.planning.parallel_layout import choose_partition, partition_in_words
from cinelora.planning.step_time import NOMINAL, ClipShape, Machine, clip_seconds, step_cost, steps_inside

FULL_SIZE = 5e8
"""Parameters from which training on a CPU is refused: a step would take hours."""


def step_of(config: TrainConfig) -> Step:
    """One micro-batch of a run, as one rank sees it: its part of the tokens."""
    model, lora, stage = config.model, config.lora, config.stage
    plan, zero = share_samples(config), zero_level(config.strategy)
    # a sequence that its ranks cannot split evenly is filled up, so every rank has as many tokens as the first
    tokens = family_of(model).geometry.num_tokens(stage.num_frames, model.height, model.width)
    tokens = -(-tokens // config.strategy.sequence)
    trained = (lora.rank, lora.targets, stage.trains_every_weight, config.ema_decay > 0)
    shared = (plan.sequence, plan.ring, zero, config.gpus * config.nodes if zero else 1, config.strategy.cpu_offload)
    facts = (Shape.of(model, stage.transformer), model.dtype, tokens, stage.batch_size, *trained, *shared)
    return Step(*facts)


def choose_policy(config: TrainConfig, room_gib: float | None, card: Gpu | None = None) -> tuple[Policy, str]:
    """The policy that is asked for, or the fastest that fits ``room_gib`` (None: no GPU), and a line that says why.

    Raises ``ConfigError`` where none fits, with what would on the ``card``, if that is known.
    """
    memory, step = config.memory, step_of(config)
    shape = step.shape
    compile = config.model.compile_blocks
    if compile is None:
        whole = step.seconds(Policy(), GPUS[0]) * config.stage.steps * config.stage.accumulation
        compile = room_gib is not None and shape.pays_to_compile(whole)
    if room_gib is None and shape.parameters > FULL_SIZE:
        seconds = step.seconds(Policy(shape.layers, compile=True), GPUS[0])
        raise ConfigError(
            f"model={config.model.name} has {shape.parameters / 1e9:.1f} billion parameters and there is no GPU here: a step of "
            f"{step.samples} x {step.tokens} tokens wants {step.least(compile=True) / GIB:.1f} GiB of one at the least, and "
            f"takes about {seconds:.1f} s on an {GPUS[0].name}; plan=true says it of others, and model=tiny runs on two cores"
        )
    if room_gib is None or memory.recompute is not None:
        # Without a GPU nothing is saved that nobody asked for. Where ranks share the weights, every block is recomputed all the
        # same: a graph of it would hold the weights that were brought for it.
        least = 1.0 if step.shared else 0.0
        recompute, swap = (share_of(shape.layers, share or 0.0) for share in (memory.recompute or least, memory.swap))
        policy = Policy(recompute, bool(memory.offload), swap, compile)
        return policy, f"memory={memory.name}: {policy.in_words(shape)}"
    room = estimate.usable_bytes(min(room_gib, memory.limit_gib or room_gib))
    chosen = step.fastest(room, compile)
    if chosen is None:
        raise ConfigError(_refusal(step, room, compile, card))
    parts = step.peak(chosen)
    told = ", ".join(f"{name} {size / GIB:.1f}" for name, size in parts.items() if size >= GIB / 20)
    return chosen, (
        f"memory=auto: {chosen.in_words(shape)}, the fastest that fits {room / GIB:.1f} GiB: "
        f"{sum(parts.values()) / GIB:.1f} GiB at the peak ({told})"
    )


def _dtypes(card: Gpu | None) -> tuple[str, ...]:
    return card.dtypes if card else ("bf16", "fp8")


def _refusal(step: Step, room: float, compile: bool, card: Gpu | None) -> str:
    """What does not fit, and the nearest setting that does."""
    ways = []
    if (
        step.dtype != "fp8"
        and "fp8" in _dtypes(card)
        and not step.whole
        and replace(step, dtype="fp8").fastest(room, compile)
    ):
        ways.append("model.dtype=fp8")
    if fit := next(
        (n for n in range(step.samples - 1, 0, -1) if replace(step, samples=n).fastest(room, compile)), None
    ):
        ways.append(f"stage.batch_size={fit} with stage.accumulation")
    return (
        f"a step of {step.samples} x {step.tokens} tokens takes {step.least(compile) / GIB:.1f} GiB at the least, and "
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
    one = clip.on_a_rank(plan)
    swap = None if config.memory.swap is None else share_of(one.shape.layers, config.memory.swap)
    if room_gib is None:
        as_asked = Drawing(one.guided, swap or 0, bool(config.model.compile_blocks))
        return as_asked, one.in_words(as_asked)
    room = estimate.usable_bytes(min(room_gib, config.memory.limit_gib or room_gib))
    # Compiling takes half a minute and saves a tenth of what is drawn afterwards, so all clips together have to be long. Where
    # fp8 was asked for it is compiled in any case, and where several ranks share a clip only if the user says so.
    machine = Machine(gpu_named(gpu) or GPUS[0], config.gpus)
    seconds = clips * config.sampler.steps * step_cost(clip, plan, machine).seconds
    pays = config.gpus * config.nodes == 1 and (config.model.dtype == "fp8" or seconds * COMPILED_SAVES > COMPILING_S)
    compile = pays if config.model.compile_blocks is None else config.model.compile_blocks
    drawing = one.fastest(room, compile, swap)
    if drawing is None:
        size = f"{num_frames} frames of {config.model.height}x{config.model.width}"
        raise ConfigError(f"{size} take {_drawing_refusal(one, room, compile, swap, gpu_named(gpu))}")
    peak = sum(one.peak(drawing).values()) / GIB
    return drawing, f"{one.in_words(drawing)}: {peak:.1f} of {room / GIB:.1f} GiB"


def _drawing_refusal(one: Prediction, room: float, compile: bool, swap: int | None, card: Gpu | None) -> str:
    """What does not fit, and the nearest settings that do."""
    least = sum(one.peak(Drawing(False, one.shape.layers if swap is None else swap, compile)).values()) / GIB
    ways = ["fewer frames", "a smaller size"]
    # one change at a time, and the last that helps is named: fp8 costs less than weights on the host
    for setting, dtype, count in (("memory.swap=null", one.dtype, None), ("model.dtype=fp8", "fp8", swap)):
        changed = replace(one, dtype=dtype, guided=True)
        can = dtype != "fp8" or dtype in _dtypes(card)
        if can and (dtype, count) != (one.dtype, swap) and changed.fastest(room, compile, count):
            ways = [setting]
    return f"{least:.1f} GiB at the least, and {room / GIB:.1f} GiB can be used here: choose {' or '.join(ways)}"


def clip_of(config: InferConfig, kind: str, num_frames: int) -> ClipShape:
    """What the ``t2v`` or ``i2v`` transformer draws."""
    model, guided = config.model, config.sampler.guidance != 1
    shape = Shape.of(model, kind)
    return ClipShape(
        shape, model.num_heads, num_frames, model.height, model.width, guided, model.dtype, model.attention
    )


def partition_of(config: InferConfig) -> tuple[Partition, str]:
    """How ranks share what ``config`` draws, chosen for the clip itself, and a line that says why; raises ``ConfigError``."""
    return choose_partition(clip_of(config, *ClipRequest(config).passes[-1]), config.sampler, config.gpus, config.nodes)


# -- plan= -------------------------------------------------------------------------------------------------------------


def plan_lines(
    config: TrainConfig, gpu: str | None, room_gib: float | None, previews: Sequence[tuple[PreviewConfig, str]] = ()
) -> list[str]:
    """What a training run takes on a GPU (its driver's or the table's name and GiB, or None): a sentence, then details.

    Two experts are taught one after the other, so that memory is that of one and time that of both. ``previews`` are those
    of ``planned_previews`` of each lesson, with the line about them.
    """
    step, lora, stage = step_of(config), config.lora, config.stage
    shape, known, all_steps = step.shape, gpu_named(gpu), sum(lesson.stage.steps for lesson in lessons_of(config))
    adapter = f"adapter {shape.adapter(lora.rank, lora.targets) / 1e6:.2f} million, rank {lora.rank} on {lora.targets}"
    shared = f" ({step.tokens:,} on each of {step.sequence} ranks)" if step.sequence > 1 else ""
    lines = [
        _verdict(gpu, room_gib, shape, lambda: _training_fits(config, step, known, room_gib), _needed(config)),
        f"plan of stage={stage.name} on {config.model.name}, {stage.transformer}: {step.samples} x "
        f"{step.tokens * step.sequence:,} tokens{shared}, {_steps_in_words(config)}",
        f"transformer {shape.parameters / 1e6:,.1f} million parameters; {'all trained' if step.whole else adapter}",
    ]
    if step.zero:
        lines.append(_strategy_line(config, step))
    for lesson, (preview, why) in zip(lessons_of(config), previews, strict=False):
        about = [why] if why else []
        if every := preview.every_steps:
            about.append(_preview_line(replace(lesson, preview=preview), step, known, lesson.stage.steps // every))
        lines += [f"{expert.name}: {line}" if (expert := expert_of(lesson)).name else line for line in about]

    def row(card: Gpu, dtype: str) -> Row | None:
        own = replace(step, dtype=dtype)
        if policy := own.fastest(estimate.usable_bytes(card.gib), compile=True):
            seconds = own.seconds(policy, card) * stage.accumulation
            return own.peak(policy), seconds, seconds * all_steps / 3600, policy.in_words(shape)
        return None

    advice = f"fewer frames, a smaller size or stage.batch_size={max(1, step.samples // 2)}"
    return [*lines, *_cards(gpu, shape, "hours", ["bf16"] if step.whole else _rated(shape), row, advice)]


def _steps_in_words(config: TrainConfig) -> str:
    """The optimizer steps of a run, and which experts they teach, one after the other."""
    steps = {expert_of(lesson).name: f"{lesson.stage.steps:,} steps" for lesson in lessons_of(config)}
    named = ", then ".join(f"{count} of {name}" if name else count for name, count in steps.items())
    each = f" of {config.stage.accumulation}" if "" in steps else f", each of {config.stage.accumulation}"
    return f"{named}{each}{'; one expert is in memory at a time' if len(steps) > 1 else ''}"


def _rated(shape: Shape) -> list[str]:
    """The dtypes whose time and memory are planned."""
    return ["bf16", "fp8"] if Use.FP8 in shape.family.uses else ["bf16"]


Row = tuple[dict[str, float], float, float, str]
"""Of a card: bytes by what they are for, seconds of a step, how long it takes in all, and the way in words."""


def _cards(
    gpu: str | None, shape: Shape, unit: str, dtypes: list[str], row: Callable[[Gpu, str], Row | None], advice: str
) -> list[str]:
    """A table of cards, each by the dtype it is fastest with; of the one that ``plan=`` names all dtypes, and no other.

    ``unit`` is that of a row's total. A small model fits them all, and gets no table.
    """
    if shape.parameters < FULL_SIZE:
        return []
    width = max(map(len, SHOWN))
    heads = f"{'card':{width}}  {'GiB':>4}  {'dtype':5}  {'peak':>5}  {'s/step':>6}  {unit:>6}"
    lines = [f"{heads}  how (seconds: those of H200 and H100 as measured, others estimated by rate and bandwidth)"]
    named = [card for card in GPUS if card.name == gpu]
    for card in named or [card for name in SHOWN for card in GPUS if card.name == name]:
        found = [(dtype, fit) for dtype in card.dtypes if dtype in dtypes and (fit := row(card, dtype))]
        head = f"{card.name:{width}}  {card.gib:>4.0f}"
        if not found:
            lines.append(f"{head}  nothing fits: {advice}")
            continue
        for dtype, (parts, seconds, total, how) in found if named else [min(found, key=lambda one: one[1][1])]:
            peak = sum(parts.values()) / GIB
            lines.append(f"{head}  {dtype:5}  {peak:>5.1f}  {seconds:>6.2f}  {total:>6.1f}  {how}")
    return lines


@dataclass(frozen=True)
class Fit:
    """How something fits a GPU, in words; GiB that wait on the host; and how long it takes, "" where that is not known."""

    how: str
    host_gib: float
    time: str


def _verdict(gpu: str | None, room_gib: float | None, shape: Shape, fits: Callable[[], Fit], needed: str) -> str:
    """Whether it fits, how, how long it takes, and what else the machine must have; ``fits`` may be a refusal."""
    if room_gib is None:
        small = shape.parameters < FULL_SIZE
        where = (
            "No GPU here, and none is needed"
            if small
            else "No GPU here, and this model needs one (plan=rtx4090 plans for one)"
        )
        return f"{where}; {needed}"
    where = f"{gpu}, {room_gib:.0f} GiB"
    try:
        found = fits()
    except ConfigError as error:
        return f"Does not fit {where}: {error}"
    time = found.time or "no seconds, as this card is not in the table (plan=<card> lists it)"
    return f"Fits {where}: {found.how}; {time}; host RAM {found.host_gib:.1f} GiB beside the program's own; {needed}"


def _training_fits(config: TrainConfig, step: Step, card: Gpu | None, room_gib: float | None) -> Fit:
    """How a training run fits. Raises ``ConfigError`` where it does not."""
    _refuse_fp8(config.model.dtype, card)
    policy, why = choose_policy(config, room_gib, card)
    row = step.samples * step.tokens * step.shape.hidden * 2
    inputs = policy.recompute * row if policy.offload else 0
    matrices = step.shape.block_matrices * estimate.WIDTHS[step.dtype]
    host = policy.swap * matrices + inputs
    time = ""
    if step.dtype == "fp32" and not step.whole:
        time = "what fp32 takes in time was never measured"
    elif card:
        seconds = step.seconds(policy, card) * config.stage.accumulation
        hours = seconds * sum(lesson.stage.steps for lesson in lessons_of(config)) / 3600
        time = f"about {seconds:.2f} s a step, {hours:.1f} h ({card.seconds_are})"
    return Fit(f"{step.dtype}, {why}", host / GIB, time)


def _refuse_fp8(dtype: str, card: Gpu | None) -> None:
    if dtype == "fp8" and card and not card.fp8:
        major, minor = card.capability
        raise ConfigError(f"model.dtype=fp8: a card of compute capability {major}.{minor} computes no fp8: choose bf16")


IMAGE_ENCODER = 632_076_800
"""Values in the encoder of first frames."""


def _needed(config: TrainConfig | InferConfig) -> str:
    """What is downloaded, and what lies on the disk."""
    model = config.model
    if isinstance(config, TrainConfig):
        kind = config.stage.transformer
        image = config.stage.image_condition and family_of(model).network(kind).image_tokens > 0
        taking_part = [(kind, expert) for expert in taught(config)]
        adapter = Shape.of(model, kind).adapter(config.lora.rank, config.lora.targets)
        trained = len(taking_part) * (Shape.of(model, kind).parameters if config.stage.trains_every_weight else adapter)
        saved = f", checkpoints {12 * trained * config.checkpoint.keep / 1e9:.1f} GB"
    else:
        kinds, saved = ClipRequest(config).transformers, ""
        taking_part = [(kind, expert) for kind in kinds for expert in experts_of(model, kind)]
        image = any(family_of(model).network(kind).image_tokens for kind in kinds)
    # One checkpoint may be that of all networks; the hub's repositories hold four bytes a value at the most.
    sources = {(model.source(kind, one.name) or "", one.name): kind for kind, one in taking_part}
    values = sum(Shape.of(model, kind).parameters for (source, _), kind in sources.items() if is_hub_name(source))
    if values and model.weights == "stored":
        family = family_of(model)
        values += family.text_parameters + family.vae.parameters + (IMAGE_ENCODER if image else 0)
        return f"download and disk up to {4 * values / 1e9:.0f} GB, less what is in the hub's cache{saved}"
    return f"nothing to download{saved}"


def _strategy_line(config: TrainConfig, step: Step) -> str:
    """What ZeRO leaves of what is sharded on a rank."""
    shape = step.shape
    trained = shape.parameters if step.whole else shape.adapter(step.rank, step.targets)
    shards = {"what AdamW keeps": 12.0 * trained}
    if step.shared and step.whole:
        shards |= {"the weights": 4.0 * trained}
    elif step.shared:
        shards |= {"the frozen matrices": shape.layers * shape.block_matrices * estimate.WIDTHS[step.dtype]}
    parts = [f"{size / step.ranks / GIB:.2f} GiB of {size / GIB:.2f} of {what}" for what, size in shards.items()]
    where = "on the host" if step.parked else "on its GPU"
    return f"strategy={config.strategy.name} over {step.ranks} ranks: each has {' and '.join(parts)} {where}"


def _preview_line(config: TrainConfig, step: Step, gpu: Gpu | None, count: int) -> str:
    """What the previews of a run take, when a step's activations are gone; they run uncompiled."""
    model, frames = config.model, config.preview.frames_of(config.stage)
    tokens = family_of(model).geometry.num_tokens(frames, model.height, model.width)
    one = Prediction(step.shape, tokens, step.dtype)  # one rank draws them, alone
    seconds = 2 * preview_steps(config) * one.seconds(gpu or NOMINAL)
    each = f"{seconds:.0f} s or more each{'' if gpu else f' on an {NOMINAL.name}'}"
    drawing = one.peak(Drawing(together=True))["activations"]
    vae, tiled = _vae_gib(model, frames, model.height)
    return (
        f"previews: {count} of {frames} frames, {each}, {drawing / GIB:.1f} GiB beside the weights, then "
        f"{vae:.1f} GiB for the VAE, or in tiles {tiled:.1f}"
    )


def preview_steps(config: TrainConfig) -> int:
    """Predictions of a preview, each of both halves of guidance.

    One of two experts takes the steps that are its own; the first also predicts, where it would hand over, what becomes of it.
    """
    model, network, (low, high) = config.model, config.stage.transformer, expert_of(config).levels
    shift = config.sampler.shift or model.shift_of(network)
    return steps_inside(config.sampler, config.preview.steps, shift, (low, high)) + (low > 0)


def drawing_lines(
    config: InferConfig, gpu: str | None, room_gib: float | None, copies: HostCopies | None = None
) -> list[str]:
    """What a clip takes on a GPU (as for ``plan_lines``), in a sentence first, then part by part, and on other cards.

    ``copies`` is what its adapters take of the host.
    """
    copies = copies or HostCopies()
    model, sampler, request = config.model, config.sampler, ClipRequest(config)
    shape = clip_of(config, *request.passes[-1]).shape
    vae, tiled = _vae_gib(model, request.num_frames, model.height)
    lines = [
        _verdict(gpu, room_gib, shape, lambda: _clip_fits(config, gpu, room_gib, copies), _needed(config)),
        f"plan of a clip by {model.name}: {request.num_frames} frames of {model.height}x{model.width}, {sampler.steps} steps, "
        f"guidance {request.guidance_in_words}; one network is in memory at a time",
        f"VAE: {vae:.1f} GiB for the clip as a whole; where a GPU has less, in tiles, {tiled:.1f} GiB and twice the time"
        f"{_by_rows(config, request.num_frames)}{'' if family_of(model).vae.is_measured else ' (counted, not measured)'}",
    ]
    for kind, count in request.passes:
        lines += _transformer_lines(config, kind, count, gpu)
    return lines


def expert_steps(config: InferConfig, kind: str, frames: int) -> dict[Expert, int]:
    """The experts of the ``t2v`` or ``i2v`` network in order of falling noise, and how many steps of what it draws each takes."""
    request, model = ClipRequest(config), config.model
    sampler = request.clip_sampler if (kind, frames) == request.passes[-1] else request.keyframe_sampler
    shift = model.sampling_shift if sampler.shift is None else sampler.shift
    experts = experts_of(model, kind)
    return {expert: steps_inside(sampler, sampler.steps, shift, expert.levels) for expert in experts}


def _clip_fits(config: InferConfig, gpu: str | None, room_gib: float | None, copies: HostCopies) -> Fit:
    """How a clip fits, by the transformer that makes it; the keyframe's must fit as well. Raises ``ConfigError``."""
    card, plan = gpu_named(gpu), partition_of(config)[0]
    _refuse_fp8(config.model.dtype, card)
    passes = ClipRequest(config).passes
    chosen = [choose_drawing(config, kind, frames, 1, gpu, room_gib) for kind, frames in passes]
    clips = [clip_of(config, kind, frames) for kind, frames in passes]
    # one transformer is there at a time, the adapters are all the time
    host = copies.own + max(
        drawing.swap * clip.shape.block_matrices * estimate.WIDTHS[clip.dtype] + copies.on(clip.shape.network, drawing)
        for (drawing, _), clip in zip(chosen, clips, strict=True)
    )
    time = ""
    if card:
        machine, steps = Machine(card, config.gpus), config.sampler.steps
        seconds = clip_seconds(clips[-1], steps, plan, machine)
        seconds += sum(steps * step_cost(clip, plan, machine).seconds for clip in clips[:-1])
        time = f"about {seconds / 60:.1f} min a clip ({card.seconds_are})"
    return Fit(f"{config.model.dtype}, {chosen[-1][1]}", host / GIB, time)


def _vae_gib(model: ModelConfig, num_frames: int, height: int) -> tuple[float, float]:
    """GiB that the model's VAE takes for a clip as wide as its own: as a whole, and in tiles."""
    vae = family_of(model).vae
    whole = estimate.vae_bytes(num_frames, height, model.width, vae)
    return whole / GIB, estimate.tiled_vae_bytes(height, model.width, vae) / GIB


def _by_rows(config: InferConfig, frames: int) -> str:
    """What ranks take of the VAE that decode some rows each."""
    ranks, spatial = config.gpus * config.nodes, family_of(config.model).geometry.spatial
    rows = config.model.height // spatial
    if not 1 < ranks <= rows:
        return ""
    share = spatial * -(-rows // ranks)
    return f"; by rows on {ranks} ranks {_vae_gib(config.model, frames, share)[0]:.1f} GiB each"


def _stays(config: InferConfig) -> bool:
    """Whether one transformer makes the keyframe and then the clip."""
    return family_of(config.model).one_checkpoint and len(ClipRequest(config).passes) > 1


def _transformer_lines(config: InferConfig, kind: str, frames: int, gpu: str | None) -> list[str]:
    clip, plan = clip_of(config, kind, frames), partition_of(config)[0]
    one = clip.on_a_rank(plan)
    is_keyframe = frames == 1 and not family_of(config.model).network(kind).shows_first_frame
    what = "keyframe" if is_keyframe else "clip"
    head = f"{what}: {kind}, {one.shape.parameters / 1e6:,.1f} million parameters, {one.tokens:,} tokens a rank"
    if len(steps := expert_steps(config, kind, frames)) > 1:
        named = ", ".join(f"{count} steps of {expert.name}" for expert, count in steps.items())
        head += f"; {named}: one expert is in memory at a time, and the files of the next are read meanwhile where RAM allows"
    elif _stays(config):
        head += (
            "; the same transformer makes keyframe and clip, and is loaded once: the VAE passes the keyframe beside it"
        )

    def row(card: Gpu, dtype: str) -> Row | None:
        own = replace(one, dtype=dtype)
        if drawing := own.fastest(estimate.usable_bytes(card.gib), compile=bool(one.shape.family.uses)):
            seconds = step_cost(replace(clip, dtype=dtype), plan, Machine(card, config.gpus)).seconds
            return own.peak(drawing), seconds, seconds * config.sampler.steps / 60, own.in_words(drawing)
        return None

    return [head, *_cards(gpu, one.shape, "min", _rated(one.shape), row, "fewer frames or a smaller size")]


# -- many GPUs ---------------------------------------------------------------------------------------------------------

COUNTS, PER_NODE = (1, 2, 4, 8, 16, 32, 64), 8
ALONE = Partition(1, 1, 1)


def sharing_lines(config: InferConfig, gpu: str | None) -> list[str]:
    """``plan=cluster``: what is estimated of the partition that is chosen, and of others on 1 to 64 GPUs like the one at hand."""
    known, clip = gpu_named(gpu) or GPUS[0], clip_of(config, *ClipRequest(config).passes[-1])
    ranks, chosen = config.gpus * config.nodes, partition_of(config)[0]
    lines = [
        f"predicted, not measured, on {known.name}s with {known.link.name}, nodes of {PER_NODE} with {known.network.name}; "
        "a clip is from prompt to pixels, its keyframe aside",
        f"{'GPUs':>4}  {'s/step':>7}  {'times':>5}  {'s/clip':>7}  {'times':>5}  {'GB sent':>7}  "
        "partition (times one GPU's; GB a step and rank)",
    ]
    # Others are chosen as they would be if nothing were asked for; the chosen one stands among them as it is, whatever was.
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
