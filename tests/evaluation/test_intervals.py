"""Intervals and tests against closed forms and published values."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest

from cinelora.evaluation.statistics import bootstrap_mean, sign_test, wilson


def test_a_mean_lies_in_its_interval_which_is_the_same_each_time() -> None:
    values = np.random.default_rng(0).normal(size=40)
    found = bootstrap_mean(values)
    assert found.low is not None
    assert found.high is not None
    assert found.low < found.value == values.mean() < found.high
    assert found == bootstrap_mean(values)


def test_the_interval_of_many_values_is_the_normal_one() -> None:
    values = np.random.default_rng(1).normal(size=2000)
    found, half = bootstrap_mean(values), 1.96 * values.std() / np.sqrt(2000)
    assert (found.low, found.high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.003)


def test_it_holds_the_truth_about_as_often_as_it_says() -> None:
    draws = np.random.default_rng(2).normal(size=(200, 30))
    held = [found.low <= 0 <= found.high for found in map(bootstrap_mean, draws)]  # type: ignore[operator]
    assert 0.88 < np.mean(held) < 0.99


def test_paired_differences_see_what_two_means_do_not() -> None:
    base = np.random.default_rng(3).normal(scale=10, size=12)
    better = base + 1 + 0.1 * np.random.default_rng(4).normal(size=12)
    apart, together = (bootstrap_mean(base), bootstrap_mean(better)), bootstrap_mean(better - base)
    assert apart[0].high > apart[1].low  # type: ignore[operator]
    assert together.low is not None
    assert together.low > 0


def test_equal_values_have_no_width_and_one_value_no_interval() -> None:
    equal = bootstrap_mean(np.full(5, 2.5))
    assert (equal.value, equal.low, equal.high, equal.count) == (2.5, 2.5, 2.5, 5)
    single = bootstrap_mean(np.array([2.5]))
    assert (single.value, single.low, single.high) == (2.5, None, None)


@pytest.mark.parametrize(
    ("wins", "count", "low", "high"), [(8, 10, 0.4902, 0.9433), (0, 10, 0.0, 0.2775), (81, 263, 0.2553, 0.3662)]
)
def test_wilsons_interval(wins: int, count: int, low: float, high: float) -> None:
    """81 of 263: Newcombe 1998, table I."""
    assert (wilson(wins, count).low, wilson(wins, count).high) == pytest.approx((low, high), abs=1e-4)


@pytest.mark.parametrize(
    ("wins", "count", "p"), [(8, 10, 0.109375), (2, 10, 0.109375), (5, 10, 1.0), (10, 10, 2**-9), (0, 0, 1.0)]
)
def test_the_sign_test_is_the_binomial_sum(wins: int, count: int, p: float) -> None:
    assert sign_test(wins, count) == p


def test_the_sign_test_of_many_votes_does_not_overflow() -> None:
    assert 0 < sign_test(1400, 3000) < 1e-3
    assert sign_test(211, 500) == float(Fraction(2 * sum(math.comb(500, k) for k in range(212)), 2**500))
