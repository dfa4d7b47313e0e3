"""The moving average of what is trained, and the transformer as it is exported: with that average in place."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field

import torch
from lightning import Trainer

from cinelora.training.callbacks.at_step import AtStep, State
from cinelora.training.module import Stage


@dataclass(eq=False)
class Ema(AtStep):
    """Exponential moving average of what is trained alone, float32, on its device.

    It starts fast: after step t the decay is at most t / (t + 9), else a short run would export its start.
    """

    decay: float
    average: State = field(default_factory=dict)

    def on_train_start(self, trainer: Trainer, stage: Stage) -> None:  # type: ignore[override]
        """Start from the weights as they are, unless a checkpoint brought an average along."""
        super().on_train_start(trainer, stage)
        if not self.average:
            self.average = {name: value.clone() for name, value in stage.trained.state().items()}

    def at_step(self, trainer: Trainer, stage: Stage, step: int) -> None:
        """Move the average towards the weights."""
        # lerp by 1 - decay is average = decay * average + (1 - decay) * weights, for all tensors in one call. Where ranks
        # have pieces of the weights, ``state`` is this rank's pieces and the average is of the same pieces.
        weight = 1 - min(self.decay, step / (step + 9))
        current = stage.trained.state()
        torch._foreach_lerp_([self.average[name] for name in current], list(current.values()), weight)

    @contextmanager
    def in_place(self, stage: Stage) -> Iterator[None]:
        """Inside the block the transformer carries the average, and after it the weights again, bit for bit."""
        # The weights are copied away and back rather than swapped: the optimizer holds the parameters themselves, so
        # their storage has to stay the same.
        weights = {name: value.clone() for name, value in stage.trained.state().items()}
        stage.trained.load(self.average)
        try:
            yield
        finally:
            stage.trained.load(weights)


@contextmanager
def as_exported(stage: Stage, ema: Ema | None) -> Iterator[None]:
    """Inside the block the transformer is in eval mode and carries what is exported: the average, where there is one."""
    # Validation, previews and the summary all enter here: their numbers are of the very weights a user gets in the
    # adapter file, not of those that training happens to stand at.
    with evaluating(stage, ema.in_place(stage) if ema else nullcontext()):
        yield


@contextmanager
def evaluating(stage: Stage, weights: AbstractContextManager[None]) -> Iterator[None]:
    """Inside the block the transformer is in eval mode and carries the weights that ``weights`` puts in place."""
    stage.eval()
    with weights:
        yield
    stage.train()
