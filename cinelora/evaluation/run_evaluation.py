"""One evaluation from settings to report: draw what is missing, measure what is there, write it down.

Enters: a checked ``EvaluateConfig`` and a run directory. Leaves there ``clips/``, ``real/``, ``plan.json``, ``numbers.json`` and
``.csv``, ``report.html``, ``pairs.html`` with its key, and an exit code. What is drawn stays drawn: a run that was cut off is
gone on with, or reported as far as it came (``report=true``).
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from cinelora.config.schema import EvaluateConfig
from cinelora.evaluation.blind_test import score, write_pairs
from cinelora.evaluation.clip_list import Plan, load_plan, read_take, take_folder
from cinelora.evaluation.evaluation_report import write_report
from cinelora.evaluation.generate import draw_missing, plan
from cinelora.evaluation.measure import measure_clips, save_numbers, table
from cinelora.io.hardware import hardware
from cinelora.io.terminal import say, warn
from cinelora.io.waiting import waiting


def evaluate(config: EvaluateConfig, run_dir: Path) -> int:
    """Evaluate into ``run_dir``; returns the exit code."""
    if config.report or config.answers:
        planned = load_plan(run_dir)
    else:
        planned = plan(config, run_dir)
        planned.save(run_dir)
        draw_missing(config, planned, run_dir)
    if config.answers:
        return count_votes(planned, run_dir, Path(config.answers))
    with waiting("measuring"):
        numbers = measure_clips(config, planned, run_dir)
    save_numbers(numbers, run_dir, evaluation_facts(config, planned, run_dir))
    say(*table(numbers))
    for sentence in numbers.sentences:
        warn(sentence)
    pairs = write_pairs(planned, run_dir)
    say(f"report {write_report(planned, run_dir)}")
    say(f"numbers {run_dir / 'numbers.json'}")
    if pairs:
        say(f"blind test {pairs}")
    return 0


def count_votes(planned: Plan, run_dir: Path, answers: Path) -> int:
    """Score answers, print them, and put them into the report."""
    found = score(planned, run_dir, answers)
    for one in found:
        question, rater, preferred, to, share, interval, p, votes, ties = one.cells()
        said = f"{preferred} preferred to {to} in {share} ({interval}), sign test {p}, " if share else "no preference, "
        say(f"{question}, {rater}: {said}{votes} votes, {ties} without a difference")
    if not found:
        say("no answers in there")
    say(f"preferences {run_dir / 'preferences.json'}", f"report {write_report(planned, run_dir)}")
    return 0


def evaluation_facts(config: EvaluateConfig, planned: Plan, run_dir: Path) -> dict[str, Any]:
    """What the numbers rest on: settings, adapters by their content, the machine, and the seconds of a take."""
    summaries = [take_folder(run_dir, take) / "summary.json" for take in planned.takes()]
    drawn = [read_take(path) for path in summaries if path.is_file()]
    parts = sorted({part for one in drawn for part in one["seconds"]})
    seconds = {part: round(sum(one["seconds"].get(part, 0.0) for one in drawn) / len(drawn), 3) for part in parts}
    sources = drawn[0]["sources"] if drawn else {}
    return {"settings": asdict(config), "sources": sources, "seconds": seconds, "hardware": hardware()}
