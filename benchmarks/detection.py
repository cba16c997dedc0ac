"""Errors planted into clinical time series: how many are found, and how many of those accused are innocent.

    python benchmarks/detection.py [--quick] [--seed N] [--json FILE] [--data FOLDER] [--model FOLDER]
                                   [--stays N] [--seeds N] [--draws N] [--rate R]

Into stays of set b of PhysioNet 2012 come single values in another unit (times 0.01, 0.1, 10 or 100), pairs of columns
of a stay that change places, and sensors that stick for eight values. `scidiff timeseries detect` decides by itself how
many values to accuse. The baselines accuse as many as it does, those that they find worst:

* `far from the median`: distance from the variable's median over all stays, in median absolute deviations.
* `far from its neighbours`: distance from the line between the values before and after, alike.
* `random`: as many at random.

Precision counts as innocent what was not planted; what was wrong in the data before lowers it for all. Intervals are
95 % (Student's t) over seeds, which differ in stays and errors. `--quick` uses the stays that travel with the package,
which the shipped weights have seen.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from _imputation_data import folder_of
from _running import Table, guarded, interval, options, publish, say
from imputation import SHIPPED

from scidiff.timeseries.columns import Options
from scidiff.timeseries.detect import detect
from scidiff.timeseries.frames import read_frame
from scidiff.timeseries.metrics import keyed_uniform
from scidiff.timeseries.model import ImputerModel
from scidiff.timeseries.panel import Panel
from scidiff.timeseries.planted import KINDS, Planted, plant, recall
from scidiff.timeseries.sample import sample_path

HOUR = 60.0


def stays_of(long: pd.DataFrame, count: int, seed: int) -> Panel:
    """Some stays at random."""
    ids = np.random.default_rng(seed).permutation(np.unique(long["RecordID"]))[:count]
    return read_frame(long[long["RecordID"].isin(ids)].reset_index(drop=True), Options(duplicates="mean"))


def accused(score: np.ndarray, count: int) -> np.ndarray:
    """The values of the greatest scores: bool [N]."""
    flagged = np.zeros(len(score), dtype=bool)
    flagged[np.argsort(-score, kind="stable")[:count]] = True
    return flagged


def baselines(table: pd.DataFrame, seed: int) -> dict[str, np.ndarray]:
    """Scores of every value [N], greater for worse."""
    by_variable = table.groupby("variable", sort=False)["value"]
    from_median = (table["value"] - by_variable.transform("median")).abs()
    within = table.groupby(["series", "variable"], sort=False)
    before, after = within["value"].shift(1), within["value"].shift(-1)
    since, until = table["time"] - within["time"].shift(1), within["time"].shift(-1) - table["time"]
    line = (before * until + after * since) / (since + until)
    from_line = (table["value"] - line.fillna(before).fillna(after)).abs()
    found = {}
    for name, distance in (("far from the median", from_median), ("far from its neighbours", from_line)):
        typical = distance.groupby(table["variable"], sort=False).transform("median")
        found[name] = (distance / typical.where(typical > 0)).fillna(0).to_numpy()
    found["random"] = keyed_uniform(len(table), seed=seed, name="random")
    return found


def one_seed(
    long: pd.DataFrame, model: ImputerModel, chosen: argparse.Namespace, seed: int
) -> dict[str, dict[str, float]]:
    """Recall of each kind, and precision, of each method."""
    panel = stays_of(long, chosen.stays, seed)
    tenth = max(chosen.stays // 10, 1)
    planted = plant(panel, unit=chosen.stays, exchanged=tenth, stuck=tenth, seed=seed)
    table = detect(model, planted.panel, step=HOUR, rate=chosen.rate, draws=chosen.draws, seed=seed)
    count = int(table["flagged"].sum())
    found = {"scidiff": judged(table, planted)}
    for name, score in baselines(table, seed).items():
        found[name] = judged(table.assign(flagged=accused(score, count)), planted)
    clean = detect(model, panel, step=HOUR, rate=chosen.rate, draws=chosen.draws, seed=seed)
    found["scidiff"]["accused, nothing planted"] = float(clean["flagged"].mean())
    say(f"seed {seed}: {found['scidiff']}")
    return found


def judged(table: pd.DataFrame, planted: Planted) -> dict[str, float]:
    """Shares of what was planted, and of what was flagged."""
    found = recall(table, planted)
    shares = {name: float(found.loc[name, "recall"]) for name in KINDS}
    return {**shares, "precision": float(found.loc["all", "precision"]), "accused": float(table["flagged"].mean())}


def table(runs: list[dict[str, dict[str, float]]], chosen: argparse.Namespace) -> Table:
    """A line a method: shares found, in per cent."""
    columns = [*KINDS, "precision", "accused", "accused, nothing planted"]
    rows: list[list[Any]] = []
    for method in runs[0]:
        row: list[Any] = [method]
        for name in columns:
            values = [run[method][name] for run in runs if name in run[method]]
            mean, half = interval(values) if values else (None, None)
            row.append(None if mean is None else f"{100 * mean:.1f} ± {100 * half:.1f}")  # type: ignore[operator]
        rows.append(row)
    where = "vendored stays, quick" if chosen.quick else "set b"
    title = (
        f"Planted errors found, {where}: {chosen.seeds} seeds of {chosen.stays} stays, rate {chosen.rate:g}; per cent"
    )
    return {"title": title, "columns": ["method", *columns], "rows": rows}


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = options(__doc__, "8 of the vendored stays, 2 seeds")
    parser.add_argument("--data", type=Path, metavar="FOLDER", help="PhysioNet 2012")
    parser.add_argument("--model", type=Path, default=SHIPPED, metavar="FOLDER", help="default: the shipped weights")
    parser.add_argument("--stays", type=int, help="a seed; default 60")
    parser.add_argument("--seeds", type=int, help="default 3")
    parser.add_argument("--draws", type=int, default=20)
    parser.add_argument("--rate", type=float, default=0.05)
    chosen = parser.parse_args(arguments)
    for name, (quick, full) in {"stays": (8, 60), "seeds": (2, 3)}.items():
        if getattr(chosen, name) is None:
            setattr(chosen, name, quick if chosen.quick else full)
    return chosen


def run(chosen: argparse.Namespace) -> int:
    path = sample_path() if chosen.quick else folder_of(chosen.data) / "set-b-long.csv.gz"
    long, model = pd.read_csv(path), ImputerModel.load(chosen.model)
    runs = [one_seed(long, model, chosen, chosen.seed + k) for k in range(chosen.seeds)]
    return publish("detection", chosen, [table(runs, chosen)], runs=runs)


def main(arguments: list[str] | None = None) -> int:
    return guarded(run, parse(arguments))


if __name__ == "__main__":
    sys.exit(main())
