"""Metrics per variable and overall, with intervals that know that the values of one series belong together.

Every metric is a function of sums over values. They are kept by series and variable, and a bootstrap resamples whole
series (Field & Welsh 2007): values of one patient are no independent witnesses. Two methods are compared on the same
resamples, so that what makes a patient hard for both cancels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from scidiff.timeseries import metrics
from scidiff.timeseries.metrics import LEVELS, Floats

ALL = "all"
COVERAGES = (0.5, 0.8, 0.9)
_CHUNK = 2_000_000  # numbers judged at once
_BLOCK = 2_000_000  # weights of resamples held at once


@dataclass(frozen=True, kw_only=True, eq=False)
class Judged:
    """Sums over the values of each series and variable, from which every metric follows.

    Attributes:
        series: [S] identities, sorted.
        variables: V names.
        draws: K, of the method.
        sums: by name, each [S, V]: count, size (of |x|), absolute and squared errors, fair and pinball CRPS; with two
            draws or more also coverages and how many PITs are below each of `LEVELS`.
    """

    series: npt.NDArray[np.object_ | np.int64 | np.str_]
    variables: tuple[str, ...]
    draws: int
    sums: Mapping[str, Floats]


def judge(
    draws: npt.ArrayLike,
    x: npt.ArrayLike,
    *,
    series: npt.ArrayLike,
    variable: npt.ArrayLike,
    variables: Sequence[str],
    seed: int = 0,
) -> Judged:
    """Judge draws of hidden values.

    Args:
        draws: [K, N]; K = 1 for a method without draws.
        x: [N], what was hidden.
        series: [N] identity of the series of each value.
        variable: [N] number of the variable of each value, 0 to V - 1.
        variables: V names.
        seed: of the randomised PIT.

    Raises:
        ValueError: shapes that do not fit, no values, numbers that are not finite, a variable out of range.
    """
    many, one = np.asarray(draws), np.asarray(x, dtype=np.float64)
    names, place = np.unique(np.asarray(series), return_inverse=True)
    code = np.asarray(variable, dtype=np.int64)
    if not len(one) or place.shape != one.shape or code.shape != one.shape:
        raise ValueError(f"expected N > 0 values, series and variables, got {one.shape}, {place.shape}, {code.shape}")
    if code.min() < 0 or code.max() >= len(variables):
        raise ValueError(f"expected variables 0 to {len(variables) - 1}, got {code.min()} to {code.max()}")
    coin = metrics.keyed_uniform(len(one), seed=seed, name="pit")
    size = len(names) * len(variables)
    sums: dict[str, Floats] = {}
    chunk = max(_CHUNK // max(len(many), 1), 1)
    for first in range(0, len(one), chunk):
        part = slice(first, first + chunk)
        where = place[part] * len(variables) + code[part]
        for name, term in _terms(many[:, part], one[part], coin[part]).items():
            sums[name] = sums.get(name, np.zeros(size)) + np.bincount(where, term, size)
    shaped = {name: total.reshape(len(names), -1) for name, total in sums.items()}
    return Judged(series=names, variables=tuple(variables), draws=len(many), sums=shaped)


def _terms(draws: npt.ArrayLike, x: Floats, coin: Floats) -> dict[str, Floats]:
    """What each value adds to the sums: [N] each."""
    many, one = metrics.checked(draws, x)
    many = np.sort(many, axis=0)
    terms = {
        "count": np.ones_like(one),
        "size": np.abs(one),
        "absolute": metrics.absolute_error(many, one),
        "squared": metrics.squared_error(many, one),
        "fair": metrics.crps_fair(many, one),
        "pinball": metrics.pinball_quantiles(many, one),
    }
    if len(many) > 1:
        low, high = metrics.pit_bounds(many, one)
        rank = low + coin * (high - low)
        for level in COVERAGES:
            terms[f"covered {level:g}"] = metrics.covered(many, one, level).astype(np.float64)
        for level in LEVELS:
            terms[f"pit {level:g}"] = (rank <= level).astype(np.float64)
    return terms


def scores(judged: Judged, *, resamples: int = 1000, seed: int = 0, level: float = 0.95) -> pd.DataFrame:
    """Every metric with its interval: indexed by (variable, metric), columns `value`, `low`, `high`, `values`.

    Metrics: MAE (of the median), RMSE (of the mean), `CRPS (fair)`, `CRPS (19 quantiles, normalised)`, coverage of the
    50, 80 and 90 % intervals, and `PIT distance`, the largest |F(u) - u| of the PIT over 19 levels u (at its best not 0
    but what chance makes of so few values). NaN for a variable without values; `values` says how many there are.

    Args:
        judged: by `judge`.
        resamples: of the series, with replacement.
        seed: keys them.
        level: of the percentile interval (Efron & Tibshirani 1993, section 13.3).
    """
    found = _metrics(_totals(judged, np.ones((1, len(judged.series)))))
    many = _resampled(judged, resamples=resamples, seed=seed)
    return _table(judged, {k: v[0] for k, v in found.items()}, many, level)


def paired(first: Judged, second: Judged, *, resamples: int = 1000, seed: int = 0, level: float = 0.95) -> pd.DataFrame:
    """Differences of the metrics, first - second, with intervals of the paired bootstrap; a table like `scores`.

    Raises:
        ValueError: the two have not been judged on the same values.
    """
    same = np.array_equal(first.series, second.series) and first.variables == second.variables
    if not same or not all(np.array_equal(first.sums[k], second.sums[k]) for k in ("count", "size")):
        raise ValueError("expected two methods judged on the same values of the same series, got others")
    ones = np.ones((1, len(first.series)))
    a, b = (_metrics(_totals(one, ones)) for one in (first, second))
    many_a, many_b = (_resampled(one, resamples=resamples, seed=seed) for one in (first, second))
    shared = [name for name in a if name in b]
    value = {name: a[name][0] - b[name][0] for name in shared}
    return _table(first, value, {name: many_a[name] - many_b[name] for name in shared}, level)


def _totals(judged: Judged, weights: Floats) -> dict[str, Floats]:
    """Sums over series with weights [R, S]: [R, V + 1] by name, all variables together last."""
    return {
        name: np.concatenate([weights @ part, (weights @ part.sum(1))[:, None]], axis=1)
        for name, part in judged.sums.items()
    }


def _metrics(total: Mapping[str, Floats]) -> dict[str, Floats]:
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = {name: value / total["count"] for name, value in total.items()}
        found = {
            "MAE": mean["absolute"],
            "RMSE": np.sqrt(mean["squared"]),
            "CRPS (fair)": mean["fair"],
            "CRPS (19 quantiles, normalised)": total["pinball"] / total["size"],
        }
    ranks = [np.abs(mean[f"pit {a:g}"] - a) for a in LEVELS if f"pit {a:g}" in mean]
    if ranks:
        found |= {f"coverage {100 * a:g} %": mean[f"covered {a:g}"] for a in COVERAGES}
        found["PIT distance"] = np.max(ranks, axis=0)
    return found


def _resampled(judged: Judged, *, resamples: int, seed: int) -> dict[str, Floats]:
    """The metrics of resamples of the series: [resamples, V + 1] by name; a function of seed and number of series."""
    size = len(judged.series)
    chosen = metrics.keyed_uniform(resamples, seed=seed, name="series", shape=(size,))
    chosen = np.minimum((chosen * size).astype(np.int64), size - 1)
    parts: list[dict[str, Floats]] = []
    block = max(_BLOCK // size, 1)
    for first in range(0, resamples, block):
        some = chosen[first : first + block]
        place = np.arange(len(some))[:, None] * size + some
        weights = np.bincount(place.ravel(), minlength=len(some) * size).reshape(len(some), size).astype(np.float64)
        parts.append(_metrics(_totals(judged, weights)))
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _table(judged: Judged, value: Mapping[str, Floats], many: Mapping[str, Floats], level: float) -> pd.DataFrame:
    labels = [*judged.variables, ALL]
    count = np.append(judged.sums["count"].sum(0), judged.sums["count"].sum()).astype(np.int64)
    rows = []
    for name, found in value.items():
        low, high = np.full((2, len(labels)), np.nan)
        for v, column in enumerate(many[name].T):  # a resample may hold no value of a rare variable
            if np.isfinite(column).any():
                low[v], high[v] = np.nanquantile(column, [(1 - level) / 2, (1 + level) / 2])
        rows += [(labels[v], name, found[v], low[v], high[v], count[v]) for v in range(len(labels))]
    table = pd.DataFrame(rows, columns=["variable", "metric", "value", "low", "high", "values"])
    return table.set_index(["variable", "metric"])
