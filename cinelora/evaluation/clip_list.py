"""What an evaluation draws and compares, kept as ``plan.json``: prompts, seeds, variants, and the real clips.

Enters: settings. Leaves: the names of all clips in the run directory, so that a later run knows what is there and what is
missing. It neither draws nor measures.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TypedDict

from cinelora.config.clip_request import BASE_SCALE, stage_and_expert
from cinelora.config.schema import ScaleConfig
from cinelora.errors import FileError
from cinelora.io.atomic import write_json
from cinelora.io.plain_data import MOST_OF_LISTS, read_json

PLAN, REAL = "plan.json", "real"
BASE, FURTHER = "base", "adapters"


@dataclass(frozen=True)
class Prompt:
    """What is drawn: a held-out clip's caption, with the ``reference`` it tells of, or a line of the user's file."""

    text: str
    origin: str
    reference: str | None = None


@dataclass(frozen=True)
class Variant:
    """A stage of the adapters: its name, and how strongly each acts."""

    name: str
    scale: ScaleConfig = field(metadata={"was": "weights"})  # as plans of version 0.1 call it


@dataclass(frozen=True)
class PlannedTake:
    """One prompt and seed: the clips that are compared side by side."""

    number: int
    prompt: Prompt
    seed: int

    @property
    def name(self) -> str:
        """Its folder, and what sentences call it."""
        return f"{self.number:04d}-seed-{self.seed}"


@dataclass(frozen=True)
class Plan:
    """Everything that is to be drawn. ``real`` are the files of held-out clips; ``sources`` the hashes of the adapters."""

    prompts: list[Prompt]
    seeds: list[int]
    variants: list[Variant]
    fps: int
    real: list[str] = field(default_factory=list)
    adapters: list[str] = field(default_factory=list)
    sentences: list[str] = field(default_factory=list)

    def takes(self) -> Iterator[PlannedTake]:
        """Every prompt with every seed."""
        for number, prompt in enumerate(self.prompts):
            for seed in self.seeds:
                yield PlannedTake(number, prompt, seed)

    def names(self) -> list[str]:
        """The variants' names, the base first."""
        return [variant.name for variant in self.variants]

    def missing(self, run_dir: Path) -> list[Path]:
        """The clips that are not drawn yet."""
        files = (clip_file(run_dir, take, name) for take in self.takes() for name in self.names())
        return [file for file in files if not file.is_file()]

    def save(self, run_dir: Path) -> None:
        """Write ``plan.json``."""
        write_json(run_dir / PLAN, asdict(self))


def load_plan(run_dir: Path) -> Plan:
    """What ``Plan.save`` wrote. Raises ``FileError`` where it is missing or damaged, or names files that no evaluation has."""
    plan = read_json(run_dir / PLAN, Plan, limit=MOST_OF_LISTS)
    # These names become parts of paths, and whoever has the report has the clips that lie there.
    files = [*plan.real, *(prompt.reference for prompt in plan.prompts if prompt.reference)]
    own: list[list[str]] = [[], ["style"], ["motion"], ["style", "motion"]]
    names = {variant.name for adapters in own for variant in stages(adapters, further=True)}
    if not all(re.fullmatch(rf"{REAL}/\d+\.mp4", file, re.ASCII) for file in files) or not names.issuperset(
        plan.names()
    ):
        raise FileError(f"{run_dir / PLAN} is damaged: it names clips as none are named")
    return plan


def take_folder(run_dir: Path, take: PlannedTake) -> Path:
    """Where the clips of a take go."""
    return run_dir / "clips" / take.name


def clip_file(run_dir: Path, take: PlannedTake, variant: str) -> Path:
    """Where a variant's clip goes."""
    return take_folder(run_dir, take) / f"{variant}.mp4"


def keyframe_file(run_dir: Path, take: PlannedTake, variant: str) -> Path:
    """Where its first frame goes."""
    return take_folder(run_dir, take) / f"{variant}.png"


def troubles(run_dir: Path, take: PlannedTake) -> dict[str, str]:
    """Variants of a drawn take that gave no clip, each with the reason."""
    summary = take_folder(run_dir, take) / "summary.json"
    return read_take(summary)["trouble"] if summary.is_file() else {}


class TakeSummary(TypedDict):
    """What the ``summary.json`` of a drawn take holds, beside its settings."""

    sources: dict[str, str]
    seconds: dict[str, float]
    trouble: dict[str, str]


def read_take(summary: Path) -> TakeSummary:
    """What a take's ``summary.json`` says; raises ``FileError``."""
    return read_json(summary, TakeSummary)


def stages(adapters: list[str], further: bool = False) -> list[Variant]:
    """The base, and above it one adapter after the other: ``style``, ``style+motion``, then all ``further`` ones together."""
    # Each stage adds one adapter to those before, so that neighbours differ by what that one does. A keyframe is a still: the
    # style acts on it, the motion adapter does not.
    found = [Variant(BASE, BASE_SCALE)]
    stages = {stage_and_expert(name)[0] for name in adapters}
    if "style" in stages:
        found.append(Variant("style", ScaleConfig(1.0, 1.0, 0.0)))
    if "motion" in stages:
        found.append(Variant("style+motion" if "style" in stages else "motion", ScaleConfig(1.0, 1.0, 1.0)))
    if further:
        names = [*(variant.name for variant in found[-1:] if variant.name != BASE), FURTHER]
        found.append(Variant("+".join(names), found[-1].scale))
    return found
