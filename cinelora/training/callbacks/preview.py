"""Pictures or clips from what would be exported now, from the same noise each time, beside the base model's.

The text was encoded with the data. Previews have the size of most samples that are trained on; an I2V stage that shows its
transformer the first frame takes a held-out sample's, and its size.
"""

from __future__ import annotations

from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from lightning import Trainer

from cinelora.adapters.run_directory import RunDirectory
from cinelora.config.schema import TrainConfig
from cinelora.errors import FootageError
from cinelora.footage.image_reader import read_picture
from cinelora.footage.video_reader import open_video
from cinelora.io.atomic import sha256_json, write_json
from cinelora.io.media import Pixels, contact_sheet, write_mp4, write_png
from cinelora.io.plain_data import read_json
from cinelora.io.terminal import warn
from cinelora.latents.dataset import LatentDataset
from cinelora.metrics.suite import measure
from cinelora.parallel.sequence_parallel import alone
from cinelora.training.callbacks.at_step import AtStep
from cinelora.training.callbacks.ema import Ema, as_exported, evaluating
from cinelora.training.clip_sampler import ClipSampler
from cinelora.training.loggers import Journal
from cinelora.training.module import Stage


class Preview(AtStep):
    """Every few steps, below ``previews/`` and to a logger that can show them:

    - ``step-00000250.png`` (stills) or ``.mp4`` (windows); of further seeds ``step-00000250-1.mp4`` ...;
    - ``step-00000250-sheet.png``, for each seed the base model's clip above;
    - ``base.mp4`` and its like, which are drawn once, by the base model without any adapter;
    - beside clips the numbers that ``metrics`` names, as means over the seeds, in ``.json``.
    """

    def __init__(
        self, config: TrainConfig, run: RunDirectory, shown: LatentDataset, ema: Ema | None, journal: Journal
    ) -> None:
        if not len(shown):
            raise FootageError(
                "previews show held-out samples and there are none; raise data.holdout or set preview.every_steps=0"
            )
        self.config, self.run, self.shown, self.ema, self.journal = config, run, shown, ema, journal
        frames, size = config.preview.frames_of(config.stage), run.learnt_size(config.model)
        self.sampler = ClipSampler(config, shown, config.preview.steps, size, frames)
        self.suffix = "png" if frames == 1 else "mp4"
        self.base: list[Pixels] = []
        self.said: set[str] = set()

    def at_step(self, trainer: Trainer, stage: Stage, step: int) -> None:
        """Draw on rank 0, while the others wait."""
        every = self.config.preview.every_steps
        if not every or step % every:
            return
        # Rank 0 runs the transformer by itself, so it must not share its sequences meanwhile. The numbers are sent to all, as
        # early stopping may ask each rank's journal for them.
        numbers: dict[str, float] = {}
        if trainer.is_global_zero:
            self.run.previews.mkdir(exist_ok=True)
            with alone(stage.transformer):
                self.base = self.base or self.of_base(stage)
                with as_exported(stage, self.ema):
                    numbers = self.show(self.draw(stage), step)
        numbers = trainer.strategy.broadcast(numbers)
        if numbers:
            self.journal.log_metrics(numbers, step)

    def draw(self, stage: Stage) -> list[Pixels]:
        """One clip for each seed, of the preview's prompt, or of the first held-out caption."""
        preview, first = self.config.preview, self.config.seed
        text = self.shown.texts["preview"] if preview.prompt else None
        seeds = range(first, first + preview.seeds)
        latents = (self.sampler.latents(stage, 0, seed, "preview", text, own_size=False) for seed in seeds)
        return self.sampler.pixels(list(latents))

    def of_base(self, stage: Stage) -> list[Pixels]:
        """The base model's clips, as they lie in the run where they were drawn in just this way."""
        # The base model is the same at every step, and in every resumed part of the run. So its clips are drawn once, and beside
        # them stands a hash of all that they depend on: where a resumed run has other settings, they are drawn again.
        paths, record = self.paths("base"), self.run.previews / "base.json"
        shown = self.shown.texts["preview"] if self.config.preview.prompt else self.shown.entries[0].text
        drawn_from = sha256_json([self.sampler.manner, shown, self.shown.entries[0].id, len(paths)])
        if record.exists() and read_json(record, dict[str, Any], measured=True).get("drawn_from") == drawn_from:
            return [self.read(path) for path in paths]
        with evaluating(stage, stage.trained.bare()):
            clips = self.draw(stage)
        for path, clip in zip(paths, clips, strict=True):
            self.write(path, clip)
        write_json(record, {"drawn_from": drawn_from, "numbers": self.measured(clips)})
        return clips

    def show(self, clips: list[Pixels], step: int) -> dict[str, float]:
        """Write the clips and the sheet, hand them to a logger that can show them, and return their numbers."""
        name, rows = f"step-{step:08d}", []
        for number, (path, clip, base) in enumerate(zip(self.paths(name), clips, self.base, strict=True)):
            self.write(path, clip)
            self.journal.show(f"preview{number or ''}", clip, path, step)
            seed = self.config.seed + number
            rows += [(f"base, seed {seed}", base), (f"step {step}, seed {seed}", clip)]
        sheet, path = contact_sheet(rows), self.run.previews / f"{name}-sheet.png"
        write_png(path, sheet)
        self.journal.show("preview/sheet", sheet[None], path, step)
        if numbers := self.measured(clips):
            write_json(self.run.previews / f"{name}.json", numbers, seals=False)  # for people and their scripts
        return {f"preview/{name}": value for name, value in numbers.items()}

    def measured(self, clips: list[Pixels]) -> dict[str, float]:
        """Means of what ``metrics`` names, over those clips that have them; what is missing is said once."""
        prompt, found = self.config.preview.prompt or self.shown.entries[0].caption, dict[str, list[float]]()
        for report in (measure(self.config.metrics, clip, prompt) for clip in clips):
            for sentence in report.sentences:
                if sentence not in self.said:
                    warn(f"preview: {sentence}")
                    self.said.add(sentence)
            for name, value in report.numbers.items():
                found.setdefault(name, []).append(value)
        return {name: fmean(values) for name, values in found.items()}

    def paths(self, name: str) -> list[Path]:
        """Where the clips of each seed lie."""
        numbers = range(self.config.preview.seeds)
        return [self.run.previews / f"{name}{f'-{number}' if number else ''}.{self.suffix}" for number in numbers]

    def write(self, path: Path, clip: Pixels) -> None:
        """As a picture, or at the model's speed."""
        if self.suffix == "png":
            write_png(path, clip[0])
        else:
            write_mp4(path, clip, self.config.model.fps)

    def read(self, path: Path) -> Pixels:
        """What ``write`` wrote."""
        if self.suffix == "png":
            return read_picture(path)[None]
        reader = open_video(path)
        return np.stack(list(reader.frames(range(reader.num_frames))))
