"""Tail probabilities that are uniform where nothing is wrong, and the adjustment for many of them."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from scidiff.timeseries.mistaken import upper_tail
from scidiff.timeseries.tails import benjamini_hochberg, log_density, two_sided

RNG = np.random.default_rng(3)


@pytest.mark.parametrize("count", [2, 9, 20])
def test_within_the_draws_tail_probabilities_are_exact_for_any_distribution(count: int) -> None:
    x = np.arange(count + 1) + 0.5  # x stands in each gap of its draws equally often
    p = two_sided(np.repeat(np.arange(1.0, count + 1)[:, None], count + 1, axis=1) ** 3, x**3)
    for j in range(1, (count + 1) // 2 + 1):
        level = 2 * j / (count + 1)
        assert (p <= level + 1e-12).mean() == pytest.approx(level, abs=1e-12)


def test_beyond_the_draws_tail_probabilities_are_exact_for_normal_ones() -> None:
    trials = 400_000
    draws, x = 3 + 2 * RNG.normal(size=(10, trials)), 3 + 2 * RNG.normal(size=trials)
    p = two_sided(draws, x)
    for level in (0.001, 0.01, 0.05):
        error = np.sqrt(level / trials)
        assert (p <= level).mean() <= level + 4 * error
    assert (p <= 0.001).mean() >= 0.001 - 4 * np.sqrt(0.001 / trials)  # so far out no value is within its draws


def test_tail_probability_is_symmetric_and_never_zero_or_missing() -> None:
    draws = RNG.normal(size=(30, 5))
    x = np.array([0.1, 3.0, -40.0, 1e6, np.nan])
    p = two_sided(draws, x)
    np.testing.assert_allclose(two_sided(-draws, -x), p)
    assert (p[:4] > 0).all()
    assert p[3] < 1e-100
    assert np.isnan(p[4])
    np.testing.assert_array_equal(two_sided(np.ones((9, 2)), [1.0, 1.0 + 1e-9]) > 0.5, [True, False])
    with pytest.raises(ValueError, match="at least 2 draws"):
        two_sided(np.ones((1, 1)), [1.0])


def test_density_of_many_normal_draws_is_the_normal_density() -> None:
    draws = 2 + 0.5 * RNG.normal(size=(200_000, 1))
    x = np.array([[1.0], [2.0], [3.5]])
    np.testing.assert_allclose(log_density(draws, x), stats.norm(2, 0.5).logpdf(x), atol=0.03)
    few = RNG.normal(size=(5, 1))
    grid = np.linspace(-2000, 2000, 2_000_001)[:, None]
    assert np.exp(log_density(few, grid)).sum() * 0.002 == pytest.approx(1, abs=1e-5)


def test_adjusted_p_values_are_those_of_the_textbook() -> None:
    p = np.array([0.01, 0.04, 0.03, 0.005, 0.9])
    np.testing.assert_allclose(benjamini_hochberg(p), [0.025, 0.05, 0.05, 0.025, 0.9])
    many = RNG.uniform(size=300) ** 2
    np.testing.assert_allclose(benjamini_hochberg(many), stats.false_discovery_control(many))
    gaps = np.array([0.01, np.nan, 0.04])
    np.testing.assert_array_equal(np.isnan(benjamini_hochberg(gaps)), [False, True, False])
    np.testing.assert_allclose(benjamini_hochberg(gaps)[[0, 2]], [0.02, 0.04])
    padded = benjamini_hochberg(np.append(p, np.ones(95)))[:5]
    np.testing.assert_allclose(benjamini_hochberg(p, tests=100), padded)
    with pytest.raises(ValueError, match="at least 5 tests"):
        benjamini_hochberg(p, tests=4)


def test_upper_tail_counts_draws_and_goes_on_beyond_them() -> None:
    draws = RNG.normal(size=99)
    assert upper_tail(draws, float(np.sort(draws)[-10])) == pytest.approx(11 / 100)  # itself among them
    assert upper_tail(draws, draws.min() - 1) == 1
    place = (50 - draws.mean()) / (draws.std(ddof=1) * np.sqrt(1 + 1 / 99))
    assert upper_tail(draws, 50.0) == pytest.approx(stats.t.sf(place, 98))
