"""What an evaluation draws and compares, kept as ``plan.json``: prompts, seeds, variants, and the real clips.

Enters: settings. Leaves: the names of all clips in the run directory, so that a later run knows what is there and what is
missing. It neither draws nor measures.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from cinelora.config.clip_request import BASE_SCALE
from cinelora.config.schema import ScaleConfig
from cinelora.config.store import build
from cinelora.errors import ConfigError
from cinelora.io.atomic import read_json, write_json

PLAN, REAL = "plan.json", "real"
BASE = "base"


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
    """What ``Plan.save`` wrote; raises ``FileError`` or ``ConfigError`` where it is missing, damaged, or leads elsewhere."""
    plan = build(Plan, read_json(run_dir / PLAN), run_dir / PLAN)
    # Clips that are named here are read, and shown on a page that is handed on: none may be a file of whoever makes that page.
    for name in [*plan.names(), *plan.real, *(prompt.reference or "" for prompt in plan.prompts)]:
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise ConfigError(f"{run_dir / PLAN} names {name!r}, which is no clip in its own directory")
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
    found: dict[str, str] = read_json(summary)["trouble"] if summary.is_file() else {}
    return found


def stages(adapters: list[str]) -> list[Variant]:
    """The base, and above it one adapter after the other: ``style``, then ``style+motion``."""
    # Each stage adds one adapter to those before, so that neighbours differ by what that one does. A keyframe is a still: the
    # style acts on it, the motion adapter does not.
    found = [Variant(BASE, BASE_SCALE)]
    if "style" in adapters:
        found.append(Variant("style", ScaleConfig(1.0, 1.0, 0.0)))
    if "motion" in adapters:
        found.append(Variant("style+motion" if "style" in adapters else "motion", ScaleConfig(1.0, 1.0, 1.0)))
    return found
