"""Coverage of intervals, as they come and calibrated on other stays (`scidiff.timeseries.calibration`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from _imputation_data import Floats, Mask, Stays, hide
from _imputation_methods import Method

from scidiff.errors import UserError
from scidiff.timeseries import calibration
from scidiff.timeseries.metrics import interval

LEVELS = calibration.LEVELS
LEAST = 200  # values of a variable that is judged by itself
ENOUGH = 25  # stays with values of a variable, to calibrate it
_RESAMPLES = 200


def coverage(method: Method, stays: Stays, ratio: float, *, draws: int, seed: int) -> dict[str, Any]:
    """Whether hidden values of the second half of the stays are within intervals; the first half calibrates."""
    half = len(stays) // 2
    first, second = (_hidden(method, part, ratio, draws=draws, seed=seed) for part in (stays[:half], stays[half:]))
    count = len(stays.variables)
    often = np.array([len(np.unique(first["series"][first["variable"] == v])) >= ENOUGH for v in range(count)])
    if not often.any():
        raise UserError(f"expected a variable with hidden values in {ENOUGH} stays, got none: ask for more stays")
    first, second = (_only(part, often) for part in (first, second))
    learned = calibration.fit(
        first["draws"], first["x"], series=first["series"], variable=first["variable"],
        variables=[name for name, here in zip(stays.variables, often, strict=True) if here], levels=LEVELS, seed=seed,
    )  # fmt: skip
    ends = {
        "as they come": [interval(second["draws"], level) for level in LEVELS],
        "calibrated": [learned.interval(second["draws"], second["variable"], level) for level in LEVELS],
    }
    held = {name: np.stack([(low <= second["x"]) & (second["x"] <= high) for low, high in both])
            for name, both in ends.items()}  # fmt: skip
    return {"hidden": ratio, "stays": len(stays) - half, "rows": [_judged(name, held[name], second) for name in held]}


def _hidden(method: Method, stays: Stays, ratio: float, *, draws: int, seed: int) -> dict[str, Any]:
    asked = hide(stays.observed, ratio, seed)
    found = method.impute(stays.replace(np.where(asked, np.nan, stays.values)), asked, draws)
    series, _, variable = np.nonzero(asked)
    return {"draws": found, "x": stays.values[asked], "series": series, "variable": variable}


def _only(values: dict[str, Any], often: Mask) -> dict[str, Any]:
    """Those of some variables, which are numbered anew."""
    here, number = often[values["variable"]], np.cumsum(often) - 1
    kept = {name: value[..., here] for name, value in values.items()}
    return kept | {"variable": number[kept["variable"]]}


def _judged(name: str, held: Floats, values: dict[str, Any]) -> dict[str, Any]:
    """Over all values, with the standard error over stays, and of each variable with values enough."""
    variable = values["variable"]
    often = [v for v in np.unique(variable) if (variable == v).sum() >= LEAST]
    off = np.array(
        [[here[variable == v].mean() - level for v in often] for here, level in zip(held, LEVELS, strict=True)]
    )
    chance = np.array([_error(held[k], values["series"]) for k in range(len(LEVELS))])
    return {"name": name, "coverage": held.mean(1).tolist(), "error": chance.tolist(), "variables": len(often),
            "off": np.abs(off).mean(1).tolist(), "beyond": (np.abs(off) > 0.02).sum(1).tolist()}  # fmt: skip


def _error(held: Floats, series: Floats) -> float:
    """Standard error of a mean whose values come by stays."""
    count, right = np.bincount(series), np.bincount(series, weights=held)
    pick = np.random.default_rng(0).integers(len(count), size=(_RESAMPLES, len(count)))
    return float((right[pick].sum(1) / count[pick].sum(1)).std())


def table(found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One line a share of hidden values, before and after."""
    lines = []
    for one in found:
        for row in one["rows"]:
            shown = [f"{100 * c:.1f} ± {196 * e:.1f}" for c, e in zip(row["coverage"], row["error"], strict=True)]
            each = [
                f"{100 * off:.1f} ({n} of {row['variables']})" for off, n in zip(row["off"], row["beyond"], strict=True)
            ]
            lines.append([f"{one['hidden']:.0%}", row["name"], one["stays"], *shown, *each])
    levels = [f"{100 * level:g} %" for level in LEVELS]
    return {
        "title": f"Coverage of intervals, calibrated on as many other stays, of variables that {ENOUGH} of these have; "
        f"of single ones with {LEAST} hidden values how far off in the mean, and how many by over 2 points",
        "columns": ["hidden", "intervals", "stays", *levels, *(f"variables, {level}" for level in levels)],
        "rows": lines,
    }


def missed(found: Sequence[dict[str, Any]]) -> list[str]:
    """Calibrated intervals that are more than 2 points off over all values."""
    return [
        f"calibrated {100 * level:g} % intervals, {one['hidden']:.0%} hidden: expected 2 points off, got {100 * c:.1f}"
        for one in found
        for row in one["rows"]
        if row["name"] == "calibrated"
        for c, level in zip(row["coverage"], LEVELS, strict=True)
        if abs(c - level) > 0.02
    ]
