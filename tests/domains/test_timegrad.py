"""TimeGrad on walks, whose futures are known in closed form, its speed, and futures that do not depend on company."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from scidiff.timeseries.columns import Options
from scidiff.timeseries.forecast_model import STEP_TILE as TILE
from scidiff.timeseries.forecaster import DiffusionForecaster
from scidiff.timeseries.frames import read_frame
from scidiff.timeseries.panel import Panel


def walks(rows: int, series: int, *, seed: int = 0) -> pd.DataFrame:
    steps = np.random.default_rng(seed).normal(size=(series, rows)).cumsum(1)
    stamps = pd.date_range("2024-01-01", periods=rows, freq="D")
    return pd.concat(
        [pd.DataFrame({"id": f"w{k}", "timestamp": stamps, "x": walk}) for k, walk in enumerate(steps)],
        ignore_index=True,
    )


def panel_of(frame: pd.DataFrame) -> Panel:
    return read_frame(frame, Options())


def test_a_future_is_the_same_alone_and_among_others():
    table = walks(60, 3)
    settings = {
        "horizon": 4,
        "context": 14,
        "season": 1,
        "network": "recurrent",
        "members": 1,
        "max_steps": 3,
        "seed": 2,
    }
    forecaster = DiffusionForecaster(**settings).fit(table)
    panel = panel_of(table)
    among = forecaster.forecast_panel(panel, samples=TILE + 5).draws
    np.testing.assert_array_equal(forecaster.forecast_panel(panel.select([1]), samples=3).draws[0], among[1, :3])
    assert len(np.unique(among[0, :, 0, 0])) == TILE + 5
    value = panel.value.copy()
    ends = np.array([40, 45, 50])
    known = forecaster.forecast_panel(panel, samples=3, origins=ends).draws
    for first, end, last in zip(panel.offsets[:-1], ends, panel.offsets[1:], strict=True):
        value[first + end : last] = 1e6
    hidden = forecaster.forecast_panel(replace(panel, value=value), samples=3, origins=ends).draws
    np.testing.assert_array_equal(hidden, known)


@pytest.mark.slow
def test_futures_of_a_random_walk_spread_as_its_variance_says():
    """Var[x_h] = h, Cov[x_h, x_1] = 1, whatever came before: from training on walks alone."""
    horizon = 6
    settings = {
        "horizon": horizon,
        "context": 12,
        "season": 1,
        "network": "recurrent",
        "members": 1,
        "max_steps": 2500,
        "seed": 3,
    }
    forecaster = DiffusionForecaster(**settings).fit(walks(400, 20))
    fresh = panel_of(walks(60, 8, seed=9))
    draws = forecaster.forecast_panel(fresh, samples=1000).draws[..., 0]
    last = fresh.value[fresh.offsets[1:] - 1]
    spread = draws.std(1)
    expected = np.sqrt(np.arange(1, horizon + 1))
    np.testing.assert_allclose(spread.mean(0), expected, rtol=0.1)
    assert (np.abs(draws.mean(1) - last) < 0.5 * expected).all()
    together = [np.cov(own[:, 0], own[:, -1])[0, 1] for own in draws]
    assert np.mean(together) == pytest.approx(1.0, abs=0.25)


@pytest.mark.slow
def test_a_hundred_futures_of_a_day_of_eight_series_take_a_second():
    """pytorchts 0.6.0 took 9.8 s of processor time for as much."""
    table = walks(200, 8)
    forecaster = DiffusionForecaster(horizon=24, context=48, season=1, network="recurrent", members=1, max_steps=2).fit(
        table
    )
    panel = panel_of(table)
    forecaster.forecast_panel(panel, samples=1)
    began = time.process_time()
    forecaster.forecast_panel(panel, samples=100)
    assert time.process_time() - began < 2.0
