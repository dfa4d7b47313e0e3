"""What a study's clips are like: decoded, and measured by themselves, beside the baseline's, and beside held-out footage.

Enters: rows whose latents lie in the run directory. Leaves: the same rows with their numbers, each kept as soon as it is whole,
and a row of the held-out footage itself.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from cinelora.config.clip_request import ClipRequest, prompts_of
from cinelora.config.schema import StudyConfig
from cinelora.evaluation.generate import MOST_REAL, chosen_and_others, heldout
from cinelora.families.family import Part
from cinelora.families.machinery import machinery_of
from cinelora.families.model_bundle import Bundle
from cinelora.footage.sample_source import reader
from cinelora.io.atomic import sha256_json
from cinelora.io.media import Pixels
from cinelora.io.tensor_files import load_tensors
from cinelora.metrics.clip_metric import Clip
from cinelora.metrics.suite import SETS, Suite, as_clip, measured_alone, networks_of
from cinelora.nn.pixels import range_to_pixels
from cinelora.studies.results import CONTROLS, FOOTAGE, HELDOUT, LATENTS, Result, Results

LOOKED = "looked_for"
"""Under which a row keeps the numbers that were asked for: some cannot be had, and are not to be tried at every start."""


def look(config: StudyConfig, run_dir: Path, table: Results, rows: list[Result], first: str) -> None:
    """Decode what was drawn and measure it beside the baseline's, row by row; each row is kept as soon as it is whole.

    Rows that have what is asked for are left as they are, and so are those that nothing was drawn for.
    """
    # Unseen is a row without a number that is asked for by now, and without having been asked for it before; then a row that was
    # never decoded.
    names = names_of(config)
    unseen = [row for row in rows if not row.trouble and not set(names) <= set(row.facts.get(LOOKED, row.numbers))]
    unseen += [row for row in rows if not row.trouble and "decode" not in row.seconds and row not in unseen]
    controls = set(CONTROLS) - {row.name for row in table.rows} if config.controls and names else set()
    if not unseen and not controls:
        return
    bundle = machinery_of(config.model).from_config(config.model, ClipRequest.of(config).clip_maker, Path(config.cache))
    bundle.tile = config.memory.tile
    with bundle.loaded(Part.VAE):
        references, _ = decoded(bundle, run_dir, first)
        measuring = RowMeasurer(config, names, references)
        if config.data.name and names:
            table.put(measuring.of_footage(rows[0]))
        for control in sorted(controls):
            table.put(measuring.of_control(control, rows[0]))
        for row in unseen:
            videos, seconds = decoded(bundle, run_dir, row.key)
            if videos:
                row.seconds["decode"] = round(seconds, 4)
            if videos and names:
                measuring.of_row(row, videos)
            table.say(*measuring.sentences)
            table.put(row)
            table.save(run_dir)
    table.save(run_dir)


def names_of(config: StudyConfig) -> list[str]:
    """The numbers that are asked for of a row; distances of sets once more, where there is footage to lie far from."""
    if config.model.weights == "random":
        return []
    sets = [name for name in config.against if name in SETS and config.data.name]
    return [*config.metrics.names, *config.against, *(f"{HELDOUT}{name}" for name in sets)]


def decoded(bundle: Bundle, run_dir: Path, key: str) -> tuple[list[Pixels], float]:
    """The clips of a row, and the seconds that decoding one takes."""
    path, videos, seconds = run_dir / LATENTS / f"{key}.safetensors", [], []
    tensors = load_tensors(path)[0] if path.is_file() else {}
    for number in range(len(tensors)):
        begun = time.perf_counter()
        videos.append(range_to_pixels(bundle.decode(tensors[f"clip-{number}"])))
        seconds.append(time.perf_counter() - begun)
    return videos, statistics.median(seconds or [0.0])


class RowMeasurer:
    """Measures the clips of a study's rows, and gathers sentences about them; ``references`` are the baseline's clips."""

    def __init__(self, config: StudyConfig, names: list[str], references: list[Pixels]) -> None:
        self.config, self.names, self.references, self.sentences = config, names, references, list[str]()
        self.networks = networks_of(config.metrics)
        self.baseline = self._sets()
        """The distances of sets, with the baseline's clips as the real ones."""
        for reference in references:
            self.baseline.add_real(as_clip(reference))
        self.footage = self._sets()
        """The distances of sets, with held-out footage as the real ones."""

    def of_row(self, row: Result, videos: list[Pixels]) -> None:
        """Put into ``row`` what its clips are like, each beside the baseline's of the same number."""
        prompts = [prompt for prompt in prompts_of(self.config) for _ in range(self.config.seeds)]
        beside: list[Pixels | None] = [*self.references] or [None] * len(videos)
        clips = [as_clip(*shown) for shown in zip(videos, beside, prompts, strict=False)]
        alone = [name for name in self.names if name not in SETS and not name.startswith(HELDOUT)]
        row.numbers, row.of_clips = self._one_by_one(row.name, clips, alone)
        row.numbers |= self._as_set(row.name, clips, self.baseline)
        if self.config.data.name:
            row.numbers |= {
                f"{HELDOUT}{name}": far for name, far in self._as_set(row.name, clips, self.footage).items()
            }
        row.facts[LOOKED] = self.names

    def of_control(self, name: str, like: Result) -> Result:
        """Measure the baseline's clips without their motion, or without its order; the row is ``like`` the baseline's."""
        rng, changed = np.random.default_rng(0), list[Pixels]()
        for clip in self.references:
            frames = np.zeros(len(clip), int) if name == CONTROLS[0] else rng.permutation(len(clip))
            changed.append(clip[frames])
        row = Result(sha256_json([like.key, name])[:12], name, {}, {**like.facts}, like.machine)
        self.of_row(row, changed)
        return row

    def of_footage(self, like: Result) -> Result:
        """Measure held-out clips as a set, and as many as are drawn by themselves, at the size of a row ``like`` those."""
        samples, sentences = heldout(self.config)
        self.sentences += sentences
        first, others = chosen_and_others(samples, len(prompts_of(self.config)) * self.config.seeds)
        read, kept = reader(self.config.data, self.config.model, torch.device("cpu")), list[Clip]()
        for number, sample in enumerate([*first, *others][:MOST_REAL]):
            clip = as_clip(np.asarray(torch.as_tensor(read(replace(sample, size=None)))), prompt=sample.caption)
            self.footage.add_real(clip, sample.id)
            kept += [clip] if number < len(first) else []
        facts = {name: like.facts[name] for name in ("model", "clip", "frames", "height", "width", "fps")}
        key = sha256_json([facts, [[sample.id, sample.file_hash] for sample in samples]])[:12]
        row = Result(key, FOOTAGE, {}, facts, like.machine)
        row.numbers, row.of_clips = self._one_by_one(FOOTAGE, kept, self.config.metrics.names)
        return row

    def _one_by_one(
        self, called: str, clips: Sequence[Clip], names: list[str]
    ) -> tuple[dict[str, float], dict[str, list[float | None]]]:
        """The mean of each measure over clips, and its value of each clip: None where it has none."""
        reports = [
            measured_alone(names, clip, self.networks, f"{called}, clip {number}") for number, clip in enumerate(clips)
        ]
        self.sentences += [sentence for report in reports for sentence in report.sentences]
        had = [name for name in names if any(name in report.numbers for report in reports)]
        values = {name: [report.numbers.get(name) for report in reports] for name in had}
        means = {name: statistics.fmean(v for v in values[name] if v is not None) for name in had}
        return {name: float(f"{mean:.6g}") for name, mean in means.items()}, values

    def _as_set(self, called: str, clips: Iterable[Clip], real: Suite) -> dict[str, float]:
        """How far the clips lie from the ``real`` ones of another suite, set from set."""
        suite = self._sets()
        suite.add_real_of(real)
        for number, clip in enumerate(clips):
            suite.add(clip, f"{called}, clip {number}")
        report = suite.report()
        self.sentences += report.sentences
        return report.numbers

    def _sets(self) -> Suite:
        """The distances of sets that are asked for, of no clip yet."""
        return Suite.of([name for name in self.names if name in SETS], self.networks, sync_on_compute=False)
