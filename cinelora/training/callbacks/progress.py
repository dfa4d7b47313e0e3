"""The bar on the terminal, and what a run logs of its training steps."""

from __future__ import annotations

import time
from typing import Any

import torch
from lightning import Trainer
from torch import Tensor
from tqdm.auto import tqdm

from cinelora.config.schema import LoggerConfig
from cinelora.io.hardware import peak_memory_mib
from cinelora.training.callbacks.at_step import AtStep, mean_over_ranks
from cinelora.training.module import Stage


class Progress(AtStep):
    """A bar with loss, samples per second and time left, and the same numbers and more to the logger.

    ``train/loss`` is the mean since the last time; ``train/gradient_norm`` is of this step alone, before clipping;
    ``train/step_s`` counts what is measured and drawn between steps as well; ``train/peak_memory_mib`` is of the whole run,
    on the GPU where there is one. Nothing waits for the device but the steps at which this is logged.
    """

    def __init__(self, settings: LoggerConfig, samples_per_step: int) -> None:
        self.settings, self.samples_per_step = settings, samples_per_step
        self.bar = tqdm(disable=True)
        self.losses: list[Tensor] = []
        self.latest_loss: float | None = None
        self.latest_speed = self.trained_s = 0.0
        self.trained_steps, self.warm = 0, False

    @property
    def samples_per_s(self) -> float:
        """Mean speed of this process so far; where there were several, without the first interval, which warms up."""
        return self.trained_steps * self.samples_per_step / self.trained_s if self.trained_s else self.latest_speed

    def on_train_start(self, trainer: Trainer, stage: Stage) -> None:  # type: ignore[override]
        """Open the bar."""
        super().on_train_start(trainer, stage)
        begun = {"desc": stage.config.stage.name, "initial": trainer.global_step, "total": trainer.max_steps}
        self.bar = tqdm(**begun, unit="step", disable=not trainer.is_global_zero)
        self.since, self.since_step = time.perf_counter(), trainer.global_step

    def on_train_batch_end(self, trainer: Trainer, stage: Stage, outputs: Any, *_: Any) -> None:  # type: ignore[override]
        """Collect the loss without waiting for the device; Lightning has divided it by the number of micro-batches."""
        self.losses.append(outputs["loss"].detach() * trainer.accumulate_grad_batches)
        super().on_train_batch_end(trainer, stage, outputs)

    def at_step(self, trainer: Trainer, stage: Stage, step: int) -> None:
        """Move the bar; every few steps and at the last, say how it goes."""
        self.bar.update()
        if step % self.settings.every_steps == 0 or step == trainer.max_steps or trainer.should_stop:
            self.tell(trainer, stage, step)

    def tell(self, trainer: Trainer, stage: Stage, step: int) -> None:
        """Say how it went since the last time."""
        # The losses wait on the device until now: reading one as a number makes the host wait until the device has computed it,
        # so that it could not prepare the next step meanwhile.
        self.latest_loss = mean_over_ranks(torch.stack(self.losses).mean()[None].float(), trainer)[0]
        self.losses.clear()
        now = time.perf_counter()
        speed = (step - self.since_step) * self.samples_per_step / (now - self.since)
        # The first interval is slower than all others, as kernels are chosen or compiled in it: it counts only where it is alone.
        if self.warm:
            self.trained_s += now - self.since
            self.trained_steps += step - self.since_step
        self.warm, self.latest_speed = True, speed
        self.since, self.since_step = now, step
        self.bar.set_postfix_str(f"loss {self.latest_loss:.4f}, {speed:.1f} samples/s")
        if trainer.logger:
            rate = trainer.optimizers[0].param_groups[0]["lr"]
            memory = peak_memory_mib()
            numbers = {"loss": self.latest_loss, "lr": rate, "samples_per_s": speed}
            numbers |= {"step_s": self.samples_per_step / speed, "gradient_norm": float(stage.gradient_norm)}
            numbers["peak_memory_mib"] = float(memory.get("gpu", memory["host"]))
            trainer.logger.log_metrics({f"train/{name}": value for name, value in numbers.items()}, step)

    def on_train_end(self, trainer: Trainer, stage: Stage) -> None:  # type: ignore[override]
        """Say what is left to say of a run that ended early, and close the bar."""
        if self.seen > self.since_step:
            self.tell(trainer, stage, self.seen)
        self.bar.close()

    def on_exception(self, trainer: Trainer, stage: Stage, exception: BaseException) -> None:  # type: ignore[override]
        """Close the bar: the reason would be printed on its line, even one that another callback gives at the start."""
        self.bar.close()
