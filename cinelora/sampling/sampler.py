"""One clip by one transformer: its adapters hung on and folded in, its noise, and the denoising of what it is shown.

Enters: a bundle, adapters, and what the clip is made from (``Shown``). Leaves: latents. The transformer is released at the end.
It does not know about files on disk other than adapters, nor of which clips a take is made; that is ``scene``'s.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from cinelora.adapters.adapter_file import AdapterFile
from cinelora.adapters.lora_layers import acting_in_words, load_adapter, merge, set_scales, unmerge
from cinelora.config.clip_request import guidance_of
from cinelora.config.schema import INT8, INT8_TOKENS, ModelConfig, SamplerConfig
from cinelora.errors import InferenceError
from cinelora.families import family_of
from cinelora.families.conditioning import Conditioning
from cinelora.families.family import ALONE, Expert, Use
from cinelora.families.machinery import machinery_of
from cinelora.families.model_bundle import Bundle
from cinelora.families.noise_law import law_of
from cinelora.io.terminal import say
from cinelora.nn.attention_backend import Work, choose, require, rounds
from cinelora.nn.flow_matching import keyed_generator
from cinelora.nn.int8_attention import Guard, guard_of, kernel_on, round_attention
from cinelora.parallel.launch import Rank
from cinelora.parallel.partition import Partition, partition
from cinelora.planning.estimate import Drawing, Policy
from cinelora.sampling.denoise import Course, Denoise, Guided, GuidedAcrossRanks, Unguided
from cinelora.sampling.step_cache import cached


@dataclass(frozen=True)
class Texts:
    """Embeddings (1, 512, D) of what to show and what to steer away from."""

    positive: Tensor
    negative: Tensor


@dataclass(frozen=True)
class Shown:
    """What a clip is made from; an I2V transformer is given its ``image``, batched, and ``noise`` is (1, 16, T, h, w)."""

    texts: Texts
    image: Any
    noise: Tensor
    network: str
    """The one that makes it."""


def initial_noise(seed: int, part: str, model: ModelConfig, num_frames: int, device: torch.device) -> Tensor:
    """Noise (1, 16, T, h, w) that depends on the seed and the part alone, never on rank or device."""
    size = family_of(model).geometry.latent_size(num_frames, model.height, model.width)
    return noise_of((1, *size), seed, part).to(device)


def noise_of(size: tuple[int, ...], seed: int, part: str) -> Tensor:
    """Noise on the CPU that depends on ``size``, the seed and the part alone."""
    return torch.randn(size, generator=keyed_generator(seed, part))


@contextmanager
def adapted_transformer(
    bundle: Bundle, adapters: dict[str, AdapterFile], sampling: Sampling, drawing: Drawing, num_frames: int
) -> Iterator[nn.Module]:
    """The bundle's transformer with ``adapters`` hung on it, split over the ranks, released at the end of the block.

    Its attention runs on the backend that is asked for or found fastest for ``num_frames``, which rank 0 prints.
    """
    work = sampling.attention_work(bundle.kind, num_frames)
    if sampling.model.attention == INT8:  # what cannot run here is refused before gigabytes are read
        require(INT8, work, bundle.device)
    transformer = bundle.load_transformer(on_host=drawing.swap, num_frames=num_frames)
    for name, adapter in adapters.items():
        load_adapter(transformer, name, adapter, sampling.model.name, changed_now=False)
    partition(transformer, sampling.plan)
    line = choose(transformer, work, sampling.model.attention) if Use.BACKENDS in bundle.family.uses else None
    if line and sampling.rank.global_rank == 0:
        say(line)
    if sampling.model.attention == INT8 and rounds(work):
        device = transformer.patch_embedding.weight.device
        round_attention(transformer, kernel_on(device), sampling.sampler.attention_guard == "exact")
    bundle.arrange(transformer, Policy(recompute=drawing.swap, swap=drawing.swap, compile=drawing.compile))
    try:
        yield transformer
    finally:
        # whoever calls still holds it, and so does a hook of its own: its weights are let go all the same
        transformer.to_empty(device="meta")
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


@contextmanager
def acting(transformer: nn.Module, scales: dict[str, float], live: bool, again: bool) -> Iterator[None]:
    """The adapters at their ``scales`` inside the block: folded into the frozen weights, or ``live`` beside them.

    Folded they cost nothing; where weights come and go with each block (swap) they cannot be. ``again``: the transformer
    is wanted with other scales later.
    """
    if live or not any(scales.values()):
        set_scales(transformer, scales, keep=again)
        yield
        return
    merge(transformer, scales, keep=again)
    yield
    if again:
        unmerge(transformer)


@dataclass(frozen=True)
class Sampling:
    """How latents are made from noise on this rank."""

    model: ModelConfig
    sampler: SamplerConfig
    plan: Partition
    rank: Rank

    def in_full(self, sampler: SamplerConfig) -> Sampling:
        """The same by another ``sampler``, without a cache between steps."""
        return replace(self, sampler=replace(sampler, cache="none"))

    def attention_work(self, kind: str, num_frames: int) -> Work:
        """The attention of one prediction by the ``t2v`` or ``i2v`` transformer."""
        tokens = family_of(self.model).geometry.num_tokens(num_frames, self.model.height, self.model.width)
        return Work.of(self.model, kind, tokens, ring=self.plan.ring, ulysses=self.plan.ulysses)

    def run(self, transformer: nn.Module, shown: Shown, label: str, together: bool) -> Tensor:
        """Latents (1, C, T, h, w) by one transformer."""
        course = self.begin(shown)
        self.go_on(course, transformer, shown, label, together)
        self.say_ratios(course, label)
        return self.settled(course, shown)

    def begin(self, shown: Shown, waypoint: dict[str, Tensor] | None = None) -> Course:
        """A clip's course, at its noise, or where one like it stood."""
        shift = self.model.sampling_shift if self.sampler.shift is None else self.sampler.shift
        law = law_of(family_of(self.model).network(shown.network))
        course = Course(shown.noise, law.solver(self.sampler, shift))
        return course.at(waypoint) if waypoint else course

    def go_on(
        self,
        course: Course,
        transformer: nn.Module,
        shown: Shown,
        label: str,
        together: bool,
        expert: Expert = ALONE,
        most: int | None = None,
    ) -> None:
        """Take the steps of ``course`` that lie in an expert's noise levels; a cache between steps starts again in each.

        ``most`` is how many at most. Raises ``InferenceError`` for latents that are not finite.
        """
        steps = min(course.ahead(expert.levels), course.ahead() if most is None else most)
        if not steps:
            return
        denoise = self.denoiser(transformer, shown, together, expert)
        if guard := guard_of(transformer):
            # one transformer may make the keyframe and then the clip: the still is too short to be rounded
            guard.rests = family_of(self.model).geometry.tokens_of(course.latents_BCTHW.shape) < INT8_TOKENS
            denoise = self.guarded(denoise, guard, course)
        with cached(transformer, self.sampler, range(course.done, course.done + steps)) as ratios:
            course.go(denoise, steps, label if self.rank.global_rank == 0 else None)
        course.ratios += ratios
        if guard:
            self.settle(guard, course)
        require_finite(course.latents_BCTHW, transformer, label)

    def guarded(self, denoise: Denoise, guard: Guard, course: Course) -> Denoise:
        """``denoise`` with exact attention in the steps at both ends of the course."""
        exact, last = self.sampler.exact_steps, len(course.solver.timesteps)

        def step(latents_BCTHW: Tensor, timestep_B: Tensor) -> Tensor:
            self.settle(guard, course)
            guard.exact_now = course.done < exact or course.done >= last - exact
            return denoise(latents_BCTHW, timestep_B)

        return step

    def settle(self, guard: Guard, course: Course) -> None:
        """After the first step of a transformer: agree with the other ranks, and say once what was measured."""
        if guard.settled or not guard.errors:
            return
        guard.settle(self.rank.world_size, course.latents_BCTHW.device)
        if self.rank.global_rank == 0:
            say(guard.line())

    def say_ratios(self, course: Course, label: str) -> None:
        """Print the ratios that ``sampler.cache=calibrate`` has measured, of all experts in one list."""
        if course.ratios and self.rank.global_rank == 0:
            say(f"{label}: sampler.cache=magcache sampler.cache_ratios={str(course.ratios).replace(' ', '')}")

    def settled(self, course: Course, shown: Shown) -> Tensor:
        """The latents of a course that has come to its end, with what was given of them in its place."""
        return self.conditions(shown)[0].settled(course.latents_BCTHW)

    def conditions(self, shown: Shown) -> tuple[Conditioning, Conditioning]:
        """What the halves of guidance are conditioned on, the prompt's first."""
        condition = machinery_of(self.model).condition
        return condition(shown.texts.positive, shown.image), condition(shown.texts.negative, shown.image)

    def denoiser(self, transformer: nn.Module, shown: Shown, together: bool, expert: Expert = ALONE) -> Denoise:
        """The ``Denoise`` that the settings ask for; a guidance of 1 needs no second half."""
        positive, negative = self.conditions(shown)
        guidance = guidance_of(self.sampler, expert)
        if guidance == 1:
            return Unguided(transformer, positive)
        if self.plan.groups == 2:
            return GuidedAcrossRanks(transformer, positive, negative, guidance, self.plan, self.rank)
        return Guided(transformer, positive, negative, guidance, together)


def require_finite(latents: Tensor, transformer: nn.Module, label: str) -> None:
    """Raise ``InferenceError``, naming the adapters that act, for latents that would be decoded to black or noise."""
    if bool(latents.isfinite().all()):
        return
    adapters = acting_in_words(transformer)
    cause = (
        f"the adapters that act are {adapters}: lower their scale= or leave them out"
        if adapters
        else ("no adapter acts: try model.dtype=fp32 or other weights")
    )
    raise InferenceError(f"{label}: the latents hold numbers that are not finite; {cause}")
