"""Rubin's rules: one estimate from the estimates of m imputed tables, with an error that knows what was missing.

    Q = mean Q_l                         estimate
    T = U + (1 + 1/m) B                  its variance: within U = mean U_l, between B = var Q_l
    Q -+ t_df sqrt(T)                    interval

Rubin (1987, chapter 3); degrees of freedom of small tables by Barnard & Rubin (1999). The rules hold for estimates that
are about normal (of a proportion or a correlation pool its logit or Fisher's z), and for proper imputations: draws of
what is missing given what is observed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr
from scipy import stats

Floats = npt.NDArray[np.float64]
Estimator = Callable[[xr.Dataset], tuple[npt.ArrayLike, npt.ArrayLike]]


@dataclass(frozen=True, kw_only=True, eq=False)
class Pooled:
    """What m imputations say of an estimate of shape [...]; each attribute is an array of that shape.

    Attributes:
        estimate: Q.
        within: U, the variance there would be if nothing were missing.
        between: B, of the estimates.
        total: T.
        df: degrees of freedom of the reference t distribution; infinity for the normal.
        relative_increase: r = (1 + 1/m) B / U, of the variance, because of what is missing.
        missing_information: the fraction that is missing, (r + 2 / (df + 3)) / (r + 1).
        imputations: m.
    """

    estimate: Floats
    within: Floats
    between: Floats
    total: Floats
    df: Floats
    relative_increase: Floats
    missing_information: Floats
    imputations: int

    @property
    def error(self) -> Floats:
        """Standard error, sqrt(T)."""
        return np.asarray(np.sqrt(self.total))

    def interval(self, level: float = 0.95) -> tuple[Floats, Floats]:
        """Confidence interval of a level in (0, 1): low and high."""
        if not 0 < level < 1:
            raise ValueError(f"expected a level in (0, 1), got {level}")
        reach = stats.t.ppf((1 + level) / 2, self.df) * self.error
        return self.estimate - reach, self.estimate + reach

    def p_value(self, null: npt.ArrayLike = 0.0) -> Floats:
        """Two-sided p-value of the estimate being `null`."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray(2 * stats.t.sf(np.abs(self.estimate - np.asarray(null)) / self.error, self.df))


def combine(estimates: npt.ArrayLike, variances: npt.ArrayLike, *, complete_df: float = np.inf) -> Pooled:
    """Rubin's rules.

    Args:
        estimates: [m, ...], of each imputed table; m >= 2.
        variances: [m, ...], the squares of their standard errors, >= 0.
        complete_df: degrees of freedom if nothing were missing, for instance n - 1 of a mean of n values. Without it
            intervals of small tables are too narrow.

    Raises:
        ValueError: fewer than two imputations, shapes that differ, a number that is not finite, a negative variance.
    """
    q, u = np.asarray(estimates, dtype=np.float64), np.asarray(variances, dtype=np.float64)
    if q.ndim == 0 or len(q) < 2 or q.shape != u.shape:
        raise ValueError(f"expected estimates and variances [m, ...] of m >= 2 imputations, got {q.shape}, {u.shape}")
    if not (np.isfinite(q).all() and np.isfinite(u).all() and (u >= 0).all() and complete_df > 0):
        raise ValueError("expected finite estimates, variances >= 0 and complete_df > 0, got others")
    m = len(q)
    within, between = u.mean(0), q.var(0, ddof=1)
    total = within + (1 + 1 / m) * between
    with np.errstate(divide="ignore", invalid="ignore"):
        increase = (1 + 1 / m) * between / within
        part = np.where(total > 0, (1 + 1 / m) * between / total, 0.0)  # lambda
        old = (m - 1) / part**2
    if np.isfinite(complete_df):
        observed = (complete_df + 1) / (complete_df + 3) * complete_df * (1 - part)
        with np.errstate(divide="ignore"):
            df = 1 / (1 / old + 1 / observed)
    else:
        df = old
    increase = np.where(total > 0, increase, 0.0)
    # (r + 2 / (df + 3)) / (r + 1), written with lambda = r / (r + 1) so that it stands for U = 0 too
    missing = part + (1 - part) * 2 / (df + 3)
    return Pooled(
        estimate=q.mean(0),
        within=within,
        between=between,
        total=total,
        df=np.asarray(df),
        relative_increase=np.asarray(increase),
        missing_information=np.asarray(missing),
        imputations=m,
    )


def pool(estimator: Estimator, draws: xr.Dataset, *, complete_df: float = np.inf) -> Pooled:
    """Estimate on each imputed table, and pool.

    Args:
        estimator: of one imputed table, a Dataset with `value` over (series, time, variable): the estimate and its
            variance (the square of its standard error), numbers or arrays of one shape.
        draws: `value` over (series, sample, time, variable), as `draws_dataset` makes it.
        complete_df: see `combine`.

    Example:
        def mean_rate(table):
            rate = table.value.sel(variable="HR").mean("time")
            return rate.mean(), rate.var(ddof=1) / rate.size
        pool(mean_rate, draws, complete_df=draws.sizes["series"] - 1).interval()
    """
    if "sample" not in draws.dims:
        raise ValueError(f"expected draws over (series, sample, time, variable), got {tuple(draws.dims)}")
    found: list[tuple[Any, Any]] = [estimator(draws.isel(sample=k)) for k in range(draws.sizes["sample"])]
    estimates = np.stack([np.asarray(q, dtype=np.float64) for q, _ in found]) if found else np.empty(0)
    variances = np.stack([np.asarray(u, dtype=np.float64) for _, u in found]) if found else np.empty(0)
    return combine(estimates, variances, complete_df=complete_df)
