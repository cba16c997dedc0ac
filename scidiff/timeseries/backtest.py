"""Rolling-origin evaluation of forecasts, with naive methods judged on the same origins.

The forecaster learns from what came before the first origin and from nothing later; at each origin it is told the
history up to it, without learning again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol, TypeVar

import numpy as np
import pandas as pd

from scidiff.errors import UserError
from scidiff.timeseries import forecast_scores as scores
from scidiff.timeseries import metrics
from scidiff.timeseries.base import naive, scaled
from scidiff.timeseries.forecast import Forecast
from scidiff.timeseries.forecaster import DiffusionForecaster
from scidiff.timeseries.frequency import Frequency, infer
from scidiff.timeseries.horizons import Horizons, horizons, origins
from scidiff.timeseries.panel import Floats, Ints, Panel

Result = TypeVar("Result")

MODEL, NAIVE, ERRORS = "diffusion", "seasonal naive", "seasonal naive + past errors"
_PAIRED = 100  # cells of one future that a variogram is made of, at most


class Peer(Protocol):
    """Another forecaster, to be judged beside.

    Attributes:
        quantiles: whether its draws are the quantiles (k - 1/2) / K of each value, and no random draws.
    """

    quantiles: bool

    def fit(self, past: Panel, frequency: Frequency, *, season: int, horizon: int) -> None:
        """Learn from what came before the first origin."""

    def draws(self, history: Panel, frequency: Frequency) -> Floats:
        """Draws [S, K, H, V] of what follows each history, K as the peer likes."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Backtest:
    """What came of it.

    Attributes:
        table: one row a method, one column a score, of all origins, series, steps and variables together.
        origins: number of origins.
        against: how the mean CRPS of each origin compares with that of the other methods, by their names.
        each: the same of each origin: one row a method and origin.
        crps: their mean CRPS at each origin, by method: [origins].
        pit: [N] of all values among the draws of the model (see `metrics.pit`).
        last: its forecast from the last origin; its panel is that of the targets.
        truth: [S, H, V], what came then.
        seconds: processor time of fitting and of forecasting from one origin, by method.
    """

    table: pd.DataFrame
    origins: int
    each: pd.DataFrame
    crps: Mapping[str, Floats]
    pit: Floats
    last: Forecast
    truth: Floats
    against: Mapping[str, scores.Comparison]
    seconds: Mapping[str, tuple[float, float]]


def before(panel: Panel, counts: Ints) -> Panel:
    """The first `counts` [S] rows of each series; it cannot be written back."""
    kept = np.arange(len(panel.time)) - panel.offsets[:-1][panel.series] < counts[panel.series]
    offsets = np.concatenate([[0], np.cumsum(np.minimum(counts, np.diff(panel.offsets)))]).astype(np.int64)
    return replace(panel, time=panel.time[kept], value=panel.value[kept], offsets=offsets, source=None)


def backtest(
    forecaster: DiffusionForecaster,
    panel: Panel,
    *,
    count: int,
    stride: int | None = None,
    peers: Mapping[str, Peer] | None = None,
    show: Callable[[str], None] = lambda text: None,
) -> Backtest:
    """Fit a forecaster to what came before `count` origins, forecast at each of them, and judge.

    Args:
        forecaster: what to fit; it is fitted afterwards.
        panel: whole histories.
        count: of origins; the last stands a horizon before the end of each series.
        stride: steps between origins. Default: the horizon, so that no two forecasts overlap.
        peers: others to judge beside, by name.
        show: takes lines on how far it is.

    Raises:
        UserError: histories that are too short.
    """
    horizon = forecaster.horizon
    stride = horizon if stride is None else stride
    told = forecaster.covariates()
    ends = _ends(told.ends(panel), horizon, count, stride)
    past, plain = before(panel, ends[0]), told.targets(panel)
    clock = _Clock()
    clock(MODEL, lambda: forecaster.fit_panel(past, show=show))
    past = told.targets(past)
    config, frequency = forecaster.model_.config, infer(panel)
    others = peers or {}
    _learn(others, clock, past, frequency, season=config.season, horizon=horizon)
    sizes: dict[str, Any] = {"context": min(2 * config.season, config.context), "horizon": horizon}
    series, origin = origins(past, **sizes, most=20_000)
    errors = _Errors.of(horizons(past, frequency, series, origin, **sizes), config.season)
    judge = _Judge(past, config.season)
    for n, end in enumerate(ends):
        window = horizons(plain, frequency, np.arange(len(panel)), end, **sizes)
        point = _naive(window, config.season)
        forecast = clock(MODEL, partial(forecaster.forecast_panel, panel, origins=end))
        judge(MODEL, n, forecast.draws, window.target)
        judge(NAIVE, n, point[:, None], window.target)
        judge(ERRORS, n, errors.draws(window, point, forecaster.n_draws), window.target)
        for name, peer in others.items():
            drawn = clock(name, partial(peer.draws, before(plain, end), frequency))
            judge(name, n, drawn, window.target, quantiles=peer.quantiles)
        show(f"origin {n + 1} of {count}")
    crps, lags = judge.crps(), min(-(-horizon // stride), count - 1)
    return Backtest(
        table=judge.table(),
        origins=count,
        each=judge.each(),
        crps=crps,
        pit=np.concatenate([np.empty(0), *judge.pits]),
        last=forecast,
        truth=window.target,
        against={name: scores.diebold_mariano(crps[MODEL], crps[name], horizon=lags) for name in crps if name != MODEL},
        seconds={name: (spent[0], sum(spent[1:]) / count) for name, spent in clock.spent.items()},
    )


def _ends(counts: Ints, horizon: int, count: int, stride: int) -> Ints:
    """How many rows of each series come before each origin: [count, S]; UserError if there are too few."""
    if count < 2 or stride < 1:
        raise UserError(f"expected at least 2 origins and a stride of at least 1, got {count} and {stride}")
    ends = counts - horizon - stride * np.arange(count - 1, -1, -1)[:, None]
    if (ends[0] < 1).any():
        rows = int(counts.min())
        raise UserError(f"expected more than {horizon + stride * (count - 1)} rows a series to hold out, got {rows}")
    return np.asarray(ends)


class _Clock:
    """Calls functions, and keeps the processor time that each name took."""

    def __init__(self) -> None:
        self.spent: dict[str, list[float]] = {}

    def __call__(self, name: str, call: Callable[[], Result]) -> Result:
        began = time.process_time()
        found = call()
        self.spent.setdefault(name, []).append(time.process_time() - began)
        return found


def _learn(
    peers: Mapping[str, Peer], clock: _Clock, past: Panel, frequency: Frequency, *, season: int, horizon: int
) -> None:
    """Let each of the others learn, by the clock."""
    for name, peer in peers.items():
        clock(name, partial(peer.fit, past, frequency, season=season, horizon=horizon))


def _naive(window: Horizons, season: int) -> Floats:
    """The seasonal naive forecast: [S, H, V]."""
    context = scaled(window.context, season)
    return context.restore(naive(context.filled, season, window.target.shape[1]))


@dataclass(frozen=True, kw_only=True, eq=False)
class _Errors:
    """Errors that the naive forecast has made before the first origin, whole horizons: [N, H, V] of N windows."""

    series: Ints
    error: Floats

    @classmethod
    def of(cls, windows: Horizons, season: int) -> _Errors:
        error = windows.target - _naive(windows, season)
        whole = ~np.isnan(error).any((1, 2))
        return cls(series=windows.series[whole], error=error[whole])

    def draws(self, window: Horizons, point: Floats, count: int) -> Floats:
        """The naive forecast plus past errors of the same series, evenly picked: [S, count, H, V]."""
        found = []
        for s, guess in zip(window.series, point, strict=True):
            own = np.flatnonzero(self.series == s)
            if not len(own):
                own = np.arange(len(self.error))
            if not len(own):
                raise UserError("expected a window without empty cells before the first origin, got none")
            found.append(guess + self.error[own[np.linspace(0, len(own) - 1, count).round().astype(np.int64)]])
        return np.stack(found)


class _Judge:
    """Gathers scores by method and origin.

    Args:
        past: what came before the first origin.
        season: of the naive forecast that MASE is measured by.
    """

    def __init__(self, past: Panel, season: int) -> None:
        self._past, self._season = past, season
        self._rows: list[dict[str, object]] = []
        self.pits: list[Floats] = []  # of the model, by origin

    def __call__(self, method: str, origin: int, draws: Floats, truth: Floats, *, quantiles: bool = False) -> None:
        """Draws [S, K, H, V] of the truth [S, H, V], NaN where it is not known."""
        many, seen = np.moveaxis(draws, 1, 0), ~np.isnan(truth)
        if not seen.any():
            return
        at = np.indices(truth.shape)
        flat, one = many[:, seen], truth[seen]
        series, step = at[0][seen], at[1][seen]
        size = float(np.abs(one).mean())
        crps = metrics.crps_midpoints if quantiles else metrics.crps_fair
        row: dict[str, object] = {"method": method, "origin": origin, "CRPS": crps(flat, one).mean()}
        row["MAE"] = metrics.absolute_error(flat, one).mean()
        loss = scores.weighted_quantile_loss(flat, one)
        row |= {"size": size, "wQL": 0.0 if size == 0 else size * float(loss.mean())}  # divided again in the table
        row["MASE"] = self._mase(flat, one, series, at[2][seen])
        row["CRPS-sum"] = scores.crps_sum(flat, one, step).mean()
        row["energy"] = metrics.energy_score(flat, one, series).mean()
        near = at[1][seen] * truth.shape[2] + at[2][seen] < _PAIRED
        if near.any():
            row["variogram"] = scores.variogram_score(flat[:, near], one[near], series[near]).mean()
        if len(flat) > 1:
            row |= {f"in {100 * a:g} %": metrics.covered(flat, one, a).mean() for a in (0.8, 0.95)}
            place = metrics.pit(flat, one, seed=origin)
            row["PIT distance"] = metrics.uniformity(place)
            if method == MODEL:
                self.pits.append(place)
        self._rows.append(row)

    def _mase(self, flat: Floats, one: Floats, series: Ints, variable: Ints) -> float:
        point, found = np.median(flat, axis=0), []
        for s, history in enumerate(self._past.values):
            for v in range(history.shape[1]):
                here = (series == s) & (variable == v)
                if here.any():
                    found.append(scores.mase(point[here], one[here], history[:, v], season=self._season))
        return float(np.nanmean(found)) if np.isfinite(found).any() else float("nan")

    def each(self) -> pd.DataFrame:
        """Means over series, steps and variables, one row a method and origin."""
        return pd.DataFrame(self._rows).drop(columns=["size", "wQL"])

    def crps(self) -> dict[str, Floats]:
        """The mean CRPS of each origin, by method."""
        return {str(name): part["CRPS"].to_numpy() for name, part in self.each().groupby("method", sort=False)}

    def table(self) -> pd.DataFrame:
        """Means over the origins, one row a method."""
        mean = pd.DataFrame(self._rows).drop(columns="origin").groupby("method").mean()
        mean["wQL"] /= mean.pop("size")
        return mean.loc[list(dict.fromkeys(str(row["method"]) for row in self._rows))]
