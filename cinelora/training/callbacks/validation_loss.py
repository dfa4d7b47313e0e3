"""Held-out samples at fixed sigmas with fixed noise: the loss against the base model's, and what training changed.

Unlike the training loss these numbers compare between steps. They are of what is exported, hence of the average where one is
kept. It does not know what is done with them.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager

import torch
from lightning import Trainer
from torch import Tensor
from torch.utils.data import default_collate

from cinelora.adapters.weight_deltas import first_weight
from cinelora.config.metric_names import heldout_loss_at, heldout_sigmas, update_of_block
from cinelora.config.schema import ValidationConfig, data_ranks
from cinelora.io.waiting import waiting
from cinelora.latents.dataset import LatentDataset
from cinelora.memory.block_swap import as_they_are
from cinelora.training.callbacks.at_step import AtStep, Memory, mean_over_ranks
from cinelora.training.callbacks.ema import Ema, as_exported, evaluating
from cinelora.training.module import Stage, Velocities


class ValidationLoss(AtStep):
    """Loss and effect on held-out samples, each rank looking at its share of them.

    - ``heldout/loss``, ``heldout/loss@0.1`` ...: mean squared error of the velocity, over all sigmas and at each.
    - ``heldout/change`` and ``heldout/vs_base``: ``loss / loss_then - 1``, against where training started (in stage 2 base
      and style adapter) and against the base model alone.
    - ``effect/prediction`` and, where they differ, ``effect/prediction_vs_base``: ``|v - v_then| / |v_then|`` over all
      samples and sigmas at once, against the same two.
    - ``effect/update``, ``effect/update/block-00`` ...: ``|scale B A| / |W|`` (Frobenius).

    What the two predicted is worked out when training starts or resumes, and kept on the host in the dtype they compute in:
    per sample and sigma 2 MB for 33 frames of 480p in bf16. So it costs nothing later, and no checkpoint has to carry it.
    """

    def __init__(self, settings: ValidationConfig, heldout: LatentDataset, ema: Ema | None) -> None:
        self.settings, self.heldout, self.ema = settings, heldout, ema
        self.sample_ids = [entry.id for entry in heldout.entries]
        self.positions = range(min(settings.samples, len(heldout)))
        self.latest: dict[str, float] = {}
        self.measured_at: int | None = None
        self.seconds = 0.0

    def on_train_start(self, trainer: Trainer, stage: Stage) -> None:  # type: ignore[override]
        """Look at what training starts from: with what is trained switched off, a resumed run sees the same."""
        super().on_train_start(trainer, stage)
        self.untrained, self.start = self.remember(trainer, stage, stage.trained.untrained())
        self.bare, self.base = self.untrained, self.start
        if not stage.trained.stands_alone:
            self.bare, self.base = self.remember(trainer, stage, stage.trained.bare())

    def at_step(self, trainer: Trainer, stage: Stage, step: int) -> None:
        """Measure and log where it is due; a run that is asked to stop is not kept waiting."""
        if step % self.settings.every_steps == 0 or step == trainer.max_steps:
            self.latest = self.measure(trainer, stage)
            self.measured_at = step
            if trainer.logger:
                trainer.logger.log_metrics(self.latest, step)

    def memory(self, trainer: Trainer, stage: Stage) -> Memory:
        """The latest numbers, and after which step they were measured."""
        return {"latest": self.latest, "measured_at": self.measured_at}

    def recall(self, memory: Memory, trainer: Trainer, stage: Stage) -> None:
        """Say in the summary what was measured before the run was resumed, until it is measured again."""
        self.latest, self.measured_at = memory["latest"], memory["measured_at"]

    def report(self) -> dict[str, float | int | None]:
        """What a summary says: the latest numbers and after which step (None: not yet), and the seconds they took."""
        names = {f"heldout_{name}": f"heldout/{name}" for name in ("loss", "change", "vs_base")}
        names |= {"prediction_effect": "effect/prediction", "prediction_effect_vs_base": "effect/prediction_vs_base"}
        found = {key: self.latest[name] for key, name in names.items() if name in self.latest}
        return {"heldout_step": self.measured_at, **found, "heldout_seconds": self.seconds}

    @torch.no_grad()
    def remember(self, trainer: Trainer, stage: Stage, off: AbstractContextManager[None]) -> tuple[list[Tensor], float]:
        """What is predicted inside ``off``, on the host, and the mean loss of it over all ranks."""
        dtype = first_weight(stage.transformer).dtype
        kept, losses = [], torch.zeros(2, dtype=torch.float64)
        with evaluating(stage, off):
            for look in self.looks(trainer, stage):
                kept.append(look.predicted.to("cpu", dtype))
                losses += torch.tensor([float(stage.noise_law.loss(*look)), 1.0])
        total, count = mean_over_ranks(losses, trainer)
        return kept, total / count

    @torch.no_grad()
    def measure(self, trainer: Trainer, stage: Stage) -> dict[str, float]:
        """The numbers of what would be exported now."""
        # Everything is summed over this rank's samples, then over ranks, and divided last: ranks may have unequally many samples,
        # and a mean of means would weigh them unequally. `losses` has a sum for each sigma and the number of samples; `moved`
        # has, against both beginnings, the squares of what predictions moved by and of what they were.
        sigmas = heldout_sigmas(stage.config)
        losses = torch.zeros(len(sigmas) + 1, dtype=torch.float64)
        moved = torch.zeros(2, 2, dtype=torch.float64)
        with as_exported(stage, self.ema):
            for number, look in enumerate(self.looks(trainer, stage)):
                losses[number % len(sigmas)] += float(stage.noise_law.loss(*look))
                for row, before in enumerate((self.untrained[number], self.bare[number])):
                    then = before.to(look.predicted)
                    moved[row] += torch.stack([(look.predicted - then).square().sum(), then.square().sum()]).cpu()
            losses[-1] = len(self.untrained) / len(sigmas)
            update = stage.trained.effect()
        *totals, count = mean_over_ranks(losses, trainer)
        by_sigma = [total / count for total in totals]
        loss = sum(by_sigma) / len(by_sigma)
        change, size, change_vs_base, size_of_base = mean_over_ranks(moved.flatten(), trainer)
        numbers = {"heldout/loss": loss, "heldout/change": loss / self.start - 1}
        numbers["heldout/vs_base"] = loss / self.base - 1
        numbers |= {heldout_loss_at(sigma): value for sigma, value in zip(sigmas, by_sigma, strict=True)}
        numbers["effect/prediction"] = (change / size) ** 0.5
        if not stage.trained.stands_alone:
            numbers["effect/prediction_vs_base"] = (change_vs_base / size_of_base) ** 0.5
        numbers["effect/update"] = update.overall
        return numbers | {update_of_block(block): value for block, value in update.by_block.items()}

    def looks(self, trainer: Trainer, stage: Stage) -> Iterator[Velocities]:
        """This rank's share of the samples, at each sigma in turn, as the transformer is now; the time goes into ``seconds``.

        Ranks that share the weights look equally often: one without a sample of its own looks at the first, for nothing.
        """
        since = time.perf_counter()
        training_ids, stage.sample_ids = stage.sample_ids, self.sample_ids
        # Samples are dealt out in turn. Ranks with whole weights may have unequally many, and meet again where the sums are
        # averaged. Ranks that share the weights bring each block together, and so must run the transformer equally often:
        # whoever has one sample less runs the first one again and leaves the result out.
        groups = data_ranks(stage.config)
        share = list(self.positions[stage.data_rank :: groups])
        idle = -(-len(self.positions) // groups) - len(share) if stage.shares_weights else 0
        with waiting("held-out samples", trainer.is_global_zero), as_they_are():
            for number, position in enumerate([*share, *[self.positions[0]] * idle]):
                batch = stage.transfer_batch_to_device(default_collate([self.heldout[position]]), stage.device, 0)
                for sigma in heldout_sigmas(stage.config):
                    look = stage.velocities(batch, stage.draw_at(batch, step=0, sigma=sigma))
                    if number < len(share):
                        yield look
        stage.sample_ids = training_ids
        self.seconds += time.perf_counter() - since
