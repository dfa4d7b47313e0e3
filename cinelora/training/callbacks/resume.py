"""A run that resumes: everything that a checkpoint holds is put back before the first step, in the order that it takes.

Enters: a checkpoint, and a trainer that is setting itself up. Leaves: the trainer as it was after the checkpoint's step.
"""

from __future__ import annotations

from dataclasses import dataclass

from lightning import Callback, Trainer

from cinelora.training.callbacks.at_step import AtStep, State
from cinelora.training.callbacks.ema import Ema
from cinelora.training.checkpoint_files import Checkpoint
from cinelora.training.module import Stage
from cinelora.training.zero import ZeroStrategy


@dataclass(eq=False)
class Resume(Callback):
    """Puts a resumed run's adapter, moments, average and step back; stands before the callbacks that look at them."""

    checkpoint: Checkpoint
    ema: Ema | None

    # A run is put back in two moments, because the trainer builds itself in between:
    #   setup           the weights are whole on every rank, so whole weights are loaded. DDP then broadcasts them from
    #                   rank 0 and ZeRO cuts them into pieces; neither is undone by a later load.
    #   on_train_start  the optimizer exists, and under ZeRO its shards do, so moments, average and step follow.

    def setup(self, trainer: Trainer, module: Stage, stage: str) -> None:  # type: ignore[override]
        """Put what is trained back before a strategy copies or shards it."""
        module.trained.load(self.checkpoint.group("adapter"))

    def on_train_start(self, trainer: Trainer, stage: Stage) -> None:  # type: ignore[override]
        """Put the rest into the trainer, which has just set itself up."""
        if self.ema:
            average = stage.trained.own_part(self.checkpoint.group("ema"))
            self.ema.average = {name: value.to(stage.device) for name, value in average.items()}
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
            optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
        # Lightning counts steps here and offers no setter; batches start again, which is right at a step's boundary.
        done = trainer.fit_loop.epoch_loop.automatic_optimization.optim_progress.optimizer.step.total
        done.completed = self.checkpoint.step


@dataclass(eq=False)
class Finish(Callback):
    """Where a run resumes at its last step, does what its end lacked; ``callbacks`` are those that act after a step."""

    callbacks: list[AtStep]

    def on_train_start(self, trainer: Trainer, stage: Stage) -> None:  # type: ignore[override]
        """Act as at the end of the step that is restored by now."""
        # A run may be killed after its last checkpoint and before its last export, measurement or summary. Resumed, it
        # has no step left, so that no callback would ever act: they act here instead, as after the step itself.
        if trainer.global_step == trainer.max_steps:
            for callback in self.callbacks:
                callback.at_step(trainer, stage, trainer.global_step)
