"""Settings that were typed and that no code path of this run reads: each is named with the reason, and the run continues.

Enters: settings, the keys that were typed, and the adapters that take part. Leaves: lines to print. Under which conditions a
setting is read is declared with it (``read_when`` in ``schema``); what each condition means is said here, and the reason that
is printed where it does not hold, in ``sentences.yaml``.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

from cinelora.config.fields import fields_of, pick
from cinelora.config.schema import CACHE_THRESHOLDS, INT8, EvaluateConfig, PrepareConfig, StudyConfig, TrainConfig
from cinelora.config.sentences import sentence
from cinelora.families import experts_of, family_of
from cinelora.families.family import Network
from cinelora.io.hub import is_hub_name


def unread_lines(config: Any, typed: Mapping[str, str], adapters: Collection[str] = ()) -> list[str]:
    """A warning for each key of ``typed`` that this run does not read; ``adapters`` are those of ``ckpt`` and ``adapters``."""
    return [f"WARNING: {key}={value} {why}" for key, value in typed.items() if (why := _why(config, key, adapters))]


def _why(config: Any, key: str, adapters: Collection[str]) -> str | None:
    """Why a key is not read, or None where something reads it."""
    fields = fields_of(type(config))
    # a group that is chosen stands for its name, or for the numbers that it lists
    field = next((fields[name] for name in (key, f"{key}.name", f"{key}.names") if name in fields), None)
    if field is None:
        return None
    if getattr(config, "models", None):
        return None  # of each model by itself something else may be read
    if getattr(config, "merge", None) and not field.without_drawing:
        return "is not read: merge= puts rows together that are there"
    # all conditions of a setting have to hold; the first that does not is the reason, so their order in the schema counts
    for name in field.read_when:
        if name == "within_run":
            # the one condition about the value itself: a step that never comes
            if (pick(config, key) or 0) > config.stage.steps:
                end = f"is beyond the end of the run, stage.steps={config.stage.steps}"
                return f"{end}: {sentence('beyond_the_end', key)}"
        elif not (OF_ADAPTERS[name](config, adapters) if name in OF_ADAPTERS else OF_SETTINGS[name](config)):
            return f"is not read: {sentence('unread', name, c=config)}"
    return None


# What several conditions ask --------------------------------------------------------------------------------------------


def _trains(c: Any) -> bool:
    return isinstance(c, TrainConfig)


def _transformers(c: Any) -> tuple[str, ...]:
    """Those that take part; prepared footage has its captions counted by the tokenizer of the one that makes stills."""
    family = family_of(c.model)
    if isinstance(c, PrepareConfig):
        return (family.stills.name,)
    if isinstance(c, TrainConfig):
        return (c.stage.transformer,)
    if c.mode == "t2v":
        return (family.from_text(getattr(c, "num_frames", None) or c.model.num_frames).name,)
    # a given keyframe leaves nothing to t2v; a study that times the clip's own transformer alone does not make one, either
    is_alone = getattr(c, "image", None) or getattr(c, "latency_only", False)
    return (family.clips.name,) if is_alone else (family.stills.name, family.clips.name)


def _networks(c: Any) -> list[Network]:
    """The facts of those that take part."""
    return [family_of(c.model).network(name) for name in _transformers(c)]


def _keyframe_scale_acts(c: Any) -> bool:
    """Whether a network takes part that makes stills, and is not the one of clips as well."""
    family = family_of(c.model)
    return family.stills is not family.clips and family.stills.name in _transformers(c)


def _has(stage: str, adapters: Collection[str]) -> bool:
    """Whether an adapter of the stage is there, of the whole network or of one of its experts."""
    return any(name == stage or name.startswith(f"{stage}_") for name in adapters)


def _previews(c: Any) -> bool:
    every = c.preview.every_steps  # null is settled when the run begins, and may make some
    return every is None or 0 < every <= c.stage.steps


def _draws(c: Any) -> bool:
    return not _trains(c) or _previews(c) or (c.validation.every_steps > 0 and c.validation.clips > 0)


def _measures(c: Any) -> bool:
    if isinstance(c, TrainConfig):
        # a preview of a stage that trains on stills is one frame, which no measure of motion can say anything about
        return _draws(c) and (c.stage.num_frames > 1 or c.validation.clips > 0)
    if isinstance(c, StudyConfig):
        return not c.latency_only and c.model.weights != "random"
    return not getattr(c, "answers", None)


def _asks_for(*numbers: str) -> Callable[[Any], bool]:
    """Whether a run measures one of these numbers, which rest on a network from elsewhere."""
    return lambda c: not {*c.metrics.names, *getattr(c, "against", [])}.isdisjoint(numbers)


def _axes(c: StudyConfig) -> int:
    """How many lists a study varies; ranks and merged are one, and so are the thresholds of caches."""
    caches = any(getattr(c, name) for name in CACHE_THRESHOLDS)
    return sum(
        map(bool, (c.ranks or c.merged, c.scales, c.only, c.steps or c.distilled, caches, c.dtypes, c.partitions))
    )


# The conditions ---------------------------------------------------------------------------------------------------------

OF_SETTINGS: dict[str, Callable[[Any], object]] = {
    # networks; what a training run does not read of its model, the clips of its adapter do
    "network": lambda c: False,
    "t2v": lambda c: "t2v" in _transformers(c),
    "i2v": lambda c: "i2v" in _transformers(c),
    "experts": lambda c: any(len(experts_of(c.model, network)) > 1 for network in _transformers(c)),
    "teaches_high": lambda c: not _trains(c) or c.stage.expert != "low",
    "teaches_low": lambda c: not _trains(c) or c.stage.expert != "high",
    "base": lambda c: any(network.key == "base" for network in _networks(c)),
    "motion": lambda c: any("motion_adapter" in network.beside for network in _networks(c)),
    "domain": lambda c: c.model.domain_adapter,
    "base_on_hub": lambda c: is_hub_name(c.model.base or ""),
    "int8": lambda c: c.model.attention == INT8,
    "flows": lambda c: any(network.betas is None for network in _networks(c)),
    "t2v_on_hub": lambda c: is_hub_name(c.model.t2v or ""),
    "i2v_on_hub": lambda c: is_hub_name(c.model.i2v or ""),
    "encodes": lambda c: not getattr(c, "latency_only", False),
    "image_shown": lambda c: (
        c.stage.image_condition if _trains(c) else any(network.shows_first_frame for network in _networks(c))
    ),
    "own_frames": lambda c: _trains(c) or c.num_frames is None,
    "own_shift": lambda c: _trains(c) or c.sampler.shift is None,
    "own_negative": lambda c: _trains(c) or c.negative_prompt is None,
    "image_given": lambda c: c.image,
    "guided": lambda c: _trains(c) or c.sampler.guidance != 1,
    # footage: rendered in a look, read from a list of samples as it stands, or surveyed for samples
    "data_named": lambda c: c.data.name,
    "rendered": lambda c: c.data.look,
    "footage": lambda c: not c.data.look,
    "surveyed": lambda c: not (c.data.look or c.data.manifest),
    "described": lambda c: c.data.look or not c.data.manifest,
    "judged": lambda c: c.data.judged,
    "looks_learned": lambda c: c.data.lettering != "plain",
    "stills": lambda c: c.stage.num_frames == 1 if _trains(c) else isinstance(c, PrepareConfig),
    "windows": lambda c: not _trains(c) or c.stage.num_frames > 1,
    "own_shapes": lambda c: not isinstance(c, EvaluateConfig),
    "uncaptioned": lambda c: c.data.caption is None,
    "captioner": lambda c: c.data.captioner,
    # training
    "adapts": lambda c: c.stage.name != "pretrain",
    "pretrains": lambda c: c.stage.name == "pretrain",
    "leaks": lambda c: c.stage.name == "style" and c.stage.image_condition,
    "validates": lambda c: c.validation.every_steps > 0,
    "previews": _previews,
    "draws": _draws,
    "measures": _measures,
    "several_ranks": lambda c: c.gpus * c.nodes > 1,
    # one rank may name a strategy that shares nothing, and ZeRO for what it keeps on the host
    "strategy_shares": lambda c: (
        c.gpus * c.nodes > 1 or c.strategy.cpu_offload or c.strategy.name in ("auto", "single")
    ),
    "one_machine": lambda c: c.nodes == 1,
    "wandb": lambda c: "wandb" in c.logger.all,
    "trains": _trains,
    # clips
    "needs_clip": _asks_for("clip_sim_frames", "clip_sim_text", "background_consistency"),
    "needs_dino": _asks_for("subject_consistency"),
    "needs_alexnet": _asks_for("lpips_alex", "tlp_alex"),
    "needs_i3d": _asks_for("fvd_i3d"),
    "latency_only": lambda c: c.latency_only,
    "whole_clips": lambda c: not getattr(c, "latency_only", False),
    "several_models": lambda c: c.models,
    "several_axes": lambda c: _axes(c) > 1,
}
"""Whether a condition holds for settings."""
OF_ADAPTERS: dict[str, Callable[[Any, Collection[str]], object]] = {
    # a keyframe is made by t2v, and then expanded by i2v; the style adapter has a scale for each of the two
    "adapted": lambda c, adapters: adapters,
    "style_in_keyframe": lambda c, adapters: _has("style", adapters) and _keyframe_scale_acts(c),
    "style_in_clip": lambda c, adapters: _has("style", adapters) and family_of(c.model).clips.name in _transformers(c),
    "motion_in_clip": lambda c, adapters: _has("motion", adapters),
}
"""Whether a condition holds for settings, and the adapters that take part."""
