"""Flow matching as Wan2.1 was trained with it, as pure tensor arithmetic.

Enters: clean latents, noise and a sigma in (0, 1). Leaves: noisy latents, the velocity to predict, the loss; and solvers.
It does not know which network predicts, nor how it is conditioned.

Shape suffixes: B batch, C channels, T latent frames, H and W latent height and width.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cinelora.config.schema import FlowConfig, SamplerConfig

NUM_TRAIN_TIMESTEPS = 1000
"""Wan gives the network ``1000 * sigma``."""


def keyed_generator(*key: int | str, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator whose stream depends on ``key`` alone, so that any rank, resumed or not, draws the same.

    A GPU's stream is another than the CPU's, the same on every GPU.
    """
    # A hash of the key is the seed, so that keys that look alike ((1, 23) and (12, 3)) have nothing in common. One bit
    # is dropped: the seed is then positive as a signed number of 64 bits too.
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest, "big") >> 1)


def resolution_shift(height: int, width: int) -> float:
    """Sigma shift for training at ``height x width`` pixels.

    The Wan authors advise 2 at 480x832 and more above (Wan2.1 issue 291). More pixels hide the same noise better; keeping
    the signal-to-noise ratio of a pixel average fixed asks for the square root of the pixel ratio (Esser et al. 2024,
    section 5.3.2). Never below 1, which is no shift.
    """
    return max(1.0, 2.0 * math.sqrt(height * width / (480 * 832)))


def shift_sigma(sigma: Tensor, shift: float) -> Tensor:
    """Move sigmas towards 1: ``shift * s / (1 + (shift - 1) * s)``."""
    return shift * sigma / (1 + (shift - 1) * sigma)


Levels = tuple[float, float]
"""A range of noise levels, from 0 (clean) to 1 (noise)."""
EVERY_LEVEL: Levels = (0.0, 1.0)


@dataclass(frozen=True)
class FlowMatching:
    """Rectified flow with logit-normal sigmas (Esser et al. 2024, equation 19) and a resolution shift."""

    shift: float
    sigma_mean: float = 0.0
    sigma_std: float = 1.0

    @classmethod
    def from_config(cls, config: FlowConfig, height: int, width: int) -> FlowMatching:
        """The flow for frames of ``height x width`` pixels; ``config.shift`` overrules the derived shift."""
        shift = resolution_shift(height, width) if config.shift is None else config.shift
        return cls(shift, config.sigma_mean, config.sigma_std)

    def sigmas(self, normal_B: Tensor, levels: Levels = EVERY_LEVEL) -> Tensor:
        """Sigmas inside ``levels`` of draws from the normal distribution: ``shift(sigmoid(mean + std * normal))``.

        Inside a part of the levels they are distributed as there among all levels.
        """
        if levels != EVERY_LEVEL:
            # what rounding moves past an end is put back
            return FlowMatching.sigmas(self, self._inside(normal_B, levels)).clamp(*levels)
        return shift_sigma(torch.sigmoid(self.sigma_mean + self.sigma_std * normal_B), self.shift)

    def _inside(self, normal_B: Tensor, levels: Levels) -> Tensor:
        """Draws of the normal distribution moved to where their sigmas lie inside ``levels``.

        By the inverse of the cumulative distribution: a draw that has the share p of the distribution below it goes to where
        the share p of what lies inside the levels is below it. So one draw a sample stays one, where drawing again until a
        level is inside would take as many as chance wants.
        """
        # in double precision: towards its tail the normal distribution's share is too close to 1 for float32
        low, high = (torch.special.ndtr(torch.tensor(self._normal_of(level), dtype=torch.float64)) for level in levels)
        share = low + (high - low) * torch.special.ndtr(normal_B.double())
        moved: Tensor = torch.special.ndtri(share).to(normal_B.dtype)
        return moved

    def _normal_of(self, sigma: float) -> float:
        """The draw whose sigma is ``sigma``: what ``sigmas`` does, backwards."""
        if sigma <= 0 or sigma >= 1:
            return math.copysign(math.inf, sigma - 0.5)
        unshifted = sigma / (self.shift - (self.shift - 1) * sigma)
        return (math.log(unshifted / (1 - unshifted)) - self.sigma_mean) / self.sigma_std

    @staticmethod
    def add_noise(clean: Tensor, noise: Tensor, sigma_B: Tensor) -> Tensor:
        """``(1 - sigma) * clean + sigma * noise``."""
        sigma = sigma_B.view(-1, *[1] * (clean.ndim - 1))
        return (1 - sigma) * clean + sigma * noise

    @staticmethod
    def timestep(sigma_B: Tensor) -> Tensor:
        """What the network is given as time."""
        return sigma_B * NUM_TRAIN_TIMESTEPS

    @staticmethod
    def target(clean: Tensor, noise: Tensor) -> Tensor:
        """What the network predicts: ``noise - clean``, the derivative of ``add_noise`` by sigma."""
        return noise - clean

    @staticmethod
    def solver(sampler: SamplerConfig, shift: float) -> Any:
        """A diffusers scheduler with its timesteps set, for one clip: a multistep one remembers the steps before.

        Sigmas fall linearly from 0.999 and are then shifted, as in Wan's own solvers; UniPC tells the network whole-numbered
        timesteps, also as they do.
        """
        from diffusers import (  # here: training has no use for them
            FlowMatchEulerDiscreteScheduler,
            UniPCMultistepScheduler,
        )

        if sampler.name == "unipc":
            flow = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": shift}
            solver: Any = UniPCMultistepScheduler(num_train_timesteps=NUM_TRAIN_TIMESTEPS, **flow)
            solver.set_timesteps(sampler.steps)
            return solver
        solver = FlowMatchEulerDiscreteScheduler(num_train_timesteps=NUM_TRAIN_TIMESTEPS, shift=shift)
        # the last sigma, 0, is the end of the last step: the solver adds it by itself
        solver.set_timesteps(sigmas=np.linspace(1 - 1 / NUM_TRAIN_TIMESTEPS, 0, sampler.steps + 1)[:-1].tolist())
        return solver

    @staticmethod
    def loss(predicted: Tensor, target: Tensor, counts: Tensor | None = None) -> Tensor:
        """Mean squared error of each sample in float32, shape (B,): of what ``counts`` (bool, broadcast to it), or all."""
        errors = (predicted.float() - target.float()).square()
        if counts is None:
            return errors.flatten(1).mean(1)
        counted = counts.expand_as(errors).flatten(1)
        return (errors.flatten(1) * counted).sum(1) / counted.sum(1)
