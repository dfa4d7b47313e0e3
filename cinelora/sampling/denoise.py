"""The denoising loop: from noise to latents along a velocity.

Enters: noise, a ``Denoise`` that gives velocities, a solver of the family's noise law. Leaves: clean latents. Guidance and its
split over ranks are ``Denoise`` objects; the loop knows none of them, nor the caches between its steps.

Shape suffixes: B batch, C channels, T latent frames, H and W latent height and width.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from cinelora.families.conditioning import Conditioning
from cinelora.io.live_bar import LiveBar
from cinelora.parallel.launch import Rank
from cinelora.parallel.partition import Partition, combine_guidance, group_of
from cinelora.sampling.step_cache import WITH_PROMPT, WITHOUT

Denoise = Callable[[Tensor, Tensor], Tensor]
"""Velocity (B, C, T, H, W), float32, of noisy latents at a timestep (B,) of 1000 * sigma."""


def remembering(transformer: nn.Module, half: str) -> AbstractContextManager[None]:
    """Inside the block caches between steps are those of one half of guidance; networks without caches have none."""
    if not hasattr(transformer, "cache_context"):
        return nullcontext()
    caching: Any = transformer
    context: AbstractContextManager[None] = caching.cache_context(half)
    return context


@dataclass(frozen=True)
class Unguided:
    """The transformer's own velocity under one condition."""

    transformer: nn.Module
    condition: Conditioning

    def __call__(self, latents_BCTHW: Tensor, timestep_B: Tensor) -> Tensor:
        """Predict once."""
        with remembering(self.transformer, WITH_PROMPT):
            return self.condition.predict(self.transformer, latents_BCTHW, timestep_B)


@dataclass(frozen=True)
class Guided:
    """Classifier-free guidance ``u + scale * (c - u)`` (Ho and Salimans 2022), both halves in one batch or in turn."""

    transformer: nn.Module
    positive: Conditioning
    negative: Conditioning
    scale: float
    together: bool = True

    def __call__(self, latents_BCTHW: Tensor, timestep_B: Tensor) -> Tensor:
        """Predict both halves."""
        # In turn, each half remembers its own last steps (``cache_context``): what a cache knows of one is nothing to the other.
        if not self.together:
            with remembering(self.transformer, WITHOUT):
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

    transformer: nn.Module
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


_OF_STEPS, _LAST, _NUMBERS = (
    ("model_outputs", "timestep_list"),
    "last_sample",
    ("lower_order_nums", "this_order", "_step_index"),
)
"""What a solver of diffusers knows of the steps before: of several steps, of the last one, and numbers; Euler's has the last."""


@dataclass
class Course:
    """A clip on its way from noise to latents: where it stands, and the ``solver`` of its own that leads it.

    Where two experts share the noise levels, both go a part of one course: a multistep solver that started again at the change
    would forget the steps before it, and draw another clip. ``ratios`` are those that a cache between steps measured.
    """

    latents_BCTHW: Tensor
    solver: Any
    done: int = 0
    ratios: list[float] = field(default_factory=list)

    def ahead(self, levels: tuple[float, float] = (0.0, 1.0)) -> int:
        """Steps that are left inside a range of noise levels, of which the upper end is the noisy one and is not asked."""
        times = self.solver.timesteps[self.done :]
        return int((times >= levels[0] * self.solver.config.num_train_timesteps).sum())

    def waypoint(self) -> dict[str, Tensor]:
        """Everything that the rest of the course rests on, on the host; ``at`` continues from it."""
        solver = vars(self.solver)
        found: dict[str, Any] = {"latents": self.latents_BCTHW, "done": self.done, _LAST: solver.get(_LAST)}
        found |= {name: solver.get(name) for name in _NUMBERS}
        found |= {f"{name}.{i}": one for name in _OF_STEPS for i, one in enumerate(solver.get(name, ()))}
        there = {name: torch.as_tensor(one) for name, one in found.items() if one is not None}
        # in double precision a number is the same when it comes back
        return {name: one.cpu() for name, one in there.items()} | {
            "ratios": torch.tensor(self.ratios, dtype=torch.float64)
        }

    def at(self, waypoint: dict[str, Tensor]) -> Course:
        """This course, which has a fresh solver, where another one with the same settings stood."""

        def there(name: str) -> Tensor | None:
            # a timestep, which is no clip, stays on the host, as the solver's own are
            tensor = waypoint.get(name)
            return tensor.to(self.latents_BCTHW.device) if tensor is not None and tensor.ndim else tensor

        solver, latents = self.solver, there("latents")
        assert latents is not None
        for name in _OF_STEPS:
            if hasattr(solver, name):
                setattr(solver, name, [there(f"{name}.{i}") for i in range(len(getattr(solver, name)))])
        for name in _NUMBERS:
            if name in waypoint:
                setattr(solver, name, int(waypoint[name]))
        solver.last_sample = there(_LAST)
        return Course(latents, solver, int(waypoint["done"]), waypoint["ratios"].tolist())

    @torch.inference_mode()
    def go(self, denoise: Denoise, steps: int, progress: str | None = None) -> None:
        """Take so many steps; ``progress`` names the bar, if any."""
        times = self.solver.timesteps[self.done : self.done + steps]
        for timestep in LiveBar(times, desc=progress, unit="step", disable=progress is None):
            latents = self.latents_BCTHW
            velocity = denoise(latents, timestep.to(latents.device).expand(len(latents)))
            self.latents_BCTHW = self.solver.step(velocity, timestep, latents, return_dict=False)[0]
            self.done += 1

    def begin_at(
        self, level: float, add_noise: Callable[[Tensor, Tensor, Tensor], Tensor], clean_BCTHW: Tensor
    ) -> None:
        """Skip the steps above a noise level: start from clean latents with the noise of the first step below it."""
        self.done = self.ahead((level, 1.0))
        sigma = self.solver.sigmas[self.done].to(clean_BCTHW).expand(len(clean_BCTHW))
        self.latents_BCTHW = add_noise(clean_BCTHW, self.latents_BCTHW, sigma)

    @torch.inference_mode()
    def clean(self, denoise: Denoise) -> Tensor:
        """What is predicted, from where the course stands, of the latents without noise."""
        latents = self.latents_BCTHW
        if self.done == len(self.solver.timesteps):  # of few steps all may be above the other expert's levels
            return latents
        sigma, timestep = (
            values[self.done].to(latents.device) for values in (self.solver.sigmas, self.solver.timesteps)
        )
        clean: Tensor = latents - sigma * denoise(latents, timestep.expand(len(latents)))
        return clean


def sample(denoise: Denoise, noise_BCTHW: Tensor, solver: Any, progress: str | None = None) -> Tensor:
    """Integrate from noise to latents, float32, by a ``solver`` of the clip's own; ``progress`` names the bar, if any."""
    course = Course(noise_BCTHW, solver)
    course.go(denoise, course.ahead(), progress)
    return course.latents_BCTHW
