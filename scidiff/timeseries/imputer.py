"""Imputation as an estimator: the conventions of scikit-learn, without needing it.

`clone`, pipelines and searches work where scikit-learn is installed, and nobody has to install it otherwise.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
import xarray as xr

from scidiff.timeseries import filling
from scidiff.timeseries.arrays import draws_dataset
from scidiff.timeseries.calibrating import calibrate, central
from scidiff.timeseries.calibration import Calibration
from scidiff.timeseries.columns import IDS, TIMES, Options
from scidiff.timeseries.draws import STEPS
from scidiff.timeseries.estimator import TableTransformer, as_frame, value_errors
from scidiff.timeseries.filling import Request
from scidiff.timeseries.frames import read_frame
from scidiff.timeseries.grid import Grid
from scidiff.timeseries.impute import Filled
from scidiff.timeseries.imputed import imputed_table
from scidiff.timeseries.learn import Learned
from scidiff.timeseries.model import ImputerModel
from scidiff.timeseries.panel import Panel
from scidiff.timeseries.rules import Rules
from scidiff.timeseries.standardise import Translation
from scidiff.timeseries.static import with_static

_ROW = "row"  # the column of times of a table that has none


class DiffusionImputer(TableTransformer):
    """Fills the gaps of tables of time series with draws from a diffusion model.

    A table has one row a time (wide) or one a measurement (long), of one series or of many. Everything that came comes
    back: rows, columns, index, dtypes, time zone, and what was observed to the bit. Gaps get the median of the draws.
    An array without names is one series whose rows follow one another, and so is a DataFrame without a column of times.

    Args:
        id, time, variable, value, variables: columns (see `columns.Options`); found by their names if None.
        static: covariates of the series, one row each: a DataFrame.
        step: of a regular grid in the unit of the times (seconds for dates). Default: the times as they are.
        constraints: what every draw has to keep (see `rules.Rules`): a dictionary, or the path of a YAML file.
        calibrate: quantiles widened or narrowed until they hold, on a half of the series of `fit` (or of those that
            training left out); draws and medians stay.
        complete: also return rows for times, or measurements, that the table has no row for.
        n_draws: draws of each gap.
        steps: network calls a draw.
        model: folder of trained weights. Default: the packaged ones, where they know a variable of the table.
        train: True to train on the table, False never to, None to if the weights lack one of its variables.
        time_budget: for training and for imputing a table as large: `90s`, `10m`, ... Default: five minutes of
            training at most. Training ends earlier once it no longer helps.
        max_steps: of training, in place of the time: the same seed then gives the same imputer.
        seed: of everything random.
        device: `cpu`, `cuda`, ...
        progress: whether to show how far it is, on standard error.

    Attributes:
        model_: the `ImputerModel`.
        notes_: what was decided, one line each.
        verdicts_: on the constraints, by rule, of the last table that was filled (`verdicts.Verdict`); None without.
        n_features_in_: columns of the table.
        feature_names_in_: their names, if all are texts.

    Example:
        imputer = DiffusionImputer(id="RecordID", time="minute", seed=1)
        filled = imputer.fit_transform(table)
        draws = imputer.impute_samples(table, 50)
    """

    def __init__(
        self,
        *,
        id: str | None = None,
        time: str | None = None,
        variable: str | None = None,
        value: str | None = None,
        variables: Sequence[str] | None = None,
        static: pd.DataFrame | None = None,
        step: float | None = None,
        constraints: Mapping[str, Any] | Rules | str | Path | None = None,
        calibrate: bool = False,
        complete: bool = False,
        n_draws: int = 50,
        steps: int = STEPS,
        model: str | Path | None = None,
        train: bool | None = None,
        time_budget: str | float | None = None,
        max_steps: int | None = None,
        seed: int = 0,
        device: str = "cpu",
        progress: bool = False,
    ) -> None:
        self.id = id
        self.time = time
        self.variable = variable
        self.value = value
        self.variables = variables
        self.static = static
        self.step = step
        self.constraints = constraints
        self.calibrate = calibrate
        self.complete = complete
        self.n_draws = n_draws
        self.steps = steps
        self.model = model
        self.train = train
        self.time_budget = time_budget
        self.max_steps = max_steps
        self.seed = seed
        self.device = device
        self.progress = progress

    # --- what an imputer does

    def fit(self, X: Any, y: Any = None) -> Self:
        """Choose or train the model.

        Args:
            X: the table: a DataFrame, or an array [rows, variables].
            y: ignored.

        Raises:
            ValueError: a table or settings that cannot be used; the message says what was expected.
        """
        frame = as_frame(X)
        with value_errors():
            panel = self._panel(frame)
            found, notes = filling.learned(panel, self._request(), show=self._show)
        self._remember(X, frame)
        self.model_: ImputerModel = found.model
        self.notes_ = (*(panel.source.notes if panel.source else ()), *notes)
        self._learned = found
        self.verdicts_: dict[str, Any] | None = None
        self._calibrates = panel if self.calibrate else None
        return self

    def transform(self, X: Any) -> Any:
        """The table with its gaps filled: a DataFrame of a DataFrame, an array of an array (see `set_output`)."""
        frame = self._recall(X)
        with value_errors():
            panel = self._panel(frame)
            grid, filled = self._fill(panel)
            table = _as_came(imputed_table(panel, grid, filled.median, complete=self.complete), frame)
        if isinstance(X, pd.DataFrame):
            return table
        array = table.to_numpy(dtype=np.result_type(np.asarray(X).dtype, np.float32))
        wanted = getattr(self, "_output", "default")
        return pd.DataFrame(array, columns=self.get_feature_names_out()) if wanted == "pandas" else array

    def fit_transform(self, X: Any, y: Any = None) -> Any:
        """`fit`, then `transform`, of the same table."""
        return self.fit(X, y).transform(X)

    def impute_samples(self, X: Any, n_samples: int | None = None) -> xr.Dataset:
        """Draws of the whole table: `value` over (series, sample, time, variable), for multiple imputation.

        What was observed is the same in every draw. See `arrays.draws_dataset`, and `rubin.pool`.

        Args:
            X: the table.
            n_samples: how many. Default: `n_draws`. The first of them are the same, however many there are.
        """
        frame = self._recall(X)
        with value_errors():
            panel = self._panel(frame)
            grid, filled = self._fill(panel, draws=n_samples, keep=True)
        attributes = {"seed": self.seed, "steps": self.steps}
        return draws_dataset(panel, grid, filled.draws, attributes=attributes)  # type: ignore[arg-type]

    def impute_quantiles(self, X: Any, quantiles: Sequence[float] = (0.05, 0.95)) -> pd.DataFrame:
        """The filled table with columns of quantiles beside it: `NAME_p5`, `NAME_p95`; empty where observed."""
        frame = self._recall(X)
        with value_errors():
            panel = self._panel(frame)
            levels = filling.levels(quantiles)
            grid, filled = self._fill(panel, quantiles=levels, calibration=self._calibration(levels))
            return _as_came(imputed_table(panel, grid, filled.median, filled.quantiles, complete=self.complete), frame)

    def _fill(self, panel: Panel, *, draws: int | None = None, **kinds: Any) -> tuple[Grid, Filled]:
        request = replace(self._request(), draws=self.n_draws if draws is None else draws)
        request.check(panel)
        found: Learned = replace(self._learned, translation=Translation.of(self.model_, panel, step=self.step))
        grid, filled = filling.fill(panel, found, request, progress=self._windows, **kinds)
        if filled.verdicts is not None:
            self.verdicts_ = filled.verdicts.as_dict()
        return grid, filled

    def _calibration(self, levels: tuple[float, ...]) -> Calibration | None:
        if self._calibrates is None:
            return None
        request, wanted = self._request(), central(levels)
        return calibrate(self._calibrates, self._learned, request, levels=wanted)[0]

    def _panel(self, frame: pd.DataFrame) -> Panel:
        options = Options(
            id=self.id,
            time=self.time,
            variable=self.variable,
            value=self.value,
            variables=None if self.variables is None else tuple(self.variables),
        )
        if _has_times(frame, options):
            panel = read_frame(frame, options)
        else:
            panel = read_frame(frame.assign(**{_ROW: np.arange(len(frame))}), replace(options, time=_ROW))
        return panel if self.static is None else with_static(panel, self.static)

    def _request(self) -> Request:
        budget = None if self.time_budget is None else filling.seconds(self.time_budget, what="time_budget")
        return Request(
            step=self.step,
            draws=self.n_draws,
            model=None if self.model is None else Path(self.model),
            train=self.train,
            seconds=budget,
            max_steps=self.max_steps,
            steps=self.steps,
            seed=self.seed,
            device=self.device,
            rules=self._rules(),
        )

    def _rules(self) -> Rules | None:
        if self.constraints is None or isinstance(self.constraints, Rules):
            return self.constraints
        if isinstance(self.constraints, Mapping):
            return Rules.parse(dict(self.constraints), "constraints")
        return Rules.read(Path(self.constraints))

    def _show(self, text: str) -> None:
        if self.progress:
            print(text, file=sys.stderr, flush=True)

    def _windows(self, done: int, total: int) -> None:
        if self.progress and (done == total or done % max(total // 10, 1) == 0):
            self._show(f"imputed {done} of {total} windows")


def _has_times(frame: pd.DataFrame, options: Options) -> bool:
    """Whether a table says what its times are, in a column or in its index, or its user does."""
    if isinstance(frame.index, pd.DatetimeIndex | pd.TimedeltaIndex | pd.MultiIndex):
        return True
    named = {str(name).lower() for name in (*frame.columns, *frame.index.names)}
    said = any(value is not None for value in (options.id, options.time, options.variable, options.value))
    return said or bool(named & {*IDS, *TIMES}) or _ROW in named


def _as_came(table: pd.DataFrame, frame: pd.DataFrame) -> pd.DataFrame:
    """Without the column of times that the table did not have."""
    return table if _ROW in frame.columns else table.drop(columns=_ROW, errors="ignore")
