"""Diffusion by a schedule of betas, as networks of Stable Diffusion's line were trained with it, as pure tensor arithmetic.

Enters: clean latents, noise and a noise level in (0, 1). Leaves: noisy latents, the noise to predict, the loss; and solvers.
It has the methods of ``flow_matching.FlowMatching``. Which schedule a network has, its family says: two of one model may differ.

Shape suffixes: B batch, C channels, T latent frames, H and W latent height and width.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from cinelora.config.schema import FlowConfig, SamplerConfig
from cinelora.nn.flow_matching import EVERY_LEVEL, NUM_TRAIN_TIMESTEPS, FlowMatching, Levels

FIRST_BETA, LAST_BETA = 0.00085, 0.012
FADED = 399
"""The timestep at which clean latents have faded as far as they do, in a law where they fade."""


@lru_cache
def alpha_bars(schedule: str, device: torch.device | str = "cpu") -> Tensor:
    """The share of the clean latents' variance that is left at each of the 1000 timesteps, float32; ascending in noise.

    ``linear``: betas rise linearly. ``scaled_linear``: their roots do, so that less noise is added on the way.
    """
    power = 1 if schedule == "linear" else 2
    first, last = FIRST_BETA ** (1 / power), LAST_BETA ** (1 / power)
    betas = torch.linspace(first, last, NUM_TRAIN_TIMESTEPS, dtype=torch.float64) ** power
    left: Tensor = (1 - betas).cumprod(0).float().to(device)
    return left


@dataclass(frozen=True)
class Epsilon:
    """The law of a network that predicts the noise (Ho et al. 2020), by a ``schedule`` of betas: linear, scaled_linear.

    A noise level is a place among the timesteps: the level l is timestep ``floor(1000 l)``. So a range of levels means to every
    law the part of the timesteps that a network is used at.

    ``fading``: the factor of clean latents at late timesteps, 0.7 for VideoCrafter2 (Chen et al. 2024); it falls linearly from 1
    at timestep 0 to this at ``FADED``. ``ends_clean``: whether a solver goes to latents without noise, or to timestep 0.
    """

    schedule: str
    fading: float = 1.0
    ends_clean: bool = True

    def from_config(self, config: FlowConfig, height: int, width: int) -> Epsilon:
        """The law itself: no setting and no size of picture moves its levels."""
        return self

    @staticmethod
    def sigmas(normal_B: Tensor, levels: Levels = EVERY_LEVEL) -> Tensor:
        """Noise levels of draws from the normal distribution: uniform inside ``levels``, by the share of it below each draw."""
        low, high = levels
        share_B = torch.special.ndtr(normal_B.double())
        # a share of 1, which rounding makes of a far draw, would be the timestep after the last
        levels_B: Tensor = (low + (high - low) * share_B).clamp(max=high * (1 - 1e-6)).to(normal_B.dtype)
        return levels_B

    @staticmethod
    def timestep(level_B: Tensor) -> Tensor:
        """What the network is given as time, int64 (B,): a whole number from 0 to 999."""
        return (level_B * NUM_TRAIN_TIMESTEPS).long().clamp(0, NUM_TRAIN_TIMESTEPS - 1)

    def amplitudes(self, timestep: Tensor) -> tuple[Tensor, Tensor]:
        """What clean latents and noise are multiplied with: ``k * sqrt(a)`` and ``sqrt(1 - a)``, a the timestep's alpha_bar.

        k is 1, or what is left of clean latents where these fade.
        """
        left = alpha_bars(self.schedule, timestep.device)[timestep]
        kept = 1 - (1 - self.fading) * (timestep / FADED).clamp(max=1)
        return kept * left.sqrt(), (1 - left).sqrt()

    def add_noise(self, clean: Tensor, noise: Tensor, level_B: Tensor) -> Tensor:
        """Clean latents and noise, each by its amplitude at the level's timestep."""
        ones = [1] * (clean.ndim - 1)
        of_clean, of_noise = (part.view(-1, *ones) for part in self.amplitudes(self.timestep(level_B).to(clean.device)))
        return of_clean * clean + of_noise * noise

    @staticmethod
    def target(clean: Tensor, noise: Tensor) -> Tensor:
        """What the network predicts: the noise."""
        return noise

    loss = staticmethod(FlowMatching.loss)

    def solver(self, sampler: SamplerConfig, shift: float) -> Any:
        """A diffusers scheduler with its timesteps set, for one clip, as AnimateDiff's authors set it; ``shift`` is unread.

        Timesteps are evenly spaced up from 1. ``euler`` is DDIM: the straight line of Euler's step, in latents of the noise's own
        variance (Song et al. 2021, section 4.3).
        """
        # here: training has no use for them
        from diffusers import DDIMScheduler, UniPCMultistepScheduler

        from cinelora.nn.fading_solvers import FadingDDIM, FadingUniPC

        betas = {"beta_schedule": self.schedule, "beta_start": FIRST_BETA, "beta_end": LAST_BETA}
        common: dict[str, Any] = {**betas, "num_train_timesteps": NUM_TRAIN_TIMESTEPS, "steps_offset": 1}
        common["timestep_spacing"] = "leading"
        fades = self.fading != 1
        if sampler.name == "euler":
            ddim: Any = FadingDDIM if fades else DDIMScheduler
            solver = ddim(**common, clip_sample=False, set_alpha_to_one=self.ends_clean)
        else:
            unipc: Any = FadingUniPC if fades else UniPCMultistepScheduler
            solver = unipc(**common, final_sigmas_type="zero" if self.ends_clean else "sigma_min")
        if fades:
            solver.fade(*self.amplitudes(torch.arange(NUM_TRAIN_TIMESTEPS)))
        solver.set_timesteps(sampler.steps)
        return solver
