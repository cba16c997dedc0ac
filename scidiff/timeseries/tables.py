"""Long and wide tables as panels, whatever file or memory they came from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from scidiff.errors import UserError
from scidiff.timeseries.clock import Clock
from scidiff.timeseries.columns import Options, Roles, known, listed, roles
from scidiff.timeseries.csv_text import Dialect
from scidiff.timeseries.panel import Collapse, Floats, Ints, Panel, Source, build, collapse, row_numbers
from scidiff.timeseries.parse import Bools, Where, is_text, measurements, numbers, texts, times

MOST_VALUES = 500_000_000  # rows times variables, 4 GB
LARGEST = 1e30  # of a value: float32 holds its square no more
_SCALE = 1e9  # a value so much larger than half of its variable's is an error of units or of reading


def read_table(
    table: pd.DataFrame,
    options: Options,
    where: Where,
    *,
    text: Dialect | None = None,
    levels: tuple[str, ...] = (),
    index: pd.Index | None = None,
    variables: tuple[str, ...] | None = None,
) -> Panel:
    """A panel of a table.

    Args:
        table: long or wide.
        options: what the user says about it.
        where: where it came from, for messages.
        text: how the text file was written that it came from.
        levels: columns that were levels of the index.
        index: that index.
        variables: those of a larger table that this one is a piece of, which may lack some of them.

    Raises:
        UserError: anything in the table that a user must mend, with row and column.
    """
    if not len(table):
        raise UserError(f"expected rows in {where.name}, got a table without any")
    names = table.columns
    if not all(isinstance(name, str) for name in names):
        table = table.rename(columns=str)
    if not table.columns.is_unique:
        again = table.columns[table.columns.duplicated()][0]
        raise UserError(f"{where.name}: expected names of columns that differ, got {again!r} more than once")
    columns = roles(list(table.columns), options, where.name)
    time, clock = times(table[columns.time], where, options.decimal)
    series, ids = _identities(table, columns, where)
    kept = _timed(time, columns, where)
    assemble = _long if columns.long else _wide
    return assemble(
        _Table(
            table=table,
            options=options,
            roles=columns,
            where=where,
            time=time,
            series=series,
            kept=kept,
            clock=clock,
            ids=ids,
            text=text,
            levels=levels,
            index=index,
            names=names,
            variables=variables,
        )
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class _Table:
    """A table whose identities and times are read. series, time [N]; kept [N]: rows that have a time."""

    table: pd.DataFrame
    options: Options
    roles: Roles
    where: Where
    time: Floats
    series: Ints
    kept: Bools
    clock: Clock
    ids: pd.Index
    text: Dialect | None
    levels: tuple[str, ...]
    index: pd.Index | None
    names: pd.Index
    variables: tuple[str, ...] | None

    def cell(self, row: int, column: object) -> str:
        return self.where.cell(row, column)

    def source(self, row: Ints, code: Ints, notes: list[str]) -> Source:
        return Source(
            layout="long" if self.roles.long else "wide",
            table=self.table,
            id=self.roles.id,
            time=self.roles.time,
            variable=self.roles.variable,
            value=self.roles.value,
            levels=self.levels,
            index=self.index,
            names=self.names,
            row=row,
            series=self.series,
            at=self.time,
            code=code,
            text=self.text,
            notes=(*self.roles.notes, *notes),
        )


def _identities(table: pd.DataFrame, columns: Roles, where: Where) -> tuple[Ints, pd.Index]:
    """Number of every row's series [N], and the identities [S] in order of first appearance."""
    if columns.id is None:
        return np.zeros(len(table), dtype=np.int64), pd.Index([0])
    column = table[columns.id]
    missing = np.asarray(texts(column).is_null()) if is_text(column) else np.asarray(column.isna())
    if missing.any():
        raise UserError(f"{where.cell(int(np.argmax(missing)), columns.id)}: expected an identity, got an empty cell")
    series, ids = pd.factorize(column)
    return series.astype(np.int64), pd.Index(ids)


def _timed(time: Floats, columns: Roles, where: Where) -> Bools:
    """[N] the rows that have a time; in MEDS those without are facts that always hold, and are no measurements."""
    kept = ~np.isnan(time)
    if not columns.meds and not kept.all():
        raise UserError(f"{where.cell(int(np.argmin(kept)), columns.time)}: expected a time, got an empty cell")
    return kept


def _wide(t: _Table) -> Panel:
    names, found, notes = _wide_variables(t)
    _check_order(t, t.series)
    row, series, time = row_numbers(t.series, t.time)
    width = len(names)
    _check_size(len(time), width, t.where)
    value = np.full((len(time), width), np.nan)
    again = len(time) < len(row)
    if again and t.options.duplicates == "refuse":
        _refuse_duplicate(t, row)
    order = np.argsort(row, kind="stable")
    for v in range(width):
        if again:
            some = order[~np.isnan(found[v][order])]
            value[:, v] = collapse(row[some], found[v][some], len(time), _how(t.options))
        else:
            value[row, v] = found[v]
    check_scale(names, value, lambda r, v: t.cell(int(np.flatnonzero(row == r)[0]), names[v]))
    return build(
        ids=t.ids,
        variables=tuple(names),
        series=series,
        time=time,
        value=value,
        clock=t.clock,
        source=t.source(row, np.empty(0, dtype=np.int64), notes),
    )


def _wide_variables(t: _Table) -> tuple[list[str], list[Floats], list[str]]:
    """Names and numbers [N] of the variables; other columns are told in a note."""
    names = t.variables or wide_names(t.table, t.roles, t.options, t.where)
    found = [measurements(t.table[name], t.where, t.options.decimal) for name in names]
    carried = [name for name in t.table.columns if name not in (*t.roles.all, *names)]
    note = f"{t.where.name}: columns that are no variables here: {listed(carried)}"
    return list(names), found, [note] if carried else []


def wide_names(table: pd.DataFrame, columns: Roles, options: Options, where: Where) -> tuple[str, ...]:
    """The variables of a wide table: those asked for, else all columns in which there may be numbers.

    Raises:
        UserError: one that was asked for is not there, or there is none.
    """
    others = [name for name in table.columns if name not in columns.all]
    for name in options.variables or ():
        known(name, others, what="variables", where=where.name)
    # a column without a name holds the numbers of the rows
    able = (name for name in others if name not in ("", "Unnamed: 0"))
    names = options.variables or tuple(name for name in able if not _is_carried(table[name], options.decimal))
    if not names:
        raise UserError(f"{where.name}: expected a column of numbers besides {columns.time}, got none")
    return names


def _is_carried(column: pd.Series[Any], decimal: str) -> bool:
    """Whether a column is no variable: dates, truth values, or texts none of which is a number."""
    if pd.api.types.is_bool_dtype(column.dtype):
        return True
    if not is_text(column):
        return not pd.api.types.is_numeric_dtype(column.dtype)
    found, bad = numbers(column, decimal)
    return bool(bad.any() and np.isnan(found).all())


def _long(t: _Table) -> Panel:
    value_column = str(t.roles.value)
    found = measurements(t.table[value_column], t.where, t.options.decimal)
    variable, names = _long_variables(t, found)
    used = t.kept & (variable >= 0)
    rows = np.flatnonzero(used)
    if not len(rows):
        raise UserError(f"{t.where.name}: expected measurements with a time, got none")
    _check_order(t, t.series * (len(names) + 1) + variable, used=used)
    inner, series, time = row_numbers(t.series[rows], t.time[rows])
    row = np.full(len(found), -1, dtype=np.int64)
    row[rows] = inner
    _check_size(len(time), len(names), t.where)
    order = rows[np.argsort(inner, kind="stable")]
    order = order[~np.isnan(found[order])]
    place = row[order] * len(names) + variable[order]
    value = collapse(place, found[order], len(time) * len(names), "last").reshape(len(time), len(names))
    if np.count_nonzero(~np.isnan(value)) < len(order):
        if t.options.duplicates == "refuse":
            _refuse_duplicate(t, np.where(np.isnan(found) | ~used, -1, row * len(names) + variable))
        value = collapse(place, found[order], value.size, _how(t.options)).reshape(value.shape)

    def cell(r: int, v: int) -> str:
        return t.cell(int(np.flatnonzero((row == r) & (variable == v))[0]), value_column)

    check_scale(names, value, cell)
    notes = [] if t.kept.all() else [f"{t.where.name}: {int((~t.kept).sum()):,} rows without a time are left alone"]
    source = t.source(row, variable, notes)
    return build(
        ids=t.ids,
        variables=tuple(names),
        series=series,
        time=time,
        value=value,
        clock=t.clock,
        source=source,
    )


def _long_variables(t: _Table, found: Floats) -> tuple[Ints, list[str]]:
    """The variable of every row [N], -1 for those not asked for, and the names of the variables."""
    column = t.table[str(t.roles.variable)]
    code, distinct = pd.factorize(column)
    if (code < 0).any() or (distinct == "").any():
        row = int(np.argmax((code < 0) | (column == "").to_numpy(dtype=bool, na_value=False)))
        raise UserError(f"{t.cell(row, column.name)}: expected the name of a variable, got an empty cell")
    there = [str(name) for name in distinct]
    if t.variables is not None:
        names = list(t.variables)
    elif t.options.variables is not None:
        names = list(t.options.variables)
        for name in names:
            known(name, there, what="variables", where=t.where.name)
    elif t.roles.meds:
        # codes of MEDS that never come with a number are events, no variables
        with_number = np.bincount(code, weights=~np.isnan(found), minlength=len(there)) > 0
        names = [name for name, some in zip(there, with_number, strict=True) if some]
    else:
        names = there
    place = {name: k for k, name in enumerate(names)}
    return np.array([place.get(name, -1) for name in there], dtype=np.int64)[code], names


def _how(options: Options) -> Collapse:
    return "mean" if options.duplicates == "mean" else "last"


def _check_order(t: _Table, group: Ints, used: Bools | None = None) -> None:
    """UserError if times go back within a group of rows [N], unless they are to be sorted."""
    if t.options.unsorted == "sort":
        return
    rows = np.arange(len(group)) if used is None else np.flatnonzero(used)
    group, time = group[rows], t.time[rows]
    if (np.diff(group) < 0).any():
        order = np.argsort(group, kind="stable")
        group, time, rows = group[order], time[order], rows[order]
    back = np.flatnonzero((np.diff(time) < 0) & (np.diff(group) == 0))
    if len(back):
        earlier, row = int(rows[back[0]]), int(rows[back[0] + 1])
        column = t.table[t.roles.time]
        raise UserError(
            f"{t.cell(row, t.roles.time)}: expected times in order, got {str(column.iloc[row])!r} after "
            f"{str(column.iloc[earlier])!r} ({t.where.row(earlier)}){_of(t, row)}: "
            "sort the file, or give --unsorted sort"
        )


def _refuse_duplicate(t: _Table, key: Ints) -> None:
    """UserError that names the first two rows with the same key [N]; keys below 0 do not count."""
    seen = pd.Series(key)
    again = (seen.duplicated() & (seen >= 0)).to_numpy()
    row = int(np.argmax(again))
    first = int(np.argmax(key == key[row]))
    column = t.table[t.roles.time]
    name = f" of {t.table[t.roles.variable].iloc[row]}" if t.roles.variable is not None else ""
    raise UserError(
        f"{t.cell(row, t.roles.time)}: expected one value{name} at a time, got a second at {str(column.iloc[row])!r} "
        f"(the first: {t.where.row(first)}){_of(t, row)}; {int(again.sum()):,} such rows: "
        "give --duplicates mean or --duplicates last"
    )


def _of(t: _Table, row: int) -> str:
    return "" if t.roles.id is None else f" of {t.roles.id} {t.table[t.roles.id].iloc[row]}"


def _check_size(rows: int, width: int, where: Where) -> None:
    if rows * width > MOST_VALUES:
        raise UserError(
            f"{where.name}: expected at most {MOST_VALUES:,} values, got {rows:,} times of {width:,} variables: "
            "name the variables that you need"
        )


def check_scale(names: Sequence[str], value: Floats, cell: Callable[[int, int], str]) -> None:
    """UserError if a value [R, V] is too large to reckon with, by itself or beside the others of its variable."""
    for v, name in enumerate(names):
        size = np.abs(value[:, v])
        size = np.where(size > 0, size, np.nan)
        if np.isnan(size).all():
            continue
        row = int(np.nanargmax(size))
        limit = LARGEST
        if size[row] > _SCALE * np.nanmin(size) and np.count_nonzero(~np.isnan(size)) >= 8:
            limit = min(limit, _SCALE * float(np.nanmedian(size)))
        if size[row] > limit:
            raise UserError(
                f"{cell(row, v)}: expected {name} of at most {limit:.3g} (a billion times its median), "
                f"got {value[row, v]:.6g}: mend the value, or leave the cell empty"
            )
