"""Measures of a clip against itself: each catches what it is for, on rendered footage, and flow finds what moved."""

import pytest
import torch
from rounding import EPS, SUMS
from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure

from cinelora.errors import MetricError
from cinelora.metrics.clip_metric import Clip
from cinelora.metrics.optical_flow import optical_flow, visible, warp
from cinelora.metrics.temporal import (
    Flicker,
    FlowMotion,
    Motion,
    Shake,
    TemporalFlickering,
    TemporalSSIM,
    WarpedTSSIM,
    WarpingError,
)
from tools.scale_model.render import render_scene
from tools.scale_model.render.scenes import draw_scene

FRAMES = 9


@pytest.fixture(scope="module")
def clip() -> Tensor:
    """A noir street (T, 3, H, W) under a moving camera."""
    video = render_scene(draw_scene(900_502), "noir", FRAMES, 64, 96, 16, grain=False, device=torch.device("cpu"))
    return video.permute(0, 3, 1, 2).float() / 255


def shuffled(clip_TCHW: Tensor) -> Tensor:
    return clip_TCHW[[4, 0, 7, 2, 8, 1, 6, 3, 5]]


def jittered(clip_TCHW: Tensor) -> Tensor:
    steps = [(0, 2), (1, -2), (-2, 1), (2, 2), (0, -1), (-1, 2), (2, -2), (-2, 0), (1, 1)]
    return torch.stack([frame.roll(step, (1, 2)) for frame, step in zip(clip_TCHW, steps, strict=True)])


def frozen(clip_TCHW: Tensor) -> Tensor:
    return clip_TCHW[:1].expand_as(clip_TCHW)


def flickering(clip_TCHW: Tensor) -> Tensor:
    gains = torch.tensor([1.0, 0.8, 1.1, 1.0, 0.85, 1.0, 0.8, 1.05, 0.9]).view(-1, 1, 1, 1)
    return (clip_TCHW * gains).clamp(0, 1)


def score(measure: type, clip_TCHW: Tensor) -> float:
    return float(measure().score(Clip(clip_TCHW)))


def test_frames_out_of_order_are_caught(clip: Tensor):
    assert score(WarpingError, shuffled(clip)) > 2 * score(WarpingError, clip)
    assert score(WarpedTSSIM, shuffled(clip)) < score(WarpedTSSIM, clip) - 0.05
    assert score(TemporalSSIM, shuffled(clip)) < score(TemporalSSIM, clip) - 0.05
    assert score(Shake, shuffled(clip)) > 5 * score(Shake, clip)


def test_a_jittering_picture_is_caught(clip: Tensor):
    assert score(Shake, jittered(clip)) > 5 * score(Shake, clip)
    assert score(TemporalSSIM, jittered(clip)) < score(TemporalSSIM, clip) - 0.05


def test_a_frozen_clip_is_caught_by_motion_alone(clip: Tensor):
    still = frozen(clip)
    assert (score(Motion, still), score(FlowMotion, still)) == (0, pytest.approx(0, abs=1e-4))
    assert score(Motion, clip) > 1
    assert score(FlowMotion, clip) > 0.1
    perfect = {TemporalSSIM: 1, WarpedTSSIM: 1, TemporalFlickering: 1, WarpingError: 0, Flicker: 0, Shake: 0}
    for measure, best in perfect.items():
        assert score(measure, still) == pytest.approx(best, abs=1e-4)


def test_flicker_is_no_motion(clip: Tensor):
    assert score(Flicker, flickering(clip)) > 5 * score(Flicker, clip)
    assert score(WarpingError, flickering(clip)) > 1.5 * score(WarpingError, clip)
    assert score(Motion, flickering(clip)) > 1.2 * score(Motion, clip)
    assert score(FlowMotion, flickering(clip)) == pytest.approx(score(FlowMotion, clip), rel=0.15)


def test_tssim_is_the_mean_ssim_of_neighbours(clip: Tensor):
    theirs = structural_similarity_index_measure(clip[1:], clip[:-1], data_range=1.0)
    assert score(TemporalSSIM, clip) == pytest.approx(float(theirs), abs=SUMS * EPS)


def test_closed_forms():
    levels = torch.tensor([0.5, 0.6, 0.5, 0.8]).view(-1, 1, 1, 1).expand(-1, 3, 24, 24)
    steps = torch.tensor([0.1, -0.1, 0.3])
    assert score(Motion, levels) == pytest.approx(255 * float(steps.abs().mean()), rel=1e-5)
    assert score(Flicker, levels) == pytest.approx(255 * float(steps.std(correction=0)), rel=1e-5)
    assert score(TemporalFlickering, levels) == pytest.approx(1 - float(steps.abs().mean()), rel=1e-5)
    assert score(WarpingError, levels) == pytest.approx(1000 * float(steps.square().mean()), rel=1e-4)


@pytest.mark.parametrize(("x", "y"), [(1.5, 0.0), (4.0, -2.0), (-7.0, 3.0)])
def test_flow_finds_a_shift(clip: Tensor, x: float, y: float):
    shift = torch.tensor([x, y]).view(1, 2, 1, 1).expand(1, 2, *clip.shape[2:])
    found = optical_flow(clip[:1], warp(clip[:1], -shift))
    wrong = (found - shift).norm(dim=1)[:, 12:-12, 12:-12]
    assert float(wrong.median()) < 0.2
    assert float((wrong > 1).float().mean()) < 0.05


def test_what_enters_or_is_covered_is_not_followed():
    torch.manual_seed(0)
    picture = torch.rand(1, 3, 8, 12).repeat_interleave(8, 2).repeat_interleave(8, 3)
    there = torch.zeros(1, 2, 64, 96)
    there[:, 0, 16:48, 16:48] = 12  # a square moves right, over what lies there
    back = torch.zeros_like(there)
    back[:, 0, 16:48, 28:60] = -12
    seen = visible(there, back)[0, 0]
    assert seen[20:44, 50:58].max() == 0, "covered in the next frame"
    assert seen[20:44, 20:44].min() == 1
    assert seen[2:12].min() == 1
    outward = torch.full_like(there, 5.0)
    assert visible(outward, -outward)[0, 0, :, -5:].max() == 0
    assert warp(picture, torch.zeros_like(there)).sub(picture).abs().max() <= SUMS * EPS


def test_parts_merge_to_the_whole_and_memory_does_not_grow(clip: Tensor):
    clips = torch.stack([clip, jittered(clip), shuffled(clip)]).transpose(1, 2)
    whole, one, other = Shake(), Shake(), Shake()
    whole.update(clips)
    one.update(clips[:1])
    other.update(clips[1:])
    one.merge_state(other)
    assert float(one.compute()) == pytest.approx(float(whole.compute()), rel=SUMS * EPS)
    assert int(one.clips) == 3
    assert all(state.ndim == 0 for state in whole.metric_state.values())


def test_what_cannot_be_measured_is_refused(clip: Tensor):
    with pytest.raises(MetricError, match="has 1 frame, and this needs 2"):
        Motion().update(clip[None, :1].transpose(1, 2))
    with pytest.raises(MetricError, match="no clip was measured"):
        Motion().compute()
