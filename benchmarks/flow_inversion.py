"""How a flow began, and the flow behind a sequence of values: Kolmogorov flow that no weights have seen.

    python benchmarks/flow_inversion.py [--quick] [--seed N] [--json FILE] [--split validation] [--cases N]
                                        [--samples N] [--calls N] [--tasks start,flow] [--model FOLDER]

Vorticity of 64 x 64 points, simulated on 96 x 96; its values at random points carry noise of a tenth of their standard
deviation. Two tasks: the start of a flow from 10 % of the points 0.6 later, when a field is off its start by three
quarters of its size; and a flow from 3 % of the points, other ones each time, at 0, 0.2, 0.4 and 0.6.

* `scidiff`: `scidiff.fluids.inversion`, as the commands do it.
* `4D-Var`: the same without the network, under the Gaussian prior of the data's covariance: an ensemble about noisy
  values and random fields (randomised maximum likelihood), through the same solver.
* `kriging`: what is measured last (of the start) or first (of the flow), kriged, for the start; no equation.

Error: |mean - truth| / |truth| of the start, and of the end that the starts lead to. CRPS (fair) of the start in units
of the data's standard deviation. Spread: the ensemble's standard deviation over the error of its mean. Misfit: mean
square of what is off at the measured values in units of the noise, 1 expected, and how many flows stay below the bound
of 99.9 %. Intervals are 95 % (Student's t) over trajectories. `--quick` judges one field that the weights have seen.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _running import Table, guarded, interval, options, publish, say
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1] / "datasets"))
from kolmogorov import fetch, later, read

from scidiff.fluids.inversion import CALLS, Inverse, Observations, evolved, held, plan
from scidiff.fluids.model import FlowModel, packaged
from scidiff.noise import Noise
from scidiff.state import Layout

END, NOISE = 0.6, 0.1
TASKS = {
    "start": ("A start from 10 % of points 0.6 later", (END,), 0.1),
    "flow": ("A flow from 3 % of points at 4 times", (0, 0.2, 0.4, END), 0.03),
}
METHODS = ("scidiff", "4D-Var", "kriging")


@dataclass(frozen=True, kw_only=True)
class Case:
    """A flow and what is measured of it.

    Attributes:
        start, end: [H, W], in the unit of the data.
        inverse: what was measured, and the model.
        noise: of the samples.
    """

    start: Tensor
    end: Tensor
    inverse: Inverse
    noise: Noise

    @classmethod
    def of(cls, start: Tensor, model: FlowModel, task: str, number: int, chosen: argparse.Namespace) -> Case:
        """Values at random points, the same for a number and a seed."""
        (_, times, share), points, scale = TASKS[task], start.numel(), model.config.scale
        rows, values = [], []
        layout = Layout.dense(1, {"sensors": (points,)}).rows("sensors")
        for k, time_ in enumerate(times):
            draw = Noise(seed=chosen.seed, index=torch.tensor([number])).at("sensors", k, layout)
            at = draw.uniform()[0].argsort()[: round(share * points)]
            field = later(start[None], time_)[0] if time_ else start
            off = NOISE * scale * draw.normal(dtype=torch.float64)[0, at]
            rows.append(torch.eye(points, dtype=torch.float64)[at].reshape(-1, *start.shape))
            values.append(field.flatten()[at].double() + off)
        seen = Observations(times=tuple(map(float, times)), rows=tuple(rows), values=tuple(values), noise=NOISE * scale)
        flow = model.config.equation
        inverse = Inverse(model=model, mean=model.prior.mean, scale=scale, flow=flow, observations=seen)
        noise = Noise(seed=chosen.seed, index=number * chosen.samples + torch.arange(chosen.samples))
        return cls(start=start.double(), end=later(start[None], END)[0].double(), inverse=inverse, noise=noise)

    def kriged(self) -> Tensor:
        """Of what is measured at the first time, by the covariance of the data: [1, 1, H, W] in units of the scale."""
        one, seen = self.inverse, self.inverse.observations
        rows = seen.rows[0]
        reach = one.model.covariance.spread(rows).flatten(1)
        gram = rows.flatten(1) @ reach.T + (seen.noise / one.scale) ** 2 * torch.eye(len(rows), dtype=torch.float64)
        off = seen.values[0] / one.scale - rows.flatten(1) @ one.mean.double().flatten()
        return one.mean[None] + (torch.linalg.solve(gram, off) @ reach).reshape(1, 1, *self.start.shape)


def judged(found: Tensor, case: Case) -> dict[str, float]:
    """Scores of starts [S, 1, H, W] in units of the scale."""
    one = case.inverse
    start = one.scale * found[:, 0].double()
    end = evolved(one.flow, start, [END])[0]
    count, error = len(start), start.mean(0) - case.start
    apart = torch.zeros_like(case.start)
    spread = None
    if count > 1:
        weight = (2 * torch.arange(1, count + 1) - count - 1.0)[:, None, None]
        apart = (weight * start.sort(0).values).sum(0) / (count * (count - 1))
        spread = float((start.var(0).mean() * (count + 1) / count / error.square().mean()).sqrt())
    misfit, holds = held(one.observations, one.flow, start)
    return {
        "error of the start": float(error.norm() / case.start.norm()),
        "error of the end": float((end.mean(0) - case.end).norm() / case.end.norm()),
        "CRPS": float(((start - case.start).abs().mean(0) - apart).mean() / one.scale),
        "spread": spread,  # type: ignore[dict-item]
        "misfit": float(misfit.mean()),
        "held": float(holds.mean()),
    }


def one_case(case: Case, calls: int) -> dict[str, dict[str, float]]:
    """Scores of every method; the seconds of `scidiff` hold those of the 4D-Var that it begins with."""
    began = time.process_time()
    best = case.inverse.likeliest()
    draws = case.inverse.draws(best, case.noise)
    variational = time.process_time() - began
    refined = case.inverse.refined(draws, best, case.noise, plan(calls, noise=1.0))
    all_of_it = time.process_time() - began
    found = {"scidiff": (refined, all_of_it), "4D-Var": (draws, variational), "kriging": (case.kriged(), None)}
    return {
        method: {**judged(x, case), "seconds": seconds / len(x) if seconds else None}  # type: ignore[dict-item]
        for method, (x, seconds) in found.items()
    }


def told(values: list[float | None]) -> Any:
    if None in values:
        return None
    mean, half = interval([float(value) for value in values if value is not None])
    return f"{mean:.3f} ± {half:.3f}"


def compared(model: FlowModel, fields: Tensor, chosen: argparse.Namespace) -> list[Table]:
    """A table for each task."""
    names = ("error of the start", "error of the end", "CRPS", "spread", "misfit")
    tables = []
    for task in chosen.tasks:
        scores: dict[str, list[dict[str, float]]] = {method: [] for method in METHODS}
        for number, start in enumerate(fields):
            for method, found in one_case(Case.of(start, model, task, number, chosen), chosen.calls).items():
                scores[method].append(found)
            line = ", ".join(f"{m} {s[-1]['error of the start']:.3f}" for m, s in scores.items())
            say(f"{task}, case {number + 1} of {len(fields)}: {line}")
        body: list[list[Any]] = []
        for method, all_of in scores.items():
            share = f"{np.mean([s['held'] for s in all_of]):.0%}"
            seconds = None if method == "kriging" else float(np.mean([s["seconds"] for s in all_of]))
            body.append([method, *(told([s[name] for s in all_of]) for name in names), share, seconds])
        where = "fields the weights have seen, quick" if chosen.quick else f"{chosen.split} trajectories"
        title = f"{TASKS[task][0]}: {len(fields)} of {len(fields)} {where}, {chosen.samples} samples each"
        tables.append({"title": title, "columns": ["method", *names, "held", "seconds a sample"], "rows": body})
    return tables


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = options(__doc__, "one case, 2 samples, 2 calls")
    parser.add_argument("--split", choices=("validation", "test"), default="test")
    parser.add_argument("--tasks", default=",".join(TASKS))
    parser.add_argument("--cases", type=int, default=3, help="trajectories, of 8")
    parser.add_argument("--samples", type=int, default=2, help="of each case")
    parser.add_argument("--calls", type=int, help=f"default {CALLS}")
    parser.add_argument("--model", type=Path, default=packaged(), metavar="FOLDER")
    chosen = parser.parse_args(arguments)
    chosen.tasks = chosen.tasks.split(",")
    wrong = [name for name in chosen.tasks if name not in TASKS]
    if wrong:
        parser.error(f"expected tasks out of {', '.join(TASKS)}, got {wrong[0]!r}")
    chosen.calls = chosen.calls or (2 if chosen.quick else CALLS)
    return chosen


def run(chosen: argparse.Namespace) -> int:
    model = FlowModel.load(chosen.model)
    folder = fetch(trajectories=16, fields=2) if chosen.quick else fetch()
    fields = read(folder, chosen.split)[: 1 if chosen.quick else chosen.cases, -1]
    return publish("flow_inversion", chosen, compared(model, fields, chosen))


def main(arguments: list[str] | None = None) -> int:
    return guarded(run, parse(arguments))


if __name__ == "__main__":
    sys.exit(main())
