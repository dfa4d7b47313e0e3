"""What is shown of a study: table and plots in ``study.html``, plots in ``pareto.png`` and ``families.png``, W&B's table.

Enters: the ``Results``. Leaves: the files. It measures nothing.
"""

from __future__ import annotations

import json
from contextlib import chdir
from itertools import compress
from pathlib import Path
from typing import Any, Literal

from cinelora.config.metric_names import better
from cinelora.config.schema import StudyConfig
from cinelora.errors import first_line
from cinelora.io.atomic import write_text
from cinelora.io.html.figure import Mark, as_svg
from cinelora.io.html.template import render
from cinelora.io.media import write_png
from cinelora.io.own_files import drop_wandb_links
from cinelora.io.terminal import warn
from cinelora.studies.family_plots import family_plots
from cinelora.studies.pareto import Spot, as_one_png, as_png, marks
from cinelora.studies.results import STEP_OF_PIXELS, Result, Results, bounds_of, cells, columns

REPORT, PICTURE, FAMILIES = "study.html", "pareto.png", "families.png"
UPWARDS = (
    *("perceptual_scale", "lpips_alex", "psnr", "frechet_scale", "fvd_i3d", "tssim_warped", "warping_error"),
    *("heldout_frechet_scale", "heldout_fvd_i3d"),
)
"""What seconds are spent on, in the order of the plots: likeness to the whole clip first, as a clip that
moves less is steadier."""
HIDDEN = ("key", "text_s", "keyframe_s", "condition_s", "denoise_min_s", "denoise_max_s")
"""Columns that the page leaves to the CSV."""


def show(table: Results, config: StudyConfig, folder: Path) -> list[Path]:
    """Write page and picture of ``table``; the files there are."""
    families, drawn = family_plots(table.rows), plots(table.rows)
    models = dict.fromkeys(row.facts["clip"] for row in table.rows)
    source = Path(config.ckpt).name if config.ckpt else config.model.name
    several = len({row.facts["model"] for row in table.rows}) > 1
    hidden = {
        *HIDDEN,
        *(("model",) if not several else ()),
        *(b for row in table.rows for n in row.numbers for b in bounds_of(n)),
    }
    heading = [name for name in columns(table.rows) if name not in hidden]
    text = render(
        "study_report.html.j2",
        title=f"Study of {len(config.merge)} runs" if config.merge else f"Study of {source}",
        about=f"{len(table.rows)} rows on {len(machines(table.rows))} machines; {', '.join(models)}",
        sentences=table.sentences,
        plots=[as_svg(one) for one in [*families, *drawn]],
        head=["row", *heading],
        rows=[[str(number), *told(row, heading)] for number, row in enumerate(table.rows, 1)],
        machines=json.dumps(machines(table.rows), indent=1),
    )
    write_text(folder / REPORT, text)
    pictures = {}
    if families:
        pictures[FAMILIES] = as_one_png(families, columns=2)
    if drawn:
        pictures[PICTURE] = as_png(drawn[0])
    for name, picture in pictures.items():
        write_png(folder / name, picture)
    return [folder / REPORT, *(folder / name for name in pictures)]


def plots(rows: list[Result]) -> list[list[Mark]]:
    """A plot for each measure that comparable rows have, of most rows first; of latency alone, seconds against memory.

    Across is the part that settings change: the others would add the same, and their noise.
    """
    groups: dict[tuple[object, ...], list[tuple[int, Result]]] = {}
    for number, row in enumerate(rows, 1):
        groups.setdefault(comparable(row), []).append((number, row))
    found = []
    for group in sorted(groups.values(), key=len, reverse=True):
        timed = [(number, row) for number, row in group if row.step_s and not row.trouble]
        drawn = []
        for name in UPWARDS:
            spots = [Spot(n, row.seconds["denoise"], row.numbers[name]) for n, row in timed if name in row.numbers]
            if len(spots) > 1:  # one dot compares nothing
                drawn.append(marks(spots, name, "seconds to denoise a clip", better(f"heldout/{name}") == "max"))
        found += drawn
        held = [Spot(number, row.step_s or 0.0, row.peak_gib) for number, row in timed if row.peak_gib]
        if not drawn and len(held) > 1:
            found.append(marks(held, "peak memory, GiB", "seconds of a denoising step", False))
    return found


BETWEEN_ROWS = (
    "some rows ran compiled blocks and some did not: compare those whose `compiled` is the same",
    "rows of one machine come from several sittings: compare seconds within one, as what else runs there may differ",
    "weights that are fetched for each block cannot hold an adapter: rows with `swap` ran it live, merged or not",
)


def comparable(row: Result) -> tuple[object, ...]:
    """What rows that stand in one plot have in common."""
    return row.facts["clip"], row.place[1], row.facts.get("compiled"), row.facts.get("sitting")


def between_rows(rows: list[Result]) -> list[str]:
    """What must be read beside rows that were not made alike."""
    timed = [row for row in rows if row.denoise_s]
    # in the order of the sentences: each with whether it holds of these rows
    holds = (
        len({row.facts["compiled"] for row in rows if "compiled" in row.facts}) > 1,
        any(len({r.facts.get("sitting") for r in timed if r.place[1] == machine}) > 1 for machine in machines(rows)),
        any(row.facts.get("swap") for row in rows),
    )
    return list(compress(BETWEEN_ROWS, holds))


def machines(rows: list[Result]) -> dict[str, Any]:
    """The machines by their hash."""
    return {row.place[1]: row.machine for row in rows}


def told(row: Result, heading: list[str]) -> list[str]:
    """A row as texts, each mean with its interval."""
    texts = [f"{cell:.4g}" if isinstance(cell, float) else str(cell) for cell in cells(row, heading)]
    return [f"{text}{between(row, name)}" for name, text in zip(heading, texts, strict=True)]


def between(row: Result, name: str) -> str:
    """The interval of a mean in brackets; nothing where it has none."""
    bounds = row.interval(name) if name in row.numbers else None
    return f" ({bounds[0]:.3g} to {bounds[1]:.3g})" if bounds else ""


def lines(rows: list[Result]) -> list[str]:
    """The table for a terminal: what every row cost, and the numbers there are; rows of several models say which is whose."""
    whose = len({row.facts["clip"] for row in rows}) > 1
    names = [f"{', '.join(row.facts['clip'].split(', ')[:2])}: {row.name}" if whose else row.name for row in rows]
    width = max(map(len, names), default=0)
    pairs = enumerate(zip(names, rows, strict=True), 1)
    return [f"{number:>3}  {name:<{width}}  {row.trouble or in_words(row)}" for number, (name, row) in pairs]


def in_words(row: Result) -> str:
    """Seconds, memory and numbers of a row."""
    words = [f"{row.step_s:.3g} s a step"] if row.step_s else []
    words += [f"{row.seconds['denoise']:.3g} s to denoise"] if row.seconds.get("denoise") else []
    words += [f"{row.computed:.0%} computed"] if row.computed is not None and row.computed < 1 else []
    words += [f"{row.peak_gib:.1f} GiB"] if row.peak_gib else []
    costs = row.costs()
    numbers = {name: value for name, value in costs.items() if name != STEP_OF_PIXELS or len(costs) == 1} | row.numbers
    return ", ".join([*words, *(f"{name} {value:.4g}{between(row, name)}" for name, value in numbers.items())])


def to_wandb(table: Results, config: StudyConfig, folder: Path) -> None:
    """The rows as a W&B table, offline unless it is asked for or a key is there; what goes wrong is said, and the files stay."""
    import wandb

    from cinelora.training.loggers import WANDB_SETTINGS, is_offline, read_own_wandb_settings, run_words

    heading = columns(table.rows)
    data = [[str(cell) for cell in cells(row, heading)] for row in table.rows]
    words, folder = run_words(config.logger, f"study-{folder.name}"), folder.absolute()
    mode: Literal["offline", "online"] = "offline" if is_offline(config.logger) else "online"
    try:
        read_own_wandb_settings()
        with chdir("/"):  # as in ``make_journal``
            run = wandb.init(**words, dir=folder, mode=mode, settings=WANDB_SETTINGS)
        run.log({"study": wandb.Table(columns=[*heading], data=data)})
        run.finish()
        drop_wandb_links(folder)
    except Exception as error:  # whatever it is: the study is done and lies in its files
        warn(f"W&B failed ({first_line(error)}); the rows are in {folder}")
