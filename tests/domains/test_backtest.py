"""Rolling-origin evaluation: what is held out stays unseen, and the numbers are those of the definitions."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from scidiff.errors import UserError
from scidiff.timeseries import metrics
from scidiff.timeseries.backtest import ERRORS, MODEL, NAIVE, backtest, before
from scidiff.timeseries.columns import Options
from scidiff.timeseries.forecaster import DiffusionForecaster
from scidiff.timeseries.frames import read_frame
from scidiff.timeseries.panel import Panel

RNG = np.random.default_rng(5)


@pytest.fixture(scope="module")
def panel() -> Panel:
    steps = np.arange(120)
    frames = [
        pd.DataFrame({"id": name, "time": steps[:rows], "x": np.sin(steps[:rows] * np.pi / 4) + RNG.normal(size=rows)})
        for name, rows in (("a", 120), ("b", 100))
    ]
    return read_frame(pd.concat(frames, ignore_index=True), Options())


def forecaster() -> DiffusionForecaster:
    return DiffusionForecaster(horizon=4, season=8, context=16, max_steps=1, members=1, n_draws=20, steps=2)


def test_the_scores_are_those_of_the_forecasts_at_each_origin(panel: Panel) -> None:
    made = forecaster()
    found = backtest(made, panel, count=3)
    draws, naive, truth = [], [], []
    for back in (12, 8, 4):
        ends = np.diff(panel.offsets) - back
        draws.append(made.forecast_panel(panel, origins=ends).draws)
        for s, end in enumerate(ends):
            series = panel.values[s][:, 0]
            truth.append(series[end : end + 4])
            naive.append(series[end - 8 : end - 4])
    one = np.concatenate(truth)
    many = np.concatenate([d[s, ..., 0] for d in draws for s in range(2)], axis=1)
    assert found.origins == 3
    assert list(found.table.index) == [MODEL, NAIVE, ERRORS]
    assert found.table.loc[MODEL, "CRPS"] == pytest.approx(metrics.crps_fair(many, one).mean())
    assert found.table.loc[MODEL, "in 80 %"] == pytest.approx(metrics.covered(many, one, 0.8).mean())
    error = np.abs(one - np.concatenate(naive)).mean()
    assert found.table.loc[NAIVE, ["CRPS", "MAE"]].to_numpy() == pytest.approx([error, error])
    assert found.table.loc[NAIVE, "wQL"] == pytest.approx(error / np.abs(one).mean())
    assert found.against[NAIVE].difference == pytest.approx(found.table.loc[MODEL, "CRPS"] - error)


def test_what_is_held_out_changes_neither_model_nor_earlier_forecasts(panel: Panel) -> None:
    other = panel.value.copy()
    for end in panel.offsets[1:]:
        other[end - 4 : end] += 100.0
    models = []
    for one in (panel, replace(panel, value=other)):
        made = forecaster()
        backtest(made, one, count=3)
        ends = np.diff(panel.offsets) - 4
        models.append(made.forecast_panel(one, origins=ends).draws)
    np.testing.assert_array_equal(*models)


def test_the_first_rows_of_each_series_make_a_panel(panel: Panel) -> None:
    found = before(panel, np.array([30, 10]))
    assert [len(time) for time in found.times] == [30, 10]
    np.testing.assert_array_equal(found.values[1], panel.values[1][:10])


def test_too_little_to_hold_out_is_refused(panel: Panel) -> None:
    with pytest.raises(UserError, match="more than 104 rows"):
        backtest(forecaster(), panel, count=26)
    with pytest.raises(UserError, match="at least 2 origins"):
        backtest(forecaster(), panel, count=1)
