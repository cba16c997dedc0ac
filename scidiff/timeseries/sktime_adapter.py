"""The forecaster as one of sktime's: `pip install sktime` first, whose own pins are apart from scidiff's."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import pandas as pd
from sktime.forecasting.base import BaseForecaster

from scidiff.timeseries.forecaster import DiffusionForecaster

_TIME = "time"


class SktimeForecaster(BaseForecaster):
    """`DiffusionForecaster` behind sktime's interface: medians, and quantiles of `n_draws` futures.

    `update(y, update_params=False)` takes new observations without learning again.

    Args:
        horizon: steps at most that `fh` may ask for.
        context, season, members, n_draws, steps, calibrate, time_budget, max_steps, seed: as of `DiffusionForecaster`.

    Example:
        forecaster = SktimeForecaster(horizon=12).fit(y)
        forecaster.predict_quantiles(fh=[1, 2, 3], alpha=[0.1, 0.9])
    """

    _tags: ClassVar[dict[str, Any]] = {
        "y_inner_mtype": "pd.DataFrame",
        "scitype:y": "both",
        "requires-fh-in-fit": False,
        "capability:pred_int": True,
        "capability:exogenous": False,
        "capability:missing_values": True,
        "capability:insample": False,
    }

    def __init__(
        self,
        *,
        horizon: int = 12,
        context: int | None = None,
        season: int | None = None,
        members: int | None = None,
        n_draws: int = 200,
        steps: int = 6,
        calibrate: bool = False,
        time_budget: str | float | None = None,
        max_steps: int | None = None,
        seed: int = 0,
    ) -> None:
        self.horizon = horizon
        self.context = context
        self.season = season
        self.members = members
        self.n_draws = n_draws
        self.steps = steps
        self.calibrate = calibrate
        self.time_budget = time_budget
        self.max_steps = max_steps
        self.seed = seed
        super().__init__()

    def _fit(self, y: pd.DataFrame, X: Any = None, fh: Any = None) -> SktimeForecaster:
        self.names_ = y.columns
        self.forecaster_ = DiffusionForecaster(time=_TIME, **self.get_params()).fit(_table(y))
        return self

    def _update(self, y: pd.DataFrame, X: Any = None, update_params: bool = True) -> SktimeForecaster:
        self.forecaster_.update(_table(y))
        if update_params:
            self.forecaster_.fit(self.forecaster_.history_)
        return self

    def _predict(self, fh: Any, X: Any = None) -> pd.DataFrame:
        found = self._quantiles(fh, [0.5])[:, 0]
        return pd.DataFrame(found, index=fh.to_absolute_index(self.cutoff), columns=self.names_)

    def _predict_quantiles(self, fh: Any, X: Any, alpha: list[float]) -> pd.DataFrame:
        found = self._quantiles(fh, alpha)  # [steps, alpha, V]
        columns = pd.MultiIndex.from_product([self.names_, alpha])
        flat = np.moveaxis(found, 2, 1).reshape(len(found), -1)
        return pd.DataFrame(flat, index=fh.to_absolute_index(self.cutoff), columns=columns)

    def _quantiles(self, fh: Any, levels: list[float]) -> np.ndarray:
        """[steps, levels, V]."""
        steps = fh.to_relative(self.cutoff).to_numpy().astype(int)
        if steps.min() < 1 or steps.max() > self.horizon:
            raise ValueError(f"fh: expected steps of 1 to {self.horizon}, got {steps.min()} to {steps.max()}")
        draws = self.forecaster_.sample()["value"].to_numpy()[0]
        return np.asarray(np.moveaxis(np.quantile(draws, levels, axis=0), 0, 1)[steps - 1])

    @classmethod
    def get_test_params(cls, parameter_set: str = "default") -> dict[str, Any]:
        """Small, for sktime's own checks."""
        return {"horizon": 5, "season": 1, "context": 6, "n_draws": 5, "steps": 2, "max_steps": 1}


def _table(y: pd.DataFrame) -> pd.DataFrame:
    """The series with its times as a column."""
    index = y.index.to_timestamp() if isinstance(y.index, pd.PeriodIndex) else y.index
    table = pd.DataFrame(y.to_numpy(dtype=np.float64), columns=[f"y{v}" for v in range(y.shape[1])])
    table.insert(0, _TIME, index)
    return table
