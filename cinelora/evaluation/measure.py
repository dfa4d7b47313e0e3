"""The numbers of an evaluation: every clip measured, and what that says of each variant and of its distance to the base.

Enters: a plan and the clips in its run directory, as many as there are. Leaves: ``Numbers``, which is ``numbers.json``. Clips are
measured as they lie there, real ones too, so that a codec's marks stand on both sides. It does not know how anything is shown.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, TypedDict

import numpy as np

from cinelora.config.metric_names import better
from cinelora.config.schema import EvaluateConfig
from cinelora.evaluation.clip_list import BASE, Plan, PlannedTake, clip_file, troubles
from cinelora.evaluation.statistics import Interval, bootstrap_mean
from cinelora.footage.video_reader import UnreadableClip, open_video
from cinelora.io.atomic import write_json, write_text
from cinelora.io.live_bar import LiveBar
from cinelora.io.media import Pixels
from cinelora.io.plain_data import MOST_OF_LISTS, read_json
from cinelora.metrics.suite import MOST_SENTENCES, SETS, Report, Suite, as_clip, measured_alone, networks_of

NUMBERS = "numbers.json"
REAL_CLIPS = "real"
"""The name under which held-out clips stand beside the variants."""


@dataclass(frozen=True)
class OneClip:
    """What was measured of one clip."""

    take: str
    variant: str
    names: list[str]
    values: list[float]


@dataclass(frozen=True)
class Row:
    """One measure of one variant: its mean, and where there is one its paired difference from the base."""

    measure: str
    better: Literal["min", "max"] | None
    variant: str
    mean: Interval
    difference: Interval | None = None


@dataclass(frozen=True)
class Numbers:
    """Everything that was measured. A set measure's row has no bounds: it is one number of all clips together."""

    rows: list[Row] = field(default_factory=list)
    clips: list[OneClip] = field(default_factory=list)
    networks: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    sentences: list[str] = field(default_factory=list)

    def measures(self) -> list[str]:
        """The measures in the order of the rows."""
        return list(dict.fromkeys(row.measure for row in self.rows))

    def of(self, measure: str) -> list[Row]:
        """The rows of one measure."""
        return [row for row in self.rows if row.measure == measure]


@dataclass
class Book:
    """What is written down while clips are measured."""

    clips: list[OneClip] = field(default_factory=list)
    networks: dict[str, str] = field(default_factory=dict)
    sentences: dict[str, None] = field(default_factory=dict)

    def say(self, sentence: str) -> None:
        """Keep a sentence, once."""
        self.sentences.setdefault(sentence)

    def take_up(self, report: Report) -> None:
        """Keep what a report says beside its numbers."""
        self.networks |= report.networks
        self.sentences = {**self.sentences, **dict.fromkeys(report.sentences)}

    def told(self) -> list[str]:
        """The sentences, not more than can be read."""
        all_of_them = list(self.sentences)
        more = len(all_of_them) - MOST_SENTENCES
        return all_of_them if more <= 0 else [*all_of_them[:MOST_SENTENCES], f"{more} more troubles like these"]


def measure_clips(config: EvaluateConfig, plan: Plan, run_dir: Path) -> Numbers:
    """Measure every clip that is there; what is missing or cannot be measured becomes a sentence."""
    book = Book(sentences=dict.fromkeys(plan.sentences))
    missing = [str(file.relative_to(run_dir)) for file in plan.missing(run_dir)]
    told_of = {f"{take.name} {name}": why for take in plan.takes() for name, why in troubles(run_dir, take).items()}
    for clip, why in told_of.items():
        book.say(f"{clip}: {why}: there is no clip")
    if unfinished := len(missing) - len(told_of):
        total = len(plan.prompts) * len(plan.seeds) * len(plan.variants)
        book.say(
            f"{unfinished} of {total} clips are not generated yet, and the numbers leave them out; to generate them, "
            f"type the same command without "
            "report=true"
        )
    measuring = Measuring(config, plan, run_dir, book)
    measuring.one_by_one()
    sets = measuring.as_sets()
    rows = [*rows_of_clips(plan, book.clips), *sets]
    for name in dict.fromkeys(row.variant for row in rows if row.mean.count == 1 and row.measure not in SETS):
        book.say(f"{name}: one clip gives no confidence interval; raise clips= or seeds=")
    networks = [f"{name}: {source}" for name, source in book.networks.items()]
    return Numbers(rows, book.clips, networks, missing, book.told())


@dataclass(frozen=True)
class Measuring:
    """An evaluation whose clips are measured, and the book that is kept of it."""

    config: EvaluateConfig
    plan: Plan
    run_dir: Path
    book: Book

    def one_by_one(self) -> None:
        """Measure each clip by itself, and beside its reference where its prompt has one; and the real clips by themselves."""
        alone, against = self.config.metrics.names, self.config.against
        paired = [name for name in against if name not in SETS]
        if against and not self.plan.real:
            self.book.say(
                f"{', '.join(against)} left out: there are no held-out clips to compare with; add data=<held-out clips>"
            )
        # A reference is decoded once and held while the takes of its prompt pass, which is why prompts are the outer loop.
        for number, prompt in enumerate(LiveBar(self.plan.prompts, "measuring", unit="prompt")):
            shown = prompt.reference
            reference = frames(self.run_dir / shown, shown, self.book) if shown else None
            if reference is not None:
                self.one_clip(alone, reference, None, prompt.text, (f"{number:04d}", REAL_CLIPS))
            names = [*alone, *(paired if reference is not None else [])]
            for take in (take for take in self.plan.takes() if take.number == number):
                for variant in self.plan.names():
                    if (video := self.drawn(take, variant)) is not None:
                        self.one_clip(names, video, reference, prompt.text, (take.name, variant))

    def one_clip(
        self, names: list[str], video: Pixels, reference: Pixels | None, prompt: str, of: tuple[str, str]
    ) -> None:
        """Measure one clip in every way that it allows."""
        clip = as_clip(video, reference, prompt)
        report = measured_alone(names, clip, networks_of(self.config.metrics), " ".join(of))
        self.book.take_up(report)
        self.book.clips.append(OneClip(*of, list(report.numbers), list(report.numbers.values())))

    def as_sets(self) -> list[Row]:
        """The distances of each variant's clips, as a set, to the real ones."""
        names, rows = [name for name in self.config.against if name in SETS], []
        if not names or not self.plan.real:
            return []
        for variant in self.plan.names():
            # Real clips go in again for every variant: what is kept of a set is its statistics, and no clip stays in memory.
            suite = Suite.of(names, networks_of(self.config.metrics), sync_on_compute=False)
            for file in self.plan.real:
                if (video := frames(self.run_dir / file, file, self.book)) is not None:
                    suite.add_real(as_clip(video), file)
            for take in self.plan.takes():
                if (video := self.drawn(take, variant)) is not None:
                    suite.add(as_clip(video), f"{take.name} {variant}")
            report = suite.report()
            self.book.take_up(report)
            for name, value in report.numbers.items():
                mean = Interval(value, None, None, report.clips[name])
                rows.append(Row(name, better(f"heldout/{name}"), variant, mean))
        return sorted(rows, key=lambda row: names.index(row.measure))

    def drawn(self, take: PlannedTake, variant: str) -> Pixels | None:
        """A variant's clip, or None where it is not there."""
        file = clip_file(self.run_dir, take, variant)
        return frames(file, f"{take.name} {variant}", self.book) if file.is_file() else None


def frames(file: Path, called: str, book: Book) -> Pixels | None:
    """The frames (T, H, W, 3) of a clip; None, and a sentence, where they cannot be read."""
    if not file.is_file():
        book.say(f"{called} is not there any more, and is left out")
        return None
    try:
        video = open_video(file)
        return np.stack([*video.frames(range(video.num_frames))])
    except UnreadableClip as error:
        book.say(f"{called} cannot be read and is left out: {error.reason}")
        return None


# -- what they say -----------------------------------------------------------------------------------------------------


def rows_of_clips(plan: Plan, clips: list[OneClip]) -> list[Row]:
    """Means over clips with their intervals, and over takes that both have the differences from the base."""
    # By measure and variant the values of takes: a clip that a measure had nothing to say of is simply not among them.
    found: dict[str, dict[str, dict[str, float]]] = defaultdict(lambda: defaultdict(dict))
    for clip in clips:
        for name, value in zip(clip.names, clip.values, strict=True):
            found[name][clip.variant][clip.take] = value
    rows = []
    for name, by_variant in found.items():
        for variant in (REAL_CLIPS, *plan.names()):
            if values := by_variant[variant]:
                mean, change = bootstrap_mean(np.array([*values.values()])), against_base(variant, by_variant)
                rows.append(Row(name, better(f"heldout/{name}"), variant, mean, change))
    return rows


def against_base(variant: str, by_variant: dict[str, dict[str, float]]) -> Interval | None:
    """The mean of what a variant adds to the base, take by take: the same prompt, the same noise."""
    # Clips differ from each other far more than variants of one clip do. Differences of pairs leave that out, and their interval
    # is so much narrower that it says whether an adapter did anything.
    values, base = by_variant[variant], by_variant[BASE]
    both = [take for take in values if take in base]
    if variant in (BASE, REAL_CLIPS) or not both:
        return None
    return bootstrap_mean(np.array([values[take] - base[take] for take in both]))


# -- on disk -----------------------------------------------------------------------------------------------------------


def save_numbers(numbers: Numbers, run_dir: Path, facts: dict[str, Any]) -> None:
    """Write ``numbers.json`` (with ``facts``: settings and hardware) and ``numbers.csv``, a line a row."""
    write_json(run_dir / NUMBERS, {"format": "cinelora-evaluation/1", **facts, "numbers": asdict(numbers)})
    write_text(run_dir / "numbers.csv", "".join(f"{line}\n" for line in csv_lines(numbers)))


class _Model(TypedDict):
    """What a report says of the model."""

    name: str


class _Settings(TypedDict):
    """What a report says of the settings of an evaluation, beside all that it shows as it is."""

    ckpt: str | None
    model: _Model
    sampler: _Sampler


class _Sampler(TypedDict):
    guidance: float | None


class NumbersFile(TypedDict):
    """What ``numbers.json`` holds."""

    numbers: Numbers
    settings: _Settings
    sources: dict[str, Any]
    seconds: dict[str, Any]
    hardware: dict[str, Any]


def load_numbers(run_dir: Path) -> Numbers:
    """The numbers that ``save_numbers`` wrote; raises ``FileError``."""
    return read_numbers(run_dir)["numbers"]


def read_numbers(run_dir: Path) -> NumbersFile:
    """All that ``save_numbers`` wrote; raises ``FileError``."""
    return read_json(run_dir / NUMBERS, NumbersFile, limit=MOST_OF_LISTS, measured=True)


def csv_lines(numbers: Numbers) -> list[str]:
    """A heading and a line for each row; a field that does not exist is empty."""
    heading = "measure,better,variant,clips,mean,low,high,difference,difference_low,difference_high,pairs"
    return [heading, *(",".join(_fields(row)) for row in numbers.rows)]


def _fields(row: Row) -> list[str]:
    def shown(of: Interval) -> list[str]:
        return ["" if number is None else f"{number:.6g}" for number in (of.value, of.low, of.high)]

    change = [*shown(row.difference), str(row.difference.count)] if row.difference else [""] * 4
    return [row.measure, row.better or "", row.variant, str(row.mean.count), *shown(row.mean), *change]


HEADING = ("measure", "variant", "mean", "95 %", "against base", "95 %", "clips")


def in_words(numbers: Numbers) -> Iterator[tuple[str, ...]]:
    """The rows under ``HEADING``: means and differences from the base with their 95 % intervals; a measure's name once."""
    for measure in numbers.measures():
        for i, row in enumerate(numbers.of(measure)):
            mean, more = row.mean, row.difference
            change = (f"{more.value:+.4g}", bounds(more)) if more else ("", "")
            yield "" if i else measure, row.variant, f"{mean.value:.4g}", bounds(mean), *change, str(mean.count)


def table(numbers: Numbers) -> list[str]:
    """The rows as a text table, each measure with the way that is better."""
    ways = {row.measure: {"max": " (higher)", "min": " (lower)", None: ""}[row.better] for row in numbers.rows}
    lines = [HEADING, *((f"{name}{ways.get(name, '')}", *rest) for name, *rest in in_words(numbers))]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]


def bounds(interval: Interval) -> str:
    """An interval's bounds in words; nothing where it has none."""
    return "" if interval.low is None or interval.high is None else f"{interval.low:.4g} to {interval.high:.4g}"
