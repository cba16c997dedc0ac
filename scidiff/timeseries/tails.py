"""How far out in the tail of its draws a value lies, and which of many such values to believe."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import stats

from scidiff.timeseries.metrics import Floats


def student(draws: Floats, x: Floats) -> tuple[Floats, Floats]:
    """Place t of x and its unit s under the predictive distribution of K normal draws: x = mean + s t, t ~ t_{K-1}.

    s = std sqrt(1 + 1/K), exact for normal draws of unknown mean and variance.

    Args:
        draws: [K, ...], K >= 2.
        x: [...] or [M, ...].

    Returns:
        t of the shape of x, and s [...]. Where all draws are equal, t is 0 or infinite.
    """
    count = len(draws)
    mean = draws.mean(0)
    unit = draws.std(0, ddof=1) * np.sqrt(1 + 1 / count)
    with np.errstate(divide="ignore", invalid="ignore"):
        place = np.where(x == mean, 0.0, (x - mean) / unit)
    return place, unit


def two_sided(draws: npt.ArrayLike, x: npt.ArrayLike) -> Floats:
    """Two-sided tail probability of x among its draws.

        within the draws       2 (1 + number of draws on the emptier side) / (K + 1)      uniform for any distribution
        beyond all of them     that, or the tail of Student's t if it is smaller           exact for a normal one

    Let it judge values in coordinates in which the conditional distribution is about normal.

    Args:
        draws: [K, ...], K >= 2.
        x: [...].

    Returns:
        [...] in (0, 1]: P(p <= a) <= a for a >= 2 / (K + 1) whatever the distribution, for all a if it is normal. NaN
        where x is NaN.
    """
    many, one = np.asarray(draws, dtype=np.float64), np.asarray(x, dtype=np.float64)
    if len(many) < 2:
        raise ValueError(f"expected at least 2 draws, got {len(many)}")
    emptier = np.minimum((many <= one).sum(0), (many >= one).sum(0))
    rank = np.minimum(2 * (1 + emptier) / (len(many) + 1), 1.0)
    place, _ = student(many, one)
    beyond = np.minimum(rank, 2 * stats.t.sf(np.abs(place), len(many) - 1))
    p = np.where(emptier == 0, beyond, rank)
    return np.asarray(np.where(np.isnan(one), np.nan, np.maximum(p, np.finfo(np.float64).tiny)))


def log_density(draws: Floats, x: Floats) -> Floats:
    """Log density of the predictive t distribution of the draws [K, ...] at x [...] or [M, ...]."""
    place, unit = student(draws, x)
    return np.asarray(stats.t.logpdf(place, len(draws) - 1) - np.log(unit))


def benjamini_hochberg(p: npt.ArrayLike, *, tests: int | None = None) -> Floats:
    """Adjusted p-values (Benjamini & Hochberg 1995): of those <= a, a part of at most a is expected to be false.

    The expectation is over tests that are independent or positively dependent.

    Args:
        p: [N] in [0, 1]; NaN is no test and stays.
        tests: how many tests there were, if more than there are p-values here: those left out had p = 1.
    """
    one = np.asarray(p, dtype=np.float64)
    kept = np.flatnonzero(~np.isnan(one))
    count = len(kept) if tests is None else tests
    if count < len(kept):
        raise ValueError(f"expected at least {len(kept)} tests, got {count}")
    order = kept[np.argsort(-one[kept], kind="stable")]
    rank = np.arange(len(kept), 0, -1)
    adjusted = np.full_like(one, np.nan)
    adjusted[order] = np.minimum.accumulate(np.minimum(one[order] * count / rank, 1.0))
    return adjusted
