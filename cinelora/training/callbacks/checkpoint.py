"""Checkpoints a run and exports its adapter: where it is due, at the last step, and where the run is asked to stop.

Enters: the run after a step. Leaves: a checkpoint and the product below the run directory, both whole. It also carries
what other callbacks remember, and does not know what that is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from lightning import Trainer

from cinelora.adapters.run_directory import RunDirectory
from cinelora.config.schema import CheckpointConfig
from cinelora.errors import FileError, TrainingError
from cinelora.training.callbacks.at_step import AtStep, Memory, Remembers, State
from cinelora.training.callbacks.ema import Ema
from cinelora.training.checkpoint_files import Checkpoint, amend_facts, save_checkpoint
from cinelora.training.module import Stage
from cinelora.training.zero import ZeroStrategy


@dataclass(eq=False)
class Checkpointer(AtStep):
    """Checkpoints a run and exports its adapter: where it is due, at the end, and where the run is asked to stop.

    ``export`` writes an adapter state as the run's adapter file, or as its best one; ``facts`` go into every checkpoint, and
    so does the memory of whatever is in ``remembering``, by the names there.
    """

    settings: CheckpointConfig
    run: RunDirectory
    export: Callable[[State, bool], None]
    ema: Ema | None
    facts: dict[str, Any]
    remembering: dict[str, Remembers] = field(default_factory=dict)
    recalled: dict[str, Memory] = field(default_factory=dict)
    saved_at: int | None = None

    def at_step(self, trainer: Trainer, stage: Stage, step: int) -> None:
        """Save; what is slow comes after this, as whoever stops a run may end it for good before long."""
        due = self.settings.every_steps and step % self.settings.every_steps == 0
        if due or trainer.should_stop or step == trainer.max_steps:
            self.save(trainer, stage, step)

    def save(self, trainer: Trainer, stage: Stage, step: int) -> None:
        """Checkpoint and export, by rank 0; the others wait."""
        # Where ranks have parts of moments or weights, gathering them is a collective: every rank has to call it, in this
        # order, although rank 0 alone writes. The barrier holds the others until the files are whole, as one that went on and
        # failed in the next step would take rank 0 down in the middle of its save.
        optimizer, state, average = moments(trainer), *self.gathered(stage)
        memory = self.memory(trainer, stage)
        if trainer.is_global_zero:
            self.write(step, state, average, optimizer, memory)
        trainer.strategy.barrier()
        self.saved_at = step

    def settle(self, trainer: Trainer, stage: Stage, step: int) -> None:
        """Let the checkpoint of ``step`` say that all has been done which the step owed, and what came of it."""
        memory = self.memory(trainer, stage)
        if trainer.is_global_zero:
            with self.still_there():
                amend_facts(self.run.checkpoints, step, {"settled": True, "memory": memory})

    def memory(self, trainer: Trainer, stage: Stage) -> dict[str, Memory]:
        """What each remembers, and what was remembered of one that this part of the run does without."""
        return self.recalled | {name: one.memory(trainer, stage) for name, one in self.remembering.items()}

    def recall(self, facts: dict[str, Any], trainer: Trainer, stage: Stage) -> None:
        """Give each its memory back from a checkpoint's ``facts``."""
        before = {"validation_clips": facts.get("heldout_clips", {}), "early_stopping": facts}  # as version 0.1 had it
        self.recalled = facts.get("memory", before)
        for name in self.recalled.keys() & self.remembering.keys():
            self.remembering[name].recall(self.recalled[name], trainer, stage)

    def gathered(self, stage: Stage) -> tuple[State, State]:
        """What is trained and its average (empty where none is kept), whole on rank 0; all ranks take part."""
        trained = stage.trained
        return trained.gathered(trained.state()), trained.gathered(self.ema.average) if self.ema else {}

    def write(self, step: int, state: State, average: State, moments: State, memory: dict[str, Memory]) -> None:
        """Checkpoint and export what ``state``, ``average`` and ``moments`` hold, whole, after ``step``.

        Raises ``TrainingError`` as ``save_checkpoint``, and where the run directory is gone.
        """
        groups = {"adapter": state, "ema": average, "moments": moments}
        tensors = {f"{group}.{name}": value for group, values in groups.items() for name, value in values.items()}
        with self.still_there():
            facts = {**self.facts, "settled": False, "memory": memory}
            save_checkpoint(self.run.checkpoints, Checkpoint(step, tensors, facts), self.settings.keep)
            # The average is what a user gets, where one is kept; training itself resumes from the weights.
            self.export(average or state, False)

    @contextmanager
    def still_there(self) -> Iterator[None]:
        """Raise ``TrainingError`` where the run directory is gone, before the block or while a file is written in it.

        One that is made again, perhaps below a volume that is no longer mounted, would hide that.
        """
        gone = TrainingError(
            f"{self.run.path} is no longer there, and what was saved in it neither: is its disk mounted?"
        )
        if not self.run.dataset.exists():
            raise gone
        try:
            yield
        except (FileNotFoundError, FileError) as error:
            if self.run.dataset.exists():
                raise
            raise gone from error

    def export_best(self, stage: Stage) -> None:
        """Keep what would be exported now as the best so far; rank 0 writes, all take part."""
        state, average = self.gathered(stage)
        if stage.trainer.is_global_zero:
            self.export(average or state, True)


def moments(trainer: Trainer) -> State:
    """AdamW's state as flat tensors, ``<parameter number>.<name>``; all ranks take part, as each may have a shard of it."""
    if isinstance(trainer.strategy, ZeroStrategy):
        return trainer.strategy.moments()
    state = trainer.optimizers[0].state_dict()["state"]
    return {f"{number}.{name}": value for number, entry in state.items() for name, value in entry.items()}
