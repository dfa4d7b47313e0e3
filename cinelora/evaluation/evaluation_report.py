"""``report.html``: the clips side by side under one play head, keyframes, charts, tables, settings; one file, offline.

Enters: a run directory with its plan, its numbers and as many clips as there are. Leaves: the page. It measures nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from markupsafe import Markup

from cinelora.evaluation.blind_test import load_preferences
from cinelora.evaluation.clip_list import FURTHER, Plan, PlannedTake, clip_file, keyframe_file
from cinelora.evaluation.measure import REAL_CLIPS, Numbers, in_words, read_numbers
from cinelora.evaluation.page_clips import thumbnail, within_budget
from cinelora.footage.image_reader import read_picture
from cinelora.footage.video_reader import open_video
from cinelora.io.atomic import write_text
from cinelora.io.html.figure import interval_figure
from cinelora.io.html.template import render

REPORT = "report.html"
COLOURS = {REAL_CLIPS: "#8a8f98", "base": "#b07d12", "style": "#3d5a98", "motion": "#1b7f79", "style+motion": "#1b7f79"}
COLOURS |= dict.fromkeys((FURTHER, *(f"{name}+{FURTHER}" for name in COLOURS)), "#8a3d7c")
WAYS = {"max": "higher is better", "min": "lower is better", None: "neither is better in itself"}


def write_report(plan: Plan, run_dir: Path) -> Path:
    """Write the page of what is there."""
    facts = read_numbers(run_dir)
    numbers = facts["numbers"]
    rows = {take: row_of(plan, run_dir, take) for take in plan.takes()}
    clips, note = within_budget([file for row in rows.values() for file in row.values()])
    about = {key: facts[key] for key in ("sources", "seconds", "hardware")} | {"networks": numbers.networks}
    settings = facts["settings"]
    called = Path(settings["ckpt"]).name if settings["ckpt"] else settings["model"]["name"]
    text = render(
        "evaluation_report.html.j2",
        title=f"Evaluation of {called}",
        plan=plan,
        settings=settings,
        guidance="of each network's own" if (scale := settings["sampler"]["guidance"]) is None else f"{scale:g}",
        frames=open_video(next(iter(clips))).num_frames if clips else 0,
        sentences=[*numbers.sentences, *([note] if note else [])],
        takes=[(take, {name: clips.get(file) for name, file in row.items()}) for take, row in rows.items()],
        colours=COLOURS,
        charts=charts(numbers),
        rows=list(in_words(numbers)),
        preferences=[list(preference.cells()) for preference in load_preferences(run_dir)],
        keyframes=keyframes(plan, run_dir),
        background={"Settings": in_yaml(settings), "Machine, networks, files": in_yaml(about)},
    )
    write_text(run_dir / REPORT, text)
    return run_dir / REPORT


def row_of(plan: Plan, run_dir: Path, take: PlannedTake) -> dict[str, Path]:
    """The clips that stand in one row: the real one, where there is one, and every variant."""
    real = {REAL_CLIPS: run_dir / take.prompt.reference} if take.prompt.reference else {}
    return real | {name: clip_file(run_dir, take, name) for name in plan.names()}


def keyframes(plan: Plan, run_dir: Path) -> list[tuple[str, dict[str, bytes]]]:
    """Each prompt with the first frames of its first seed, small, by variant; a prompt that has none is left out."""
    rows = []
    for take in (take for take in plan.takes() if take.seed == plan.seeds[0]):
        files = {name: keyframe_file(run_dir, take, name) for name in plan.names()}
        there = {name: read_picture(file) for name, file in files.items() if file.is_file()}
        if there:
            rows.append((take.prompt.text, {name: thumbnail(pixels) for name, pixels in there.items()}))
    return rows


def charts(numbers: Numbers) -> list[tuple[str, str, Markup]]:
    """For each measure its name, which way is better, and a chart of means with their intervals against the first of them."""
    found = []
    for measure in numbers.measures():
        rows = numbers.of(measure)
        bars = [(row.variant, row.mean.value, row.mean.low, row.mean.high) for row in rows]
        chart = interval_figure(bars, [COLOURS[row.variant] for row in rows])
        found.append((measure, WAYS[rows[0].better], chart))
    return found


def in_yaml(facts: Mapping[str, Any]) -> str:
    """Settings and the like, to be read."""
    return yaml.safe_dump(facts, sort_keys=False, allow_unicode=True, width=110)
