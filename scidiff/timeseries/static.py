"""Covariates that do not change with time: one row a series, matched by identity."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from scidiff.errors import UserError
from scidiff.timeseries import csv_text
from scidiff.timeseries.columns import IDS, Options, known
from scidiff.timeseries.panel import Panel
from scidiff.timeseries.parse import Where, measurements
from scidiff.timeseries.readers import PARQUET, TEXT, check_file, read_parquet


def with_static(
    panel: Panel, static: pd.DataFrame | str | Path, options: Options | None = None, *, partly: bool = False
) -> Panel:
    """The panel with covariates of its series; series without a row there get NaN, rows of no series are left out.

    Args:
        panel: S series.
        static: a table, or a CSV or Parquet file, with a column of identities (`options.id`, else one of the name that
            the panel's table has, else a well-known name, else the index or the first column) and columns of numbers.
        options: delimiter, encoding and decimal sign of a file.
        partly: the panel is a part of one, so that the table may have none of its series.

    Raises:
        UserError: an identity twice, a cell that is no finite number, or not one series of the panel in the table.
    """
    options = options or Options()
    if isinstance(static, pd.DataFrame):
        table, where = static, Where(name="static table")
    else:
        table, where = _read(Path(static), options)
    table = table.reset_index() if table.index.name is not None else table
    id_ = _id_column(panel, table, options, where)
    keys = table[id_].astype(str).str.strip()
    again = keys.duplicated().to_numpy()
    if again.any():
        row = int(np.argmax(again))
        raise UserError(f"{where.cell(row, id_)}: expected one row a series, got a second of {keys.iloc[row]!r}")
    numbers = {str(name): measurements(table[name], where, options.decimal) for name in table.columns if name != id_}
    if not numbers:
        raise UserError(f"{where.name}: expected columns of numbers besides {id_!r}, got none")
    place = pd.Index(keys).get_indexer(pd.Index(panel.ids.astype(str).str.strip()))
    if (place < 0).all() and not partly:
        raise UserError(
            f"{where.name}: expected rows of the panel's series ({panel.ids[0]}, ...), got {keys.iloc[0]}, ...: "
            f"is {id_!r} the column of identities?"
        )
    aligned = {name: np.where(place < 0, np.nan, column[place]) for name, column in numbers.items()}
    return replace(panel, static=pd.DataFrame(aligned, index=panel.ids))


def _read(path: Path, options: Options) -> tuple[pd.DataFrame, Where]:
    check_file(path)
    if path.name.lower().endswith(PARQUET):
        return read_parquet(path), Where(name=str(path))
    if not path.name.lower().endswith(TEXT):
        raise UserError(f"--static: expected a file ending in {', '.join((*TEXT, *PARQUET))}, got {str(path)!r}")
    dialect = csv_text.sniff(path, delimiter=options.delimiter, encoding=options.encoding, decimal=options.decimal)
    return csv_text.read_text(path, dialect), Where(name=str(path), path=path)


def _id_column(panel: Panel, table: pd.DataFrame, options: Options, where: Where) -> str:
    names = [str(name) for name in table.columns]
    if options.id is not None:
        known(options.id, names, what="--id", where=where.name)
        return options.id
    if panel.source is not None and panel.source.id in names:
        return str(panel.source.id)
    return next((name for name in names if name.lower() in IDS), names[0])
