"""What files of measured values have in common, whatever was measured: rows of text, numbers, one value at a place."""

from __future__ import annotations

import csv
import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from scidiff.errors import UserError, one_line

if TYPE_CHECKING:
    import xarray as xr

Row = tuple[str, Mapping[str, Any]]
"""Where it stands, for messages, and its cells by column."""
_FARTHEST = 30  # standard deviations; vorticity has heavy tails


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
        UserError: it cannot be read, has other columns, or a row with more or fewer cells than columns.
    """
    (_, header), *rows = _lines(path)
    columns = [name.strip().lower() for name in header]
    known = (*places, *optional, *quantities)
    unknown = [name for name in columns if name not in known]
    if unknown:
        hint = "; commas stand between columns" if len(columns) == 1 else ""
        raise UserError(f"{path}: expected columns out of {', '.join(known)}, got {unknown[0]!r}{hint}")
    if len(set(columns)) < len(columns):
        raise UserError(f"{path}: expected every column once, got {', '.join(columns)}")
    if not set(places) <= set(columns) or not set(quantities) & set(columns):
        wanted = f"{', '.join(places)} and one of {', '.join(quantities)}"
        raise UserError(f"{path}: expected the columns {wanted}, got {', '.join(columns)}")
    for line, cells in rows:
        if len(cells) != len(columns):
            raise UserError(f"{path}, line {line}: expected {len(columns)} cells, got {len(cells)}")
    return [(f"{path}, line {line}", dict(zip(columns, cells, strict=True))) for line, cells in rows]


def _lines(path: Path) -> list[tuple[int, list[str]]]:
    """The lines of a CSV table that are not blank, at least one, by their number."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, skipinitialspace=True, strict=True)
            found = [(reader.line_num, cells) for cells in reader if cells not in ([], [""])]
    except OSError as error:
        raise UserError(f"cannot read {path}: {one_line(error)}") from None
    except (csv.Error, UnicodeDecodeError) as error:
        raise UserError(f"{path}: expected a CSV table, got one that cannot be read: {one_line(error)}") from None
    if not found:
        raise UserError(f"{path}: expected a CSV table with a line of column names, got an empty file")
    return found


def netcdf(path: Path, *, decode_times: bool = True) -> xr.Dataset:
    """A netCDF file, in memory; UserError if it cannot be read, is none, or a damaged one."""
    import xarray as xr

    try:
        with path.open("rb") as file:
            head = file.read(4)
        if not head.startswith((b"CDF", b"\x89HDF")):
            raise UserError(f"{path}: expected netCDF, got a file of another format")
        # SciPy, which reads netCDF 3, would warn of a damaged file that it maps into memory.
        how: dict[str, Any] = {"engine": "scipy", "mmap": False} if head.startswith(b"CDF") else {}
        with xr.open_dataset(path, decode_times=decode_times, **how) as dataset:
            return dataset.load()
    except OSError as error:
        raise UserError(f"cannot read {path}: {one_line(error)}") from None
    except (ValueError, RuntimeError, KeyError) as error:
        raise UserError(f"{path}: expected netCDF that can be read, got an error: {one_line(error)}") from None


def refuse_text(path: Path, held: xr.Dataset, names: Iterable[str]) -> None:
    """UserError for a variable of these that holds anything but numbers."""
    for name in names:
        if name in held and held[name].dtype.kind not in "iuf":
            raise UserError(f"{path}: expected numbers for {name}, got {held[name].dtype}")


def refuse_times(path: Path, held: xr.Dataset, like: str) -> None:
    """UserError if the values of a variable were measured at more than one time."""
    if "time" in held and held["time"].dims == held[like].dims:
        times = np.unique(held["time"].values)
        if len(times) > 1:
            raise UserError(f"{path}: expected values of one time, got {times[0]} and {times[1]}")


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
            raise twins(one, other)


def twins(one: Value, other: Value) -> UserError:
    """Of two values at one place."""
    what = "contradicts" if other.value != one.value else "repeats"
    return UserError(
        f"{one.name} ({one.value:g}) {what} {other.name} ({other.value:g}): expected one value at a place; "
        "leave one out"
    )


def refuse_size(name: str, value: float, deviation: float) -> None:
    """UserError for a value that nothing of this standard deviation has: a number in another unit, say."""
    if abs(value) > _FARTHEST * deviation:
        raise UserError(
            f"{name}: expected at most {_FARTHEST * deviation:.3g} in size, {_FARTHEST} standard deviations of the "
            f"flow that the weights know, got {value:g}: is it in another unit?"
        )
