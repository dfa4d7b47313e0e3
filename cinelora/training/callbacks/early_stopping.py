"""Whether a logged number has become better: what is the best adapter, and whether a run learns any more.

Enters: the numbers of a step, as they are logged. Leaves: ``<stage>-best.safetensors``, or a run that ends early, on all ranks
together. What was seen is in the checkpoints, so that a resumed run judges as one that was never stopped.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from lightning import Trainer

from cinelora.config.metric_names import better
from cinelora.config.schema import CheckpointConfig, StoppingConfig
from cinelora.training.callbacks.at_step import AtStep
from cinelora.training.callbacks.checkpoint import Checkpointer
from cinelora.training.checkpoint_files import amend_facts
from cinelora.training.loggers import Journal
from cinelora.training.module import Stage


@dataclass
class Best:
    """The best of one number so far, and how often it was looked at since; a value that is not finite is never better."""

    name: str
    lower: bool
    min_change: float = 0.0
    best: float | None = None
    step: int | None = None
    since: int = 0

    def take(self, value: float, step: int) -> bool:
        """Look at the value after ``step``; whether it is the best so far."""
        gain = math.inf if self.best is None else (self.best - value if self.lower else value - self.best)
        if math.isfinite(value) and gain > self.min_change:
            self.best, self.step, self.since = value, step, 0
            return True
        self.since += 1
        return False


class EarlyStopping(AtStep):
    """Looks at numbers at the steps at which they are logged; it stands after those that log them.

    All ranks judge by what rank 0 has: speeds and memory differ between ranks.
    """

    def __init__(
        self, stopping: StoppingConfig, checkpoint: CheckpointConfig, journal: Journal, checkpointer: Checkpointer
    ) -> None:
        self.patience, self.journal, self.checkpointer = stopping.patience, journal, checkpointer
        self.stops = _record(stopping.monitor, stopping.mode, stopping.min_change)
        self.keeps = _record(checkpoint.best, checkpoint.best_mode)
        self.stopped = False

    def on_train_start(self, trainer: Trainer, stage: Stage) -> None:  # type: ignore[override]
        """Resume from what a checkpoint says; whoever resumes a run that has stopped gives it its patience again."""
        super().on_train_start(trainer, stage)
        for key, record in self.records():
            seen = self.checkpointer.facts.get(key)
            # What was seen of another number, or of this one when less was not better, says nothing about it.
            if seen and seen["name"] == record.name and seen["lower"] == record.lower:
                record.best, record.step, record.since = seen["best"], seen["step"], seen["since"]
        if self.stops and self.stops.since >= self.patience:
            self.stops.since = 0

    def at_step(self, trainer: Trainer, stage: Stage, step: int) -> None:
        """Judge what was logged after this step."""
        # Ranks log numbers of their own where these differ (speed, memory), and two of them that disagreed whether to stop
        # would wait for each other for ever. So rank 0's value is sent to all, and all come to one conclusion.
        due = [(key, record) for key, record in self.records() if self.journal.noted_at.get(record.name) == step]
        for key, record in due:
            value = trainer.strategy.broadcast(self.journal.latest[record.name])
            if record.take(value, step) and record is self.keeps:
                self.checkpointer.export_best(stage)
            self.checkpointer.facts[key] = asdict(record)
        if due and trainer.is_global_zero:
            # The checkpoint of this step is saved already, as saving comes before measuring. What was compared since is added
            # to it, else a run that resumes there would compare this step once more.
            amend_facts(self.checkpointer.run.checkpoints, step, self.checkpointer.facts)
        if self.stops and self.stops.since >= self.patience and step < trainer.max_steps and not trainer.should_stop:
            # This step becomes the last one after the checkpointer had its turn, so it is asked to save once more.
            self.stopped = trainer.should_stop = True
            self.checkpointer.save(trainer, stage, step)

    def records(self) -> list[tuple[str, Best]]:
        """Those there are, by their name in the checkpoints."""
        return [(key, record) for key, record in (("best", self.keeps), ("stopping", self.stops)) if record]

    def report(self) -> dict[str, Any]:
        """What a summary says."""
        best = self.keeps
        found = {"best": {"name": best.name, "value": best.best, "step": best.step}} if best else {}
        return found | {"stopped_early": asdict(self.stops) if self.stops and self.stopped else None}


def _record(name: str | None, mode: str | None, min_change: float = 0.0) -> Best | None:
    return None if name is None else Best(name, (mode or better(name)) == "min", min_change)
