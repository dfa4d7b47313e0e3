"""What a study's clips are like: decoded, and measured by themselves, beside the baseline's, and beside held-out footage.

Enters: rows whose latents lie in the run directory. Leaves: the same rows with their numbers, kept as soon as each is whole.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cinelora.config.clip_request import ClipRequest, prompts_of
from cinelora.config.schema import StudyConfig
from cinelora.io.tensor_files import load_tensors
from cinelora.studies.results import Result, Results

if TYPE_CHECKING:
    from cinelora.families.model_bundle import Bundle
    from cinelora.io.media import Pixels
    from cinelora.metrics.clip_metric import Clip

LATENTS = "latents"
LOOKED = "looked_for"
"""Under which a row keeps the numbers that were asked for: some cannot be had, and are not to be tried at every start."""


def look(config: StudyConfig, run_dir: Path, table: Results, rows: list[Result], first: str) -> None:
    """Decode what was drawn and measure it beside the baseline's, row by row; each row is kept as soon as it is whole.

    Rows that have what is asked for are left as they are, and so are those that nothing was drawn for.
    """
    from cinelora.families.family import Part
    from cinelora.families.machinery import machinery_of

    # Unseen is a row without a number that is asked for by now, and without having been asked for it before; then a row that was
    # never decoded.
    names = names_of(config)
    unseen = [row for row in rows if not row.trouble and not set(names) <= set(row.facts.get(LOOKED, row.numbers))]
    unseen += [row for row in rows if not row.trouble and "decode" not in row.seconds and row not in unseen]
    if not unseen:
        return
    bundle = machinery_of(config.model).from_config(config.model, ClipRequest.of(config).clip_maker, Path(config.cache))
    bundle.tile = config.memory.tile
    with bundle.loaded(Part.VAE):
        looking = Looking(config, run_dir, bundle)
        references, _ = looking.decoded(first)
        for row in unseen:
            videos, seconds = looking.decoded(row.key)
            if videos:
                row.seconds["decode"] = round(seconds, 4)
            if videos and names:
                table.say(*looking.measure(row, videos, references))
                row.facts[LOOKED] = names
            table.put(row)
            table.save(run_dir)


def names_of(config: StudyConfig) -> list[str]:
    """The numbers that are asked for of a row."""
    return [] if config.model.weights == "random" else [*config.metrics.names, *config.against]


@dataclass(frozen=True)
class Looking:
    """The decoder of a study's clips, and what they are measured beside."""

    config: StudyConfig
    run_dir: Path
    bundle: Bundle

    def decoded(self, key: str) -> tuple[list[Pixels], float]:
        """The clips of a row, and the seconds that decoding one takes."""
        from cinelora.nn.pixels import range_to_pixels

        path, videos, seconds = self.run_dir / LATENTS / f"{key}.safetensors", [], []
        tensors = load_tensors(path)[0] if path.is_file() else {}
        for number in range(len(tensors)):
            begun = time.perf_counter()
            videos.append(range_to_pixels(self.bundle.decode(tensors[f"clip-{number}"])))
            seconds.append(time.perf_counter() - begun)
        return videos, statistics.median(seconds or [0.0])

    def measure(self, row: Result, videos: list[Pixels], references: list[Pixels]) -> list[str]:
        """Put into ``row`` what its clips are like, each beside the baseline's of the same number; sentences about them."""
        from cinelora.metrics.suite import SETS, as_clip

        prompts = [prompt for prompt in prompts_of(self.config) for _ in range(self.config.seeds)]
        beside = references or [None] * len(videos)
        clips = [as_clip(*shown) for shown in zip(videos, beside, prompts, strict=False)]
        names = names_of(self.config)
        row.numbers, row.of_clips, said = self.one_by_one(row.name, clips, [n for n in names if n not in SETS])
        sets = [name for name in names if name in SETS]
        numbers, told = self.as_set(row.name, clips, map(as_clip, references), sets)
        row.numbers |= numbers
        return [*said, *told]

    def one_by_one(
        self, called: str, clips: list[Clip], names: list[str]
    ) -> tuple[dict[str, float], dict[str, list[float | None]], list[str]]:
        """The mean of each measure over clips, its value of each clip (None where it has none), and sentences."""
        from cinelora.metrics.suite import measured_alone, networks_of

        reports = [
            measured_alone(names, clip, networks_of(self.config.metrics), f"{called}, clip {number}")
            for number, clip in enumerate(clips)
        ]
        had = [name for name in names if any(name in report.numbers for report in reports)]
        values = {name: [report.numbers.get(name) for report in reports] for name in had}
        means = {name: statistics.fmean(v for v in values[name] if v is not None) for name in had}
        sentences = [sentence for report in reports for sentence in report.sentences]
        return {name: float(f"{mean:.6g}") for name, mean in means.items()}, values, sentences

    def as_set(
        self, called: str, clips: list[Clip], real: Iterable[Clip], names: list[str]
    ) -> tuple[dict[str, float], list[str]]:
        """How far the clips lie from ``real`` ones, set from set, and sentences."""
        from cinelora.metrics.suite import Suite, networks_of

        suite = Suite.of(names, networks_of(self.config.metrics), sync_on_compute=False)
        for number, clip in enumerate(clips):
            suite.add(clip, f"{called}, clip {number}")
        for clip in real:
            suite.add_real(clip)
        report = suite.report()
        return report.numbers, report.sentences
