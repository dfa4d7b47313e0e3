"""Whether settings make sense by themselves: single values, and values that contradict each other.

Enters: a composed dataclass. Leaves: nothing, or a ``ConfigError`` of one sentence with the value and the way out; and the
lines that say what follows from settings alone. Files, weights and hardware are for ``cli.preflight``.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

from cinelora.clone_only import scale_model
from cinelora.config import schema
from cinelora.config.clip_request import ClipRequest
from cinelora.config.fields import Field, fields_of, pick
from cinelora.config.lessons import SHORT, taught
from cinelora.config.metric_names import better, logged, update_of_block
from cinelora.config.sentences import sentence
from cinelora.config.shipped import models_with_i2v, trained_shape
from cinelora.errors import ConfigError
from cinelora.families import experts_of, family_of, has_experts
from cinelora.families.family import Expert, Geometry, Use

# Single values --------------------------------------------------------------------------------------------------------


def check_values(config: Any) -> None:
    """Refuse a value that its declaration does not allow; raises ``ConfigError``."""
    # a command without a model of its own makes footage for the one that there is by default
    geometry = family_of(getattr(config, "model", schema.ModelConfig())).geometry
    for key, field in fields_of(type(config)).items():
        value = pick(config, key)
        if value is None and not field.optional:
            raise field.refuses("null")
        for one in value if field.is_list else [value]:
            if field.choices and one not in (*field.choices, None):
                raise field.refuses(value)
            if isinstance(one, int | float) and not isinstance(one, bool):
                _check_number(field, one, geometry)
            if field.role == "text" and one is not None:
                _check_text(key, one)


def _check_number(field: Field, value: float, geometry: Geometry) -> None:
    if not math.isfinite(value):
        raise field.refuses(value, "a finite number")
    # from the widest bound to the narrowest, so that the way out of one does not run into the next
    step, temporal = (geometry.cell if field.is_side else field.multiple_of), geometry.temporal
    bounds = [
        (_is_within(field, value), _range_in_words(field)),
        (not step or value % step == 0, f"a multiple of {step}, such as {_near(value, step or 1)}"),
        (
            not field.frames or geometry.fills_latent_frames(value),
            f"{temporal}n+1, such as {_near(value - 1, temporal) + 1}",
        ),
    ]
    for holds, wants in bounds:
        if not holds:
            raise field.refuses(f"{value:g}", wants)


def _is_within(field: Field, value: float) -> bool:
    # a bound that is not declared is one that every number keeps
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
        raise ConfigError(f"{key} is not UTF-8 text from character {error.start + 1} on: type it again") from error


# Contradictions -------------------------------------------------------------------------------------------------------

MOST_FEW_STEPS = 8
"""More steps than any step-distilled adapter is published for."""
T = TypeVar("T")
Rules = tuple[tuple[str, Callable[[T], object]], ...]
"""Names of sentences, each with what holds where settings contradict each other in this way."""
_SHARING = tuple(f"sampler.{name}" for name in schema.SHARING)
_ONE_WORD = re.compile(r"[\w-][\w.-]*")

# A rule is a line: the name of its sentence in sentences.yaml, and a test of the settings. Whatever the test finds that is
# true refuses them; a dict of words fills blanks of the sentence that settings alone do not. A user reads the first sentence
# only, so that the order of lines counts: a rule may rest on what those above it refuse.

_NAMES: Rules[schema.TrainConfig | schema.EvaluateConfig | schema.StudyConfig] = (
    ("name", lambda c: _first(c, "data.name", "model.name", where=lambda name: not _ONE_WORD.fullmatch(name))),
    ("look_and_root", lambda c: c.data.look is not None and c.data.root is not None),
)
_TRAINING: Rules[schema.TrainConfig] = (
    ("recipe", lambda c: c.recipe.stage not in (None, c.stage.name)),
    # what is learnt
    ("network", lambda c: _other_network(c.model, c.stage.transformer)),
    ("style_without_i2v", lambda c: c.stage.name == "style" and _lacks(c, "i2v")),
    ("motion_without_i2v", lambda c: c.stage.name != "style" and _lacks(c, "i2v")),
    ("training_without_t2v", lambda c: _lacks(c, "t2v")),
    ("no_base", lambda c: _nowhere(c.model, [c.stage.transformer])),
    ("lost_expert", lambda c: _lost_expert(c.model, {c.stage.transformer: taught(c)}, ", or stage.expert={there}")),
    ("heads", lambda c: c.model.hidden_size % c.model.num_heads),
    ("style_windows", lambda c: c.stage.name == "style" and c.stage.num_frames != 1),
    ("style_image", lambda c: c.stage.name == "style" and c.stage.transformer == "t2v" and c.stage.image_condition),
    ("no_image", lambda c: not family_of(c.model).expands and c.stage.image_condition),
    ("style_network", lambda c: c.stage.name == "style" and _is_of_clips_alone(c)),
    (
        "style_on_image_experts",
        lambda c: c.stage.name == "style" and c.stage.transformer == "i2v" and has_experts(c.model),
    ),
    ("style_all_given", lambda c: c.stage.name == "style" and c.stage.image_condition and _shows_latents(c.model)),
    ("style_leak", lambda c: c.stage.name == "style" and c.stage.image_condition and not c.stage.allow_leak),
    ("style_adapter", lambda c: c.stage.name == "style" and c.adapter is not None),
    ("motion_t2v", lambda c: c.stage.name == "motion" and _teaches_stills(c)),
    (
        "motion_unconditioned",
        lambda c: c.stage.name == "motion" and not c.stage.image_condition and family_of(c.model).expands,
    ),
    ("motion_stills", lambda c: c.stage.name == "motion" and c.stage.num_frames == 1 and _shortest(c.model)),
    ("too_long", lambda c: _beyond_longest(c)),
    ("int8_training", lambda c: c.model.attention == schema.INT8),
)
_RANKS_AND_MEMORY: Rules[schema.TrainConfig] = (
    ("single", lambda c: c.strategy.name == "single" and c.gpus * c.nodes > 1),
    ("sequence", lambda c: _undivided(c)),
    ("cpu_offload", lambda c: c.strategy.cpu_offload and not schema.zero_level(c.strategy)),
    # zero3: every rank has a part of the weights, and all of them meet at each block to bring it together. A rank that goes
    # another way for a while, to draw a clip or to run some samples apart, would be waited for without end.
    ("zero3_swap", lambda c: c.strategy.name == "zero3" and c.memory.swap),
    ("zero3_recompute", lambda c: c.strategy.name == "zero3" and c.memory.recompute not in (None, 1)),
    ("zero3_clips", lambda c: c.strategy.name == "zero3" and _first(c, "preview.every_steps", "validation.clips")),
    (
        "zero3_dropout",
        lambda c: c.strategy.name == "zero3" and c.stage.image_condition and c.dropout.image and c.stage.batch_size > 1,
    ),
    ("unused", lambda c: _unusable(c)),
    # memory: a block that is not recomputed keeps its weights in the graph, so that swapping them would free nothing
    ("swap", lambda c: (c.memory.swap or 0) > (c.memory.recompute or 0)),
    ("offload", lambda c: c.memory.offload and not c.memory.recompute),
)
_WATCHED: Rules[schema.TrainConfig] = (
    ("stopping", lambda c: c.stopping.monitor is None and c.stopping != schema.StoppingConfig()),
    ("best_mode", lambda c: c.checkpoint.best is None and c.checkpoint.best_mode is not None),
    ("preview_frames", lambda c: c.preview.frames_of(c.stage) > c.stage.num_frames),
    ("validation_clips", lambda c: c.validation.clips and not c.validation.every_steps),
    # a run must not wait for a number that is never logged, or of which nobody says whether more or less of it is better
    ("unlogged", lambda c: _unlogged(c, "stopping.monitor")),
    ("undirected", lambda c: _undirected(c, "stopping.monitor", "stopping.mode")),
    ("unlogged", lambda c: _unlogged(c, "checkpoint.best")),
    ("undirected", lambda c: _undirected(c, "checkpoint.best", "checkpoint.best_mode")),
    ("private", lambda c: c.private and not c.push),
)
_REQUEST: Rules[schema.InferConfig | schema.StudyConfig] = (
    ("no_prompt", lambda c: c.prompt is None and c.prompts is None),
    ("two_prompts", lambda c: c.prompt is not None and c.prompts is not None),
    (
        "image_nowhere",
        lambda c: (
            isinstance(c, schema.InferConfig) and c.image is not None and not c.model.expands and _ways_to_expand(c)
        ),
    ),
    ("image", lambda c: isinstance(c, schema.InferConfig) and c.image is not None and c.mode == "t2v"),
)
_DRAWING: Rules[schema.InferConfig] = (
    ("no_scene", lambda c: ClipRequest(c).is_scene and not c.model.expands and _ways_to_expand(c)),
    ("scene_without_i2v", lambda c: ClipRequest(c).is_scene and _is_missing(c.model, family_of(c.model).clips.name)),
    ("clip_without_t2v", lambda c: "t2v" in ClipRequest(c).transformers and _is_missing(c.model, "t2v")),
    ("lost_expert", lambda c: _lost_expert(c.model, {n: experts_of(c.model, n) for n in ClipRequest(c).transformers})),
    ("no_base", lambda c: _nowhere(c.model, ClipRequest(c).transformers)),
    ("unused", lambda c: _unusable(c)),
    ("int8_model", lambda c: _not_for_int8(c.model)),
    # a cache that would do nothing, or what it cannot do
    ("threshold", lambda c: c.sampler.cache_threshold is not None and c.sampler.cache not in schema.CACHE_THRESHOLDS),
    ("whole_threshold", lambda c: c.sampler.cache == "taylorseer" and (c.sampler.cache_threshold or 0) % 1),
    ("no_ratios", lambda c: c.sampler.cache == "magcache" and not c.sampler.cache_ratios),
    ("needless_ratios", lambda c: c.sampler.cache != "magcache" and c.sampler.cache_ratios),
    ("ratios", lambda c: not all(math.isfinite(ratio) and ratio > 0 for ratio in c.sampler.cache_ratios)),
)
_FOOTAGE: Rules[schema.EvaluateConfig | schema.StudyConfig] = (
    ("root_without_data", lambda c: not c.data.name and (c.data.root or c.data.look)),
)
_EVALUATION: Rules[schema.EvaluateConfig] = (("nothing_to_draw", lambda c: not c.data.name and c.prompts is None),)
_MERGING: Rules[schema.StudyConfig] = (("merge", lambda c: c.out is None),)
_LATENCY: Rules[schema.StudyConfig] = (
    ("latency_prompt", lambda c: c.prompt is not None or c.prompts is not None),
    ("latency_steps", lambda c: _first(c, "steps", "distilled")),
)
_AXES: Rules[schema.StudyConfig] = (
    # lists that have nothing to act on; with latency_only, ``ranks`` makes adapters out of random values
    ("no_adapter", lambda c: c.ckpt is None and not c.latency_only and _first(c, *_of_adapters(c))),
    ("no_adapter_timed", lambda c: c.ckpt is None and c.latency_only and not c.ranks and _first(c, *_of_adapters(c))),
    ("drawn_only", lambda c: c.ckpt is None and c.only),
    ("no_distilled", lambda c: c.distilled and not c.adapters),
    ("study_cache", lambda c: c.sampler.cache != "none"),
    ("one_rank", lambda c: c.gpus * c.nodes == 1 and {*c.partitions} - {"alone"}),
    ("sharing", lambda c: _first(c, *_SHARING, where=lambda value: value not in (None, "auto"))),
)
_PREPARATION: Rules[schema.PrepareConfig] = (
    ("rendered", lambda c: c.data.look is not None),
    ("prepared", lambda c: c.data.manifest is not None),
)


def refuse(config: Any) -> None:
    """Refuse values that their declarations do not allow, and settings that contradict each other.

    Raises:
        ConfigError: one sentence with the value and the way out.
    """
    check_values(config)  # first: rules reckon with numbers that are in their bounds
    for about, rules in _rules_for(config):
        for name, contradicts in rules:
            if found := contradicts(about):
                words = _words(about) | (found if isinstance(found, dict) else {})
                raise ConfigError(sentence("contradictions", name, c=about, **words))


def _rules_for(config: Any) -> Iterator[tuple[Any, Rules[Any]]]:
    """The rules for the settings of a command, in their order, each table with the settings that it is about."""
    match config:
        case schema.TrainConfig():
            yield config, _TRAINING
            if config.stage.trains_every_weight:  # the clone's factory has rules of its own, and raises by itself
                scale_model("pretrain", f"stage={config.stage.name}").check(config)
            yield from ((config, rules) for rules in (_RANKS_AND_MEMORY, _NAMES, _WATCHED))
        case schema.InferConfig():
            yield from ((config, rules) for rules in (_REQUEST, _DRAWING))
        case schema.PrepareConfig():
            yield config, _PREPARATION
        # an evaluation that is looked at again, or studies that are put into one, make no clip that could contradict itself
        case schema.EvaluateConfig() if not (config.report or config.answers):
            yield from ((config, rules) for rules in (_FOOTAGE, _EVALUATION, *_named(config)))
            yield schema.drawn_by(config), _DRAWING
        case schema.StudyConfig() if config.models:
            return  # each of them has settings of its own, which are asked one by one
        case schema.StudyConfig() if config.merge:
            yield config, _MERGING
        case schema.StudyConfig():
            yield from (
                (config, rules)
                for rules in (_LATENCY if config.latency_only else _REQUEST, _AXES, _FOOTAGE, *_named(config))
            )
            yield schema.drawn_by(config), _DRAWING


def _named(config: schema.EvaluateConfig | schema.StudyConfig) -> list[Rules[Any]]:
    """The rules about ``data.name``, where ``data=`` is given."""
    return [_NAMES] if config.data.name else []


def _words(config: Any) -> dict[str, str]:
    """Words for blanks of a sentence that several rules share."""
    words = {"i2v_models": "|".join(models_with_i2v()), "caches": "|".join(schema.CACHE_THRESHOLDS)}
    words["partitions"] = str(list(schema.PARTITIONS))
    if isinstance(config, schema.TrainConfig):
        recompute, words["ranks"] = config.memory.recompute, str(config.gpus * config.nodes)
        words["recompute"] = "null" if recompute is None else f"{recompute:g}"
    return words


def _first(config: Any, *keys: str, where: Callable[[Any], object] = bool) -> dict[str, Any] | None:
    """The first key whose value is given, or of another kind ``where`` so, with that value; None where there is none."""
    return next(({"key": key, "value": pick(config, key)} for key in keys if where(pick(config, key))), None)


def _of_adapters(config: schema.StudyConfig) -> tuple[str, ...]:
    """The lists that change adapters, without ``ckpt``: none of ``adapters=`` is cut to another rank."""
    return ("ranks", "only") if config.adapters else ("ranks", "scales", "merged", "only")


def _lacks(config: schema.TrainConfig, transformer: str) -> bool:
    """Whether it trains a transformer that its model does not have."""
    return config.stage.transformer == transformer and _is_missing(config.model, transformer)


def _is_missing(model: schema.ModelConfig, network: str) -> bool:
    """Whether nothing of a network is named."""
    return not any(model.source(network, expert.name) for expert in experts_of(model, network))


def _ways_to_expand(config: schema.InferConfig) -> dict[str, str]:
    """What makes clips from a picture, where the model does not."""
    controls = "sparse_control" in family_of(config.model).clips.beside
    control = "name SparseCtrl-RGB as model.sparse_control=<directory or hub repository>, or " if controls else ""
    return {"ways": f"{control}choose model={'|'.join(models_with_i2v())}"}


def _other_network(model: schema.ModelConfig, name: str) -> dict[str, str] | None:
    """The networks of a family that has none of this name."""
    names = [network.name for network in family_of(model).networks]
    return None if name in names else {"family": family_of(model).title, "there": " and ".join(names)}


def _nowhere(model: schema.ModelConfig, names: Iterable[str]) -> dict[str, str] | None:
    """The setting that should name where networks under a name of their own lie, or what they cannot do without, and does not."""
    networks = [family_of(model).network(name) for name in names]
    keys = [network.key for network in networks if network.key]
    keys += ["motion_adapter" for network in networks if "motion_adapter" in network.beside]
    missing = [key for key in keys if getattr(model, key) is None]
    return {"key": missing[0]} if missing and model.weights != "random" else None


def _is_of_clips_alone(config: schema.TrainConfig) -> bool:
    """Whether the network that is trained is not the one that makes stills, in a family whose networks are not shown a frame."""
    family = family_of(config.model)
    return not family.expands and config.stage.transformer != family.stills.name


def _teaches_stills(config: schema.TrainConfig) -> dict[str, str] | None:
    """The network of clips, where another one is trained."""
    clips = family_of(config.model).clips
    return None if config.stage.transformer == clips.name else {"network": clips.name, "task": clips.task}


def _shortest(model: schema.ModelConfig) -> dict[str, str]:
    """The fewest frames that hold motion, and a usual number of them, in words."""
    family = family_of(model)
    temporal = family.geometry.temporal
    return {
        "least": f"{temporal + 1} or more{f' ({temporal}n+1)' if temporal > 1 else ''}",
        "usual": str(family.window or 33),
    }


def _beyond_longest(config: schema.TrainConfig) -> dict[str, str] | None:
    """The frames that a network takes at most, where a window has more."""
    longest = family_of(config.model).network(config.stage.transformer).longest
    return {"longest": str(longest)} if longest and config.stage.num_frames > longest else None


def _unusable(config: schema.TrainConfig | schema.InferConfig) -> dict[str, Any] | None:
    """A setting that does something with a row of alike blocks, and its value, where the networks have none."""
    family = family_of(config.model)
    asked: dict[str, tuple[Use, Callable[[Any], object]]] = {
        "model.dtype": (Use.FP8, lambda value: value == "fp8"),
        "model.attention": (Use.BACKENDS, bool),
        "memory.swap": (Use.SWAP, bool),
    }
    if isinstance(config, schema.TrainConfig):
        asked |= {"memory.offload": (Use.SWAP, bool), "strategy.sequence": (Use.SEQUENCE, lambda value: value > 1)}
        asked |= {"strategy.name": (Use.SHARES, lambda value: value == "zero3")}
    else:
        asked |= {"sampler.cache": (Use.CACHES, lambda value: value != "none")}
        asked |= {f"sampler.{way}": (Use.SEQUENCE, lambda value: value and value > 1) for way in ("ulysses", "ring")}
        asked |= {"gpus": (Use.SEQUENCE, lambda value: value * config.nodes > 2)}
    for key, (use, is_asked) in asked.items():
        if use not in family.uses and is_asked(value := pick(config, key)):
            way = "gpus=2 computes the halves of guidance side by side" if key == "gpus" else f"leave {key} away"
            return {"key": key, "value": value, "family": family.title, "way": way}
    return None


def _not_for_int8(model: schema.ModelConfig) -> dict[str, Any] | None:
    """The heads and the dtype of a model whose attention is asked for in int8, and cannot be."""
    head = model.hidden_size // model.num_heads
    fits = head == schema.INT8_HEAD and model.dtype != "fp32"
    return {"head": head} if model.attention == schema.INT8 and not fits else None


def _lost_expert(
    model: schema.ModelConfig, wanted: Mapping[str, Iterable[Expert]], alone: str = ""
) -> dict[str, str] | None:
    """The key of an expert that takes part and is not named, where its fellow is; ``alone`` is the way to use that one alone."""
    for network, experts in wanted.items():
        missing = [one.name for one in experts if model.source(network, one.name) is None]
        there = [one.name for one in experts_of(model, network) if model.source(network, one.name)]
        if missing and there:
            key = model.key_of(network, missing[0])
            return {"network": network, "missing": key, "alone": alone.format(there=SHORT[there[0]])}
    return None


def _shows_latents(model: schema.ModelConfig) -> bool:
    """Whether a first frame is shown as the first latent frame of the clip itself."""
    return not family_of(model).image_is_encoded


def _undivided(config: schema.TrainConfig) -> dict[str, str] | None:
    """The ranks that do not divide into groups of ``strategy.sequence``, and the groups that they do divide into."""
    ranks = config.gpus * config.nodes
    if ranks % config.strategy.sequence == 0:
        return None
    divisors = (str(count) for count in range(1, ranks + 1) if ranks % count == 0)
    return {"counted": counted(ranks, "rank"), "divisors": ", ".join(divisors)}


def _unlogged(config: schema.TrainConfig, key: str) -> dict[str, Any] | None:
    """The number that a setting names and this run does not log, with the likeliest one that is meant, and all there are."""
    name, there = pick(config, key), logged(config)
    if name is None or name in there:
        return None
    near = difflib.get_close_matches(name, there, n=1)
    return {"key": key, "name": name, "guess": f", did you mean {near[0]}" if near else "", "there": _listed(there)}


def _undirected(config: schema.TrainConfig, key: str, mode: str) -> dict[str, Any] | None:
    """The number that a setting names where nothing says which way is better, not even the setting ``mode``."""
    name = pick(config, key)
    is_open = name is not None and better(name) is None and pick(config, mode) is None
    return {"key": key, "name": name, "mode": mode} if is_open else None


def _listed(names: list[str]) -> str:
    """The names, blocks as a range."""
    # a run logs a number for each of its blocks, forty in a large model: the first and the last of them say enough
    blocks = [name for name in names if name.startswith(update_of_block(0)[:-2])]
    listed = [name for name in names if name not in blocks[1:-1]]
    return ", ".join(f"... {name}" if name in blocks[1:] else name for name in listed)


# What follows from settings alone -------------------------------------------------------------------------------------


def training_lines(config: schema.TrainConfig) -> list[str]:
    """The recipe, the batch and the rate, each with its reason."""
    return [*_recipe_lines(config), _batch_line(config), _rate_line(config)]


def _batch_line(config: schema.TrainConfig) -> str:
    stage = config.stage
    parts = [f"batch {stage.batch_size}", counted(config.gpus, "GPU")]
    parts += [counted(config.nodes, "node")] if config.nodes > 1 else []
    shared = f" / {config.strategy.sequence} a sequence" if config.strategy.sequence > 1 else ""
    return " x ".join(parts) + f"{shared} x {stage.accumulation} accumulation = {schema.samples_per_step(config)}"


def _rate_line(config: schema.TrainConfig) -> str:
    if config.optimizer.lr_for_width is None:
        return f"lr {config.optimizer.lr:g}, as given"
    return sentence("follows", "rate", c=config, rate=schema.effective_lr(config))


def _recipe_lines(config: schema.TrainConfig) -> list[str]:
    recipe = config.recipe
    if recipe.name is None:
        return []
    known, ours = ([f"  {line}" for line in lines] for lines in (recipe.known, recipe.ours))
    return [f"recipe={recipe.name}: the source states", *known, "it does not state, and we chose", *ours]


def reach_lines(key: str, num_frames: int, model: schema.ModelConfig) -> list[str]:
    """A word about clips that are longer or larger than those the model was trained on."""
    made_for = trained_shape(model.name)
    if made_for is None:
        return []
    frames, height, width = made_for
    words = {"key": key, "num_frames": num_frames, "model": model, "frames": frames, "height": height, "width": width}
    found = {"longer": num_frames > frames, "larger": model.height * model.width > height * width}
    return [sentence("follows", name, **words) for name, holds in found.items() if holds]


def asked_lines(config: schema.InferConfig) -> list[str]:
    """A word about clips that are made without an adapter, or from no text."""
    found = {
        "no_ckpt": config.ckpt is None and not config.adapters,
        "empty_prompt": config.prompts is None and not (config.prompt or "").strip(),
    }
    return [sentence("follows", name, model=config.model) for name, holds in found.items() if holds]


def guidance_lines(guidance: float | None) -> list[str]:
    """A word about a guidance below 1, where the negative prompt takes the place of the prompt; None is the model's own."""
    if guidance is None or guidance >= 1:
        return []
    return [sentence("follows", "guidance_low" if guidance else "guidance_zero", guidance=guidance, rest=1 - guidance)]


def distilled_lines(sampler: schema.SamplerConfig, adapters: list[str], keyframe: bool) -> list[str]:
    """A word about few unguided steps without a step-distilled adapter, or one of ``adapters`` without these.

    ``keyframe``: one is made, on which none of ``adapters`` acts.
    """
    few = sampler.guidance == 1 and sampler.steps <= MOST_FEW_STEPS
    if not adapters:
        return [sentence("follows", "few_steps", sampler=sampler)] if few else []
    guidance = "null" if sampler.guidance is None else f"{sampler.guidance:g}"
    words = {"sampler": sampler, "guidance": guidance, "adapters": " and ".join(adapters)}
    found = {"not_few": not few, "full_keyframe": keyframe and sampler.guidance == 1}
    return [sentence("follows", name, **words) for name, holds in found.items() if holds]


def clip_line(config: schema.InferConfig) -> str:
    """Frames, size and seconds of a clip, and how long a sequence that is."""
    model, frames = config.model, ClipRequest(config).num_frames
    seconds = frames / model.fps
    tokens = tokens_of(model, frames)
    return f"{frames} frames of {model.height}x{model.width} at {model.fps} fps = {seconds:.2f} s, {tokens} tokens"


def tokens_of(model: schema.ModelConfig, num_frames: int) -> int:
    """Sequence length of a clip."""
    return family_of(model).geometry.num_tokens(num_frames, model.height, model.width)


def counted(number: int, what: str) -> str:
    """``1 rank``, ``2 ranks``."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
