"""What the numbers of a run say, in sentences: for whoever waits at the terminal, and for the adapter's card.

Enters: what ``summary.json`` holds. Leaves: one sentence each. It does not know how any number came about.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cinelora.config.schema import ADAPTER_STAGES

NO_CHANGE = 1e-4
"""A relative change of predictions that counts as none: a twentieth of what one rounding to bf16 does, 2^-9."""
NO_UPDATE = 1e-6
"""The same for the update alone, |scale B A| / |W|, which moves predictions by more than its own size."""


def heldout_line(result: Mapping[str, Any]) -> str:
    """The held-out loss, with the step it is of where that is not the last, or that there is none."""
    if result["heldout_step"] is None:
        return "held-out loss: not measured before the stop (validation.every_steps says when it is)"
    line = f"held-out loss {result['heldout_loss']:.4f}, {result['heldout_change']:+.1%} against the start"
    return line + at_step(result)


def stopped_line(early: Mapping[str, Any], result: Mapping[str, Any]) -> str:
    """Why a run ended before its last step."""
    if early["best"] is None:
        seen = f"{early['name']} was no number the {early['since']} times it was looked at"
        return f"stopped early, at step {result['step']} of {result['steps']}: {seen} (stopping.patience)"
    return (
        f"stopped early, at step {result['step']} of {result['steps']}: {early['name']} was best at step {early['step']} "
        f"({early['best']:.4g}) and not better the {early['since']} times after it (stopping.patience)"
    )


def effect_line(result: Mapping[str, Any]) -> str:
    """How much training changed, in words that a user cannot miss where it is nothing."""
    what = "the adapter" if result["stage"] in ADAPTER_STAGES else "training"
    update, moved, change = result["adapter_effect"], result.get("prediction_effect"), result.get("heldout_vs_base")
    if update == 0:
        return f"WARNING: {what} changed nothing: its update is exactly zero"
    if moved is None or change is None:
        if update < NO_UPDATE:
            return f"WARNING: {what} changed nothing: its update is {update:.1e} of the weights, below {NO_UPDATE:g}"
        return f"{what} moves its weights by {update:.2%}; what that does to predictions was not measured"
    if moved < NO_CHANGE:
        return f"WARNING: {what} changed nothing: predictions moved by {moved:.1e} of their size, below {NO_CHANGE:g}"
    against = f"held-out loss {change:+.1%} against the base"
    return f"{what} changes predictions by {moved:.1%}, {against}{at_step(result)}"


def at_step(result: Mapping[str, Any]) -> str:
    """After which step held-out samples were looked at, where that is not the last."""
    at = result.get("heldout_step")
    return "" if at in (None, result["step"]) else f", measured at step {at}"
