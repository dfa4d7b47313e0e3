"""The tables of full-size runs, of studies and of predictions in README.md and docs, from ``benchmarks/results``.

    python benchmarks/tables.py

Enters: what ``train_step.py``, ``memory.py``, ``denoise.py`` and ``many_gpus.py`` reported, and ``rows.json`` of studies
under names of their own. Leaves: the text between ``<!-- name -->`` and
``<!-- /name -->`` in these pages. Where a file of results is missing, the text it would be in stays, and that is said.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from cinelora.config.schema import ModelConfig
from cinelora.evaluation.statistics import bootstrap_mean
from cinelora.planning.estimate import Policy, Shape

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
Result = dict[str, Any]
Results = dict[str, Result]

NOT_MEASURED = "-"
VERSIONS = ("python", "torch", "diffusers", "peft", "lightning")
JOBS = {"still": "1 still 720p", "stills": "4 stills 720p", "window": "33 frames 480p", "long": "81 frames 480p"}
"""What the cases of ``memory.py`` are of, by the first word of their names."""
LIMITS = (("window", 24), ("window", 16), ("long", 80))
"""Jobs that were run in less memory than the GPU has, and the GiB."""
DRAWN = ("720p81", "one prediction, 81 frames 720p")


@dataclass(frozen=True)
class Block:
    """A table: its page, the name in its markers, the results it is made of, and how."""

    page: str
    name: str
    sources: tuple[str, ...]
    table: Callable[[Results], list[str]]
    measured: bool = True
    """Whether its results come from a machine, and not from arithmetic."""


# -- speed, in the README ----------------------------------------------------------------------------------------------


def speed_table(results: Results) -> list[str]:
    """Seconds, times faster than the plain loop, and peak, of whole jobs and of jobs in little memory."""
    steps, cases, drawn = results["train_step"]["jobs"], results["memory"], results["denoise"]["jobs"]
    rows = [[f"one step, {JOBS[name]}", *measured(rows)] for name, rows in steps.items()]
    for name, limit in LIMITS:
        peak = steps.get(name, {}).get("plain", {}).get("peak_gib", 0.0)
        plain = f"does not fit: {peak:.1f} GiB" if peak > limit else NOT_MEASURED
        limited = [
            limited_cell(
                cases.get(f"{name}-{dtype}-{limit}"), steps.get(name, {}).get(dtype) or cases.get(f"{name}-{dtype}")
            )
            for dtype in ("bf16", "fp8")
        ]
        rows.append([f"one step, {JOBS[name]}, in {limit} GiB", plain, *limited])
    name, what = DRAWN
    if name in drawn:
        rows.append([what, *measured(drawn[name]["contenders"])])
    return table(["", "plain diffusers + peft", "bf16", "fp8"], rows)


def measured(rows: Result) -> list[str]:
    """Cells of the three contenders of a job."""
    return [cell(rows.get(contender)) for contender in ("plain", "bf16", "fp8")]


def cell(row: Result | None) -> str:
    """``1.62 s, 1.98x, 133.2 GiB``; the plain loop, which all are compared with, has no factor."""
    if row is None:
        return NOT_MEASURED
    faster = row.get("times_faster", 1.0)
    factor = "" if faster == 1.0 else f" **{faster:.2f}x**,"
    return f"{row['median_s']:.2f} s,{factor} {row['peak_gib']:.1f} GiB"


def limited_cell(case: Result | None, free: Result | None) -> str:
    """``2.59 s, 1.36 of uncapped, 19.9 GiB``: a case of ``memory.py``, and the same step with all the GPU's memory."""
    if case is None or "failed" in case or free is None:
        return "out of memory" if case and "failed" in case else cell(case)
    return (
        f"{case['median_s']:.2f} s, {case['median_s'] / free['median_s']:.2f} of uncapped, {case['peak_gib']:.1f} GiB"
    )


WAN22 = {
    "a14b_stills": "A14B, an expert of T2V: one step, 4 stills 720p",
    "a14b_window": "A14B, an expert of I2V: one step, 33 frames 480p",
    "5b_window": "TI2V-5B: one step, 49 frames of 704x1280",
    "5b_clip": "TI2V-5B: one prediction, 121 frames of 704x1280",
}
WAN22_LIMITS = {
    "5b_trains_16": "TI2V-5B: one step, 49 frames of 704x1280, fp8, in 16 GiB",
    "5b_draws_16": "TI2V-5B: both halves of guidance, 121 frames of 704x1280, fp8, in 16 GiB",
    "a14b_draws_24": "A14B: both halves of guidance, 81 frames 720p, fp8, in 24 GiB",
}


def wan22_table(results: Results) -> list[str]:
    """The same of Wan2.2's families; and the peaks of what has to fit smaller cards, of decoding too."""
    found = results["wan22"]
    rows = [[what, *measured(found[name])] for name, what in WAN22.items()]
    for name, what in WAN22_LIMITS.items():
        case = found["limits"][name]
        decoding = f"; decoding {case['decoded']['peak_gib']:.1f} GiB" if "decoded" in case else ""
        rows.append([what, NOT_MEASURED, NOT_MEASURED, f"{case['peak_gib']:.1f} GiB{decoding}"])
    return table(["", "plain diffusers + peft", "bf16", "fp8"], rows)


UNETS = {
    "style": "a style step: the image network, 8 stills of 512x512",
    "motion": "a motion step: 16 frames of 512x512",
    "clip": "a guided prediction of 16 frames of 512x512",
}


def unets_table(results: Results) -> list[str]:
    """AnimateDiff beside the plain loop: seconds, how many times faster, and peaks; and what fits a small card."""
    found, rows = results["unets"], list[list[str]]()
    for name, what in UNETS.items():
        cells = [unet_cell(found[name].get(who)) for who in ("plain", "ours", "compiled", "recomputed")]
        rows.append([what, *cells])
    for name in ("style_12", "motion_12"):
        job, case = UNETS[name.split("_")[0]], found["limits"][name]
        rows.append(
            [f"{job}, in 12 GiB", *[NOT_MEASURED] * 3, f"{1000 * case['s']:.0f} ms, {case['peak_gib']:.1f} GiB"]
        )
    return table(["", "plain diffusers + peft", "ours", "compiled", "recomputed or in 12 GiB"], rows)


def unet_cell(case: Result | None) -> str:
    """``66 ms (1.50x), 7.8 GiB``."""
    if case is None:
        return NOT_MEASURED
    faster = "" if case["times_faster"] == 1 else f" ({case['times_faster']:.2f}x)"
    return f"{1000 * case['median_s']:.0f} ms{faster}, {case['peak_gib']:.1f} GiB"


# -- memory, in the docs -----------------------------------------------------------------------------------------------


def memory_table(results: Results) -> list[str]:
    """What was predicted and what was measured of every case, and by how much the prediction was off."""
    cases = {name: case for name, case in results["memory"].items() if isinstance(case, dict)}
    head = ["case", "its blocks", "GiB predicted", "measured", "off", "s predicted", "measured", "off"]
    return table(head, [[case_named(name), *case_cells(case)] for name, case in cases.items()])


def case_named(name: str) -> str:
    """``window-fp8-24`` in words."""
    job, dtype, *rest = name.split("-")
    limit = [f"in {word} GiB" for word in rest if word.isdigit()]
    return ", ".join([JOBS[job], dtype, *limit])


def case_cells(case: Result) -> list[str]:
    """Policy, GiB and seconds of one case."""
    if "failed" in case:
        return [NOT_MEASURED, f"{case['predicted_gib']:.1f}", "out of memory", *[NOT_MEASURED] * 4]
    return [
        in_words(case["policy"]),
        *compared(case["predicted_gib"], case["peak_gib"], 1),
        *compared(case["predicted_s"], case["median_s"], 2),
    ]


def compared(predicted: float, measured: float, digits: int) -> list[str]:
    """Both, and the error of the prediction."""
    return [f"{predicted:.{digits}f}", f"{measured:.{digits}f}", f"{predicted / measured - 1:+.1%}".replace("%", " %")]


def in_words(policy: str) -> str:
    """What the text of a ``Policy`` says."""
    values = dict(re.findall(r"(\w+)=(\w+)", policy))
    read = Policy(int(values["recompute"]), values["offload"] == "True", int(values["swap"]))
    return read.in_words(Shape.of(ModelConfig(), "i2v"))


# -- studies -----------------------------------------------------------------------------------------------------------

SAME = 100.0
"""The ``psnr`` of two clips that are the same, as it is capped."""
MEASURES = ("tssim", "tssim_warped", "warping_error", "flow_motion", "perceptual_scale", "psnr", "frechet_scale")


def clips_table(results: Results) -> list[str]:
    """Seconds of a clip by part and as a multiple of the baseline's, and how it holds still, setting by setting."""
    rows = only(results)
    found = [name for name in MEASURES if any(name in row["numbers"] for row in rows)]
    head = ["setting", "denoise, s", "of baseline", "decode, s", "computed", *found]
    return table(
        head,
        [[*spent(row, baseline(row, rows)), *(number(row["numbers"].get(name)) for name in found)] for row in rows],
    )


def spent(row: Result, first: Result | None) -> list[str]:
    """What a clip took."""
    if "denoise" not in row["seconds"]:
        return [named(row), row["trouble"] or NOT_MEASURED, *[NOT_MEASURED] * 3]
    seconds, low, high = row["seconds"]["denoise"], min(row["denoise_s"]), max(row["denoise_s"])
    ratio = f"{seconds / first['seconds']['denoise']:.2f}" if first else NOT_MEASURED
    decode = number(row["seconds"].get("decode"))
    return [named(row), f"{seconds:.2f} ({low:.2f} to {high:.2f})", ratio, decode, share(row)]


def steps_table(results: Results) -> list[str]:
    """Seconds of a denoising step as a multiple of the baseline's, of whole and of skipped predictions, and memory."""
    rows = only(results)
    head = [
        "device",
        "clip",
        "setting",
        "a step, s",
        "of baseline",
        "whole prediction, s",
        "skipped, s",
        "computed",
        "peak, GiB",
    ]
    return table(head, [[*shown(row), *stepped(row, baseline(row, rows))] for row in rows])


def shown(row: Result) -> list[str]:
    """What was drawn on what."""
    return [row["machine"]["device"], row["facts"]["clip"].split(", ")[1]]


def stepped(row: Result, first: Result | None) -> list[str]:
    """What a step took."""
    if row["step_s"] is None:
        return [named(row), row["trouble"] or NOT_MEASURED, *[NOT_MEASURED] * 5]
    ratio = f"{row['step_s'] / first['step_s']:.3f}" if first else NOT_MEASURED
    predictions = [number(row["whole_s"]), number(row["skipped_s"]), share(row)]
    return [named(row), f"{row['step_s']:.3f}", ratio, *predictions, number(row["peak_gib"])]


HELD = {"tssim_warped": 3, "warping_error": 2, "flow_motion": 2, "heldout_frechet_scale": 2, "psnr": 1}
"""The measures in the tables of families, each with the number of decimals that it is printed with."""
SAYS_NOTHING = ("rank 8", "rank 32")
"""Settings that draw the baseline's own clips."""


def families_table(results: Results, common: bool) -> list[str]:
    """How each family holds still, setting by setting, at its own geometry or the common one; with intervals of 95 %."""
    rows = [row for row in only(results) if row["numbers"] and not row["name"].startswith(SAYS_NOTHING)]
    models = {size: {row["facts"]["model"] for row in rows if clip_size(row) == size} for size in map(clip_size, rows)}
    chosen = [row for row in rows if (len(models[clip_size(row)]) > 1) == common]
    cells = [
        [row["facts"]["model"], clip_size(row), row["name"], *(held(row, name) for name in HELD)] for row in chosen
    ]
    return table(["model", "clip", "setting", *HELD], cells)


def clip_size(row: Result) -> str:
    """``33 frames of 112x192``."""
    return "{frames} frames of {height}x{width}".format(**row["facts"])


def held(row: Result, name: str) -> str:
    """A mean over clips with its interval, or a number of all clips."""
    value, digits = row["numbers"].get(name), HELD[name]
    if value is None:
        return NOT_MEASURED
    each = [of_clip for of_clip in row.get("of_clips", {}).get(name, []) if of_clip is not None]
    if name == "psnr" or len(each) < 2:
        return f"{value:.{digits}f}"
    found = bootstrap_mean(np.array(each))
    return f"{value:.{digits}f} ({found.low:.{digits}f} to {found.high:.{digits}f})"


def cost_table(results: Results) -> list[str]:
    """A prediction of each family, with adapters folded in, beside the weights, and without any."""
    rows, cells = only(results), list[list[str]]()
    for row in rows:
        first = next(one for one in rows if loaded(one) == loaded(row) and one["name"] == "baseline")
        megapixels = row["facts"]["frames"] * row["facts"]["height"] * row["facts"]["width"] / 1e6
        name = {"baseline": "folded in", "base model": "none"}.get(row["name"], row["name"])
        spent = [
            f"{row['whole_s']:.3g}",
            f"{row['whole_s'] / first['whole_s']:.3f}",
            f"{row['whole_s'] / megapixels:.3f}",
        ]
        if row["name"] not in ("rank 2", *SAYS_NOTHING):
            cells.append([row["facts"]["model"], clip_size(row), row["machine"]["device"], name, *spent])
    return table(
        ["model", "clip", "device", "adapters", "guided prediction, s", "of folded in", "s a megapixel-frame"], cells
    )


def only(results: Results) -> list[Result]:
    """The rows of the one study."""
    (study,) = results.values()
    rows: list[Result] = study["rows"]
    return rows


def baseline(row: Result, rows: list[Result]) -> Result | None:
    """What ``row`` is compared with, if there is any: the baseline of the same sitting, or what draws its very clip."""
    alike = [one for one in rows if loaded(one) == loaded(row) and one["step_s"] is not None]
    return next((one for one in alike if one["name"] == "baseline"), next(filter(draws_the_same, alike), None))


def draws_the_same(row: Result) -> bool:
    """Whether every value of its clips is the baseline's, merged and in full as the baseline is, whatever the adapter's rank."""
    setting = row.get("setting", {})
    return row["numbers"].get("psnr") == SAME and setting.get("cache") == "none" and bool(setting.get("merged"))


def loaded(row: Result) -> tuple[Any, bool, str, Any]:
    """What a baseline has in common with its settings."""
    facts = row["facts"]
    return facts.get("model"), bool(facts.get("compiled")), row["machine"]["device"], facts.get("sitting")


def named(row: Result) -> str:
    """The setting, and whether its blocks were compiled."""
    return f"{row['name']}, compiled" if row["facts"].get("compiled") else str(row["name"])


def share(row: Result) -> str:
    """How many predictions ran every block."""
    return f"{row['computed']:.0%}".replace("%", " %")


def number(value: float | None) -> str:
    """Three digits, or a dash."""
    return NOT_MEASURED if value is None else f"{value:.3g}"


# -- many GPUs, in the docs --------------------------------------------------------------------------------------------


def foretold_table(results: Results) -> list[str]:
    """What is foretold of a clip on 1 to 64 GPUs of each kind."""
    cards = results["many_gpus"]["ours"]
    head = ["GPUs", "partition", "GB sent, a step and rank"]
    head += [f"{name}: s a step, a clip, times one" for name in cards]
    rows = []
    for alike in zip(*cards.values(), strict=True):
        first = alike[0]
        cells = [f"{row['step_s']:.3g}, {row['clip_s']:.0f}, **{row['clip_times']:.2f}x**" for row in alike]
        rows.append([str(first["gpus"]), first["partition"], f"{first['sent_gb']:.2f}", *cells])
    return table(head, rows)


def official_table(results: Results) -> list[str]:
    """Official seconds beside those foretold."""
    rows = [
        [
            f"{row['table']}, {row['gpus']} x {row['card']}",
            f"{row['official_s']:.1f}",
            f"{row['foretold_s']:.1f}",
            "taken" if row["fitted"] else f"{row['off']:+.1%}".replace("%", " %"),
        ]
        for row in results["many_gpus"]["official"]
    ]
    return table(["", "official, s", "estimated, s", "off"], rows)


# -- pages -------------------------------------------------------------------------------------------------------------

BLOCKS = (
    Block("docs/measured.md", "full_size", ("train_step", "memory", "denoise"), speed_table),
    Block("docs/families.md", "wan22", ("wan22",), wan22_table),
    Block("docs/families.md", "unets", ("unets",), unets_table),
    Block("docs/memory.md", "cases", ("memory",), memory_table),
    Block("docs/study.md", "study_scale_model", ("study_scale_model",), clips_table),
    Block("docs/study.md", "study_distilled", ("study_distilled",), clips_table),
    Block("docs/study.md", "study_14b", ("study_14b",), steps_table),
    Block("docs/study.md", "study_families_own", ("study_families",), partial(families_table, common=False)),
    Block("docs/study.md", "study_families_common", ("study_families",), partial(families_table, common=True)),
    Block("docs/study.md", "study_families_cost", ("study_families_cost",), cost_table),
    Block("docs/many-gpus.md", "many_gpus", ("many_gpus",), foretold_table, measured=False),
    Block("docs/many-gpus.md", "official", ("many_gpus",), official_table, measured=False),
)


def table(head: list[str], rows: list[list[str]]) -> list[str]:
    """Lines of Markdown."""
    return [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)]


def measured_on(results: Results) -> str:
    """Hardware and versions in one line; results of several machines or versions are told apart."""
    told: dict[str, list[str]] = {}
    for name, result in results.items():
        for machine in [row["machine"] for row in result.get("rows", [])] or [result]:
            versions = ", ".join(f"{package} {machine[package]}" for package in VERSIONS)
            what = f"{machine['gpus']} x" if machine["gpus"] else f"{machine['cpu_cores']} cores,"
            names = told.setdefault(f"{what} {machine['device']}, {versions}", [])
            names += [] if name in names else [name]
    if len(told) == 1:
        return f"{next(iter(told))}. A dash: not measured."
    return "; ".join(f"{', '.join(names)}: {facts}" for facts, names in told.items()) + "."


def written(block: Block, results: Results) -> str:
    """The text between the markers of ``block``."""
    machine = [measured_on(results), ""] if block.measured else []
    return "\n".join(["", *block.table(results), "", *machine])


def rewritten(page: str, block: Block, text: str) -> str:
    """``page`` with ``text`` between the markers of ``block``; raises ``ValueError`` where it has none."""
    first, last = f"<!-- {block.name} -->\n", f"\n<!-- /{block.name} -->"
    if page.count(first) != 1 or page.count(last) != 1:
        raise ValueError(f"{block.page} wants {first.strip()} and {last.strip()}, once each")
    return page[: page.index(first) + len(first)] + text + page[page.index(last) :]


def read(folder: Path, block: Block) -> tuple[Results, list[str]]:
    """The results that ``block`` is made of, and the names of those that are missing."""
    paths = {name: folder / f"{name}.json" for name in block.sources}
    found = {name: json.loads(path.read_text()) for name, path in paths.items() if path.exists()}
    return found, [name for name in block.sources if name not in found]


def write_pages(root: Path, folder: Path) -> list[str]:
    """Rewrite every table below ``root`` from the results in ``folder``; the lines to print about it."""
    lines = []
    for block in BLOCKS:
        results, missing = read(folder, block)
        if missing:
            absent = ", ".join(f"{name}.json" for name in missing)
            lines.append(f"{block.page}: {block.name} stays as it is, for want of {absent} in {folder}")
            continue
        page = root / block.page
        page.write_text(rewritten(page.read_text(), block, written(block, results)))
        lines.append(f"{block.page}: {block.name} written")
    return lines


if __name__ == "__main__":
    print("\n".join(write_pages(ROOT, RESULTS)))
