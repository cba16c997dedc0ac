"""Numbers and times out of columns, vectorised; what cannot be read is told with its row and column."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from scidiff.errors import UserError
from scidiff.timeseries.clock import Clock
from scidiff.timeseries.csv_text import MISSING, line_of
from scidiff.timeseries.panel import Floats

Bools = npt.NDArray[np.bool_]
_HAS_ZONE = r"[T ]\S*\d\s*(?:Z|z|UTC|[+-]\d\d:?\d\d|[+-]\d\d)$"


@dataclass(frozen=True, kw_only=True)
class Where:
    """Where rows of a table stand, for messages.

    Attributes:
        name: the file, or what the table is called.
        path: the text file whose lines can be counted; None for other tables.
        first: number of the table's first row, where it is a piece of a larger one.
    """

    name: str
    path: Path | None = None
    first: int = 0

    def row(self, row: int) -> str:
        """`line 18` of a text file, `row 17` of another table, counted from 1 and 0."""
        if self.path is not None:
            return f"line {line_of(self.path, self.first + int(row))}"
        return f"row {self.first + int(row)}"

    def cell(self, row: int, column: object) -> str:
        """File, row and column."""
        return f"{self.name}, {self.row(row)}, column {str(column)!r}"


def is_text(column: pd.Series[Any]) -> bool:
    """Whether a column holds texts (or objects) rather than numbers or dates."""
    dtype = column.dtype
    if isinstance(dtype, pd.CategoricalDtype):
        return True
    return not (
        pd.api.types.is_numeric_dtype(dtype)
        or pd.api.types.is_datetime64_any_dtype(dtype)
        or pd.api.types.is_timedelta64_dtype(dtype)
    )


def texts(column: pd.Series[Any]) -> pa.Array:
    """A column as texts without the white space around them; null where nothing stands."""
    if isinstance(column.dtype, pd.CategoricalDtype) or column.dtype == object:
        column = column.astype(object).map(str, na_action="ignore")
    array = pa.chunked_array(pa.array(column, type=pa.large_string(), from_pandas=True)).combine_chunks()
    array = pc.utf8_trim_whitespace(array)
    return pc.if_else(pc.is_in(array, pa.array(MISSING, type=pa.large_string())), None, array)


def numbers(column: pd.Series[Any], decimal: str = ".") -> tuple[Floats, Bools]:
    """Numbers [N], NaN where nothing stands, and [N] whether what stands there is no number (NaN too)."""
    if not is_text(column):
        return column.to_numpy(dtype=np.float64, na_value=np.nan), np.zeros(len(column), dtype=bool)
    array = texts(column)
    if decimal != ".":
        array = pc.replace_substring(array, decimal, ".")
    signed = pc.starts_with(array, "+")
    if pc.any(signed).as_py():
        array = pc.if_else(signed, pc.utf8_slice_codeunits(array, 1), array)
    try:
        found = pc.cast(array, pa.float64())
        bad = np.zeros(len(column), dtype=bool)
    except pa.ArrowInvalid:
        coded = array.dictionary_encode()
        readable = [_readable(text) for text in coded.dictionary]
        each = pa.array([float(t.as_py()) if ok else None for t, ok in zip(coded.dictionary, readable, strict=True)])
        found = pc.take(each.cast(pa.float64()), coded.indices)
        bad = pc.and_(array.is_valid(), pc.invert(found.is_valid())).to_numpy(zero_copy_only=False).astype(bool)
    return np.array(found.to_numpy(zero_copy_only=False), dtype=np.float64), bad


def _readable(text: pa.Scalar) -> bool:
    try:
        pc.cast(text, pa.float64())
    except pa.ArrowInvalid:
        return False
    return True


def measurements(column: pd.Series[Any], where: Where, decimal: str = ".") -> Floats:
    """The numbers of a column, all of which must be finite numbers or missing.

    Raises:
        UserError: a cell that is no number, or is infinite, with its row and column.
    """
    found, bad = numbers(column, decimal)
    if bad.any():
        row = int(np.argmax(bad))
        text = str(column.iloc[row])
        hint = "; for a decimal comma give --decimal ','" if text.count(",") == 1 and decimal == "." else ""
        hint = "; a limit of detection must become a number or an empty cell" if text.strip()[0] in "<>" else hint
        raise UserError(
            f"{where.cell(row, column.name)}: expected a number or an empty cell, got {_short(text)}"
            f"{_more(int(bad.sum()))}{hint}"
        )
    check_finite(found, lambda row: where.cell(row, column.name))
    return found


def check_finite(found: Floats, cell: Callable[[int], str]) -> None:
    """UserError if one of the numbers [N] is infinite; NaN is a gap."""
    infinite = np.isinf(found)
    if infinite.any():
        row = int(np.argmax(infinite))
        raise UserError(
            f"{cell(row)}: expected a finite number or an empty cell, got {found[row]}{_more(int(infinite.sum()))}"
        )


def _more(count: int) -> str:
    return f" (and {count - 1} more)" if count > 1 else ""


def _short(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:37] + "...")


def times(column: pd.Series[Any], where: Where, decimal: str = ".") -> tuple[Floats, Clock]:
    """Times [N] as numbers, NaN where nothing stands, and the clock that turns them back.

    Numbers stay; dates (ISO 8601, with time zones or without) and durations become seconds.

    Raises:
        UserError: a cell that is neither, or dates with a time zone among dates without.
    """
    dtype = column.dtype
    if pd.api.types.is_timedelta64_dtype(dtype) or str(dtype).startswith("duration"):
        span = column.to_numpy(dtype="timedelta64[us]")
        return _seconds(span.astype("int64"), np.isnat(span)), Clock(kind="duration", dtype=dtype)
    if pd.api.types.is_datetime64_any_dtype(dtype):
        return _from_dates(pd.DatetimeIndex(column)), Clock(kind="date", dtype=dtype, zone=column.dt.tz)
    found, bad = numbers(column, decimal)
    if not bad.any():
        check_finite(found, lambda row: where.cell(row, column.name))
        whole = bool(np.all(np.isnan(found) | (found == np.rint(found))))
        return found, Clock(kind="number", dtype=None if is_text(column) else dtype, integer=whole)
    if bad.sum() < np.count_nonzero(~np.isnan(found)):
        raise UserError(_no_time(column, where, int(np.argmax(bad))))
    return _from_text(column, where)


def _from_text(column: pd.Series[Any], where: Where) -> tuple[Floats, Clock]:
    stamps = texts(column)
    missing = np.asarray(pc.is_null(stamps))
    coded = stamps.dictionary_encode()
    distinct = pd.Series(coded.dictionary.to_pylist(), dtype=object)
    dates = pd.to_datetime(distinct, format="ISO8601", utc=True, errors="coerce")
    index = np.asarray(coded.indices.fill_null(0))
    unread = np.asarray(dates.isna())[index] & ~missing
    if unread.any():
        raise UserError(_no_time(column, where, int(np.argmax(unread))))
    zoned = np.asarray(distinct.str.contains(_HAS_ZONE, regex=True), dtype=bool)
    if zoned.any() and not zoned.all():
        row = int(np.argmax((zoned[index] != zoned[index[np.argmin(missing)]]) & ~missing))
        raise UserError(
            f"{where.cell(row, column.name)}: expected time zones on all times or on none, "
            f"got {_short(str(column.iloc[row]))} among others"
        )
    seconds = _from_dates(pd.DatetimeIndex(dates))[index]
    seconds[missing] = np.nan
    example = str(distinct.iloc[0])
    zone = pd.Timestamp(example).tzinfo if zoned.any() else None
    held = object if column.dtype == object and not _all_text(column) else None
    return seconds, Clock(kind="date", dtype=held, zone=zone, example=example)


def _no_time(column: pd.Series[Any], where: Where, row: int) -> str:
    return (
        f"{where.cell(row, column.name)}: expected a number or an ISO date (2020-01-31 08:00, "
        f"2020-01-31T08:00:00+01:00), got {_short(str(column.iloc[row]))}"
    )


def _all_text(column: pd.Series[Any]) -> bool:
    return bool(pd.api.types.infer_dtype(column, skipna=True) == "string")


def _from_dates(dates: pd.DatetimeIndex) -> Floats:
    if dates.tz is not None:
        dates = dates.tz_convert("UTC").tz_localize(None)
    stamps = dates.to_numpy(dtype="datetime64[us]")
    return _seconds(stamps.astype("int64"), np.isnat(stamps))


def _seconds(microseconds: npt.NDArray[np.int64], missing: Bools) -> Floats:
    seconds = microseconds / 1e6
    seconds[missing] = np.nan
    return seconds
