"""Stations: winds measured at places of the Earth, as a table or netCDF tells them, and as linear facts on the model.

Between the four grid points around it a wind is interpolated in longitude and latitude (bilinear), component by
component: the plane of the map, not the sphere, as the grid of the data has it. Nothing is differentiated.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from scidiff.errors import UserError
from scidiff.fluids.constraints import Measured
from scidiff.fluids.measured_rows import Row, csv_rows, empty, netcdf, number, refuse_text, refuse_times, refuse_twins
from scidiff.fluids.winds import LEAF, WindConfig

if TYPE_CHECKING:
    import xarray as xr

COMPONENTS = ("u", "v")
UNITS = ("m s-1", "m/s", "m s**-1", "m s^-1")
_NETCDF = (".nc", ".nc4", ".cdf")
_MOST = 2500
_FASTEST = 100  # m/s, several times what any month has


@dataclass(frozen=True, kw_only=True)
class Station:
    """One component of the wind at one place.

    Attributes:
        latitude, longitude: degrees north in [-90, 90], and east.
        component: 0 for u, eastward, 1 for v, northward.
        value: m/s.
        name: for messages.
    """

    latitude: float
    longitude: float
    component: int
    value: float
    name: str


def read_stations(path: Path, config: WindConfig) -> tuple[Station, ...]:
    """The stations of a file.

    CSV has a row for each: `lat, lon` and `u, v` or one of them (an empty cell was not measured), m/s. NetCDF has the
    same as variables over one dimension, or u and v over (lat, lon) with NaN where nothing was measured.

    Raises:
        UserError: what is wrong with it, in one line.
    """
    rows = _netcdf(path) if path.suffix.lower() in _NETCDF else _csv(path)
    found = [station for where, row in rows for station in _stations(where, row)]
    if not found:
        raise UserError(f"{path}: expected at least one measured value of u or v, got none")
    if len(found) > _MOST:
        raise UserError(f"{path}: expected at most {_MOST:,} measured values, got {len(found):,}")
    refuse_twins(((round(one.latitude, 9), round(one.longitude % 360, 9), one.component), one) for one in found)
    return tuple(found)


def facts(stations: Sequence[Station], config: WindConfig, usual: Tensor) -> Measured:
    """What stations say of the model's leaf, less the climatology [2, H, W]; Infeasible names two that contradict."""
    height, width = config.shape
    rows = torch.zeros(len(stations), 2, height, width, dtype=torch.float64)
    for m, station in enumerate(stations):
        y = (station.latitude + 90) * (height - 1) / 180
        x = ((station.longitude - config.west) * width / 360) % width
        j, i = min(math.floor(y), height - 2), math.floor(x) % width
        b, a = y - j, x - math.floor(x)
        for row, share_y in ((j, 1 - b), (j + 1, b)):
            for column, share_x in ((i, 1 - a), ((i + 1) % width, a)):
                rows[m, station.component, row, column] += share_y * share_x
    rows[rows.abs() < 1e-12] = 0
    seen = torch.tensor([station.value for station in stations], dtype=torch.float64)
    values = (seen - (rows * usual).sum((1, 2, 3))) / config.scale
    return Measured(
        leaf=LEAF, rows=rows.flatten(1, 2)[:, None], values=values, names=tuple(station.name for station in stations)
    )


def misfit(winds: np.ndarray, stations: Sequence[Station], config: WindConfig) -> np.ndarray:
    """How far winds [N, 2, H, W] are from each station, in units of the greatest wind: [N, M].

    Of the oracle: SciPy's interpolation of the finished field on a map with one column more, sharing nothing with
    `facts`.
    """
    from scipy.interpolate import RegularGridInterpolator

    latitudes, longitudes = config.latitudes.numpy(), config.west + np.linspace(0, 360, config.shape[1] + 1)
    around = np.concatenate([winds, winds[..., :1]], -1)
    off = np.empty((len(winds), len(stations)))
    for c in range(2):
        at = [m for m, station in enumerate(stations) if station.component == c]
        if at:
            places = [[stations[m].latitude, config.west + (stations[m].longitude - config.west) % 360] for m in at]
            field = np.moveaxis(around[:, c], 0, -1)
            seen = RegularGridInterpolator((latitudes, longitudes), field)(np.array(places))
            off[:, at] = np.abs(seen - np.array([stations[m].value for m in at])[:, None]).T
    return off / np.maximum(np.abs(winds).max((1, 2, 3)), 1e-300)[:, None]


def _csv(path: Path) -> list[Row]:
    return csv_rows(path, places=("lat", "lon"), quantities=COMPONENTS)


def _netcdf(path: Path) -> list[Row]:
    held = netcdf(path, decode_times=False)
    names = [name for name in COMPONENTS if name in held]
    if not names or "lat" not in held or "lon" not in held:
        listed = ", ".join(map(str, held.variables)) or "none"
        raise UserError(f"{path}: expected the variables lat, lon and u or v, got {listed}")
    refuse_text(path, held, ("lat", "lon", *names))
    for name in names:
        unit = str(held[name].attrs.get("units", UNITS[0])).strip()
        if unit not in UNITS:
            raise UserError(f"{path}: expected {name} in m s-1, got {unit!r}")
    for name in ("lat", "lon"):
        unit = str(held[name].attrs.get("units", "degrees")).strip()
        if not unit.startswith("deg"):
            raise UserError(f"{path}: expected {name} in degrees, got {unit!r}")
    if all(held[name].dims == ("lat", "lon") for name in names):
        return _cells(path, held, names)
    wanted = ["lat", "lon", *names]
    if len({held[name].dims for name in wanted}) > 1 or held["lat"].ndim != 1:
        got = ", ".join(f"{name} over {held[name].dims}" for name in wanted)
        both = " and ".join(names)
        raise UserError(f"{path}: expected all over one dimension, or {both} over (lat, lon), got {got}")
    refuse_times(path, held, "lat")
    return [
        (f"{path}, station {k}", _known({name: float(held[name].values[k]) for name in wanted}))
        for k in range(held["lat"].size)
    ]


def _cells(path: Path, held: xr.Dataset, names: list[str]) -> list[Row]:
    """What is known at each place of a grid."""
    rows: list[Row] = []
    for j, latitude in enumerate(held["lat"].values.tolist()):
        for i, longitude in enumerate(held["lon"].values.tolist()):
            row = _known({name: float(held[name].values[j, i]) for name in names})
            if row:
                rows.append((f"{path}, point lat={latitude:g} lon={longitude:g}", _at(row, latitude, longitude)))
    return rows


def _at(row: Mapping[str, float], latitude: float, longitude: float) -> dict[str, float]:
    return {"lat": latitude, "lon": longitude, **row}


def _known(row: Mapping[str, float]) -> dict[str, float]:
    return {name: value for name, value in row.items() if not math.isnan(value)}


def _stations(where: str, row: Mapping[str, Any]) -> list[Station]:
    """What one row tells."""
    latitude, longitude = (number(where, name, row.get(name, "")) for name in ("lat", "lon"))
    for name, value, low, high in (("lat", latitude, -90, 90), ("lon", longitude, -180, 540)):
        if not low <= value <= high:
            raise UserError(f"{where}: expected {name} in [{low}, {high}] degrees, got {value:g}")
    found = []
    for c, name in enumerate(COMPONENTS):
        if empty(row.get(name)):
            continue
        value = number(where, name, row[name])
        if abs(value) > _FASTEST:
            raise UserError(
                f"{where}: expected {name} of a monthly mean wind, at most {_FASTEST} m/s in size, got {value:g}"
            )
        told = f"{name} of {where}"
        found.append(Station(latitude=latitude, longitude=longitude, component=c, value=value, name=told))
    return found
