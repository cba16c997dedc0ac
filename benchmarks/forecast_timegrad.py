"""TimeGrad at a few network calls a step beside a hundred, and beside the whole horizon at once.

    python benchmarks/forecast_timegrad.py [--quick] [--seed N] [--json FILE] [--data NAME ...] [--traffic FILE]
                                           [--budget SECONDS]

The same weights forecast the same origins by `recommended` at several numbers of calls, and by DDPM's ancestral steps
on a uniform grid of 100 times, which is what TimeGrad was published with (Rasul et al. 2021). Both networks are trained
for at most `--budget` seconds on one thread on what came before the first origin. CRPS is the fair one, of 100 futures,
over that of the hundred calls; intervals are of 1,000 samples of the origins with replacement, of the differences
paired. Time is of the processor, for one origin. `--quick` makes a short series of its own.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from _forecasting_data import NAMES, Data, data
from _running import guarded, options, publish, say

from scidiff.errors import UserError
from scidiff.grids import uniform
from scidiff.networks.recurrent import RecurrentNetwork
from scidiff.noise import Noise
from scidiff.processes.gaussian import GaussianProcess
from scidiff.sampling import sample
from scidiff.solvers import ddpm
from scidiff.state import Layout
from scidiff.timeseries.backtest import before
from scidiff.timeseries.base import scaled
from scidiff.timeseries.batches import LEAF
from scidiff.timeseries.columns import Options
from scidiff.timeseries.forecast_model import ForecastModel, draw, known_of
from scidiff.timeseries.forecaster import DiffusionForecaster
from scidiff.timeseries.frames import read_frame
from scidiff.timeseries.frequency import infer
from scidiff.timeseries.horizons import Horizons, horizons
from scidiff.timeseries.metrics import crps_fair

DRAWS, HUNDRED = 100, 100
CALLS = (2, 3, 6, 12)
REFERENCE = f"DDPM, {HUNDRED} calls"
SPEED = 10.0  # times cheaper than a hundred calls
WORSE = 0.01  # of the CRPS: no less accurate


def fitted(found: Data, network: str, arguments: argparse.Namespace) -> tuple[ForecastModel, Horizons, float]:
    """A model of what came before the first origin, the windows of all origins, and the seconds it took."""
    panel = read_frame(found.table, Options(time="timestamp", variables=found.targets, duplicates="mean"))
    ends = np.diff(panel.offsets) - (found.stride or found.horizon) * np.arange(found.count, 0, -1)[:, None]
    length: dict[str, Any] = {"max_steps": 20} if arguments.quick else {"time_budget": f"{arguments.budget:.0f}s"}
    forecaster = DiffusionForecaster(
        horizon=found.horizon,
        target=found.targets,
        network=network,
        members=1,
        seed=arguments.seed,
        holidays=found.country,
        **length,
    )
    began = time.process_time()
    (model,) = forecaster.fit_panel(before(panel, ends[0])).model_.members
    took = time.process_time() - began
    sizes: dict[str, Any] = {"context": model.config.context, "horizon": found.horizon}
    series = np.tile(np.arange(len(panel)), len(ends))
    told = model.config.covariates
    return model, horizons(panel, infer(panel), series, ends.ravel(), covariates=told, **sizes), took


@torch.no_grad()
def ancestral(model: ForecastModel, window: Horizons, *, seed: int) -> np.ndarray:
    """Draws by a hundred of DDPM's steps: [DRAWS, H, V]."""
    network, known = cast(RecurrentNetwork, model.denoiser.network), known_of(model, window)
    rule = ddpm(cast(GaussianProcess, model.processes[LEAF]).schedule, uniform(HUNDRED))
    layout = Layout.dense(DRAWS, {LEAF: (1, known["base"].shape[2])})
    state, found = network.start(known).expand(DRAWS, -1), []
    for step in range(model.config.horizon):
        told = (known[name][:, step : step + 1].expand(DRAWS, -1, -1) for name in ("base", "spread", "ahead"))
        outlook = network.look(state.unsqueeze(1), *told)
        noise = Noise(seed=seed + 10_000 * (step + 1), index=torch.arange(DRAWS))
        done = sample(model.denoiser, model.processes, {LEAF: rule}, layout, noise, condition=outlook)
        found.append(outlook.restore(done.state[LEAF]))
        state = network.advance(state, found[-1][:, 0])
    return scaled(window.context, model.base.season).restore(torch.cat(found, dim=1).double().numpy())


def judged(model: ForecastModel, windows: Horizons, steps: int | None, *, seed: int) -> tuple[np.ndarray, float]:
    """CRPS of each window, and processor seconds of one."""
    found, began = [], time.process_time()
    for n in range(len(windows)):
        window = windows[n : n + 1]
        how = {"seed": seed + n}
        draws = (
            ancestral(model, window, **how) if steps is None else draw(model, window, draws=DRAWS, steps=steps, **how)
        )
        seen = ~np.isnan(window.target[0])
        found.append(crps_fair(draws[:, seen], window.target[0][seen]).mean())
    return np.array(found), (time.process_time() - began) / len(windows)


def interval(values: np.ndarray, seed: int) -> tuple[float, float]:
    """95 % interval of a mean over origins."""
    order = np.random.default_rng(seed).integers(0, len(values), (1000, len(values)))
    low, high = np.quantile(values[order].mean(1), [0.025, 0.975])
    return float(low), float(high)


def measure(found: Data, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """All rows of one data set, the reference first."""
    rows, seed = [], arguments.seed
    model, windows, trained = fitted(found, "recurrent", arguments)
    reference, slow = judged(model, windows, None, seed=seed)
    runs = [("recurrent", REFERENCE, reference, slow, trained)]
    for calls in CALLS:
        runs.append(("recurrent", f"{calls} calls", *judged(model, windows, calls, seed=seed), trained))
    model, windows, trained = fitted(found, "patches", arguments)
    runs.append(("patches", "6 calls", *judged(model, windows, 6, seed=seed), trained))
    for network, sampler, crps, seconds, spent in runs:
        low, high = interval((crps - reference) / reference.mean(), seed)
        rows.append({"data": found.name, "network": network, "sampler": sampler, "origins": len(crps),
                     "crps": float(crps.mean()), "relative": float(crps.mean() / reference.mean()),
                     "difference": [low, high], "seconds": seconds, "faster": slow / seconds,
                     "training_seconds": spent})  # fmt: skip
        say(f"{found.name}, {network}, {sampler}: CRPS {rows[-1]['crps']:.4g}, {seconds:.2f} s")
    return rows


def missed(rows: list[dict[str, Any]]) -> list[str]:
    """Where six calls are not as accurate as a hundred, or not ten times cheaper."""
    six = [row for row in rows if (row["network"], row["sampler"]) == ("recurrent", "6 calls")]
    slow = [f"{row['data']}: expected 6 calls to be {SPEED:g} times cheaper than {REFERENCE}, got {row['faster']:.1f}"
            for row in six if row["faster"] < SPEED]  # fmt: skip
    return slow + [f"{row['data']}: expected the CRPS of 6 calls within 1 % of {REFERENCE}, got {row['relative']:.3f}"
                   for row in six if row["relative"] > 1 + WORSE]  # fmt: skip


def run(arguments: argparse.Namespace) -> int:
    torch.set_num_threads(1)
    missing = []
    rows: list[dict[str, Any]] = []
    for name in arguments.data[:1] if arguments.quick else arguments.data:
        try:
            rows += measure(data(name, arguments), arguments)
        except UserError as error:
            missing.append(f"{name}: {error}")
    lines = [[row["data"], row["network"], row["sampler"], row["origins"],
              f"{row['relative']:.3f} [{1 + row['difference'][0]:.3f}, {1 + row['difference'][1]:.3f}]",
              f"{row['seconds']:.2f}", f"{row['faster']:.1f}"] for row in rows]  # fmt: skip
    columns = ["data", "network", "sampler", "origins", "CRPS", "s an origin", "times cheaper"]
    title = f"TimeGrad, {DRAWS} futures of an origin, CRPS over that of {REFERENCE}; [95 % interval, paired]"
    table = {"title": title, "columns": columns, "rows": lines}
    return publish("forecast_timegrad", arguments, [table], misses=missed(rows), missing=missing,
                   budget=arguments.budget, runs=rows)  # fmt: skip


def main(arguments: list[str] | None = None) -> int:
    parser = options(__doc__, "a series of its own, 20 steps of training, 3 origins")
    single = tuple(name for name in NAMES if name not in ("air", "tourism"))
    parser.add_argument("--data", nargs="+", choices=single, default=single, metavar="NAME", help="default: all")
    parser.add_argument("--traffic", type=Path, metavar="FILE", help="traffic_hourly.zip of autots")
    parser.add_argument("--budget", type=float, default=300.0, metavar="SECONDS", help="of training; default 300")
    return guarded(run, parser.parse_args(arguments))


if __name__ == "__main__":
    sys.exit(main())
