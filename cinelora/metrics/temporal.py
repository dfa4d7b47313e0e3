"""Does a clip hold still in time, and does it move at all? Reference-free measures of one clip against itself.

Enters: videos (B, 3, T, H, W) in [0, 1]. Leaves: one number each, averaged over clips. A frozen clip scores best on
consistency, so it is always read beside the motion. No network, no weights; what is warped is warped by ``flow``, whose
limits these numbers share.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cinelora.metrics.clip_metric import Clip, Needs, OverClips, in_parts
from cinelora.metrics.optical_flow import optical_flow, visible, warp
from cinelora.metrics.reference import AT_ONCE, WINDOW, mean_ssim, ssim_map


class TemporalSSIM(OverClips):
    """TSSIM: mean SSIM of adjacent frames (Wang et al. 2004 on each pair). -1 to 1, higher is steadier, frozen is 1.

    No paper defines a TSSIM of one clip; this is ours. Motion lowers it as flicker does: compare clips of equal motion.
    """

    higher_is_better = True
    needs = Needs(frames=2, side=WINDOW)

    def score(self, clip: Clip) -> Tensor:
        """Mean SSIM(I_t, I_t+1)."""
        return mean_ssim(clip.frames_TCHW[1:], clip.frames_TCHW[:-1])


class Motion(OverClips):
    """``255 mean |I_t+1 - I_t|``, in levels of 255. 0 to 255, 0 is a frozen clip; neither high nor low is better.

    Ours. Flicker and noise count as motion here; ``FlowMotion`` does not hear them.
    """

    needs = Needs(frames=2)

    def score(self, clip: Clip) -> Tensor:
        """255 * mean |I_t+1 - I_t|."""
        return 255 * (clip.frames_TCHW[1:] - clip.frames_TCHW[:-1]).abs().mean()


class Flicker(OverClips):
    """``255 std_t(mean(I_t+1) - mean(I_t))``: how the change of mean brightness varies. 0 upwards, lower is steadier.

    Ours. A flicker that leaves the mean alone, such as noise or light and dark in turns, is not heard.
    """

    higher_is_better = False
    needs = Needs(frames=2)

    def score(self, clip: Clip) -> Tensor:
        """255 * std_t(mean(I_t+1) - mean(I_t))."""
        brightness_T = clip.frames_TCHW.mean(dim=(1, 2, 3))
        return 255 * brightness_T.diff().std(correction=0)


class TemporalFlickering(OverClips):
    """VBench's temporal flickering: ``(255 - mean |I_t+1 - I_t|) / 255`` in levels of 255. 0 to 1, higher is steadier.

    A frozen clip has 1. It is ``1 - motion / 255``, and of use for static scenes alone: whatever moves lowers it.
    Source: Huang et al. 2024, VBench, appendix on evaluation dimensions.
    """

    higher_is_better = True
    needs = Needs(frames=2)

    def score(self, clip: Clip) -> Tensor:
        """1 - mean |I_t+1 - I_t|."""
        return 1 - (clip.frames_TCHW[1:] - clip.frames_TCHW[:-1]).abs().mean()


# -- along the flow ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Flows:
    """Between adjacent frames, each (T - 1, ...): displacements there and back, and where they can be followed."""

    there_T2HW: Tensor
    back_T2HW: Tensor
    seen_T1HW: Tensor
    seen_back_T1HW: Tensor


def flows(clip: Clip) -> Flows:
    """The flows of a clip, worked out once for all measures of it."""
    return clip.once("flows", _flows)


def _flows(clip: Clip) -> Flows:
    # A pixel is worth comparing only where it can be followed there and back: what is hidden by something that moves in
    # front of it, or leaves the picture, has no counterpart, and would count as an error of the clip.
    parts = []
    for before, after in in_parts(AT_ONCE, clip.frames_TCHW[:-1], clip.frames_TCHW[1:]):
        there, back = optical_flow(before, after), optical_flow(after, before)
        parts.append((there, back, visible(there, back), visible(back, there)))
    return Flows(*map(torch.cat, zip(*parts, strict=True)))


class WarpedTSSIM(OverClips):
    """TSSIM along the flow: SSIM of each frame with the one before it, warped onto it, where it can be followed.

    -1 to 1, higher is steadier; motion that the flow finds costs little. A frozen clip scores 1, and so does one of which
    nothing can be followed: read it beside the motion. No paper defines it; this is ours.
    """

    higher_is_better = True
    needs = Needs(frames=2, side=24)

    def score(self, clip: Clip) -> Tensor:
        """Mean SSIM(I_t+1, warp(I_t)) where visible."""
        found = flows(clip)
        # What is summed is what SSIM lacks to 1, over places that are seen: a clip of which nothing is seen loses nothing.
        lost, seen_places = clip.frames_TCHW.new_zeros(2).unbind()
        frames = clip.frames_TCHW
        for before, after, back, seen in in_parts(
            AT_ONCE, frames[:-1], frames[1:], found.back_T2HW, found.seen_back_T1HW
        ):
            structure = ssim_map(after, warp(before, back)).mean(1, keepdim=True)
            lost = lost + ((1 - structure) * seen).sum()
            seen_places = seen_places + seen.sum()
        return 1 - lost / seen_places.clamp(min=1)


class WarpingError(OverClips):
    """``1000 mean_t sum M (warp(I_t+1) - I_t)^2 / sum M``, pixels in [0, 1]. 0 to 1000, lower is steadier.

    M is where it can be followed. Means over colours, and times 1000, as it is small. The flow is ours, not a network's, so
    that numbers compare among themselves alone. A frozen clip has 0: read it beside the motion.
    Source: Lai et al. 2018, Learning blind video temporal consistency; the mask as in Ruder et al. 2016.
    """

    higher_is_better = False
    needs = Needs(frames=2, side=24)

    def score(self, clip: Clip) -> Tensor:
        """Mean squared difference from the next frame, brought back along the flow."""
        found = flows(clip)
        error = (warp(clip.frames_TCHW[1:], found.there_T2HW) - clip.frames_TCHW[:-1]).square().mean(1, keepdim=True)
        seen = found.seen_T1HW
        return 1000 * ((error * seen).sum((1, 2, 3)) / seen.sum((1, 2, 3)).clamp(min=1)).mean()


class FlowMotion(OverClips):
    """Motion magnitude: mean length of the flow, in pixels a frame, where it can be followed. 0 is frozen; neither is better.

    Ours. 0 upwards. Flicker and noise do not move it much, where ``Motion`` counts them. Scales with the picture's size.
    """

    needs = Needs(frames=2, side=24)

    def score(self, clip: Clip) -> Tensor:
        """mean |flow|."""
        found = flows(clip)
        length = found.there_T2HW.square().sum(1, keepdim=True).sqrt()
        mean: Tensor = (length * found.seen_T1HW).sum() / found.seen_T1HW.sum().clamp(min=1)
        return mean


class Shake(OverClips):
    """How much the picture's motion changes from frame to frame: mean ``|f_t+1 - f_t|`` in pixels a frame, f the median flow.

    Ours. 0 upwards, lower is smoother: 0 for a camera that stands still or moves evenly. Heard are a jittering picture and
    frames out of order. VBench's motion smoothness asks the same with an interpolating network (AMT), which is not here.
    """

    higher_is_better = False
    needs = Needs(frames=3, side=24)

    def score(self, clip: Clip) -> Tensor:
        """mean |median flow_t+1 - median flow_t|."""
        overall_T2 = flows(clip).there_T2HW.flatten(2).median(2).values
        change: Tensor = overall_T2.diff(dim=0).norm(dim=1).mean()
        return change
