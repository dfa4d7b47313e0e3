"""A run that resumes: everything that a checkpoint holds is put back before the first step, in the order that it takes.

Enters: a checkpoint, and a trainer that is setting itself up. Leaves: the trainer as it was after the checkpoint's step.
"""

from __future__ import annotations

from lightning import Callback, Trainer

from cinelora.training.callbacks.at_step import AtStep, State
from cinelora.training.callbacks.ema import Ema
from cinelora.training.checkpoint_files import Checkpoint
from cinelora.training.module import Stage
from cinelora.training.zero import ZeroStrategy


class Resume(Callback):
    """Puts a resumed run's adapter, moments, average and step back; stands before the callbacks that look at them."""

    def __init__(self, checkpoint: Checkpoint, ema: Ema | None) -> None:
        self.checkpoint, self.ema = checkpoint, ema

    # A run is put back in two moments, because the trainer builds itself in between:
    #   setup           the weights are whole on every rank, so whole weights are loaded. DDP then broadcasts them from
    #                   rank 0 and ZeRO cuts them into pieces; neither is undone by a later load.
    #   on_train_start  the optimizer exists, and under ZeRO its shards do, so moments, average and step follow.

    def setup(self, trainer: Trainer, module: Stage, stage: str) -> None:  # type: ignore[override]
        """Put what is trained back before a strategy copies or shards it."""
        module.trained.load(self.checkpoint.group("adapter"))

    def on_train_start(self, trainer: Trainer, stage: Stage) -> None:  # type: ignore[override]
        """Restore, once the optimizer exists."""
        restore(self.checkpoint, trainer, stage, self.ema)


def restore(checkpoint: Checkpoint, trainer: Trainer, stage: Stage, ema: Ema | None) -> None:
    """Put the rest of ``checkpoint`` into a trainer that has just set itself up."""
    if ema:
        average = stage.trained.own_part(checkpoint.group("ema"))
        ema.average = {name: value.to(stage.device) for name, value in average.items()}
    # A checkpoint names AdamW's state "<parameter number>.<name>", whole, whatever strategy wrote it. So one of zero2
    # resumes under DDP, and the reverse; only a ZeRO strategy knows which part of it this rank takes.
    state: dict[int, State] = {}
    for key, value in checkpoint.group("moments").items():
        number, name = key.split(".", 1)
        state.setdefault(int(number), {})[name] = value
    if isinstance(trainer.strategy, ZeroStrategy):
        trainer.strategy.restore_moments(state)
    else:
        optimizer = trainer.optimizers[0]
        optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
    # Lightning counts steps here and offers no setter; batches start anew, which is right at a step's boundary
    trainer.fit_loop.epoch_loop.automatic_optimization.optim_progress.optimizer.step.total.completed = checkpoint.step


class Finish(Callback):
    """Where a run resumes at its last step, does what its end lacked; ``callbacks`` are those that act after a step."""

    def __init__(self, callbacks: list[AtStep]) -> None:
        self.callbacks = callbacks

    def on_train_start(self, trainer: Trainer, stage: Stage) -> None:  # type: ignore[override]
        """Act as at the end of the step that is restored by now."""
        # A run may be killed after its last checkpoint and before its last export, measurement or summary. Resumed, it
        # has no step left, so that no callback would ever act: they act here instead, as after the step itself.
        if trainer.global_step == trainer.max_steps:
            for callback in self.callbacks:
                callback.at_step(trainer, stage, trainer.global_step)
