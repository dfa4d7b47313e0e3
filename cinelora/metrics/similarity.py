"""Whether frames show the same thing as each other, or as a text says: similarities of a network's features.

Enters: clips, and a network that looks at frames. Leaves: one number each, averaged over clips. It does not know which
network it is given; the name under which a number stands says so.

Shape suffixes: T frames, D features.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch.nn.functional as F
from torch import Tensor

from cinelora.metrics.clip_metric import Clip, Needs, OverClips, size_of
from cinelora.metrics.frechet import FrechetDistance
from cinelora.metrics.networks import FrameNetwork


class OfFrames(OverClips):
    """A measure of clips by what a network sees in their frames."""

    higher_is_better = True
    network: FrameNetwork

    def __init__(self, network: FrameNetwork, **options: Any) -> None:
        super().__init__(**options)
        self.network = network

    def unit(self, clip: Clip) -> Tensor:
        """Features of the frames (T, D), each of length one."""
        return F.normalize(self.network.of_frames(clip).double(), dim=1)


class AdjacentSimilarity(OfFrames):
    """CLIP-SIM, frame-frame: ``mean_t cos(E(I_t), E(I_t+1))``. -1 to 1, higher is steadier, frozen is 1.

    One of two things that papers call CLIP-SIM; with CLIP also called frame consistency. It hears changes of content, hardly
    any flicker. Source: Wu et al. 2023, Tune-A-Video; Esser et al. 2023, Gen-1.
    """

    needs = Needs(frames=2)

    def score(self, clip: Clip) -> Tensor:
        """Mean cosine of adjacent frames."""
        features = self.unit(clip)
        return (features[1:] * features[:-1]).sum(1).mean()


class Consistency(OfFrames):
    """VBench's consistency: ``mean_t>0 (max(0, cos(f_t, f_t-1)) + max(0, cos(f_t, f_0))) / 2``. 0 to 1, higher, frozen is 1.

    With DINO it is subject consistency, with CLIP background consistency: the networks differ, not the formula, and nothing is
    cut out of the picture. Camera moves lower it. Source: Huang et al. 2024, VBench.
    """

    needs = Needs(frames=2)

    def score(self, clip: Clip) -> Tensor:
        """Half of the likeness to the frame before, half of that to the first."""
        features = self.unit(clip)
        before = (features[1:] * features[:-1]).sum(1).clamp(min=0)
        first = (features[1:] * features[0]).sum(1).clamp(min=0)
        return (before + first).mean() / 2


class TextNetwork(FrameNetwork, Protocol):
    """Looks at single frames, and reads."""

    def of_text(self, prompt: str) -> Tensor:
        """Features (D) of a prompt."""


class TextSimilarity(OfFrames):
    """CLIP-SIM, text-frame: ``mean_t cos(E_text, E(I_t))``. -1 to 1, higher fits the text better; photographs have about 0.3.

    The mean cosine itself: neither times 100 nor cut off at 0, as torchmetrics' CLIPScore is. CLIP reads 77 tokens and counts
    badly. Source: Wu et al. 2021, GODIVA; Radford et al. 2021 for CLIP.
    """

    needs = Needs(prompt=True)
    network: TextNetwork

    def score(self, clip: Clip) -> Tensor:
        """Mean cosine of the frames with the prompt."""
        assert clip.prompt is not None
        return (self.unit(clip) @ F.normalize(self.network.of_text(clip.prompt).double(), dim=0)).mean()


class ClipNetwork(Protocol):
    """Looks at whole clips."""

    name: str
    NUM_FEATURES: int

    def of_clip(self, clip: Clip) -> Tensor:
        """Features (D) of a clip."""


class SetDistance(FrechetDistance):
    """``FrechetDistance`` of a set of clips to real ones, by a network: FVD with I3D, and a number of its own with another.

    0 upwards, lower is nearer. All clips should have one length and size, which are part of what is measured. Source of FVD:
    Unterthiner et al. 2018.
    """

    def __init__(self, network: ClipNetwork, frames: int = 1, side: int = 1, **options: Any) -> None:
        super().__init__(network.NUM_FEATURES, **options)
        self.network = network
        self.needs = Needs(frames=frames, side=side)
        self.size = ""

    def lack(self, clip: Clip) -> str | None:
        """Why a clip does not belong to the set, as the end of a sentence."""
        if lack := self.needs.lack(clip):
            return lack
        # The first clip sets the size of the set. A distance between clips of two sizes would measure the sizes.
        here = size_of(clip.frames_TCHW)
        self.size = self.size or here
        return None if here == self.size else f"is {here} and the set {self.size} (frames x height x width)"

    def add(self, clip: Clip, real: bool) -> None:
        """Take a clip into one of the two sets."""
        self.update(self.network.of_clip(clip)[None].to(self.real.device), real)

    def caution(self) -> str | None:
        """What to read beside the distance: whether there were clips enough for it to stand by itself; after ``compute``."""
        if min(self.counted.values()) > self.network.NUM_FEATURES:
            return None
        real, generated = self.counted["real"], self.counted["generated"]
        return (
            f"{real} real and {generated} generated clips span no covariance of {self.network.NUM_FEATURES} features: "
            "compare it at the same two counts alone"
        )
