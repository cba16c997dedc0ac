"""Intervals of a table that are as wide as they should be, learned on a half of its series."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from scidiff.errors import UserError
from scidiff.timeseries import calibration
from scidiff.timeseries.asking import Told, ask
from scidiff.timeseries.calibration import Calibration, needed
from scidiff.timeseries.evaluate import LEVELS
from scidiff.timeseries.filling import Request
from scidiff.timeseries.learn import Learned
from scidiff.timeseries.panel import Panel

WINDOWS = 96  # at most, that are asked


def central(quantiles: Sequence[float]) -> tuple[float, ...]:
    """Levels of the central intervals that quantiles bound, ascending; UserError for a quantile without its pair."""
    pairs = sorted({round(abs(1 - 2 * level), 9) for level in quantiles if level != 0.5})
    for level in pairs:
        for end in ((1 - level) / 2, (1 + level) / 2):
            if not any(abs(end - given) < 1e-9 for given in quantiles):
                raise UserError(f"expected quantiles in pairs p and 1 - p to calibrate, got none at {end:g}")
    return tuple(pairs)


def calibrate(
    panel: Panel,
    learned: Learned,
    request: Request,
    *,
    levels: Sequence[float],
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[Calibration, tuple[str, ...]]:
    """A calibration of the central intervals of some levels, and what was decided, one line each.

    Values are hidden in a random half of the series, or of those that training left out: the other half is for
    `evaluate.check`. Variables in too few of them are left as the model has them.

    Raises:
        UserError: too few series for every variable.
    """
    told = ask(panel, learned, request, half="first", most=WINDOWS, progress=progress)
    wanted = tuple(sorted({*levels, *LEVELS}))
    spread, widening = np.ones(len(panel.variables)), np.zeros((len(wanted), len(panel.variables)))
    able: list[str] = []
    left: list[str] = []
    for v in [] if told is None else np.unique(told.variable).tolist():
        one = _one(told, v, panel, wanted, request.seed)  # type: ignore[arg-type]
        (left if one is None else able).append(panel.variables[v])
        if one is not None:
            (spread[v],), widening[:, v] = one.spread, [row[0] for row in one.widening]
    if told is None or not able:
        raise UserError(
            f"calibration: expected hidden values of a variable in at least {2 * needed(max(wanted))} series that "
            f"training left out, for intervals of {100 * max(wanted):g} %, got fewer: leave it out"
        )
    whole = Calibration(
        variables=panel.variables,
        levels=wanted,
        spread=tuple(spread.tolist()),
        widening=tuple(tuple(row) for row in widening.tolist()),
    )
    notes = [f"intervals of {len(able)} variables calibrated on {len(np.unique(told.series))} series"]
    if left:
        notes.append(f"not calibrated, being in too few series: {', '.join(left)}")
    return whole, tuple(notes)


def _one(told: Told, v: int, panel: Panel, levels: tuple[float, ...], seed: int) -> Calibration | None:
    """The calibration of one variable; None if it is in too few series."""
    here = told.variable == v
    try:
        return calibration.fit(
            told.draws[:, here],
            told.x[here],
            series=told.series[here],
            variable=np.zeros(int(here.sum()), dtype=np.int64),
            variables=[panel.variables[v]],
            levels=levels,
            seed=seed,
        )
    except UserError:
        return None
