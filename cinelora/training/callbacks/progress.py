"""The bar on the terminal, and what a run logs of its training steps."""

from __future__ import annotations

import time
from typing import Any

import torch
from lightning import Trainer
from torch import Tensor

from cinelora.config.lessons import expert_of
from cinelora.config.schema import LoggerConfig
from cinelora.families.family import suffixed
from cinelora.io.hardware import peak_memory_mib
from cinelora.io.live_bar import LiveBar
from cinelora.training.callbacks.at_step import AtStep, Memory, mean_over_ranks
from cinelora.training.module import Stage


class Progress(AtStep):
    """A bar with loss, samples per second and time left, and the same numbers and more to the logger.

    ``train/loss`` is the mean since the last time; ``train/gradient_norm`` is of this step alone, before clipping;
    ``train/step_s`` counts what is measured and drawn between steps as well; ``train/peak_memory_mib`` is of the whole run,
    on the GPU where there is one. Nothing waits for the device but the steps at which this is logged.
    """

    def __init__(self, settings: LoggerConfig, samples_per_step: int) -> None:
        self.settings, self.samples_per_step = settings, samples_per_step
        self.bar = LiveBar(disable=True)
        self.losses: list[Tensor] = []
        self.latest_loss: float | None = None
        self.told_at: int | None = None
        self.latest_speed = self.trained_s = 0.0
        self.trained_steps, self.warm = 0, False

    @property
    def samples_per_s(self) -> float:
        """Mean speed of this process so far; where there were several, without the first interval, which warms up."""
        return self.trained_steps * self.samples_per_step / self.trained_s if self.trained_s else self.latest_speed

    def on_train_start(self, trainer: Trainer, stage: Stage) -> None:  # type: ignore[override]
        """Open the bar."""
        super().on_train_start(trainer, stage)
        lesson = suffixed(stage.config.stage.name, expert_of(stage.config).name)
        begun = {"desc": lesson, "initial": trainer.global_step, "total": trainer.max_steps}
        self.bar = LiveBar(**begun, unit="step", disable=not trainer.is_global_zero)
        self.since, self.since_step = time.perf_counter(), trainer.global_step

    def on_train_batch_end(self, trainer: Trainer, stage: Stage, outputs: Any, *_: Any) -> None:  # type: ignore[override]
        """Collect the loss without waiting for the device; Lightning has divided it by the number of micro-batches."""
        self.losses.append(outputs["loss"].detach() * trainer.accumulate_grad_batches)
        super().on_train_batch_end(trainer, stage, outputs)

    def at_step(self, trainer: Trainer, stage: Stage, step: int) -> None:
        """Move the bar; every few steps and at the last, print the progress, and start again."""
        self.bar.update()
        due = step % self.settings.every_steps == 0
        if due or step == trainer.max_steps:
            self.tell(trainer, stage, step)
        if due:  # and not where a run happens to end: one that continues from there counts as if it had not
            self.losses.clear()

    def tell(self, trainer: Trainer, stage: Stage, step: int) -> None:
        """Say how it went since the last time."""
        # The losses wait on the device until now: reading one as a number makes the host wait until the device has computed it,
        # so that it could not prepare the next step meanwhile.
        self.latest_loss = mean_over_ranks(torch.stack(self.losses).mean()[None].float(), trainer)[0]
        self.told_at = step
        memory = peak_memory_mib()
        numbers = {"loss": self.latest_loss, "lr": rate(trainer), "gradient_norm": float(stage.gradient_norm)}
        numbers["peak_memory_mib"] = float(memory.get("gpu", memory["host"]))
        if step > self.since_step:  # else the run was resumed at its end, and this process has made no step
            self.clock(step)
            numbers["samples_per_s"], numbers["step_s"] = self.latest_speed, self.samples_per_step / self.latest_speed
        self.bar.set_postfix_str(f"loss {self.latest_loss:.4f}, {self.latest_speed:.1f} samples/s")
        if trainer.logger:
            trainer.logger.log_metrics({f"train/{name}": value for name, value in numbers.items()}, step)

    def clock(self, step: int) -> None:
        """Take the speed since the last time."""
        now = time.perf_counter()
        # The first interval is slower than all others, as kernels are chosen or compiled in it: it counts only where it is alone.
        if self.warm:
            self.trained_s += now - self.since
            self.trained_steps += step - self.since_step
        self.latest_speed = (step - self.since_step) * self.samples_per_step / (now - self.since)
        self.warm, self.since, self.since_step = True, now, step

    def memory(self, trainer: Trainer, stage: Stage) -> Memory:
        """Every rank's losses since the last line, micro-batch by micro-batch, and what else the next line needs."""
        by_rank = torch.zeros(trainer.world_size, 0)
        if self.losses:
            by_rank = trainer.strategy.all_gather(torch.stack(self.losses)).view(trainer.world_size, -1)
        kept = {"losses": by_rank.tolist(), "accumulation": trainer.accumulate_grad_batches}
        of_step = {"lr": rate(trainer), "gradient_norm": float(stage.gradient_norm)}
        return {**kept, **of_step, "latest_loss": self.latest_loss, "told_at": self.told_at}

    def recall(self, memory: Memory, trainer: Trainer, stage: Stage) -> None:
        """Go on with the line that was begun."""
        losses, accumulation = torch.tensor(memory["losses"]), memory["accumulation"]
        if losses.shape[0] != trainer.world_size or accumulation != trainer.accumulate_grad_batches:
            # Cut otherwise from here on: each of the steps counts with its mean, in as many parts as steps have now.
            ranks, number = losses.shape
            means = losses.view(ranks, number // accumulation, accumulation).mean(dim=(0, 2))
            losses = means.repeat_interleave(trainer.accumulate_grad_batches).expand(trainer.world_size, -1)
        self.losses = list(losses[trainer.global_rank].to(stage.device))
        self.latest_loss, self.told_at = memory["latest_loss"], memory["told_at"]
        stage.gradient_norm = torch.tensor(memory["gradient_norm"], device=stage.device)
        for group in trainer.optimizers[0].param_groups:
            group["lr"] = memory["lr"]

    def on_train_end(self, trainer: Trainer, stage: Stage) -> None:  # type: ignore[override]
        """Say what is left to say of a run that ended early, and close the bar."""
        if self.losses and self.told_at != self.seen:
            self.tell(trainer, stage, self.seen)
        self.bar.close()

    def on_exception(self, trainer: Trainer, stage: Stage, exception: BaseException) -> None:  # type: ignore[override]
        """Close the bar: the reason would be printed on its line, even one that another callback gives at the start."""
        self.bar.close()


def rate(trainer: Trainer) -> float:
    """The learning rate of the last step."""
    return float(trainer.optimizers[0].param_groups[0]["lr"])
