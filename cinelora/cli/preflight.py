"""What must be there before a run begins: files, the headers of weights, installed packages, tokens.

Enters: a composed dataclass. Leaves: the lines to print, each derived number with its reason. ``config.rules`` has its say
first. Names of files, headers and settings beside them are looked at, never a weight or a frame; no torch, no Hydra.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from cinelora.adapters.adapter_header import AdapterHeader, adapter_header, judge_adapter
from cinelora.adapters.further_adapters import distilled_shift, files_of, further_adapters
from cinelora.adapters.run_directory import RunDirectory, adapters_of, styles_of, trained_on
from cinelora.clone_only import SHIPPED, need_clone
from cinelora.config import schema
from cinelora.config.adapter_words import AdapterWord
from cinelora.config.clip_request import ClipRequest, read_prompts, stage_and_expert
from cinelora.config.fields import fields_of, pick
from cinelora.config.lessons import taught
from cinelora.config.rules import (
    asked_lines,
    clip_line,
    distilled_lines,
    guidance_lines,
    reach_lines,
    refuse,
    tokens_of,
    training_lines,
)
from cinelora.config.sentences import sentence
from cinelora.config.store import load_config
from cinelora.errors import ConfigError
from cinelora.families import experts_of, family_of, has_experts
from cinelora.families.family import Expert, Part, expert_in
from cinelora.families.parts import parts_of
from cinelora.io.hub import EMBEDDED, PAIR, RANDOM_MEMBERS, check_target, is_model_source, is_run, resolve, shadowed
from cinelora.io.own_files import refuse_foreign
from cinelora.io.own_folders import CACHE, PREPARED, refuse_occupied
from cinelora.planning.planner import partition_of
from cinelora.studies.variants import possible_variants


def check_train(config: schema.TrainConfig) -> list[str]:
    """Refuse training settings that contradict each other, or name what is not there; the lines to print otherwise.

    Raises:
        ConfigError: one sentence with the value and the way out.
    """
    refuse(config)
    stage, model = config.stage, config.model
    if schema.zero_level(config.strategy) and importlib.util.find_spec("deepspeed") is None:
        raise ConfigError(sentence("files", "deepspeed", c=config))
    _check_source(model, stage.transformer, taught(config))
    assumed: list[str] = []
    if config.adapter is not None:
        _check_style_adapter(config.adapter, resolve(config.adapter, "adapter"))
        _check_fits("adapter", config.adapter, model)
        for path in styles_of(config).values():
            header = judge_adapter(path, model)
            header.refuse_above("adapter")
            assumed += _assumed_line(header, draws=False)
    _check_data(config)
    _check_files(config)
    if config.push:
        check_target(config.push)
    *lines, rate = training_lines(config)
    lines += [*assumed, *_sequence_lines(config), rate, *reach_lines("stage.num_frames", stage.num_frames, model)]
    lines += guidance_lines(config.sampler.guidance)
    if stage.name == "motion" and config.adapter is None:
        lines.append("no adapter=: motion is learnt above the base model, without a style adapter under it")
    if config.adapter is not None:
        lines += _adapter_expert_lines("adapter", config.adapter, styles_of(config), model)
    # the parts that a run loads, the transformer first
    image = family_of(model).image_parts(stage.transformer) if stage.image_condition else ()
    parts = [part for part in Part if part is not Part.IMAGE_ENCODER or part in image]
    lines += parts_of(model).check_length(model, stage.transformer, stage.num_frames, trains=True)
    return [*lines, *_model_lines(model, {stage.transformer: parts}, taught(config))]


def check_infer(config: schema.InferConfig) -> list[str]:
    """Refuse inference settings that cannot be drawn; the lines to print otherwise.

    Raises:
        ConfigError: one sentence with the value and the way out.
        AdapterError: ``ckpt`` holds no adapter.
    """
    refuse(config)
    _check_files(config)
    return [*_drawing_lines(config), *asked_lines(config)]


def check_evaluate(config: schema.EvaluateConfig) -> list[str]:
    """Refuse an evaluation's settings that contradict each other; the lines to print otherwise; raises as ``check_infer``."""
    refuse(config)
    if config.report or config.answers:
        _check_files(dataclasses.replace(config, prompts=None))  # what was drawn by is read no more
        return []
    _check_files(config)
    if config.data.name:
        _check_data(config)
    return _drawing_lines(schema.drawn_by(config))


def check_prepare(config: schema.PrepareConfig) -> list[str]:
    """Refuse settings of what is prepared that contradict each other; there are no lines; raises as ``check_train``."""
    refuse(config)
    _check_folder(config.data)
    return []


def check_study(config: schema.StudyConfig) -> list[str]:
    """Refuse a study's settings that contradict each other; the lines to print otherwise; raises as ``check_infer``."""
    refuse(config)
    if config.models:
        return []
    _check_files(config)
    for text in config.merge:
        refuse_foreign(Path(text), "rows.json")
        if not (Path(text) / "rows.json").is_file():
            raise ConfigError(f"merge: {text} holds no rows.json; give run directories of cinelora.study")
    if config.merge:
        return []
    if config.data.name and not config.latency_only:
        _check_data(config)
    stages = {stage_and_expert(role)[0] for role in adapters_of(config.ckpt, config.model)}
    if not stages.issuperset(config.only):
        raise ConfigError(sentence("files", "not_there_alone", c=config, there=" and ".join(sorted(stages))))
    for way in dict.fromkeys(setting.partition for setting in possible_variants(config)):
        partition_of(schema.shared_by(config, way))
    # steps are timed on the transformer that makes the clip, from values drawn in the shape of its inputs
    drawing = schema.drawn_by(config)
    maker = ClipRequest(drawing).clip_maker
    if config.distilled and not any(one.shift and one.clip for one in further_adapters(drawing).values()):
        raise ConfigError(sentence("contradictions", "no_distilled", c=config))
    parts = {maker: [Part.TRANSFORMER]} if config.latency_only else None
    return _drawing_lines(drawing, parts, few_steps=not config.distilled)


# Files ----------------------------------------------------------------------------------------------------------------


def _check_files(config: schema.TrainConfig | schema.InferConfig | schema.EvaluateConfig | schema.StudyConfig) -> None:
    """Refuse files that are not there, and a program without the hash of the one that may be run."""
    metrics = config.metrics
    for key in ("metrics.alexnet", "metrics.i3d", "image", "answers"):
        file = pick(config, key) if key in fields_of(type(config)) else None
        if file is None or Path(file).is_file() or (key == "answers" and Path(file).is_dir()):
            continue
        what = "file or folder" if key == "answers" else "file"
        raise ConfigError(sentence("files", "missing", key=key, file=file, what=what, path=Path(file).absolute()))
    # i3d comes as a TorchScript file: loading it runs whatever stands in it, so that the user has to name the one he trusts
    if metrics.i3d_sha256 is not None and re.fullmatch(r"[0-9a-fA-F]{64}", metrics.i3d_sha256) is None:
        raise ConfigError(sentence("files", "no_sha256", c=config))
    if metrics.i3d is not None and metrics.i3d_sha256 is None:
        raise ConfigError(sentence("files", "program", c=config))
    if not isinstance(config, schema.TrainConfig) and config.prompts is not None:
        read_prompts(config.prompts)


def _check_data(config: schema.TrainConfig | schema.EvaluateConfig | schema.StudyConfig) -> None:
    if config.data.look is None:
        _check_folder(config.data)
    else:
        need_clone(f"data={config.data.name}")
    _check_cache(config.cache)


def _check_cache(named: str) -> None:
    """Refuse a cache that cannot be made or written, or is somebody else's folder; models and samples are put there."""
    cache = Path(named)
    # The cache may be several folders deep and none of them there yet. Whether it can be made is decided by the nearest one
    # that is, and is found out now, not after the models were loaded.
    there = next(path for path in (cache, *cache.absolute().parents) if path.exists())
    if not there.is_dir():
        what = "" if there == cache else f": {there}"
        raise ConfigError(f"cache={named}{what} is a file; give a folder, new or old")
    if not os.access(there, os.W_OK):
        raise ConfigError(f"cache={named}: {there} cannot be written; give a folder that can")
    refuse_occupied("cache", cache, CACHE)


def _check_folder(data: schema.DataConfig) -> None:
    if data.root is None:
        raise ConfigError(f"data={data.name} needs a folder with clips: data.root=<folder>")
    if not Path(data.root).is_dir():
        what = "is a file, not a folder" if Path(data.root).is_file() else "does not exist"
        if data.root.startswith("~"):
            what += " (the shell leaves ~ as it is here: write $HOME)"
        raise ConfigError(f"data.root={data.root}: {Path(data.root).absolute()} {what}; give a folder with clips")
    if data.prepared is not None and data.manifest is None:
        refuse_occupied("data.prepared", Path(data.prepared), PREPARED)
    for name in ("manifest", "overrides", "lut"):
        file = getattr(data, name)
        if file is not None and not Path(file).is_file():
            raise ConfigError(f"data.{name}={file}: there is no file {Path(file).absolute()}")
    if data.captioner is not None:
        from cinelora.footage.captioner import refuse_folder

        refuse_folder(Path(data.captioner))


PART_KEYS = ("vae", "text_encoder", "tokenizer", "image_encoder")
"""Settings that name a part alone."""

# Models and adapters --------------------------------------------------------------------------------------------------


def _check_source(model: schema.ModelConfig, kind: str, taking_part: Sequence[Expert] = ()) -> None:
    experts = (model.key_of(kind, expert.name) for expert in taking_part or experts_of(model, kind))
    beside = family_of(model).network(kind).beside
    for key in dict.fromkeys((model.key_of(kind), *experts, *beside, *PART_KEYS)):
        source = getattr(model, key)
        if source is not None and not is_model_source(source):
            embedded = f", or one of {', '.join(EMBEDDED)}" if key not in PART_KEYS else ""
            raise ConfigError(sentence("files", "source", key=key, source=source, embedded=embedded))


def _check_style_adapter(text: str, source: Path) -> None:
    if is_run(source) and not any(role.startswith("style") for role in RunDirectory(source).adapters()):
        raise ConfigError(sentence("files", "no_style", text=text, stage=load_config(source).stage.name))


def _adapter_expert_lines(key: str, text: str, roles: Mapping[str, Path], model: schema.ModelConfig) -> list[str]:
    """Which experts adapters act on, where that is not each on its own; and names that say another one than the header."""
    lines: list[str] = []
    if has_experts(model):
        for stage in dict.fromkeys(stage_and_expert(role)[0] for role in roles):
            experts = [expert for of, expert in map(stage_and_expert, roles) if of == stage]
            if len(experts) == 1:
                name = "one_expert" if experts[0] else "any_expert"
                lines.append(sentence("files", name, key=key, text=text, stage=stage, expert=experts[0]))
    for path in roles.values():
        said, named = (adapter_header(path).ours or {}).get("expert"), expert_in(path.stem)
        if said and named and said != named:
            lines.append(sentence("files", "other_expert", path=path, said=said, named=named))
    return lines


def _check_fits(key: str, text: str, model: schema.ModelConfig) -> None:
    """Refuse an adapter of a model of another shape, where it says what it was trained on."""
    theirs = trained_on(resolve(text, key))
    if theirs is not None and (theirs.num_layers, theirs.hidden_size) != (model.num_layers, model.hidden_size):
        words = {"key": key, "text": text, "theirs": _described(theirs), "ours": _described(model), "name": theirs.name}
        raise ConfigError(sentence("files", "other_model", **words))


def _described(model: schema.ModelConfig) -> str:
    return f"{model.name} ({model.num_layers} blocks of width {model.hidden_size})"


def _drawing_lines(
    config: schema.InferConfig, parts: dict[str, list[Part]] | None = None, few_steps: bool = True
) -> list[str]:
    """What follows for clips from how they are drawn, by ``parts`` or all it takes; refuses what cannot be.

    ``few_steps``: it is the settings' steps and guidance that step-distilled adapters act with.
    """
    whole = _drawing_parts(config)
    for kind in whole:
        _check_source(config.model, kind)
    # Of what makes clips, only an embedded model that has to be built goes into the cache.
    source_of = parts_of(config.model).source_of
    sources = {source_of(config.model, kind, part) for kind, wanted in whole.items() for part in wanted}
    if sources & {*RANDOM_MEMBERS} or (sources & {*PAIR} and not SHIPPED.is_dir()):
        _check_cache(config.cache)
    assumed: list[str] = []
    if config.ckpt is not None:
        _check_fits("ckpt", config.ckpt, config.model)
        for path in adapters_of(config.ckpt, config.model).values():
            assumed += _assumed_line(judge_adapter(path, config.model))
    for word in map(AdapterWord.of, config.adapters):
        _check_fits("adapters", word.source, config.model)
        for path in files_of(word, config.model):
            assumed += _assumed_line(judge_adapter(path, config.model))
    distilled = _distilled_lines(config)
    reach = reach_lines("num_frames", ClipRequest(config).num_frames, config.model)
    reach += parts_of(config.model).check_length(config.model, *ClipRequest(config).passes[-1], trains=False)
    model = _model_lines(config.model, parts or whole)
    _, shared = partition_of(config)
    reach += [] if parts else guidance_lines(config.sampler.guidance)
    reach += [] if parts or not few_steps else distilled
    if config.ckpt is not None:
        reach += _adapter_expert_lines("ckpt", config.ckpt, adapters_of(config.ckpt, config.model), config.model)
    shares = [shared] if config.gpus * config.nodes > 1 else []
    return [clip_line(config), *dict.fromkeys(assumed), *reach, *shares, *model]


def _assumed_line(header: AdapterHeader, draws: bool = True) -> list[str]:
    """A line where the scale of an adapter is what readers take for one that says none; who ``draws`` can type another."""
    way = "; if it was trained with another alpha, type alpha / rank as its scale" if draws else ""
    said = {"path": header.path, "tool": header.form.tool, "way": way}
    return [sentence("files", "assumed", **said)] if header.assumed else []


def _distilled_lines(config: schema.InferConfig) -> list[str]:
    """A word about adapters that are step-distilled, and steps that want one; refuses those that act nowhere."""
    request = ClipRequest(config, further=further_adapters(config))
    ours = adapters_of(config.ckpt, config.model).values()
    distilled = [path.name for path in ours if distilled_shift(adapter_header(path))]
    acting = [one for one in request.further.values() if one.shift and one.clip]
    distilled += [one.path.name for one in acting]
    keyframe = request.makes_keyframe and request.keyframe_sampler.guidance != config.sampler.guidance
    if config.model.weights == "random":
        return []
    lines = distilled_lines(config.sampler, distilled, keyframe)
    if config.sampler.shift is None and len({one.shift for one in acting}) > 1:
        shifts = ", ".join(f"{one.path.name} at {one.shift:g}" for one in acting)
        lines.append(sentence("follows", "shifts", shifts=shifts, shift=request.clip_sampler.shift))
    return lines


def _drawing_parts(config: schema.InferConfig) -> dict[str, list[Part]]:
    """The parts that make clips, of each checkpoint that takes part; the first one's encoders read the prompts."""
    request = ClipRequest(config)
    text, family = {request.prompt_reader: [Part.TEXT_ENCODER, Part.TOKENIZER]}, family_of(config.model)

    # the VAE of each, too: i2v encodes the keyframe that t2v's has decoded, and the two may come from different files
    def wanted(kind: str) -> list[Part]:
        return list(dict.fromkeys([Part.TRANSFORMER, *text.get(kind, []), Part.VAE, *family.image_parts(kind)]))

    return {kind: wanted(kind) for kind in request.transformers}


def _model_lines(
    model: schema.ModelConfig, parts: dict[str, list[Part]], taking_part: Sequence[Expert] = ()
) -> list[str]:
    """Refuse parts that lie on this machine and are not whole, or not what they should be; a word on how they are read.

    ``taking_part`` are the experts of the one network that takes part; where none are named, all of each network.
    """
    lines: list[str] = []
    own = parts_of(model)
    # headers alone are read, also of files that turn out to hold something else: a mistake costs a second, not a loading
    for kind, wanted in parts.items():
        _refuse_nowhere(model, kind, wanted)
        lines += own.check(model, kind, wanted, taking_part or experts_of(model, kind))
    beside = [key for kind in parts for key in (model.key_of(kind), *family_of(model).network(kind).beside)]
    for key in dict.fromkeys((*beside, *PART_KEYS)):
        lines += shadowed(f"model.{key}", getattr(model, key))
    drawn = {
        part: None for kind, wanted in parts.items() for part in wanted if own.source_of(model, kind, part) is None
    }
    return [*dict.fromkeys(lines), *_random_lines(model, list(drawn))]


def _refuse_nowhere(model: schema.ModelConfig, kind: str, wanted: list[Part]) -> None:
    """Refuse parts that no setting names: where only experts are, no checkpoint holds the others."""
    source_of = parts_of(model).source_of
    lost = [part for part in wanted if part is not Part.TRANSFORMER and source_of(model, kind, part) is None]
    if lost and model.weights != "random":
        keys = " ".join(f"model.{part}=<file or folder>" for part in lost)
        raise ConfigError(sentence("files", "nowhere", network=kind, parts=", ".join(lost), keys=keys))


def _random_lines(model: schema.ModelConfig, drawn: list[Part]) -> list[str]:
    if model.weights != "random":
        return []
    lines = [sentence("files", "random", parts=", ".join(drawn))]
    if Part.TEXT_ENCODER in drawn:
        lines.append(sentence("files", "whole_encoder", size="23 GB" if model.dtype == "fp32" else "11 GB"))
    return lines


def _sequence_lines(config: schema.TrainConfig) -> list[str]:
    """How ranks share each sample's sequence, and why so."""
    sequence, heads = config.strategy.sequence, config.model.num_heads
    if sequence == 1:
        return []
    from cinelora.parallel.partition import share_samples

    plan, tokens = share_samples(config), tokens_of(config.model, config.stage.num_frames)
    each = f"strategy.sequence={sequence}: {tokens} tokens / {sequence} = {-(-tokens // sequence)} a rank"
    if plan.ring == 1:
        return [f"{each}, {heads} heads / {sequence} = {heads // sequence} each (Ulysses)"]
    shared = f"groups of {plan.ulysses} share heads, and " if plan.ulysses > 1 else ""
    return [f"{each}; {heads} heads do not divide by {sequence}: {shared}keys go round a ring of {plan.ring}"]
