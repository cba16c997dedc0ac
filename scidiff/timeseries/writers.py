"""Imputed tables and draws as files: `.csv` (`.csv.gz`), `.parquet`, `.nc` and `.zarr`; whole or not at all."""

from __future__ import annotations

import codecs
import csv
import gzip
import io
from collections.abc import Callable, Hashable, Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any, Literal, cast

import pandas as pd
import pyarrow as pa
import pyarrow.csv as arrow_csv
import xarray as xr
from pyarrow import parquet

from scidiff import atomic
from scidiff.errors import UserError, one_line
from scidiff.timeseries.csv_text import Dialect

TABLES = (".csv", ".csv.gz", ".tsv", ".tsv.gz", ".parquet")
ARRAYS = (".nc",)
STORE = ".zarr"


def format_of(path: str | Path) -> str:
    """The suffix, among `TABLES` and `ARRAYS`, that a file name ends in. UserError if it is none of these."""
    name = Path(path).name.lower()
    for suffix in (*TABLES, *ARRAYS):
        if name.endswith(suffix):
            return suffix
    raise UserError(f"expected a file name ending in {', '.join((*TABLES, *ARRAYS))}, got {str(path)!r}")


def write_table(
    tables: pd.DataFrame | Iterable[pd.DataFrame], path: str | Path, dialect: Dialect | None = None
) -> None:
    """Write a table, or one that comes in pieces with the same columns, in the format of the file name.

    Args:
        tables: the table; its index is written if it has a name.
        path: .csv, .tsv (also .gz) or .parquet.
        dialect: how a text file is to be written, that of the file that was read. Default: by the name, UTF-8.

    Raises:
        UserError: another format, a full disk, or a place that cannot be written.
    """
    path = Path(path)
    kind = format_of(path)
    if kind not in TABLES:
        raise UserError(f"expected a file name ending in {', '.join(TABLES)} for a table, got {str(path)!r}")
    pieces = [tables] if isinstance(tables, pd.DataFrame) else tables
    dialect = dialect or Dialect(delimiter="\t" if kind.startswith(".tsv") else ",")

    def save(temporary: Path) -> None:
        if kind == ".parquet":
            _write_parquet(pieces, temporary)
        else:
            _write_text(pieces, temporary, dialect, compressed=kind.endswith(".gz"))

    _replace(path, save)


def write_dataset(dataset: xr.Dataset, path: str | Path) -> None:
    """Write a Dataset as netCDF, with h5netcdf or netCDF4 (compressed) or else SciPy.

    Raises:
        UserError: another format, a full disk, or a place that cannot be written.
    """
    path = Path(path)
    if format_of(path) not in ARRAYS:
        raise UserError(f"expected a file name ending in {', '.join(ARRAYS)} for draws, got {str(path)!r}")
    engine = netcdf_engine()
    packed: Mapping[str, Any] = {"zlib": True, "complevel": 1} if engine != "scipy" else {}
    encoding: dict[Hashable, Mapping[str, Any]] = {
        name: packed for name, array in dataset.data_vars.items() if array.dtype.kind == "f"
    }
    content = dataset.to_netcdf(engine=engine, encoding=encoding)  # HDF5 crashes where a file's disk is full
    _replace(path, lambda temporary: temporary.write_bytes(content))


def write_store(dataset: xr.Dataset, path: str | Path) -> None:
    """Write a Dataset as a folder in the format Zarr.

    Raises:
        UserError: the package is missing, a full disk, or a place that cannot be written.
    """
    check_store(path)
    try:
        with atomic.folder(Path(path)) as place:
            dataset.to_zarr(place, mode="w", zarr_format=2)  # version 3 has no texts yet
    except OSError as error:
        raise UserError(f"cannot write {path}: {one_line(error)}") from error


def check_store(path: str | Path) -> None:
    """UserError if a store cannot be written there, or the package zarr is missing."""
    atomic.check_folder(path, ".zgroup")
    if find_spec("zarr") is None:
        raise UserError("expected the package zarr, to write .zarr, got none: pip install zarr")


def netcdf_engine() -> Literal["h5netcdf", "netcdf4", "scipy"]:
    """The first of h5netcdf, netCDF4 and SciPy (netCDF 3) that is installed."""
    if find_spec("h5netcdf") and find_spec("h5py"):
        return "h5netcdf"
    return "netcdf4" if find_spec("netCDF4") else "scipy"


def _replace(path: Path, save: Callable[[Path], object]) -> None:
    try:
        atomic.write(path, save)
    except (OSError, RuntimeError) as error:  # HDF5 tells of a full disk by a RuntimeError
        raise UserError(f"cannot write {path}: {one_line(error)}") from error


def _write_parquet(pieces: Iterable[pd.DataFrame], path: Path) -> None:
    writer = None
    try:
        for piece in pieces:
            named = any(name is not None for name in piece.index.names)
            schema = writer.schema if writer is not None else None
            table = pa.Table.from_pandas(piece, schema=schema, preserve_index=True if named else None)
            writer = writer or parquet.ParquetWriter(path, table.schema)
            writer.write_table(table)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise UserError(f"expected columns of one kind throughout, to write Parquet, got {one_line(error)}") from None
    finally:
        if writer is not None:
            writer.close()


def _write_text(pieces: Iterable[pd.DataFrame], path: Path, dialect: Dialect, *, compressed: bool) -> None:
    first = True
    with path.open("wb") as raw:
        # mtime=0: the same bytes whenever it is written
        packed = gzip.GzipFile(fileobj=raw, mode="wb", filename="", mtime=0) if compressed else None
        stream = cast(IO[bytes], packed or raw)
        encode = codecs.getincrementalencoder(dialect.encoding)().encode  # one byte order mark, at the start
        try:
            for piece in pieces:
                table = piece.reset_index() if any(name is not None for name in piece.index.names) else piece
                if first:
                    stream.write(encode(_header(table, dialect)))
                stream.write(_body(table, dialect) or encode(_quoted(table, dialect)))
                first = False
        finally:
            if packed is not None:
                packed.close()


def _header(table: pd.DataFrame, dialect: Dialect) -> str:
    line = io.StringIO()
    csv.writer(line, delimiter=dialect.delimiter, lineterminator=dialect.newline).writerow(table.columns)
    return line.getvalue()


def _body(table: pd.DataFrame, dialect: Dialect) -> bytes:
    """The rows, fast; nothing if a cell needs quotes, or the dialect is not one that Arrow writes."""
    all_text = all(isinstance(dtype, pd.ArrowDtype) and dtype.kind == "O" for dtype in table.dtypes)
    if not all_text or dialect.newline != "\n" or not dialect.encoding.startswith("utf-8"):
        return b""
    out = io.BytesIO()
    options = arrow_csv.WriteOptions(include_header=False, delimiter=dialect.delimiter, quoting_style="none")
    try:
        arrow_csv.write_csv(pa.Table.from_pandas(table, preserve_index=False), out, options)
    except pa.ArrowInvalid:
        return b""
    return out.getvalue()


def _quoted(table: pd.DataFrame, dialect: Dialect) -> str:
    """The rows, with quotes where they are needed."""
    return str(table.to_csv(None, header=False, index=False, sep=dialect.delimiter, lineterminator=dialect.newline))
