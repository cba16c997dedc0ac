"""What files of measured values have in common, whatever was measured: rows of text, numbers, one value at a place."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from scidiff.errors import UserError, one_line

if TYPE_CHECKING:
    import xarray as xr

Row = tuple[str, Mapping[str, Any]]
"""Where it stands, for messages, and its cells by column."""


class Value(Protocol):
    """A measured value and its name for messages."""

    @property
    def name(self) -> str: ...

    @property
    def value(self) -> float: ...


def csv_rows(
    path: Path, *, places: Sequence[str], optional: Sequence[str] = (), quantities: Sequence[str]
) -> list[Row]:
    """The rows of a CSV table, every cell as text.

    Args:
        path: the file.
        places: columns that must be there.
        optional: columns that may.
        quantities: of these at least one.

    Raises:
        UserError: it cannot be read, or has other columns.
    """
    import pandas as pd

    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False, skipinitialspace=True)
    except (ValueError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: expected a CSV table, got one that cannot be read: {one_line(error)}") from None
    table.columns = [str(name).strip().lower() for name in table.columns]
    known = (*places, *optional, *quantities)
    unknown = [name for name in table.columns if name not in known]
    if unknown:
        hint = "; commas stand between columns" if len(table.columns) == 1 else ""
        raise UserError(f"{path}: expected columns out of {', '.join(known)}, got {unknown[0]!r}{hint}")
    if not set(places) <= set(table.columns) or not set(quantities) & set(table.columns):
        wanted = f"{', '.join(places)} and one of {', '.join(quantities)}"
        raise UserError(f"{path}: expected the columns {wanted}, got {', '.join(table.columns)}")
    return [(f"{path}, line {line}", row) for line, row in enumerate(table.to_dict("records"), 2)]


def netcdf(path: Path, *, decode_times: bool = True) -> xr.Dataset:
    """A netCDF file, in memory; UserError if it is none, or a damaged one."""
    import xarray as xr

    try:
        with path.open("rb") as file:
            head = file.read(4)
        if not head.startswith((b"CDF", b"\x89HDF")):
            raise UserError(f"{path}: expected netCDF, got a file of another format")
        with xr.open_dataset(path, decode_times=decode_times) as dataset:
            return dataset.load()
    except (ValueError, RuntimeError, KeyError) as error:
        raise UserError(f"{path}: expected netCDF that can be read, got an error: {one_line(error)}") from None


def empty(value: Any) -> bool:
    """Whether a cell holds nothing."""
    return value is None or (isinstance(value, str) and not value.strip())


def number(where: str, name: str, value: Any) -> float:
    """A cell as a finite number; UserError for anything else."""
    try:
        found = float(value)
    except (TypeError, ValueError):
        found = math.nan
    if not math.isfinite(found):
        told = "an empty cell" if empty(value) else repr(str(value))
        raise UserError(f"{where}: expected a finite number for {name}, got {told}")
    return found


def refuse_twins(values: Iterable[tuple[Hashable, Value]]) -> None:
    """UserError for two values of one key, which says what is measured and where."""
    seen: dict[Hashable, Value] = {}
    for key, one in values:
        other = seen.setdefault(key, one)
        if other is not one:
            what = "contradicts" if other.value != one.value else "repeats"
            raise UserError(
                f"{one.name} ({one.value:g}) {what} {other.name} ({other.value:g}): expected one value at a place; "
                "leave one out"
            )
