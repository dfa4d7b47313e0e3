"""Held-out samples drawn again and measured against what they really show, adapted and by the base model.

Each is drawn from its own first frame and caption, or from its caption alone where the stage shows no image. The real clips are
what the VAE makes of their latents, so that a VAE's own loss stands on both sides. It does not know how anything is measured.
"""

from __future__ import annotations

import torch
from lightning import Trainer

from cinelora.config.metric_names import heldout_metrics, monitors
from cinelora.config.schema import TrainConfig, data_ranks
from cinelora.errors import ConfigError
from cinelora.io.media import Pixels
from cinelora.io.terminal import warn
from cinelora.latents.dataset import LatentDataset
from cinelora.metrics.suite import Suite, as_clip, networks_of
from cinelora.training.callbacks.at_step import AtStep, Memory
from cinelora.training.callbacks.ema import Ema, as_exported, evaluating
from cinelora.training.clip_sampler import ClipSampler
from cinelora.training.loggers import Journal
from cinelora.training.module import Stage


class ValidationClips(AtStep):
    """``heldout/<measure>`` where the held-out loss is due, and once ``heldout/base/<measure>``; each rank draws its share."""

    def __init__(
        self, config: TrainConfig, heldout: LatentDataset, ema: Ema | None, journal: Journal, steps: int
    ) -> None:
        self.config, self.heldout, self.ema, self.journal = config, heldout, ema, journal
        self.sampler = ClipSampler(config, heldout, steps)
        self.positions = range(min(config.validation.clips, len(heldout)))
        self.latest: dict[str, float] = {}
        self.of_base: Memory = {}
        self.said: set[str] = set()

    def on_train_start(self, trainer: Trainer, stage: Stage) -> None:  # type: ignore[override]
        """Decode what is real, and measure the base model unless a checkpoint says what came of that."""
        super().on_train_start(trainer, stage)
        self.share = self.positions[stage.data_rank :: data_ranks(self.config)]
        self.speaks = stage.global_rank % self.config.strategy.sequence == 0
        self.real = self.sampler.pixels([self.heldout[position]["latents"][None] for position in self.share])
        # What the base model draws never changes during a run, and takes as long as one measurement. Its numbers are kept in the
        # checkpoints with all that they depend on, and are measured again only where a resumed run draws in another manner.
        manner = {**self.sampler.manner, "clips": len(self.positions), "measures": heldout_metrics(self.config)}
        if self.of_base.get("manner") != manner:
            with evaluating(stage, stage.trained.bare()):
                self.of_base = {"manner": manner, "base": self.measure(trainer, self.draw(stage), stage.device)}
        base = self.of_base["base"]
        self.refuse_unmeasured(set(base))
        numbers = {f"heldout/base/{name}": value for name, value in base.items()}
        self.journal.log_metrics(numbers, trainer.global_step)

    def refuse_unmeasured(self, measured: set[str]) -> None:
        """Refuse to wait for a measure that cannot be had here, as the warnings before this have said."""
        for key, name in monitors(self.config):
            if name.removeprefix("heldout/") in set(heldout_metrics(self.config)) - measured:
                raise ConfigError(
                    f"{key}={name} cannot be measured here (the warnings above say why): choose another number"
                )

    def at_step(self, trainer: Trainer, stage: Stage, step: int) -> None:
        """Draw, measure and log where it is due."""
        if step % self.config.validation.every_steps == 0 or step == trainer.max_steps:
            with as_exported(stage, self.ema):
                clips = self.draw(stage)
            self.latest = self.measure(trainer, clips, stage.device)
            self.journal.log_metrics({f"heldout/{name}": value for name, value in self.latest.items()}, step)

    def memory(self, trainer: Trainer, stage: Stage) -> Memory:
        """The latest numbers, and the base model's with the manner in which it drew."""
        return {**self.of_base, "latest": self.latest}

    def recall(self, memory: Memory, trainer: Trainer, stage: Stage) -> None:
        """Say in the summary what was measured before the run was resumed, until it is measured again."""
        self.of_base = {key: memory[key] for key in ("manner", "base") if key in memory}
        self.latest = memory.get("latest", {})

    def report(self) -> dict[str, dict[str, float]]:
        """What a summary says: the latest numbers, and the base model's."""
        return {"heldout_clips": self.latest, "heldout_clips_base": self.of_base.get("base", {})}

    def draw(self, stage: Stage) -> list[Pixels]:
        """This rank's share of the samples, by the transformer as it is."""
        seed, ids = self.config.seed, [self.heldout.entries[position].id for position in self.share]
        parts = zip(self.share, ids, strict=True)
        return self.sampler.pixels([self.sampler.latents(stage, position, seed, part) for position, part in parts])

    def measure(self, trainer: Trainer, clips: list[Pixels], device: torch.device) -> dict[str, float]:
        """The numbers of all ranks' clips; what cannot be had is said once, by rank 0."""
        suite = Suite.of(heldout_metrics(self.config), networks_of(self.config.metrics))
        for measure in suite.measures.values():
            if trainer.world_size > 1:
                measure.to(device)  # its sums, which travel between ranks; networks stay out of a GPU that is at work
        # of those who share a sequence, and so have drawn a clip together, one hands it in
        for position, clip, real in zip(self.share, clips, self.real, strict=True) if self.speaks else ():
            entry = self.heldout.entries[position]
            suite.add_real(as_clip(real), entry.id)
            suite.add(as_clip(clip, real, entry.caption), entry.id)
        report = suite.report()
        for sentence in report.sentences:
            if trainer.is_global_zero and sentence not in self.said:
                warn(f"held-out clips: {sentence}")
                self.said.add(sentence)
        return report.numbers
