"""Settings that were typed and that no code path of this run reads: each is named with the reason, and the run goes on.

Enters: settings, the keys that were typed, and the adapters that take part. Leaves: lines to print. Under which conditions a
setting is read is declared with it (``read_when`` in ``schema``); what each condition means is said here.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

from cinelora.config.fields import fields_of, pick
from cinelora.config.schema import (
    CACHE_THRESHOLDS,
    EvaluateConfig,
    InferConfig,
    PrepareConfig,
    StudyConfig,
    TrainConfig,
)
from cinelora.io.hub import is_hub_name

Settings = TrainConfig | InferConfig | EvaluateConfig | StudyConfig | PrepareConfig

_RESTS_ON = {
    "clip": ("clip_sim_frames", "clip_sim_text", "background_consistency"),
    "dino": ("subject_consistency",),
    "alexnet": ("lpips_alex", "tlp_alex"),
    "i3d": ("fvd_i3d",),
}
"""The numbers that rest on a network from elsewhere."""
_BEYOND_THE_END = {
    "optimizer.warmup_steps": "the full rate is never reached",
    "checkpoint.every_steps": "the last step alone is saved",
    "validation.every_steps": "held-out samples are measured after the last step alone",
    "preview.every_steps": "no preview is made",
}
"""What follows where these settings are larger than ``stage.steps``."""


def unread_lines(config: Settings, typed: Mapping[str, str], adapters: Collection[str] = ()) -> list[str]:
    """A warning for each key of ``typed`` that this run does not read; ``adapters`` are those that ``ckpt`` holds."""
    return [f"WARNING: {key}={value} {why}" for key, value in typed.items() if (why := _why(config, key, adapters))]


def _why(config: Any, key: str, adapters: Collection[str]) -> str | None:
    """Why a key is not read, or None where something reads it."""
    fields = fields_of(type(config))
    # a group that is chosen stands for its name, or for the numbers that it lists
    field = next((fields[name] for name in (key, f"{key}.name", f"{key}.names") if name in fields), None)
    if field is None:
        return None
    if getattr(config, "merge", None) and not field.without_drawing:
        return "is not read: merge= puts rows together that are there"
    for name in field.read_when:
        if name == "within_run":
            if pick(config, key) > config.stage.steps:
                return f"is beyond the end of the run, stage.steps={config.stage.steps}: {_BEYOND_THE_END[key]}"
            continue
        holds, why = _CONDITIONS[name]
        if not holds(config, adapters):
            return f"is not read: {why.format(c=config)}"
    return None


def _trains(c: Any, _: Collection[str] = ()) -> bool:
    return isinstance(c, TrainConfig)


def _transformers(c: Any) -> tuple[str, ...]:
    """Those that take part."""
    if isinstance(c, TrainConfig):
        return (c.stage.transformer,)
    if c.mode == "t2v":
        return ("t2v",)
    return ("i2v",) if getattr(c, "image", None) or getattr(c, "latency_only", False) else ("t2v", "i2v")


def _previews(c: Any) -> bool:
    return 0 < c.preview.every_steps <= c.stage.steps


def _draws(c: Any) -> bool:
    return not _trains(c) or _previews(c) or (c.validation.every_steps > 0 and c.validation.clips > 0)


def _measures(c: Any) -> bool:
    if isinstance(c, TrainConfig):
        return _draws(c) and (c.stage.num_frames > 1 or c.validation.clips > 0)
    if isinstance(c, StudyConfig):
        return not c.latency_only and c.model.weights != "random"
    return not getattr(c, "answers", None)


def _rests_on(network: str) -> Condition:
    def holds(c: Any, _: Collection[str]) -> bool:
        return bool({*c.metrics.names, *getattr(c, "against", [])} & {*_RESTS_ON[network]})

    return holds, "no number that is asked for rests on it"


def _axes(c: StudyConfig) -> int:
    """How many lists a study varies; ranks and merged are one, and so are the thresholds of caches."""
    caches = any(getattr(c, name) for name in CACHE_THRESHOLDS)
    return sum(map(bool, (c.ranks or c.merged, c.scales, c.steps, caches, c.dtypes, c.partitions)))


Condition = tuple[Callable[[Any, Collection[str]], bool], str]
_CONDITIONS: dict[str, Condition] = {
    # networks; what a training run does not read of its model, the clips of its adapter do
    "network": (lambda c, a: False, "footage is prepared without a network"),
    "t2v": (lambda c, a: "t2v" in _transformers(c), "no text-to-video transformer takes part"),
    "i2v": (lambda c, a: "i2v" in _transformers(c), "no image-to-video transformer takes part"),
    "t2v_on_hub": (lambda c, a: is_hub_name(c.model.t2v or ""), "model.t2v={c.model.t2v} is not on the hub"),
    "i2v_on_hub": (lambda c, a: is_hub_name(c.model.i2v or ""), "model.i2v={c.model.i2v} is not on the hub"),
    "encodes": (lambda c, a: not getattr(c, "latency_only", False), "latency_only=true encodes and decodes nothing"),
    "image_shown": (
        lambda c, a: c.stage.image_condition if _trains(c) else "i2v" in _transformers(c),
        "no transformer is shown a picture",
    ),
    "own_frames": (lambda c, a: _trains(c) or c.num_frames is None, "num_frames={c.num_frames} takes its place"),
    "own_shift": (
        lambda c, a: _trains(c) or c.sampler.shift is None,
        "sampler.shift={c.sampler.shift} takes its place",
    ),
    "own_negative": (lambda c, a: _trains(c) or c.negative_prompt is None, "negative_prompt= takes its place"),
    "guided": (lambda c, a: _trains(c) or c.sampler.guidance != 1, "sampler.guidance=1 is unguided"),
    # footage
    "data_named": (lambda c, a: bool(c.data.name), "no data= is given"),
    "rendered": (lambda c, a: bool(c.data.look), "footage is read, and not rendered in a data.look"),
    "footage": (lambda c, a: not c.data.look, "footage is rendered, data.look={c.data.look}"),
    "surveyed": (
        lambda c, a: not (c.data.look or c.data.manifest),
        "the samples are those of data.look, or data.manifest, as they stand",
    ),
    "judged": (lambda c, a: c.data.judged, "data.judged=false leaves no shot out"),
    "stills": (
        lambda c, a: c.stage.num_frames == 1 if _trains(c) else isinstance(c, PrepareConfig),
        "this run takes windows, and no stills",
    ),
    "windows": (lambda c, a: not _trains(c) or c.stage.num_frames > 1, "this run takes stills, and no windows"),
    "own_shapes": (lambda c, a: not isinstance(c, EvaluateConfig), "an evaluation cuts clips to the model's size"),
    "uncaptioned": (lambda c, a: c.data.caption is None, "data.caption= is the caption of every clip"),
    "captioner": (lambda c, a: bool(c.data.captioner), "no data.captioner= is given"),
    # training
    "adapts": (lambda c, a: c.stage.name != "pretrain", "stage=pretrain trains every weight, and no adapter"),
    "pretrains": (lambda c, a: c.stage.name == "pretrain", "it is for stage=pretrain"),
    "leaks": (
        lambda c, a: c.stage.name == "style" and c.stage.image_condition,
        "it is for stage=style with stage.image_condition=true",
    ),
    "validates": (lambda c, a: c.validation.every_steps > 0, "validation.every_steps=0 measures no held-out sample"),
    "previews": (lambda c, a: _previews(c), "this run makes no preview (preview.every_steps)"),
    "draws": (lambda c, a: _draws(c), "this run draws no clip (preview.every_steps, validation.clips)"),
    "measures": (lambda c, a: _measures(c), "no clip of this run is measured"),
    "several_ranks": (lambda c, a: c.gpus * c.nodes > 1, "one rank has nobody to share with"),
    "strategy_shares": (
        lambda c, a: c.gpus * c.nodes > 1 or c.strategy.name in ("auto", "single") or c.strategy.cpu_offload,
        "one rank has nobody to share with",
    ),
    "one_machine": (lambda c, a: c.nodes == 1, "a run on several machines does not start again by itself"),
    "wandb": (lambda c, a: c.logger.name == "wandb", "it is for logger=wandb"),
    "trains": (_trains, "a study logs once, at its end"),
    # clips
    **{f"needs_{network}": _rests_on(network) for network in _RESTS_ON},
    "adapted": (lambda c, a: bool(a), "no adapter takes part"),
    "style_in_keyframe": (
        lambda c, a: "style" in a and "t2v" in _transformers(c),
        "no style adapter takes part in a keyframe, or in a clip of mode=t2v",
    ),
    "style_in_clip": (lambda c, a: "style" in a and c.mode == "scene", "no style adapter takes part in an expansion"),
    "motion_in_clip": (lambda c, a: "motion" in a, "no motion adapter takes part"),
    "latency_only": (lambda c, a: c.latency_only, "latency_only=false times whole clips"),
    "whole_clips": (
        lambda c, a: not getattr(c, "latency_only", False),
        "latency_only=true times latency_steps={c.latency_steps}",
    ),
    "several_axes": (lambda c, a: _axes(c) > 1, "fewer than two lists vary"),
}
"""Whether a condition holds for settings and adapters, and the reason why nothing reads the setting where it does not."""
