"""Imputation of clinical time series: PhysioNet 2012 as in CSDI, against baselines and PyPOTS, with quality and speed.

    python benchmarks/imputation.py [--quick] [--seed N] [--json FILE] [--data FOLDER] [--model FOLDER] [--csdi FOLDER]
                                    [--beijing FILE] [--outcomes FILE] [--stays N] [--seeds N] [--budget SECONDS]
                                    [--part quality|calibrated|steps|speed|tables|downstream ...]

Trained on set a and judged on set b: 48 hours of 35 variables, the last value of an hour, a share of the observed
values of every stay hidden at random, values in units of the standard deviation of set a. CRPS-19 is CSDI's: 19
quantiles, divided by the mean size of the values; it overstates by 6 % at 100 draws. The fair CRPS is unbiased and not
divided, whatever the number of draws. For a point forecast CRPS is the absolute error. Intervals are of 1,000 samples
of the stays with replacement; every seed has other stays and hides other values. `--budget` is the training time of
each contestant.

* quality: all contestants.
* calibrated: coverage of intervals before and after spread and conformal widening are learned on other stays.
* steps: scidiff at several numbers of network calls a draw, from the same noise; differences to 50 calls are paired.
* speed: whole tables, every missing cell; each contestant in a process of its own; time, processor time, peak memory.
* tables: other data, where linear interpolation is what must be reached.
* downstream: a prediction of the second day, from first days whose gaps were filled in different ways.

`--quick` trains and tests on the 163 stays that travel with the package. The shipped weights have seen those stays, so
its numbers say that it runs and nothing else. Without it the data come from datasets/physionet2012.py, or `--data`.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _imputation_bars import COVERAGES, METRICS, missed
from _imputation_calibration import coverage
from _imputation_calibration import missed as missed_coverage
from _imputation_calibration import table as coverage_table
from _imputation_data import Stays, Units, folder_of, hide, read_sample, read_set
from _imputation_downstream import downstream as predictions
from _imputation_downstream import outcome
from _imputation_downstream import table as downstream_table
from _imputation_methods import SIMPLE, Method, Ours, sklearn_methods
from _imputation_peers import PyPOTS
from _imputation_peers import missing as missing_peers
from _imputation_speed import Job, measure
from _imputation_speed import missed as missed_speed
from _imputation_speed import table as speed_table
from _imputation_steps import CALLS, beyond, curve, plot
from _imputation_steps import table as steps_table
from _imputation_tables import learn
from _imputation_tables import missed as missed_tables
from _imputation_tables import tables as other_tables
from _running import Table, guarded, options, publish, say

import scidiff
from scidiff.timeseries.draws import STEPS
from scidiff.timeseries.model import ImputerModel
from scidiff.timeseries.sample import sample_path
from scidiff.timeseries.scores import ALL, Judged, scores
from scidiff.timeseries.scores import judge as judged_by

RATIOS = (0.1, 0.5, 0.9)
PACKAGES = ("scikit-learn", "pypots")
SHIPPED = Path(scidiff.__file__).parent / "timeseries" / "weights" / "physionet2012"


def tests(test: Stays, arguments: argparse.Namespace) -> list[tuple[int, Stays]]:
    """Seed and stays of each repetition: other stays while there are enough."""
    order = np.random.default_rng(arguments.seed).permutation(len(test))
    order = np.resize(order, arguments.seeds * arguments.stays).reshape(arguments.seeds, -1)
    return [(arguments.seed + k, test[np.unique(one)]) for k, one in enumerate(order)]


def judge(method: Method, repetitions: Sequence[tuple[int, Stays]], ratio: float, draws: int) -> Judged:
    """What becomes of the hidden values of all repetitions."""
    found, truth, owner, variable = [], [], [], []
    for seed, stays in repetitions:
        hidden = hide(stays.observed, ratio, seed)
        given = stays.replace(np.where(hidden, np.nan, stays.values))
        found.append(method.impute(given, hidden, draws).astype(np.float32))
        truth.append(stays.values[hidden])
        series, _, place = np.nonzero(hidden)
        owner.append(stays.ids[series])
        variable.append(place)
    return judged_by(
        np.concatenate(found, axis=1),
        np.concatenate(truth),
        series=np.concatenate(owner),
        variable=np.concatenate(variable),
        variables=repetitions[0][1].variables,
    )


def models(arguments: argparse.Namespace, units: Units) -> tuple[list[Method], list[str]]:
    """Rows of scidiff's own networks, and what is not there."""
    found: list[Method] = []
    missing = []
    folder = arguments.model or SHIPPED
    for name, path in (("scidiff", folder), ("scidiff, network of CSDI", arguments.csdi)):
        if path is None or not (path / "weights.json").exists():
            missing.append(f"{name}: no weights" + ("" if path is None else f" in {path.name}"))
            continue
        model = ImputerModel.load(path)
        found.append(
            Ours(f"{name} ({arguments.steps} calls)", model, units, steps=arguments.steps, seed=arguments.seed)
        )
        if path == folder:
            found.append(Ours(f"{name}, first guess alone", model, units, steps=0, seed=arguments.seed))
    return found, missing


def contestants(arguments: argparse.Namespace, train: Stays, units: Units) -> tuple[list[Method], list[str]]:
    """All that take part, and what is missing."""
    own, missing = models(arguments, units)
    methods = [*own, *SIMPLE]
    try:
        methods += sklearn_methods()
    except ImportError:
        missing.append("scikit-learn: k-NN, iterative and gradient boosting are left out (pip install scikit-learn)")
    missing += missing_peers()
    if not missing_peers():
        shape = {"hours": train.values.shape[1], "variables": train.values.shape[2]}
        part = 4 if arguments.quick else 320
        methods += [PyPOTS(kind, part=part, **shape) for kind in ("BRITS", "SAITS", "CSDI")]
    return methods, missing


def quality(arguments: argparse.Namespace, train: Stays, test: Stays, units: Units) -> dict[str, Any]:
    """All contestants at all shares of hidden values."""
    methods, missing = contestants(arguments, train, units)
    repetitions = tests(test, arguments)
    lines: list[list[Any]] = []
    raw: list[dict[str, Any]] = []
    misses: list[str] = []
    for method in methods:
        began = time.monotonic()
        method.fit(train, arguments.budget)
        trained = time.monotonic() - began
        slow = isinstance(method, PyPOTS) and method.kind == "CSDI"  # judged on fewer stays, as its row says
        some = [(seed, stays[: arguments.peer_stays] if slow else stays) for seed, stays in repetitions]
        for ratio in RATIOS:
            began = time.monotonic()
            judged = judge(method, some, ratio, arguments.peer_draws if slow else arguments.draws)
            seconds = time.monotonic() - began
            found = scores(judged, seed=arguments.seed).loc[ALL]
            one = {"method": method.name, "hidden": ratio, "draws": judged.draws, "stays": len(judged.series),
                   "train_seconds": round(trained, 1), "impute_seconds": round(seconds, 1),
                   "metrics": found.to_dict("index")}  # fmt: skip
            raw.append(one)
            lines.append(_line(one))
            say("  ".join(map(str, lines[-1])))
            if method is methods[0] and isinstance(method, Ours):
                misses += missed(found["value"], ratio, judged.draws)
    columns = ["method", "hidden", "draws", "stays", "MAE", "RMSE", "CRPS-19", "fair CRPS", "50 %", "80 %", "90 %",
               "training s"]  # fmt: skip
    where = "163 vendored stays, quick" if arguments.quick else "train on set a, test on set b"
    title = f"PhysioNet 2012, hourly, z-units, {where}; [95 % interval over stays]"
    return {"tables": [{"title": title, "columns": columns, "rows": lines}], "quality": raw, "missing": missing,
            "bars_missed": misses}  # fmt: skip


def _line(one: dict[str, Any]) -> list[Any]:
    found = one["metrics"]
    draws = one["draws"] if one["draws"] > 1 else "point"
    cells: list[Any] = [one["method"], f"{one['hidden']:.0%}", draws, one["stays"]]
    cells += ["{value:.3f} [{low:.3f}, {high:.3f}]".format(**found[metric]) for metric in METRICS]
    cells += [f"{100 * found[k]['value']:.1f}" if k in found else None for k in COVERAGES]
    return [*cells, f"{one['train_seconds']:.0f}"]


def steps(arguments: argparse.Namespace, train: Stays, test: Stays, units: Units) -> dict[str, Any]:
    """Quality against the number of network calls a draw."""
    own, missing = models(arguments, units)
    repetitions = tests(test, arguments)
    ratios = RATIOS[1:2] if arguments.quick else RATIOS
    counts = sorted({*((2, 50) if arguments.quick else CALLS), arguments.steps})
    curves = []
    for method in own[:1] if arguments.quick else own:
        if not isinstance(method, Ours) or not method.steps:
            continue
        for ratio in ratios:
            runs = {}
            for count in counts:
                runs[count] = judge(method.with_steps(count), repetitions, ratio, arguments.draws)
                say(f"{method.name}, {ratio:.0%} hidden, {count} calls")
            curves.append(curve(method.name, ratio, runs, seed=arguments.seed))
    if arguments.json is not None and curves:
        plot(curves, arguments.json.with_name("imputation_steps.png"))
    return {"tables": [steps_table(curves)] if curves else [], "steps": curves, "missing": missing,
            "bars_missed": beyond(curves, arguments.steps)}  # fmt: skip


def speed(arguments: argparse.Namespace, train: Stays, test: Stays, units: Units) -> dict[str, Any]:
    """Time and memory of whole tables; PyPOTS' CSDI with fresh weights, on which its speed does not depend."""
    runs: list[tuple[str, Path | None, int, int]] = []
    missing = []
    own = f"scidiff ({arguments.steps} calls)"
    sizes = [(4, 10)] if arguments.quick else [(64, 10), (1000, 50)]
    for name, path in ((own, arguments.model or SHIPPED), ("scidiff, network of CSDI", arguments.csdi)):
        if path is not None and (path / "weights.json").exists():
            runs += [(name, path, stays, draws) for stays, draws in sizes[: None if name == own else 1]]
        else:
            missing.append(f"{name}: no weights")
    missing += missing_peers()
    if not missing_peers():
        runs.append(("PyPOTS CSDI (50 calls)", None, *((1, 1) if arguments.quick else sizes[0])))
    found = []
    for name, path, stays, draws in runs:
        job = Job(name=name, folder=path, stays=test[:stays], units=units, draws=draws, steps=arguments.steps,
                  threads=arguments.threads)  # fmt: skip
        found.append(measure(job))
        say(f"{name}, {stays} stays x {draws} draws: {found[-1]['seconds']:.1f} s")
    return {"tables": [speed_table(found)] if found else [], "speed": found, "missing": missing,
            "bars_missed": missed_speed(found, own)}  # fmt: skip


def tables(arguments: argparse.Namespace, train: Stays, test: Stays, units: Units) -> dict[str, Any]:
    """Other tables: models trained here, and the simple rules."""
    missing: list[str] = []
    lines: list[list[Any]] = []
    raw: list[dict[str, Any]] = []
    misses: list[str] = []
    for name, learned, held in other_tables(arguments.beijing, missing, quick=arguments.quick):
        own = Units.of(learned)
        known, asked = (stays.replace(own.z(stays.values)) for stays in (learned, held))
        asked = asked[np.random.default_rng(arguments.seed).permutation(len(asked))[: arguments.stays]]
        methods: list[Method] = []
        for label, seconds in (("scidiff, one epoch", None), ("scidiff", arguments.budget)):
            model = learn(learned, seconds=seconds, seed=arguments.seed)
            methods.append(Ours(label, model, own, steps=arguments.steps, seed=arguments.seed))
        for ratio in RATIOS[1:2] if arguments.quick else RATIOS:
            mae = {}
            for method in [*methods, *SIMPLE]:
                method.fit(known, arguments.budget)
                judged = judge(method, [(arguments.seed, asked)], ratio, arguments.draws)
                found = scores(judged, seed=arguments.seed).loc[ALL]
                raw.append({"table": name, "method": method.name, "hidden": ratio, "draws": judged.draws,
                            "windows": len(judged.series), "metrics": found.to_dict("index")})  # fmt: skip
                cells = ["{value:.3f} [{low:.3f}, {high:.3f}]".format(**found.loc[m]) for m in (METRICS[0], METRICS[3])]
                lines.append([name, method.name, f"{ratio:.0%}", len(judged.series), *cells])
                say("  ".join(map(str, lines[-1])))
                mae[method.name] = float(found.loc["MAE", "value"])
            misses += missed_tables(name, ratio, mae)
    columns = ["table", "method", "hidden", "windows", "MAE", "fair CRPS"]
    title = f"Other tables, models trained for one epoch and for {arguments.budget:.0f} s, z-units; [95 % interval]"
    return {"tables": [{"title": title, "columns": columns, "rows": lines}] if lines else [], "other_tables": raw,
            "missing": missing, "bars_missed": misses}  # fmt: skip


def downstream(arguments: argparse.Namespace, train: Stays, test: Stays, units: Units) -> dict[str, Any]:
    """A prediction from imputed tables."""
    measured = sample_path() if arguments.quick else folder_of(arguments.data) / "set-b-long.csv.gz"
    order = np.random.default_rng(arguments.seed).permutation(len(test))[: 60 if arguments.quick else 1000]
    stays = test[np.sort(order)]
    own, missing = models(arguments, units)
    draws = 2 if arguments.quick else 10
    rows = predictions(own[:1], stays, outcome(stays, measured, arguments.outcomes), draws=draws, seed=arguments.seed)
    return {"tables": [downstream_table(rows)], "downstream": rows, "missing": missing, "bars_missed": []}


def calibrated(arguments: argparse.Namespace, train: Stays, test: Stays, units: Units) -> dict[str, Any]:
    """Coverage before and after calibration."""
    own, missing = models(arguments, units)
    stays, shares = (train, RATIOS[1:2]) if arguments.quick else (tests(test, arguments)[0][1], RATIOS)
    found = [coverage(own[0], stays, r, draws=arguments.draws, seed=arguments.seed) for r in shares] if own else []
    return {"tables": [coverage_table(found)] if found else [], "calibrated": found, "missing": missing,
            "bars_missed": missed_coverage(found)}  # fmt: skip


PARTS: dict[str, Callable[[argparse.Namespace, Stays, Stays, Units], dict[str, Any]]] = {
    "quality": quality,
    "calibrated": calibrated,
    "steps": steps,
    "speed": speed,
    "tables": tables,
    "downstream": downstream,
}


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = options(__doc__, "the vendored stays, few draws, seconds of training")
    parser.add_argument(
        "--data", type=Path, metavar="FOLDER", help="PhysioNet 2012 as datasets/physionet2012.py takes it"
    )
    parser.add_argument("--model", type=Path, metavar="FOLDER", help="weights instead of the shipped ones")
    parser.add_argument("--csdi", type=Path, metavar="FOLDER", help="weights of the network of CSDI")
    parser.add_argument("--beijing", type=Path, metavar="FILE", help="hourly table of Beijing's stations")
    parser.add_argument("--outcomes", type=Path, metavar="FILE", help="the challenge's outcomes of set b")
    parser.add_argument("--part", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--stays", type=int, help="a seed; default 200")
    parser.add_argument("--peer-stays", type=int, help="a seed, for PyPOTS' CSDI, which is slow; default 2")
    parser.add_argument("--peer-draws", type=int, help="of PyPOTS' CSDI; default 100")
    parser.add_argument("--seeds", type=int, help="default 5")
    parser.add_argument("--draws", type=int, help="default 100")
    parser.add_argument("--budget", type=float, metavar="SECONDS", help="training of each contestant; default 600")
    parser.add_argument("--steps", type=int, default=STEPS, help="network calls a draw")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    chosen = parser.parse_args(arguments)
    quick = {"stays": 12, "peer_stays": 1, "peer_draws": 2, "seeds": 1, "draws": 20, "budget": 2.0}
    full = {"stays": 200, "peer_stays": 2, "peer_draws": 100, "seeds": 5, "draws": 100, "budget": 600.0}
    for name, value in (quick if chosen.quick else full).items():
        if getattr(chosen, name) is None:
            setattr(chosen, name, value)
    return chosen


def run(arguments: argparse.Namespace) -> int:
    torch.set_num_threads(arguments.threads)
    if arguments.quick:
        train, test = read_sample()
    else:
        folder = folder_of(arguments.data)
        train, test = read_set(folder, "a"), read_set(folder, "b")
    units = Units.of(train)
    train, test = (stays.replace(units.z(stays.values)) for stays in (train, test))
    shown: list[Table] = []
    missing: list[str] = []
    misses: list[str] = []
    more: dict[str, Any] = {}
    for name in arguments.part:
        found = PARTS[name](arguments, train, test, units)
        shown += found.pop("tables")
        missing += [one for one in found.pop("missing") if one not in missing]
        misses += found.pop("bars_missed")
        more |= found
    more |= {name: getattr(arguments, name) for name in ("stays", "seeds", "draws", "budget", "threads")}
    return publish("imputation", arguments, shown, misses=misses, missing=missing, packages=PACKAGES, **more)


def main(arguments: list[str] | None = None) -> int:
    return guarded(run, parse(arguments))


if __name__ == "__main__":
    sys.exit(main())
