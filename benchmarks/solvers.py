"""Solvers: error after few network calls, and time a step, beside those of azula, diffusers and k-diffusion.

    python benchmarks/solvers.py [--quick] [--seed N] [--json FILE] [--starts N] [--repeats N]

Peers:  pip install --no-deps azula diffusers k-diffusion && pip install einops tqdm huggingface_hub torchdiffeq

**Error.** The data are mixtures of normal distributions, whose denoiser is known exactly: a ring in the plane and five
modes in 64 dimensions (`_solver_problems.py`). Every solver goes from the same start noise with at most 5, 10, 20 or 40
calls of the denoiser, and is judged by the distance of its samples to where the probability flow ends (scipy's
Runge-Kutta method of order 8), data of variance 1. The root mean square over coordinates and starts is moved by the few
starts near a watershed, which end in another mode after any small error; the mean over starts of each one's root mean
square over coordinates less so. Both are given.

Every solver of ours and of the peers has the best of the grids that its library offers, chosen for each problem and
number of calls by the root mean square on starts of its own; `recommended` has no choice, and was fitted to other
problems. Each repeat has fresh starts, the same for all; tables give the mean of the repeats and the half-width of its
95 % interval (Student's t). Printed are all solvers; RESULTS.md shows ours and the best of each other library.

**Time.** The bare loop on float32 [256, 64] with a denoiser that returns its input, one thread: processor time of 40
steps less that of 10, over 30; all contestants by turns, each warm from a run that does not count; median and
quartiles. Beside it the number of tensor operations a step. Our plans are made beforehand, as they are once for all
batches.

Bars: `recommended` at or below the best peer's root mean square at every number of calls; at most 4 operations a step
and at most half the time of the fastest equivalent peer.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from _running import guarded, interval, options, publish, say, show
from _solver_peers import TOP, VP, Denoise, Levels, Method, Methods, Runner, libraries
from _solver_problems import F64, PROBLEMS, Problem, normal
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from scidiff import grids, solvers
from scidiff.denoiser import Denoiser
from scidiff.noise import Noise
from scidiff.processes.gaussian import GaussianProcess
from scidiff.processes.parametrisations import Data
from scidiff.sampling import sample
from scidiff.state import Layout, State

CALLS = (5, 10, 20, 40)
PILOT = 128  # starts on which grids are chosen
MEASURES = ("root mean square", "mean")
Record = dict[str, Any]


# Ours ----------------------------------------------------------------------------------------------------------------


class Told(Denoiser):
    """A function of the benchmark as a denoiser."""

    def __init__(self, denoise: Denoise) -> None:
        super().__init__()
        self.denoise = denoise

    def forward(self, x_t: State, t: Tensor, layout: Layout, condition: Any = None) -> State:
        return {"x": self.denoise(x_t["x"], lambda: VP(t[0]))}


def planned(make: Callable[[int], solvers.Plan], calls: int) -> Runner:
    """A plan of ours, run by the package's own loop."""
    plan = make(calls)
    sigma = float(VP(torch.ones((), dtype=F64))[1])

    def run(denoise: Denoise, z: Tensor) -> Tensor:
        layout = Layout.dense(len(z), {"x": tuple(z.shape[1:])})
        process = GaussianProcess(schedule=VP, parametrisation=Data(), dtype=z.dtype)
        noise = Noise(seed=0, index=torch.arange(len(z)))
        return sample(Told(denoise), {"x": process}, {"x": plan}, layout, noise, initial={"x": sigma * z}).state["x"]

    return run


def ours() -> Methods:
    """Our deterministic solvers on our grids, and the recommended ones on their own."""
    on: dict[str, Callable[[int], Tensor]] = {
        "uniform": grids.uniform,
        "quadratic": grids.quadratic,
        "log-SNR": lambda n: grids.to_data(grids.log_snr_uniform(VP, n - 1, end=0.02)),
        "karras 0.01": lambda n: grids.to_data(grids.karras(VP, n - 1, sigma_min=0.01, sigma_max=TOP)),
        "karras 0.1": lambda n: grids.to_data(grids.karras(VP, n - 1, sigma_min=0.1, sigma_max=TOP)),
    }
    names: dict[str, Callable[..., solvers.Plan]] = {
        "DDIM": solvers.ddim,
        "DPM-Solver++ 2M": solvers.dpmpp_2m,
        "DPM-Solver++ 3M": solvers.dpmpp_3m,
        "UniPC 2": partial(solvers.unipc, order=2),
        "UniPC 3": partial(solvers.unipc, order=3),
        "DEIS 3": partial(solvers.deis, order=3),
        "exponential AB 3": partial(solvers.exponential_ab, order=3),
        "AB velocity 3": partial(solvers.adams_bashforth_velocity, order=3),
    }

    def on_grid(solver: Callable[..., solvers.Plan], grid: Callable[[int], Tensor]) -> Method:
        return partial(planned, lambda calls: solver(VP, grid(calls)))

    found = {name: {at: on_grid(solver, grid) for at, grid in on.items()} for name, solver in names.items()}
    heun = {at: partial(planned, lambda n, grid=grid: solvers.heun(VP, grid((n + 1) // 2))) for at, grid in on.items()}
    recommended: Method = partial(planned, partial(solvers.recommended, VP))
    return {"recommended": {"its own": recommended}, **found, "Heun": heun}


# Error ---------------------------------------------------------------------------------------------------------------


def judge(
    contestants: Mapping[str, Methods], mixture: Mapping[str, Tensor], chosen: argparse.Namespace
) -> list[Record]:
    """A record of every solver: library, name, and by the number of calls its grid and the errors of the repeats."""
    channels = mixture["means"].shape[-1]

    def problem(name: str, starts: int) -> Problem:
        return Problem.make(mixture, normal(name, chosen.seed, starts, channels))

    pilot = problem("pilot", min(PILOT, chosen.starts))
    repeats = [problem(f"repeat {k}", chosen.starts) for k in range(chosen.repeats)]
    found = []
    for library, methods in contestants.items():
        for name, on in methods.items():
            record: Record = {"library": library, "solver": name, "grid": {}, "errors": {}}
            for calls in CALLS:
                grid = best(pilot, on, calls, f"{library} {name}") if len(on) > 1 else next(iter(on))
                if grid is not None:
                    record["grid"][calls] = grid
                    record["errors"][calls] = [one.errors(on[grid](calls), calls) for one in repeats]
            found.append(record)
    return found


def best(pilot: Problem, on: Mapping[str, Method], calls: int, name: str) -> str | None:
    """The grid of the smallest error; None if the solver fails on all."""
    judged = {}
    for grid, method in on.items():
        try:
            error = pilot.errors(method(calls), calls)["root mean square"]
        except (RuntimeError, IndexError) as trouble:  # singular systems of diffusers' UniPC, for one
            say(f"{name}, {grid}, {calls} calls fails: {str(trouble).splitlines()[0][:60]}")
            continue
        if math.isfinite(error):
            judged[grid] = error
    return min(judged, key=lambda grid: judged[grid], default=None)


def of(record: Record, calls: int, measure: str) -> list[float]:
    """A solver's errors in the repeats; infinity if it has none."""
    return [one[measure] for one in record["errors"].get(calls, [])] or [math.inf]


def best_of(records: list[Record], library: str | None, calls: int, measure: str) -> Record | None:
    """The best solver of a library (of any but ours, for None)."""
    peers = [one for one in records if (one["library"] == library if library else one["library"] != "scidiff")]
    return min(peers, key=lambda one: statistics.fmean(of(one, calls, measure)), default=None)


def versus_peers(records: list[Record], measure: str) -> dict[int, Record]:
    """The recommended solver's error over the best peer's at each number of calls, on the same starts."""
    (mine,) = (record for record in records if record["solver"] == "recommended")
    found = {}
    for calls in CALLS:
        peer = best_of(records, None, calls, measure)
        if peer is not None:
            pairs = zip(of(mine, calls, measure), of(peer, calls, measure), strict=True)
            mean, half = interval([a / b for a, b in pairs])
            found[calls] = {"peer": f"{peer['library']} {peer['solver']}", "ratio": mean, "half-width": half}
    return found


def error_table(problem: str, records: list[Record], chosen: argparse.Namespace, measure: str) -> dict[str, Any]:
    """Ours, and the best of each other library."""
    rows = []
    for record in records:
        if record["library"] == "scidiff":
            rows.append([f"**{record['solver']}**" if record["solver"] == "recommended" else record["solver"]])
            rows[-1] += [cell(record, n, measure) for n in CALLS]
    for library in dict.fromkeys(record["library"] for record in records):
        if library != "scidiff":
            winners = [(n, best_of(records, library, n, measure)) for n in CALLS]
            rows.append([f"{library}, its best"])
            rows[-1] += [f"{cell(one, n, measure)} ({one['solver']})" for n, one in winners if one is not None]
    title = f"{problem}: {measure} error by calls ({chosen.repeats} x {chosen.starts:,} starts, seed {chosen.seed})"
    return {"title": title, "columns": ["solver", *map(str, CALLS)], "rows": rows}


def full_table(problem: str, records: list[Record], measure: str) -> dict[str, Any]:
    rows = [[f"{one['library']}: {one['solver']}", *(cell(one, n, measure) for n in CALLS)] for one in records]
    return {"title": f"{problem}: {measure} error by calls", "columns": ["solver", *map(str, CALLS)], "rows": rows}


def cell(record: Record, calls: int, measure: str) -> str:
    mean, half = interval(of(record, calls, measure))
    digits = max(0, 1 - math.floor(math.log10(mean))) if 0 < mean < math.inf else 0
    return f"{mean:.{digits}f} ± {half:.{digits}f}" if math.isfinite(mean) else "-"


# Time ----------------------------------------------------------------------------------------------------------------

TIMED = {  # a group of equivalent solvers: library -> (sampler, grid)
    "DDIM": {
        "scidiff": ("DDIM", "quadratic"),
        "azula": ("DDIM", "VP, 0.001"),
        "diffusers": ("DPM-Solver++ 1M", "linspace"),
        "k-diffusion": ("Euler", "karras, 0.01"),
    },
    "two estimates": {
        "scidiff": ("DPM-Solver++ 2M", "quadratic"),
        "azula": ("xEAB 2", "VP, 0.001"),
        "diffusers": ("DPM-Solver++ 2M", "linspace"),
        "k-diffusion": ("DPM-Solver++ 2M", "karras, 0.01"),
    },
    "three estimates": {
        "scidiff": ("recommended", "its own"),
        "azula": ("xEAB 3", "VP, 0.001"),
        "diffusers": ("DPM-Solver++ 3M", "linspace"),
        "k-diffusion": ("DPM-Solver++ 3M", "karras, 0.01"),
    },
}


class Count(TorchDispatchMode):
    """Counts tensor operations."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.total += 1
        return operation(*args, **(kwargs or {}))


def times(contestants: Mapping[str, Methods], repetitions: int) -> list[Record]:
    """Microseconds and tensor operations a step of every contestant of `TIMED`."""
    z = torch.ones(256, 64)
    few, many = 10, 40
    timed = []
    for group, members in TIMED.items():
        for library, (name, grid) in members.items():
            if library in contestants:
                method = contestants[library][name][grid]
                timed.append((group, library, name, method(few), method(many), []))
    for _ in range(repetitions):
        for *_, short, long, seconds in timed:
            clock(long, z)
            seconds.append((clock(long, z) - clock(short, z)) / (many - few))
    found = []
    for group, library, name, short, long, seconds in timed:
        low, median, high = (1e6 * q for q in statistics.quantiles(seconds, n=4))
        operations = (count(long, z) - count(short, z)) / (many - few)
        found.append({"group": group, "library": library, "solver": name, "operations": operations})
        found[-1].update({"microseconds": median, "quartiles": [low, high]})
    return found


def free(x: Tensor, levels: Levels) -> Tensor:
    return x


def clock(runner: Runner, z: Tensor) -> float:
    began = time.thread_time()
    runner(free, z)
    return time.thread_time() - began


def count(runner: Runner, z: Tensor) -> int:
    with torch.no_grad(), Count() as counter:
        runner(free, z)
    return counter.total


def time_table(found: list[Record], repetitions: int) -> dict[str, Any]:
    rows = []
    for one in found:
        low, high = one["quartiles"]
        spread = f"{one['microseconds']:.0f} ({low:.0f} to {high:.0f})"
        rows.append([f"{one['library']}: {one['solver']}", one["group"], round(one["operations"], 1), spread])
    title = f"Time a step of the bare loop, float32 [256, 64], one thread, median (quartiles) of {repetitions}"
    return {"title": title, "columns": ["solver", "kind", "tensor operations", "microseconds"], "rows": rows}


# Running -------------------------------------------------------------------------------------------------------------


def missed(ratios: Mapping[str, Mapping[int, Record]], timed: list[Record]) -> list[str]:
    """The bars that are missed."""
    found = [
        f"{problem}, {calls} calls: expected at most the error of {one['peer']}, got {one['ratio']:.2f} times it"
        for problem, by_calls in ratios.items()
        for calls, one in by_calls.items()
        if one["ratio"] > 1
    ]
    for group in TIMED:
        (mine,) = (one for one in timed if one["group"] == group and one["library"] == "scidiff")
        peers = [one["microseconds"] for one in timed if one["group"] == group and one["library"] != "scidiff"]
        if mine["operations"] > 4:
            found.append(f"{mine['solver']}: expected at most 4 operations a step, got {mine['operations']}")
        if peers and mine["microseconds"] > min(peers) / 2:
            found.append(
                f"{mine['solver']}: expected half of the peers' {min(peers):.0f} us, got {mine['microseconds']:.0f}"
            )
    return found


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = options(__doc__, "2 repeats of 32 starts, 5 repetitions; no bars")
    parser.add_argument("--starts", type=int, help="of a repeat; default 256")
    parser.add_argument("--repeats", type=int, help="default 4")
    chosen = parser.parse_args(arguments)
    chosen.starts = chosen.starts or (32 if chosen.quick else 256)
    chosen.repeats = chosen.repeats or (2 if chosen.quick else 4)
    return chosen


def main(arguments: list[str] | None = None) -> int:
    return guarded(run, parse(arguments))


def run(chosen: argparse.Namespace) -> int:
    torch.set_num_threads(1)
    peers, missing = libraries()
    contestants = {"scidiff": ours(), **peers}
    repetitions = 5 if chosen.quick else 51
    timed = times(contestants, repetitions)
    judged = {name: judge(contestants, make(), chosen) for name, make in PROBLEMS.items()}
    ratios = {m: {name: versus_peers(records, m) for name, records in judged.items()} for m in MEASURES}
    tables = [error_table(name, records, chosen, m) for m in MEASURES for name, records in judged.items()]
    tables.append(time_table(timed, repetitions))
    for table in (full_table(name, records, m) for m in MEASURES for name, records in judged.items()):
        show(table)
    for measure, problems in ratios.items():
        for name, by_calls in problems.items():
            for calls, one in by_calls.items():
                spread = f"{one['ratio']:.2f} ± {one['half-width']:.2f}"
                say(f"{name}, {calls} calls, {measure}: recommended / best peer ({one['peer']}) = {spread}")
    return publish("solvers", chosen, tables, misses=missed(ratios["root mean square"], timed),
                   missing=[f"{name}: {reason}" for name, reason in missing.items()], packages=list(peers),
                   starts=chosen.starts, repeats=chosen.repeats, errors=judged, versus_best_peer=ratios,
                   times=timed)  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
