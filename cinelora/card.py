"""The card of an adapter: ``README.md`` as model hubs expect it beside the adapter, and the upload of both.

Enters: the directory of a run. Leaves: its card, or one commit on the hub. What was typed (prompts, trigger words, names) is
data here: front matter is written by a YAML library, text is escaped. No place on this machine is told, and no training
caption. It does not know how anything in the run came about.

python -m cinelora.card run=<run>                                writes <run>/README.md anew
python -m cinelora.card run=<run> push=owner/name private=true   and uploads adapters, card, settings and sample pictures
"""

from __future__ import annotations

import dataclasses
import json
import re
import shlex
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from cinelora.adapters.run_directory import KINDS, RunDirectory
from cinelora.config.schema import TrainConfig, effective_lr, samples_per_step, setting
from cinelora.config.store import load_config, portable
from cinelora.errors import ConfigError
from cinelora.footage.captions import prompt_with_trigger
from cinelora.footage.manifest import read_manifest
from cinelora.io.atomic import read_json, write_text
from cinelora.io.hub import CONFIG_FILE, is_hub_name, is_run, publish
from cinelora.io.tensor_files import read_header, with_metadata
from cinelora.verdict import effect_line, stopped_line

TASKS = {"t2v": "text-to-video", "i2v": "image-to-video"}
HERE = "."
"""What code on a card names the adapter's folder by, where it is not on the hub."""
PROJECT = "https://arxiv.org/abs/2510.27364"


@dataclass(frozen=True)
class CardRequest:
    """Write the card of a finished run again, and upload its adapters with it where push= says so.

    python -m cinelora.card run=<run>
    python -m cinelora.card run=<run> push=owner/name private=true
    """

    run: str = setting("", role="run")
    """directory of a finished run of train.py"""
    push: str = setting("", role="note")
    """hub repository, owner/name, that adapters and card are uploaded to"""
    private: bool = setting(False)
    """push: make a new repository a private one"""


@dataclass(frozen=True)
class Record:
    """What a run says of itself; ``name`` is that of its stage, ``task`` what its transformer does."""

    run: RunDirectory
    config: TrainConfig
    summary: dict[str, Any]

    @property
    def name(self) -> str:  # noqa: D102
        return self.config.stage.name

    @property
    def task(self) -> str:  # noqa: D102
        return TASKS[self.config.stage.transformer]

    @property
    def base(self) -> str | None:
        """The trained checkpoint's name on the hub, where it has one."""
        model = self.config.model
        source = model.t2v if self.config.stage.transformer == "t2v" else model.i2v
        return source if source is not None and is_hub_name(source) else None

    @property
    def files(self) -> list[str]:
        """The adapters in the order in which they are loaded."""
        paths = [self.run.adapter(kind) for kind in KINDS]
        return [path.name for path in paths if path.is_file()]

    @property
    def pictures(self) -> list[Path]:
        """The latest preview: clips or stills, and the contact sheet beside the base model's."""
        found = sorted(path for path in self.run.previews.glob("step-*") if path.suffix in (".png", ".mp4"))
        return [path for path in found if path.name[:13] == found[-1].name[:13]]

    @property
    def prompt(self) -> str:
        """A prompt to try it with, behind the trigger word."""
        return prompt_with_trigger(self.config.preview.prompt or "a man walks down a street", self.config.data.trigger)


def read_record(run: RunDirectory) -> Record:
    """What there is to tell of a run; raises ``ConfigError`` where it is none, or has no adapter to tell of."""
    if not is_run(run.path):
        raise ConfigError(f"run={run.path} holds no {CONFIG_FILE}: give the directory of a run of train.py")
    config = load_config(run.path)
    if config.stage.name == "pretrain":
        raise ConfigError(f"run={run.path} is of stage=pretrain, which trains no adapter: there is no card for it")
    if not run.summary.is_file():
        raise ConfigError(f"run={run.path} is not finished: go on with python train.py {_word(f'resume={run.path}')}")
    if not run.adapter(config.stage.name).is_file():
        raise ConfigError(f"run={run.path} holds no {run.adapter(config.stage.name).name}: there is nothing to tell of")
    return Record(run, config, read_json(run.summary))


def write_card(record: Record) -> None:
    """Write ``README.md`` beside the adapter, whole or not at all."""
    write_text(record.run.card, card(record, HERE))


def card(record: Record, repository: str) -> str:
    """The whole card; ``repository`` is what its code loads the adapter from."""
    parts = [about(record), trained_on(record), settings(record), numbers(record), use(record, repository)]
    front = yaml.safe_dump(front_matter(record), sort_keys=False, allow_unicode=True, width=120)
    return (
        f"---\n{front}---\n\n" + "\n\n".join(part for part in [*parts, samples(record), limits(record)] if part) + "\n"
    )


def front_matter(record: Record) -> dict[str, Any]:
    """What a hub reads of a card, https://huggingface.co/docs/hub/model-cards; what is not known, a licence too, is left out."""
    facts = {
        "base_model": record.base,
        "base_model_relation": "adapter" if record.base else None,
        "library_name": "diffusers",
        "pipeline_tag": record.task,
        "tags": ["lora", record.task, "diffusers", "wan"],
        "instance_prompt": record.config.data.trigger,
        "widget": [
            {"text": record.prompt if record.config.preview.prompt else "-", "output": {"url": f"previews/{path.name}"}}
            for path in record.pictures
            if not path.stem.endswith("-sheet")
        ],
    }
    return {key: value for key, value in facts.items() if value}


# -- sections ----------------------------------------------------------------------------------------------------------


def about(record: Record) -> str:
    """What it is."""
    config = record.config
    base = f"[{_text(record.base)}](https://huggingface.co/{record.base})" if record.base else _text(config.model.name)
    learnt = (
        "a look, from stills" if record.name == "style" else f"motion, from windows of {config.stage.num_frames} frames"
    )
    lines = [
        f"# {_text(config.data.name)}: {record.name} adapter for {_text(config.model.name)}",
        "",
        f"A LoRA on the {record.task} transformer of {base}, in `{record.run.adapter(record.name).name}`. It learnt {learnt}, "
        f"as stage `{record.name}` of cinelora (after [arXiv 2510.27364]({PROJECT})).",
    ]
    if record.name == "motion" and "style.safetensors" in record.files:
        lines.append("It was trained on top of the style adapter `style.safetensors`, and belongs with it.")
    return "\n".join(lines)


def trained_on(record: Record) -> str:
    """Which footage, without where it lies; and the word that calls it up."""
    data, manifest = record.config.data, read_manifest(record.run.manifest)
    training = [sample for sample in manifest.samples if sample.split == "train"]
    what = "window" if record.config.stage.num_frames > 1 else "still"
    origin = f", rendered in the look {data.look}" if data.look else ""
    lines = [
        "## Trained on",
        "",
        f"{_text(data.name)}{origin}: {_count(len(training), what)} of {_count(len({s.path for s in training}), 'clip')}; "
        f"{len(manifest.samples) - len(training)} held out. Data hash `{record.summary['data_hash']}`.",
        "",
        "## Trigger words",
        "",
        f"Begin prompts with: **{_text(data.trigger)}**"
        if data.trigger
        else "None: write prompts as the captions were.",
    ]
    return "\n".join(lines)


def settings(record: Record) -> str:
    """What it was trained with."""
    from cinelora.nn.flow_matching import resolution_shift

    config, model = record.config, record.config.model
    shift = resolution_shift(model.height, model.width) if config.flow.shift is None else config.flow.shift
    rows = {
        "rank, alpha": f"{config.lora.rank}, {config.lora.alpha:g}; alpha / rank is inside the file",
        "targets": config.lora.targets,
        "learning rate": f"{effective_lr(config):g}, {config.optimizer.schedule}",
        "steps": f"{record.summary['step']}, of {_count(samples_per_step(config), 'sample')}",
        "size": f"{_sizes(record)}, {_count(config.stage.num_frames, 'frame')}, {model.fps} fps",
        "sigma shift": f"{shift:.3g}",
        "seed": f"{config.seed}",
        "base in": model.dtype,
    }
    rows |= {"moving average": f"{config.ema_decay:g}"} if config.ema_decay else {}
    return _table("Settings", ("setting", "value"), [(key, _text(value)) for key, value in rows.items()])


def _sizes(record: Record) -> str:
    """Width and height of what was trained on, the most frequent first."""
    model = record.config.model
    training = (sample for sample in read_manifest(record.run.manifest).samples if sample.split == "train")
    sizes = Counter(sample.size or (model.height, model.width) for sample in training)
    return " and ".join(f"{width}x{height}" for (height, width), _ in sizes.most_common())


def numbers(record: Record) -> str:
    """What was measured while it was trained."""
    summary, rows = record.summary, list[tuple[str, ...]]()
    for key, name, form in NUMBERS:
        if summary.get(key) is not None:
            rows.append((name, form.format(summary[key]), ""))
    base = summary.get("heldout_clips_base") or {}
    for name, value in (summary.get("heldout_clips") or {}).items():
        rows.append((f"{name}, of held-out clips", f"{value:.4g}", f"{base[name]:.4g}" if name in base else ""))
    if rows and summary.get("heldout_step") not in (None, summary["step"]):
        rows.append(("held-out samples were last looked at in step", str(summary["heldout_step"]), ""))
    return _table("Metrics", ("what", "value", "the base's"), rows) if rows else ""


NUMBERS = (
    ("heldout_loss", "held-out loss at fixed noise levels", "{:.4f}"),
    ("heldout_vs_base", "the same against the base", "{:+.1%}"),
    ("heldout_change", "the same against the start of training", "{:+.1%}"),
    ("prediction_effect", "relative change of predictions", "{:.2%}"),
    ("adapter_effect", "size of the update against the weights", "{:.2%}"),
)
"""Key in a summary, what it is called, and how it is written."""


def use(record: Record, repository: str) -> str:
    """How to load it, in three tools."""
    ckpt = f"ckpt=hub:{repository}" if repository != HERE else "ckpt=path/of/this/folder"
    what = "Wan2.1 image-to-video" if record.config.stage.transformer == "i2v" else "Wan2.1 text-to-video"
    order = " then ".join(f"`{name}`" for name in record.files)
    return "\n".join(
        [
            *("## Use", "", "diffusers:", "", _fenced("python", diffusers_code(record, repository)), ""),
            f"ComfyUI: put {order} into `models/loras`, and load with LoraLoaderModelOnly, strength 1, behind the {what} model.",
            *("", "cinelora:", "", _fenced("sh", f"python infer.py {ckpt} {_word(f'prompt={record.prompt}')}")),
        ]
    )


def diffusers_code(record: Record, repository: str) -> str:
    """A program that makes a clip with the adapter; it names the base by its place on the hub, if it has one there."""
    config, is_i2v = record.config, record.config.stage.transformer == "i2v"
    model, pipeline = config.model, "WanImageToVideoPipeline" if is_i2v else "WanPipeline"
    base = record.base or f"<directory of {model.name}, {record.task}>"
    names = [name.removesuffix(".safetensors") for name in record.files]
    lines = [
        "# pip install diffusers transformers peft ftfy imageio imageio-ffmpeg",
        "import torch",
        f"from diffusers import {pipeline}",
        f"from diffusers.utils import export_to_video{', load_image' if is_i2v else ''}",
        "",
        f"pipeline = {pipeline}.from_pretrained({_literal(base)}, torch_dtype=torch.bfloat16)",
        'pipeline.to("cuda")',
    ]
    for name in names:
        lines.append(
            f"pipeline.load_lora_weights({_literal(repository)}, weight_name={_literal(f'{name}.safetensors')}, "
            f"adapter_name={_literal(name)})"
        )
    if len(names) > 1:
        lines.append(f"pipeline.set_adapters({json.dumps(names)})")
    size = f"height={model.height}, width={model.width}, num_frames={model.num_frames}"
    lines += [
        "video = pipeline(",
        *([f'    image=load_image("keyframe.png").resize(({model.width}, {model.height})),'] if is_i2v else []),
        f"    prompt={_literal(record.prompt)},",
        f"    {size},",
        ").frames[0]",
        f'export_to_video(video, "clip.mp4", fps={model.fps})',
    ]
    return "\n".join(lines)


def samples(record: Record) -> str:
    """The latest preview, from fixed noise."""
    if not record.pictures:
        return ""
    lines = [
        f"## Samples\n\nStep {int(record.pictures[0].name[5:13])}, from fixed noise; a sheet shows the base model above."
    ]
    for path in record.pictures:
        place = f"previews/{path.name}"
        lines.append(f"![{path.stem}]({place})" if path.suffix == ".png" else f"[{path.name}]({place})")
    return "\n\n".join(lines)


def limits(record: Record) -> str:
    """What it is not good for."""
    summary, model = record.summary, record.config.model
    effect = effect_line(summary)
    lines = [effect.removeprefix("WARNING: ")] if effect.startswith("WARNING") else []
    if summary["weights"] == "random":
        lines.append("Trained on random weights, to take its time and memory: it is worth nothing.")
    if model.name == "tiny":
        lines.append(
            "Its base is cinelora's embedded model, which draws small rendered scenes: it fits no other model."
        )
    if summary["interrupted"]:
        lines.append(f"Stopped at step {summary['step']} of {summary['steps']}: training is not finished.")
    if early := summary.get("stopped_early"):
        lines.append(stopped_line(early, summary))
    if record.name == "style":
        lines.append("It saw stills alone: how things move is the base model's.")
    return "## Limits\n\n" + "\n".join(f"- {_text(line)}" for line in lines) if lines else ""


# -- text that was typed by someone ------------------------------------------------------------------------------------


def _text(value: str) -> str:
    """One line of Markdown that shows ``value`` as it is: no mark-up, HTML, link or mention, and no end of a table's cell."""
    line = "".join(char for char in " ".join(value.split()) if char.isprintable())
    return re.sub(r"([\\`*_\[\]<>|#~&!$@]|:(?=//)|(?<=www)\.)", r"\\\1", line)


def _literal(value: str) -> str:
    """A string in Python, in ASCII where it has to be."""
    return json.dumps(value, ensure_ascii=any(not char.isprintable() for char in value))


def _word(value: str) -> str:
    """A word of a shell, on one line."""
    return shlex.quote(" ".join(value.split()))


def _fenced(language: str, code: str) -> str:
    """Code in a fence that is longer than any in it."""
    longest = max((len(ticks) for ticks in re.findall("`+", code)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{code}\n{fence}"


def _table(title: str, head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [f"## {title}", "", f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


# -- upload ------------------------------------------------------------------------------------------------------------


def push(record: Record, repository: str, private: bool = False) -> str:
    """Upload a finished run's adapters, card, settings and samples as one commit; returns its address.

    Raises ``ConfigError``, also where the hub or the network refuses.
    """
    run = record.run
    if record.summary["interrupted"]:
        raise ConfigError(
            f"push={repository}: run={run.path} stopped at step {record.summary['step']} of {record.summary['steps']}; "
            f"go on with python train.py {_word(f'resume={run.path}')}"
        )
    shared = portable(dataclasses.asdict(record.config))
    files: dict[str, Path | bytes] = {
        "README.md": card(record, repository).encode(),
        CONFIG_FILE: yaml.safe_dump(shared, sort_keys=False, allow_unicode=True, width=120).encode(),
        **{f"previews/{path.name}": path for path in record.pictures},
        **{name: shareable(run.path / name) for name in record.files},
    }
    return publish(repository, files, f"{record.name} adapter, step {record.summary['step']}", private)


def shareable(path: Path) -> bytes:
    """An adapter file without the places on this machine that settings in its header may name."""
    metadata = read_header(path).get("__metadata__", {})
    if "config" not in metadata:
        return path.read_bytes()
    return with_metadata(path, metadata | {"config": json.dumps(portable(json.loads(metadata["config"])))})


def write(request: CardRequest) -> None:
    """Write the card, print where it is, and upload it where that is asked for."""
    if not request.run:
        raise ConfigError("say which run: python -m cinelora.card run=<run> [push=owner/name] [private=true]")
    record = read_record(RunDirectory(Path(request.run)))
    write_card(record)
    print(f"card {record.run.card}")
    if request.push:
        print(f"uploaded: {push(record, request.push, request.private)}")


def main(argv: list[str]) -> int:
    """The command; returns its exit code."""
    from cinelora.cli.programs import Program
    from cinelora.cli.small_command import run_small

    return run_small(Program("cinelora.card", CardRequest), argv, write)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
