"""The forecaster as an estimator and a predictor of GluonTS: `pip install gluonts` first, whose pins are apart."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd
from gluonts.model.forecast import SampleForecast
from gluonts.model.predictor import Predictor

from scidiff.timeseries.forecaster import DiffusionForecaster

Entry = Mapping[str, Any]
"""A series as GluonTS has it: `start` (a Period), `target` [T] or [V, T], perhaps `item_id`."""


class GluonTSEstimator:
    """Learns from a dataset of GluonTS.

    Args:
        prediction_length: the horizon.
        settings: as of `DiffusionForecaster`.

    Example:
        predictor = GluonTSEstimator(prediction_length=24, seed=1).train(dataset.train)
        forecasts = list(predictor.predict(dataset.test))
    """

    def __init__(self, prediction_length: int, **settings: Any) -> None:
        self.forecaster = DiffusionForecaster(horizon=prediction_length, id="id", time="time", **settings)

    def train(self, training_data: Iterable[Entry]) -> GluonTSPredictor:
        """The predictor, after learning from all series."""
        tables = [_table(entry, k) for k, entry in enumerate(training_data)]
        if not tables:
            raise ValueError("expected a dataset of at least one series, got none")
        return GluonTSPredictor(self.forecaster.fit(pd.concat(tables, ignore_index=True)))


class GluonTSPredictor(Predictor):
    """Forecasts series of a dataset, which may be new ones.

    Args:
        forecaster: fitted, its columns named as by `GluonTSEstimator`.
    """

    def __init__(self, forecaster: DiffusionForecaster) -> None:
        super().__init__(prediction_length=forecaster.horizon)
        self.forecaster = forecaster

    def predict(self, dataset: Iterable[Entry], num_samples: int | None = None, **_: Any) -> Iterator[SampleForecast]:
        """A forecast of samples [K, H], or [K, H, V] of several variables, for each series in its order."""
        for k, entry in enumerate(dataset):
            draws = self.forecaster.sample(_table(entry, k), num_samples)["value"].to_numpy()[0]
            one = np.ndim(entry["target"]) == 1
            yield SampleForecast(
                samples=draws[:, :, 0] if one else draws,
                start_date=entry["start"] + np.shape(entry["target"])[-1],
                item_id=entry.get("item_id"),
            )


def _table(entry: Entry, number: int) -> pd.DataFrame:
    """One series; `number` names it if nothing else does."""
    target = np.atleast_2d(np.asarray(entry["target"], dtype=np.float64))
    times = pd.period_range(entry["start"], periods=target.shape[1], freq=entry["start"].freq).to_timestamp()
    columns = {f"y{v}": row for v, row in enumerate(target)}
    return pd.DataFrame({"id": str(entry.get("item_id", number)), "time": times, **columns})
