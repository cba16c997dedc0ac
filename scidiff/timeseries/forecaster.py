"""Probabilistic forecasts as an estimator: `fit` a table, `sample` futures, `predict` their quantiles."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
import xarray as xr

from scidiff.errors import UserError
from scidiff.side_by_side import side_by_side
from scidiff.timeseries import filling
from scidiff.timeseries.columns import Options
from scidiff.timeseries.conditioning import keep_rules
from scidiff.timeseries.coupling import coupled, error_correlation
from scidiff.timeseries.covariates import Covariates, disjoint
from scidiff.timeseries.ensemble import MEMBERS, Ensemble, draw
from scidiff.timeseries.estimator import value_errors
from scidiff.timeseries.forecast import Forecast
from scidiff.timeseries.forecast_fit import learn, sizes
from scidiff.timeseries.forecast_model import NETWORKS, STEPS, ForecastConfig
from scidiff.timeseries.forecast_rules import ForecastRules, Future
from scidiff.timeseries.forecast_verdicts import judge
from scidiff.timeseries.frames import read_frame
from scidiff.timeseries.frequency import Frequency, infer
from scidiff.timeseries.history import joined
from scidiff.timeseries.horizons import Horizons, horizons
from scidiff.timeseries.impute import series_seed
from scidiff.timeseries.panel import Floats, Ints, Panel
from scidiff.timeseries.static import with_static
from scidiff.timeseries.widening import PILOT, Widening, calibrate

TRAINING = 300.0  # seconds, if no time is given


class DiffusionForecaster:
    """Ensembles of futures of one or many related series of the same frequency, from a diffusion model.

    A table has one row a time (wide) or one a measurement (long), of one series or of many; cells may be empty, rows
    may not be missing. A draw is a function of (seed, series, draw): the same alone or among others.

    Args:
        horizon: steps to forecast.
        context: steps that a forecast looks back. Default: four of the longest seasons and one of the shortest, if the
            histories are long enough.
        season: steps of the longest season of the base forecast. Default: the longest of day, week and year that the
            frequency has and the history holds.
        id, time: columns (see `columns.Options`); found by their names if None.
        target: the variable to forecast, or several that are forecast together. Default: all.
        future_covariates: columns that are known over the horizon too, where the table goes on with empty targets.
        past_covariates: columns that are known up to the origin.
        static: facts on the series (see `static.with_static`); new series at prediction time are known by them.
        holidays: the country whose public holidays count (`DE`, `US-IL`), by the package `holidays`.
        references: how many series, chosen by `fit`, all attend to; every table has to have them (see `references`).
        network: `patches`, which draws the whole horizon at once, or `recurrent`, step by step (TimeGrad).
        members: networks that differ in their seeds, each of which draws a share of the futures (see `ensemble`).
            Default: four, or one of `recurrent`.
        n_draws: futures of each series.
        steps: network calls a draw.
        constraints: rules that every future has to keep (see `forecast_rules`), a scenario among them.
        init: a folder that `save` has written: training starts from its weights, and the sizes are its.
        calibrate: whether to widen or narrow the futures until their intervals hold on past windows (see `widening`).
        time_budget: for training: `90s`, `10m`, ... Default: five minutes. It ends earlier once it no longer helps.
        max_steps: of training, in place of the time: the same seed then gives the same forecaster.
        seed: of everything random.
        device: `cpu`, `cuda`, ...
        progress: whether to show how far it is, on standard error.

    Attributes:
        model_: the `Ensemble`.
        frequency_: what was found out about the times.
        history_: the table of `fit`, with the rows of `update`.

    Example:
        forecaster = DiffusionForecaster(horizon=48, time="timestamp", target="load", seed=1).fit(table)
        futures = forecaster.sample(table, 200)  # xarray: series, sample, time, variable
        quantiles = forecaster.predict(table, [0.1, 0.9])
    """

    def __init__(
        self,
        *,
        horizon: int,
        context: int | None = None,
        season: int | None = None,
        id: str | None = None,
        time: str | None = None,
        target: str | Sequence[str] | None = None,
        future_covariates: Sequence[str] = (),
        past_covariates: Sequence[str] = (),
        static: pd.DataFrame | str | Path | None = None,
        holidays: str | None = None,
        references: int = 0,
        network: str = "patches",
        members: int | None = None,
        n_draws: int = 200,
        steps: int = STEPS,
        constraints: Mapping[str, Any] | ForecastRules | None = None,
        init: str | Path | None = None,
        calibrate: bool = False,
        time_budget: str | float | None = None,
        max_steps: int | None = None,
        seed: int = 0,
        device: str = "cpu",
        progress: bool = False,
    ) -> None:
        self.horizon = horizon
        self.context = context
        self.season = season
        self.id = id
        self.time = time
        self.target = target
        self.future_covariates = future_covariates
        self.past_covariates = past_covariates
        self.static = static
        self.holidays = holidays
        self.references = references
        self.network = network
        self.members = members
        self.n_draws = n_draws
        self.steps = steps
        self.constraints = constraints
        self.init = init
        self.calibrate = calibrate
        self.time_budget = time_budget
        self.max_steps = max_steps
        self.seed = seed
        self.device = device
        self.progress = progress

    def fit(self, table: pd.DataFrame) -> Self:
        """Learn from histories. ValueError for a table or settings that cannot be used."""
        with value_errors():
            self.fit_panel(self._panel(table), show=self._show)
            self.history_ = table
        return self

    def update(self, table: pd.DataFrame) -> Self:
        """Take new rows, without learning again: `sample()` and `predict()` then go on from them.

        Rows of a series and time that were known already replace them.
        """
        with value_errors():
            self._fitted()
            known, panel = getattr(self, "history_", None), self._panel(table)
            longer = table if known is None else joined(known, table, panel)
            infer(self._panel(longer))  # whether they go on without a gap
            self.history_ = longer
        return self

    def sample(self, table: pd.DataFrame | None = None, samples: int | None = None) -> xr.Dataset:
        """Futures of the series of a table, which may be new ones: `value` over (series, sample, time, variable).

        Args:
            table: histories, of the variables and the frequency of `fit`. Default: those of `fit` and `update`.
            samples: how many. Default: `n_draws`. The first of them are the same, however many there are.
        """
        with value_errors():
            panel = self._panel(self._known(table))
            return self.forecast_panel(panel, samples=samples).dataset({"seed": self.seed})

    def predict(self, table: pd.DataFrame | None = None, quantiles: Sequence[float] = (0.05, 0.95)) -> pd.DataFrame:
        """Medians and quantiles of `n_draws` futures, one row a series and time."""
        with value_errors():
            levels = filling.levels(quantiles)
            return self.forecast_panel(self._panel(self._known(table))).table(levels)

    def save(self, folder: str | Path) -> None:
        """Write the model to a folder of safetensors and JSON."""
        self._fitted().save(Path(folder))

    @classmethod
    def load(cls, folder: str | Path, **settings: Any) -> Self:
        """A forecaster with the model of a folder; settings as of `__init__`, except those that the model has."""
        with value_errors():
            return cls.read(folder, **settings)

    # --- what the command calls, which raises UserErrors

    @classmethod
    def read(cls, folder: str | Path, **settings: Any) -> Self:
        """`load`."""
        model = Ensemble.load(Path(folder), device=settings.get("device", "cpu"))
        config = model.config
        told = config.covariates
        own: dict[str, Any] = {name: getattr(config, name) for name in ("horizon", "context", "season", "network")}
        own |= {
            "members": len(model.members),
            "references": len(config.references),
            "future_covariates": told.future,
            "past_covariates": told.past,
            "holidays": told.country,
        }
        made = cls(**{"target": config.variables, **settings, **own})
        made.check()
        made.model_ = model
        return made

    def fit_panel(self, panel: Panel, *, show: Callable[[str], None] = lambda text: None) -> Self:
        """`fit`, of a panel; `show` takes lines on how far it is."""
        self.check()
        self.frequency_ = infer(panel)
        start = None if self.init is None else Ensemble.load(Path(self.init), device=self.device)
        own = {name: getattr(self, name) for name in ("horizon", "season", "context", "network", "references")}
        asked = sizes(panel, self.frequency_, self.covariates(), **own)
        config = asked if start is None else _alike(start.config, asked)
        budget = TRAINING if self.time_budget is None else filling.seconds(self.time_budget, what="time_budget")
        learned = learn(
            panel,
            self.frequency_,
            config,
            seconds=budget,
            max_steps=self.max_steps,
            members=self.members or MEMBERS[self.network],
            seed=self.seed,
            device=self.device,
            start=start,
            show=show,
        )
        self.model_: Ensemble = learned.model
        if self.calibrate:
            widening = calibrate(learned.trials, seed=self.seed, steps=self.steps, show=show)
            self.model_ = replace(self.model_, card={**self.model_.card, "calibration": asdict(widening)})
        return self

    def forecast_panel(
        self,
        panel: Panel,
        *,
        samples: int | None = None,
        origins: Ints | None = None,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> Forecast:
        """Draws for a panel.

        Args:
            panel: histories.
            samples: how many. Default: `n_draws`.
            origins: [S] rows of each series that are known. Default: all.
            progress: takes how many of how many series are done.
        """
        model, count = self._fitted(), self.n_draws if samples is None else samples
        if count < 1:
            raise UserError(f"expected at least 1 sample, got {count}")
        frequency, windows = self._windows(panel, origins)
        horizon, panel = model.config.horizon, model.config.covariates.targets(panel)
        rules = self.check_rules(panel)
        widening = self.widening()
        moved = rules is not None or widening is not None
        linked = rules is not None and rules.over_series(tuple(map(str, panel.ids)))
        drawn = max(count, PILOT) if moved else count  # a draw is the same, however many there are
        drawn = -(-drawn // PILOT) * PILOT if linked else drawn

        def one(s: int) -> Floats:
            seed = series_seed(self.seed, panel.ids[s])
            return draw(model, windows[s : s + 1], draws=drawn, seed=seed, steps=self.steps)

        found = []
        with side_by_side(model.device) as pool:
            for own in pool.map(one, range(len(panel))):
                found.append(own)
                progress(len(found), len(panel))
        row = panel.offsets[:-1] + windows.origin - 1
        last = panel.time[row]
        time = np.stack([frequency.after(panel.clock, float(stamp), horizon) for stamp in last])
        draws = np.stack(found)
        if widening is not None:
            draws = np.stack([widening(own, own[:PILOT]) for own in draws])
        if rules is None:
            return Forecast(panel=panel, time=time, draws=draws[:, :count])
        if linked:
            together = error_correlation(model.base, panel, frequency, windows.origin)
            draws = coupled(draws, together, seed=self.seed)
        future = Future(
            series=tuple(map(str, panel.ids)),
            variables=panel.variables,
            times=np.concatenate([last[:, None], time], axis=1),
            last=panel.value[row],
            expected=draws[:, :PILOT].mean(1),
        )
        kept = keep_rules(draws, rules, future)[:, :count]
        return Forecast(panel=panel, time=time, draws=kept, verdicts=judge(kept, rules, future))

    def check(self) -> None:
        """UserError for a setting out of range."""
        named = {name: getattr(self, name) for name in ("horizon", "n_draws", "steps")}
        named |= {n: v for n in ("context", "season", "members", "max_steps") if (v := getattr(self, n)) is not None}
        for name, value in named.items():
            if value < 1:
                raise UserError(f"{name}: expected at least 1, got {value}")
        if self.network not in NETWORKS:
            raise UserError(f"network: expected one of {', '.join(NETWORKS)}, got {self.network!r}")
        if self.references < 0 or (self.references and self.network == "recurrent"):
            raise UserError(f"references: expected 0 or more, and 0 of a recurrent network, got {self.references}")
        disjoint(self._targets(), self.future_covariates, self.past_covariates)
        if not 0 <= self.seed < 2**64:
            raise UserError(f"seed: expected 0 <= seed < 2^64, got {self.seed}")

    def columns(self) -> tuple[str, ...] | None:
        """What a table has to have: targets and covariates; None for all columns."""
        targets = self._targets()
        return None if targets is None else (*targets, *self.future_covariates, *self.past_covariates)

    def covariates(self) -> Covariates:
        """What is asked to be told besides the targets; the fitted ones are those of the model."""
        return Covariates(future=tuple(self.future_covariates), past=tuple(self.past_covariates), country=self.holidays)

    def widening(self) -> Widening | None:
        """What calibration has learned; None without it."""
        held = self._fitted().card.get("calibration")
        if held is None:
            return None
        return Widening(**{name: value if name == "windows" else _tuples(value) for name, value in held.items()})

    def check_rules(self, panel: Panel) -> ForecastRules | None:
        """What is asked of futures, checked against a panel; None for nothing."""
        if self.constraints is None:
            return None
        stated = self.constraints
        rules = stated if isinstance(stated, ForecastRules) else ForecastRules.parse(stated, "constraints")
        rules.check_future(self._targets() or panel.variables, [str(one) for one in panel.ids], self.horizon)
        return rules if rules.stated() else None

    def _windows(self, panel: Panel, origins: Ints | None) -> tuple[Frequency, Horizons]:
        """What the model is told of each series; UserError if the panel is not one that it has learned."""
        config = self._fitted().config
        told = config.covariates
        targets = told.targets(panel)
        if targets.variables != config.variables:
            raise UserError(f"expected the variables {', '.join(config.variables)}, got {', '.join(targets.variables)}")
        frequency = infer(panel)
        if frequency.name != config.frequency:
            raise UserError(f"expected times every {config.frequency}, as learned, got every {frequency.name}")
        ends = told.ends(panel) if origins is None else origins
        told.check_ahead(panel, ends, config.horizon)
        looks: dict[str, Any] = {name: getattr(config, name) for name in ("context", "horizon", "references")}
        return frequency, horizons(panel, frequency, np.arange(len(panel)), ends, covariates=told, **looks)

    def _panel(self, table: pd.DataFrame) -> Panel:
        panel = read_frame(table, Options(id=self.id, time=self.time, variables=self.columns()))
        return panel if self.static is None else with_static(panel, self.static)

    def _known(self, table: pd.DataFrame | None) -> pd.DataFrame:
        known = getattr(self, "history_", None) if table is None else table
        if known is None:
            raise UserError("expected a table, since none has been seen by fit or update, got none")
        return known

    def _targets(self) -> tuple[str, ...] | None:
        if self.target is None:
            return None
        return (self.target,) if isinstance(self.target, str) else tuple(self.target)

    def _fitted(self) -> Ensemble:
        model: Ensemble | None = getattr(self, "model_", None)
        if model is None:
            raise ValueError("expected a fitted DiffusionForecaster, got one that is not: call fit first")
        return model

    def _show(self, text: str) -> None:
        if self.progress:
            print(text, file=sys.stderr, flush=True)


def _alike(held: ForecastConfig, asked: ForecastConfig) -> ForecastConfig:
    """The configuration of a model to start from; UserError if it is of something else."""
    for name in ("variables", "horizon", "frequency", "network"):
        if getattr(held, name) != getattr(asked, name):
            raise UserError(
                f"init: expected a model of the same {name}, {getattr(asked, name)}, got {getattr(held, name)}"
            )
    names = ("future", "past", "static", "country")
    mine, other = ([getattr(one.covariates, name) for name in names] for one in (held, asked))
    if mine != other:
        raise UserError(f"init: expected a model of the same covariates, {other}, got {mine}")
    return held


def _tuples(value: Any) -> Any:
    """Lists, as JSON has them, as tuples."""
    return tuple(map(_tuples, value)) if isinstance(value, list | tuple) else value
