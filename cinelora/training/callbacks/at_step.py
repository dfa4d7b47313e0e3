"""What all callbacks share: they act once after each optimizer step, average over ranks, and may have a memory."""

from __future__ import annotations

from typing import Any, Protocol

from lightning import Callback, Trainer
from torch import Tensor

from cinelora.training.module import Stage

State = dict[str, Tensor]
Memory = dict[str, Any]
"""What of a callback goes into a checkpoint beside tensors, as JSON has it: its floats are read back to the bit."""


class Remembers(Protocol):
    """What must know after a resume what it knew when the run was saved."""

    def memory(self, trainer: Trainer, stage: Stage) -> Memory:
        """What it knows now; all ranks take part, and that of rank 0 is kept."""

    def recall(self, memory: Memory, trainer: Trainer, stage: Stage) -> None:
        """Know it again, on every rank, where weights and step are restored and nothing has acted yet."""


def mean_over_ranks(values: Tensor, trainer: Trainer) -> list[float]:
    """The mean of ``values`` over all ranks."""
    if trainer.world_size > 1:
        values = trainer.strategy.reduce(values.to(trainer.strategy.root_device), reduce_op="mean")
    return [float(value) for value in values]


class AtStep(Callback):
    """Calls ``at_step`` once after each optimizer step, with the number of steps done."""

    # Lightning calls back after each batch, and with accumulation an optimizer step takes several. `global_step` counts optimizer
    # steps: where it has moved since the batch before, a step was completed.
    seen = -1

    def on_train_start(self, trainer: Trainer, stage: Stage) -> None:  # type: ignore[override]
        """Take note of where the run starts."""
        self.seen = trainer.global_step

    def on_train_batch_end(self, trainer: Trainer, stage: Stage, outputs: Any, *_: Any) -> None:  # type: ignore[override]
        """Notice that a step was completed; with accumulation most batches complete none."""
        if trainer.global_step != self.seen:
            self.seen = trainer.global_step
            self.at_step(trainer, stage, self.seen)

    def at_step(self, trainer: Trainer, stage: Stage, step: int) -> None:
        """Act after optimizer step ``step`` (from 1)."""
        raise NotImplementedError
