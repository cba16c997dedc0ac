"""Sensors: what was measured where, as a table or netCDF tells it, and as linear facts on the vorticity."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, cast

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor

from scidiff.errors import UserError
from scidiff.fluids import functionals
from scidiff.fluids.constraints import Measured
from scidiff.fluids.measured_rows import (
    Row,
    csv_rows,
    empty,
    netcdf,
    number,
    refuse_size,
    refuse_text,
    refuse_times,
    refuse_twins,
    twins,
)
from scidiff.fluids.model import LEAF, FlowConfig
from scidiff.fluids.oracle import Instrument
from scidiff.fluids.spectral import Box

if TYPE_CHECKING:
    import xarray as xr

QUANTITIES = ("vorticity", "u", "v")
_PLACES = ("x", "y", "x_end", "y_end", "kind")
_KINDS = ("point", "line", "area")
_NETCDF = (".nc", ".nc4", ".cdf")
_MOST = 4000
_NEAR = 1e-5  # of a spacing: what lies so close together is at one place
ROUNDING = 1e-5


class Sizes(Protocol):
    """What sensors ask of the weights of a flow: those of a `FlowConfig`, say."""

    @property
    def shape(self) -> tuple[int, int]: ...

    @property
    def lengths(self) -> tuple[float, float]: ...

    @property
    def scale(self) -> float: ...

    @property
    def box(self) -> Box: ...


def read_sensors(path: Path, config: Sizes, *, timed: bool = False) -> tuple[Instrument, ...]:
    """The sensors of a file; if they are timed, a column (or variable) `time` says when, >= 0 since the start.

    CSV has a row for each: `x, y`, any of `vorticity, u, v` (an empty cell was not measured), and for means
    `x_end, y_end` and `kind` (point, line or area). NetCDF has the same as variables over one dimension, or fields over
    (y, x) on the model's grid with NaN where nothing was measured.

    Raises:
        UserError: what is wrong with it, in one line.
    """
    rows = _netcdf(path, config, timed) if path.suffix.lower() in _NETCDF else _csv(path, timed)
    found = [tool for where, row in rows for tool in _instruments(where, row, config.box)]
    if not found:
        raise UserError(f"{path}: expected at least one measured value of {', '.join(QUANTITIES)}, got none")
    if len(found) > _MOST:
        raise UserError(f"{path}: expected at most {_MOST:,} measured values, got {len(found):,}")
    refuse_twins((_place_of(one), one) for one in found if one.kind != "point")
    _refuse_near([one for one in found if one.kind == "point"], config.box)
    _refuse_sizes(found, config)
    return tuple(found)


def read_coarse(path: Path, config: FlowConfig) -> tuple[Instrument, ...]:
    """The cells of a coarse field, each the mean over its rectangle: netCDF over (y, x), NaN where nothing is known.

    A mean over the whole box of no more than `ROUNDING` times the greatest value is taken off: a curl has none, nor has
    a velocity without mean flow, and rounded numbers have.

    Raises:
        UserError: what is wrong with it, in one line.
    """
    if path.suffix.lower() not in _NETCDF:
        raise UserError(f"expected netCDF ({', '.join(_NETCDF)}) with a coarse field over (y, x), got {str(path)!r}")
    held, names = opened(path)
    _refuse_other_dims(path, held, names)
    shape = tuple(held[names[0]].shape)
    if not all(2 <= coarse <= fine for coarse, fine in zip(shape, config.shape, strict=True)):
        raise UserError(
            f"{path}: expected from 2 x 2 cells to {config.shape[0]} x {config.shape[1]}, which the weights know, "
            f"got {shape[0]} x {shape[1]}"
        )
    for name in names:
        if bool(np.isfinite(held[name]).all()):
            mean = float(held[name].astype("float64").mean())
            if abs(mean) > ROUNDING * float(abs(held[name]).max()):
                raise UserError(f"{path}: expected {name} without a mean over the box, got one of {mean:.3g}")
            held[name] = held[name].astype("float64") - mean
    sides = [length / cells for length, cells in zip(config.lengths, shape, strict=True)]
    centres = {
        axis: (torch.arange(cells, dtype=torch.float64) + 0.5) * side
        for axis, cells, side in zip("yx", shape, sides, strict=True)
    }
    refuse_other_places(path, held, centres, "cell centres")
    tools = []
    for where, row in _cells(path, held, names, centres):
        low = (row["y"] - sides[0] / 2, row["x"] - sides[1] / 2)
        ends = {"y": max(low[0], 0.0), "x": max(low[1], 0.0), "y_end": low[0] + sides[0], "x_end": low[1] + sides[1]}
        tools += _instruments(where, {**row, "kind": "area", **ends}, config.box)
    if not tools:
        raise UserError(f"{path}: expected at least one cell with a value, got none")
    _refuse_sizes(tools, config)
    return tuple(tools)


def facts(instruments: Sequence[Instrument], config: FlowConfig) -> Measured:
    """What the sensors say of the model's leaf; Infeasible names two that contradict each other."""
    values = torch.tensor([tool.value for tool in instruments], dtype=torch.float64) / config.scale
    names = tuple(tool.name for tool in instruments)
    return Measured(leaf=LEAF, rows=seen(instruments, config)[:, None], values=values, names=names)


def seen(instruments: Sequence[Instrument], config: Sizes) -> Tensor:
    """What each instrument reads of a vorticity, as an inner product: float64 [M, H, W]."""
    rows = torch.zeros(len(instruments), *config.shape, dtype=torch.float64)
    for kind in _KINDS:
        for quantity in QUANTITIES:
            at = [m for m, tool in enumerate(instruments) if (tool.kind, tool.quantity) == (kind, quantity)]
            if at:
                rows[at] = _rows(kind, quantity, [instruments[m] for m in at], config.box)
    return rows


def _rows(kind: str, quantity: str, tools: Sequence[Instrument], box: Box) -> Tensor:
    start = torch.tensor([tool.start for tool in tools], dtype=torch.float64)
    end = torch.tensor([tool.end for tool in tools], dtype=torch.float64)
    makers = {"line": functionals.lines, "area": functionals.areas}
    read = functionals.points(box, start) if kind == "point" else makers[kind](box, start, end)
    if quantity == "vorticity":
        return read
    none = torch.zeros_like(read)
    return functionals.through_vorticity(box, torch.stack([read, none] if quantity == "u" else [none, read], 1))


def _csv(path: Path, timed: bool) -> list[Row]:
    return csv_rows(path, places=("time",) * timed + ("x", "y"), optional=_PLACES[2:], quantities=QUANTITIES)


def opened(path: Path) -> tuple[xr.Dataset, list[str]]:
    """A netCDF file, and which quantities it has."""
    held = netcdf(path)
    _refuse_units(path, held)
    refuse_text(path, held, (*_PLACES[:4], *QUANTITIES))
    names = [name for name in QUANTITIES if name in held]
    if not names:
        raise UserError(f"{path}: expected one of the variables {', '.join(QUANTITIES)}, got {_listed(held)}")
    return held, names


def _netcdf(path: Path, config: Sizes, timed: bool) -> list[Row]:
    held, names = opened(path)
    dims = held[names[0]].dims
    if dims == ("y", "x") and not timed:
        return _gridded(path, held, names, config)
    if not timed:
        refuse_times(path, held, names[0])
    needed = ("time",) * timed + ("x", "y")
    wanted = [name for name in (*needed, *_PLACES[2:], *QUANTITIES) if name in held]
    for name in (names[0], *wanted):
        if len(dims) != 1 or held[name].dims != dims:
            other = "" if timed else ", or over (y, x)"
            raise UserError(f"{path}: expected {name} over one dimension{other}, got {held[name].dims}")
    if not all(name in held for name in needed):
        raise UserError(f"{path}: expected the variables {', '.join(needed)}, got {_listed(held)}")
    refuse_text(path, held, needed)
    count = held.sizes[dims[0]]
    return [(f"{path}, sensor {k}", {name: held[name].values[k] for name in wanted}) for k in range(count)]


def _gridded(path: Path, held: xr.Dataset, names: list[str], config: Sizes) -> list[Row]:
    _refuse_other_dims(path, held, names)
    shape = tuple(held[names[0]].shape)
    if shape != config.shape:
        raise UserError(
            f"{path}: expected fields of {config.shape[0]} x {config.shape[1]} points, which the weights know, "
            f"got {shape[0]} x {shape[1]}"
        )
    places = dict(zip("yx", config.box.coordinates(), strict=True))
    refuse_other_places(path, held, places, "points")
    return _cells(path, held, names, places)


def _refuse_other_dims(path: Path, held: xr.Dataset, names: Sequence[str]) -> None:
    for name in names:
        if held[name].dims != ("y", "x"):
            raise UserError(f"{path}: expected {name} over (y, x), got {held[name].dims}")


def refuse_other_places(path: Path, held: xr.Dataset, places: Mapping[str, Tensor], what: str) -> None:
    """UserError if the coordinates x and y, where there are any, are not those that are known."""
    for axis, known in places.items():
        step = float(known[1] - known[0])
        if axis not in held.coords:
            continue
        came = torch.tensor(held[axis].values, dtype=torch.float64)
        wanted = f"{path}: expected {axis} of {what} to be uniform, {len(known)} from {float(known[0]):.6g} in steps of"
        if len(came) != len(known):
            raise UserError(f"{wanted} {step:.6g}, got {len(came)}")
        same = (came - known).abs() < 1e-4 * step  # which NaN is not
        if not bool(same.all()):
            first = int(same.to(torch.uint8).argmin())
            raise UserError(f"{wanted} {step:.6g}, got {float(came[first]):.6g} for {float(known[first]):.6g}")


def _cells(path: Path, held: xr.Dataset, names: list[str], places: Mapping[str, Tensor]) -> list[Row]:
    """What is known at each place of a grid."""
    rows: list[Row] = []
    for j, y in enumerate(places["y"].tolist()):
        for i, x in enumerate(places["x"].tolist()):
            values = {name: float(held[name].values[j, i]) for name in names}
            seen = {name: value for name, value in values.items() if not math.isnan(value)}
            if seen:
                rows.append((f"{path}, point y={j} x={i}", {"x": x, "y": y, **seen}))
    return rows


def _refuse_units(path: Path, held: xr.Dataset) -> None:
    for name in (*QUANTITIES, *_PLACES[:4], "time"):
        unit = str(held[name].attrs.get("units", "1")).strip() if name in held else "1"
        if unit not in ("1", ""):
            raise UserError(f"{path}: expected {name} without a unit ('1'), as the model's flow is, got {unit!r}")


def _refuse_sizes(tools: Sequence[Instrument], config: Sizes) -> None:
    """UserError for a value that no flow of the weights has: a number in another unit, say."""
    longest = max(config.lengths) / (2 * math.pi)
    for tool in tools:
        refuse_size(tool.name, tool.value, config.scale * (1 if tool.quantity == "vorticity" else longest))


def _place_of(tool: Instrument) -> Hashable:
    """What a line or an area measures and where."""
    return (tool.kind, tool.quantity, *(round(z, 9) for z in (*tool.start, *tool.end, tool.time)))


def _refuse_near(tools: Sequence[Instrument], box: Box) -> None:
    """UserError for two points at which one quantity was measured at one time that are closer than fields can tell."""
    groups: dict[Hashable, list[Instrument]] = {}
    for tool in tools:
        groups.setdefault((tool.quantity, round(tool.time, 9)), []).append(tool)
    for group in groups.values():
        places = np.array([tool.start for tool in group]) / box.spacings
        near = cKDTree(places % box.shape, boxsize=box.shape).query_pairs(_NEAR)
        if near:
            first, second = min(near)
            raise twins(group[second], group[first])


def _listed(held: xr.Dataset) -> str:
    return ", ".join(map(str, held.variables)) or "none"


def _instruments(where: str, row: Mapping[str, Any], box: Box) -> list[Instrument]:
    """What one row tells: an instrument for each quantity that is not empty."""
    kind = str(row.get("kind", "") or "").strip().lower()
    ends = [not empty(row.get(name)) for name in ("x_end", "y_end")]
    kind = kind or ("point" if not any(ends) else "")
    if kind not in _KINDS:
        raise UserError(f"{where}: expected kind point, line or area, got {kind or 'none'!r}")
    if any(ends) != (kind != "point") or any(ends) != all(ends):
        raise UserError(f"{where}: expected x_end and y_end for a line or an area only, got a {kind} with {sum(ends)}")
    start = _place(where, row, ("y", "x"), box)
    end = start if kind == "point" else _place(where, row, ("y_end", "x_end"), box)
    when = number(where, "time", row["time"]) if "time" in row else 0.0
    if when < 0:
        raise UserError(f"{where}: expected a time >= 0, since the start, got {when:g}")
    if kind == "line" and start == end:
        raise UserError(f"{where}: expected a line from one place to another, got {start} (y, x) twice")
    if kind == "area" and not (end[0] > start[0] and end[1] > start[1]):
        raise UserError(f"{where}: expected an area from a low corner to a higher one, got {start} to {end} (y, x)")
    return [
        Instrument(
            kind=cast(Literal["point", "line", "area"], kind),
            quantity=quantity,
            start=start,
            end=end,
            value=number(where, quantity, row[quantity]),
            name=f"{quantity} of {where}",
            time=when,
        )
        for quantity in QUANTITIES
        if not empty(row.get(quantity))
    ]


def _place(where: str, row: Mapping[str, Any], names: tuple[str, str], box: Box) -> tuple[float, float]:
    y, x = (number(where, name, row.get(name, "")) for name in names)
    for name, value, length in zip(names, (y, x), box.lengths, strict=True):
        if not 0 <= value <= length:
            raise UserError(f"{where}: expected {name} in the domain [0, {length:.9g}], got {value:.9g}")
    return y, x
