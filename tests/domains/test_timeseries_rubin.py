"""Rubin's rules against the formulas by hand, and by the coverage of proper imputation."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from scipy import stats

from scidiff.timeseries.rubin import combine, pool


def test_by_hand() -> None:
    # Q = 2, 4, 6; U = 1, 2, 3: mean 4, within 2, between 4, total 2 + 4/3 * 4 = 22/3
    found = combine([2.0, 4.0, 6.0], [1.0, 2.0, 3.0])
    assert found.estimate == pytest.approx(4)
    assert found.within == pytest.approx(2)
    assert found.between == pytest.approx(4)
    assert found.total == pytest.approx(22 / 3)
    assert found.relative_increase == pytest.approx(8 / 3)
    df = 2 * (1 + 3 / 8) ** 2  # (m - 1) (1 + 1 / r)^2, Rubin 1987, eq. 3.1.6
    assert found.df == pytest.approx(df)
    assert found.missing_information == pytest.approx((8 / 3 + 2 / (df + 3)) / (8 / 3 + 1))
    low, high = found.interval(0.9)
    assert high - low == pytest.approx(2 * stats.t.ppf(0.95, df) * np.sqrt(22 / 3))
    assert low + high == pytest.approx(8)
    assert found.p_value(4.0) == pytest.approx(1)
    assert found.p_value(high) == pytest.approx(0.1)


def test_degrees_of_freedom_of_small_tables_by_hand() -> None:
    # lambda = (16/3) / (22/3) = 8/11; nu_obs = (n + 1) / (n + 3) * n * (1 - lambda) = 11/13 * 10 * 3/11 = 30/13
    found = combine([2.0, 4.0, 6.0], [1.0, 2.0, 3.0], complete_df=10)
    old = 2 * (11 / 8) ** 2
    assert found.df == pytest.approx(1 / (1 / old + 13 / 30))
    assert found.df < min(old, 10)
    huge = combine([2.0, 4.0, 6.0], [1.0, 2.0, 3.0], complete_df=1e12)
    assert huge.df == pytest.approx(old)


def test_nothing_missing_and_nothing_but_missing() -> None:
    same = combine([3.0, 3.0], [0.5, 0.5])
    assert same.total == 0.5
    assert same.df == np.inf
    assert same.missing_information == 0
    assert same.interval()[1] - 3 == pytest.approx(stats.norm.ppf(0.975) * np.sqrt(0.5))
    assert combine([3.0, 3.0], [0.5, 0.5], complete_df=20).df == pytest.approx(21 / 23 * 20)
    nothing = combine([1.0, 3.0], [0.0, 0.0])
    assert nothing.total == pytest.approx(3)
    assert nothing.relative_increase == np.inf
    assert nothing.missing_information == 1
    constant = combine([3.0, 3.0], [0.0, 0.0])
    assert constant.interval() == (3, 3)
    assert constant.missing_information == 0


def test_vectors_are_pooled_element_by_element() -> None:
    rng = np.random.default_rng(0)
    q, u = rng.normal(size=(5, 2, 3)), rng.uniform(size=(5, 2, 3))
    together = combine(q, u, complete_df=30)
    for i in np.ndindex(2, 3):
        alone = combine(q[:, *i], u[:, *i], complete_df=30)
        for name in ("estimate", "total", "df", "missing_information"):
            assert getattr(together, name)[i] == pytest.approx(getattr(alone, name), rel=1e-13)


@pytest.mark.parametrize("size", [100, 400])
def test_coverage_of_a_mean_with_values_missing_at_random(size: int) -> None:
    """y = z + e, missing more often where z is large; proper imputation by Bayesian regression on z.

    4000 tables: the standard error of a coverage of .95 is .0034, three of them are allowed. (Of 30 values, half
    of them missing, the intervals are too wide, .966, as the flat prior of the variance is felt.)
    """
    tables, m = 4000, 10
    rng = np.random.default_rng(4)
    z = rng.normal(size=(tables, size))
    y = 1 + z + rng.normal(size=(tables, size))
    seen = rng.uniform(size=(tables, size)) > 1 / (1 + np.exp(-1.5 * z))
    n = seen.sum(1)
    design = np.stack([np.ones_like(z), z], axis=-1)
    gram = np.einsum("rni,rnj,rn->rij", design, design, seen)
    beta = np.linalg.solve(gram, np.einsum("rni,rn->ri", design, np.where(seen, y, 0))[..., None])[..., 0]
    residual = np.where(seen, y - np.einsum("rni,ri->rn", design, beta), 0)
    root = np.linalg.cholesky(np.linalg.inv(gram))
    estimates, variances = [], []
    for _ in range(m):
        scale = np.sqrt((residual**2).sum(1) / rng.chisquare(n - 2))
        drawn = beta + scale[:, None] * np.einsum("rij,rj->ri", root, rng.normal(size=(tables, 2)))
        guess = np.einsum("rni,ri->rn", design, drawn) + scale[:, None] * rng.normal(size=(tables, size))
        full = np.where(seen, y, guess)
        estimates.append(full.mean(1))
        variances.append(full.var(1, ddof=1) / size)
    found = combine(estimates, variances, complete_df=size - 1)
    low, high = found.interval(0.95)
    coverage = ((low <= 1) & (high >= 1)).mean()
    assert coverage == pytest.approx(0.95, abs=0.0103)
    single = np.sqrt(found.within) * stats.t.ppf(0.975, size - 1)
    assert (np.abs(np.asarray(estimates[0]) - 1) <= single).mean() < 0.9  # one imputation pretends to know
    assert abs((np.where(seen, y, 0).sum(1) / n).mean() - 1) > 0.3  # and the observed alone are biased


def test_pool_runs_the_estimator_on_every_sample() -> None:
    rng = np.random.default_rng(5)
    value = rng.normal(size=(6, 4, 3, 2))  # series, sample, time, variable
    draws = xr.Dataset(
        {"value": (("series", "sample", "time", "variable"), value)}, coords={"variable": ["HR", "Temp"]}
    )

    def mean(table: xr.Dataset) -> tuple[xr.DataArray, xr.DataArray]:
        assert table.value.dims == ("series", "time", "variable")
        each = table.value.mean("time")
        return each.mean("series"), each.var("series", ddof=1) / each.sizes["series"]

    found = pool(mean, draws, complete_df=5)
    each = value.mean(2)
    by_hand = combine(each.mean(0), each.var(0, ddof=1) / 6, complete_df=5)
    np.testing.assert_allclose(found.estimate, by_hand.estimate, rtol=1e-13)
    np.testing.assert_allclose(found.total, by_hand.total, rtol=1e-13)
    assert found.imputations == 4
    with pytest.raises(ValueError, match="expected draws over"):
        pool(mean, draws.isel(sample=0))


def test_what_cannot_be_pooled_is_refused() -> None:
    with pytest.raises(ValueError, match="m >= 2 imputations"):
        combine([1.0], [1.0])
    with pytest.raises(ValueError, match="variances >= 0"):
        combine([1.0, 2.0], [1.0, -1.0])
    with pytest.raises(ValueError, match="expected estimates and variances"):
        combine([1.0, 2.0], [1.0, 1.0, 1.0])
