"""What a run of two lessons says as a whole: its summary and its card, from the summaries of both.

Enters: settings and a run directory. Leaves: ``summary.json`` and ``README.md`` in the run itself. A run of one lesson writes
both when that ends.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from cinelora.adapters.run_directory import RunDirectory, RunSummary, lessons_in
from cinelora.config.schema import TrainConfig
from cinelora.families.family import suffixed
from cinelora.io.atomic import write_json
from cinelora.training.model_card import Record, write_card

SHARED = ("stage", "model", "weights", "data", "data_hash", "samples")
"""What lessons have in common."""


def write_whole(config: TrainConfig, run: RunDirectory) -> None:
    """Write the card and, last, the summary of a run of two experts, as far as it has come."""
    lessons = {suffixed(config.stage.name, own.expert): own.read_summary() for own in ended(run)}
    if not lessons:
        return
    summary = together(config, run, lessons)
    write_card(Record(run, config, summary))
    write_json(run.summary, summary)


def ended(run: RunDirectory) -> list[RunDirectory]:
    """The lessons that have a summary, also of an expert that is not asked for this time."""
    return [own for own in run.places if own.expert and own.summary.is_file()]


def together(config: TrainConfig, run: RunDirectory, lessons: dict[str, RunSummary]) -> Any:
    """The summary of the whole run: steps and seconds of all lessons, the largest peaks, and each lesson's own summary."""
    one: dict[str, Any] = {**next(iter(lessons.values()))}
    asked = lessons_in(config, run.path)
    missing = [lesson.stage.steps for lesson, own in asked if suffixed(config.stage.name, own.expert) not in lessons]
    found = {key: one[key] for key in SHARED if key in one}
    found |= {"step": sum(lesson["step"] for lesson in lessons.values())}
    found |= {"steps": sum(lesson["steps"] for lesson in lessons.values()) + sum(missing)}
    found |= {"interrupted": not all(own.is_complete(lesson.stage.steps) for lesson, own in asked)}
    found |= {"seconds": sum(lesson.get("seconds", 0.0) for lesson in lessons.values())}
    found |= {"peak_memory_mib": highest(lesson.get("peak_memory_mib", {}) for lesson in lessons.values())}
    return found | {"lessons": lessons}


def highest(peaks: Iterable[dict[str, float]]) -> dict[str, float]:
    """The largest of each sort of memory."""
    found: dict[str, float] = {}
    for peak in peaks:
        found |= {name: max(value, found.get(name, 0.0)) for name, value in peak.items()}
    return found
