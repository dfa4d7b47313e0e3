"""What happens beside the optimisation: EMA, checkpoints and exports, progress. What is measured is in ``heldout``.

Each callback acts after optimizer steps (``AtStep``). None of them changes what is learnt.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from lightning import Callback, Trainer
from torch import Tensor
from tqdm.auto import tqdm

from cinelora.adapters.run_directory import RunDirectory
from cinelora.config.schema import CheckpointConfig, LoggerConfig
from cinelora.errors import TrainingError
from cinelora.io.hardware import peak_memory_mib
from cinelora.parallel.launch import stop_signals
from cinelora.training.checkpoints import Checkpoint, save_checkpoint
from cinelora.training.stage import Stage
from cinelora.training.zero import ZeroStrategy

State = dict[str, Tensor]


def mean_over_ranks(values: Tensor, trainer: Trainer) -> list[float]:
    """The mean of ``values`` over all ranks."""
    if trainer.world_size > 1:
        values = trainer.strategy.reduce(values.to(trainer.strategy.root_device), reduce_op="mean")
    return [float(value) for value in values]


class AtStep(Callback):
    """Calls ``at_step`` once after each optimizer step, with the number of steps done."""

    def __init__(self) -> None:
        self.seen = -1

    def on_train_start(self, trainer: Trainer, stage: Stage) -> None:  # type: ignore[override]
        """Take note of where the run starts."""
        self.seen = trainer.global_step

    def on_train_batch_end(  # type: ignore[override]
        self, trainer: Trainer, stage: Stage, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Notice that a step was completed; with accumulation most batches complete none."""
        if trainer.global_step != self.seen:
            self.seen = trainer.global_step
            self.at_step(trainer, stage, self.seen)

    def at_step(self, trainer: Trainer, stage: Stage, step: int) -> None:
        """Act after optimizer step ``step`` (from 1)."""
        raise NotImplementedError


class StopRequest(AtStep):
    """Ends a run whole when it is told to stop: after the step at hand, on all ranks together.

    It stands before those that save and show, which learn from ``trainer.should_stop`` that this step is the last.
    """

    def __init__(self) -> None:
        super().__init__()
        self.received = False

    @contextmanager
    def heeded(self) -> Iterator[None]:
        """Inside the block Ctrl-C, TERM and a closed terminal are requests, and interrupt nothing."""
        before = {number: signal.signal(number, self.receive) for number in stop_signals()}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def receive(self, *_: object) -> None:
        """Take note; as a handler of signals it must not do more."""
        self.received = True

    def on_train_start(self, trainer: Trainer, stage: Stage) -> None:  # type: ignore[override]
        """Take TERM back: Lightning has put a handler over ours that ends the run after any batch, without a save."""
        super().on_train_start(trainer, stage)
        signal.signal(signal.SIGTERM, self.receive)

    def at_step(self, trainer: Trainer, stage: Stage, step: int) -> None:
        """Stop where any rank was told to."""
        trainer.should_stop = mean_over_ranks(torch.tensor([float(self.received)]), trainer)[0] > 0


class Ema(AtStep):
    """Exponential moving average of what is trained alone, float32, on its device.

    It starts fast: after step t the decay is at most t / (t + 9), else a short run would export its start.
    """

    def __init__(self, decay: float) -> None:
        super().__init__()
        self.decay = decay
        self.average: State = {}

    def on_train_start(self, trainer: Trainer, stage: Stage) -> None:  # type: ignore[override]
        """Start from the weights as they are, unless a checkpoint brought an average along."""
        super().on_train_start(trainer, stage)
        if not self.average:
            self.average = {name: value.clone() for name, value in stage.trained.state().items()}

    def at_step(self, trainer: Trainer, stage: Stage, step: int) -> None:
        """Move the average towards the weights."""
        weight = 1 - min(self.decay, step / (step + 9))
        current = stage.trained.state()
        names = list(current)
        torch._foreach_lerp_([self.average[n] for n in names], [current[n] for n in names], weight)

    @contextmanager
    def in_place(self, stage: Stage) -> Iterator[None]:
        """Inside the block the transformer carries the average, and after it the weights again, bit for bit."""
        weights = {name: value.clone() for name, value in stage.trained.state().items()}
        stage.trained.load(self.average)
        try:
            yield
        finally:
            stage.trained.load(weights)


@contextmanager
def as_exported(stage: Stage, ema: Ema | None) -> Iterator[None]:
    """Inside the block the transformer is in eval mode and carries what is exported: the average, where there is one."""
    stage.eval()
    with ema.in_place(stage) if ema else nullcontext():
        yield
    stage.train()


class Resume(Callback):
    """Puts a resumed run's adapter, moments, average and step back; stands before the callbacks that look at them."""

    def __init__(self, checkpoint: Checkpoint, ema: Ema | None) -> None:
        self.checkpoint, self.ema = checkpoint, ema

    def setup(self, trainer: Trainer, module: Stage, stage: str) -> None:  # type: ignore[override]
        """Put what is trained back before a strategy copies or shards it."""
        module.trained.load(self.checkpoint.group("adapter"))

    def on_train_start(self, trainer: Trainer, stage: Stage) -> None:  # type: ignore[override]
        """Restore, once the optimizer exists."""
        restore(self.checkpoint, trainer, stage, self.ema)


class Finish(Callback):
    """Where a run goes on from its last step, does what its end lacked; ``callbacks`` are those that act behind a step."""

    def __init__(self, callbacks: list[AtStep]) -> None:
        self.callbacks = callbacks

    def on_train_start(self, trainer: Trainer, stage: Stage) -> None:  # type: ignore[override]
        """Act as at the end of the step that is restored by now."""
        if trainer.global_step == trainer.max_steps:
            for callback in self.callbacks:
                callback.at_step(trainer, stage, trainer.global_step)


class Keeper(AtStep):
    """Checkpoints a run and exports its adapter: where it is due, at the end, and where the run is told to stop.

    ``export`` writes an adapter state as the run's adapter file, or as its best one; ``facts`` go into every checkpoint.
    """

    def __init__(
        self,
        settings: CheckpointConfig,
        run: RunDirectory,
        export: Callable[[State, bool], None],
        ema: Ema | None,
        facts: dict[str, Any],
    ) -> None:
        super().__init__()
        self.settings, self.run, self.export, self.ema, self.facts = settings, run, export, ema, facts

    def at_step(self, trainer: Trainer, stage: Stage, step: int) -> None:
        """Save; what is slow comes after this, as whoever stops a run may end it for good before long."""
        due = self.settings.every_steps and step % self.settings.every_steps == 0
        if due or trainer.should_stop or step == trainer.max_steps:
            self.save(trainer, stage, step)

    def save(self, trainer: Trainer, stage: Stage, step: int) -> None:
        """Checkpoint and export, by rank 0; the others wait."""
        optimizer, state, average = moments(trainer), *self.gathered(stage)
        if trainer.is_global_zero:
            self.write(step, state, average, optimizer)
        trainer.strategy.barrier()

    def gathered(self, stage: Stage) -> tuple[State, State]:
        """What is trained and its average (empty where none is kept), whole on rank 0; all ranks take part."""
        trained = stage.trained
        return trained.gathered(trained.state()), trained.gathered(self.ema.average) if self.ema else {}

    def write(self, step: int, state: State, average: State, moments: State) -> None:
        """Checkpoint and export what ``state``, ``average`` and ``moments`` hold, whole, after ``step``.

        Raises ``TrainingError`` as ``save_checkpoint``, and where the run directory is gone: one that is made anew, perhaps
        below a volume that is no longer mounted, would hide it.
        """
        if not self.run.dataset.exists():
            raise TrainingError(
                f"{self.run.path} is no longer there, and what was saved in it neither: is its disk mounted?"
            )
        groups = {"adapter": state, "ema": average, "moments": moments}
        tensors = {f"{group}.{name}": value for group, values in groups.items() for name, value in values.items()}
        save_checkpoint(self.run.checkpoints, Checkpoint(step, tensors, self.facts), self.settings.keep)
        self.export(average or state, False)

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


def restore(checkpoint: Checkpoint, trainer: Trainer, stage: Stage, ema: Ema | None) -> None:
    """Put the rest of ``checkpoint`` into a trainer that has just set itself up."""
    if ema:
        average = stage.trained.own_part(checkpoint.group("ema"))
        ema.average = {name: value.to(stage.device) for name, value in average.items()}
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


class Progress(AtStep):
    """A bar with loss, samples per second and time left, and the same numbers and more to the logger.

    ``train/loss`` is the mean since the last time; ``train/gradient_norm`` is of this step alone, before clipping;
    ``train/step_s`` counts what is measured and drawn between steps as well; ``train/peak_memory_mib`` is of the whole run,
    on the GPU where there is one. Nothing waits for the device but the steps at which this is logged.
    """

    def __init__(self, settings: LoggerConfig, samples_per_step: int) -> None:
        super().__init__()
        self.settings, self.samples_per_step = settings, samples_per_step
        self.bar = tqdm(disable=True)
        self.losses: list[Tensor] = []
        self.latest_loss: float | None = None
        self.latest_speed = 0.0
        self.trained_s = 0.0
        self.trained_steps = 0
        self.warm = False

    @property
    def samples_per_s(self) -> float:
        """Mean speed of this process so far; where there were several, without the first interval, which warms up."""
        return self.trained_steps * self.samples_per_step / self.trained_s if self.trained_s else self.latest_speed

    def on_train_start(self, trainer: Trainer, stage: Stage) -> None:  # type: ignore[override]
        """Open the bar."""
        super().on_train_start(trainer, stage)
        self.bar = tqdm(
            desc=stage.config.stage.name,
            initial=trainer.global_step,
            total=trainer.max_steps,
            unit="step",
            disable=not trainer.is_global_zero,
        )
        self.since, self.since_step = time.perf_counter(), trainer.global_step

    def on_train_batch_end(  # type: ignore[override]
        self, trainer: Trainer, stage: Stage, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Collect the loss without waiting for the device; Lightning has divided it by the number of micro-batches."""
        self.losses.append(outputs["loss"].detach() * trainer.accumulate_grad_batches)
        super().on_train_batch_end(trainer, stage, outputs, batch, batch_idx)

    def at_step(self, trainer: Trainer, stage: Stage, step: int) -> None:
        """Move the bar; every few steps and at the last, say how it goes."""
        self.bar.update()
        if step % self.settings.every_steps == 0 or step == trainer.max_steps or trainer.should_stop:
            self.tell(trainer, stage, step)

    def tell(self, trainer: Trainer, stage: Stage, step: int) -> None:
        """Say how it went since the last time."""
        self.latest_loss = mean_over_ranks(torch.stack(self.losses).mean()[None].float(), trainer)[0]
        self.losses.clear()
        now = time.perf_counter()
        speed = (step - self.since_step) * self.samples_per_step / (now - self.since)
        if self.warm:
            self.trained_s += now - self.since
            self.trained_steps += step - self.since_step
        self.warm, self.latest_speed = True, speed
        self.since, self.since_step = now, step
        self.bar.set_postfix_str(f"loss {self.latest_loss:.4f}, {speed:.1f} samples/s")
        if trainer.logger:
            rate = trainer.optimizers[0].param_groups[0]["lr"]
            memory = peak_memory_mib()
            numbers = {"train/loss": self.latest_loss, "train/lr": rate, "train/samples_per_s": speed}
            numbers |= {
                "train/step_s": self.samples_per_step / speed,
                "train/gradient_norm": float(stage.gradient_norm),
            }
            numbers["train/peak_memory_mib"] = float(memory.get("gpu", memory["host"]))
            trainer.logger.log_metrics(numbers, step)

    def on_train_end(self, trainer: Trainer, stage: Stage) -> None:  # type: ignore[override]
        """Say what is left to say of a run that ended early, and close the bar."""
        if self.seen > self.since_step:
            self.tell(trainer, stage, self.seen)
        self.bar.close()

    def on_exception(self, trainer: Trainer, stage: Stage, exception: BaseException) -> None:  # type: ignore[override]
        """Close the bar, whose line the reason would be written behind, even one that another callback gives at the start."""
        self.bar.close()
