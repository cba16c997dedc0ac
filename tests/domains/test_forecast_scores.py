"""Scores of forecasts against closed forms, other people's tests and enumerated pairs."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from scidiff.timeseries import forecast_scores as scores
from scidiff.timeseries import metrics

RNG = np.random.default_rng(1)


def test_the_crps_of_sums_is_that_of_the_normal_law_of_the_sum() -> None:
    spread, many = 0.7, 20_000
    grid = stats.norm.ppf((np.arange(many) + 0.5) / many)
    draws = np.stack([grid, np.full(many, 2.0), spread * grid, np.zeros(many)], axis=1)  # comonotone within an event
    x = np.array([0.5, 1.0, 0.3, -0.2])
    found = scores.crps_sum(draws, x, [0, 1, 0, 1])
    std, z = 1 + spread, 0.8 / (1 + spread)
    exact = std * (z * (2 * stats.norm.cdf(z) - 1) + 2 * stats.norm.pdf(z) - 1 / math.sqrt(math.pi))
    assert found == pytest.approx([exact, abs(0.8 - 2.0)], abs=2e-4)


def test_opposite_errors_cancel_in_the_crps_of_sums_but_not_in_the_energy_score() -> None:
    draws, x = np.array([[3.0, -3.0]]), np.zeros(2)
    assert scores.crps_sum(draws, x, [0, 0]) == pytest.approx([0.0])
    assert metrics.energy_score(draws, x, [0, 0]) == pytest.approx([18**0.5])


@pytest.mark.parametrize("order", [0.5, 1.0, 2.0])
def test_the_variogram_score_is_the_sum_over_all_pairs(order: float) -> None:
    draws, x, event = RNG.normal(size=(6, 7)), RNG.normal(size=7), np.array([2, 0, 2, 2, 0, 1, 2])
    found = scores.variogram_score(draws, x, event, order=order)
    for g, value in enumerate(found):
        here = np.flatnonzero(event == g)
        slow = sum(
            (abs(x[i] - x[j]) ** order - np.mean([abs(d[i] - d[j]) ** order for d in draws])) ** 2
            for i in here
            for j in here
        )
        assert value == pytest.approx(slow, abs=1e-12)


def test_the_variogram_score_of_order_two_sees_correlation_and_no_shared_bias() -> None:
    # x_i - x_j has the variance 2 (1 - rho): the expected score exceeds that of the truth by 2 (2 drho)^2
    count = 200_000
    x, y = RNG.normal(size=(2, count))
    draws = np.stack([x, 0.6 * x + 0.8 * y], axis=1)
    came = np.array([0.4, -0.3])
    expected = 2 * (0.7**2 - 2 * (1 - 0.6)) ** 2
    assert scores.variogram_score(draws, came, [0, 0], order=2)[0] == pytest.approx(expected, rel=0.03)
    one, biased = (scores.variogram_score(draws[:50] + shift, came, [0, 0]) for shift in (0.0, 100.0))
    assert one == pytest.approx(biased)


def test_the_weighted_quantile_loss_of_levels_is_that_of_exact_quantiles() -> None:
    draws = np.linspace(0.0, 1.0, 101)[:, None] * np.array([1.0, 2.0])  # the quantiles at a are a and 2 a
    x = np.array([0.25, 1.5])
    levels = (0.1, 0.5, 0.9)
    exact = []
    for a in levels:
        total = sum((a if v > q else 1 - a) * abs(v - q) for v, q in zip(x, (a, 2 * a), strict=True))
        exact.append(2 * total / 1.75)
    assert scores.weighted_quantile_loss(draws, x, levels) == pytest.approx(exact)
    assert metrics.crps_quantiles(draws, x) == pytest.approx(
        scores.weighted_quantile_loss(draws, x, tuple(metrics.LEVELS)).mean()
    )
    assert np.isnan(scores.weighted_quantile_loss(draws, np.zeros(2))).all()


def test_mase_is_one_for_the_naive_forecast_of_its_own_history_and_leaves_gaps_out() -> None:
    history = np.array([1.0, 10.0, 3.0, 14.0, 5.0, 18.0])  # seasonal differences 2, 4, 2, 4
    naive, x = history[:-2], history[2:]
    assert scores.mase(naive, x, history, season=2) == pytest.approx(1.0)
    assert scores.mase([0.0], [6.0], np.array([1.0, np.nan, 3.0, 5.0, 8.0]), season=1) == pytest.approx(6 / 2.5)
    assert math.isnan(scores.mase([1.0], [2.0], np.ones(9)))


def test_diebold_mariano_with_one_step_is_the_paired_t_test() -> None:
    a, b = RNG.normal(size=(2, 23))
    found, exact = scores.diebold_mariano(a, b + 0.3), stats.ttest_rel(a, b + 0.3)
    assert (found.statistic, found.p) == pytest.approx((exact.statistic, exact.pvalue), rel=1e-12)
    back = scores.diebold_mariano(b + 0.3, a)
    assert back.statistic == pytest.approx(-found.statistic)
    assert back.difference == pytest.approx(-found.difference)


def test_diebold_mariano_counts_the_autocovariances_below_the_horizon() -> None:
    d = np.array([1.0, 2.0, 4.0, 3.0, 0.0, -1.0, 2.0, 5.0])  # mean 2, sum of squares 28
    lag = sum((d[i] - 2) * (d[i - 1] - 2) for i in range(1, 8)) / 8
    variance = (28 / 8 + 2 * lag) / 8
    factor = (8 + 1 - 4 + 2 / 8) / 8
    found = scores.diebold_mariano(d, np.zeros(8), horizon=2)
    assert found.statistic == pytest.approx(2 / math.sqrt(variance) * math.sqrt(factor))


def test_diebold_mariano_keeps_its_size_where_differences_overlap() -> None:
    noise = RNG.normal(size=(2000, 63))
    overlapping = noise[:, 3:] + noise[:, 2:-1] + noise[:, 1:-2] + noise[:, :-3]  # correlated up to lag 3
    level = {h: np.mean([scores.diebold_mariano(d, np.zeros(60), horizon=h).p < 0.05 for d in overlapping])
             for h in (1, 4)}  # fmt: skip
    assert level[4] < 0.11
    assert level[1] > 0.25


def test_scores_that_cannot_be_told_are_refused() -> None:
    with pytest.raises(ValueError, match="n > horizon"):
        scores.diebold_mariano([1.0, 2.0], [1.0, 2.0], horizon=2)
    with pytest.raises(ValueError, match="order > 0"):
        scores.variogram_score([[1.0]], [1.0], [0], order=0)
    with pytest.raises(ValueError, match="season"):
        scores.mase([1.0], [1.0], [1.0, 2.0], season=0)
