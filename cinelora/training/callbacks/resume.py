"""A run that resumes: everything that a checkpoint holds is put back before the first step, in the order that it takes.

Enters: a checkpoint, and a trainer that is setting itself up. Leaves: the trainer as it was after the checkpoint's step, and
whatever that step still owed done.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from lightning import Callback, Trainer
from torch.optim import Optimizer

from cinelora.errors import TrainingError, first_line
from cinelora.training.callbacks.at_step import AtStep, State
from cinelora.training.callbacks.checkpoint import Checkpointer
from cinelora.training.checkpoint_files import Checkpoint
from cinelora.training.module import Stage
from cinelora.training.zero import MOMENTS, ZeroStrategy

_OTHERS = (LookupError, TypeError, ValueError, ArithmeticError, AttributeError, RuntimeError)
"""What is raised over tensors and numbers of a run that was set up otherwise."""


@dataclass(eq=False)
class Resume(Callback):
    """Puts a resumed run's adapter, moments, average, step and memories back; stands before the callbacks that look at them."""

    checkpoint: Checkpoint
    checkpointer: Checkpointer

    # A run is put back in two moments, because the trainer builds itself in between:
    #   setup           the weights are whole on every rank, so whole weights are loaded. DDP then broadcasts them from
    #                   rank 0 and ZeRO cuts them into pieces; neither is undone by a later load.
    #   on_train_start  the optimizer exists, and under ZeRO its shards do, so moments, average and step follow, and what
    #                   callbacks remember, which they look at when it is their turn to start.

    def setup(self, trainer: Trainer, module: Stage, stage: str) -> None:  # type: ignore[override]
        """Put what is trained back before a strategy copies or shards it."""
        with self.of_this_run():
            module.trained.load(self.checkpoint.group("adapter"))

    def on_train_start(self, trainer: Trainer, stage: Stage) -> None:  # type: ignore[override]
        """Put the rest into the trainer, which has just set itself up."""
        with self.of_this_run():
            self.put_back(trainer, stage)

    @contextmanager
    def of_this_run(self) -> Iterator[None]:
        """Raise ``TrainingError`` where the checkpoint, which loads, holds what cannot be put back into this run."""
        try:
            yield
        except torch.OutOfMemoryError:
            raise
        except _OTHERS as error:
            step = f"step-{self.checkpoint.step:08d}"
            raise TrainingError(
                f"{self.checkpointer.run.checkpoints / step} does not belong to a run with these settings ({first_line(error)}): "
                "remove it to continue from the checkpoint before it"
            ) from error

    def put_back(self, trainer: Trainer, stage: Stage) -> None:
        """Average, moments, step and memories."""
        if ema := self.checkpointer.ema:
            if (whole := self.checkpoint.group("ema")) and shapes(whole) != shapes(self.checkpoint.group("adapter")):
                raise ValueError("its moving average has other tensors than its adapter")
            average = stage.trained.own_part(whole)
            ema.average = {name: value.to(stage.device) for name, value in average.items()}
        # A checkpoint names AdamW's state "<parameter number>.<name>", whole, whatever strategy wrote it. So one of zero2
        # resumes under DDP, and the reverse; only a ZeRO strategy knows which part of it this rank takes.
        state: dict[int, State] = {}
        for key, value in self.checkpoint.group("moments").items():
            number, name = key.split(".", 1)
            state.setdefault(int(number), {})[name] = value
        if isinstance(trainer.strategy, ZeroStrategy):
            trainer.strategy.restore_moments(state)
        else:
            optimizer = trainer.optimizers[0]
            refuse_other_shapes(optimizer, state)
            optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
        # Lightning counts steps here and offers no setter; batches start again, which is right at a step's boundary.
        done = trainer.fit_loop.epoch_loop.automatic_optimization.optim_progress.optimizer.step.total
        done.completed = self.checkpoint.step
        self.checkpointer.recall(self.checkpoint.facts, trainer, stage)


def shapes(tensors: State) -> dict[str, tuple[int, ...]]:
    """The shape of each tensor."""
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def refuse_other_shapes(optimizer: Optimizer, moments: dict[int, State]) -> None:
    """Raise ``ValueError`` for moments of other shapes than their parameters: torch would say so in the middle of a step."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for number, of_one in moments.items():
        wanted = {"step": (), **dict.fromkeys(MOMENTS, tuple(parameters[number].shape))}
        if shapes(of_one) != wanted:
            raise ValueError(f"moments {number} have shapes {shapes(of_one)}, and not {wanted}")


@dataclass(eq=False)
class Duties(AtStep):
    """What a step owes once it is saved: ``callbacks`` act, and its checkpoint says so. Stands behind them all.

    ``owed``: the run resumes at a checkpoint that does not say so; they act for its step before the next one.
    """

    checkpointer: Checkpointer
    callbacks: list[AtStep]
    owed: bool

    # A step is saved first and measured, shown and judged after that. A run may be killed between the two, at any step. Were it
    # to go on with the next one, a held-out number would be missing for ever: of the curves, but also of those that decide
    # which adapter is the best and whether the run ends. So a checkpoint is saved as not settled, and is settled last. Whatever
    # acts here may act twice for one step: weights and draws are the same, so the same files and numbers come of it.

    def on_train_start(self, trainer: Trainer, stage: Stage) -> None:  # type: ignore[override]
        """Act as after the step that is restored by now, where that is owed; the save comes first, for its export."""
        super().on_train_start(trainer, stage)
        if self.owed:
            step = trainer.global_step
            self.checkpointer.save(trainer, stage, step)
            for callback in self.callbacks:
                callback.at_step(trainer, stage, step)
            self.at_step(trainer, stage, step)

    def at_step(self, trainer: Trainer, stage: Stage, step: int) -> None:
        """Settle the checkpoint of this step; save it before where it was judged to be the last after others were saved."""
        if trainer.should_stop and self.checkpointer.saved_at != step:
            self.checkpointer.save(trainer, stage, step)
        if self.checkpointer.saved_at == step:
            self.checkpointer.settle(trainer, stage, step)


def owes(checkpoint: Checkpoint, steps: int, product: Path) -> bool:
    """Whether not all was done that the step of ``checkpoint`` owed, in a run of ``steps`` that leaves ``product``."""
    # Version 0.1 did not write it down. Of its last step, which nothing would come back to, it is done once more.
    return not checkpoint.facts.get("settled", checkpoint.step < steps) or not product.exists()
