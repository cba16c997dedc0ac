"""Metrics of draws against closed forms, against enumerated forecasts, and against slow twins."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from scidiff.timeseries import metrics

RNG = np.random.default_rng(0)
ATOMS = (np.array([-1.0, 0.5, 2.0]), np.array([0.2, 0.5, 0.3]))


def every_ensemble(size: int) -> tuple[np.ndarray, np.ndarray]:
    """All ensembles [size, 3^size] of the atoms, and the probability of each."""
    places = np.array(list(itertools.product(range(3), repeat=size))).T
    return ATOMS[0][places], ATOMS[1][places].prod(0)


def crps_of_atoms(x: float) -> float:
    """E|X - x| - E|X - X'| / 2, exactly."""
    value, p = ATOMS
    return float(p @ np.abs(value - x) - 0.5 * p @ np.abs(value[:, None] - value) @ p)


@pytest.mark.parametrize("size", [2, 3, 5])
def test_fair_crps_is_unbiased_over_every_ensemble(size: int) -> None:
    draws, p = every_ensemble(size)
    for x in (-2.0, 0.5, 1.1):
        found = p @ metrics.crps_fair(draws, np.full(draws.shape[1], x))
        assert found == pytest.approx(crps_of_atoms(x), abs=1e-13)


def normal_crps(x: float) -> float:
    return x * (2 * stats.norm.cdf(x) - 1) + 2 * stats.norm.pdf(x) - 1 / math.sqrt(math.pi)


def exponential_crps(x: float) -> float:
    return abs(x) - 2 * stats.expon.cdf(x) + 0.5


@pytest.mark.parametrize(("law", "crps"), [(stats.norm, normal_crps), (stats.expon, exponential_crps)])
def test_fair_crps_of_many_draws_is_the_closed_form(law: stats.rv_continuous, crps: object) -> None:
    x = np.array([-1.5, 0.0, 0.3, 4.0])
    count = 20_000
    draws = np.repeat(law.ppf((np.arange(count) + 0.5) / count)[:, None], len(x), axis=1)
    found = metrics.crps_fair(draws, x)
    np.testing.assert_allclose(found, [crps(v) for v in x], atol=2e-4)  # type: ignore[operator]


def test_point_mass_and_single_draw_have_the_absolute_error() -> None:
    x = np.array([1.0, -2.0, 3.5])
    for count in (1, 2, 7):
        draws = np.full((count, 3), 1.25)
        np.testing.assert_array_equal(metrics.crps_fair(draws, x), np.abs(x - 1.25))
        np.testing.assert_array_equal(metrics.absolute_error(draws, x), np.abs(x - 1.25))
        np.testing.assert_allclose(metrics.squared_error(draws, x), (x - 1.25) ** 2, rtol=1e-14)
        # over levels that are symmetric about one half 2 |1(x <= q) - a| has the mean 1
        assert metrics.crps_quantiles(draws, x) == pytest.approx(np.abs(x - 1.25).sum() / 6.5, rel=1e-14)


def test_fair_crps_is_that_of_all_pairs() -> None:
    draws, x = RNG.normal(size=(6, 9)), RNG.normal(size=9)
    pairs = [np.abs(draws[i] - draws[j]) for i in range(6) for j in range(6) if i != j]
    slow = np.abs(draws - x).mean(0) - 0.5 * np.mean(pairs, axis=0)
    np.testing.assert_allclose(metrics.crps_fair(draws, x), slow, atol=1e-14)


def test_nineteen_quantiles_overstate_the_crps_of_a_perfect_normal_forecast_by_a_known_amount() -> None:
    count = 4000
    grid = stats.norm.ppf((np.arange(count) + 0.5) / count)
    x = grid[::4]  # values from the same distribution
    draws = np.repeat(grid[:, None], len(x), axis=1)
    # E 2 |q_a - x| |1(x <= q_a) - a| = 2 phi(z_a) where q_a is right; the integral over a is 1 / sqrt(pi)
    expected = (2 * stats.norm.pdf(stats.norm.ppf(metrics.LEVELS))).mean()
    assert metrics.pinball_quantiles(draws, x).mean() == pytest.approx(expected, rel=2e-3)
    assert expected * math.sqrt(math.pi) == pytest.approx(1.0483, abs=1e-4)
    assert metrics.crps_fair(draws, x).mean() == pytest.approx(1 / math.sqrt(math.pi), rel=2e-3)


def test_a_distribution_that_is_given_by_quantiles_has_twice_their_mean_loss() -> None:
    level = (np.arange(50) + 0.5) / 50
    quantiles, x = stats.norm.ppf(level)[:, None] + np.zeros(20_000), RNG.normal(size=20_000)
    found = metrics.crps_midpoints(quantiles[::-1], x)
    loss = np.where(x <= quantiles, 1 - level[:, None], level[:, None]) * np.abs(x - quantiles)
    np.testing.assert_allclose(found, 2 * loss.mean(0), rtol=1e-12)
    exact = x * (2 * stats.norm.cdf(x) - 1) + 2 * stats.norm.pdf(x) - 1 / math.sqrt(math.pi)
    assert found.mean() == pytest.approx(exact.mean(), rel=4e-3)
    assert metrics.crps_fair(quantiles, x).mean() < 0.985 * exact.mean()


def test_nineteen_quantiles_are_those_of_csdi() -> None:
    draws, x = RNG.normal(size=(11, 40)), RNG.normal(size=40)
    total = 0.0
    for level in np.arange(0.05, 1.0, 0.05):
        quantile = np.quantile(draws, level, axis=0)
        total += 2 * np.abs((quantile - x) * ((x <= quantile) * 1.0 - level)).sum() / np.abs(x).sum()
    assert metrics.crps_quantiles(draws, x) == pytest.approx(total / 19, rel=1e-12)


def test_energy_score_is_that_of_all_pairs_and_crps_in_one_dimension() -> None:
    draws, x = RNG.normal(size=(5, 7)), RNG.normal(size=7)
    event = np.array(["b", "a", "b", "b", "a", "c", "b"])
    slow = []
    for name in "abc":
        d, v = draws[:, event == name], x[event == name]
        pairs = [np.linalg.norm(d[i] - d[j]) for i in range(5) for j in range(5) if i != j]
        slow.append(np.linalg.norm(d - v, axis=1).mean() - 0.5 * np.mean(pairs))
    np.testing.assert_allclose(metrics.energy_score(draws, x, event), slow, atol=1e-14)
    np.testing.assert_allclose(metrics.energy_score(draws, x, np.arange(7)), metrics.crps_fair(draws, x), atol=1e-14)
    np.testing.assert_allclose(metrics.energy_score(draws[:1], x, np.zeros(7)), [np.linalg.norm(draws[0] - x)])


def test_energy_score_sees_that_draws_belong_together() -> None:
    shared = RNG.normal(size=(200, 50, 1))
    x = np.repeat(RNG.normal(size=(50, 1)), 4, axis=1).ravel()
    together = np.repeat(shared, 4, axis=2).reshape(200, -1)
    apart = np.stack([RNG.permutation(column) for column in together.T], axis=1)
    event = np.repeat(np.arange(50), 4)
    np.testing.assert_allclose(metrics.crps_fair(together, x), metrics.crps_fair(apart, x), atol=1e-12)
    assert metrics.energy_score(together, x, event).mean() < metrics.energy_score(apart, x, event).mean() - 0.02


@pytest.mark.parametrize(("count", "level"), [(19, 0.9), (19, 0.5), (9, 0.8), (99, 0.9), (3, 0.5)])
def test_central_intervals_cover_exactly(count: int, level: float) -> None:
    # the rank of x among exchangeable draws is uniform: x stands in each of the count + 1 gaps equally often
    draws = np.repeat(np.arange(1.0, count + 1)[:, None], count + 1, axis=1)
    x = np.arange(count + 1) + 0.5
    assert metrics.covered(draws, x, level).mean() == pytest.approx(level, abs=1e-12)


def test_central_intervals_of_a_uniform_distribution_cover_exactly_between_the_places_too() -> None:
    # E X_(j) = j / (K + 1), linear in between
    for count in (30, 50):
        draws = np.repeat((np.arange(1, count + 1) / (count + 1))[:, None], 2, axis=1)
        low, high = metrics.interval(draws, 0.8)
        np.testing.assert_allclose(low, 0.1, rtol=1e-12)
        np.testing.assert_allclose(high, 0.9, rtol=1e-12)


def test_interval_ends_count_as_covered_and_few_draws_end_at_the_outermost() -> None:
    draws = np.array([[1.0, 1.0, 1.0], [2.0, 2.0, 2.0]])
    assert metrics.covered(draws, [1.0, 2.0, 2.01], 0.9).tolist() == [True, True, False]


@pytest.mark.parametrize("count", [1, 2, 4])
def test_pit_of_a_perfect_forecast_is_uniform_with_ties(count: int) -> None:
    everything, p = every_ensemble(count + 1)
    low, high = metrics.pit_bounds(everything[1:], everything[0])
    for level in (0.1, 0.25, 0.6, 0.97):
        below = np.clip((level - low) / (high - low), 0, 1)  # P(pit <= level) within the bounds
        assert p @ below == pytest.approx(level, abs=1e-12)


def test_pit_is_keyed_and_lies_within_its_bounds() -> None:
    draws = RNG.integers(0, 3, size=(9, 500)).astype(float)
    x = RNG.integers(0, 3, size=500).astype(float)
    low, high = metrics.pit_bounds(draws, x)
    first = metrics.pit(draws, x, seed=3)
    assert ((low < first) & (first < high)).all()
    np.testing.assert_array_equal(first, metrics.pit(draws, x, seed=3))
    np.testing.assert_array_equal(first[:100], metrics.pit(draws[:, :100], x[:100], seed=3))
    assert (first != metrics.pit(draws, x, seed=4)).all()
    u = (first - low) / (high - low)
    assert stats.kstest(u, "uniform").pvalue > 1e-3


def test_uniformity_is_kolmogorovs_distance() -> None:
    u = RNG.uniform(size=77)
    assert metrics.uniformity(u) == pytest.approx(stats.kstest(u, "uniform").statistic, rel=1e-12)
    assert metrics.uniformity((np.arange(10) + 0.5) / 10) == pytest.approx(0.05)
    assert metrics.uniformity(np.zeros(5)) == 1


def test_what_cannot_be_judged_is_refused() -> None:
    with pytest.raises(ValueError, match=r"expected draws \[K, ...\] of values"):
        metrics.crps_fair(np.zeros((3, 4)), np.zeros(5))
    with pytest.raises(ValueError, match="expected finite"):
        metrics.absolute_error(np.full((3, 1), np.nan), np.zeros(1))
    with pytest.raises(ValueError, match="expected a level"):
        metrics.interval(np.zeros((3, 1)), 90)
    with pytest.raises(ValueError, match=r"expected numbers in \[0, 1\]"):
        metrics.uniformity([0.5, 1.5])
