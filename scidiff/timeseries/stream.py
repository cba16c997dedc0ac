"""Files larger than memory: panels of some patients at a time, in the order of the file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from pyarrow import parquet

from scidiff.errors import UserError, one_line
from scidiff.timeseries import csv_text
from scidiff.timeseries.columns import Options, Roles, known, roles
from scidiff.timeseries.panel import Panel
from scidiff.timeseries.parse import Where, numbers
from scidiff.timeseries.readers import PARQUET, TEXT, check_file
from scidiff.timeseries.tables import read_table, wide_names

PIECE = 1 << 26  # bytes of text, or rows of Parquet times their width, read at a time


def stream_panels(path: str | Path, options: Options | None = None, *, piece: int = PIECE) -> Iterator[Panel]:
    """The panels of a file, each of as many whole series as fit into about `piece` bytes, all with the same variables.

    Rows of one series must stand together. A long table whose variables are not given is read twice.

    Args:
        path: CSV or Parquet.
        options: what the user says about it.
        piece: bytes read at a time.

    Raises:
        UserError: as `read_panel`, and if a series comes back after others.
    """
    path, options = Path(path), options or Options()
    check_file(path)
    dialect = None
    if path.name.lower().endswith(TEXT):
        dialect = csv_text.sniff(path, delimiter=options.delimiter, encoding=options.encoding, decimal=options.decimal)
    elif not path.name.lower().endswith(PARQUET):
        raise UserError(f"expected a file ending in {', '.join((*TEXT, *PARQUET))}, got {str(path)!r}")
    where = Where(name=str(path), path=path if dialect is not None else None)
    columns: Roles | None = None
    names: tuple[str, ...] | None = None
    for first, table in _whole_series(path, options, dialect, piece):
        if columns is None or names is None:
            columns = roles(list(table.columns), options, where.name)
            names = (
                _all_variables(path, options, columns, dialect, piece)
                if columns.long
                else wide_names(table, columns, options, where)
            )
        yield read_table(table, options, replace(where, first=first), text=dialect, variables=names)


def _tables(path: Path, dialect: csv_text.Dialect | None, piece: int) -> Iterator[pd.DataFrame]:
    if dialect is not None:
        yield from csv_text.stream_text(path, dialect, block=piece)
        return
    try:
        with parquet.ParquetFile(path) as file:
            rows = max(piece // (8 * max(len(file.schema_arrow), 1)), 1)
            for batch in file.iter_batches(batch_size=rows):
                yield pa.Table.from_batches([batch]).to_pandas()
    except (OSError, pa.ArrowInvalid) as error:
        raise UserError(f"cannot read {path}: {one_line(error)}") from None


def _whole_series(
    path: Path, options: Options, dialect: csv_text.Dialect | None, piece: int
) -> Iterator[tuple[int, pd.DataFrame]]:
    """Pieces that end where a series ends, with the number of their first row."""
    first, kept, seen = 0, pd.DataFrame(), set[object]()
    id_ = ""
    for table in _tables(path, dialect, piece):
        id_ = id_ or _identity(table, options, path)
        rows = pd.concat([kept, table], ignore_index=True) if len(kept) else table
        same = (rows[id_] == rows[id_].iloc[-1]).to_numpy(dtype=bool, na_value=False)
        ends = 0 if same.all() else len(rows) - int(np.argmin(same[::-1]))  # where the last series begins
        kept = rows.iloc[ends:].reset_index(drop=True)
        if ends:
            _check_new(rows[id_].iloc[:ends], seen, path)
            yield first, rows.iloc[:ends].reset_index(drop=True)
            first += ends
    if len(kept):
        _check_new(kept[id_], seen, path)
        yield first, kept
    elif not first:
        raise UserError(f"expected rows in {path}, got a header only")


def _identity(table: pd.DataFrame, options: Options, path: Path) -> str:
    found = roles(list(table.columns), options, str(path)).id
    if found is None:
        raise UserError(f"{path}: expected a column of identities, to read some series at a time, got none: give --id")
    return found


def _check_new(column: pd.Series[Any], seen: set[object], path: Path) -> None:
    here = set(column.unique())
    again = here & seen
    if again:
        raise UserError(
            f"{path}: expected the rows of a series together, to read some series at a time, got {next(iter(again))!r} "
            f"again after others: sort the file by {column.name}"
        )
    seen |= here


def _all_variables(
    path: Path, options: Options, columns: Roles, dialect: csv_text.Dialect | None, piece: int
) -> tuple[str, ...]:
    """The variables of a long file, in order of first appearance."""
    found: dict[str, None] = {}
    for table in _tables(path, dialect, piece):
        column = table[str(columns.variable)]
        if columns.meds:  # codes that never come with a number are events
            column = column[~np.isnan(numbers(table[str(columns.value)], options.decimal)[0])]
        found.update(dict.fromkeys(str(name) for name in column.dropna().unique() if str(name)))
    for name in options.variables or ():
        known(name, found, what="variables", where=str(path))
    return options.variables or tuple(found)
