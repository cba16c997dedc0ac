"""How well the gaps of a table are filled: observed values are hidden, drawn, and compared with what they were."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from scidiff.timeseries import metrics
from scidiff.timeseries.asking import Told, ask
from scidiff.timeseries.calibration import Calibration
from scidiff.timeseries.filling import Request
from scidiff.timeseries.learn import Learned
from scidiff.timeseries.panel import Panel
from scidiff.timeseries.standardise import scale

LEVELS = (0.5, 0.8, 0.9)
ALL = "all"


@dataclass(frozen=True, kw_only=True, eq=False)
class Checked:
    """What came of hiding observed values.

    Attributes:
        table: by variable, and `all`: `values`, `MAE`, `MAE (line)` of linear interpolation, `CRPS (fair)`, in the
            user's units (`all`: in standard deviations), `coverage 50 %`, `80 %` and `90 %` of the central intervals,
            and with a calibration `calibrated 50 %`, ... of its intervals.
        windows: that were asked.
    """

    table: pd.DataFrame
    windows: int


def check(
    panel: Panel,
    learned: Learned,
    request: Request,
    *,
    calibration: Calibration | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Checked | None:
    """Hide a part of what was observed and judge its draws; None if there is nothing to hide.

    Args:
        panel: the table.
        learned: its model.
        request: draws, seed and steps.
        calibration: of `calibrating.calibrate`; it is checked on other series than it was fitted to.
        progress: told of windows that are done, and of their number.
    """
    told = ask(panel, learned, request, half=None if calibration is None else "second", progress=progress)
    if told is None:
        return None
    return Checked(table=_table(panel, told, calibration), windows=told.windows)


def _table(panel: Panel, told: Told, calibration: Calibration | None) -> pd.DataFrame:
    """Means over the values of each variable, and over all."""
    std = scale(panel.value)[1]
    unit = std[told.variable]
    draws, x = told.draws / unit, told.x / unit
    each = {
        "MAE": metrics.absolute_error(draws, x),
        "MAE (line)": np.abs(told.line - told.x) / unit,
        "CRPS (fair)": metrics.crps_fair(draws, x),
        **{f"coverage {100 * level:g} %": metrics.covered(draws, x, level).astype(np.float64) for level in LEVELS},
    }
    for level in () if calibration is None else LEVELS:
        if level in calibration.levels:  # type: ignore[union-attr]
            low, high = calibration.interval(told.draws, told.variable, level)  # type: ignore[union-attr]
            each[f"calibrated {100 * level:g} %"] = ((low <= told.x) & (told.x <= high)).astype(np.float64)
    frame = pd.DataFrame(each).assign(variable=told.variable)
    groups = frame.groupby("variable")
    table = groups.mean()
    table.insert(0, "values", groups.size())
    for name in ("MAE", "MAE (line)", "CRPS (fair)"):
        table[name] *= std[table.index.to_numpy()]
    table.index = pd.Index([panel.variables[v] for v in table.index])
    overall = frame.drop(columns="variable").mean()
    table.loc[ALL] = pd.concat([pd.Series({"values": float(len(x))}), overall])
    return table.astype({"values": "int64"})
