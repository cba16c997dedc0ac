"""A panel: many series of the same variables, each measured at its own times, with gaps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from scidiff.errors import UserError
from scidiff.timeseries.clock import Clock

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Collapse = Literal["mean", "last"]


@dataclass(frozen=True, kw_only=True)
class Source:
    """The table that a panel was read from, so that it can be written back as it came.

    Attributes:
        layout: `long` (one row a measurement), `wide` (one column a variable) or `array` (an xarray Dataset).
        table: the DataFrame or Dataset, untouched; cells of a CSV file are text.
        id, time: columns of identity and time; None if the table has none.
        variable, value: columns of a long table.
        levels: columns that were levels of the DataFrame's index.
        index: that index; None if the index was left alone.
        names: of the columns as they came, which need not be texts.
        row: [N rows of the table] the panel's row that each belongs to; -1 for rows that the panel does not hold.
        series, at: [N] series and time of each; NaN for rows without a time. Empty for an array.
        code: [N] the variable of each row of a long table, -1 for those not asked for; empty for others.
        text: how a text file was written (`csv_text.Dialect`); None if the cells are not text.
        notes: what the reader decided and the user may want to know, one line each.
    """

    layout: Literal["long", "wide", "array"]
    table: Any
    id: str | None
    time: str | None
    variable: str | None = None
    value: str | None = None
    levels: tuple[str, ...] = ()
    index: pd.Index | None = None
    names: pd.Index | None = None
    row: Ints
    series: Ints
    at: Floats
    code: Ints
    text: Any = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, eq=False)
class Panel:
    """S series of V variables. A row is one time of one series; rows are ordered by series, then time.

    Attributes:
        ids: [S] identity of each series as it came, in order of first appearance.
        variables: V names.
        time: [R] times, strictly increasing within a series, in the user's unit, or seconds for dates and durations.
        value: [R, V] in the user's units; NaN where nothing was measured.
        offsets: [S + 1] series s has the rows offsets[s] to offsets[s + 1].
        clock: how these times become the user's again.
        static: covariates, one row a series, [S, ...] numbers in the order of `ids`; None if there are none.
        units: unit of a variable, where one is known.
        source: the table it came from; None for a part of a panel, which cannot be written back.
    """

    ids: pd.Index
    variables: tuple[str, ...]
    time: Floats
    value: Floats
    offsets: Ints
    clock: Clock
    static: pd.DataFrame | None = None
    units: Mapping[str, str] = field(default_factory=dict)
    source: Source | None = None

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def times(self) -> list[Floats]:
        """Times of each series: S arrays [T_i]."""
        return [self.time[a:b] for a, b in zip(self.offsets[:-1], self.offsets[1:], strict=True)]

    @property
    def values(self) -> list[Floats]:
        """Values of each series: S arrays [T_i, V]."""
        return [self.value[a:b] for a, b in zip(self.offsets[:-1], self.offsets[1:], strict=True)]

    @property
    def series(self) -> Ints:
        """[R] the series that each row belongs to."""
        return np.repeat(np.arange(len(self)), np.diff(self.offsets))

    @property
    def observed(self) -> npt.NDArray[np.bool_]:
        """[R, V] where something was measured."""
        return ~np.isnan(self.value)

    def select(self, series: npt.ArrayLike) -> Panel:
        """The panel of some series, by their numbers 0 to S - 1, in the order given; it cannot be written back."""
        chosen = np.asarray(series, dtype=np.int64)
        count = np.diff(self.offsets)[chosen]
        offsets = _offsets(count)
        rows = np.repeat(self.offsets[chosen] - offsets[:-1], count) + np.arange(offsets[-1])
        return Panel(
            ids=self.ids[chosen],
            variables=self.variables,
            time=self.time[rows],
            value=self.value[rows],
            offsets=offsets,
            clock=self.clock,
            static=None if self.static is None else self.static.iloc[chosen],
            units=self.units,
        )

    def label(self, variable: int) -> str:
        """The name of a variable, with its unit if that is known."""
        name = self.variables[variable]
        return f"{name} [{self.units[name]}]" if name in self.units else name


def _offsets(counts: Ints) -> Ints:
    """Where each of several runs begins, and the end of the last: [0, n_0, n_0 + n_1, ...]."""
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)


def row_numbers(series: Ints, time: Floats) -> tuple[Ints, Ints, Floats]:
    """The distinct (series, time) in order, and where every row of a table belongs among them.

    Args:
        series: [N] numbers of the series.
        time: [N].

    Returns:
        row [N], the row of the panel; and of every row of the panel its series [R] and time [R].
    """
    order = np.lexsort((time, series))
    sorted_series, sorted_time = series[order], time[order]
    begins = np.ones(len(order), dtype=bool)
    begins[1:] = (np.diff(sorted_series) != 0) | (np.diff(sorted_time) != 0)
    row = np.empty(len(order), dtype=np.int64)
    row[order] = np.cumsum(begins) - 1
    return row, sorted_series[begins], sorted_time[begins]


def collapse(place: Ints, value: Floats, size: int, how: Collapse) -> Floats:
    """Numbers gathered into places, several of them collapsed into one: [size], NaN where there is none.

    A number that is alone in its place is kept to the bit.

    Args:
        place: [N] in 0 to size - 1.
        value: [N] in order of time, no NaN.
        size: number of places.
        how: the mean, or the last.
    """
    out = np.full(size, np.nan)
    out[place] = value  # of several the last is kept
    if how == "mean":
        count = np.bincount(place, minlength=size)
        many = count > 1
        if many.any():
            out[many] = np.bincount(place, weights=value, minlength=size)[many] / count[many]
    return out


def build(
    *,
    ids: pd.Index,
    variables: tuple[str, ...],
    series: Ints,
    time: Floats,
    value: Floats,
    clock: Clock,
    static: pd.DataFrame | None = None,
    units: Mapping[str, str] | None = None,
    source: Source | None = None,
) -> Panel:
    """A panel of rows [R] that are ordered by series and time already (see `row_numbers`).

    Raises:
        UserError: there is no row or no variable.
    """
    if not len(time) or not variables:
        what = "rows" if not len(time) else "variables"
        raise UserError(f"expected measurements, got a table without {what}")
    return Panel(
        ids=ids,
        variables=variables,
        time=time,
        value=value,
        offsets=_offsets(np.bincount(series, minlength=len(ids))),
        clock=clock,
        static=static,
        units=dict(units or {}),
        source=source,
    )
