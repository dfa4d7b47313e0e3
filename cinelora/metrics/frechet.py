"""How far apart two sets of clips lie, as the Fréchet distance of Gaussians; each set is kept as its moments alone.

Enters: features (N, D) of clips, real or generated, batch by batch and on any number of ranks. Leaves: one number. It does
not know which network the features come from; whoever names the number names the network in it.

Shape suffixes: N clips, D features, R ranks.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from cinelora.errors import MetricError


class Moments:
    """Count, mean (D) and scatter (D, D) of the rows seen, as one float64 tensor (D + 2, D), so that they merge as one.

    The scatter is of deviations from the mean: sums of squares would lose the digits of features far from zero.
    """

    @staticmethod
    def of(features_ND: Tensor) -> Tensor:
        """The moments of some rows."""
        # One tensor for all three, as a state of torchmetrics is gathered as one: row 0 repeats the count D times, row 1 is the
        # mean, the D rows from 2 on the scatter.
        rows = features_ND.double()
        mean = rows.mean(0) if len(rows) else rows.new_zeros(rows.shape[1])
        deviations = rows - mean
        return torch.cat([torch.full_like(mean, len(rows))[None], mean[None], deviations.T @ deviations])

    @staticmethod
    def merged(moments_RMD: Tensor) -> Tensor:
        """The moments of all rows together, from those of parts; the order of parts moves the last digits alone.

        Source: Chan, Golub, LeVeque 1979, Updating formulae and a pairwise algorithm for computing sample variances.
        """
        # Each part's scatter is about that part's own mean. To bring it about the common mean, n (m - M)(m - M)^T is added for
        # a part of n rows with the mean m: as if all its rows lay at m.
        counts = moments_RMD[:, 0, :1]
        total = counts.sum()
        means = moments_RMD[:, 1]
        mean = (counts * means).sum(0) / total.clamp(min=1)
        apart = means - mean
        scatter = moments_RMD[:, 2:].sum(0) + (apart * counts).T @ apart
        return torch.cat([total.expand_as(mean)[None], mean[None], scatter])

    @staticmethod
    def count(moments_MD: Tensor) -> int:
        """How many rows there were."""
        return int(moments_MD[0, 0])

    @staticmethod
    def gaussian(moments_MD: Tensor) -> tuple[Tensor, Tensor]:
        """Mean (D) and unbiased covariance (D, D)."""
        return moments_MD[1], moments_MD[2:] / (moments_MD[0, 0] - 1)


def root(covariance_DD: Tensor) -> Tensor:
    """A factor (D, rank) with ``factor @ factor.T`` equal to a covariance; directions without variance are dropped."""
    # A covariance S has directions (eigenvectors v) in which its rows scatter independently, each with a variance w:
    # S = V diag(w) V^T. So V sqrt(w), column by column, times its own transpose is S. Of N clips with D > N features at
    # most N - 1 directions have any variance; the others come out as rounding noise around 0, partly negative, and go.
    variances, directions = torch.linalg.eigh((covariance_DD + covariance_DD.T) / 2)
    kept = variances > variances[-1].clamp(min=0) * len(variances) * torch.finfo(variances.dtype).eps
    factor: Tensor = directions[:, kept] * variances[kept].sqrt()
    return factor


def frechet_distance(
    mean_D: Tensor, covariance_DD: Tensor, other_mean_D: Tensor, other_covariance_DD: Tensor
) -> Tensor:
    """``|m1 - m2|^2 + tr(S1) + tr(S2) - 2 tr((S1^1/2 S2 S1^1/2)^1/2)``, in float64. 0 to infinity, 0 where both are equal.

    With ``Si = Li Li^T`` the last trace is the sum of singular values of ``L1^T L2``. No root is taken of a product's
    eigenvalues, whose zeros come out as noise of 1e-16 and its roots as 1e-8, in each of the directions that a set with few
    clips leaves empty; a matrix root of ``S1 S2`` fails there altogether.
    Source: Dowson and Landau 1982, The Fréchet distance between multivariate normal distributions.
    """
    # tr((S1^1/2 S2 S1^1/2)^1/2) is the sum of the roots of eigenvalues of S1 S2. With Si = Li Li^T those eigenvalues are the
    # squares of the singular values of L1^T L2, so the singular values are the roots, without a root having been taken.
    first, second = covariance_DD.double(), other_covariance_DD.double()
    cross = torch.linalg.svdvals(root(first).T @ root(second)).sum()
    apart = (mean_D.double() - other_mean_D.double()).square().sum()
    distance: Tensor = apart + first.trace() + second.trace() - 2 * cross
    return distance.clamp(min=0)


class FrechetDistance(Metric):
    """Fréchet distance of generated clips' features to real ones'. 0 to infinity, lower is nearer; source as the formula's.

    With fewer clips than features a covariance has not its full rank, and the distance depends on the count: then it is
    relative, to be compared at equal counts alone. Memory is ``2 (D + 2) D`` doubles.
    """

    higher_is_better = False
    full_state_update = False
    real: Tensor
    generated: Tensor

    def __init__(self, num_features: int, **options: Any) -> None:
        super().__init__(**options)
        self.counted: dict[str, int] = {}
        for name in ("real", "generated"):
            empty = torch.zeros(num_features + 2, num_features, dtype=torch.float64)
            self.add_state(name, empty, dist_reduce_fx=Moments.merged)

    def update(self, features_ND: Tensor, real: bool) -> None:
        """Take features (N, D) of real or of generated clips."""
        name = "real" if real else "generated"
        setattr(self, name, Moments.merged(torch.stack([getattr(self, name), Moments.of(features_ND)])))

    def compute(self) -> Tensor:
        """The distance, float64. Raises ``MetricError`` where a set has fewer than two clips."""
        self.counted = self.counts
        for name, count in self.counted.items():
            if count < 2:
                raise MetricError(f"a Fréchet distance needs two {name} clips or more, and there are {count}")
        return frechet_distance(*Moments.gaussian(self.real), *Moments.gaussian(self.generated))

    @property
    def counts(self) -> dict[str, int]:
        """Real and generated clips seen by this rank; those of all ranks are in ``counted``, after ``compute``."""
        return {"real": Moments.count(self.real), "generated": Moments.count(self.generated)}
