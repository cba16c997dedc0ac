"""How well the gaps of a table are filled: observed values are hidden, drawn, and compared with what they were.

Where a model was trained on the table, the series it was not trained on are asked; elsewhere some of all.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from scidiff.timeseries import metrics
from scidiff.timeseries.filling import Request
from scidiff.timeseries.impute import Imputation
from scidiff.timeseries.learn import Learned, make_grid
from scidiff.timeseries.metrics import Bools, Floats, keyed_uniform
from scidiff.timeseries.panel import Ints, Panel
from scidiff.timeseries.standardise import scale

WINDOWS = 24  # at most, that are asked
_LEAST = 8
_HIDDEN = 0.2
LEVELS = (0.5, 0.8, 0.9)
ALL = "all"


@dataclass(frozen=True, kw_only=True, eq=False)
class Checked:
    """What came of hiding observed values.

    Attributes:
        table: by variable, and `all`: `values`, `MAE`, `MAE (line)` of linear interpolation, `CRPS (fair)`, in the
            user's units (`all`: in standard deviations), `coverage 50 %`, `80 %` and `90 %` of the central intervals.
        windows: that were asked.
    """

    table: pd.DataFrame
    windows: int


def check(
    panel: Panel,
    learned: Learned,
    request: Request,
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Checked | None:
    """Hide a part of what was observed and judge its draws; None if there is nothing to hide.

    Args:
        panel: the table.
        learned: its model.
        request: draws, seed and steps.
        progress: told of windows that are done, and of their number.
    """
    grid = make_grid(panel, step=request.step, window=learned.window)
    job = Imputation(
        model=learned.model,
        panel=panel,
        grid=grid,
        translation=learned.translation,
        draws=request.draws,
        seed=request.seed,
        steps=request.steps,
        rules=request.rules,
    )
    asked = _asked(job, learned, request.seed)
    known = np.zeros(len(panel.variables), dtype=bool)
    known[learned.translation.here] = True
    std = scale(panel.value)[1]
    found: list[tuple[Floats, Floats, Floats, Ints]] = []
    for k, (number, hidden) in enumerate(asked):
        progress(k, len(asked))
        cell = hidden & known
        if not cell.any():
            continue
        values = grid.values[number, : len(hidden)].astype(np.float64)
        line = _interpolated(np.where(hidden, np.nan, values), grid.time[number, : len(hidden)], panel)
        drawn = job.window(number, hidden=hidden)
        variable = np.nonzero(cell)[1]
        unit = std[variable]
        found.append((drawn[:, cell] / unit, values[cell] / unit, line[cell] / unit, variable))
    progress(len(asked), len(asked))
    if not found:
        return None
    draws, x, line = (np.concatenate([part[k] for part in found], axis=-1) for k in range(3))
    variable = np.concatenate([part[3] for part in found])
    table = _table(panel, std, draws=draws, x=x, line=line, variable=variable)
    return Checked(table=table, windows=len({number for number, hidden in asked if hidden.any()}))


def _asked(job: Imputation, learned: Learned, seed: int) -> list[tuple[int, Bools]]:
    """Windows, and which of their observed cells are hidden: [length, V] each. Few windows are asked several times."""
    grid, held = job.grid, learned.holdout
    if held is not None and held.unit == "values":
        asked = []
        for number, mask in zip(held.number.tolist()[:WINDOWS], held.asked.numpy(), strict=False):
            cells = np.zeros(grid.mask.shape[1:], dtype=bool)
            cells[:, learned.translation.here] = mask[:, learned.translation.there]
            asked.append((number, (cells & grid.mask[number])[: grid.length[number]]))
        return asked
    usable = np.flatnonzero(grid.mask.sum((1, 2)) >= 2) if held is None else np.unique(held.number.numpy())
    order = np.argsort(keyed_uniform(len(usable), seed=seed, name="windows"), kind="stable")
    chosen = np.tile(np.sort(usable[order[:WINDOWS]]), max(1, _LEAST // max(len(usable), 1)))
    coin = keyed_uniform(len(chosen), seed=seed, name="hidden", shape=grid.mask.shape[1:])
    return [(int(n), (grid.mask[n] & (coin[k] < _HIDDEN))[: grid.length[n]]) for k, n in enumerate(chosen)]


def _interpolated(values: Floats, time: Floats, panel: Panel) -> Floats:
    """Linear interpolation of what is visible, the mean of the table where nothing is: [L, V]."""
    mean = scale(panel.value)[0]
    out = np.tile(mean, (len(values), 1))
    for v in range(values.shape[1]):
        seen = ~np.isnan(values[:, v])
        if seen.any():
            out[:, v] = np.interp(time, time[seen], values[seen, v])
    return out


def _table(panel: Panel, std: Floats, *, draws: Floats, x: Floats, line: Floats, variable: Ints) -> pd.DataFrame:
    """Means over the values of each variable, and over all."""
    each = {
        "MAE": metrics.absolute_error(draws, x),
        "MAE (line)": np.abs(line - x),
        "CRPS (fair)": metrics.crps_fair(draws, x),
        **{f"coverage {100 * level:g} %": metrics.covered(draws, x, level).astype(np.float64) for level in LEVELS},
    }
    frame = pd.DataFrame(each).assign(variable=variable)
    groups = frame.groupby("variable")
    table = groups.mean()
    table.insert(0, "values", groups.size())
    unit = std[table.index.to_numpy()]
    for name in ("MAE", "MAE (line)", "CRPS (fair)"):
        table[name] *= unit
    table.index = pd.Index([panel.variables[v] for v in table.index])
    overall = frame.drop(columns="variable").mean()
    table.loc[ALL] = pd.concat([pd.Series({"values": float(len(x))}), overall])
    return table.astype({"values": "int64"})
