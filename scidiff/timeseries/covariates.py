"""What a forecast is told besides the history of its targets: covariates known ahead or not, holidays, static facts.

Covariates are columns of the same table. Where some are known ahead, the rows of a series that follow the last one in
which a target or another covariate was measured are its future.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta
from typing import Any

import numpy as np

from scidiff.errors import UserError
from scidiff.timeseries.clock import Clock
from scidiff.timeseries.panel import Floats, Ints, Panel
from scidiff.timeseries.standardise import covariates as static_table
from scidiff.timeseries.standardise import scale, static_names

HOLIDAYS = 3  # features: of the day itself, the day after, the day before


@dataclass(frozen=True, kw_only=True)
class Covariates:
    """Names and scales. A network reads (x - mean) / std, and 0 where nothing is known.

    Attributes:
        future: columns that are known over the horizon too.
        past: columns that are known up to the origin.
        static: of the series, as `static_names` has them.
        country: whose holidays count, as the package `holidays` calls it (`DE`, `US`), or None.
        means, stds: of future, past and static, in this order.
    """

    future: tuple[str, ...] = ()
    past: tuple[str, ...] = ()
    static: tuple[str, ...] = ()
    country: str | None = None
    means: tuple[float, ...] = ()
    stds: tuple[float, ...] = ()

    @property
    def columns(self) -> tuple[str, ...]:
        """Those of the table."""
        return (*self.future, *self.past)

    @property
    def ahead(self) -> int:
        """How many features there are of a step to come."""
        return len(self.future) + HOLIDAYS * (self.country is not None)

    @property
    def told(self) -> int:
        """How many there are of a row before the origin."""
        return self.ahead + len(self.past)

    def fitted(self, panel: Panel) -> Covariates:
        """The same with the scales of a panel, and the names of its static covariates.

        Raises:
            UserError: a country that is not known.
        """
        if self.country is not None:
            holidays(panel.clock, panel.time[:1], self.country)
        static = static_names(panel)
        mean, std = scale(panel.value[:, self._places(panel)])
        static_mean, static_std = scale(static_table(panel, static))
        return replace(
            self,
            static=static,
            means=(*mean.tolist(), *static_mean.tolist()),
            stds=(*std.tolist(), *static_std.tolist()),
        )

    def targets(self, panel: Panel) -> Panel:
        """The panel without the columns of covariates."""
        if not self.columns:
            return panel
        kept = self.forecast(panel)
        return replace(panel, variables=tuple(panel.variables[v] for v in kept), value=panel.value[:, kept])

    def forecast(self, panel: Panel) -> list[int]:
        """Places of the columns that are no covariates."""
        return [v for v, name in enumerate(panel.variables) if name not in self.columns]

    def ends(self, panel: Panel) -> Ints:
        """How many rows of each series are its history: [S]."""
        counts = np.diff(panel.offsets)
        if not self.future:
            return counts
        others = [v for v, name in enumerate(panel.variables) if name not in self.future]
        seen = np.asarray(panel.observed[:, others].any(1))
        rows = np.arange(len(seen)) - panel.offsets[:-1][panel.series] + 1
        last = np.zeros(len(panel), dtype=np.int64)
        np.maximum.at(last, panel.series, np.where(seen, rows, 0))
        return last

    def features(self, panel: Panel, value: Floats, time: Floats) -> Floats:
        """Features [R, told] of rows [R, columns] of a panel at their times, those known ahead first; NaN if empty."""
        scaled = (value[:, self._places(panel)] - self._means) / self._stds
        count = len(self.future)
        days = np.empty((len(time), 0)) if self.country is None else holidays(panel.clock, time, self.country)
        return np.concatenate([scaled[:, :count], days, scaled[:, count:]], axis=1)

    def facts(self, panel: Panel) -> Floats:
        """Static features [S, K], 0 where unknown.

        Raises:
            UserError: the panel has none, but the model has learned from some.
        """
        if self.static and panel.static is None:
            raise UserError(
                f"expected the static covariates {', '.join(self.static)}, got none: give them with --static"
            )
        first = len(self.columns)
        table = static_table(panel, self.static)
        return np.nan_to_num((table - np.array(self.means[first:])) / np.array(self.stds[first:]))

    def check_ahead(self, panel: Panel, ends: Ints, horizon: int) -> None:
        """UserError if a future covariate is missing somewhere in the horizon of a series."""
        for s, (first, last) in enumerate(zip(panel.offsets[:-1] + ends, panel.offsets[1:], strict=True)):
            where = f"series {panel.ids[s]}: " if len(panel) > 1 else ""
            rows = panel.value[first : min(first + horizon, last), self._places(panel)[: len(self.future)]]
            if self.future and len(rows) < horizon:
                raise UserError(
                    f"{where}expected rows with {', '.join(self.future)} for the {horizon} steps of the horizon, got "
                    f"{len(rows)}: add rows after {panel.clock.back(panel.time[[last - 1]])[0]}, with empty targets"
                )
            if np.isnan(rows).any():
                step, which = np.argwhere(np.isnan(rows))[0]
                raise UserError(
                    f"{where}expected {self.future[which]} at {panel.clock.back(panel.time[[first + step]])[0]}, which "
                    "is in the horizon, got an empty cell: fill it, or name the covariate with --past-covariates"
                )

    @property
    def _means(self) -> Floats:
        return np.array(self.means[: len(self.columns)])

    @property
    def _stds(self) -> Floats:
        return np.array(self.stds[: len(self.columns)])

    def _places(self, panel: Panel) -> list[int]:
        return [panel.variables.index(name) for name in self.columns]


NONE = Covariates()


def disjoint(target: Sequence[str] | None, future: Sequence[str], past: Sequence[str]) -> None:
    """UserError unless targets and covariates are all different columns."""
    if (future or past) and target is None:
        raise UserError("--target: expected the variables to forecast, since others are covariates, got none")
    names = [*(target or ()), *future, *past]
    again = [name for name in names if names.count(name) > 1]
    if again:
        raise UserError(f"expected targets and covariates that differ, got {again[0]!r} twice")


def holidays(clock: Clock, time: Floats, country: str) -> Floats:
    """Features of times [N]: [N, HOLIDAYS], 1 on a public holiday, the day after, the day before; else 0.

    Raises:
        UserError: the package `holidays` is missing, or does not know the country.
    """
    if clock.kind != "date":
        raise UserError("--holidays: expected dates in the column of times, got numbers")
    try:
        import holidays as package
    except ImportError:
        raise UserError("--holidays: expected the package holidays, got none: pip install holidays") from None
    name, _, part = country.partition("-")
    days = clock.dates(time)
    years = range(int(days.year.min()) - 1, int(days.year.max()) + 2)
    try:
        free: Any = package.country_holidays(name, subdiv=part or None, years=years)
    except NotImplementedError:
        raise UserError(f"--holidays: expected a country such as DE or US-IL, got {country!r}") from None
    dates, place = np.unique(days.strftime("%Y-%m-%d").to_numpy(dtype=str), return_inverse=True)
    each = [date.fromisoformat(str(one)) for one in dates]
    found = [[float(day - timedelta(days=back) in free) for back in (0, 1, -1)] for day in each]
    return np.array(found)[place]
