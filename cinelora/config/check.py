"""Whether settings make sense together, and what follows from them.

What enters is a composed dataclass; what leaves are the lines to print, each derived number with its reason. It looks
at the names of files, the headers of weights and settings beside them, never at a weight or a frame; it imports neither
torch nor Hydra.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib.util
import math
import re
from pathlib import Path
from typing import Any

from cinelora.adapters.run_directory import RunDirectory, adapter_paths, trained_on
from cinelora.clone_only import need_clone, scale_model
from cinelora.config.clip_request import ClipRequest, read_prompts
from cinelora.config.keys import is_plain_name, models_with_i2v, settings, trained_shape
from cinelora.config.metric_names import better, logged, monitors, update_of_block
from cinelora.config.schema import (
    CACHE_THRESHOLDS,
    PARTITIONS,
    SHARING,
    DataConfig,
    EvaluateConfig,
    FootageLimits,
    InferConfig,
    MetricsConfig,
    ModelConfig,
    PrepareConfig,
    StoppingConfig,
    StudyConfig,
    TrainConfig,
    drawn_by,
    effective_lr,
    pick,
    samples_per_step,
    shared_by,
    zero_level,
)
from cinelora.config.store import load_config
from cinelora.errors import ConfigError, ModelError
from cinelora.families.wan.checkpoint_layouts import Part, source_of, survey
from cinelora.io.hub import EMBEDDED, check_target, is_model_source, is_run, resolve
from cinelora.planning.planner import partition_of

__all__ = ["check_evaluate", "check_infer", "check_prepare", "check_study", "check_train", "effective_lr"]

_AT_LEAST_ONE = {
    *(
        "model.num_layers",
        "model.num_heads",
        "model.hidden_size",
        "model.ffn_dim",
        "model.height",
        "model.width",
        "model.fps",
    ),
    *("model.num_frames", "stage.num_frames", "stage.steps", "stage.batch_size", "stage.accumulation"),
    *(
        "data.stills_per_shot",
        "data.window_stride",
        "data.min_frames",
        "data.clips",
        "lora.rank",
        "optimizer.lr_for_width",
        "checkpoint.keep",
    ),
    *("preview.seeds", "stopping.patience", "seeds", "clips"),
    *("validation.samples", "preview.sampler_steps", "logger.every_steps", "sampler.steps", "num_frames"),
    *("gpus", "nodes", "sampler.ulysses", "sampler.ring", "strategy.sequence"),
    *("ranks", "steps", "repetitions", "latency_steps"),
}
_ABOVE_ZERO = {
    "data.sequence_fps",
    "memory.limit_gib",
    "lora.alpha",
    "optimizer.lr",
    "optimizer.eps",
    "flow.sigma_std",
    "flow.shift",
    "sampler.shift",
    "model.sampling_shift",
}
_NOT_BELOW_ZERO = {
    *(f"data.limits.{entry.name}" for entry in dataclasses.fields(FootageLimits)),
    *("optimizer.weight_decay", "optimizer.warmup_steps", "optimizer.clip_norm", "checkpoint.every_steps"),
    *("validation.clips", "stopping.min_change"),
    *("validation.every_steps", "preview.every_steps", "data.heldout_clips", "seed", "workers", "sampler.guidance"),
    "max_restarts",
    *("sampler.cache_threshold", "first_block", "taylorseer", "magcache"),
}
_PARTS = {"memory.recompute", "memory.swap"}
_SHARES = {"data.holdout", "stage.stills", "lora.dropout", "dropout.caption", "dropout.image"}
_DECAYS = {"optimizer.beta1", "optimizer.beta2", "ema_decay"}
_SIZES = ("model.height", "model.width")
_FRAMES = ("model.num_frames", "stage.num_frames", "data.min_frames", "num_frames")
_ENCODED = ("prompt", "negative_prompt", "data.caption", "data.trigger", "preview.prompt")


def check_train(config: TrainConfig) -> list[str]:
    """Refuse training settings that contradict each other; the lines to print otherwise.

    Raises:
        ConfigError: one sentence with the value and the way out.
    """
    _check_values("train", config)
    _check_recipe(config)
    _check_stage(config)
    _check_strategy(config)
    _check_memory(config)
    _check_names(config)
    _check_data(config)
    _check_networks(config.metrics)
    _check_monitors(config)
    _check_push(config)
    lines = [_batch_line(config), *_sequence_lines(config), _rate_line(config)]
    reach = _reach_lines("stage.num_frames", config.stage.num_frames, config.model)
    model = _model_lines(config.model, {config.stage.transformer: _trained_parts(config)})
    return [*_recipe_lines(config), *lines, *reach, *_adapter_lines(config), *model]


def check_infer(config: InferConfig) -> list[str]:
    """Refuse inference settings that contradict each other; the lines to print otherwise.

    Raises:
        ConfigError: one sentence with the value and the way out.
    """
    _check_values("infer", config)
    _check_request(config)
    _check_transformers(config)
    _check_networks(config.metrics)
    if config.ckpt is not None:
        _check_fits("ckpt", config.ckpt, config.model)
    return _drawing_lines(config)


def check_evaluate(config: EvaluateConfig) -> list[str]:
    """Refuse an evaluation's settings that contradict each other; the lines to print otherwise.

    Raises:
        ConfigError: one sentence with the value and the way out.
        AdapterError: ``ckpt`` holds no adapter.
    """
    _check_values("evaluate", config)
    _check_networks(config.metrics)
    if config.answers is not None and not Path(config.answers).exists():
        raise ConfigError(f"answers={config.answers}: there is no file or folder {Path(config.answers).absolute()}")
    if config.report or config.answers:
        return []
    _check_shown(config)
    drawing = drawn_by(config)
    _check_transformers(drawing)
    if config.ckpt is not None:
        _check_fits("ckpt", config.ckpt, config.model)
        adapter_paths(resolve(config.ckpt))
    return _drawing_lines(drawing)


def check_prepare(config: PrepareConfig) -> list[str]:
    """Refuse settings of what is prepared that contradict each other; the lines to print otherwise.

    Raises:
        ConfigError: one sentence with the value and the way out.
    """
    _check_values("prepare", config)
    if config.data.look is not None:
        raise ConfigError(f"data.look={config.data.look}: rendered footage needs no preparing; train on it as it is")
    if config.data.manifest is not None:
        raise ConfigError(f"data.manifest={config.data.manifest} is prepared already; leave it away, or train with it")
    _check_folder(config.data)
    return []


def check_study(config: StudyConfig) -> list[str]:
    """Refuse a study's settings that contradict each other; the lines to print otherwise.

    Raises:
        ConfigError: one sentence with the value and the way out.
        AdapterError: ``ckpt`` holds no adapter.
    """
    _check_values("study", config)
    _check_networks(config.metrics)
    if config.merge:
        return _check_merge(config)
    drawing = drawn_by(config)
    if config.latency_only:
        _check_latency(config)
    else:
        _check_asked(config.prompt, config.prompts)
    _check_axes(config)
    _check_transformers(drawing)
    if config.ckpt is not None:
        _check_fits("ckpt", config.ckpt, config.model)
        adapter_paths(resolve(config.ckpt))
    return _drawing_lines(
        drawing, {ClipRequest(drawing).clip_maker: [Part.TRANSFORMER]} if config.latency_only else None
    )


# Single values --------------------------------------------------------------------------------------------------------


def _check_values(
    script: Any, config: TrainConfig | InferConfig | EvaluateConfig | StudyConfig | PrepareConfig
) -> None:
    for key, setting in settings(script).items():
        value = pick(config, key)
        if value is None and not setting.optional:
            raise ConfigError(f"{key}=null: wants {setting.wants} ({setting.help})")
        if setting.choices and not setting.is_list and value not in (*setting.choices, None):
            raise ConfigError(f"{key}={value}: wants {setting.wants} ({setting.help})")
        if key in _ENCODED and value is not None:
            _check_text(key, value)
        for number in value if isinstance(value, list) else [value]:
            if isinstance(number, int | float) and not isinstance(number, bool):
                _check_number(key, number, setting.help)


def _check_number(key: str, value: float, help: str) -> None:
    if not math.isfinite(value):
        raise ConfigError(f"{key}={value}: wants a finite number ({help})")
    bounds = [
        (key not in _AT_LEAST_ONE or value >= 1, "at least 1"),
        (key not in _ABOVE_ZERO or value > 0, "more than 0"),
        (key not in _NOT_BELOW_ZERO or value >= 0, "0 or more"),
        (key not in _PARTS or 0 <= value <= 1, "from 0 to 1"),
        (key not in _SHARES | _DECAYS or 0 <= value < 1, "from 0 to below 1"),
        (key not in _SIZES or value % 16 == 0, f"a multiple of 16, such as {_near(value, 16)}"),
        (key not in _FRAMES or value % 4 == 1, f"4n+1, such as {_near(value - 1, 4) + 1}"),
    ]
    for holds, wants in bounds:
        if not holds:
            raise ConfigError(f"{key}={value:g}: wants {wants} ({help})")


def _check_text(key: str, text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ConfigError(f"{key} is not UTF-8 text from character {error.start + 1} on: type it anew") from error


def _check_networks(metrics: MetricsConfig) -> None:
    """Refuse files of networks that are not there, and a program without the hash of the one that may be run."""
    for name in ("alexnet", "i3d"):
        file = getattr(metrics, name)
        if file is not None and not Path(file).is_file():
            raise ConfigError(f"metrics.{name}={file}: there is no file {Path(file).absolute()}")
    sha256 = metrics.i3d_sha256
    if sha256 is not None and re.fullmatch(r"[0-9a-fA-F]{64}", sha256) is None:
        raise ConfigError(f"metrics.i3d_sha256={sha256}: wants 64 hexadecimal digits, as sha256sum prints them")
    if metrics.i3d is not None and sha256 is None:
        raise ConfigError(
            f"metrics.i3d={metrics.i3d} is a program, and is run only where its SHA-256 is stated: add metrics.i3d_sha256=<what "
            "sha256sum prints of it>"
        )


def _near(value: float, step: int) -> int:
    return max(step, round(value / step) * step)


def _reach_lines(key: str, num_frames: int, model: ModelConfig) -> list[str]:
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


# Training -------------------------------------------------------------------------------------------------------------


def _check_recipe(config: TrainConfig) -> None:
    recipe = config.recipe
    if recipe.stage is not None and recipe.stage != config.stage.name:
        raise ConfigError(
            f"recipe={recipe.name} is written for stage={recipe.stage}, not stage={config.stage.name}: "
            f"choose stage={recipe.stage} or leave the recipe away"
        )


def _check_stage(config: TrainConfig) -> None:
    stage, model = config.stage, config.model
    if stage.transformer == "i2v" and model.i2v is None:
        raise ConfigError(_no_i2v(model, f"stage={stage.name} stage.transformer=i2v" if stage.name == "style" else ""))
    if stage.transformer == "t2v" and model.t2v is None:
        raise ConfigError("model.t2v is empty, and stage.transformer=t2v trains on it: give model.t2v=<checkpoint>")
    _check_source(model, stage.transformer)
    if model.hidden_size % model.num_heads:
        raise ConfigError(f"model.hidden_size={model.hidden_size} does not divide into {model.num_heads} heads")
    if stage.trains_every_weight:
        scale_model("pretrain", "stage=pretrain").check(config)
    else:
        {"style": _check_style, "motion": _check_motion}[stage.name](config)


def _check_style(config: TrainConfig) -> None:
    stage = config.stage
    if stage.num_frames != 1:
        raise ConfigError(
            f"stage.num_frames={stage.num_frames}: stage=style learns from stills (1 frame); stage=motion from windows"
        )
    if stage.transformer == "t2v" and stage.image_condition:
        raise ConfigError("stage.image_condition=true: a t2v transformer takes no image; use stage.transformer=i2v")
    if stage.image_condition and not stage.allow_leak:
        raise ConfigError(
            "stage.image_condition=true shows the transformer its own answer: with one frame the mask is all ones and "
            "the condition is the clean target; train with stage.image_condition=false, on stage.transformer=t2v, or "
            "say stage.allow_leak=true"
        )
    if config.adapter is not None:
        raise ConfigError(f"adapter={config.adapter} belongs to stage=motion; stage=style starts an adapter of its own")


def _check_motion(config: TrainConfig) -> None:
    stage = config.stage
    if stage.transformer != "i2v":
        raise ConfigError("stage.transformer=t2v: stage=motion trains the image-to-video transformer; leave it at i2v")
    if not stage.image_condition:
        raise ConfigError(
            "stage.image_condition=false: stage=motion is conditioned as the model is used; leave it at true "
            "(dropout.image=<share> drops it now and then)"
        )
    if stage.num_frames == 1:
        raise ConfigError(
            "stage.num_frames=1: one frame holds no motion; stage=motion wants 5 or more (4n+1), such as 33"
        )
    if config.adapter is not None:
        _check_style_adapter(config.adapter, resolve(config.adapter, "adapter"))
        _check_fits("adapter", config.adapter, config.model)


def _check_style_adapter(text: str, source: Path) -> None:
    if is_run(source) and not RunDirectory(source).adapter("style").is_file():
        raise ConfigError(
            f"adapter={text}: that run of stage={load_config(source).stage.name} holds no style.safetensors; "
            "give a finished run of stage=style"
        )


def _check_fits(key: str, text: str, model: ModelConfig) -> None:
    """Refuse an adapter of a model of another shape, where it says what it was trained on."""
    theirs = trained_on(resolve(text, key))
    if theirs is not None and _shape(theirs) != _shape(model):
        raise ConfigError(
            f"{key}={text} was trained on {_described(theirs)}, this run is on {_described(model)}: "
            f"choose model={theirs.name}"
        )


def _check_source(model: ModelConfig, kind: str) -> None:
    for key in (kind, "vae", "text_encoder", "tokenizer", "image_encoder"):
        source = getattr(model, key)
        if source is not None and not is_model_source(source):
            embedded = f", or one of {', '.join(EMBEDDED)}" if key == kind else ""
            raise ConfigError(
                f"model.{key}={source}: wants a directory or file that is there, a hub repository owner/name{embedded}"
            )


def _trained_parts(config: TrainConfig) -> list[Part]:
    """The parts that a training run loads, the transformer first."""
    return [part for part in Part if part is not Part.IMAGE_ENCODER or config.stage.image_condition]


def _sampled_parts(config: InferConfig) -> dict[str, list[Part]]:
    """The parts that make clips, of each checkpoint that takes part; the first one's encoders read the prompts."""
    request = ClipRequest(config)
    text = {request.prompt_reader: [Part.TEXT_ENCODER, Part.TOKENIZER]}
    image = {"i2v": [Part.IMAGE_ENCODER]}
    return {
        kind: [Part.TRANSFORMER, *text.get(kind, []), Part.VAE, *image.get(kind, [])] for kind in request.transformers
    }


def _model_lines(model: ModelConfig, parts: dict[str, list[Part]]) -> list[str]:
    """Refuse parts that lie on this machine and are not whole, or not what they should be; a word on how they are read."""
    lines: list[str] = []
    for kind, wanted in parts.items():
        try:
            lines += survey(model, kind, wanted)
        except ModelError as error:
            raise ConfigError(f"model.{kind}={model.t2v if kind == 't2v' else model.i2v}: {error}") from error
    drawn = {part: None for kind, wanted in parts.items() for part in wanted if source_of(model, kind, part) is None}
    return [*dict.fromkeys(lines), *_random_lines(model, list(drawn))]


def _random_lines(model: ModelConfig, drawn: list[Part]) -> list[str]:
    if model.weights != "random":
        return []
    lines = [
        f"WARNING: model.weights=random: the values of {', '.join(drawn)} are drawn, nothing in them was learnt: time and "
        "memory are those of the real shapes, clips are noise and adapters worth nothing"
    ]
    if Part.TEXT_ENCODER in drawn:
        size = "23 GB" if model.dtype == "fp32" else "11 GB"
        lines.append(f"prompts are encoded by a whole UMT5-XXL, {size}; model.text_encoder=<folder> takes another")
    return lines


def _shape(model: ModelConfig) -> tuple[int, int]:
    return model.num_layers, model.hidden_size


def _described(model: ModelConfig) -> str:
    return f"{model.name} ({model.num_layers} blocks of width {model.hidden_size})"


def _no_i2v(model: ModelConfig, where: str) -> str:
    what = where or "stage=motion"
    others = "|".join(name for name in models_with_i2v())
    return f"{model.name} has no image-to-video transformer, which {what} trains: choose model={others}"


def _check_memory(config: TrainConfig) -> None:
    memory = config.memory
    recompute, swap = memory.recompute, memory.swap or 0.0
    if swap > (0.0 if recompute is None else recompute):
        said = "null" if recompute is None else f"{recompute:g}"
        raise ConfigError(
            f"memory.swap={swap:g} wants as many blocks recomputed, not memory.recompute={said}: "
            f"a graph would hold the weights that are fetched; add memory.recompute={swap:g}"
        )
    if memory.offload and not recompute:
        raise ConfigError(
            "memory.offload=true is for the inputs of recomputed blocks, and none is asked for: choose memory=offload"
        )


def _check_push(config: TrainConfig) -> None:
    if config.push:
        check_target(config.push)
    elif config.private:
        raise ConfigError("private=true says how push=owner/name makes its repository, and there is no push=: add it")


def _check_strategy(config: TrainConfig) -> None:
    ranks, name = config.gpus * config.nodes, config.strategy.name
    if name == "single" and ranks > 1:
        raise ConfigError(f"strategy=single runs one rank, not {ranks}: choose strategy=ddp, or gpus=1 nodes=1")
    if ranks % config.strategy.sequence:
        divisors = [str(count) for count in range(1, ranks + 1) if ranks % count == 0]
        raise ConfigError(
            f"strategy.sequence={config.strategy.sequence} does not divide {_count(ranks, 'rank')} (gpus x nodes): use one of "
            f"{', '.join(divisors)}, or another number of gpus"
        )
    if config.strategy.cpu_offload and not zero_level(config.strategy):
        raise ConfigError(
            f"strategy.cpu_offload=true with strategy={name}: what lies on the host there is ZeRO's; choose strategy=zero2, "
            "or memory=swap, which moves frozen weights without it"
        )
    if zero_level(config.strategy) and importlib.util.find_spec("deepspeed") is None:
        raise ConfigError(f'strategy={name} is DeepSpeed, which is not installed: pip install "cinelora[sharding]"')
    if zero_level(config.strategy) == 3:
        _check_shared(config)


def _check_shared(config: TrainConfig) -> None:
    """Refuse what does not go with weights of which every rank has a part."""
    memory, stage = config.memory, config.stage
    if memory.swap:
        raise ConfigError(
            f"memory.swap={memory.swap:g} with strategy=zero3: the weights are shared, each rank's part on the host with "
            "strategy.cpu_offload=true; choose that and memory=offload"
        )
    if memory.recompute is not None and memory.recompute < 1:
        raise ConfigError(
            f"memory.recompute={memory.recompute:g} with strategy=zero3: a graph would hold the weights that are brought "
            "block by block; choose memory=recompute"
        )
    if config.preview.every_steps or config.validation.clips:
        key = "preview.every_steps" if config.preview.every_steps else "validation.clips"
        raise ConfigError(
            f"{key}={pick(config, key)} with strategy=zero3: ranks that share the weights cannot draw apart; "
            f"set {key}=0, or choose strategy=zero2"
        )
    if stage.image_condition and config.dropout.image and stage.batch_size > 1:
        raise ConfigError(
            f"dropout.image={config.dropout.image:g} with strategy=zero3 and stage.batch_size={stage.batch_size}: samples "
            "without their image run apart, and ranks that share the weights must run equally often; choose "
            "stage.batch_size=1 with stage.accumulation, or dropout.image=0"
        )


def _check_names(config: TrainConfig | EvaluateConfig) -> None:
    for key, name in (("data.name", config.data.name), ("model.name", config.model.name)):
        if not is_plain_name(name):
            raise ConfigError(f"{key}={name!r}: wants one word of letters, digits, . _ and -, as it names a directory")


def _check_data(config: TrainConfig | EvaluateConfig) -> None:
    data = config.data
    if data.look is None:
        _check_folder(data)
    elif data.root is not None:
        raise ConfigError(f"data.look={data.look} with data.root={data.root}: footage is rendered or read, not both")
    else:
        need_clone(f"data={data.name}")
    if Path(config.cache).exists() and not Path(config.cache).is_dir():
        raise ConfigError(f"cache={config.cache} is a file; give a folder, new or old")


def _check_folder(data: DataConfig) -> None:
    if data.root is None:
        raise ConfigError(f"data={data.name} needs a folder with clips: data.root=<folder>")
    if not Path(data.root).is_dir():
        what = "is a file, not a folder" if Path(data.root).is_file() else "does not exist"
        if data.root.startswith("~"):
            what += " (the shell leaves ~ as it is here: write $HOME)"
        raise ConfigError(f"data.root={data.root}: {Path(data.root).absolute()} {what}; give a folder with clips")
    for name in ("manifest", "overrides", "lut"):
        file = getattr(data, name)
        if file is not None and not Path(file).is_file():
            raise ConfigError(f"data.{name}={file}: there is no file {Path(file).absolute()}")
    if data.captioner is not None:
        from cinelora.footage.captioner import refuse_folder

        refuse_folder(Path(data.captioner))


def _check_monitors(config: TrainConfig) -> None:
    """Refuse to wait for a number that is never logged, or of which nobody says whether more or less of it is better."""
    stopping, checkpoint, validation = config.stopping, config.checkpoint, config.validation
    if stopping.monitor is None and stopping != StoppingConfig():
        raise ConfigError("stopping.* has no effect without a number to look at: add stopping.monitor=heldout/loss")
    if checkpoint.best is None and checkpoint.best_mode is not None:
        raise ConfigError(f"checkpoint.best_mode={checkpoint.best_mode} is for checkpoint.best: add heldout/loss")
    if validation.clips and not validation.every_steps:
        raise ConfigError(
            "validation.clips are drawn with validation.every_steps, which is 0: give it, or leave them away"
        )
    modes = {"stopping.monitor": "stopping.mode", "checkpoint.best": "checkpoint.best_mode"}
    for key, name in monitors(config):
        if name not in (there := logged(config)):
            near = difflib.get_close_matches(name, there, n=1)
            guess = f", did you mean {near[0]}" if near else ""
            raise ConfigError(f"{key}={name} is not logged by this run{guess}; there are {_listed(there)}")
        if better(name) is None and pick(config, modes[key]) is None:
            raise ConfigError(
                f"{key}={name}: neither more nor less of it is better in itself; say {modes[key]}=min|max"
            )


def _listed(names: list[str]) -> str:
    """The names, blocks as a range."""
    blocks = [name for name in names if name.startswith(update_of_block(0)[:-2])]
    listed = [name for name in names if name not in blocks[1:-1]]
    return ", ".join(f"... {name}" if name in blocks[1:] else name for name in listed)


def _batch_line(config: TrainConfig) -> str:
    stage = config.stage
    parts = [f"batch {stage.batch_size}", _count(config.gpus, "GPU")]
    parts += [_count(config.nodes, "node")] if config.nodes > 1 else []
    shared = f" / {config.strategy.sequence} a sequence" if config.strategy.sequence > 1 else ""
    return " x ".join(parts) + f"{shared} x {stage.accumulation} accumulation = {samples_per_step(config)}"


def _sequence_lines(config: TrainConfig) -> list[str]:
    """How ranks share each sample's sequence, and why so."""
    sequence, heads = config.strategy.sequence, config.model.num_heads
    if sequence == 1:
        return []
    from cinelora.parallel.partition import share_samples

    plan, tokens = share_samples(config), _tokens(config.model, config.stage.num_frames)
    each = f"strategy.sequence={sequence}: {tokens} tokens / {sequence} = {-(-tokens // sequence)} a rank"
    if plan.ring == 1:
        return [f"{each}, {heads} heads / {sequence} = {heads // sequence} each (Ulysses)"]
    shared = f"groups of {plan.ulysses} share heads, and " if plan.ulysses > 1 else ""
    return [f"{each}; {heads} heads do not divide by {sequence}: {shared}keys go round a ring of {plan.ring}"]


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


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


def _adapter_lines(config: TrainConfig) -> list[str]:
    if config.stage.name == "motion" and config.adapter is None:
        return ["no adapter=: motion is learnt above the base model, without a style adapter under it"]
    return []


# Inference ------------------------------------------------------------------------------------------------------------


def _check_asked(prompt: str | None, prompts: str | None) -> None:
    """Refuse no prompt, or two kinds of them."""
    if (prompt is None) == (prompts is None):
        found = "neither is" if prompt is None else "both are"
        raise ConfigError(f"{found} given: say prompt='what the clip shows', or prompts=<file with one prompt a line>")
    if prompts is not None:
        read_prompts(prompts)


def _check_request(config: InferConfig) -> None:
    _check_asked(config.prompt, config.prompts)
    if config.image is not None and config.mode == "t2v":
        raise ConfigError(
            f"image={config.image} with mode=t2v: that transformer takes no image; leave mode or image away"
        )
    if config.image is not None and not Path(config.image).is_file():
        raise ConfigError(f"image={config.image}: there is no file {Path(config.image).absolute()}")


def _check_shown(config: EvaluateConfig) -> None:
    """Refuse an evaluation that has nothing to draw."""
    data = config.data
    if not data.name and (data.root or data.look):
        raise ConfigError(f"data.root={data.root} without data=: add data=folder")
    if not data.name and config.prompts is None:
        raise ConfigError(
            "neither data= nor prompts= is given: say data=<held-out clips> (their captions are drawn, and they are what is "
            "compared with), or prompts=<file with one prompt a line>"
        )
    if data.name:
        _check_names(config)
        _check_data(config)
    if config.prompts is not None:
        read_prompts(config.prompts)


def _check_merge(config: StudyConfig) -> list[str]:
    """Refuse studies that are not there, and a merge that would lie nowhere."""
    if config.out is None:
        raise ConfigError("merge= puts studies into one: add out=<directory>, where it goes")
    for text in config.merge:
        if not (Path(text) / "rows.json").is_file():
            raise ConfigError(f"merge: {text} holds no rows.json; give run directories of cinelora.study")
    return []


def _check_latency(config: StudyConfig) -> None:
    if config.prompt is not None or config.prompts is not None:
        raise ConfigError("latency_only=true draws its inputs: leave prompt= and prompts= away")
    if config.steps:
        raise ConfigError(
            f"steps={config.steps}: latency_only=true times latency_steps={config.latency_steps} of any clip"
        )


def _check_axes(config: StudyConfig) -> None:
    """Refuse lists that have nothing to act on."""
    adapted = config.ckpt is not None or (config.latency_only and config.ranks)
    for key in ("ranks", "scales", "merged"):
        if getattr(config, key) and not adapted:
            way_out = "ckpt=<run>" + (", or ranks=[8] for drawn adapters" if config.latency_only else "")
            raise ConfigError(f"{key}={getattr(config, key)}: there is no adapter to study; add {way_out}")
    if config.sampler.cache != "none":
        raise ConfigError(
            f"sampler.cache={config.sampler.cache}: the baseline of a study is drawn in full; caches are studied by "
            "first_block=, taylorseer= and magcache="
        )
    ranks = config.gpus * config.nodes
    if ranks == 1 and set(config.partitions) - {"alone"}:
        raise ConfigError(f"partitions={config.partitions}: one rank shares a clip with nobody; add gpus=2 or more")
    given = [f"sampler.{name}" for name in SHARING if getattr(config.sampler, name) not in (None, "auto")]
    if given:
        raise ConfigError(f"{given[0]} has no effect in a study: choose partitions={list(PARTITIONS)}")
    for way in config.partitions:
        partition_of(shared_by(config, way))


def _check_transformers(config: InferConfig) -> None:
    model = config.model
    request = ClipRequest(config)
    if request.is_scene and model.i2v is None:
        others = "|".join(models_with_i2v())
        raise ConfigError(
            f"{model.name} has no image-to-video transformer, which mode=scene needs: mode=t2v, or model={others}"
        )
    if model.t2v is None and "t2v" in request.transformers:
        raise ConfigError("model.t2v is empty: give model.t2v=<checkpoint>, or start from image=<file>")
    for kind in request.transformers:
        _check_source(model, kind)


def _drawing_lines(config: InferConfig, parts: dict[str, list[Part]] | None = None) -> list[str]:
    """What follows for clips from how they are drawn, by ``parts`` or all it takes; refuses what cannot be."""
    _check_cache(config)
    reach = _reach_lines("num_frames", ClipRequest(config).num_frames, config.model)
    model = _model_lines(config.model, parts or _sampled_parts(config))
    return [_clip_line(config), *reach, *_partition_lines(config), *model]


def _check_cache(config: InferConfig) -> None:
    """Refuse a cache that would do nothing, or what it cannot do."""
    sampler = config.sampler
    threshold, name = sampler.cache_threshold, sampler.cache
    if threshold is not None and name not in CACHE_THRESHOLDS:
        raise ConfigError(
            f"sampler.cache_threshold={threshold:g} has no effect with sampler.cache={name}: "
            f"choose sampler.cache={'|'.join(CACHE_THRESHOLDS)}, or leave it away"
        )
    if name == "taylorseer" and threshold is not None and threshold % 1:
        raise ConfigError(
            f"sampler.cache_threshold={threshold:g}: with taylorseer it is the steps foretold after each whole one, "
            "a whole number"
        )
    if (name == "magcache") != bool(sampler.cache_ratios):
        given = "given" if sampler.cache_ratios else "not given"
        raise ConfigError(
            f"sampler.cache_ratios is {given} and sampler.cache={name}: magcache alone wants the ratios of its model; "
            "draw one clip with sampler.cache=calibrate, which says them"
        )
    if not all(math.isfinite(ratio) and ratio > 0 for ratio in sampler.cache_ratios):
        raise ConfigError("sampler.cache_ratios: wants numbers above 0, as sampler.cache=calibrate says them")


def _clip_line(config: InferConfig) -> str:
    model, frames = config.model, ClipRequest(config).num_frames
    seconds = frames / model.fps
    tokens = _tokens(model, frames)
    return f"{frames} frames of {model.height}x{model.width} at {model.fps} fps = {seconds:.2f} s, {tokens} tokens"


def _tokens(model: ModelConfig, num_frames: int) -> int:
    """Sequence length of a clip: latent frames x patches; the VAE takes 8x8x4, a patch 2x2 of that."""
    return ((num_frames - 1) // 4 + 1) * (model.height // 16) * (model.width // 16)


def _partition_lines(config: InferConfig) -> list[str]:
    """How ranks share a clip, and why; refuses what cannot be."""
    _, line = partition_of(config)
    return [line] if config.gpus * config.nodes > 1 else []
