"""Contestants of the forecasting benchmark: smoothing, ARIMA, vector autoregression, gradient boosting,
DeepAR and a transformer."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

import numpy as np
from _forecasting_gluonts import gluonts_peers
from scipy import stats

from scidiff.timeseries.backtest import Peer
from scidiff.timeseries.covariates import Covariates
from scidiff.timeseries.frequency import Frequency
from scidiff.timeseries.horizons import Horizons, horizons, origins
from scidiff.timeseries.lags import earlier, wanted
from scidiff.timeseries.panel import Floats, Panel

LEVELS = np.arange(0.01, 1, 0.02)  # quantiles that stand for draws
BOOSTED = (0.025, 0.1, 0.25, 0.5, 0.75, 0.9, 0.975)
WINDOWS = 800  # that trees learn from
LATE = 0.15  # the last part of them, whose errors are the spread of a point forecast
SHORT = 24  # seasons up to which smoothing and ARIMA model themselves


def peers(variables: int, country: str | None, seconds: float) -> tuple[Mapping[str, Peer], list[str]]:
    """Those that are installed, and what is missing; networks learn for so many seconds."""
    found: dict[str, Peer] = {}
    missing = []
    if find_spec("statsforecast"):
        found |= {"AutoETS": Statistical("AutoETS"), "AutoARIMA": Statistical("AutoARIMA")}
    else:
        missing.append("statsforecast: AutoETS and AutoARIMA are left out (pip install statsforecast)")
    if find_spec("statsmodels") and variables > 1:
        found["VAR"] = VectorAutoregression()
    elif variables > 1:
        missing.append("statsmodels: VAR is left out (pip install statsmodels)")
    if find_spec("sklearn"):
        found |= {"boosted quantiles": BoostedQuantiles(country), "boosted median + normal errors": Boosted(country)}
    else:
        missing.append("scikit-learn: gradient boosting is left out (pip install scikit-learn)")
    deep, lacking = gluonts_peers(seconds)
    return found | deep, missing + lacking


class Statistical:
    """AutoETS or AutoARIMA (statsforecast), fitted anew at each origin.

    A season of more than `SHORT` steps, or several, are first taken off by multiple seasonal decomposition (MSTL).
    """

    quantiles = True

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def fit(self, past: Panel, frequency: Frequency, *, season: int, horizon: int) -> None:
        self.horizon = horizon
        self.seasons = [s for s in frequency.seasons if s > 1] or [season]

    def draws(self, history: Panel, frequency: Frequency) -> Floats:
        return np.stack([np.stack([self._one(v) for v in values.T], axis=-1) for values in history.values])

    def _one(self, column: Floats) -> Floats:
        from statsforecast import models

        kept = filled(column)[-max(8 * max(self.seasons), 400) :]
        make: Any = getattr(models, self.kind)
        if len(self.seasons) == 1 and self.seasons[0] <= SHORT:
            model = make(season_length=self.seasons[0])
        else:
            trend = make(model="ZZN") if self.kind == "AutoETS" else make(season_length=1)
            model = models.MSTL(self.seasons, trend_forecaster=trend)
        levels = np.round(200 * LEVELS[LEVELS > 0.5] - 100).astype(int).tolist()
        found = model.forecast(kept, self.horizon, level=levels)
        low = [found[f"lo-{level}"] for level in reversed(levels)]
        return np.stack([*low, *(found[f"hi-{level}"] for level in levels)])


class VectorAutoregression:
    """VAR of the variables around their season means (statsmodels), its order by AIC; normal errors, simulated."""

    quantiles = False

    def fit(self, past: Panel, frequency: Frequency, *, season: int, horizon: int) -> None:
        from statsmodels.tsa.api import VAR

        self.horizon, self.season = horizon, season
        (values,) = past.values
        table = np.stack([filled(column) for column in values.T], axis=1)
        place = np.arange(len(table)) % season
        self.means = np.stack([table[place == k].mean(0) for k in range(season)])
        self.model = VAR(table - self.means[place]).fit(maxlags=24, ic="aic")

    def draws(self, history: Panel, frequency: Frequency) -> Floats:
        (values,) = history.values
        order, length = self.model.k_ar, len(values)
        table = np.stack([filled(column) for column in values.T], axis=1)
        rest = (table - self.means[np.arange(length) % self.season])[-order:]
        rng = np.random.default_rng(length)
        noise = rng.multivariate_normal(np.zeros(rest.shape[1]), self.model.sigma_u, size=(self.horizon, 100))
        state = np.repeat(rest[:, None], 100, axis=1)  # [order, draws, V], the latest last
        found = []
        for step in range(self.horizon):
            lagged = sum(state[-k - 1] @ coefficients.T for k, coefficients in enumerate(self.model.coefs))
            state = np.concatenate([state[1:], (self.model.intercept + lagged + noise[step])[None]])
            found.append(state[-1] + self.means[(length + step) % self.season])
        return np.stack(found, axis=1)[None]


class _Trees:
    """What both boosted models read: calendar, holidays, lags and the step, as scidiff's network is told them.

    They forecast the change against the last season.
    """

    quantiles = True

    def __init__(self, country: str | None) -> None:
        self.country = country

    def examples(self, past: Panel, frequency: Frequency, season: int, horizon: int) -> tuple[Floats, Floats, Floats]:
        """Rows [N H, F], targets [N H, V] and place of each window [N] in the history."""
        self.season, self.horizon, self.seasons = season, horizon, [s for s in frequency.seasons if s <= season]
        self.context = min(wanted(horizon, self.seasons), int(np.diff(past.offsets).min()) // 2)
        self.covariates = Covariates(country=self.country)
        series, origin = origins(past, context=self.context, horizon=horizon, most=WINDOWS)
        windows = self._windows(past, frequency, series, origin)
        x, base = self._features(windows)
        return x, (windows.target - base).reshape(-1, base.shape[2]), windows.place

    def rows(self, history: Panel, frequency: Frequency) -> tuple[Floats, Floats]:
        """Rows [S H, F] of what follows each history, and the last season [S, H, V]."""
        ends = np.diff(history.offsets)
        return self._features(self._windows(history, frequency, np.arange(len(history)), ends))

    def _windows(self, panel: Panel, frequency: Frequency, series: Any, origin: Any) -> Horizons:
        sizes: Mapping[str, Any] = {"context": self.context, "horizon": self.horizon, "covariates": self.covariates}
        return horizons(panel, frequency, series, origin, **sizes)

    def _features(self, windows: Horizons) -> tuple[Floats, Floats]:
        known = np.stack([np.stack([filled(v) for v in one.T], axis=1) for one in windows.context])
        step = np.arange(self.horizon)
        base = known[:, known.shape[1] - self.season + step % self.season]
        lags = earlier(np.concatenate([known, windows.told], axis=2), self.horizon, self.seasons)
        shape = (len(known), self.horizon)
        recent = np.broadcast_to(
            known[:, -24:].reshape(len(known), 1, -1), (*shape, known[:, -24:, :].size // len(known))
        )
        place = np.broadcast_to(step[None, :, None], (*shape, 1))
        x = np.concatenate([place, base, windows.ahead, lags, recent], axis=2)
        return x.reshape(-1, x.shape[2]), base


def boosting(**settings: Any) -> Any:
    """A regressor of scikit-learn."""
    from sklearn.ensemble import HistGradientBoostingRegressor

    return HistGradientBoostingRegressor(max_iter=120, min_samples_leaf=40, random_state=0, **settings)


class BoostedQuantiles(_Trees):
    """Gradient boosting of quantiles."""

    def fit(self, past: Panel, frequency: Frequency, *, season: int, horizon: int) -> None:
        x, y, _ = self.examples(past, frequency, season, horizon)
        self.models = [[self._one(x, target, q) for q in BOOSTED] for target in y.T]

    def _one(self, x: Floats, y: Floats, quantile: float) -> Any:
        seen = ~np.isnan(y)
        return boosting(loss="quantile", quantile=quantile).fit(x[seen], y[seen])

    def draws(self, history: Panel, frequency: Frequency) -> Floats:
        x, base = self.rows(history, frequency)
        columns = []
        for part in self.models:
            quantiles = np.sort(np.stack([model.predict(x) for model in part]), axis=0)
            columns.append(np.stack([np.interp(LEVELS, BOOSTED, q) for q in quantiles.T]))  # [S H, levels]
        found = np.stack(columns, axis=-1).reshape(*base.shape[:2], len(LEVELS), -1)
        return np.moveaxis(found, 2, 1) + base[:, None]


class Boosted(_Trees):
    """Gradient boosting of the median, and normal errors of mean zero, as large as those of late windows by step."""

    def fit(self, past: Panel, frequency: Frequency, *, season: int, horizon: int) -> None:
        x, y, place = self.examples(past, frequency, season, horizon)
        late = np.repeat(place > 1 - LATE, horizon)
        self.models, spread = [], []
        for target in y.T:
            seen = ~np.isnan(target)
            early = boosting(loss="absolute_error").fit(x[seen & ~late], target[seen & ~late])
            error = np.where(seen[late], target[late] - early.predict(x[late]), np.nan).reshape(-1, horizon)
            spread.append(np.sqrt(np.nanmean(error**2, axis=0)))
            self.models.append(boosting(loss="absolute_error").fit(x[seen], target[seen]))
        self.spread = np.stack(spread, axis=-1)

    def draws(self, history: Panel, frequency: Frequency) -> Floats:
        x, base = self.rows(history, frequency)
        point = np.stack([model.predict(x) for model in self.models], axis=-1).reshape(base.shape) + base
        return point[:, None] + stats.norm.ppf(LEVELS)[:, None, None] * self.spread


def filled(column: Floats) -> Floats:
    """Gaps on the line between their neighbours; 0 where nothing is known at all."""
    place = np.flatnonzero(~np.isnan(column))
    return np.interp(np.arange(len(column)), place, column[place]) if len(place) else np.zeros(len(column))
