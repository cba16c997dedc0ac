"""Forecasts step by step: what a step is told, and what comes of a process whose futures are known in closed form."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from scidiff.errors import UserError
from scidiff.networks.timegrad import TimeGradNetwork
from scidiff.timeseries.columns import Options
from scidiff.timeseries.forecaster import DiffusionForecaster
from scidiff.timeseries.frames import read_frame
from scidiff.timeseries.panel import Panel
from scidiff.timeseries.stepwise import TILE

STEPS, VARIABLES = 5, 2


def network() -> TimeGradNetwork:
    torch.manual_seed(0)
    found = TimeGradNetwork(leaf="x", variables=VARIABLES, recent=4, features=3, hidden=16, width=8)
    for weight in found.parameters():
        torch.nn.init.normal_(weight, std=0.4)
    return found


def taught(seed: int = 1) -> dict[str, torch.Tensor]:
    source = torch.Generator().manual_seed(seed)
    shape = (3, STEPS, VARIABLES)
    return {
        "recent": torch.randn(3, 4, generator=source),
        "ahead": torch.randn(3, STEPS, 3, generator=source),
        "base": torch.randn(shape, generator=source),
        "spread": torch.rand(shape, generator=source) + 0.5,
        "target": torch.randn(shape, generator=source),
        "seen": (torch.rand(shape, generator=source) < 0.8).float(),
    }


def test_a_step_is_told_what_came_before_it_and_nothing_else():
    model, known = network(), taught()
    before = model.encode(known)
    for step in range(STEPS):
        other = known | {"target": known["target"].clone(), "seen": torch.ones_like(known["seen"])}
        same = known | {"seen": other["seen"]}
        other["target"][:, step] += 1.0
        moved = (model.encode(other).about - model.encode(same).about).abs().amax((0, 2)) > 1e-6
        assert moved.tolist() == [later > step for later in range(STEPS)]
    hidden = known | {"target": torch.where(known["seen"] > 0, known["target"], 99.0)}
    torch.testing.assert_close(model.encode(hidden).about, before.about)


def test_all_steps_at_once_are_the_steps_one_by_one():
    model, known = network(), taught()
    at_once = model.encode(known)
    state, before = model.begin(known["recent"]), torch.zeros(3, 1, VARIABLES)
    seen = torch.zeros_like(before)
    for k in range(STEPS):
        step = {name: known[name][:, k : k + 1] for name in ("ahead", "base", "spread", "target", "seen")}
        stage, state = model.advance(step, before, seen, state)
        torch.testing.assert_close(stage.location, at_once.location[:, k : k + 1])
        torch.testing.assert_close(stage.scale, at_once.scale[:, k : k + 1])
        seen = step["seen"]
        before = (step["target"] - step["base"]) / step["spread"] * seen


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
    settings = {"horizon": 4, "context": 14, "season": 1, "network": "timegrad", "max_steps": 3, "seed": 2}
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


def test_a_model_comes_back_as_what_it_is(tmp_path):
    table = walks(40, 2)
    forecaster = DiffusionForecaster(horizon=3, context=9, season=1, network="timegrad", max_steps=2).fit(table)
    forecaster.save(tmp_path / "model")
    again = DiffusionForecaster.load(tmp_path / "model")
    assert again.network == "timegrad"
    np.testing.assert_array_equal(again.sample(table, 3)["value"], forecaster.sample(table, 3)["value"])


def test_another_network_is_a_user_error():
    with pytest.raises(UserError, match="network: expected horizon or timegrad, got 'lstm'"):
        DiffusionForecaster(horizon=2, network="lstm").check()


@pytest.mark.slow
def test_futures_of_a_random_walk_spread_as_its_variance_says():
    """Var[x_h] = h, Cov[x_h, x_1] = 1, whatever came before: from training on walks alone."""
    horizon = 6
    settings = {"horizon": horizon, "context": 12, "season": 1, "network": "timegrad", "max_steps": 2500, "seed": 3}
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
    forecaster = DiffusionForecaster(horizon=24, context=48, season=1, network="timegrad", max_steps=2).fit(table)
    panel = panel_of(table)
    forecaster.forecast_panel(panel, samples=1)
    began = time.process_time()
    forecaster.forecast_panel(panel, samples=100)
    assert time.process_time() - began < 2.0
