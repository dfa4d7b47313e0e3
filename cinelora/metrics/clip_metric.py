"""A clip to be measured, and the mean of a number over clips: what every measure of single clips or pairs is made of.

Enters: clips (B, 3, T, H, W) in [0, 1], each with a reference and a prompt where there are any. Leaves: one number each,
averaged over all clips on all ranks; memory does not grow with their number. It does not know any measure.

Shape suffixes: B clips, T frames, C colours, H and W height and width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor
from torchmetrics import Metric

from cinelora.errors import MetricError

T = TypeVar("T")


def in_parts(size: int, *together: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Yield ``size`` rows at a time of tensors that have equally many: less memory, the same numbers."""
    yield from zip(*(torch.split(one, size) for one in together), strict=True)


@dataclass(eq=False)
class Clip:
    """Frames in [0, 1], and what they are compared with; several measures of one clip share what ``once`` has worked out."""

    frames_TCHW: Tensor
    reference_TCHW: Tensor | None = None
    prompt: str | None = None
    _known: dict[str, Any] = field(default_factory=dict, repr=False)

    @property
    def beside_TCHW(self) -> Tensor:
        """The reference, of a clip that is known to have one."""
        assert self.reference_TCHW is not None
        return self.reference_TCHW

    def once(self, name: str, work_out: Callable[[Clip], T]) -> T:
        """``work_out(self)``, the first time it is asked for under this name."""
        if name not in self._known:
            self._known[name] = work_out(self)
        found: T = self._known[name]
        return found

    def trouble(self) -> str | None:
        """Why no measure at all can be had of this clip, as the end of a sentence."""
        frames, reference = self.frames_TCHW, self.reference_TCHW
        if frames.ndim != 4 or frames.shape[1] != 3 or not frames.numel():
            return f"has the shape {tuple(frames.shape)}, not that of frames (T, 3, H, W)"
        for name, pixels in (("frames", frames), ("reference frames", reference)):
            if pixels is None:
                continue
            if bad := int((~pixels.isfinite().flatten(1).all(1)).sum()):
                return f"has {bad} {name} with values that are not finite"
            if pixels.min() < -1e-4 or pixels.max() > 1 + 1e-4:
                return f"has {name} from {pixels.min():.3g} to {pixels.max():.3g}, and pixels lie from 0 to 1"
        return None


@dataclass(frozen=True)
class Needs:
    """What a measure asks of a clip: frames, pixels of the shorter side, and what stands beside it."""

    frames: int = 1
    side: int = 1
    reference: bool = False
    prompt: bool = False

    def lack(self, clip: Clip) -> str | None:
        """What a clip lacks, as the end of a sentence; None where it has everything."""
        (frames, _, height, width), reference = clip.frames_TCHW.shape, clip.reference_TCHW
        if frames < self.frames:
            return f"has {frames} frame{'s' * (frames != 1)}, and this needs {self.frames}"
        if min(height, width) < self.side:
            return f"is {height}x{width}, and this needs {self.side} pixels each way"
        if self.prompt and not clip.prompt:
            return "has no prompt to be compared with"
        if self.reference and reference is None:
            return "has no reference to be compared with"
        if self.reference and reference is not None and reference.shape != clip.frames_TCHW.shape:
            return f"is {size_of(clip.frames_TCHW)} and its reference {size_of(reference)} (frames x height x width)"
        return None


class OverClips(Metric):
    """Mean of ``score`` over all clips seen, on all ranks."""

    full_state_update = False
    needs = Needs()
    total: Tensor
    clips: Tensor

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.counted = 0
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("clips", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(
        self,
        clips: Tensor | Iterable[Clip],
        references_BCTHW: Tensor | None = None,
        prompts: Sequence[str] | None = None,
    ) -> None:
        """Take clips, as (B, 3, T, H, W) in [0, 1] or as ``Clip``. Raises ``MetricError`` for one it cannot measure."""
        # `total` and `clips` are torchmetrics states: on several ranks each is summed over all of them before `compute`, so
        # the mean is over all clips, however unevenly they lie on the ranks. In float64 their order hardly matters.
        for clip in as_clips(clips, references_BCTHW, prompts):
            if lack := self.lack(clip):
                raise MetricError(f"{type(self).__name__}: the clip {lack}")
            self.total += self.score(clip).double().to(self.total.device)
            self.clips += 1

    def compute(self) -> Tensor:
        """The mean so far, of ``counted`` clips on all ranks. Raises ``MetricError`` where there was none."""
        self.counted = int(self.clips)
        if not self.counted:
            raise MetricError("no clip was measured")
        return (self.total / self.clips).float()

    def lack(self, clip: Clip) -> str | None:
        """What a clip lacks to be measured, as the end of a sentence."""
        return self.needs.lack(clip)

    def score(self, clip: Clip) -> Tensor:
        """The number of one clip."""
        raise NotImplementedError


def as_clips(
    clips: Tensor | Iterable[Clip], references_BCTHW: Tensor | None = None, prompts: Sequence[str] | None = None
) -> list[Clip]:
    """A batch (B, 3, T, H, W) as clips, with references of the same number and prompts; clips stay as they are."""
    if not isinstance(clips, Tensor):
        return list(clips)
    beside = references_BCTHW if references_BCTHW is not None else [None] * len(clips)
    words = prompts if prompts is not None else [None] * len(clips)
    return [
        Clip(video.transpose(0, 1), None if reference is None else reference.transpose(0, 1), prompt)
        for video, reference, prompt in zip(clips, beside, words, strict=True)
    ]


def size_of(frames_TCHW: Tensor) -> str:
    """Frames, height and width, as sentences name them."""
    return "x".join(str(frames_TCHW.shape[place]) for place in (0, 2, 3))
