"""Step caches: predictions that reuse the last ones' work where little changes from step to step, as diffusers has them.

Enters: a transformer and what the settings say of its cache. Leaves: the same transformer, which skips blocks inside the
block of ``cached`` and is as before after it. What is skipped is decided again for each clip, and for each half of guidance
that runs by itself; ranks that share a sequence decide alike, by all of its tokens. It does not know how blocks are
computed: compiled or swapped ones are skipped as any.

A threshold of 0 never skips, and then nothing changes but what is remembered:

- ``first_block`` (ParaAttention's, after TeaCache, arXiv 2411.19108): blocks 1 to n - 1 are skipped where block 0's residual
  has changed by less than the threshold, relative to what it was when all ran; their joint residual is added instead.
- ``taylorseer`` (arXiv 2503.06923), by the output alone: after three whole steps, some are extrapolated after each whole
  one, along the line through the last two.
- ``magcache`` (Ma et al. 2025, arXiv 2506.09045): all blocks are skipped while the error that is estimated by ``cache_ratios``
  adds up to less than the threshold, at most three steps in a row and none in the first fifth. The ratios, of the blocks'
  joint residual to that of the step before, belong to a model; ``calibrate`` skips nothing and measures them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from diffusers import FirstBlockCacheConfig, MagCacheConfig, TaylorSeerCacheConfig, WanTransformer3DModel
from diffusers.hooks.first_block_cache import _FBC_LEADER_BLOCK_HOOK
from diffusers.hooks.mag_cache import _MAG_CACHE_BLOCK_HOOK, nearest_interp
from torch import Tensor

from cinelora.config.schema import CACHE_THRESHOLDS, SamplerConfig
from cinelora.parallel.sequence_parallel import Sharing, sharing_of

WITH_PROMPT, WITHOUT = "cond", "uncond"
"""What the halves of guidance are called where each remembers its own steps; a pair in one batch remembers as the first."""


@contextmanager
def cached(transformer: WanTransformer3DModel, sampler: SamplerConfig, steps: range) -> Iterator[list[float]]:
    """Inside the block ``transformer`` takes the ``steps`` of one clip with ``sampler``'s cache.

    ``calibrate`` fills in the list at its end.
    """
    ratios: list[float] = []
    config = _hooks(sampler, steps)
    if config is None:
        yield ratios
        return
    transformer.enable_cache(config)
    if sharing := sharing_of(transformer):
        _judge_together(transformer, sampler.cache, sharing)
    try:
        yield ratios
        if sampler.cache == "calibrate":
            ratios += _measured(transformer)
    finally:
        transformer.disable_cache()


def threshold_of(sampler: SamplerConfig) -> float:
    """The threshold as asked, or the cache's own."""
    return CACHE_THRESHOLDS[sampler.cache] if sampler.cache_threshold is None else sampler.cache_threshold


def _hooks(sampler: SamplerConfig, steps: range) -> Any:
    """What diffusers calls the cache; None for none."""
    if sampler.cache == "none":
        return None
    if sampler.cache == "calibrate":
        # at the end of the last step the hooks would print the ratios and forget them: there is one more
        return MagCacheConfig(calibrate=True, num_inference_steps=len(steps) + 1)
    threshold = threshold_of(sampler)
    if sampler.cache == "first_block":
        return FirstBlockCacheConfig(threshold)
    if sampler.cache == "taylorseer":
        # every attention's output, its default, would be kept twice: 50 GB at 14B; the default's names match none of Wan's
        return TaylorSeerCacheConfig(int(threshold) + 1, taylor_factors_dtype=torch.float32, use_lite_mode=True)
    if threshold == 0:
        return None  # an estimated error of exactly 0 would be skipped
    # Ratios are of a whole clip. Those of another number of steps are spread over this one's, by the nearest, and then the steps
    # of this transformer are cut out.
    ratios = nearest_interp(torch.tensor(sampler.cache_ratios), sampler.steps)[steps.start : steps.stop]
    return MagCacheConfig(threshold, num_inference_steps=len(steps), mag_ratios=ratios)


def _judge_together(transformer: WanTransformer3DModel, cache: str, sharing: Sharing) -> None:
    """Let what a cache decides or measures rest on the whole sequence, where diffusers looks at this rank's tokens."""
    hooks = transformer.blocks[0 if cache == "first_block" else -1]._diffusers_hook
    if cache == "first_block":
        head = hooks.get_hook(_FBC_LEADER_BLOCK_HOOK)
        head._should_compute_remaining_blocks = partial(_has_changed, head, sharing)
    elif cache == "calibrate":
        hooks.get_hook(_MAG_CACHE_BLOCK_HOOK)._perform_calibration_step = partial(_calibrate, sharing)


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _has_changed(head: Any, sharing: Sharing, residual_BND: Tensor) -> bool:
    """What ``FBCHeadBlockHook`` asks, of all tokens."""
    before = head.state_manager.get_state().head_block_residual
    if before is None:
        return True
    change, size = (sharing.mean(values.abs().float().mean(-1)) for values in (residual_BND - before, before))
    return bool(change / size > head.threshold)


def _calibrate(sharing: Sharing, state: Any, residual_BND: Tensor) -> None:
    """What ``MagCacheBlockHook`` notes, of all tokens."""
    ratio = 1.0
    if state.previous_residual is not None:
        now, before = (values.float().norm(dim=-1) for values in (residual_BND, state.previous_residual))
        ratio = sharing.mean(now / (before + 1e-8))
    state.calibration_ratios.append(ratio)


def _measured(transformer: WanTransformer3DModel) -> list[float]:
    """The ratios of the steps so far; of guidance in turn, the prompt's half's."""
    states = transformer.blocks[-1]._diffusers_hook.get_hook(_MAG_CACHE_BLOCK_HOOK).state_manager._state_cache
    return [float(f"{ratio:.5g}") for ratio in states[WITH_PROMPT].calibration_ratios]
