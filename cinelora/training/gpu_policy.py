"""What this rank's GPU allows: the memory policy, the attention it is asked for, and the way out where memory ran out.

Enters: settings. Leaves: a policy that fits, or one sentence that names the next setting to try.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from cinelora.adapters.run_directory import RunDirectory
from cinelora.config.schema import TrainConfig, zero_level
from cinelora.errors import TrainingError
from cinelora.families import family_of
from cinelora.io.hardware import explained_out_of_memory, gpu_at_hand, limit_gpu_memory
from cinelora.nn.attention_backend import Work
from cinelora.parallel.partition import share_samples
from cinelora.planning.estimate import Policy, Shape, leaner
from cinelora.planning.planner import choose_policy
from cinelora.training.checkpoint_files import saved_checkpoints

if TYPE_CHECKING:
    from lightning import Trainer


def policy_at_hand(config: TrainConfig) -> tuple[Policy, str]:
    """The memory policy for the GPU of this rank, and why; from here on the process keeps to ``memory.limit_gib``.

    Raises ``ConfigError`` where none fits.
    """
    limit_gpu_memory(config.memory.limit_gib)
    return choose_policy(config, gpu_at_hand()[1])


def attention_work(config: TrainConfig) -> Work:
    """The attention of one sample of a training step."""
    model, plan = config.model, share_samples(config)
    tokens = family_of(model).geometry.num_tokens(config.stage.num_frames, model.height, model.width)
    return Work.of(model, config.stage.transformer, tokens, backward=True, ring=plan.ring, ulysses=plan.ulysses)


def explained(config: TrainConfig, policy: Policy, run: RunDirectory, trainer: Trainer) -> AbstractContextManager[None]:
    """Turn running out of GPU memory into the step, the peak, and the next setting to try."""

    def advice() -> tuple[str, str]:
        tip = leaner_setting(config, policy) or "a smaller size or fewer frames"
        again = "the last checkpoint is kept: resume it" if saved_checkpoints(run.checkpoints) else "start again"
        return f"in step {trainer.global_step + 1}, ", f"{again} with {tip}"

    return explained_out_of_memory(TrainingError, advice)


def leaner_setting(config: TrainConfig, policy: Policy) -> str | None:
    """What takes less than ``policy``, or None where there is nothing."""
    # What is leaner for one GPU is to swap weights to the host. Where ranks share the frozen weights they are never whole on one,
    # so there the pieces themselves can lie on the host, unless they do already.
    next_one = leaner(policy, Shape.of(config.model, config.stage.transformer))
    if next_one == "swap" and zero_level(config.strategy) == 3:
        return None if config.strategy.cpu_offload else "strategy.cpu_offload=true"
    return next_one and f"memory={next_one}"
