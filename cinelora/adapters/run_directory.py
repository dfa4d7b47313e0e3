"""The layout of a run directory, and what a name for an adapter can mean.

A run holds ``config.yaml`` (what it was asked), ``manifest.jsonl`` and ``dataset.json`` (what it saw), ``checkpoints/``,
``style.safetensors`` and ``motion.safetensors``, or ``transformer/`` where every weight was trained (what it learnt),
``style-best.safetensors`` and its like where ``checkpoint.best`` asks for them, ``logs/``, ``previews/``, ``summary.json``,
and ``README.md``, the adapter's card.

Where a network has two experts, each is a lesson of its own: ``high_noise/`` and ``low_noise/`` hold its ``checkpoints/``,
``logs/``, ``previews/`` and ``summary.json``. The run itself holds ``style_high_noise.safetensors`` and
``style_low_noise.safetensors``, the summary of both, and all else that they share.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NotRequired, TypedDict

from cinelora.config.clip_request import stage_and_expert
from cinelora.config.lessons import expert_of, lessons_of
from cinelora.config.schema import ADAPTER_STAGES, ModelConfig, TrainConfig
from cinelora.config.store import build, load_config
from cinelora.errors import AdapterError
from cinelora.families import family_of, has_experts
from cinelora.families.family import EXPERTS, expert_in, suffixed
from cinelora.footage.manifest import read_manifest, usual_size
from cinelora.io.hub import is_run, resolve
from cinelora.io.plain_data import quoted, read_bytes, read_json
from cinelora.io.terminal import warn

if TYPE_CHECKING:
    from cinelora.adapters.adapter_file import AdapterFile
    from cinelora.families.model_bundle import Bundle

LONGEST_SIDE = 2**13
"""Pixels of a training sample: what a file says beyond it is damaged."""


class LastLook(TypedDict):
    """A number that was looked at during a run, and when it was best."""

    name: str
    best: float | None
    step: int | None
    since: int


class RunEnd(TypedDict):
    """How far a run has come."""

    step: int
    steps: int
    interrupted: bool


class RunSummary(RunEnd):
    """What came out of a run, as far as it is read again; older versions did not write all of it."""

    stage: str
    weights: str
    data_hash: str
    adapter_effect: float
    loss: NotRequired[float | None]
    seconds: NotRequired[float]
    peak_memory_mib: NotRequired[dict[str, float]]
    stopped_early: NotRequired[LastLook | None]
    prediction_effect: NotRequired[float | None]
    heldout_step: NotRequired[int | None]
    heldout_loss: NotRequired[float | None]
    heldout_change: NotRequired[float | None]
    heldout_vs_base: NotRequired[float | None]
    heldout_clips: NotRequired[dict[str, float] | None]
    heldout_clips_base: NotRequired[dict[str, float] | None]


class WholeSummary(RunEnd):
    """What came out of a run of two experts: of each lesson its own summary, by the name of what it leaves."""

    stage: str
    weights: str
    data_hash: str
    lessons: dict[str, RunSummary]


class Inside:
    """A name inside a run directory, as an attribute of it: the whole path."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __get__(self, run: RunDirectory, owner: object) -> Path:
        return run.path / self.name


class OfLesson(Inside):
    """The same of what each lesson has for itself."""

    def __get__(self, run: RunDirectory, owner: object) -> Path:
        return run.folder / self.name


@dataclass(frozen=True)
class RunDirectory:
    """The names of everything inside a run directory, as one of its lessons sees it.

    ``expert`` is the one that a lesson teaches; it is empty for the whole run, and where a transformer has no experts.
    """

    path: Path
    expert: str = ""

    config = Inside("config.yaml")
    manifest = Inside("manifest.jsonl")
    dataset = Inside("dataset.json")
    transformer = Inside("transformer")
    card = Inside("README.md")
    checkpoints = OfLesson("checkpoints")
    logs = OfLesson("logs")
    previews = OfLesson("previews")
    summary = OfLesson("summary.json")

    @property
    def folder(self) -> Path:
        """Where the lesson keeps what it shares with no other."""
        return self.path / self.expert

    @property
    def places(self) -> list[RunDirectory]:
        """The run itself, and as each of its experts sees it: all where checkpoints and curves may lie."""
        return [replace(self, expert=expert) for expert in ("", *EXPERTS)]

    def has_checkpoint(self) -> bool:
        """Whether any lesson has got to a checkpoint."""
        return any(any(place.checkpoints.glob("step-*")) for place in self.places)

    def read_end(self) -> RunEnd:
        """How far the run had come when it last ended; raises ``FileError``."""
        return read_json(self.summary, RunEnd, measured=True)

    def read_summary(self) -> RunSummary:
        """What ``summary.json`` says, which a run writes last; raises ``FileError``."""
        return read_json(self.summary, RunSummary, measured=True)

    def read_whole(self) -> WholeSummary:
        """What the ``summary.json`` of a run of two experts says, written after its last lesson; raises ``FileError``."""
        return read_json(self.summary, WholeSummary, measured=True)

    @property
    def last_step(self) -> int:
        """The step of the checkpoint that a resume begins at, by its name; 0 where there is none."""
        pointer = self.checkpoints / "last"
        named = [read_bytes(pointer).decode(errors="replace")] if pointer.is_file() else []
        names = [*named, *sorted((path.name for path in self.checkpoints.glob("step-*")), reverse=True)]
        return next((int(name[5:]) for name in names if re.fullmatch(r"step-\d+", name)), 0)

    def adapter(self, kind: str) -> Path:
        """The exported adapter of ``style`` or ``motion``."""
        return self.path / f"{suffixed(kind, self.expert)}.safetensors"

    def for_comfy(self, kind: str) -> Path:
        """The same adapter by the names that ComfyUI reads, where those are others (a folder of its own: it has one role)."""
        return self.path / "comfyui" / self.adapter(kind).name

    def all_for_comfy(self) -> list[Path]:
        """Those that are there."""
        return [path for kind in ADAPTER_STAGES if (path := self.for_comfy(kind)).is_file()]

    def adapters(self) -> dict[str, Path]:
        """The exported adapters that are there, by role: ``style``, ``motion``, or ``style_high_noise`` and its like."""
        roles = {suffixed(kind, place.expert): place.adapter(kind) for kind in ADAPTER_STAGES for place in self.places}
        return {role: path for role, path in roles.items() if path.is_file()}

    @property
    def style_below(self) -> Path | None:
        """The style adapter that a motion adapter is trained above: that of its own expert, else one of none; None without."""
        found = (self.adapter("style"), RunDirectory(self.path).adapter("style"))
        return next((path for path in found if path.is_file()), None)

    def product(self, stage: str, best: bool = False) -> Path:
        """What a run of ``stage`` leaves, last or at its best: an adapter file, or a folder where every weight is trained."""
        if best:
            return self.best(stage if stage in ADAPTER_STAGES else "transformer")
        return self.adapter(stage) if stage in ADAPTER_STAGES else self.transformer

    def best(self, kind: str) -> Path:
        """What ``checkpoint.best`` keeps of ``style``, ``motion`` or ``transformer``; only who names it gets it."""
        return self.path / (
            f"{kind}-best" if kind == "transformer" else f"{suffixed(kind, self.expert)}-best.safetensors"
        )

    def has_ended(self, step: int) -> bool:
        """Whether the run has come to its end after ``step``: a summary is the last thing that it writes."""
        return self.summary.exists() and self.read_end()["step"] == step

    def is_complete(self, steps: int) -> bool:
        """Whether the run has ended by itself, at its last step or because it learnt no more."""
        if not self.summary.is_file():
            return False
        there = self.read_end()
        return not there["interrupted"] and there["steps"] >= steps

    def learnt_size(self, model: ModelConfig) -> tuple[int, int] | None:
        """Height and width of most training samples of the run of this ``model``; None before they are chosen."""
        samples = read_manifest(self.manifest).samples if self.manifest.is_file() else ()
        return usual_size(samples, (model.height, model.width))


def lessons_in(config: TrainConfig, path: Path) -> list[tuple[TrainConfig, RunDirectory]]:
    """The lessons of the run in ``path``, each with the settings it is taught by and where it keeps what it makes."""
    return [(lesson, RunDirectory(path, expert_of(lesson).name)) for lesson in lessons_of(config)]


def adapter_paths(source: Path, model: ModelConfig | None = None) -> dict[str, Path]:
    """The adapter files that ``source`` (a run, a folder or one adapter file) offers, by role.

    A role is ``style`` or ``motion``; of an expert of ``model`` it is ``style_high_noise`` and its like. A file's header says
    which, or else its name does. Raises ``AdapterError`` where there is none, and for two experts where ``model`` has none.
    """
    if source.is_dir():
        run = RunDirectory(source)
        found = run.adapters() or {_role(path, named=True): path for path in sorted(source.glob("*.safetensors"))}
        if not found:
            raise AdapterError(
                f"{source} holds no adapter (style.safetensors or motion.safetensors); is it a finished run?"
            )
    elif not source.exists():
        raise AdapterError(f"no adapter at {source}; give a run directory, a .safetensors file or hub:owner/name")
    else:
        found = {_role(source, named=model is not None and has_experts(model)): source}
    return found if model is None or has_experts(model) else _of_one_transformer(source, found, model)


def expert_for(path: Path, named: bool) -> str:
    """The expert that an adapter file is for, by its header, or by its name where that is silent and it may be ``named``."""
    from cinelora.adapters.adapter_file import read_adapter_facts

    return read_adapter_facts(path)["expert"] or (expert_in(path.stem) if named else "")


def _role(path: Path, named: bool) -> str:
    from cinelora.adapters.adapter_file import read_adapter_facts

    kind = read_adapter_facts(path)["kind"] or "style"
    if kind not in ADAPTER_STAGES:
        raise AdapterError(
            f"{path} calls itself an adapter for {kind}; this version knows {' and '.join(ADAPTER_STAGES)}"
        )
    return suffixed(kind, expert_for(path, named))


def _of_one_transformer(source: Path, found: dict[str, Path], model: ModelConfig) -> dict[str, Path]:
    """Adapters for a model without experts: one that was trained on an expert acts on its only transformer, two cannot."""
    roles: dict[str, Path] = {}
    for role, path in found.items():
        stage = stage_and_expert(role)[0]
        if stage in roles:
            raise AdapterError(
                f"{source} holds {stage} adapters of two experts, and model={model.name} is one transformer: name one file"
            )
        roles[stage] = path
    return roles


def styles_of(config: TrainConfig) -> dict[str, Path]:
    """The style adapters of ``adapter=``, by role. Raises ``AdapterError`` where there is none."""
    assert config.adapter is not None
    paths = adapter_paths(resolve(config.adapter, "adapter"), config.model)
    styles = {role: path for role, path in paths.items() if stage_and_expert(role)[0] == "style"}
    if not styles:
        raise AdapterError(f"adapter={config.adapter} holds no style adapter, only {', '.join(paths)}")
    return styles


def adapters_of(ckpt: str | None, model: ModelConfig | None = None) -> dict[str, Path]:
    """``adapter_paths`` of what ``ckpt=`` names; none for the base model."""
    return adapter_paths(resolve(ckpt), model) if ckpt else {}


def warn_of_other_weights(
    model: ModelConfig, adapters: Mapping[str, AdapterFile], bundles: Mapping[str, Bundle]
) -> None:
    """Print which adapters were trained on other weights of this very model than the bundle of their transformer holds.

    An adapter that does not say what it was trained on is not warned about, nor one whose transformer is not in ``bundles``.
    """
    from cinelora.families.family import Part

    for role, adapter in adapters.items():
        bundle, kind, theirs = bundles.get(adapter.transformer), adapter.transformer, adapter.base_revision
        if bundle is None or adapter.base_model != model.name or not theirs:
            continue
        if has_experts(model) != bool(adapter.expert):
            continue  # its weights are of another sort of network, and never the same
        if theirs != (found := bundle.of_expert(adapter.expert).fingerprint(Part.TRANSFORMER)):
            warn(
                f"the {role} adapter was trained on other weights of {model.name} ({kind}, {theirs}) than these "
                f"({found}): it may do less or something else; give those with model.{kind}=<directory>"
            )


def learnt_size(source: Path) -> tuple[int, int] | None:
    """Height and width of most samples that a run, or an adapter file as its header says, was trained on; None where unknown.

    Raises as ``trained_on``.
    """
    if is_run(source):
        size: Any = RunDirectory(source).learnt_size(load_config(source).model)
    else:
        size = _header_settings(source).get("size")
    if size is None:
        return None
    cell, sides = (
        family_of(trained_on(source) or ModelConfig()).geometry.cell,
        size if isinstance(size, list | tuple) else (),
    )
    if len(sides) != 2 or not all(type(side) is int and side in range(cell, LONGEST_SIDE + 1, cell) for side in sides):
        raise AdapterError(
            f"{source} says that it learnt from samples of {quoted(size)}: their height and width are multiples of {cell} up "
            f"to {LONGEST_SIDE}; type model.height= and model.width="
        )
    return sides[0], sides[1]


def trained_on(source: Path) -> ModelConfig | None:
    """The model that a run, or an adapter file's header, says it was trained on; None where it does not say.

    Raises ``ConfigError``, ``AdapterError`` or ``FileError`` for what cannot be read.
    """
    if is_run(source):
        return load_config(source).model
    settings = _header_settings(source)
    return build(ModelConfig, settings["model"], source) if "model" in settings else None


def _header_settings(source: Path) -> dict[str, Any]:
    """The settings that an adapter by itself, or the first in a folder, has in its header; files of other tools have none."""
    from cinelora.adapters.adapter_file import read_adapter_facts

    files = [source] if source.is_file() else sorted(source.glob("*.safetensors"))
    return (read_adapter_facts(files[0])["config"] or {}) if files else {}
