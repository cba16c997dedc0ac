"""Covariates: those known ahead are read over the horizon, others up to the origin; what lacks is said."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from scidiff.errors import UserError
from scidiff.timeseries.columns import Options
from scidiff.timeseries.covariates import Covariates, holidays
from scidiff.timeseries.forecaster import DiffusionForecaster
from scidiff.timeseries.frames import read_frame
from scidiff.timeseries.frequency import FEATURES, infer
from scidiff.timeseries.horizons import horizons
from scidiff.timeseries.panel import Panel
from scidiff.timeseries.static import with_static

RNG = np.random.default_rng(5)
HORIZON = 4


def table(rows: int = 80, ahead: int = HORIZON) -> pd.DataFrame:
    """Two series of days: a target, a plan that is known `ahead` days longer, and a measurement that is not."""
    frames = []
    for name in "ab":
        plan = RNG.normal(size=rows + ahead)
        frame = pd.DataFrame({"id": name, "time": pd.date_range("2024-01-01", periods=rows + ahead), "plan": plan})
        frame["sales"] = 10 + 3 * plan + RNG.normal(size=rows + ahead) / 10
        frame["visits"] = RNG.normal(size=rows + ahead)
        frame.loc[rows:, ["sales", "visits"]] = np.nan
        frames.append(frame)
    return pd.concat(frames, ignore_index=True)


def settings(**changes: Any) -> dict[str, Any]:
    named = {"target": "sales", "future_covariates": ["plan"], "past_covariates": ["visits"]}
    return {
        "horizon": HORIZON,
        "context": 14,
        "season": 7,
        "n_draws": 4,
        "max_steps": 2,
        "members": 1,
        "seed": 1,
        **named,
        **changes,
    }


def heeding(forecaster: DiffusionForecaster) -> DiffusionForecaster:
    """With weights by which everything that is told counts, which two steps of training do not surely give."""
    (member,) = forecaster.model_.members
    with torch.no_grad():
        for parameter in member.denoiser.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    return forecaster


@pytest.fixture(scope="module")
def fitted() -> tuple[DiffusionForecaster, Panel]:
    frame = table()
    forecaster = heeding(DiffusionForecaster(**settings()).fit(frame))
    return forecaster, read_frame(frame, Options(variables=forecaster.columns()))


def test_the_history_ends_where_only_what_is_known_ahead_goes_on(fitted: tuple[DiffusionForecaster, Panel]) -> None:
    forecaster, panel = fitted
    assert list(forecaster.covariates().ends(panel)) == [80, 80]
    assert list(Covariates(past=("plan",)).ends(panel)) == [84, 84]
    found = forecaster.forecast_panel(panel)
    assert found.panel.variables == ("sales",)
    assert list(panel.clock.dates(found.time[0])) == list(pd.date_range("2024-03-21", periods=HORIZON))


@pytest.mark.parametrize(
    ("column", "row", "moves"),
    [("plan", 60, True), ("plan", 59 + HORIZON, True), ("plan", 60 + HORIZON, False), ("plan", 59, True),
     ("visits", 59, True), ("visits", 60, False), ("sales", 60, False)],
)  # fmt: skip
def test_a_forecast_reads_what_is_known_and_nothing_else(
    fitted: tuple[DiffusionForecaster, Panel], column: str, row: int, moves: bool
) -> None:
    forecaster, panel = fitted
    ends, value = np.array([60, 60]), panel.value.copy()
    before = forecaster.forecast_panel(panel, origins=ends).draws
    value[row, panel.variables.index(column)] += 2.0
    after = forecaster.forecast_panel(replace(panel, value=value), origins=ends).draws
    assert bool((before[0] != after[0]).any()) == moves
    np.testing.assert_array_equal(before[1], after[1])


def test_windows_hold_standardised_covariates(fitted: tuple[DiffusionForecaster, Panel]) -> None:
    _, panel = fitted
    told = Covariates(future=("plan",), past=("visits",), country="DE").fitted(panel)
    windows = horizons(panel, infer(panel), np.array([1]), np.array([79]), context=3, horizon=HORIZON, covariates=told)
    assert windows.context.shape == (1, 3, 1)
    assert windows.told.shape == (1, 3, 5)
    assert windows.ahead.shape == (1, HORIZON, FEATURES + 4)
    plan = panel.values[1][:, panel.variables.index("plan")]
    z = (plan - np.nanmean(panel.value[:, panel.variables.index("plan")])) / told.stds[0]
    np.testing.assert_allclose(windows.ahead[0, :, FEATURES], z[79:83], rtol=1e-5)
    np.testing.assert_allclose(windows.told[0, :, 0], z[76:79], rtol=1e-5)


def test_holidays_stand_on_their_day_and_beside_it() -> None:
    panel = read_frame(pd.DataFrame({"time": pd.date_range("2023-12-23", periods=6), "x": 1.0}), Options())
    found = holidays(panel.clock, panel.time, "DE")  # the 25th and 26th
    np.testing.assert_array_equal(found[:, 0], [0, 0, 1, 1, 0, 0])
    np.testing.assert_array_equal(found[:, 1], [0, 0, 0, 1, 1, 0])
    np.testing.assert_array_equal(found[:, 2], [0, 1, 1, 0, 0, 0])
    with pytest.raises(UserError, match="expected a country such as DE"):
        holidays(panel.clock, panel.time, "Atlantis")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda t: t[t["sales"].notna()],
            "series a: expected rows with plan for the 4 steps of the horizon, got 0: add",
        ),
        (lambda t: t.drop(index=83), "series a: expected rows with plan for the 4 steps of the horizon, got 3: add"),
        (lambda t: t.assign(plan=t["plan"].where(t.index != 82)), "expected plan at 2024-03-23 00:00:00, which is in"),
        (lambda t: t.drop(columns="plan"), "plan"),
    ],
)
def test_covariates_that_lack_are_told_in_one_line(
    fitted: tuple[DiffusionForecaster, Panel], change: Any, said: str
) -> None:
    with pytest.raises(ValueError, match=said) as raised:
        fitted[0].sample(change(table()))
    assert "\n" not in str(raised.value)


def test_targets_and_covariates_are_different_columns() -> None:
    with pytest.raises(ValueError, match="'plan' twice"):
        DiffusionForecaster(**settings(past_covariates=["plan"])).fit(table())
    with pytest.raises(ValueError, match="expected the variables to forecast"):
        DiffusionForecaster(**settings(target=None)).fit(table())


def test_series_are_known_by_their_facts_alone_and_new_ones_may_come(tmp_path: Path) -> None:
    frame, facts = table(), pd.DataFrame({"id": ["a", "b", "c"], "size": [1.0, 3.0, 3.0]})
    forecaster = heeding(DiffusionForecaster(**settings(static=facts)).fit(frame))
    forecaster.save(tmp_path / "model")
    back = DiffusionForecaster.load(tmp_path / "model", static=facts, n_draws=4, seed=1)
    np.testing.assert_array_equal(back.sample(frame)["value"], forecaster.sample(frame)["value"])
    panel = with_static(read_frame(frame, Options(variables=forecaster.columns())), facts)
    own = back.forecast_panel(panel).draws
    assert panel.static is not None
    other = back.forecast_panel(replace(panel, static=panel.static.assign(size=[3.0, 3.0]))).draws
    assert (own[0] != other[0]).any()
    np.testing.assert_array_equal(own[1], other[1])
    assert back.sample(frame[frame["id"] == "b"].assign(id="c")).sizes["series"] == 1
    with pytest.raises(UserError, match="expected the static covariates size, got none"):
        back.forecast_panel(replace(panel, static=None))


@pytest.mark.slow
def test_training_finds_what_a_plan_does() -> None:
    frame = table(rows=600)
    truth = 10 + 3 * frame.groupby("id")["plan"].tail(HORIZON).to_numpy().reshape(2, HORIZON)
    forecaster = DiffusionForecaster(**settings(max_steps=800, n_draws=100)).fit(frame)
    found = forecaster.sample(frame)["value"].to_numpy()[..., 0]
    assert np.abs(np.median(found, axis=1) - truth).mean() < 0.6  # 3 without the plan
    assert found.std(1).mean() < 1.0
