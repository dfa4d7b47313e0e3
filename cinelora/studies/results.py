"""The rows of a study: kept whole after each change, continued by a resumed study, combined from several machines.

Enters: rows, one for each setting and machine. Leaves: ``rows.json`` and ``rows.csv``. It knows no torch.
"""

from __future__ import annotations

import csv
import io
import math
import statistics
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from cinelora.errors import ConfigError, FileError
from cinelora.evaluation.statistics import bootstrap_mean
from cinelora.io.atomic import sha256_json, write_json, write_text
from cinelora.io.plain_data import MOST_OF_LISTS, read_json

ROWS, TABLE, LATENTS = "rows.json", "rows.csv", "latents"
FOOTAGE = "held-out footage"
"""The name of a row of real clips, which no setting has drawn."""
CONTROLS = ("control: frozen", "control: shuffled")
"""The names of rows of the baseline's own frames, its first one all the time, and all of them in a random order."""
HELDOUT = "heldout_"
"""Before the name of a distance: to held-out footage, not to the baseline's clips."""
OF_FILM, OF_PIXELS, STEP_OF_PIXELS = "film_second_s", "megapixel_frame_s", "step_megapixel_frame_s"
"""Seconds for a second of film, for a megapixel of a frame, and those of one step for it."""
PARTS = ("text", "keyframe", "condition", "denoise", "decode")


@dataclass
class Result:
    """What one setting cost on one machine, and how its clips were.

    ``seconds`` are of a clip, by part; ``denoise_s`` of each repetition; ``whole_s`` and ``skipped_s`` are medians of predictions
    that ran every block and of those that did not; ``computed`` is the share of the former. ``numbers`` are means over clips, or
    of all clips as a set; ``of_clips`` are the values behind a mean, clip by clip, None where a clip has none.
    """

    key: str
    name: str
    setting: dict[str, Any]
    facts: dict[str, Any]
    machine: dict[str, Any]
    seconds: dict[str, float] = field(default_factory=dict)
    denoise_s: list[float] = field(default_factory=list)
    step_s: float | None = None
    whole_s: float | None = None
    skipped_s: float | None = None
    computed: float | None = None
    peak_gib: float | None = None
    numbers: dict[str, float] = field(default_factory=dict)
    ratios: list[float] = field(default_factory=list)
    trouble: str | None = None
    of_clips: dict[str, list[float | None]] = field(default_factory=dict)

    @property
    def place(self) -> tuple[str, str]:
        """What tells it from every other row: the setting and the machine."""
        return self.key, sha256_json(self.machine)[:8]

    @property
    def size(self) -> tuple[int, int, int] | None:
        """Frames, height and width of its clips; None in rows of older versions."""
        facts = self.facts
        return (facts["frames"], facts["height"], facts["width"]) if "frames" in facts else None

    def interval(self, name: str) -> tuple[float, float] | None:
        """The 95 % bootstrap interval of a mean over clips; None of a number of all clips as a set, and of one clip."""
        return _interval(tuple(value for value in self.of_clips.get(name, []) if value is not None))

    def costs(self) -> dict[str, float]:
        """Seconds for each second of film, and for each million pixels of its frames: of a clip's denoising, and of a step.

        A second of film is denoised and decoded. What was timed without clips has a step alone.
        """
        if self.size is None or not self.step_s:
            return {}
        pixels, film = math.prod(self.size) / 1e6, self.facts["frames"] / self.facts["fps"]
        found = {STEP_OF_PIXELS: self.step_s / pixels}
        if "decode" in self.seconds:
            denoise, decode = self.seconds["denoise"], self.seconds["decode"]
            found = {OF_FILM: (denoise + decode) / film, OF_PIXELS: denoise / pixels} | found
        return {name: float(f"{seconds:.4g}") for name, seconds in found.items()}


@cache  # tables are written again with every row
def _interval(values: tuple[float, ...]) -> tuple[float, float] | None:
    found = bootstrap_mean(np.array(values)) if values else None
    return None if found is None or found.low is None or found.high is None else (found.low, found.high)


@dataclass
class Results:
    """Rows in order, and sentences to be read beside them."""

    rows: list[Result] = field(default_factory=list)
    sentences: list[str] = field(default_factory=list)

    def put(self, row: Result) -> None:
        """Add ``row``, or put it in the place of an older one."""
        # A dictionary keeps the place of a key that it has already, so a row that was run again stays where it was in the table.
        self.rows = list(({one.place: one for one in self.rows} | {row.place: row}).values())

    def say(self, *sentences: str) -> None:
        """Add sentences that are not there yet."""
        self.sentences += [one for one in dict.fromkeys(sentences) if one not in self.sentences]

    def save(self, folder: Path) -> None:
        """Write both files."""
        write_json(folder / ROWS, asdict(self))
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerows([columns(self.rows), *(cells(row, columns(self.rows)) for row in self.rows)])
        write_text(folder / TABLE, text.getvalue())


def load_table(folder: Path) -> Results:
    """The rows in ``folder``, or none. Raises ``ConfigError`` where the file is no study's."""
    path = folder / ROWS
    if not path.exists():
        return Results()
    try:
        return read_json(path, Results, limit=MOST_OF_LISTS, measured=True)
    except FileError as error:
        raise ConfigError(f"{path} is not what a study wrote: {error}") from error


def merged_results(tables: list[Results]) -> Results:
    """All rows of several studies, those of one setting and machine once."""
    whole = Results()
    for table in tables:
        for row in table.rows:
            whole.put(row)
        whole.say(*table.sentences)
    return whole


SIZE = tuple("frames height width fps".split())
SETTING = tuple("steps distilled scale rank merged only cache threshold dtype partition ranks compiled swap".split())
TIMES = tuple("denoise_min_s denoise_max_s step_s whole_prediction_s skipped_prediction_s computed peak_gib".split())
ENDS = ("trouble", "hardware", "key")


def columns(rows: list[Result]) -> list[str]:
    """The head of the table: what every row has, then the numbers that any has."""
    parts = [f"{part}_s" for part in PARTS if any(part in row.seconds for row in rows)]
    numbers = dict.fromkeys(name for row in rows for name in row.numbers)
    bounded = {name for row in rows for name in row.numbers if row.interval(name)}
    bounds = [word for name in numbers for word in (name, *(bounds_of(name) if name in bounded else ()))]
    costs = dict.fromkeys(name for row in rows for name in row.costs())
    sizes = SIZE if any(row.size for row in rows) else ()
    return ["name", "model", *sizes, "device", *SETTING, *parts, *TIMES, *costs, *bounds, *ENDS]


def bounds_of(name: str) -> tuple[str, str]:
    """The columns of a mean's interval."""
    return f"{name}_low", f"{name}_high"


def cells(row: Result, heading: list[str]) -> list[Any]:
    """A row as values; empty where it has none."""
    found = {name: row.interval(name) for name in row.numbers}
    bounds = {
        key: value for name, both in found.items() if both for key, value in zip(bounds_of(name), both, strict=True)
    }
    known = {
        **row.facts,
        **row.setting,
        **{name: getattr(row, name) for name in ("name", "step_s", "computed", "peak_gib", "trouble", "key")},
        **{f"{part}_s": seconds for part, seconds in row.seconds.items()},
        "device": row.machine.get("device"),
        "hardware": row.place[1],
        "denoise_min_s": min(row.denoise_s, default=None),
        "denoise_max_s": max(row.denoise_s, default=None),
        "whole_prediction_s": row.whole_s,
        "skipped_prediction_s": row.skipped_s,
        **row.numbers,
        **row.costs(),
        **bounds,
    }
    return ["" if known.get(name) is None else known[name] for name in heading]


def middle(values: list[float]) -> float | None:
    """The median, or None of nothing."""
    return round(statistics.median(values), 5) if values else None
