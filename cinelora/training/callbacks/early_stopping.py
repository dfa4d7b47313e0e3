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
from cinelora.training.callbacks.at_step import AtStep, Memory
from cinelora.training.callbacks.checkpoint import Checkpointer
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
        self.judged_at: int | None = None
        self.others: Memory = {}

    def at_step(self, trainer: Trainer, stage: Stage, step: int) -> None:
        """Judge what was logged after this step, once, however often a resumed run comes back to it."""
        if self.judged_at == step:
            return
        # Ranks log numbers of their own where these differ (speed, memory), and two of them that disagreed whether to stop
        # would wait for each other for ever. So rank 0's value is sent to all, and all come to one conclusion.
        for _, record in self.records():
            if self.journal.noted_at.get(record.name) == step:
                value = trainer.strategy.broadcast(self.journal.latest[record.name])
                if record.take(value, step) and record is self.keeps:
                    self.checkpointer.export_best(stage)
        self.judged_at = step
        if self.stops and self.stops.since >= self.patience and step < trainer.max_steps:
            self.stopped = trainer.should_stop = True

    def memory(self, trainer: Trainer, stage: Stage) -> Memory:
        """What was seen, of which step last, and whether it ended the run."""
        seen = {key: asdict(record) for key, record in self.records()}
        return {**self.others, **seen, "stopped": self.stopped, "judged_at": self.judged_at}

    def recall(self, memory: Memory, trainer: Trainer, stage: Stage) -> None:
        """Judge on from there. Whoever resumes a run that had stopped, and said so, gives it its patience again."""
        self.others = {key: memory[key] for key in ("best", "stopping") if key in memory}
        self.judged_at = memory.get("judged_at")
        for key, record in self.records():
            seen = memory.get(key)
            # What was seen of another number, or of this one when less was not better, says nothing about it.
            if seen and seen["name"] == record.name and seen["lower"] == record.lower:
                record.best, record.step, record.since = seen["best"], seen["step"], seen["since"]
        if self.stops and self.stops.since >= self.patience:
            if memory.get("stopped") and not self.checkpointer.run.has_ended(trainer.global_step):
                self.stopped = trainer.should_stop = True  # it was killed between its last step and its summary
            else:
                self.stops.since = 0

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
