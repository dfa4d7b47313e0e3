"""diffusers' solvers where clean latents fade on their way to noise, which diffusers has no word for.

Enters: the amplitudes of clean latents and noise at each timestep. Leaves: solvers that step by them.

With amplitudes c and n, whose squares add up to less than 1, noisy latents are smaller than the solvers take them to be.
Divided by their size ``s = sqrt(c^2 + n^2)`` they are latents of an ordinary schedule, one that leaves ``(c / s)^2`` of the
clean latents' variance; the noise in them is the same noise. So each step goes through latents of that size.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers import DDIMScheduler, UniPCMultistepScheduler
from torch import Tensor


class _Fading:
    alphas_cumprod: Tensor
    timesteps: Tensor
    sizes: Tensor
    """Of latents at each timestep, before they are divided by it."""

    def fade(self, of_clean: Tensor, of_noise: Tensor) -> None:
        """Step by these amplitudes at the 1000 timesteps; before timesteps are set."""
        self.sizes = torch.sqrt(of_clean**2 + of_noise**2)
        self.alphas_cumprod = (of_clean / self.sizes) ** 2

    def step(self, model_output: Tensor, timestep: Tensor, sample: Tensor, **options: Any) -> tuple[Tensor]:
        """One step of the solver, from latents and to latents as the network sees them."""
        later = self.timesteps[self.timesteps < timestep]
        # after the last step come clean latents or those of timestep 0, and both are of size 1
        after = later[0] if len(later) else 0
        options["return_dict"] = False
        there = super().step(model_output, timestep, sample / self.sizes[timestep], **options)[0]  # type: ignore[misc]
        return (there * self.sizes[after],)


class FadingDDIM(_Fading, DDIMScheduler):  # type: ignore[misc]
    """DDIM (Song et al. 2021)."""


class FadingUniPC(_Fading, UniPCMultistepScheduler):  # type: ignore[misc]
    """UniPC (Zhao et al. 2023); what it remembers of earlier steps is of latents divided by their size."""
