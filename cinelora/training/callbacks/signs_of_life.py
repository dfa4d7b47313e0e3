"""Tells the parent when a step ends and when the next begins, so that a rank that hangs is noticed (``parallel.heartbeat``)."""

from __future__ import annotations

from typing import Any

from lightning import Callback, Trainer

from cinelora.parallel.heartbeat import HEART
from cinelora.training.module import Stage


class StepEnds(Callback):
    """To act first: what the other callbacks do after a step may take any time."""

    def on_train_batch_end(self, trainer: Trainer, stage: Stage, *_: Any) -> None:  # type: ignore[override]
        """The step is over."""
        HEART.has_stepped(trainer.global_step)

    def on_train_end(self, trainer: Trainer, stage: Stage) -> None:  # type: ignore[override]
        """What ends a run is no step."""
        HEART.has_stepped(trainer.global_step)


class StepBegins(Callback):
    """To act last: from here on the next batch is waited for, and computed."""

    def on_train_start(self, trainer: Trainer, stage: Stage) -> None:  # type: ignore[override]
        """The first step begins."""
        HEART.steps_on()

    def on_train_batch_end(self, trainer: Trainer, stage: Stage, *_: Any) -> None:  # type: ignore[override]
        """The next one does."""
        HEART.steps_on()
