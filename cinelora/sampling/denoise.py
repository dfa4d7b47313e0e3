"""The denoising loop: from noise to latents along a velocity.

Enters: noise, a ``Denoise`` that gives velocities, a solver of the family's noise law. Leaves: clean latents. Guidance and its
split over ranks are ``Denoise`` objects; the loop knows none of them, nor the caches between its steps.

Shape suffixes: B batch, C channels, T latent frames, H and W latent height and width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import WanTransformer3DModel
from torch import Tensor

from cinelora.families.conditioning import Conditioning
from cinelora.io.live_bar import LiveBar
from cinelora.parallel.launch import Rank
from cinelora.parallel.partition import Partition, combine_guidance, group_of
from cinelora.sampling.step_cache import WITH_PROMPT, WITHOUT

Denoise = Callable[[Tensor, Tensor], Tensor]
"""Velocity (B, C, T, H, W), float32, of noisy latents at a timestep (B,) of 1000 * sigma."""


@dataclass(frozen=True)
class Unguided:
    """The transformer's own velocity under one condition."""

    transformer: WanTransformer3DModel
    condition: Conditioning

    def __call__(self, latents_BCTHW: Tensor, timestep_B: Tensor) -> Tensor:
        """Predict once."""
        with self.transformer.cache_context(WITH_PROMPT):
            return self.condition.predict(self.transformer, latents_BCTHW, timestep_B)


@dataclass(frozen=True)
class Guided:
    """Classifier-free guidance ``u + scale * (c - u)`` (Ho and Salimans 2022), both halves in one batch or in turn."""

    transformer: WanTransformer3DModel
    positive: Conditioning
    negative: Conditioning
    scale: float
    together: bool = True

    def __call__(self, latents_BCTHW: Tensor, timestep_B: Tensor) -> Tensor:
        """Predict both halves."""
        # In turn, each half remembers its own last steps (``cache_context``): what a cache knows of one is nothing to the other.
        if not self.together:
            with self.transformer.cache_context(WITHOUT):
                without = self.negative.predict(self.transformer, latents_BCTHW, timestep_B)
            shown = Unguided(self.transformer, self.positive)(latents_BCTHW, timestep_B)
            return without + self.scale * (shown - without)
        pair = Unguided(self.transformer, self.negative.beside(self.positive))
        velocity = pair(latents_BCTHW.repeat(2, 1, 1, 1, 1), timestep_B.repeat(2))
        half = len(velocity) // 2
        guided: Tensor = velocity[:half] + self.scale * (velocity[half:] - velocity[:half])
        return guided


@dataclass(frozen=True)
class GuidedAcrossRanks:
    """The same guidance with each half computed by its own group of ranks."""

    transformer: WanTransformer3DModel
    positive: Conditioning
    negative: Conditioning
    scale: float
    plan: Partition
    rank: Rank

    def __call__(self, latents_BCTHW: Tensor, timestep_B: Tensor) -> Tensor:
        """Predict this group's half and exchange."""
        # Group 0 predicts with the prompt, group 1 without; each then has the other's half, and all ranks step alike.
        condition = (self.positive, self.negative)[group_of(self.plan, self.rank.global_rank)]
        velocity = Unguided(self.transformer, condition)(latents_BCTHW, timestep_B)
        return combine_guidance(velocity, self.scale, self.plan)


@torch.inference_mode()
def sample(denoise: Denoise, noise_BCTHW: Tensor, solver: Any, progress: str | None = None) -> Tensor:
    """Integrate from noise to latents, float32, by a ``solver`` of the clip's own; ``progress`` names the bar, if any."""
    latents = noise_BCTHW
    for timestep in LiveBar(solver.timesteps, desc=progress, unit="step", disable=progress is None):
        velocity = denoise(latents, timestep.to(latents.device).expand(len(latents)))
        latents = solver.step(velocity, timestep, latents, return_dict=False)[0]
    return latents
