"""The layout of a run directory, and what a name for an adapter can mean.

A run holds ``config.yaml`` (what it was asked), ``manifest.jsonl`` and ``dataset.json`` (what it saw), ``checkpoints/``,
``style.safetensors`` and ``motion.safetensors``, or ``transformer/`` where every weight was trained (what it learnt),
``style-best.safetensors`` and its like where ``checkpoint.best`` asks for them, ``logs/``, ``previews/``, ``summary.json``,
and ``README.md``, the adapter's card.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NotRequired, TypedDict

from cinelora.config.schema import ADAPTER_STAGES, ModelConfig
from cinelora.config.store import build, load_config
from cinelora.errors import AdapterError
from cinelora.families import family_of
from cinelora.footage.manifest import read_manifest, usual_size
from cinelora.io.hub import is_run, resolve
from cinelora.io.plain_data import quoted, read_bytes, read_json
from cinelora.io.terminal import warn

if TYPE_CHECKING:
    from cinelora.adapters.adapter_file import AdapterFile
    from cinelora.families.machinery import Bundle

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


class Inside:
    """A name inside a run directory, as an attribute of it: the whole path."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __get__(self, run: RunDirectory, owner: object) -> Path:
        return run.path / self.name


@dataclass(frozen=True)
class RunDirectory:
    """The names of everything inside a run directory."""

    path: Path

    config = Inside("config.yaml")
    manifest = Inside("manifest.jsonl")
    dataset = Inside("dataset.json")
    checkpoints = Inside("checkpoints")
    logs = Inside("logs")
    previews = Inside("previews")
    transformer = Inside("transformer")
    card = Inside("README.md")
    summary = Inside("summary.json")

    def read_end(self) -> RunEnd:
        """How far the run had come when it last ended; raises ``FileError``."""
        return read_json(self.summary, RunEnd, measured=True)

    def read_summary(self) -> RunSummary:
        """What ``summary.json`` says, which a run writes last; raises ``FileError``."""
        return read_json(self.summary, RunSummary, measured=True)

    @property
    def last_step(self) -> int:
        """The step of the checkpoint that a resume begins at, by its name; 0 where there is none."""
        pointer = self.checkpoints / "last"
        named = [read_bytes(pointer).decode(errors="replace")] if pointer.is_file() else []
        names = [*named, *sorted((path.name for path in self.checkpoints.glob("step-*")), reverse=True)]
        return next((int(name[5:]) for name in names if re.fullmatch(r"step-\d+", name)), 0)

    def adapter(self, kind: str) -> Path:
        """The exported adapter of ``style`` or ``motion``."""
        return self.path / f"{kind}.safetensors"

    def product(self, stage: str, best: bool = False) -> Path:
        """What a run of ``stage`` leaves, last or at its best: an adapter file, or a folder where every weight is trained."""
        if best:
            return self.best(stage if stage in ADAPTER_STAGES else "transformer")
        return self.adapter(stage) if stage in ADAPTER_STAGES else self.transformer

    def best(self, kind: str) -> Path:
        """What ``checkpoint.best`` keeps of ``style``, ``motion`` or ``transformer``; only who names it gets it."""
        return self.path / (f"{kind}-best" if kind == "transformer" else f"{kind}-best.safetensors")

    def has_ended(self, step: int) -> bool:
        """Whether the run has come to its end after ``step``: a summary is the last thing that it writes."""
        return self.summary.exists() and self.read_end()["step"] == step

    def learnt_size(self, model: ModelConfig) -> tuple[int, int] | None:
        """Height and width of most training samples of the run of this ``model``; None before they are chosen."""
        samples = read_manifest(self.manifest).samples if self.manifest.is_file() else ()
        return usual_size(samples, (model.height, model.width))


def adapter_paths(source: Path) -> dict[str, Path]:
    """The adapter files that ``source`` (a run directory or one adapter file) offers, by kind.

    Raises ``AdapterError`` where there is none.
    """
    from cinelora.adapters.adapter_file import read_adapter_facts

    if source.is_dir():
        run = RunDirectory(source)
        found = {kind: run.adapter(kind) for kind in ADAPTER_STAGES if run.adapter(kind).is_file()}
        if not found:
            raise AdapterError(
                f"{source} holds no adapter (style.safetensors or motion.safetensors); is it a finished run?"
            )
        return found
    if not source.exists():
        raise AdapterError(f"no adapter at {source}; give a run directory, a .safetensors file or hub:owner/name")
    kind = read_adapter_facts(source)["kind"] or "style"
    if kind not in ADAPTER_STAGES:
        raise AdapterError(
            f"{source} calls itself an adapter for {kind}; this version knows {' and '.join(ADAPTER_STAGES)}"
        )
    return {kind: source}


def adapters_of(ckpt: str | None) -> dict[str, Path]:
    """``adapter_paths`` of what ``ckpt=`` names; none for the base model."""
    return adapter_paths(resolve(ckpt)) if ckpt else {}


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
        if theirs != (found := bundle.fingerprint(Part.TRANSFORMER)):
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
