"""The forecaster: nothing after the origin is known, draws do not depend on their company, the base is what it says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from scidiff import weights as files
from scidiff.errors import UserError
from scidiff.timeseries import lags
from scidiff.timeseries.base import Base, scaled
from scidiff.timeseries.columns import Options
from scidiff.timeseries.covariates import NONE
from scidiff.timeseries.ensemble import Ensemble
from scidiff.timeseries.forecast_fit import learn, sizes
from scidiff.timeseries.forecast_model import TILE, ForecastConfig, ForecastModel, draw
from scidiff.timeseries.forecaster import DiffusionForecaster
from scidiff.timeseries.frames import read_frame
from scidiff.timeseries.frequency import calendar, infer
from scidiff.timeseries.horizons import horizons
from scidiff.timeseries.panel import Panel
from scidiff.timeseries.smoothing import smoothers
from scidiff.weights import WeightsError

RNG = np.random.default_rng(3)
SETTINGS: dict[str, Any] = {"horizon": 6, "season": 24, "context": 48, "max_steps": 2, "members": 1, "seed": 4}


def hourly(rows: int = 24 * 12, series: int = 3) -> pd.DataFrame:
    """Days and noise, hourly, with a few empty cells."""
    hours = np.arange(rows)
    frames = []
    for k in range(series):
        load = 10 * (k + 1) + 3 * np.sin(2 * np.pi * hours / 24) + RNG.normal(size=rows) / 2
        load[RNG.integers(0, rows, 5)] = np.nan
        stamps = pd.date_range("2024-01-01", periods=rows, freq="h")
        frames.append(pd.DataFrame({"id": f"s{k}", "timestamp": stamps, "load": load, "wind": RNG.normal(size=rows)}))
    return pd.concat(frames, ignore_index=True)


def still(*, spread: np.ndarray, context: int, season: int) -> Base:
    """A base forecast of the mean of all smoothers."""
    count = sum(len(smoothers(one)[0]) for one in (1, season))
    share = np.full((count, 3, *spread.shape), 1 / count / 3)
    fitted = {"share": share, "spread": spread, "usual": np.ones((count, 1)), "trust": 0.0}
    alone = {"steps": np.eye(len(spread)), "variables": np.eye(spread.shape[1])}
    return Base(**fitted, **alone, context=context, seasons=(season,))


def panel_of(frame: pd.DataFrame) -> Panel:
    return read_frame(frame, Options())


@pytest.fixture(scope="module")
def fitted() -> tuple[DiffusionForecaster, pd.DataFrame]:
    table = hourly()
    return DiffusionForecaster(**SETTINGS, n_draws=8).fit(table), table


def test_a_dataset_of_futures_starts_where_the_history_ends(
    fitted: tuple[DiffusionForecaster, pd.DataFrame],
) -> None:
    forecaster, table = fitted
    futures = forecaster.sample(table)
    assert futures["value"].dims == ("series", "sample", "time", "variable")
    assert futures["value"].shape == (3, 8, 6, 2)
    assert list(futures["time"].to_numpy()) == list(pd.date_range("2024-01-13", periods=6, freq="h"))
    found = forecaster.predict(table, [0.25, 0.75])
    assert list(found.columns) == ["id", "timestamp", "load", "load_p25", "load_p75", "wind", "wind_p25", "wind_p75"]
    np.testing.assert_array_equal(found["load"], np.median(futures["value"][..., 0], axis=1).ravel())


def test_values_after_the_origin_change_no_forecast_before(
    fitted: tuple[DiffusionForecaster, pd.DataFrame],
) -> None:
    forecaster, table = fitted
    ends, panel = np.array([100, 150, 200]), panel_of(table)
    value = panel.value.copy()
    for first, end, last in zip(panel.offsets[:-1], ends, panel.offsets[1:], strict=True):
        value[first + end : last] = 1e6 * RNG.normal(size=(last - first - end, 2))
    before = forecaster.forecast_panel(panel, origins=ends).draws
    np.testing.assert_array_equal(before, forecaster.forecast_panel(replace(panel, value=value), origins=ends).draws)
    value[panel.offsets[0] + ends[0] - 1] += 1.0  # the last value before an origin does
    after = forecaster.forecast_panel(replace(panel, value=value), origins=ends).draws
    assert (before[0] != after[0]).all()
    np.testing.assert_array_equal(before[1:], after[1:])


def test_a_draw_is_the_same_alone_and_among_others(fitted: tuple[DiffusionForecaster, pd.DataFrame]) -> None:
    forecaster, table = fitted
    panel = panel_of(table)
    among = forecaster.forecast_panel(panel, samples=TILE + 7).draws
    for chosen in ([1], [2, 0]):
        fewer = forecaster.forecast_panel(panel.select(chosen), samples=3).draws
        np.testing.assert_array_equal(fewer, among[chosen, :3])
    assert len(np.unique(among[0, :, 0, 0])) == TILE + 7
    again = DiffusionForecaster(**SETTINGS).fit(table)
    np.testing.assert_array_equal(again.forecast_panel(panel, samples=3).draws, among[:, :3])


def test_draws_do_not_depend_on_the_number_of_threads(fitted: tuple[DiffusionForecaster, pd.DataFrame]) -> None:
    forecaster, table = fitted
    before = torch.get_num_threads()
    try:
        found = []
        for threads in (1, 3):
            torch.set_num_threads(threads)
            found.append(forecaster.forecast_panel(panel_of(table), samples=TILE).draws)
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    np.testing.assert_array_equal(*found)


def test_a_model_comes_back_from_disk(fitted: tuple[DiffusionForecaster, pd.DataFrame], tmp_path: Path) -> None:
    forecaster, table = fitted
    forecaster.save(tmp_path / "model")
    back = DiffusionForecaster.load(tmp_path / "model", seed=4)
    np.testing.assert_array_equal(back.sample(table, 3)["value"], forecaster.sample(table, 3)["value"])
    with pytest.raises(UserError, match="expected the variables load, wind, got load"):
        back.forecast_panel(panel_of(table.drop(columns="wind")))
    with pytest.raises(WeightsError, match="no such file"):
        Ensemble.load(tmp_path)
    held = files.load(tmp_path / "model")
    older = {name: value for name, value in held.tensors.items() if name != "base.steps"}
    files.save(tmp_path / "older", replace(held, tensors=older))
    with pytest.raises(WeightsError, match=r"older: expected weights of a forecaster, got others: 'base.steps'$"):
        Ensemble.load(tmp_path / "older")


def test_new_rows_are_taken_without_learning_again(fitted: tuple[DiffusionForecaster, pd.DataFrame]) -> None:
    _, table = fitted
    early = table[table["timestamp"] < "2024-01-11"]
    late = table[table["timestamp"] >= "2024-01-10 20:00"]  # some rows are known already
    streamed = DiffusionForecaster(**SETTINGS, n_draws=8).fit(early)
    weights = streamed.model_
    before = streamed.sample()
    np.testing.assert_array_equal(before["value"], streamed.sample(early)["value"])
    wrong = late.assign(load=late["load"] + 1.0)
    streamed.update(wrong).update(late)
    assert streamed.model_ is weights
    np.testing.assert_array_equal(streamed.sample()["value"], streamed.sample(table)["value"])
    pd.testing.assert_frame_equal(streamed.predict(), streamed.predict(table))
    assert (streamed.sample()["value"] != before["value"].to_numpy()).all()
    with pytest.raises(ValueError, match="every 3600s, got 20 missing"):
        streamed.update(late.assign(timestamp=late["timestamp"] + pd.Timedelta(days=3)))
    np.testing.assert_array_equal(streamed.sample()["value"], streamed.sample(table)["value"])


def test_training_starts_from_a_saved_model(fitted: tuple[DiffusionForecaster, pd.DataFrame], tmp_path: Path) -> None:
    forecaster, table = fitted
    forecaster.save(tmp_path / "model")
    settings = {"seed": 9, "n_draws": 8, "max_steps": 1, "members": 2, "init": tmp_path / "model"}
    warm = DiffusionForecaster(horizon=6, **settings).fit(table)
    assert warm.model_.config == forecaster.model_.config
    assert len(warm.model_.members) == 2
    for member in warm.model_.members:
        mine, other = (one.denoiser.state_dict() for one in (member, *forecaster.model_.members))
        far = max(float((mine[name] - other[name]).abs().max()) for name in mine)
        assert far < 1e-2  # a step away at most; fresh weights of another seed are far
    with pytest.raises(ValueError, match="init: expected a model of the same horizon, 7, got 6"):
        DiffusionForecaster(horizon=7, **settings).fit(table)
    with pytest.raises(ValueError, match="init: expected a model of the same variables"):
        DiffusionForecaster(horizon=6, target="load", **settings).fit(table)


def test_calibration_asks_a_model_that_has_not_seen_its_windows_and_the_other_learns_from_all() -> None:
    table = hourly(rows=24 * 20, series=1)[["timestamp", "load"]]
    late = table.assign(load=table["load"].where(table.index < 24 * 18, 1e3 * RNG.normal(size=len(table))))
    found = []
    for frame in (table, late):
        panel = panel_of(frame)
        config = sizes(panel, infer(panel), NONE, horizon=6, season=24, context=40)
        found.append(learn(panel, infer(panel), config, seconds=60, max_steps=2, members=1))
    before, after = found
    np.testing.assert_array_equal(before.trials[0].model.base.spread, after.trials[0].model.base.spread)
    assert (before.model.base.spread < 0.7 * after.model.base.spread).all()
    assert before.model.card["training"]["windows"] == 24 * 20 - 40 - 6 + 1


def test_draws_of_an_untrained_model_centre_on_the_base_and_spread_as_it_says() -> None:
    base = still(spread=np.linspace(0.5, 1.5, 5)[:, None], context=30, season=7)
    config = ForecastConfig(variables=("x",), context=30, horizon=5, season=7, frequency="D")
    model = ForecastModel.create(config, base)
    panel = panel_of(pd.DataFrame({"time": pd.date_range("2024", periods=30), "x": 50 + 4 * RNG.normal(size=30)}))
    window = horizons(panel, infer(panel), np.array([0]), np.array([30]), context=30, horizon=5)
    draws = draw(model, window, draws=2000, seed=1)[..., 0]
    own = scaled(window.context, 7)
    centre = own.restore(base(own))[0, :, 0]
    unit = float(own.scale[0, 0, 0]) * base.spreads(own)[0, :, 0]
    off = (draws.mean(0) - centre) / unit
    assert np.abs(off).max() < 4 * 1.3 / 2000**0.5  # y + y^3 / 6 has the deviation 1.3 where that of y is 0.9
    wide = draws.std(0) / unit
    assert np.ptp(wide) < 0.12
    assert 1.1 < wide.mean() < 1.45


def test_lags_stand_whole_seasons_before_each_step_and_forget_one_odd_season() -> None:
    rows = np.arange(30.0)[None, :, None]  # the step to come k is row 29 + k
    found = lags.places(30, 9, 7)
    assert found.shape == (4, 9)
    for k, row in enumerate(found):
        np.testing.assert_array_equal(row, [23 + h % 7 - 7 * k for h in range(9)])
    features = lags.earlier(rows, 9, (7,))
    assert features.shape == (1, 9, lags.count(30, 9, (7,)))
    between = found[1:3].mean(0)  # of four lags on a line, the median
    np.testing.assert_array_equal(features[0, :, 4], between)
    np.testing.assert_array_equal(features[0, :, 5], 7.0)
    odd = rows.copy()
    odd[0, found[0, 0]] = 1e6
    np.testing.assert_array_equal(lags.earlier(odd, 9, (7,))[0, 0, 4], between[0])


def stamped(stamps: object) -> Panel:
    values = np.arange(float(len(stamps)))  # type: ignore[arg-type]
    return panel_of(pd.DataFrame({"time": stamps, "x": values}))


def test_frequencies_are_found_with_their_seasons_and_go_on() -> None:
    cases = {"h": (24, 168), "30min": (48, 336), "D": (7,), "W-SUN": (52,), "MS": (12,), "QS-OCT": (4,), "B": (5,)}
    for name, seasons in cases.items():
        stamps = pd.date_range("2023-01-02", periods=40, freq=name)
        panel = stamped(stamps[:30])
        found = infer(panel)
        assert found.seasons == seasons, name
        after = panel.clock.dates(found.after(panel.clock, panel.time[-1], 10))
        assert list(after) == list(stamps[30:]), name
    numbers = stamped(np.arange(5) * 2.5)
    assert (infer(numbers).step, infer(numbers).seasons) == (2.5, (1,))


def test_years_with_a_fraction_have_the_season_of_their_steps() -> None:
    for count in (4, 12, 52):
        panel = stamped(1949 + np.round(np.arange(40) / count, 12))
        found = infer(panel)
        assert found.seasons == (count,)
        np.testing.assert_allclose(
            found.after(panel.clock, panel.time[-1], count) - panel.time[-1], np.arange(1, count + 1) / count, atol=1e-9
        )
    assert infer(stamped(np.arange(40) / 4)).seasons == (1,)  # hours, perhaps
    assert infer(stamped(1949.0 + np.arange(40))).seasons == (1,)


def test_days_of_a_zone_go_on_over_the_change_of_the_clock() -> None:
    stamps = pd.date_range("2024-03-20", periods=20, freq="D", tz="Europe/Berlin")
    panel = stamped(stamps[:15])
    after = infer(panel).after(panel.clock, panel.time[-1], 5)
    assert list(panel.clock.dates(after)) == list(stamps[15:])


def test_gaps_and_unknown_frequencies_are_refused() -> None:
    stamps = pd.date_range("2024-01-01", periods=30, freq="h")
    with pytest.raises(UserError, match=r"every 3600s, got 2 missing between 2024-01-01 09:00:00 and 2024-01-01 12"):
        infer(stamped(stamps.delete([10, 11])))
    local = pd.date_range("2024-03-30", periods=48, freq="h", tz="Europe/Berlin").tz_localize(None)
    with pytest.raises(UserError, match=r"1 missing between 2024-03-31 01.*if the clock was put forward"):
        infer(stamped(local))
    with pytest.raises(UserError, match="if these are dates, write them with hyphens"):
        infer(stamped(np.array([20240129, 20240130, 20240131, 20240201])))
    with pytest.raises(UserError, match="one frequency, got a step of 7"):
        infer(stamped(np.array([0.0, 2.0, 4.0, 11.0, 13.0])))
    with pytest.raises(UserError, match="at least two times"):
        infer(stamped(stamps[:1]))
    with pytest.raises(UserError, match="at least 54 rows"):
        DiffusionForecaster(horizon=6, season=24, context=48).fit_panel(stamped(stamps))


def test_the_calendar_tells_hours_weekdays_and_the_time_of_year() -> None:
    panel = stamped(pd.to_datetime(["2024-01-01 06:00", "2024-01-02 06:00", "2024-01-03 06:00"]))
    found = calendar(panel.clock, panel.time)
    np.testing.assert_allclose(found[:, :4], np.tile([1.0, 0.0, 0.0, -1.0], (3, 1)), atol=1e-12)
    np.testing.assert_array_equal(found[:, 4:11], np.eye(7)[:3])
    np.testing.assert_array_equal(calendar(panel.clock, panel.time[[2, 0, 2, 1]]), found[[2, 0, 2, 1]])
    year = 2 * np.pi * 0.25 / 365.25
    np.testing.assert_allclose(found[0, 11:15], [np.sin(year), np.cos(year), np.sin(2 * year), np.cos(2 * year)])
    assert not calendar(stamped(np.arange(3.0)).clock, np.arange(3.0)).any()


@pytest.mark.slow
def test_training_finds_the_noise_of_weekends() -> None:
    rows = 24 * 7 * 30
    stamps = pd.date_range("2024-01-01", periods=rows, freq="h")
    wide = np.where(stamps.day_of_week >= 5, 3.0, 0.5)
    table = pd.DataFrame(
        {"time": stamps, "x": 5 * np.sin(2 * np.pi * np.arange(rows) / 24) + wide * RNG.normal(size=rows)}
    )
    forecaster = DiffusionForecaster(horizon=24, context=48, season=24, max_steps=300, members=1, seed=1).fit(table)
    panel = panel_of(table)
    friday, sunday = (forecaster.forecast_panel(panel, origins=np.array([rows - 24 * k])).draws for k in (3, 1))
    assert 0.4 < friday.std(1).mean() < 1.3
    assert 2.0 < sunday.std(1).mean() < 4.5
