"""Many settings of one transformer, timed by turns: a round that is not counted, then as many as are asked for.

Enters: a transformer with adapters of every rank hung on it, what it is shown, settings. Leaves: a ``Timed`` for each. Settings
that differ in what is loaded (dtype, partition) are for the caller to tell apart.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any

import torch
from diffusers import WanTransformer3DModel
from torch import Tensor

from cinelora.config.clip_request import Further
from cinelora.config.schema import SamplerConfig, StudyConfig
from cinelora.errors import ModelError
from cinelora.io.hardware import forget_peak_memory, out_of_memory, peak_memory_mib
from cinelora.planning.estimate import Drawing
from cinelora.sampling.sampler import Sampling, Shown, acting
from cinelora.studies import variants
from cinelora.studies.variants import StudyVariant, hung, sampler_of


@dataclass
class Timed:
    """What is known of a setting: latents of every clip from the first round, and what the others took."""

    latents: list[Tensor] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    whole: list[float] = field(default_factory=list)
    skipped: list[float] = field(default_factory=list)
    peak_mib: float = 0.0
    ratios: list[float] = field(default_factory=list)
    trouble: str | None = None
    compiled: bool = False
    swap: int = 0

    @property
    def computed(self) -> float | None:
        """The share of predictions that ran every block."""
        count = len(self.whole) + len(self.skipped)
        return len(self.whole) / count if count else None


@dataclass
class Predictions:
    """Seconds of every prediction of a transformer, and whether its last block was computed."""

    took: list[tuple[float, bool]] = field(default_factory=list)
    computed: bool = False

    @classmethod
    @contextmanager
    def of(cls, transformer: WanTransformer3DModel) -> Iterator[Predictions]:
        """Watch inside the block; before a cache is laid over the blocks, so that it sees what the cache lets through."""
        watch, last, begun = cls(), transformer.blocks[-1], [0.0]
        forward = last.forward

        def computing(*inputs: Any, **named: Any) -> Any:
            watch.computed = True
            return forward(*inputs, **named)

        def before(*_: Any) -> None:
            synchronize()
            watch.computed, begun[0] = False, time.perf_counter()

        def after(*_: Any) -> None:
            synchronize()
            watch.took.append((time.perf_counter() - begun[0], watch.computed))

        # A GPU works on after its calls have returned, so the clock is read when it is idle. A cache lays its own forward over a
        # block's: what is put on the last block now is called only where the cache lets a prediction through to it.
        with transformer.register_forward_pre_hook(before), transformer.register_forward_hook(after):
            last.forward = computing
            try:
                yield watch
            finally:
                last.forward = forward


@dataclass(frozen=True)
class Bench:
    """A transformer on which settings are timed."""

    config: StudyConfig
    transformer: WanTransformer3DModel
    sampling: Sampling
    drawing: Drawing
    shown: list[Shown]
    kinds: list[str]
    further: Mapping[str, Further]

    def run(self, names: dict[StudyVariant, str]) -> dict[StudyVariant, Timed]:
        """Time all settings, by turns; one that runs out of memory says so, and the others go on."""
        ratios, compiled = self.config.sampler.cache_ratios, self.drawing.compile
        found = {setting: Timed(ratios=list(ratios), compiled=compiled, swap=self.drawing.swap) for setting in names}
        ordered = sorted(names, key=lambda setting: str(self.adapters(setting)))
        with Predictions.of(self.transformer) as watch:
            for number in range(self.config.repetitions + 1):
                # every other round runs backwards: what grows warm, or slow, does so for all alike
                turn = ordered if number % 2 == 0 else ordered[::-1]
                for (scales, live), group in groupby(turn, key=self.adapters):
                    with acting(self.transformer, dict(scales), live, again=True):
                        for setting in group:
                            self.once(setting, found[setting], watch, number, names[setting])
        return found

    def adapters(self, setting: StudyVariant) -> tuple[tuple[tuple[str, float], ...], bool]:
        """Which adapters act at what scale, and whether beside the weights; fetched weights cannot hold any."""
        scales = tuple((hung(kind, setting.rank), setting.scale) for kind in self.kinds if setting.scale)
        beside = variants.acting(setting, self.config, self.further).items()
        scales += tuple((name, setting.scale * one.clip) for name, one in beside if one.clip)
        return scales, bool(self.drawing.swap) or not setting.merged

    def once(self, setting: StudyVariant, timed: Timed, watch: Predictions, number: int, name: str) -> None:
        """One round of one setting; the first, number 0, is not timed but draws what is looked at."""
        if timed.trouble:
            return
        # The first round warms up: kernels are chosen, blocks compiled, and magcache's ratios measured on one clip, where nobody
        # gave any. All clips are drawn in it, to be looked at; rounds that are timed draw the first one again.
        sampler = sampler_of(setting, self.config, timed.ratios, self.further)
        try:
            if number == 0 and sampler.cache == "magcache" and not timed.ratios:
                calibrating = replace(sampler, cache="calibrate", cache_threshold=None)
                _, timed.ratios = self.draw(calibrating, self.shown[0], name)
                sampler = replace(sampler, cache_ratios=timed.ratios)
            if number == 0 and self.config.latency_only:
                sampler = replace(sampler, steps=1, cache="none", cache_threshold=None)
            forget_peak_memory()
            watch.took.clear()
            synchronize()
            begun = time.perf_counter()
            clips = self.shown[:1] if number else self.shown
            drawn = [self.draw(sampler, shown, f"{name}, round {number}")[0] for shown in clips]
        except torch.OutOfMemoryError as error:
            timed.trouble = out_of_memory()
            if self.sampling.rank.world_size > 1:  # the others wait for this rank inside the clip
                why = f"{name}: {timed.trouble}, on several ranks at once: leave that setting away"
                raise ModelError(why) from error
            torch.cuda.empty_cache()
            return
        synchronize()
        if number == 0:
            timed.latents = [latents.cpu() for latents in drawn]
            return
        timed.seconds.append(time.perf_counter() - begun)
        timed.whole += [seconds for seconds, computed in watch.took if computed]
        timed.skipped += [seconds for seconds, computed in watch.took if not computed]
        peak = peak_memory_mib()
        timed.peak_mib = max(timed.peak_mib, peak.get("gpu", peak["host"]))

    def draw(self, sampler: SamplerConfig, shown: Shown, label: str) -> tuple[Tensor, list[float]]:
        """Latents of one clip, and ratios where they are measured."""
        sampling = replace(self.sampling, sampler=sampler)
        return sampling.draw(self.transformer, shown, label, self.drawing.together)


def synchronize() -> None:
    """Wait for the GPU, where there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
