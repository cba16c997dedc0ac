"""Panels from files: CSV (`.csv .tsv .txt`, also `.gz`), Parquet and netCDF; long or wide; whole or by patients."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from scidiff.errors import UserError, one_line
from scidiff.timeseries import csv_text
from scidiff.timeseries.arrays import read_netcdf
from scidiff.timeseries.columns import Options
from scidiff.timeseries.frames import read_frame
from scidiff.timeseries.memory import check_fits
from scidiff.timeseries.panel import Panel
from scidiff.timeseries.parse import Where
from scidiff.timeseries.tables import read_table

TEXT = (".csv", ".tsv", ".txt", ".csv.gz", ".tsv.gz", ".txt.gz")
PARQUET = (".parquet", ".pq")
NETCDF = (".nc", ".nc4", ".cdf", ".h5")


def read_panel(path: str | Path, options: Options | None = None) -> Panel:
    """The panel of a file.

    Args:
        path: the file; its suffix tells the format.
        options: what the user says about it.

    Raises:
        UserError: the file cannot be read, or holds something that a user must mend: the message says where.
    """
    path, options = Path(path), options or Options()
    name = path.name.lower()
    check_file(path)
    check_fits(path)
    if name.endswith(TEXT):
        dialect = csv_text.sniff(path, delimiter=options.delimiter, encoding=options.encoding, decimal=options.decimal)
        table = csv_text.read_text(path, dialect)
        return read_table(table, options, Where(name=str(path), path=path), text=dialect)
    if name.endswith(PARQUET):
        return read_frame(read_parquet(path), options, name=str(path))
    if name.endswith(NETCDF):
        return read_netcdf(path, options)
    known = ", ".join((*TEXT, *PARQUET, *NETCDF))
    raise UserError(f"expected a file ending in {known}, got {str(path)!r}")


def check_file(path: Path) -> None:
    """UserError if there is no such file, or it cannot be read, or is empty."""
    try:
        if path.is_dir():
            raise UserError(f"expected a file, got the folder {path}")
        with path.open("rb") as stream:
            if not stream.read(1):
                raise UserError(f"expected a table in {path}, got an empty file")
    except OSError as error:
        raise UserError(f"cannot read {path}: {one_line(error)}") from None


def read_parquet(path: Path) -> pd.DataFrame:
    """A Parquet table. UserError if the file is none."""
    try:
        return pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path}: {one_line(error)}") from None
