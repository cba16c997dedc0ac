"""How fast futures are drawn: the part `speed` of the forecasting benchmark."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pandas as pd
import torch

from scidiff.timeseries.forecaster import DiffusionForecaster
from scidiff.timeseries.frames import read_frame

SERIES, STEPS, SAMPLES = 1000, 48, 100
BAR = 60.0  # seconds, on two cores


def speed(series: int) -> dict[str, Any]:
    """Time of drawing for a made-up panel, with weights that hardly trained."""
    stamps = pd.date_range("2024-01-01", periods=24 * 40, freq="h")
    day = np.sin(np.arange(len(stamps)) * np.pi / 12)
    noise = np.random.default_rng(0).normal(size=(series, len(stamps))) / 3
    table = pd.concat([pd.DataFrame({"id": s, "time": stamps, "x": day + noise[s]}) for s in range(series)])
    panel = read_frame(table)
    forecaster = DiffusionForecaster(horizon=STEPS, max_steps=1, n_draws=SAMPLES)
    forecaster.fit_panel(panel.select(list(range(8))))
    forecaster.forecast_panel(panel.select([0]))  # warm
    began, clock = time.process_time(), time.perf_counter()
    forecaster.forecast_panel(panel)
    spent, wall = time.process_time() - began, time.perf_counter() - clock
    columns = ["series", "steps", "samples", "processor s", "s", "bar s"]
    rows = [[series, STEPS, SAMPLES, f"{spent:.1f}", f"{wall:.1f}", f"{BAR:g}"]]
    title = f"Drawing whole horizons on {torch.get_num_threads()} thread(s), six calls"
    return {"title": title, "columns": columns, "rows": rows}
