"""Many measures of many clips: those that can be had are, and of the others one sentence says why not.

Enters: names of measures, and clips one by one with their references and prompts. Leaves: a ``Report`` of numbers by name,
with clip counts, the networks they rest on, and sentences. Nothing is replaced in silence, and one bad clip spoils no number.
It does not know how any number is worked out.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from cinelora.config.schema import MetricsConfig
from cinelora.errors import MetricError
from cinelora.metrics import reference, similarity, temporal
from cinelora.metrics.clip_metric import Clip, OverClips
from cinelora.metrics.networks import I3d, Networks

Measure = OverClips | similarity.SetDistance
Builder = Callable[[Networks, dict[str, Any]], Measure]

ALONE: dict[str, Builder] = {
    "tssim": lambda _, options: temporal.TemporalSSIM(**options),
    "tssim_warped": lambda _, options: temporal.WarpedTSSIM(**options),
    "warping_error": lambda _, options: temporal.WarpingError(**options),
    "motion": lambda _, options: temporal.Motion(**options),
    "flow_motion": lambda _, options: temporal.FlowMotion(**options),
    "shake": lambda _, options: temporal.Shake(**options),
    "flicker": lambda _, options: temporal.Flicker(**options),
    "temporal_flickering": lambda _, options: temporal.TemporalFlickering(**options),
    "frames_scale": lambda networks, options: similarity.AdjacentSimilarity(networks.scale, **options),
    "consistency_scale": lambda networks, options: similarity.Consistency(networks.scale, **options),
    "clip_sim_frames": lambda networks, options: similarity.AdjacentSimilarity(networks.clip, **options),
    "clip_sim_text": lambda networks, options: similarity.TextSimilarity(networks.clip, **options),
    "subject_consistency": lambda networks, options: similarity.Consistency(networks.dino, **options),
    "background_consistency": lambda networks, options: similarity.Consistency(networks.clip, **options),
}
"""Measures of one clip, at most beside its prompt."""
PAIRED: dict[str, Builder] = {
    "psnr": lambda _, options: reference.PeakSignalToNoise(**options),
    "ssim": lambda _, options: reference.StructuralSimilarity(**options),
    "perceptual_scale": lambda networks, options: reference.PerceptualDistance(networks.scale, **options),
    "temporal_perceptual_scale": lambda networks, options: reference.TemporalPerceptualDistance(
        networks.scale, **options
    ),
    "lpips_alex": lambda networks, options: reference.PerceptualDistance(networks.alexnet, **options),
    "tlp_alex": lambda networks, options: reference.TemporalPerceptualDistance(networks.alexnet, **options),
}
"""Measures of a clip against a reference of its own."""
SETS: dict[str, Builder] = {
    "frechet_scale": lambda networks, options: similarity.SetDistance(networks.scale, side=16, **options),
    "fvd_i3d": lambda networks, options: similarity.SetDistance(networks.i3d, frames=I3d.FRAMES, **options),
}
"""Measures of a set of clips against a set of real ones."""
KNOWN = {**ALONE, **PAIRED, **SETS}
FROM_ELSEWHERE = {"clip", "subject", "background", "lpips", "tlp", "fvd"}
OFFLINE = [name for name in KNOWN if name.split("_")[0] not in FROM_ELSEWHERE]
"""The default: what can be had without a file from elsewhere."""
ELSEWHERE = {
    "lpro": "LPRO is defined nowhere as a measure of videos; tlp_alex is the nearest, offline temporal_perceptual_scale",
    "lpips": "LPIPS depends on its network: lpips_alex is the published one, perceptual_scale the embedded model's",
    "fvd": "FVD depends on its network: fvd_i3d is the published one, frechet_scale the embedded model's",
    "clip_sim": "two measures have that name: clip_sim_text compares frames with the prompt, clip_sim_frames adjacent frames",
    "clip_sim_text_scale": "the embedded model's text and image encoder share no space, as what joined them was not kept: "
    "clip_sim_text with CLIP compares frames with a prompt",
}
"""Names that people ask for, and what there is instead."""
MOST_SENTENCES = 20


@dataclass(frozen=True)
class Report:
    """Numbers by name, the clips behind each on all ranks, the networks used, and sentences to be read beside them."""

    numbers: dict[str, float]
    clips: dict[str, int]
    networks: dict[str, str]
    sentences: list[str]


@dataclass
class Suite:
    """Measures that were asked for by name; of those that cannot be had, ``left_out`` says why."""

    measures: dict[str, Measure]
    networks: Networks
    left_out: dict[str, str] = field(default_factory=dict)
    _troubles: list[str] = field(default_factory=list)
    _unsaid: int = 0
    _seen: int = 0
    _shapes: set[tuple[int, ...]] = field(default_factory=set)

    @classmethod
    def of(cls, names: Iterable[str], networks: Networks | None = None, **options: Any) -> Suite:
        """Build what can be built; ``options`` are every ``Metric``'s. Raises ``MetricError`` for an unknown name."""
        suite = cls({}, networks or Networks())
        for name in names:
            if name in ELSEWHERE:
                suite.left_out[name] = ELSEWHERE[name]
            elif name not in KNOWN:
                raise MetricError(f"no measure is called {name}; there are {', '.join(KNOWN)}")
            else:
                try:
                    suite.measures[name] = KNOWN[name](suite.networks, options)
                except MetricError as error:
                    suite.left_out[name] = str(error)
        return suite

    def add(self, clip: Clip, name: str = "") -> None:
        """Measure a clip in every way that it allows; ``name`` is what sentences call it."""
        self._seen += 1
        if self._measured(clip, name or f"clip {self._seen}", real=False):
            self._shapes.add(tuple(clip.frames_TCHW.shape))

    def add_real(self, clip: Clip, name: str = "") -> None:
        """Take a real clip into the set that generated ones are compared with."""
        self._measured(clip, name or "a real clip", real=True)

    def add_real_of(self, other: Suite) -> None:
        """Take the real clips of ``other``, whose sets have measured them, in place of this suite's own."""
        for name, measure in self.measures.items():
            theirs = other.measures.get(name)
            if isinstance(measure, similarity.SetDistance) and isinstance(theirs, similarity.SetDistance):
                measure.real, measure.size = theirs.real.clone(), theirs.size

    def _measured(self, clip: Clip, called: str, real: bool) -> bool:
        """Hand a clip to every measure that can use it, a real one to those of sets alone; whether it is a clip at all."""
        if trouble := clip.trouble():
            self._say(f"{called} {trouble}: it is left out")
            return False
        for key, measure in self.measures.items():
            if real and not isinstance(measure, similarity.SetDistance):
                continue
            if lack := measure.lack(clip):
                self._say(f"{called} {lack}: it is left out of {key}")
            elif isinstance(measure, similarity.SetDistance):
                measure.add(clip, real)
            else:
                measure.update([clip])
        return True

    def report(self) -> Report:
        """The numbers so far, of all ranks together; sentences about clips are this rank's own."""
        numbers, clips = {}, {}
        sentences = [f"{name} is left out: {reason}" for name, reason in self.left_out.items()]
        for name, measure in self.measures.items():
            # Every rank must ask for every number, in the same order: `compute` gathers from all of them, and waits for those
            # that never ask. So a rank without a clip asks too. torchmetrics warns of that, and the sentence below tells it.
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", UserWarning)
                    value = float(measure.compute())
            except MetricError as error:
                # The measure still holds the sums of all ranks; torchmetrics gives it back its own only after a number.
                measure.unsync(should_unsync=measure._is_synced)
                sentences.append(f"{name} is left out: {error}")
                continue
            numbers[name] = float(f"{value:.6g}")  # significant digits: a Fréchet distance may be of any size
            if isinstance(measure, similarity.SetDistance):
                clips[name] = measure.counted["generated"]
                sentences += [f"{name}: {caution}"] if (caution := measure.caution()) else []
            else:
                clips[name] = measure.counted
        if len(self._shapes) > 1:
            sentences.append(f"clips have {len(self._shapes)} lengths or sizes, over which every mean is taken")
        sentences += self._troubles
        if self._unsaid:
            sentences.append(f"{self._unsaid} more troubles like these")
        return Report(numbers, clips, self.networks.names(), sentences)

    def _say(self, sentence: str) -> None:
        if len(self._troubles) < MOST_SENTENCES:
            self._troubles.append(sentence)
        else:
            self._unsaid += 1


def measure(settings: MetricsConfig, video_THWC: np.ndarray, prompt: str | None = None) -> Report:
    """The numbers that ``settings`` name, of one clip (uint8), on the CPU and by this rank alone; a single frame has none."""
    if len(video_THWC) < 2:
        return Report({}, {}, {}, [])
    suite = Suite.of(settings.names, networks_of(settings), sync_on_compute=False)
    suite.add(as_clip(video_THWC, prompt=prompt))
    return suite.report()


def measured_alone(names: Iterable[str], clip: Clip, networks: Networks, called: str) -> Report:
    """The numbers of one clip by itself; ``called`` is what sentences call it. Raises as ``Suite.of``."""
    suite = Suite.of(names, networks, sync_on_compute=False)
    suite.add(clip, called)
    lacking, report = set(suite.left_out), suite.report()
    # Of a measure that this clip is not fit for, a suite of one says that no clip was measured. The sentence about the clip
    # says it better; only where the measure could not be had at all is there no such sentence.
    told = [one for one in report.sentences if "no clip was measured" not in one or one.split()[0] in lacking]
    return replace(report, sentences=told)


def networks_of(settings: MetricsConfig) -> Networks:
    """The networks that ``settings`` name, on the CPU; none is loaded before a measure asks for it."""
    return _networks(settings.clip, settings.dino, settings.alexnet, settings.i3d, settings.i3d_sha256)


@lru_cache(maxsize=1)
def _networks(*places: str | None) -> Networks:
    """Networks are loaded for the first of many clips, and stay out of a GPU that is at work."""
    return Networks(MetricsConfig([], *places), torch.device("cpu"))


def as_clip(
    video_THWC: np.ndarray | torch.Tensor,
    reference_THWC: np.ndarray | torch.Tensor | None = None,
    prompt: str | None = None,
) -> Clip:
    """A clip of uint8 frames (T, H, W, 3)."""

    def planes(video: np.ndarray | torch.Tensor) -> torch.Tensor:
        return torch.as_tensor(video).permute(0, 3, 1, 2).contiguous().float() / 255

    return Clip(planes(video_THWC), None if reference_THWC is None else planes(reference_THWC), prompt)
