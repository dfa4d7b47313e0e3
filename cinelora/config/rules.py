"""Whether settings make sense by themselves: single values, and values that contradict each other.

Enters: a composed dataclass. Leaves: nothing, or a ``ConfigError`` of one sentence with the value and the way out; and the
lines that say what follows from settings alone. Files, weights and hardware are for ``cli.preflight``.
"""

from __future__ import annotations

import difflib
import itertools
import math
import re
from collections.abc import Callable, Iterator
from typing import Any

from cinelora.clone_only import scale_model
from cinelora.config.clip_request import ClipRequest
from cinelora.config.fields import Field, fields_of, pick
from cinelora.config.metric_names import better, logged, monitors, update_of_block
from cinelora.config.schema import (
    CACHE_THRESHOLDS,
    PARTITIONS,
    SHARING,
    EvaluateConfig,
    InferConfig,
    ModelConfig,
    PrepareConfig,
    StoppingConfig,
    StudyConfig,
    TrainConfig,
    drawn_by,
    effective_lr,
    samples_per_step,
    zero_level,
)
from cinelora.config.shipped import models_with_i2v, trained_shape
from cinelora.errors import ConfigError

# Single values --------------------------------------------------------------------------------------------------------


def check_values(config: Any) -> None:
    """Refuse a value that its declaration does not allow; raises ``ConfigError``."""
    for key, field in fields_of(type(config)).items():
        value = pick(config, key)
        if value is None and not field.optional:
            raise field.refuses("null")
        for one in value if field.is_list else [value]:
            if field.choices and one not in (*field.choices, None):
                raise field.refuses(value)
            if isinstance(one, int | float) and not isinstance(one, bool):
                _check_number(field, one)
            if field.role == "text" and one is not None:
                _check_text(key, one)


def _check_number(field: Field, value: float) -> None:
    if not math.isfinite(value):
        raise field.refuses(value, "a finite number")
    step = field.multiple_of
    bounds = [
        (_is_within(field, value), _range_in_words(field)),
        (not step or value % step == 0, f"a multiple of {step}, such as {_near(value, step or 1)}"),
        (not field.frames or value % 4 == 1, f"4n+1, such as {_near(value - 1, 4) + 1}"),
    ]
    for holds, wants in bounds:
        if not holds:
            raise field.refuses(f"{value:g}", wants)


def _is_within(field: Field, value: float) -> bool:
    at_least, above = (-math.inf if low is None else low for low in (field.at_least, field.above))
    at_most, below = (math.inf if high is None else high for high in (field.at_most, field.below))
    return at_least <= value <= at_most and above < value < below


def _range_in_words(field: Field) -> str:
    """``at least 1``, ``more than 0``, ``from 0 to below 1``, ..."""
    low, high = field.at_least, field.at_most
    if field.above is not None:
        return f"more than {field.above:g}" + (f" and at most {high:g}" if high is not None else "")
    if high is not None or field.below is not None:
        return f"from {low or 0:g} to " + (f"below {field.below:g}" if high is None else f"{high:g}")
    return "at least 1" if low == 1 else f"{low or 0:g} or more"


def _near(value: float, step: int) -> int:
    return max(step, round(value / step) * step)


def _check_text(key: str, text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ConfigError(f"{key} is not UTF-8 text from character {error.start + 1} on: type it anew") from error


# Contradictions -------------------------------------------------------------------------------------------------------


def refuse(config: Any) -> None:
    """Refuse values that their declarations do not allow, and settings that contradict each other.

    A rule yields the sentence of each contradiction that it finds; the first one is what the user reads.

    Raises:
        ConfigError: one sentence with the value and the way out.
    """
    check_values(config)  # first: rules reckon with numbers that are in their bounds
    for rule in _RULES[type(config)]:
        for sentence in rule(config):
            raise ConfigError(sentence)


def _names(config: TrainConfig | EvaluateConfig) -> Iterator[str]:
    for key, name in (("data.name", config.data.name), ("model.name", config.model.name)):
        if not re.fullmatch(r"[\w-][\w.-]*", name):
            yield f"{key}={name!r}: wants one word of letters, digits, . _ and -, as it names a directory"


def _rendered(config: TrainConfig | EvaluateConfig) -> Iterator[str]:
    data = config.data
    if data.look is not None and data.root is not None:
        yield f"data.look={data.look} with data.root={data.root}: footage is rendered or read, not both"


# Training -------------------------------------------------------------------------------------------------------------


def _recipe(config: TrainConfig) -> Iterator[str]:
    recipe = config.recipe
    if recipe.stage is not None and recipe.stage != config.stage.name:
        yield (
            f"recipe={recipe.name} is written for stage={recipe.stage}, not stage={config.stage.name}: "
            f"choose stage={recipe.stage} or leave the recipe away"
        )


def _stage(config: TrainConfig) -> Iterator[str]:
    stage, model = config.stage, config.model
    if stage.transformer == "i2v" and model.i2v is None:
        yield _no_i2v(model, f"stage={stage.name} stage.transformer=i2v" if stage.name == "style" else "")
    if stage.transformer == "t2v" and model.t2v is None:
        yield "model.t2v is empty, and stage.transformer=t2v trains on it: give model.t2v=<checkpoint>"
    if model.hidden_size % model.num_heads:
        yield f"model.hidden_size={model.hidden_size} does not divide into {model.num_heads} heads"
    if stage.trains_every_weight:
        scale_model("pretrain", f"stage={stage.name}").check(config)
    else:
        yield from {"style": _style, "motion": _motion}[stage.name](config)


def _style(config: TrainConfig) -> Iterator[str]:
    stage = config.stage
    if stage.num_frames != 1:
        yield f"stage.num_frames={stage.num_frames}: stage=style learns from stills (1 frame); stage=motion from windows"
    if stage.transformer == "t2v" and stage.image_condition:
        yield "stage.image_condition=true: a t2v transformer takes no image; use stage.transformer=i2v"
    if stage.image_condition and not stage.allow_leak:
        yield (
            "stage.image_condition=true shows the transformer its own answer: with one frame the mask is all ones and "
            "the condition is the clean target; train with stage.image_condition=false, on stage.transformer=t2v, or "
            "say stage.allow_leak=true"
        )
    if config.adapter is not None:
        yield f"adapter={config.adapter} belongs to stage=motion; stage=style starts an adapter of its own"


def _motion(config: TrainConfig) -> Iterator[str]:
    stage = config.stage
    if stage.transformer != "i2v":
        yield "stage.transformer=t2v: stage=motion trains the image-to-video transformer; leave it at i2v"
    if not stage.image_condition:
        yield (
            "stage.image_condition=false: stage=motion is conditioned as the model is used; leave it at true "
            "(dropout.image=<share> drops it now and then)"
        )
    if stage.num_frames == 1:
        yield "stage.num_frames=1: one frame holds no motion; stage=motion wants 5 or more (4n+1), such as 33"


def _no_i2v(model: ModelConfig, where: str) -> str:
    what = where or "stage=motion"
    others = "|".join(name for name in models_with_i2v())
    return f"{model.name} has no image-to-video transformer, which {what} trains: choose model={others}"


def _strategy(config: TrainConfig) -> Iterator[str]:
    ranks, name = config.gpus * config.nodes, config.strategy.name
    if name == "single" and ranks > 1:
        yield f"strategy=single runs one rank, not {ranks}: choose strategy=ddp, or gpus=1 nodes=1"
    if ranks % config.strategy.sequence:
        divisors = [str(count) for count in range(1, ranks + 1) if ranks % count == 0]
        yield (
            f"strategy.sequence={config.strategy.sequence} does not divide {counted(ranks, 'rank')} (gpus x nodes): use one of "
            f"{', '.join(divisors)}, or another number of gpus"
        )
    if config.strategy.cpu_offload and not zero_level(config.strategy):
        yield (
            f"strategy.cpu_offload=true with strategy={name}: what lies on the host there is ZeRO's; choose strategy=zero2, "
            "or memory=swap, which moves frozen weights without it"
        )
    if zero_level(config.strategy) == 3:
        yield from _zero3(config)


def _zero3(config: TrainConfig) -> Iterator[str]:
    """Refuse what does not go with weights of which every rank has a part."""
    memory, stage = config.memory, config.stage
    if memory.swap:
        yield (
            f"memory.swap={memory.swap:g} with strategy=zero3: the weights are shared, each rank's part on the host with "
            "strategy.cpu_offload=true; choose that and memory=offload"
        )
    if memory.recompute is not None and memory.recompute < 1:
        yield (
            f"memory.recompute={memory.recompute:g} with strategy=zero3: a graph would hold the weights that are brought "
            "block by block; choose memory=recompute"
        )
    if config.preview.every_steps or config.validation.clips:
        key = "preview.every_steps" if config.preview.every_steps else "validation.clips"
        yield (
            f"{key}={pick(config, key)} with strategy=zero3: ranks that share the weights cannot draw apart; "
            f"set {key}=0, or choose strategy=zero2"
        )
    if stage.image_condition and config.dropout.image and stage.batch_size > 1:
        yield (
            f"dropout.image={config.dropout.image:g} with strategy=zero3 and stage.batch_size={stage.batch_size}: samples "
            "without their image run apart, and ranks that share the weights must run equally often; choose "
            "stage.batch_size=1 with stage.accumulation, or dropout.image=0"
        )


def _memory(config: TrainConfig) -> Iterator[str]:
    memory = config.memory
    recompute, swap = memory.recompute, memory.swap or 0.0
    if swap > (0.0 if recompute is None else recompute):
        said = "null" if recompute is None else f"{recompute:g}"
        yield (
            f"memory.swap={swap:g} wants as many blocks recomputed, not memory.recompute={said}: "
            f"a graph would hold the weights that are fetched; add memory.recompute={swap:g}"
        )
    if memory.offload and not recompute:
        yield "memory.offload=true is for the inputs of recomputed blocks, and none is asked for: choose memory=offload"


def _push(config: TrainConfig) -> Iterator[str]:
    if config.private and not config.push:
        yield "private=true says how push=owner/name makes its repository, and there is no push=: add it"


def _monitors(config: TrainConfig) -> Iterator[str]:
    """Refuse to wait for a number that is never logged, or of which nobody says whether more or less of it is better."""
    stopping, checkpoint, validation = config.stopping, config.checkpoint, config.validation
    if stopping.monitor is None and stopping != StoppingConfig():
        yield "stopping.* has no effect without a number to look at: add stopping.monitor=heldout/loss"
    if checkpoint.best is None and checkpoint.best_mode is not None:
        yield f"checkpoint.best_mode={checkpoint.best_mode} is for checkpoint.best: add heldout/loss"
    if validation.clips and not validation.every_steps:
        yield "validation.clips are drawn with validation.every_steps, which is 0: give it, or leave them away"
    modes = {"stopping.monitor": "stopping.mode", "checkpoint.best": "checkpoint.best_mode"}
    for key, name in monitors(config):
        if name not in (there := logged(config)):
            near = difflib.get_close_matches(name, there, n=1)
            guess = f", did you mean {near[0]}" if near else ""
            yield f"{key}={name} is not logged by this run{guess}; there are {_listed(there)}"
        if better(name) is None and pick(config, modes[key]) is None:
            yield f"{key}={name}: neither more nor less of it is better in itself; say {modes[key]}=min|max"


def _listed(names: list[str]) -> str:
    """The names, blocks as a range."""
    blocks = [name for name in names if name.startswith(update_of_block(0)[:-2])]
    listed = [name for name in names if name not in blocks[1:-1]]
    return ", ".join(f"... {name}" if name in blocks[1:] else name for name in listed)


# Clips ----------------------------------------------------------------------------------------------------------------


def _request(config: InferConfig | StudyConfig) -> Iterator[str]:
    """No prompt, or two kinds of them; a picture for a transformer that takes none."""
    if (config.prompt is None) == (config.prompts is None):
        found = "neither is" if config.prompt is None else "both are"
        yield f"{found} given: say prompt='what the clip shows', or prompts=<file with one prompt a line>"
    if isinstance(config, InferConfig) and config.image is not None and config.mode == "t2v":
        yield f"image={config.image} with mode=t2v: that transformer takes no image; leave mode or image away"


def _evaluation(config: EvaluateConfig) -> Iterator[str]:
    """An evaluation that has nothing to draw, if it is to draw anything."""
    data = config.data
    if config.report or config.answers:
        return
    if not data.name and (data.root or data.look):
        yield f"data.root={data.root} without data=: add data=folder"
    if not data.name and config.prompts is None:
        yield (
            "neither data= nor prompts= is given: say data=<held-out clips> (their captions are drawn, and they are what is "
            "compared with), or prompts=<file with one prompt a line>"
        )
    if data.name:
        yield from itertools.chain(_names(config), _rendered(config))
    yield from _drawing(drawn_by(config))


def _study(config: StudyConfig) -> Iterator[str]:
    if config.merge:
        if config.out is None:
            yield "merge= puts studies into one: add out=<directory>, where it goes"
        return
    yield from _latency(config) if config.latency_only else _request(config)
    yield from itertools.chain(_axes(config), _drawing(drawn_by(config)))


def _preparation(config: PrepareConfig) -> Iterator[str]:
    data = config.data
    if data.look is not None:
        yield f"data.look={data.look}: rendered footage needs no preparing; train on it as it is"
    if data.manifest is not None:
        yield f"data.manifest={data.manifest} is prepared already; leave it away, or train with it"


def _drawing(config: InferConfig) -> Iterator[str]:
    """What clips cannot be drawn by."""
    yield from itertools.chain(_transformers(config), _cache(config))


def _transformers(config: InferConfig) -> Iterator[str]:
    model, request = config.model, ClipRequest(config)
    if request.is_scene and model.i2v is None:
        others = "|".join(models_with_i2v())
        yield f"{model.name} has no image-to-video transformer, which mode=scene needs: mode=t2v, or model={others}"
    if model.t2v is None and "t2v" in request.transformers:
        yield "model.t2v is empty: give model.t2v=<checkpoint>, or start from image=<file>"


def _cache(config: InferConfig) -> Iterator[str]:
    """Refuse a cache that would do nothing, or what it cannot do."""
    sampler = config.sampler
    threshold, name = sampler.cache_threshold, sampler.cache
    if threshold is not None and name not in CACHE_THRESHOLDS:
        yield (
            f"sampler.cache_threshold={threshold:g} has no effect with sampler.cache={name}: "
            f"choose sampler.cache={'|'.join(CACHE_THRESHOLDS)}, or leave it away"
        )
    if name == "taylorseer" and threshold is not None and threshold % 1:
        yield (
            f"sampler.cache_threshold={threshold:g}: with taylorseer it is the steps foretold after each whole one, "
            "a whole number"
        )
    if (name == "magcache") != bool(sampler.cache_ratios):
        given = "given" if sampler.cache_ratios else "not given"
        yield (
            f"sampler.cache_ratios is {given} and sampler.cache={name}: magcache alone wants the ratios of its model; "
            "draw one clip with sampler.cache=calibrate, which says them"
        )
    if not all(math.isfinite(ratio) and ratio > 0 for ratio in sampler.cache_ratios):
        yield "sampler.cache_ratios: wants numbers above 0, as sampler.cache=calibrate says them"


def _latency(config: StudyConfig) -> Iterator[str]:
    if config.prompt is not None or config.prompts is not None:
        yield "latency_only=true draws its inputs: leave prompt= and prompts= away"
    if config.steps:
        yield f"steps={config.steps}: latency_only=true times latency_steps={config.latency_steps} of any clip"


def _axes(config: StudyConfig) -> Iterator[str]:
    """Refuse lists that have nothing to act on."""
    adapted = config.ckpt is not None or (config.latency_only and config.ranks)
    for key in ("ranks", "scales", "merged"):
        if getattr(config, key) and not adapted:
            way_out = "ckpt=<run>" + (", or ranks=[8] for drawn adapters" if config.latency_only else "")
            yield f"{key}={getattr(config, key)}: there is no adapter to study; add {way_out}"
    if config.sampler.cache != "none":
        yield (
            f"sampler.cache={config.sampler.cache}: the baseline of a study is drawn in full; caches are studied by "
            "first_block=, taylorseer= and magcache="
        )
    ranks = config.gpus * config.nodes
    if ranks == 1 and set(config.partitions) - {"alone"}:
        yield f"partitions={config.partitions}: one rank shares a clip with nobody; add gpus=2 or more"
    given = [f"sampler.{name}" for name in SHARING if getattr(config.sampler, name) not in (None, "auto")]
    if given:
        yield f"{given[0]} has no effect in a study: choose partitions={list(PARTITIONS)}"


_RULES: dict[type, tuple[Callable[[Any], Iterator[str]], ...]] = {
    TrainConfig: (_recipe, _stage, _strategy, _memory, _names, _rendered, _monitors, _push),
    InferConfig: (_request, _drawing),
    EvaluateConfig: (_evaluation,),
    StudyConfig: (_study,),
    PrepareConfig: (_preparation,),
}


# What follows from settings alone -------------------------------------------------------------------------------------


def training_lines(config: TrainConfig) -> list[str]:
    """The recipe, the batch and the rate, each with its reason."""
    return [*_recipe_lines(config), _batch_line(config), _rate_line(config)]


def _batch_line(config: TrainConfig) -> str:
    stage = config.stage
    parts = [f"batch {stage.batch_size}", counted(config.gpus, "GPU")]
    parts += [counted(config.nodes, "node")] if config.nodes > 1 else []
    shared = f" / {config.strategy.sequence} a sequence" if config.strategy.sequence > 1 else ""
    return " x ".join(parts) + f"{shared} x {stage.accumulation} accumulation = {samples_per_step(config)}"


def _rate_line(config: TrainConfig) -> str:
    rate, width = config.optimizer, config.model.hidden_size
    if rate.lr_for_width is None:
        return f"lr {rate.lr:g}, as given"
    return (
        f"lr {rate.lr:g} x {rate.lr_for_width} / {width} = {effective_lr(config):g}: "
        f"the rate found at width {rate.lr_for_width} holds at width {width}"
    )


def _recipe_lines(config: TrainConfig) -> list[str]:
    recipe = config.recipe
    if recipe.name is None:
        return []
    known = [f"  {line}" for line in recipe.known]
    ours = [f"  {line}" for line in recipe.ours]
    return [f"recipe={recipe.name}: the source states", *known, "it does not state, and we chose", *ours]


def reach_lines(key: str, num_frames: int, model: ModelConfig) -> list[str]:
    """A word about clips that are longer or larger than those the model was trained on."""
    made_for = trained_shape(model.name)
    if made_for is None:
        return []
    lines, (frames, height, width) = [], made_for
    if num_frames > frames:
        lines.append(
            f"WARNING: {key}={num_frames} is longer than the {frames} frames {model.name} was trained on: "
            f"expect the end to repeat or fall apart; {key}={frames} is safe"
        )
    if model.height * model.width > height * width:
        lines.append(
            f"WARNING: {model.height}x{model.width} is larger than the {height}x{width} {model.name} was trained on: "
            f"expect things twice or out of shape; model.height={height} model.width={width} is safe"
        )
    return lines


def clip_line(config: InferConfig) -> str:
    """Frames, size and seconds of a clip, and how long a sequence that is."""
    model, frames = config.model, ClipRequest(config).num_frames
    seconds = frames / model.fps
    tokens = tokens_of(model, frames)
    return f"{frames} frames of {model.height}x{model.width} at {model.fps} fps = {seconds:.2f} s, {tokens} tokens"


def tokens_of(model: ModelConfig, num_frames: int) -> int:
    """Sequence length of a clip: latent frames x patches; the VAE takes 8x8x4, a patch 2x2 of that."""
    return ((num_frames - 1) // 4 + 1) * (model.height // 16) * (model.width // 16)


def counted(number: int, what: str) -> str:
    """``1 rank``, ``2 ranks``."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
