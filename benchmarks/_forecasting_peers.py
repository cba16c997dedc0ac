"""Contestants of the forecasting benchmark: exponential smoothing on seasonal decompositions, and boosted quantiles."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec

import numpy as np

from scidiff.timeseries.backtest import Peer
from scidiff.timeseries.frequency import Frequency, calendar
from scidiff.timeseries.panel import Floats, Panel

LEVELS = np.arange(0.01, 1, 0.02)  # quantiles that stand for draws
BOOSTED = (0.025, 0.1, 0.25, 0.5, 0.75, 0.9, 0.975)
WINDOWS = 400  # origins that trees learn from


def peers() -> tuple[Mapping[str, Peer], list[str]]:
    """Those that are installed, and what is missing."""
    found: dict[str, Peer] = {}
    missing = []
    if find_spec("statsforecast"):
        found["MSTL + AutoETS"] = Smoothing()
    else:
        missing.append("statsforecast: MSTL + AutoETS is left out (pip install statsforecast)")
    if find_spec("sklearn"):
        found["boosted quantiles"] = Boosted()
    else:
        missing.append("scikit-learn: boosted quantiles are left out (pip install scikit-learn)")
    return found, missing


class Smoothing:
    """AutoETS on what multiple seasonal decomposition leaves (statsforecast), fitted anew at each origin."""

    def fit(self, past: Panel, frequency: Frequency, *, season: int, horizon: int) -> None:
        self.horizon = horizon
        self.seasons = [s for s in frequency.seasons if s > 1] or [season]

    def draws(self, history: Panel, frequency: Frequency) -> Floats:
        from statsforecast.models import MSTL, AutoETS

        out = []
        for values in history.values:
            kept = values[-max(8 * max(self.seasons), 400) :]
            columns = []
            for column in kept.T:
                filled = np.interp(np.arange(len(column)), *_known(column))
                levels = np.round(200 * LEVELS[LEVELS > 0.5] - 100).astype(int).tolist()
                found = MSTL(self.seasons, trend_forecaster=AutoETS(model="ZZN")).forecast(
                    filled, self.horizon, level=levels
                )
                low = [found[f"lo-{level}"] for level in reversed(levels)]
                columns.append(np.stack([*low, *(found[f"hi-{level}"] for level in levels)]))
            out.append(np.stack(columns, axis=-1))
        return np.stack(out)


def _known(column: Floats) -> tuple[np.ndarray, Floats]:
    place = np.flatnonzero(~np.isnan(column))
    return place, column[place]


class Boosted:
    """Gradient boosting of quantiles of the change against the last season, by lags, calendar and step."""

    def fit(self, past: Panel, frequency: Frequency, *, season: int, horizon: int) -> None:
        from sklearn.ensemble import HistGradientBoostingRegressor

        self.season, self.horizon = season, horizon
        rows, targets = [], []
        for values, times in zip(past.values, past.times, strict=True):
            ends = np.unique(np.linspace(2 * season, len(values) - horizon, WINDOWS // len(past)).astype(int))
            for end in ends[ends >= season]:
                x, base = self._features(values[:end], times[:end], frequency, past)
                rows.append(x)
                targets.append(values[end : end + horizon] - base)
        x, y = np.concatenate(rows), np.concatenate(targets)
        self.models = []
        for v in range(y.shape[1]):
            seen = ~np.isnan(y[:, v])
            part = [
                HistGradientBoostingRegressor(loss="quantile", quantile=q, max_iter=120, random_state=0).fit(
                    x[seen], y[seen, v]
                )
                for q in BOOSTED
            ]
            self.models.append(part)

    def _features(self, values: Floats, times: Floats, frequency: Frequency, panel: Panel) -> tuple[Floats, Floats]:
        """Rows [H, F] and the last season repeated [H, V]."""
        place = np.arange(self.horizon)
        base = values[len(values) - self.season + place % self.season]
        base = np.where(np.isnan(base), np.nanmean(values[-2 * self.season :], axis=0), base)
        when = calendar(panel.clock, frequency.after(panel.clock, times[-1], self.horizon))
        shift = values[-1] - values[len(values) - 1 - self.season]
        recent = np.nanmean(values[-24:], axis=0) - np.nanmean(values[-24 - self.season : -self.season], axis=0)
        same = np.concatenate([values[-1], shift, recent])
        return np.concatenate([place[:, None], base, when, np.tile(same, (self.horizon, 1))], axis=1), base

    def draws(self, history: Panel, frequency: Frequency) -> Floats:
        out = []
        for values, times in zip(history.values, history.times, strict=True):
            x, base = self._features(values, times, frequency, history)
            columns = []
            for part in self.models:
                quantiles = np.sort(np.stack([model.predict(x) for model in part]), axis=0)
                columns.append(np.stack([[np.interp(p, BOOSTED, q) for q in quantiles.T] for p in LEVELS]))
            out.append(np.stack(columns, axis=-1) + base)
        return np.stack(out)
