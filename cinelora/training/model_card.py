"""The card of an adapter: ``README.md`` as model hubs expect it beside the adapter, and the upload of both.

Enters: the directory of a run. Leaves: its card, or one commit on the hub. What was typed (prompts, trigger words, names) is
data here: front matter is written by a YAML library, text is escaped. No path of this machine is on it, and no training
caption. It does not know how anything in the run came about.
"""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import yaml
from markupsafe import Markup

from cinelora.adapters.run_directory import RunDirectory, RunSummary, WholeSummary, lessons_in
from cinelora.config.clip_request import stage_and_expert
from cinelora.config.lessons import expert_of, of_both
from cinelora.config.schema import TrainConfig, effective_lr, samples_per_step
from cinelora.config.store import load_config, portable
from cinelora.errors import ConfigError
from cinelora.families import experts_of, family_of, has_experts
from cinelora.families.family import Expert, Family, Network, suffixed
from cinelora.footage.captions import prompt_with_trigger
from cinelora.footage.manifest import Sample, read_manifest
from cinelora.io.atomic import write_text
from cinelora.io.html.template import render
from cinelora.io.hub import CONFIG_FILE, is_hub_name, is_run, publish
from cinelora.io.own_files import read_inside
from cinelora.io.tensor_files import read_header, with_metadata
from cinelora.io.terminal import shell_word
from cinelora.training.verdict import effect_line, stopped_line

HERE = "."
"""What code on a card names the adapter's folder by, where it is not on the hub."""


@dataclass(frozen=True)
class Lesson:
    """What a run says of the transformer, or of one of the two experts, that it has taught."""

    run: RunDirectory
    config: TrainConfig
    summary: RunSummary

    @property
    def expert(self) -> str:
        """The expert; empty where a transformer has none."""
        return self.run.expert

    @property
    def file(self) -> Markup:
        """The name of its adapter: of our own words alone, which stand in code on the card."""
        return Markup(self.run.adapter(self.config.stage.name).name)

    @property
    def levels(self) -> tuple[float, float]:
        """The noise levels that it was taught."""
        return expert_of(self.config).taught

    @property
    def lr(self) -> float:
        """The learning rate."""
        return effective_lr(self.config)

    @property
    def numbers(self) -> list[tuple[str, str, str]]:
        """What was measured while it was trained."""
        return numbers(self.summary)

    @property
    def effect(self) -> str:
        """Whether it learnt anything."""
        return effect_line(self.summary)

    @property
    def stopped(self) -> str:
        """Why it ended early, if it did."""
        early = self.summary.get("stopped_early")
        return stopped_line(early, self.summary) if early else ""

    @property
    def pictures(self) -> list[Path]:
        """The latest preview: clips or stills, and the contact sheet beside the base model's."""
        found = sorted(path for path in self.run.previews.glob("step-*") if path.suffix in (".png", ".mp4"))
        return [path for path in found if path.name[:13] == found[-1].name[:13]]


@dataclass(frozen=True)
class Record:
    """What a run says of itself; ``task`` is what its transformer does."""

    run: RunDirectory
    config: TrainConfig
    summary: RunSummary | WholeSummary

    @property
    def lessons(self) -> list[Lesson]:
        """What it has taught: one transformer, or as many of the experts as it has come to."""
        if "adapter_effect" in self.summary:
            return [Lesson(self.run, self.config, cast("RunSummary", self.summary))]
        every = lessons_in(of_both(self.config), self.run.path)
        found = ((own, lesson, suffixed(lesson.stage.name, own.expert)) for lesson, own in every)
        ended = self.summary["lessons"]
        return [Lesson(own, lesson, ended[role]) for own, lesson, role in found if role in ended]

    @property
    def experts(self) -> list[Expert]:
        """The experts of the network, in order of falling noise; none where it is one transformer."""
        found = experts_of(self.config.model, self.network.name)
        return [expert for expert in found if expert.name]

    @property
    def family(self) -> Family:
        """The facts of the model's family."""
        return family_of(self.config.model)

    @property
    def for_comfy(self) -> Markup:
        """The name of the adapter's file for ComfyUI, where that is another one."""
        return Markup(self.place(self.run.for_comfy(self.config.stage.name)))

    @property
    def has_file_for_comfy(self) -> bool:
        """Whether there is one."""
        return self.run.for_comfy(self.config.stage.name).is_file()

    @property
    def network(self) -> Network:
        """That which was trained on."""
        return family_of(self.config.model).network(self.config.stage.transformer)

    @property
    def task(self) -> str:  # noqa: D102
        return self.network.task

    @property
    def base(self) -> str | None:
        """The trained checkpoint's name on the hub, where it has one."""
        return _on_hub(self.config.model.source(self.network.name))

    @property
    def adapters(self) -> list[str]:
        """The adapters in the order in which they are loaded."""
        return list(self.run.adapters())

    @property
    def files(self) -> list[Markup]:
        """Their files, as ``Lesson.file``."""
        return [Markup(path.name) for path in self.run.adapters().values()]

    @property
    def pictures(self) -> list[Path]:
        """The latest previews."""
        return [path for lesson in self.lessons for path in lesson.pictures]

    def place(self, path: Path) -> str:
        """Where a file lies in the run."""
        return path.relative_to(self.run.path).as_posix()

    @property
    def widget(self) -> list[dict[str, Any]]:
        """The samples as a hub shows them: each with the prompt that it was made from."""
        text = self.prompt if self.config.preview.prompt else "-"
        paths = (path for path in self.pictures if not path.stem.endswith("-sheet"))
        return [{"text": text, "output": {"url": self.place(path)}} for path in paths]

    @property
    def prompt(self) -> str:
        """A prompt to try it with, after the trigger word."""
        return prompt_with_trigger(self.config.preview.prompt or "a man walks down a street", self.config.data.trigger)


def _on_hub(source: str | None) -> str | None:
    """A source that is a repository on the hub; None for any other."""
    return source if source is not None and is_hub_name(source) else None


def read_record(run: RunDirectory) -> Record:
    """What there is to tell of a run; raises ``ConfigError`` where it is none, or has no adapter to tell of."""
    if not is_run(run.path):
        raise ConfigError(f"run={run.path} holds no {CONFIG_FILE}: give the directory of a run of train.py")
    config = load_config(run.path)
    if config.stage.trains_every_weight:
        raise ConfigError(f"run={run.path} is of stage=pretrain, which trains no adapter: there is no card for it")
    if not run.summary.is_file():
        raise ConfigError(f"run={run.path} is not finished: continue with {resume_command(run)}")
    if not any(stage_and_expert(role)[0] == config.stage.name for role in run.adapters()):
        raise ConfigError(
            f"run={run.path} holds no {run.adapter(config.stage.name).name}: there is nothing to write a card about"
        )
    return Record(run, config, run.read_whole() if has_experts(config.model) else run.read_summary())


def resume_command(run: RunDirectory) -> str:
    """What to type to go on with a run."""
    return f"python train.py {shell_word(f'resume={run.path}')}"


def _word(value: str) -> str:
    """A word of a shell, on one line."""
    return shell_word(" ".join(value.split()))


# -- the card ----------------------------------------------------------------------------------------------------------


def write_card(record: Record) -> None:
    """Write ``README.md`` beside the adapter, whole or not at all."""
    write_text(record.run.card, card(record, HERE))


def card(record: Record, repository: str) -> str:
    """The whole card; ``repository`` is what its code loads the adapter from."""
    manifest = read_manifest(record.run.manifest)
    training = [sample for sample in manifest.samples if sample.split == "train"]
    checkpoint = "path/of/this/folder" if repository == HERE else f"hub:{repository}"
    return render(
        "model_card.md.j2",
        record=record,
        samples=len(training),
        clips=len({sample.path for sample in training}),
        heldout=len(manifest.samples) - len(training),
        per_step=samples_per_step(record.config),
        sizes=sizes(training, record.config),
        shift=shift(record.config),
        code=diffusers_code(record, repository),
        command=f"python infer.py ckpt={checkpoint} {_word(f'prompt={record.prompt}')}",
    )


def sizes(training: list[Sample], config: TrainConfig) -> str:
    """Width and height of what was trained on, the most frequent first."""
    found = Counter(sample.size or (config.model.height, config.model.width) for sample in training)
    return " and ".join(f"{width}x{height}" for (height, width), _ in found.most_common())


def shift(config: TrainConfig) -> float | None:
    """The shift of noise levels that the run trained with; None where its network was not taught by flow matching."""
    if family_of(config.model).network(config.stage.transformer).betas is not None:
        return None
    from cinelora.nn.flow_matching import FlowMatching

    return FlowMatching.from_config(config.flow, config.model.height, config.model.width).shift


NUMBERS = (
    ("heldout_loss", "held-out loss at fixed noise levels", ".4f"),
    ("heldout_vs_base", "the same against the base", "+.1%"),
    ("heldout_change", "the same against the start of training", "+.1%"),
    ("prediction_effect", "relative change of predictions", ".2%"),
    ("adapter_effect", "size of the update against the weights", ".2%"),
)
"""Key in a summary, what it is called, and how it is written."""


def numbers(summary: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """What was measured while it was trained, each with the base model's number where there is one."""
    rows = [(name, format(summary[key], form), "") for key, name, form in NUMBERS if summary.get(key) is not None]
    # Of clips a number alone says little, as measures have scales of their own: the base model's stands beside it.
    base = summary.get("heldout_clips_base") or {}
    for name, value in (summary.get("heldout_clips") or {}).items():
        rows.append((f"{name}, of held-out clips", f"{value:.4g}", f"{base[name]:.4g}" if name in base else ""))
    if rows and summary.get("heldout_step") not in (None, summary["step"]):
        rows.append(("held-out samples were last looked at in step", str(summary["heldout_step"]), ""))
    return rows


def diffusers_code(record: Record, repository: str) -> str:
    """A program that makes a clip with the adapter; it names the base by its place on the hub, if it has one there.

    Empty where diffusers cannot load such an adapter.
    """
    if record.family.code is None:
        return ""
    return render(
        record.family.code,
        record=record,
        model=record.config.model,
        is_i2v=record.network.shows_first_frame,
        motion=_on_hub(record.config.model.motion_adapter) or "<directory of motion modules>",
        base=record.base or f"<directory of {record.config.model.name}, {record.task}>",
        repository=repository,
        shift=record.config.model.shift_of(record.network.name),
    )


# -- upload ------------------------------------------------------------------------------------------------------------


def push(record: Record, repository: str, private: bool = False) -> str:
    """Upload a finished run's adapters, card, settings and samples as one commit; returns its address.

    Raises ``ConfigError``, also where the hub or the network refuses.
    """
    run = record.run
    if record.summary["interrupted"]:
        raise ConfigError(
            f"push={repository}: run={run.path} stopped at step {record.summary['step']} of {record.summary['steps']}; "
            f"continue with {resume_command(run)}"
        )
    shared = portable(dataclasses.asdict(record.config))
    files = {
        "README.md": card(record, repository).encode(),
        CONFIG_FILE: yaml.safe_dump(shared, sort_keys=False, allow_unicode=True, width=120).encode(),
        **{record.place(path): read_inside(run.path, path) for path in record.pictures},
        **{record.place(path): shareable(path) for path in [*run.adapters().values(), *run.all_for_comfy()]},
    }
    return publish(repository, files, f"{record.config.stage.name} adapter, step {record.summary['step']}", private)


def shareable(path: Path) -> bytes:
    """An adapter file without the places on this machine that settings in its header may name."""
    content = read_inside(path.parent, path)
    metadata = read_header(path).get("__metadata__", {})
    # The header's settings are those of the run as it was typed. Their paths name accounts and disks, nobody else's business.
    if "config" not in metadata:
        return content
    return with_metadata(content, metadata | {"config": json.dumps(portable(json.loads(metadata["config"])))})
