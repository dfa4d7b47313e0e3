"""Many settings of one transformer, timed by turns: a round that is not counted, then as many as are asked for.

Enters: a transformer with adapters of every rank hung on it, what it is shown, settings. Leaves: a ``Timed`` for each. Settings
that differ in what is loaded (dtype, partition) are for the caller to tell apart. Where two experts make a clip, the first is
timed in all settings before the second is loaded, and the ``Timed`` carries each clip from the one to the other.
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

from cinelora.config.clip_request import Further, stage_and_expert
from cinelora.config.schema import SamplerConfig, StudyConfig
from cinelora.errors import ModelError
from cinelora.families.family import Expert
from cinelora.io.hardware import forget_peak_memory, out_of_memory, peak_memory_mib
from cinelora.nn.replayed import is_replayed
from cinelora.planning.estimate import Drawing
from cinelora.sampling.sampler import Sampling, Shown, acting
from cinelora.studies import variants
from cinelora.studies.variants import StudyVariant, hung, sampler_of


@dataclass
class Timed:
    """What is known of a setting: latents of every clip from the first round, and what the others took.

    ``parts`` are seconds of each transformer's rounds. ``waypoints`` are where each clip stands, of those that have begun.
    """

    latents: list[Tensor] = field(default_factory=list)
    waypoints: dict[int, dict[str, Tensor]] = field(default_factory=dict)
    parts: list[list[float]] = field(default_factory=list)
    whole: list[float] = field(default_factory=list)
    skipped: list[float] = field(default_factory=list)
    peak_mib: float = 0.0
    ratios: list[float] = field(default_factory=list)
    trouble: str | None = None
    compiled: bool = False
    swap: int = 0

    @property
    def seconds(self) -> list[float]:
        """Seconds of a clip's denoising, round by round, by all transformers that take part."""
        return [sum(took) for took in zip(*self.parts, strict=False)]

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
        # A UNet has no row of blocks that a cache could skip: what is computed of it is the whole.
        watch, last, begun = cls(), [transformer, *getattr(transformer, "blocks", ())][-1], [0.0]
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
    """A transformer on which settings are timed: the only one, or an ``expert``."""

    config: StudyConfig
    expert: Expert
    transformer: WanTransformer3DModel
    sampling: Sampling
    drawing: Drawing
    shown: list[Shown]
    kinds: list[str]
    further: Mapping[str, Further]

    def run(self, found: dict[StudyVariant, Timed], names: dict[StudyVariant, str]) -> None:
        """Time all settings that are ``found``, by turns; one that runs out of memory says so, and the others go on."""
        ordered = sorted(found, key=lambda setting: str(self.adapters(setting)))
        begins = {setting: dict(timed.waypoints) for setting, timed in found.items()}
        for timed in found.values():
            timed.parts.append([])
        with Predictions.of(self.transformer) as watch:
            for number in range(self.config.repetitions + 1):
                # every other round runs backwards: what grows warm, or slow, does so for all alike
                turn = ordered if number % 2 == 0 else ordered[::-1]
                for (scales, live), group in groupby(turn, key=self.adapters):
                    with acting(self.transformer, dict(scales), live, again=True):
                        for setting in group:
                            self.once(setting, found[setting], begins[setting], watch, number, names[setting])

    def adapters(self, setting: StudyVariant) -> tuple[tuple[tuple[str, float], ...], bool]:
        """Which adapters act at what scale, and whether beside the weights; fetched weights cannot hold any."""

        def takes_part(kind: str) -> bool:
            return setting.only in ("", stage_and_expert(kind)[0])

        scales = tuple(
            (hung(kind, setting.rank), setting.scale) for kind in self.kinds if setting.scale and takes_part(kind)
        )
        beside = variants.acting(setting, self.config, self.further).items()
        scales += tuple((name, setting.scale * one.clip) for name, one in beside if one.clip and self.is_for(one))
        return scales, bool(self.drawing.swap) or not setting.merged

    def is_for(self, adapter: Further) -> bool:
        """Whether an adapter of ``adapters=`` acts on this transformer."""
        return adapter.expert in ("", self.expert.name)

    def once(
        self,
        setting: StudyVariant,
        timed: Timed,
        begins: dict[int, dict[str, Tensor]],
        watch: Predictions,
        number: int,
        name: str,
    ) -> None:
        """One round of one setting; the first, number 0, is not timed but draws what is looked at."""
        if timed.trouble:
            return
        # The first round warms up: kernels are chosen, blocks compiled, and magcache's ratios measured on one clip, where nobody
        # gave any. All clips are drawn in it, to be looked at; rounds that are timed draw the first one again.
        sampler, warms_up = sampler_of(setting, self.config, timed.ratios, self.further), number == 0
        try:
            if sampler.cache == "magcache" and not self.config.sampler.cache_ratios:
                if warms_up:
                    timed.ratios += self.measured(sampler, begins.get(0), name)
                # those of steps that are another expert's are not asked for
                ahead = [1.0] * (sampler.steps - len(timed.ratios))
                sampler = replace(sampler, cache_ratios=[*timed.ratios, *ahead])
            if warms_up and self.config.latency_only:
                sampler = replace(sampler, cache="none", cache_threshold=None)
            sampling = replace(self.sampling, sampler=sampler)
            shown = self.shown[: None if warms_up else 1]
            self.capture_again(sampling, name)
            courses = [sampling.begin(one, begins.get(clip)) for clip, one in enumerate(shown)]
            forget_peak_memory()
            watch.took.clear()
            synchronize()
            begun = time.perf_counter()
            for course, one in zip(courses, shown, strict=True):
                label, most = f"{name}, round {number}", 1 if warms_up and self.config.latency_only else None
                sampling.go_on(course, self.transformer, one, label, self.drawing.together, self.expert, most)
        except torch.OutOfMemoryError as error:
            timed.trouble = out_of_memory()
            if self.sampling.rank.world_size > 1:  # the others wait for this rank inside the clip
                why = f"{name}: {timed.trouble}, on several ranks at once: leave that setting away"
                raise ModelError(why) from error
            torch.cuda.empty_cache()
            return
        synchronize()
        took = time.perf_counter() - begun
        for clip, course in enumerate(courses):
            # where lower noise is another expert's, clips wait for it on the host, however many settings there are
            if self.expert.levels[0] > 0 and not (warms_up and self.config.latency_only):
                timed.waypoints[clip] = course.waypoint()
        if warms_up:
            pairs = zip(courses, shown, strict=True)
            timed.latents = [sampling.settled(course, one).cpu() for course, one in pairs if not course.ahead()]
            return
        timed.parts[-1].append(took)
        timed.whole += [seconds for seconds, computed in watch.took if computed]
        timed.skipped += [seconds for seconds, computed in watch.took if not computed]
        peak = peak_memory_mib()
        timed.peak_mib = max(timed.peak_mib, peak.get("gpu", peak["host"]))

    def capture_again(self, sampling: Sampling, name: str) -> None:
        """Take a step that is not timed where steps alone are: after a change of adapters the first one captures its graph."""
        if self.config.latency_only and is_replayed(self.transformer):
            one = self.shown[0]
            sampling.go_on(sampling.begin(one), self.transformer, one, name, self.drawing.together, self.expert, most=1)

    def measured(self, sampler: SamplerConfig, begins: dict[str, Tensor] | None, name: str) -> list[float]:
        """Magcache's ratios of the steps of this transformer, of the first clip."""
        sampling = replace(self.sampling, sampler=replace(sampler, cache="calibrate", cache_threshold=None))
        course = sampling.begin(self.shown[0], begins)
        sampling.go_on(course, self.transformer, self.shown[0], name, self.drawing.together, self.expert)
        return course.ratios


def synchronize() -> None:
    """Wait for the GPU, where there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
