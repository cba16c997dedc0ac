"""The base forecast: smoothing is what its recursion says, and past windows choose among smoothers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from scidiff.timeseries.base import fit_base, naive, scaled, slope, unit
from scidiff.timeseries.columns import Options
from scidiff.timeseries.frames import read_frame
from scidiff.timeseries.frequency import infer
from scidiff.timeseries.horizons import Horizons, horizons, origins
from scidiff.timeseries.smoothing import records, smoothers, smoothing, smoothings

RNG = np.random.default_rng(5)


def windows(x: np.ndarray, *, context: int, horizon: int, series: int = 1) -> Horizons:
    """All windows of one or more series of equal length."""
    count = len(x) // series
    frame = pd.DataFrame({"id": np.repeat(np.arange(series), count), "time": np.tile(np.arange(count), series), "x": x})
    panel = read_frame(frame, Options())
    sizes = {"context": context, "horizon": horizon}
    return horizons(panel, infer(panel), *origins(panel, **sizes, most=10_000), **sizes)


def smoothed(
    z: np.ndarray, horizon: int, m: int, factors: tuple[float, float, float], stop: int | None = None
) -> list[float]:
    """Holt and Winters, forwards, one value after the other, up to `stop`; from the means of the whole context."""
    alpha, beta, gamma = factors
    level, trend, stop = z.mean(), 0.0, len(z) if stop is None else stop
    season = [z[k::m].mean() - level for k in range(m)]
    for t in range(m, stop):
        error = z[t] - level - 0.95 * trend - season[t - m]
        level, trend = level + 0.95 * trend + alpha * error, 0.95 * trend + beta * error
        season.append(season[t - m] + gamma * error)
    ahead = np.cumsum(0.95 ** np.arange(1, horizon + 1))
    return [level + ahead[h] * trend + season[stop - m + h % m] for h in range(horizon)]


@pytest.mark.parametrize(("context", "horizon", "season"), [(20, 4, 4), (11, 9, 3), (17, 5, 1), (7, 3, 7)])
def test_smoothing_run_backwards_is_the_recursion_run_forwards(context: int, horizon: int, season: int) -> None:
    z = RNG.normal(size=context)
    found = smoothing(context, horizon, season) @ z
    slow = [smoothed(z, horizon, season, one) for one in zip(*smoothers(season), strict=True)]
    np.testing.assert_allclose(found, slow, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(smoothing(context, horizon, season).sum(2), 1.0)  # a constant stays what it is


def test_the_seasonal_naive_forecast_and_the_mean_of_all_seasons_are_among_the_smoothers() -> None:
    z = RNG.normal(size=(1, 23, 1))
    alpha, _, gamma = smoothers(5)
    (last,), (every,) = (np.flatnonzero((alpha == 0) & (gamma == one)) for one in (1, 0))
    found = smoothing(23, 8, 5) @ z[0, :, 0]
    np.testing.assert_allclose(found[last], naive(z, 5, 8)[0, :, 0])
    np.testing.assert_allclose(found[every], [z[0, (23 + h) % 5 :: 5, 0].mean() for h in range(8)])


def test_the_seasonal_naive_forecast_repeats_the_last_season_and_gaps_take_that_before() -> None:
    context = np.array([1.0, 2.0, 3.0, 4.0, np.nan, 6.0])[None, :, None]
    filled = scaled(context, 3)
    forecast = filled.restore(naive(filled.filled, 3, 7))[0, :, 0]
    np.testing.assert_allclose(forecast, [4, 2, 6, 4, 2, 6, 4])
    flat = scaled(np.full((1, 4, 1), 7.0), 1)
    np.testing.assert_allclose(flat.restore(flat.filled), 7.0)
    empty = scaled(np.full((1, 4, 1), np.nan), 2)
    np.testing.assert_array_equal(empty.filled, 0.0)


def test_a_periodic_series_is_forecast_without_an_error() -> None:
    pure = windows(np.tile([1.0, 5.0, 2.0, 0.0], 50), context=8, horizon=6)
    context, base = scaled(pure.context, 4), fit_base(pure, seasons=(4,))
    np.testing.assert_allclose(context.restore(base(context)), pure.target, atol=1e-9)
    np.testing.assert_array_equal(base.spread, 1e-3)


def test_a_line_with_a_season_goes_on() -> None:
    x = 3.0 + 0.7 * np.arange(200) + np.tile([1.0, 5.0, 2.0, 0.0], 50)
    own = windows(x, context=24, horizon=9)
    context, base = scaled(own.context, 4), fit_base(own, seasons=(4,))
    np.testing.assert_allclose(context.restore(base(context)), own.target, rtol=1e-6)
    assert slope(24, 4) @ x[:24] == pytest.approx(0.7)
    assert not slope(4, 4).any()


@pytest.mark.parametrize("kind", ["noise", "walk", "seasonal"])
def test_past_windows_choose_what_the_series_is(kind: str) -> None:
    noise = RNG.normal(size=1600)
    x = {"noise": noise, "walk": np.cumsum(noise), "seasonal": noise / 2 + np.tile(RNG.normal(size=4) * 3, 400)}[kind]
    own = windows(x, context=48, horizon=4)
    context, base = scaled(own.context, 4), fit_base(own, seasons=(4,))
    error = own.target - context.restore(base(context))
    # mean squared errors that cannot be beaten: of white noise, of a walk h, and of the noise around the season
    best = {"noise": np.ones(4), "walk": np.arange(1, 5), "seasonal": np.full(4, 0.25)}[kind]
    assert ((error[:, :, 0] ** 2).mean(0) / best).max() < 1.3
    np.testing.assert_allclose(base.share.sum((0, 1)), 1.0)


def test_the_spread_of_the_base_is_that_of_its_errors_in_quiet_series_and_in_loud_ones() -> None:
    wave = 5 * np.sin(np.arange(400) * np.pi / 2 + 0.3)
    quiet, loud = (wave + size * RNG.normal(size=400) for size in (0.3, 3.0))
    own = windows(np.concatenate([quiet, loud]), context=40, horizon=2, series=2)
    context, base = scaled(own.context, 4), fit_base(own, seasons=(4,))
    off = (own.target - context.restore(base(context))) / (context.scale * base.spreads(context))
    assert (off**2).mean() == pytest.approx(1.0, abs=0.05)
    told = (context.scale * base.spreads(context)).mean((1, 2))
    assert told[own.series == 1].mean() > 3 * told[own.series == 0].mean()  # of 10, half by the unit
    short = scaled(own.context[:, -4:], 4)
    np.testing.assert_array_equal(unit(short, 4), 1.0)


def test_records_are_the_one_step_errors_of_the_recursion_and_the_late_ones_weigh_more() -> None:
    context, seasons = RNG.normal(size=(3, 17, 2)), (3, 4)
    found = records(context, seasons)
    weight, z = np.where(np.arange(17) < 4, 0.0, 0.5 ** (np.arange(16, -1, -1) / 8)), context[1, :, 1]
    every = [(m, factors) for m in (1, *seasons) for factors in zip(*smoothers(m), strict=True)]
    assert len(every) == len(found) == len(smoothings(17, 2, seasons))
    for (m, factors), record in zip(every, found[:, 1, 1], strict=True):
        errors = [z[t] - smoothed(z, 1, m, factors, stop=t)[0] if t >= 4 else 0.0 for t in range(17)]
        assert record == pytest.approx(np.average(np.square(errors), weights=weight), rel=1e-9)


def test_series_that_differ_are_smoothed_each_in_its_own_way() -> None:
    noise = RNG.normal(size=(2, 400))
    own = windows(np.concatenate([noise[0], np.cumsum(noise[1])]), context=60, horizon=3, series=2)
    context, base = scaled(own.context, 4), fit_base(own, seasons=(4,))
    assert base.recorded
    assert base.trust > 0
    alike = replace(base, trust=0.0)
    mine, pooled = (np.abs(own.target - context.restore(one(context)))[..., 0].mean(1) for one in (base, alike))
    for series in (0, 1):
        assert mine[own.series == series].mean() < 0.98 * pooled[own.series == series].mean()
    long = windows(noise[0], context=140, horizon=3)
    assert not fit_base(long, seasons=(4,)).recorded


def test_records_are_not_used_where_past_windows_say_no() -> None:
    base = fit_base(windows(RNG.normal(size=600), context=14, horizon=7), seasons=(7,))
    assert base.recorded  # of seven errors each, which say nothing
    assert base.trust == 0.0
