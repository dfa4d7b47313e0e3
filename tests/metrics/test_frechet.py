"""The Fréchet distance against closed forms and an independent way, and moments that are the same however they are cut."""

from pathlib import Path

import pytest
import torch
from rank_pool import on_ranks
from rounding import SUMS, units
from torch import Tensor

from cinelora.errors import MetricError
from cinelora.metrics.frechet import FrechetDistance, Moments, frechet_distance
from cinelora.parallel.launch import process_group, rank_info


def rotation(size: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(size, size, dtype=torch.float64, generator=generator))[0]


def features(count: int, size: int, seed: int, offset: float = 0.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    mixed = torch.randn(size, size, dtype=torch.float64, generator=generator)
    return torch.randn(count, size, dtype=torch.float64, generator=generator) @ mixed + offset


def from_rows(one: Tensor, other: Tensor) -> Tensor:
    """The distance from the rows themselves: the cross term is a nuclear norm of the two sets' inner products."""
    a, b = ((rows - rows.mean(0)) / (len(rows) - 1) ** 0.5 for rows in (one, other))
    apart = (one.mean(0) - other.mean(0)).square().sum()
    return apart + a.square().sum() + b.square().sum() - 2 * torch.linalg.svdvals(a @ b.T).sum()


@pytest.mark.parametrize("zeros", [0, 20, 39])
def test_gaussians_of_common_axes(zeros: int):
    axes, mean = rotation(40, 0), torch.linspace(-1, 1, 40, dtype=torch.float64)
    one, other = torch.linspace(0.1, 3, 40, dtype=torch.float64), torch.linspace(2, 0.3, 40, dtype=torch.float64)
    one[:zeros] = 0
    expected = mean.square().sum() + (one.sqrt() - other.sqrt()).square().sum()
    found = frechet_distance(mean, axes @ one.diag() @ axes.T, torch.zeros_like(mean), axes @ other.diag() @ axes.T)
    assert float(found) == pytest.approx(float(expected), rel=1e-10)


def test_full_rank_against_the_eigenvalues_of_the_product():
    one, other = features(300, 24, 1), features(200, 24, 2)
    found = frechet_distance(one.mean(0), one.T.cov(), other.mean(0), other.T.cov())
    cross = torch.linalg.eigvals(one.T.cov() @ other.T.cov()).real.sqrt().sum()
    apart = (one.mean(0) - other.mean(0)).square().sum()
    assert float(found) == pytest.approx(
        float(apart + one.T.cov().trace() + other.T.cov().trace() - 2 * cross), rel=1e-9
    )


@pytest.mark.parametrize("counts", [(12, 12), (12, 300), (5, 60), (2, 2)])
def test_fewer_clips_than_features(counts: tuple[int, int]):
    one, other = features(counts[0], 64, 1), features(counts[1], 64, 2)
    found = frechet_distance(one.mean(0), one.T.cov(), other.mean(0), other.T.cov())
    assert float(found) == pytest.approx(float(from_rows(one, other)), rel=1e-9)


def test_nearly_the_same_few_clips():
    """The distance is a millionth of the traces, in 64 features of which 55 have no variance."""
    one = features(10, 64, 1)
    other = one + 1e-3 * features(10, 64, 2)
    found = frechet_distance(one.mean(0), one.T.cov(), other.mean(0), other.T.cov())
    expected = float(from_rows(one, other))
    assert expected < 1e-4 * float(one.T.cov().trace())
    assert float(found) == pytest.approx(expected, rel=1e-6)
    itself = float(frechet_distance(one.mean(0), one.T.cov(), one.mean(0), one.T.cov()))
    assert itself <= 1e-12 * float(one.T.cov().trace())


def test_moments_far_from_zero_and_in_any_batches():
    rows = features(101, 8, 3, offset=1e5)
    whole = Moments.merged(torch.stack([Moments.of(part) for part in rows.split([1, 40, 0, 60])]))
    assert Moments.count(whole) == 101
    mean, covariance = Moments.gaussian(whole)
    assert units(mean, rows.mean(0)) <= SUMS
    torch.testing.assert_close(covariance, rows.T.cov(), rtol=1e-9, atol=0)


def test_parts_merge_to_the_whole():
    real, generated = features(31, 6, 4), features(17, 6, 5)
    alone, parts = FrechetDistance(6), [FrechetDistance(6), FrechetDistance(6)]
    for metric, which in ((alone, slice(None)), (parts[0], slice(0, None, 2)), (parts[1], slice(1, None, 2))):
        metric.update(real[which], real=True)
        metric.update(generated[which], real=False)
    parts[0].merge_state(parts[1])
    assert parts[0].counts == {"real": 31, "generated": 17}
    assert float(parts[0].compute()) == pytest.approx(float(alone.compute()), rel=1e-12)


def on_a_rank(out: Path) -> None:
    info = rank_info()
    with process_group(info):
        metric = FrechetDistance(6)
        metric.update(features(31, 6, 4)[info.global_rank :: 2], real=True)
        if info.global_rank == 0:  # the other has no generated clip at all
            metric.update(features(17, 6, 5), real=False)
        torch.save(metric.compute(), out / f"{info.global_rank}.pt")


def test_two_ranks_agree_with_one(tmp_path: Path):
    on_ranks(on_a_rank, tmp_path, ranks=2, log_dir=tmp_path)
    alone = FrechetDistance(6)
    alone.update(features(31, 6, 4), real=True)
    alone.update(features(17, 6, 5), real=False)
    for rank in (0, 1):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert float(found) == pytest.approx(float(alone.compute()), rel=1e-12)


def test_too_few_clips_are_said_in_words():
    metric = FrechetDistance(6)
    metric.update(features(4, 6, 0), real=True)
    metric.update(features(1, 6, 1), real=False)
    with pytest.raises(MetricError, match="needs two generated clips or more, and there are 1"):
        metric.compute()
