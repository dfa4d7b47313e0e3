"""Many measures of many clips: those that can be had are, and of the others one sentence says why not.

Enters: names of measures, and clips one by one with their references and prompts. Leaves: a ``Report`` of numbers by name,
with clip counts, the networks they rest on, and sentences. Nothing is replaced in silence, and one bad clip spoils no number.
It does not know how any number is worked out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np
import torch

from cinelora.errors import MetricError
from cinelora.metrics import reference, temporal
from cinelora.metrics.clips import Clip, OverClips

Builder = Callable[[], OverClips]

ALONE: dict[str, Builder] = {
    "tssim": temporal.TemporalSSIM,
    "tssim_warped": temporal.WarpedTSSIM,
    "warping_error": temporal.WarpingError,
    "motion": temporal.Motion,
    "flow_motion": temporal.FlowMotion,
    "shake": temporal.Shake,
    "flicker": temporal.Flicker,
    "temporal_flickering": temporal.TemporalFlickering,
}
"""Measures of one clip against itself, without weights."""
PAIRED: dict[str, Builder] = {"psnr": reference.PeakSignalToNoise, "ssim": reference.StructuralSimilarity}
"""Measures of a clip against a reference of its own, without weights."""


@dataclass(frozen=True)
class Report:
    """Numbers by name, the clips behind each, and sentences about what is missing or to be read with care."""

    numbers: dict[str, float]
    clips: dict[str, int]
    sentences: list[str]


@dataclass
class Suite:
    """Measures that were asked for by name; ``left_out`` says of the others why."""

    metrics: dict[str, OverClips]
    left_out: dict[str, str] = field(default_factory=dict)
    _troubles: list[str] = field(default_factory=list)
    _seen: int = 0

    @classmethod
    def of(cls, names: Iterable[str], **options: bool) -> Suite:
        """Build what can be built. Raises ``MetricError`` for a name that no measure has."""
        known = {**ALONE, **PAIRED}
        suite = cls({})
        for name in names:
            if name not in known:
                raise MetricError(f"no measure is called {name}; there are {', '.join(sorted(known))}")
            suite.metrics[name] = known[name](**options)
        return suite

    def add(self, clip: Clip, name: str = "") -> None:
        """Measure a clip in every way that it allows."""
        self._seen += 1
        called = name or f"clip {self._seen}"
        if trouble := clip.trouble():
            self._troubles.append(f"{called} {trouble}: it is left out")
            return
        for key, metric in self.metrics.items():
            if lack := metric.needs.lack(clip):
                self._troubles.append(f"{called} {lack}: it is left out of {key}")
            else:
                metric.update([clip])

    def report(self) -> Report:
        """The numbers so far, of all ranks; sentences about clips are this rank's own."""
        sentences = [f"{name}: {reason}" for name, reason in self.left_out.items()] + self._troubles
        numbers = {}
        for name, metric in self.metrics.items():
            try:
                numbers[name] = round(float(metric.compute()), 5)
            except MetricError as error:
                sentences.append(f"{name}: {error}")
        return Report(numbers, {name: int(self.metrics[name].clips) for name in numbers}, sentences)


def measure(names: list[str], video_THWC: np.ndarray) -> dict[str, float]:
    """The numbers that ``names`` ask for, of one clip (uint8), by this rank alone; a single frame has none in time."""
    if len(video_THWC) < 2:
        return {}
    suite = Suite.of(names, sync_on_compute=False)
    suite.add(Clip(torch.from_numpy(video_THWC).permute(0, 3, 1, 2).float() / 255))
    return suite.report().numbers
