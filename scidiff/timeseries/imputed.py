"""A table as it came, with its gaps filled: what was observed is not touched, and every gap gets quantiles."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from scidiff.errors import UserError
from scidiff.timeseries.csv_text import Dialect
from scidiff.timeseries.grid import Array, Grid
from scidiff.timeseries.panel import Floats, Ints, Panel, Source
from scidiff.timeseries.parse import Bools, is_text, numbers, texts, times


def imputed_table(
    panel: Panel,
    grid: Grid,
    median: Array,
    quantiles: Mapping[float, Array] | None = None,
    *,
    complete: bool = True,
    text: bool = False,
) -> pd.DataFrame:
    """The panel's table with its gaps filled.

    Columns, dtypes and index are those that came, and every row that came is there, its observed cells untouched.
    Empty cells of variables get the median; columns `NAME_p5`, `NAME_p95`, ... get the quantiles of what was imputed
    and are empty where something was observed. Integer columns with gaps get rounded medians. New rows stand in order
    of time if the table was in order, else at its end.

    A gap whose cell of the grid holds a measurement made at another time gets that cell's value.

    Args:
        panel: read from a long or a wide table.
        grid: of this panel.
        median: [W, L, V]; NaN where there is no estimate: the gap stays.
        quantiles: [W, L, V] by level in (0, 1), for instance {0.05: ..., 0.95: ...}.
        complete: also add rows for what the table has no row for: in a long table each time and variable that was not
            measured, in a wide one each step of the grid without a row.
        text: of a text table: keep every cell as text. Else numbers and dates become such.

    Raises:
        UserError: the table has a column of the name of a column of quantiles.
        ValueError: the panel has no table to write back.
    """
    if panel.source is None or panel.source.layout == "array":
        raise ValueError("expected a panel that was read from a table, got one that was not")
    source = panel.source
    if not (text and source.text):
        source = replace(source, table=typed(source), text=None)
    levels = {f"p{100 * level:.6g}": np.asarray(dense) for level, dense in sorted((quantiles or {}).items())}
    job = _Job(panel=panel, source=source, grid=grid, median=np.asarray(median), levels=levels, complete=complete)
    table = _long(job) if source.layout == "long" else _wide(job)
    if source.index is not None:
        index = source.index
        if len(table) > len(index):
            index = table.set_index(list(source.levels)).index.set_names(index.names)
        table = table.drop(columns=list(source.levels)).set_index(index)
    return table.rename(columns={str(name): name for name in ([] if source.names is None else source.names)})


@dataclass(frozen=True, kw_only=True, eq=False)
class _Job:
    panel: Panel
    source: Source
    grid: Grid
    median: Array
    levels: dict[str, Array]
    complete: bool

    @property
    def dense(self) -> dict[str, Array]:
        """Median (under no name) and quantiles by the end of their column's name."""
        return {"": self.median, **self.levels}

    def name(self, variable: str, level: str) -> str:
        """The column of a quantile."""
        found = f"{variable}_{level}"
        if found in self.source.table.columns:
            raise UserError(f"expected no column {found!r}, got one: it is where quantiles are written; rename it")
        return found


def typed(source: Source) -> pd.DataFrame:
    """The table with the texts of a CSV file as numbers and dates, where they are such; others stay texts."""
    if source.text is None:
        return source.table
    columns = {}
    for name in source.table.columns:
        column = source.table[name]
        if name == source.time:
            columns[name] = _typed_times(column, source)
        elif name != source.variable:
            found, bad = numbers(column, source.text.decimal)
            numeric = not bad.any() and (name != source.id or _plain(column, found))
            columns[name] = pd.Series(found, name=name) if numeric else pd.Series(texts(column).to_pandas(), name=name)
        else:
            columns[name] = pd.Series(texts(column).to_pandas(), name=name)
        if name == source.id and columns[name].dtype == np.float64:
            columns[name] = columns[name].astype("int64")
    return pd.DataFrame(columns)


def _typed_times(column: pd.Series[Any], source: Source) -> pd.Series[Any]:
    from scidiff.timeseries.parse import Where

    found, clock = times(column, Where(name="the table"), source.text.decimal)
    if clock.kind == "date":
        return pd.Series(clock.dates(found), name=column.name)
    return pd.Series(found.astype("int64") if clock.integer and not np.isnan(found).any() else found, name=column.name)


def _plain(column: pd.Series[Any], found: Floats) -> bool:
    """Whether identities are whole numbers that come back as the same text: 007 and 1e5 do not."""
    if np.isnan(found).any() or not np.all(np.abs(found) < 2**53) or not np.all(found == np.rint(found)):
        return False
    return bool(pc.all(pc.equal(texts(column), pa.array(found.astype("int64")).cast(pa.large_string()))).as_py())


def _wide(job: _Job) -> pd.DataFrame:
    source, panel = job.source, job.panel
    row = source.row
    empty = np.flatnonzero(np.bincount(job.grid.row_cell[job.grid.row_cell >= 0], minlength=len(job.grid.owner)) == 0)
    cells = empty if job.complete else empty[:0]
    new = _New(job, series=job.grid.cell_series[cells], time=job.grid.cell_time[cells])
    columns: dict[str, pd.Series[Any]] = {}
    place = {name: v for v, name in enumerate(panel.variables)}
    quantile_columns: dict[str, pd.Series[Any]] = {}
    for name in source.table.columns:
        column = source.table[name]
        if name not in place:
            columns[name] = new.extended(column)
            continue
        v = place[name]
        gap = np.isnan(numbers(column, source.text.decimal if source.text else ".")[0])
        each = {level: dense[:, :, v] for level, dense in job.dense.items()}
        at_row = {level: job.grid.rows(dense)[row] for level, dense in each.items()}
        at_cell = {level: job.grid.cells(dense)[cells] for level, dense in each.items()}
        columns[name] = new.joined(_filled(column, gap, at_row[""], source.text), at_cell[""])
        for level in job.levels:
            came = _column_of(np.where(gap, at_row[level], np.nan), source.text)
            quantile_columns[job.name(name, level)] = new.joined(came, at_cell[level])
    return new.table(columns | quantile_columns)


def _long(job: _Job) -> pd.DataFrame:
    source, panel, grid = job.source, job.panel, job.grid
    name = str(source.value)
    column = source.table[name]
    usable = (source.row >= 0) & (source.code >= 0)
    gap = np.isnan(numbers(column, source.text.decimal if source.text else ".")[0]) & usable
    row, code = np.where(usable, source.row, 0), np.where(usable, source.code, 0)
    at_row = {level: np.where(gap, grid.rows(dense)[row, code], np.nan) for level, dense in job.dense.items()}

    # every cell and variable that no row of the table stands for
    missing = ~grid.cells(grid.mask)
    stands = grid.row_cell[source.row[gap]]
    missing[stands[stands >= 0], source.code[gap][stands >= 0]] = False
    missing &= ~np.isnan(grid.cells(job.median))
    cell, variable = np.nonzero(missing if job.complete else np.zeros_like(missing))
    new = _New(job, series=grid.cell_series[cell], time=grid.cell_time[cell])
    at_cell = {level: grid.cells(dense)[cell, variable] for level, dense in job.dense.items()}

    columns = {}
    for other in source.table.columns:
        if other == name:
            columns[other] = new.joined(_filled(column, gap, at_row[""], source.text), at_cell[""])
        elif other == source.variable:
            names = pd.Series(np.array(panel.variables, dtype=object)[variable])
            columns[other] = new.concatenated(source.table[other], names)
        else:
            columns[other] = new.extended(source.table[other])
    for level in job.levels:
        came = _column_of(at_row[level], source.text)
        columns[job.name(name, level)] = new.joined(came, at_cell[level])
    return new.table(columns)


class _New:
    """M new rows [series, time] and where they stand among those that came."""

    def __init__(self, job: _Job, *, series: Ints, time: Floats) -> None:
        self.job, self.series, self.time = job, series, time
        source = job.source
        self.order: Ints | None = None
        if len(series):
            came = np.where(np.isnan(source.at), -np.inf, source.at)
            later = (np.diff(source.series) > 0) | ((np.diff(source.series) == 0) & (np.diff(came) >= 0))
            if later.all():
                self.order = np.lexsort((np.concatenate([came, time]), np.concatenate([source.series, series])))
            else:
                self.order = np.arange(len(came) + len(series))

    def concatenated(self, column: pd.Series[Any], new: pd.Series[Any]) -> pd.Series[Any]:
        """A column with its new values, of the same dtype, in order."""
        if self.order is None:
            return column
        both = pd.concat([column, new.astype(column.dtype)], ignore_index=True)
        return both.take(self.order).reset_index(drop=True)

    def joined(self, column: pd.Series[Any], new: Array) -> pd.Series[Any]:
        """A column of a variable with its new numbers."""
        return self.concatenated(column, _filled_new(column, new, self.job.source.text)) if len(new) else column

    def extended(self, column: pd.Series[Any]) -> pd.Series[Any]:
        """Identity and time of the new rows; other columns are empty there."""
        source, panel = self.job.source, self.job.panel
        if self.order is None:
            return column
        if column.name == source.id:
            return self.concatenated(column, pd.Series(panel.ids[self.series]))
        if column.name == source.time:
            new = pd.Series(_times_like(column, panel, self.time, source.text))
            exact = bool((new.astype(column.dtype) == new).all())
            return self.concatenated(column if exact else column.astype(new.dtype), new)
        if source.text is not None:
            return self.concatenated(column, pd.Series([""] * len(self.series), dtype=object))
        if isinstance(column.dtype, np.dtype) and column.dtype.kind in "iub":
            column = column.convert_dtypes()  # whole numbers and truth values that can be missing
        return self.concatenated(column, pd.Series([None] * len(self.series), dtype=object))

    def table(self, columns: dict[str, pd.Series[Any]]) -> pd.DataFrame:
        """The table, with the index that came if the rows are those that came."""
        index = self.job.source.table.index if self.order is None else None
        return pd.DataFrame({name: column.array for name, column in columns.items()}, index=index)


def _times_like(column: pd.Series[Any], panel: Panel, time: Floats, text: Dialect | None) -> Any:
    if text is not None:
        found = panel.clock.back(time)
        return [t.replace(".", text.decimal) for t in found] if text.decimal != "." else found
    if panel.clock.kind == "date" and panel.clock.dtype is None:
        return panel.clock.dates(time)
    return time if panel.clock.dtype is None else panel.clock.back(time)


def _column_of(found: Array, text: Dialect | None) -> pd.Series[Any]:
    """Numbers as a column of their own: floats, or texts with nothing where there is no number."""
    if text is None:
        return pd.Series(np.asarray(found, dtype=np.float64))
    return pd.Series(_written(found, text), dtype=pd.ArrowDtype(pa.large_string()))


def _written(found: Array, text: Dialect) -> Any:
    """Numbers as the shortest texts that are read as the same numbers; nothing for NaN."""
    array = pa.array(np.asarray(found, dtype=np.float64), from_pandas=True).cast(pa.large_string())
    if text.decimal != ".":
        array = pc.replace_substring(array, ".", text.decimal)
    return pc.fill_null(array, "").to_pandas()


def _filled_new(column: pd.Series[Any], found: Array, text: Dialect | None) -> pd.Series[Any]:
    if text is not None:
        return pd.Series(_written(found, text))
    if pd.api.types.is_integer_dtype(column.dtype):
        found = np.rint(found)
    return pd.Series(np.asarray(found, dtype=np.float64))


def _filled(column: pd.Series[Any], gap: Bools, found: Array, text: Dialect | None) -> pd.Series[Any]:
    """A column [N] with numbers put into its gaps; the other cells keep every bit, and the dtype stays."""
    gap = gap & ~np.isnan(found)
    if not gap.any():
        return column
    new = _filled_new(column, found[gap], text)
    out = column.array.copy()
    if is_text(column) and text is None:
        out[gap] = new.to_numpy(dtype=object)
    else:
        out[gap] = new.astype(column.dtype).array
    return pd.Series(out, index=column.index, name=column.name)
