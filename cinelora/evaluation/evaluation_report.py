"""``report.html``: the clips side by side under one play head, keyframes, charts, tables, settings; one file, offline.

Enters: a run directory with its plan, its numbers and as many clips as there are. Leaves: the page. It measures nothing.
"""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from cinelora.evaluation.blind_test import Preference, load_preferences
from cinelora.evaluation.clip_list import Plan, PlannedTake, clip_file, keyframe_file
from cinelora.evaluation.measure import NUMBERS, REAL_CLIPS, Numbers, bounds, load_numbers
from cinelora.evaluation.page_clips import thumbnail, within_budget
from cinelora.footage.video_reader import open_video
from cinelora.io.atomic import read_json, write_text
from cinelora.io.html.figure import interval_figure
from cinelora.io.html.page import data_url, html_table, page

REPORT = "report.html"
COLOURS = {REAL_CLIPS: "#8a8f98", "base": "#b07d12", "style": "#3d5a98", "motion": "#1b7f79", "style+motion": "#1b7f79"}
WAYS = {"max": "higher is better", "min": "lower is better", None: "neither is better in itself"}


def write_report(plan: Plan, run_dir: Path) -> Path:
    """Write the page of what is there."""
    numbers, facts = load_numbers(run_dir), read_json(run_dir / NUMBERS)
    files = [file for take in plan.takes() for file in row_of(plan, run_dir, take).values()]
    clips, note = within_budget(files)
    sentences = [*numbers.sentences, *([note] if note else [])]
    body = [
        heading(plan, facts),
        *([transport(plan, next(iter(clips)))] if clips else []),
        "<main>",
        said(sentences),
        "<h2>Side by side</h2>",
        *(comparison(plan, run_dir, take, clips) for take in plan.takes()),
        charts(numbers),
        tables(numbers, load_preferences(run_dir)),
        keyframes(plan, run_dir),
        background(facts, numbers),
        "</main><footer>Made by cinelora. Everything is inside this file: nothing is fetched.</footer>",
    ]
    write_text(run_dir / REPORT, page(title(facts), "\n".join(body), "player.js"))
    return run_dir / REPORT


def title(facts: dict[str, Any]) -> str:
    """What the page is called."""
    settings = facts["settings"]
    what = Path(settings["ckpt"]).name if settings["ckpt"] else settings["model"]["name"]
    return f"Evaluation of {what}"


def heading(plan: Plan, facts: dict[str, Any]) -> str:
    """Title, and in one line what was compared with what."""
    settings = facts["settings"]
    model, sampler = settings["model"], settings["sampler"]
    against = f"; held-out clips of {settings['data']['name']}" if plan.real else ""
    line = (
        f"{', '.join(plan.names())} on {model['name']}; {len(plan.prompts)} prompts x {len(plan.seeds)} seeds{against}; "
        f"{sampler['name']}, {sampler['steps']} steps, guidance {sampler['guidance']:g}"
    )
    return f'<header><h1>{escape(title(facts))}</h1><p class="soft">{escape(line)}</p></header>'


def transport(plan: Plan, clip: Path) -> str:
    """The play head that moves every clip."""
    frames = open_video(clip).num_frames
    return (
        f'<nav class="bar" data-fps="{plan.fps}" data-frames="{frames}"><div><button class="play">Play</button>'
        '<button class="back" title="one frame back (left arrow)">&#8249;</button>'
        '<button class="next" title="one frame on (right arrow)">&#8250;</button>'
        f'<input type="range" min="0" max="{frames - 1}" value="0" aria-label="frame"><output></output></div></nav>'
    )


def said(sentences: list[str]) -> str:
    """What must be read beside the numbers."""
    if not sentences:
        return ""
    return f'<h2>To be read beside the numbers</h2><ul class="said">{"".join(f"<li>{escape(s)}</li>" for s in sentences)}</ul>'


def row_of(plan: Plan, run_dir: Path, take: PlannedTake) -> dict[str, Path]:
    """The clips that stand in one row: the real one, where there is one, and every variant."""
    real = {REAL_CLIPS: run_dir / take.prompt.reference} if take.prompt.reference else {}
    return real | {name: clip_file(run_dir, take, name) for name in plan.names()}


def comparison(plan: Plan, run_dir: Path, take: PlannedTake, clips: dict[Path, bytes]) -> str:
    """One take: the prompt, and its clips side by side."""
    figures = []
    for name, file in row_of(plan, run_dir, take).items():
        if file in clips:
            shown = f'<video muted playsinline preload="auto" src="{data_url("video/mp4", clips[file])}"></video>'
        else:
            shown = '<div class="none">no clip here</div>'
        figures.append(f"<figure>{shown}<figcaption>{label(name)}</figcaption></figure>")
    where = f"seed {take.seed}, {take.prompt.origin}"
    return (
        f'<section class="take"><p>{escape(take.prompt.text)} <span class="soft">{escape(where)}</span></p>'
        f'<div class="side">{"".join(figures)}</div></section>'
    )


def label(name: str) -> str:
    """A variant's name behind its colour."""
    dot = f'<svg class="dot" viewBox="0 0 10 10"><circle cx="5" cy="5" r="5" fill="{COLOURS[name]}"/></svg>'
    return f"{dot}<b>{escape(name)}</b>"


def keyframes(plan: Plan, run_dir: Path) -> str:
    """The first frames, a row for each prompt, from its first seed."""
    rows = []
    for take in (take for take in plan.takes() if take.seed == plan.seeds[0]):
        files = {name: keyframe_file(run_dir, take, name) for name in plan.names()}
        pictures = [
            f'<figure><img alt="{escape(name)}" src="{picture(file)}"><figcaption>{label(name)}</figcaption></figure>'
            for name, file in files.items()
            if file.is_file()
        ]
        if pictures:
            inside = f'<p>{escape(take.prompt.text)}</p><div class="side small">{"".join(pictures)}</div>'
            rows.append(f'<section class="take">{inside}</section>')
    return "\n".join(["<h2>Keyframes</h2>", *rows]) if rows else ""


def picture(file: Path) -> str:
    """A PNG as an address that holds a small copy."""
    return data_url("image/jpeg", thumbnail(np.asarray(Image.open(file).convert("RGB"))))


def charts(numbers: Numbers) -> str:
    """A chart for each measure: means with their intervals, the first of them as a line to compare with."""
    figures = []
    for measure in numbers.measures():
        rows = numbers.of(measure)
        bars = [(row.variant, row.mean.value, row.mean.low, row.mean.high) for row in rows]
        chart = interval_figure(bars, [COLOURS[row.variant] for row in rows])
        caption = f"<b>{escape(measure)}</b>, {WAYS[rows[0].better]}"
        figures.append(f"<figure><figcaption>{caption}</figcaption>{chart}</figure>")
    note = (
        '<p class="soft">Means over clips with 95 % bootstrap intervals; docs/metrics.md says what each measure is.</p>'
    )
    return f'<h2>Numbers</h2>{note}<div class="charts">{"".join(figures)}</div>' if figures else ""


def tables(numbers: Numbers, preferences: list[Preference]) -> str:
    """The numbers and what people preferred."""
    parts = []
    if numbers.rows:
        heading = ["measure", "variant", "mean", "95 %", "against base", "95 %", "clips"]
        parts += ["<h2>Table</h2>", html_table(heading, rows_of(numbers))]
    if preferences:
        heading = ["question", "rater", "preferred", "to", "share", "95 %", "sign test", "votes", "ties"]
        parts += ["<h2>What people preferred</h2>", html_table(heading, [list(p.cells()) for p in preferences])]
    return "\n".join(parts)


def rows_of(numbers: Numbers) -> list[list[str]]:
    """The rows of the table in words, a measure's name in its first alone."""
    found = []
    for measure in numbers.measures():
        for i, row in enumerate(numbers.of(measure)):
            mean, more = row.mean, row.difference
            change = [f"{more.value:+.4g}", bounds(more)] if more else ["", ""]
            name = "" if i else measure
            found.append([name, row.variant, f"{mean.value:.4g}", bounds(mean), *change, str(mean.count)])
    return found


def background(facts: dict[str, Any], numbers: Numbers) -> str:
    """Settings, machine, networks and adapters, folded away."""
    about = {key: facts[key] for key in ("sources", "seconds", "hardware")} | {"networks": numbers.networks}
    parts = {"Settings": facts["settings"], "Machine, networks, files": about}
    blocks = []
    for name, what in parts.items():
        text = yaml.safe_dump(what, sort_keys=False, allow_unicode=True, width=110)
        blocks.append(f"<details><summary>{name}</summary><pre>{escape(text)}</pre></details>")
    return "\n".join(["<h2>How it was made</h2>", *blocks])
