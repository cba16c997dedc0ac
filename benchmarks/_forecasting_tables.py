"""Tables of the forecasting benchmark from its runs, which may have been made one data set at a time."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

from scidiff.timeseries.forecast_scores import diebold_mariano

OURS, COHERENT = "scidiff", "scidiff, coherent"
STATISTICAL = ("seasonal naive", "seasonal naive + past errors", "AutoETS", "AutoARIMA", "VAR")
SOMETIMES = {COHERENT, "VAR"}  # which need a hierarchy, or several variables
WORSE, COVERED = 0.02, 0.02  # than the best statistical method; from nominal
Run = Mapping[str, Any]  # data, seed, horizon, origins, scores, crps, seconds, coherence


def tables(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Scores by data set and method, and mean ranks."""
    lines: list[list[Any]] = []
    means: dict[str, dict[str, float]] = {}
    for name in dict.fromkeys(run["data"] for run in runs):
        own = [run for run in runs if run["data"] == name]
        means[name] = {method: statistics.fmean(values) for method, values in _crps(own).items()}
        lines += [_line(own, method) for method in means[name]]
    every = {method for found in means.values() for method in found} - SOMETIMES
    whole = [{method: found[method] for method in every} for found in means.values() if every <= set(found)]
    ranks = np.mean([stats.rankdata([found[method] for method in sorted(every)]) for found in whole], axis=0)
    columns = ["data", "method", "CRPS", "MASE", "energy", "in 80 %", "in 95 %", "scidiff's CRPS less its own",
               "fitting s", "an origin s"]  # fmt: skip
    everywhere = sorted(zip(np.atleast_1d(ranks), sorted(every), strict=True)) if whole else []
    title = f"Mean rank by CRPS over the {len(whole)} data sets that all were run on"
    order = [[method, f"{rank:.2f}"] for rank, method in everywhere]
    rest = {"title": title, "columns": ["method", "rank"], "rows": order}
    return [{"title": "Forecasts from rolling origins", "columns": columns, "rows": lines}, rest]


def missed(runs: Sequence[Run]) -> list[str]:
    """Bars that scidiff misses."""
    found = []
    for name in dict.fromkeys(run["data"] for run in runs):
        own = [run for run in runs if run["data"] == name]
        means = {method: statistics.fmean(values) for method, values in _crps(own).items()}
        best = (1 + WORSE) * min(value for method, value in means.items() if method in STATISTICAL)
        bounds = [(OURS, best), (COHERENT, means[OURS])]
        found += [
            f"{name}: expected a CRPS of {method} of at most {bound:.4g}, got {means[method]:.4g}"
            for method, bound in bounds
            if means.get(method, 0.0) > bound
        ]
        for level in (80, 95):
            inside, error = statistics.fmean(_values(own, OURS, f"in {level} %")), _error(own, level)
            if abs(inside - level / 100) > COVERED:
                found.append(
                    f"{name}: expected {level} ± 2 % of values in their {level} % intervals, got {inside:.1%} (± "
                    f"{error:.1%}, the standard error of {own[0]['origins']} origins)"
                )
    return found


def _error(runs: Sequence[Run], level: int) -> float:
    """The standard error of scidiff's coverage, as origins tell it: the mean of the seeds at each of them."""
    each = np.mean([run["inside"][str(level)] for run in runs], axis=0)
    return float(np.std(each, ddof=1) / len(each) ** 0.5)


def _crps(runs: Sequence[Run]) -> dict[str, list[float]]:
    methods = dict.fromkeys(
        method for run in sorted(runs, key=lambda run: -len(run["scores"])) for method in run["scores"]
    )
    return {method: _values(runs, method, "CRPS") for method in methods}


def _values(runs: Sequence[Run], method: str, score: str) -> list[float]:
    found = [run["scores"][method].get(score) for run in runs if method in run["scores"]]
    return [value for value in found if value is not None]


def _line(runs: Sequence[Run], method: str) -> list[Any]:
    first = runs[0]
    cells = [_cell(_values(runs, method, score)) for score in ("CRPS", "MASE", "energy", "in 80 %", "in 95 %")]
    seconds = [run["seconds"][method] for run in runs if method in run["seconds"]]
    fit, forecast = np.mean(seconds, axis=0) if seconds else (0.0, 0.0)
    seeds = len({run["seed"] for run in runs})
    many = f"{seeds} seeds" if seeds > 1 else "1 seed"
    where = f"{first['data']}, {first['horizon']} steps, {first['origins']} origins, {many}"
    return [where, method, *cells, _against(runs, method), f"{fit:.1f}", f"{forecast:.2f}"]


def _cell(values: Sequence[float]) -> str | None:
    """Mean and, of several seeds, half the 95 % interval of the mean."""
    if not values:
        return None
    mean = statistics.fmean(values)
    if len(set(values)) < 2:
        return f"{mean:.4g}"
    half = stats.t.ppf(0.975, len(values) - 1) * statistics.stdev(values) / len(values) ** 0.5
    return f"{mean:.4g} ± {half:.2g}"


def _against(runs: Sequence[Run], method: str) -> str | None:
    """How the CRPS by origin, the mean of the seeds, differs from that of another method (Diebold-Mariano)."""
    if method == OURS:
        return None
    ours = np.mean([run["crps"][OURS] for run in runs], axis=0)
    other = np.mean([run["crps"][method] for run in runs if method in run["crps"]], axis=0)
    test = diebold_mariano(ours, other, horizon=runs[0]["lags"])
    return f"{test.difference:+.3g} (p {test.p:.2g})"
