"""DeepAR and the temporal fusion transformer of GluonTS (torch): contestants of the forecasting benchmark.

Both learn from all series at once, a variable as a series of its own, with the defaults of the package, for a set time.
"""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

import numpy as np
import pandas as pd
import torch

from scidiff.timeseries.backtest import Peer
from scidiff.timeseries.frequency import Frequency
from scidiff.timeseries.panel import Floats, Panel

SECONDS = 60  # of training, about what scidiff takes
CONTEXT = 336  # steps, at most
DRAWS = 100
_PERIODS, _ENDS = {"QS": "Q", "MS": "M"}, {"QS": "QE", "MS": "ME"}  # pandas' names, of periods and of offsets
LEVELS = np.arange(0.01, 1, 0.02)  # quantiles that a transformer learns, and that stand for its draws


def gluonts_peers(seconds: float) -> tuple[Mapping[str, Peer], list[str]]:
    """Those that are installed, and what is missing."""
    if find_spec("gluonts") and find_spec("lightning"):
        return {name: GluonTS(name, seconds) for name in ("DeepAR", "TFT")}, []
    return {}, ["gluonts: DeepAR and TFT are left out (pip install --no-deps gluonts lightning and what they ask for)"]


class GluonTS:
    """A model of GluonTS, by the name `DeepAR` or `TFT`."""

    def __init__(self, kind: str, seconds: float) -> None:
        self.kind, self.seconds, self.quantiles = kind, seconds, kind == "TFT"

    def fit(self, past: Panel, frequency: Frequency, *, season: int, horizon: int) -> None:
        from gluonts.torch import DeepAREstimator, TemporalFusionTransformerEstimator

        for name in ("lightning", "lightning.pytorch", "lightning.pytorch.utilities.rank_zero"):
            logging.getLogger(name).setLevel(logging.ERROR)
        trainer: dict[str, Any] = {"max_epochs": 10_000, "max_time": {"seconds": self.seconds}, "accelerator": "cpu"}
        trainer |= dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary"), False)
        length = min(max(2 * horizon, season), CONTEXT)
        sizes: dict[str, Any] = {"prediction_length": horizon, "context_length": length, "trainer_kwargs": trainer}
        sizes["freq"] = _ENDS.get(_head(frequency), _head(frequency))
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(), torch.random.fork_rng():
            trainer["default_root_dir"] = folder  # it keeps its best weights there
            warnings.simplefilter("ignore")
            torch.manual_seed(0)
            if self.kind == "DeepAR":
                estimator = DeepAREstimator(**sizes)
            else:
                estimator = TemporalFusionTransformerEstimator(**sizes, quantiles=[round(q, 2) for q in LEVELS])
            self.predictor = estimator.train(_series(past, frequency))

    def draws(self, history: Panel, frequency: Frequency) -> Floats:
        with warnings.catch_warnings(), torch.random.fork_rng():
            warnings.simplefilter("ignore")
            torch.manual_seed(len(history.time))
            told = _series(history, frequency)
            if self.kind == "DeepAR":
                found = [one.samples for one in self.predictor.predict(told, num_samples=DRAWS)]
            else:
                found = [np.sort(one.forecast_array, axis=0) for one in self.predictor.predict(told)]
        every = np.stack(found).reshape(len(history), len(history.variables), len(found[0]), -1)
        return np.moveaxis(every, 1, 3).astype(np.float64)  # [S, K, H, V]


def _head(frequency: Frequency) -> str:
    """The name of the frequency, without the month that a quarter starts in."""
    return frequency.name.split("-")[0]


def _series(panel: Panel, frequency: Frequency) -> list[dict[str, Any]]:
    """One series a variable, as GluonTS reads them."""
    found = []
    for values, times in zip(panel.values, panel.times, strict=True):
        start = pd.Period(panel.clock.dates(times[:1])[0], freq=_PERIODS.get(_head(frequency), _head(frequency)))
        found += [{"start": start, "target": column.astype(np.float32)} for column in values.T]
    return found
