"""Forecasts of public series from rolling origins, beside naive and statistical methods.

    python benchmarks/forecasting.py [--quick] [--seed N] [--json FILE] [--data NAME ...] [--traffic FILE] [--air FILE]
                                     [--seeds N] [--steps N] [--alone] [--merge FILE ...]
                                     [--part quality|speed ...]

Data sets are those of `_forecasting_data.py`. Every method learns from what came before the first origin; scidiff is
an ensemble, trained for at most `--steps` steps a member, again on all windows, and calibrated on windows before the
first origin. The last origins are judged, a horizon apart. CRPS is the fair one; of methods that give 50 quantiles it
is twice their mean loss (for their energy score these stand for draws). p is of the Diebold-Mariano test on the CRPS by
origin, mean of the seeds. Coverage is of 80 and 95 % intervals. Holidays are told to scidiff and to the boosted trees.
DeepAR and TFT train for a minute. A data set and a seed can be run alone, without the others' methods (`--alone`), and
the documents put together with `--merge`.
`--quick` makes a short series of its own: its numbers say that it runs.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _forecasting_data import NAMES, Data, data
from _forecasting_gluonts import SECONDS
from _forecasting_peers import peers
from _forecasting_speed import SERIES, speed
from _forecasting_tables import COHERENT, OURS, missed, tables
from _running import guarded, options, publish, say

from scidiff.errors import UserError
from scidiff.timeseries.backtest import MODEL, Backtest, backtest
from scidiff.timeseries.columns import Options
from scidiff.timeseries.forecaster import DiffusionForecaster
from scidiff.timeseries.frames import read_frame
from scidiff.timeseries.panel import Panel

PARTS = ("quality", "speed")


def judged(found: Data, seed: int, arguments: argparse.Namespace, missing: list[str]) -> list[dict[str, Any]]:
    """One data set and one seed; those that are no matter of chance are judged with the first."""
    panel = read_frame(found.table, Options(time="timestamp", variables=found.targets, duplicates="mean"))
    with_peers = seed == arguments.seed and not arguments.alone
    seconds = 3 if arguments.quick else SECONDS
    others, lacking = peers(len(found.targets), found.country, seconds) if with_peers else ({}, [])
    missing += lacking
    settings: dict[str, Any] = {"horizon": found.horizon, "time": "timestamp", "target": found.targets}
    settings |= {"holidays": found.country, "n_draws": 100, "calibrate": True, "seed": seed}
    settings["max_steps"] = 20 if arguments.quick else arguments.steps
    how: dict[str, Any] = {"count": found.count, "stride": found.stride}
    prefix = f"{found.name}, seed {seed}"
    done = backtest(DiffusionForecaster(**settings), panel, peers=others, show=lambda t: say(f"{prefix}: {t}"), **how)
    runs = [record(found, seed, done, OURS)]
    if found.hierarchy:
        forecaster = DiffusionForecaster(**settings, constraints={"hierarchy": found.hierarchy})
        done = backtest(forecaster, panel, show=lambda t: say(f"{prefix}, coherent: {t}"), **how)
        kept = record(found, seed, done, COHERENT)
        kept = {**kept, **{part: {COHERENT: kept[part][COHERENT]} for part in ("scores", "crps", "seconds")}}
        runs[0] = {**runs[0], **{part: runs[0][part] | kept[part] for part in ("scores", "crps", "seconds")}}
        runs[0]["coherence"] = incoherence(forecaster, panel, found)
    return runs


def record(found: Data, seed: int, done: Backtest, ours: str) -> dict[str, Any]:
    """What is kept of a backtest, as JSON has it."""
    name = {MODEL: ours}
    table = {
        name.get(str(method), str(method)): {k: None if np.isnan(v) else float(v) for k, v in row.items()}
        for method, row in done.table.to_dict("index").items()
    }
    stride = found.stride or found.horizon
    return {
        "data": found.name,
        "seed": seed,
        "horizon": found.horizon,
        "origins": done.origins,
        "lags": min(-(-found.horizon // stride), done.origins - 1),
        "scores": table,
        "crps": {name.get(method, method): values.tolist() for method, values in done.crps.items()},
        "inside": {level: ours_by_origin(done, f"in {level} %") for level in ("80", "95")},
        "seconds": {name.get(method, method): list(spent) for method, spent in done.seconds.items()},
    }


def ours_by_origin(done: Backtest, score: str) -> list[float]:
    """A score of scidiff at each origin."""
    return [float(value) for value in done.each.loc[done.each["method"] == MODEL, score]]


def incoherence(forecaster: DiffusionForecaster, panel: Panel, found: Data) -> float:
    """The largest difference between a sum and its parts in the draws after the end, over the size of the sum."""
    draws = dict(zip(map(str, panel.ids), forecaster.forecast_panel(panel).draws, strict=True))
    off = [
        np.abs(draws[k] - sum(draws[one] for one in parts)) / np.abs(draws[k]) for k, parts in found.hierarchy.items()
    ]
    return float(np.max(off))


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = options(__doc__, "a series of its own, 20 steps of training, 3 origins")
    parser.add_argument("--seeds", type=int, metavar="N", help="default 5")
    parser.add_argument("--data", nargs="+", choices=NAMES, default=NAMES, metavar="NAME", help="default: all")
    parser.add_argument("--traffic", type=Path, metavar="FILE")
    parser.add_argument("--air", type=Path, metavar="FILE")
    parser.add_argument("--steps", type=int, default=1500, metavar="N", help="of training a member; default 1500")
    parser.add_argument("--alone", action="store_true", help="scidiff and the naive methods only")
    parser.add_argument("--part", nargs="+", choices=PARTS, default=PARTS, help="default: all")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--merge", type=Path, nargs="+", metavar="FILE", help="documents of this benchmark: runs none")
    chosen = parser.parse_args(arguments)
    chosen.seeds = chosen.seeds or (1 if chosen.quick else 5)
    return chosen


def collect(arguments: argparse.Namespace) -> tuple[list[dict[str, Any]], list[str]]:
    """All runs, and what is missing."""
    missing: list[str] = []
    runs: list[dict[str, Any]] = []
    if arguments.merge is not None:
        documents = [json.loads(path.read_text(encoding="utf-8")) for path in arguments.merge]
        return [run for one in documents for run in one["runs"]], sorted(
            {t for one in documents for t in one["missing"]}
        )
    for name in arguments.data[:1] if arguments.quick else arguments.data:
        try:
            found = data(name, arguments)
        except UserError as error:
            missing.append(f"{name}: {error}")
            continue
        for seed in range(arguments.seed, arguments.seed + arguments.seeds):
            runs += judged(found, seed, arguments, missing)
    return runs, sorted(set(missing))


def timed(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Tables of the part `speed`, or those of the documents that are merged."""
    if arguments.merge is not None:
        documents = [json.loads(path.read_text(encoding="utf-8")) for path in arguments.merge]
        return [table for one in documents for table in one.get("timings", [])]
    if "speed" not in arguments.part:
        return []
    return [speed(8 if arguments.quick else SERIES)]


def run(arguments: argparse.Namespace) -> int:
    torch.set_num_threads(arguments.threads)
    runs, missing = collect(arguments) if "quality" in arguments.part else ([], [])
    timings = timed(arguments)
    for one in runs:
        if "coherence" in one:
            say(f"{one['data']}, seed {one['seed']}: coherent to {one['coherence']:.1e} of each sum")
    shown = [*(tables(runs) if runs else []), *timings]
    return publish("forecasting", arguments, shown, misses=missed(runs), missing=missing, runs=runs, timings=timings)


def main(arguments: list[str] | None = None) -> int:
    return guarded(run, parse(arguments))


if __name__ == "__main__":
    sys.exit(main())
