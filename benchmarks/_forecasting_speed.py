"""How fast futures are drawn, and what fewer network calls cost: the part `speed` of the forecasting benchmark."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pandas as pd
from _forecasting_data import Data

from scidiff.timeseries.backtest import before
from scidiff.timeseries.columns import Options
from scidiff.timeseries.forecaster import DiffusionForecaster
from scidiff.timeseries.frames import read_frame
from scidiff.timeseries.metrics import crps_fair

CASES = (("patches", 1000, 48, 60.0), ("recurrent", 8, 24, 1.0))  # network, series, steps, bar in seconds
SAMPLES = 100
CALLS = (100, 20, 6)


def speed(cases: tuple[tuple[str, int, int, float], ...]) -> dict[str, Any]:
    """Processor time of drawing for many series of a made-up panel, with weights that hardly trained."""
    rows = []
    for network, series, steps, bar in cases:
        stamps = pd.date_range("2024-01-01", periods=24 * 40, freq="h")
        day = np.sin(np.arange(len(stamps)) * np.pi / 12)
        noise = np.random.default_rng(0).normal(size=(series, len(stamps))) / 3
        table = pd.concat([pd.DataFrame({"id": s, "time": stamps, "x": day + noise[s]}) for s in range(series)])
        panel = read_frame(table)
        forecaster = DiffusionForecaster(horizon=steps, network=network, max_steps=1, n_draws=SAMPLES)
        forecaster.fit_panel(panel.select(list(range(8))))
        forecaster.forecast_panel(panel.select([0]))  # warm
        began, clock = time.process_time(), time.perf_counter()
        forecaster.forecast_panel(panel)
        spent, wall = time.process_time() - began, time.perf_counter() - clock
        rows.append([network, series, steps, SAMPLES, f"{spent:.2f}", f"{wall:.2f}", f"{bar:g}"])
    columns = ["network", "series", "steps", "samples", "processor s", "s", "bar s"]
    return {"title": "Drawing on one thread, six calls", "columns": columns, "rows": rows}


def fewer_calls(found: Data, seed: int, steps: int) -> dict[str, Any]:
    """The recurrent network of one data set, drawn with more and fewer calls a step from the same weights."""
    panel = read_frame(found.table, Options(time="timestamp", variables=found.targets, duplicates="mean"))
    settings: dict[str, Any] = {"time": "timestamp", "target": found.targets, "holidays": found.country, "seed": seed}
    forecaster = DiffusionForecaster(
        horizon=found.horizon, network="recurrent", n_draws=SAMPLES, max_steps=steps, **settings
    )
    ends = np.diff(panel.offsets) - found.horizon * np.arange(found.count, 0, -1)[:, None]  # [origins, S]
    forecaster.fit_panel(before(panel, ends[0]))
    (values,) = panel.values
    rows = []
    for calls in CALLS:
        forecaster.steps = calls
        errors, began = [], time.process_time()
        for (end,) in ends:
            draws = forecaster.forecast_panel(panel, origins=np.array([end])).draws[0]
            truth = values[end : end + found.horizon]
            errors.append(np.nanmean(crps_fair(draws.reshape(SAMPLES, -1), truth.ravel())))
        spent = (time.process_time() - began) / found.count
        rows.append([calls, f"{np.mean(errors):.4g}", f"{spent:.2f}"])
    columns = ["calls a step", "CRPS", "processor s an origin"]
    return {"title": f"TimeGrad on {found.name}, the same weights", "columns": columns, "rows": rows}
