"""Ctrl-C, TERM and a closed terminal: requests to stop, which are met between two steps, by all ranks together."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from lightning import Trainer

from cinelora.parallel.launch import stop_signals
from cinelora.training.callbacks.at_step import AtStep, mean_over_ranks
from cinelora.training.module import Stage


class StopRequest(AtStep):
    """Ends a run whole when it is asked to stop: after the step at hand, on all ranks together.

    It stands before those that save and show, which learn from ``trainer.should_stop`` that this step is the last.
    """

    received = False

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
        """Stop where any rank was asked to."""
        # A signal reaches the ranks at slightly different moments, so that one may have seen it before this step's end
        # and another not. Were each to stop by what itself has seen, the first would save while the second waits for it
        # in the next step's gradients. The mean is above zero on all of them as soon as one was asked to.
        trainer.should_stop = mean_over_ranks(torch.tensor([float(self.received)]), trainer)[0] > 0
