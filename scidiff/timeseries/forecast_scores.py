"""How good forecasts are, beyond single values: what belongs together, what a naive method would do, and chance.

Ensembles are draws [K, N] of values [N], as in `metrics`, which has CRPS, energy score, coverage and PIT. No score here
stands alone: noise can win the CRPS of sums, and the variogram score does not see a bias that all values share.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

from scidiff.timeseries.metrics import Floats, checked, crps_fair

QUANTILES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


def crps_sum(draws: npt.ArrayLike, x: npt.ArrayLike, event: npt.ArrayLike) -> Floats:
    """Fair CRPS of the sum over the values of each event: [G] (Salinas et al. 2019, section 5, there of quantiles).

    Args:
        draws: [K, N].
        x: [N].
        event: [N] which event each value belongs to, such as its time; results are in the order of `np.unique`.
    """
    many, one = checked(draws, x)
    names, place = np.unique(np.asarray(event), return_inverse=True)
    sums = np.zeros((len(many) + 1, len(names)))
    for row, values in zip(sums, [one, *many], strict=True):
        np.add.at(row, place, values)
    return crps_fair(sums[1:], sums[0])


def variogram_score(draws: npt.ArrayLike, x: npt.ArrayLike, event: npt.ArrayLike, *, order: float = 0.5) -> Floats:
    """sum_ij (|x_i - x_j|^p - mean_k |X_ki - X_kj|^p)^2 over the pairs i, j of each event: [G].

    Scheuerer & Hamill 2015, eq. 13, with weights 1; each pair counts twice, as there.

    Args:
        draws: [K, N].
        x: [N].
        event: [N], as for `crps_sum`.
        order: p > 0.
    """
    if not order > 0:
        raise ValueError(f"expected an order > 0, got {order}")
    many, one = checked(draws, x)
    names, place = np.unique(np.asarray(event), return_inverse=True)
    found = np.zeros(len(names))
    for g in range(len(names)):
        here = np.flatnonzero(place == g)
        for i, first in enumerate(here[:-1]):
            others = here[i + 1 :]
            came = np.abs(one[others] - one[first]) ** order
            expected = (np.abs(many[:, others] - many[:, [first]]) ** order).mean(0)
            found[g] += 2 * np.square(came - expected).sum()
    return found


def weighted_quantile_loss(draws: npt.ArrayLike, x: npt.ArrayLike, levels: Sequence[float] = QUANTILES) -> Floats:
    """2 sum |(x - q_a) (1(x <= q_a) - a)| / sum |x| at each level a, over all values together: [len(levels)].

    The a-risk of Salinas et al. (DeepAR, 2020, section 4.1); a pure number, NaN if all values are 0.
    """
    many, one = checked(draws, x)
    size = np.abs(one).sum()
    if not size > 0:
        return np.full(len(levels), np.nan)
    quantiles = np.quantile(many, levels, axis=0)
    return np.array([
        2 * np.abs((one - q) * ((one <= q) - a)).sum() / size for a, q in zip(levels, quantiles, strict=True)
    ])  # fmt: skip


def mase(point: npt.ArrayLike, x: npt.ArrayLike, history: npt.ArrayLike, *, season: int = 1) -> float:
    """Mean |x - point| over the mean |y_t - y_(t-m)| of the history (Hyndman & Koehler 2006, section 3).

    Args:
        point: [N] forecasts of one series, the medians of the draws.
        x: [N].
        history: [T] what came before, in order; NaN where nothing was measured.
        season: m, of the seasonal naive forecast that it is measured by.

    Returns:
        The score; NaN if the history has no two values a season apart, or they are all the same.
    """
    if season < 1:
        raise ValueError(f"expected a season of at least 1 step, got {season}")
    (guess,), one = checked(np.asarray(point)[None], x)
    before = np.asarray(history, dtype=np.float64)
    steps = np.abs(before[season:] - before[:-season])
    steps = steps[~np.isnan(steps)]
    scale = float(steps.mean()) if len(steps) else 0.0
    return float(np.abs(one - guess).mean() / scale) if scale > 0 else float("nan")


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What became of a test of two forecasts.

    Attributes:
        difference: mean score of the first less that of the second; negative if the first is better.
        statistic: its ratio to its standard error; NaN if that cannot be told.
        p: two-sided probability of one as large if both are equally good.
    """

    difference: float
    statistic: float
    p: float


def diebold_mariano(first: npt.ArrayLike, second: npt.ArrayLike, *, horizon: int = 1) -> Comparison:
    r"""Whether two forecasts differ in accuracy, from the scores of both at n successive origins.

        V = (gamma_0 + 2 sum_(k < h) gamma_k) / n,   gamma_k = mean of (d_t - mean d) (d_(t-k) - mean d) over n
        statistic = mean d / sqrt(V) * sqrt((n + 1 - 2 h + h (h - 1) / n) / n),   Student's t with n - 1 degrees

    (Diebold & Mariano 1995, eq. 3; corrected by Harvey, Leybourne & Newbold 1997, eq. 9). Where V comes out negative,
    as it can for h > 1, there is no statistic. With h = 1 it is the paired t-test.

    Args:
        first, second: [n] scores (the less the better), such as the mean CRPS of each origin.
        horizon: h, in steps between origins: differences h or more origins apart have nothing in common.

    Raises:
        ValueError: shapes that differ, or fewer than 2 or not more than h origins.
    """
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if a.ndim != 1 or a.shape != b.shape or not 1 <= horizon < max(len(a), 2) or len(a) < 2:
        raise ValueError(f"expected scores [n] of both, n > horizon >= 1, got {a.shape}, {b.shape} and {horizon}")
    d = a - b
    count, mean = len(d), float(d.mean())
    centred = d - mean
    lags = [float(centred[k:] @ centred[: count - k]) / count for k in range(horizon)]
    variance = (lags[0] + 2 * sum(lags[1:])) / count
    factor = (count + 1 - 2 * horizon + horizon * (horizon - 1) / count) / count
    if not (variance > 0 and factor > 0):
        return Comparison(difference=mean, statistic=float("nan"), p=float("nan"))
    statistic = mean / variance**0.5 * factor**0.5
    return Comparison(difference=mean, statistic=statistic, p=float(2 * stats.t.sf(abs(statistic), count - 1)))
