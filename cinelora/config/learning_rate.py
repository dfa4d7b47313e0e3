"""The learning rate of a step: of its number and the settings alone, so that a resumed run has the rates of an uninterrupted one.

Enters: settings. Leaves: a rate, and for a run that is given other steps than it was planned with, the line that says what
becomes of its rate.
"""

from __future__ import annotations

import math
from dataclasses import replace

from cinelora.config.schema import OptimizerConfig, TrainConfig, effective_lr
from cinelora.config.sentences import sentence

SPENT = 0.01
"""A rate below this share of the peak hardly moves an adapter any more."""


def learning_rate(step: int, config: OptimizerConfig, peak: float, total_steps: int) -> float:
    """The rate of optimizer step ``step`` (from 0): linear warm-up, then constant or half a cosine to zero.

    A run that was extended has another half cosine from there on, which begins at the rate of the step before.
    """
    if config.extended:
        *before, start, planned = config.extended
        planned_rates = replace(config, extended=before), peak, planned
        if step < start:
            return learning_rate(step, *planned_rates)
        return learning_rate(start - 1, *planned_rates) * _half_cosine(step - start, total_steps - start)
    if step < config.warmup_steps:
        return peak * (step + 1) / config.warmup_steps
    if config.schedule == "constant":
        return peak
    return peak * _half_cosine(step - config.warmup_steps, total_steps - config.warmup_steps)


def _half_cosine(step: int, steps: int) -> float:
    """From 1 at the first step to 0 after the last."""
    return (1 + math.cos(math.pi * min(1.0, step / max(1, steps)))) / 2


def extend(config: TrainConfig, planned: int, done: int) -> list[str]:
    """Settle the rates of a run whose ``stage.steps`` were ``planned`` steps until now, of which it has ``done``.

    Returns a line with the rates of the last step and the next, or none where the schedule does not depend on the steps.
    """
    optimizer, steps = config.optimizer, config.stage.steps
    # In the warm-up the rate does not depend on the steps, and the cosine after it begins at the peak in any case.
    if steps in (planned, done) or steps < done or optimizer.schedule == "constant" or done <= optimizer.warmup_steps:
        return []
    peak = effective_lr(config)
    last = learning_rate(done - 1, optimizer, peak, planned)
    optimizer.extended = [*optimizer.extended, done, planned] if optimizer.on_extend == "continue" else []
    following = learning_rate(done, optimizer, peak, steps)
    words = {"last": last, "next": following, "done": done, "planned": planned, "steps": steps, "after": done + 1}
    spent = optimizer.on_extend == "continue" and last < SPENT * peak
    return [sentence("follows", "spent" if spent else optimizer.on_extend, peak=peak, **words)]
