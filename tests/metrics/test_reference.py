"""Measures of pairs, against closed forms and torchmetrics."""

import math

import pytest
import torch
from rounding import EPS, SUMS
from torch import Tensor
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

from cinelora.errors import MetricError
from cinelora.metrics.clip_metric import Clip
from cinelora.metrics.reference import (
    PeakSignalToNoise,
    StructuralSimilarity,
    TemporalPerceptualDistance,
    ssim_map,
)


@pytest.fixture(scope="module")
def pair() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    clip = torch.rand(2, 3, 3, 24, 32, generator=generator)
    return clip, (clip + 0.1 * torch.randn(clip.shape, generator=generator)).clamp(0, 1)


def test_ssim_agrees_with_torchmetrics(pair: tuple[Tensor, Tensor]):
    metric = StructuralSimilarity()
    metric.update(*pair)
    one, other = (video.transpose(1, 2).flatten(0, 1) for video in pair)
    theirs = structural_similarity_index_measure(one, other, data_range=1.0)
    assert float(metric.compute()) == pytest.approx(float(theirs), abs=SUMS * EPS)


def test_ssim_of_flat_images():
    """Of black and white 2 m1 m2 is nothing: 0.01^2 / (1 + 0.01^2) is what two constants leave."""
    black, white = torch.zeros(1, 3, 64, 64), torch.ones(1, 3, 64, 64)
    assert float(ssim_map(black, white).mean()) == pytest.approx(9.9990001e-5, rel=1e-4)
    assert float(ssim_map(white, white).mean()) == pytest.approx(1)


def test_psnr_is_the_mean_over_clips(pair: tuple[Tensor, Tensor]):
    metric = PeakSignalToNoise()
    metric.update(*pair)
    theirs = [peak_signal_noise_ratio(a, b, data_range=1.0) for a, b in zip(*pair, strict=True)]
    assert float(metric.compute()) == pytest.approx(float(sum(theirs)) / 2, rel=SUMS * EPS)


@pytest.mark.parametrize(("error", "decibels"), [(1.0, 0.0), (0.1, 20.0), (0.0, 100.0)])
def test_psnr_of_a_constant_error(error: float, decibels: float):
    metric = PeakSignalToNoise()
    metric.update(torch.full((1, 3, 2, 8, 8), error), torch.zeros(1, 3, 2, 8, 8))
    assert float(metric.compute()) == pytest.approx(decibels, abs=1e-4)


def test_tlp_counts_too_still_and_too_restless():
    """With a distance that can be worked out by hand: the mean absolute difference."""

    class Difference:
        name, side = "difference", 1

        def paired(self, clip: Clip) -> Tensor:
            return (clip.frames_TCHW - clip.reference_TCHW).abs().mean((1, 2, 3))

        def steps(self, clip: Clip) -> tuple[Tensor, Tensor]:
            return tuple(video.diff(dim=0).abs().mean((1, 2, 3)) for video in (clip.frames_TCHW, clip.reference_TCHW))

    def ramp(step: float) -> Tensor:
        return torch.linspace(0, 4 * step, 5).view(1, 1, -1, 1, 1).expand(1, 3, -1, 8, 8)

    for step in (0.0, 0.2):
        metric = TemporalPerceptualDistance(Difference())
        metric.update(ramp(step), ramp(0.1))
        assert float(metric.compute()) == pytest.approx(10, rel=1e-5)
    metric = TemporalPerceptualDistance(Difference())
    metric.update(1 - ramp(0.1), ramp(0.1))
    assert float(metric.compute()) == pytest.approx(0, abs=1e-4), "it says nothing of the pictures"


def test_pairs_that_do_not_fit_are_refused(pair: tuple[Tensor, Tensor]):
    clip, other = pair
    with pytest.raises(MetricError, match="is 3x24x32 and its reference 2x24x32"):
        StructuralSimilarity().update(clip, other[:, :, :2])
    with pytest.raises(MetricError, match="has no reference"):
        PeakSignalToNoise().update(clip)
    with pytest.raises(MetricError, match="needs 11 pixels each way"):
        StructuralSimilarity().update(clip[..., :8], other[..., :8])
    assert math.isfinite(float(ssim_map(clip[0, :, :, :11, :11], other[0, :, :, :11, :11]).mean()))
