"""The flow behind sparse values at several times, without its equation: Kolmogorov flow that no weights have seen.

    python benchmarks/flow_assimilation.py [--quick] [--seed N] [--json FILE] [--split validation] [--cases N]
                                           [--samples N] [--calls N] [--tasks NAME,...] [--methods NAME,...]
                                           [--windows FOLDER] [--model FOLDER]

Vorticity of 64 x 64 points, 0.3 apart; its values at random points, other ones each time, carry noise of a tenth of
their standard deviation.

* `windows`: `scidiff fluids assimilate --model kolmogorov-windows`, score-based data assimilation with windows of five
  fields; nine are composed of windows that overlap.
* `equation`: `scidiff fluids assimilate`, the same values through the differentiable solver that made the data.
* `kriging`: a Gaussian field over space and time, whose waves have the spectrum and the memory of the data.
* `kriging of each`: of each field from its own values, by the covariance of the data, which shifts along y change.

Error: |mean - truth| / |truth| of all fields together; a member's besides, which does not depend on their number. CRPS
(fair) in units of the data's standard deviation. Spread: the ensemble's standard deviation over the error of its mean,
1 where calibrated. Misfit: mean square of what is off at the measured values in units of the noise, 1 expected.
Intervals are 95 % (Student's t) over trajectories. `--quick` judges one flow that the weights have seen.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from _running import Table, guarded, interval, options, publish, say
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1] / "datasets"))
from kolmogorov import fetch, later, read

from scidiff.fluids import inversion
from scidiff.fluids.covariance import Covariance
from scidiff.fluids.model import FlowModel, packaged
from scidiff.fluids.observed import Facts
from scidiff.fluids.space_time import SpaceTime
from scidiff.fluids.windowed import CALLS_MEASURED, Told, plan
from scidiff.fluids.windows import WindowModel
from scidiff.noise import Noise
from scidiff.state import Layout

NOISE = 0.1
TASKS = {
    "3": ("3 % of points at 5 times", 5, 0.03),
    "10": ("10 % of points at 5 times", 5, 0.1),
    "long": ("3 % of points at 9 times", 9, 0.03),
}
METHODS = ("windows", "equation", "kriging", "kriging of each")
SCORES = ("error", "member", "CRPS", "spread", "misfit")


@dataclass(frozen=True, kw_only=True)
class Case:
    """A flow and what is measured of it.

    Attributes:
        truth: [L, H, W], in the unit of the data, float64.
        seen: what is measured.
        noise: of the samples.
        windows, model: the weights.
        calls: of the network of windows.
    """

    truth: Tensor
    seen: inversion.Observations
    noise: Noise
    windows: WindowModel
    model: FlowModel
    calls: int

    @property
    def facts(self) -> Facts:
        """The same, of the leaf of windows."""
        scale, mean = self.windows.config.scale, self.windows.prior.mean[0].double()
        values = [
            value / scale - (rows * mean).sum((1, 2))
            for rows, value in zip(self.seen.rows, self.seen.values, strict=True)
        ]
        shape = (self.truth.shape[0], self.truth.shape[1], self.truth.shape[2])
        return Facts.of(shape, range(len(values)), self.seen.rows, values, noise=(self.seen.noise / scale) ** 2)

    def draw(self, method: str) -> Tensor:
        """[S, L, H, W] by a method."""
        if method == "windows":
            found = Told(model=self.windows, facts=self.facts).tile(self.noise, plan(self.calls))
            return self.windows.vorticity(found)
        if method == "equation":
            seed = int(self.noise.index[0])
            start = inversion.starts(self.model, self.seen, samples=len(self.noise.index), seed=seed)
            return inversion.trajectories(self.model.config.equation, start, self.seen.times)
        return self._kriged() if method == "kriging" else self._each_kriged()

    def _kriged(self) -> Tensor:
        facts, covariance = self.facts, self.windows.covariance(len(self.truth))
        rows = torch.zeros(len(facts.values), self.truth.numel(), dtype=torch.float64)
        rows[:, facts.places] = facts.weights
        rows = rows.reshape(-1, *self.truth.shape)
        values = facts.values + facts.noise**0.5 * self._white(facts.values, 0)
        return self.windows.vorticity(
            kriged(rows, values, covariance, noise=facts.noise, white=self._white(self.truth, 1))
        )

    def _each_kriged(self) -> Tensor:
        covariance, scale = self.model.covariance, self.model.config.scale
        mean, found = self.model.prior.mean[0].double(), []
        for k, (rows, value) in enumerate(zip(self.seen.rows, self.seen.values, strict=True)):
            off = value / scale - (rows * mean).sum((1, 2))
            noise = (self.seen.noise / scale) ** 2
            off = off + noise**0.5 * self._white(off, 2 * k)
            found.append(kriged(rows, off, covariance, noise=noise, white=self._white(mean, 2 * k + 1)) + mean)
        return scale * torch.stack(found, 1)

    def _white(self, like: Tensor, step: int) -> Tensor:
        rows = Layout.dense(len(self.noise.index), {"kriging": tuple(like.shape)}).rows("kriging")
        return self.noise.at("kriging", step, rows).normal(dtype=torch.float64)


def kriged(rows: Tensor, values: Tensor, covariance: Covariance | SpaceTime, *, noise: float, white: Tensor) -> Tensor:
    """Draws from the posterior of a Gaussian field without mean: conditional simulation (Journel & Huijbregts 1978).

    Args:
        rows: [M, *shape].
        values: of each draw, with noise added anew, [S, M].
        covariance: of the field.
        noise: variance of the values.
        white: [S, *shape].
    """
    reach, prior = covariance.spread(rows).flatten(1), covariance.root(white)
    places = (rows.flatten(1) != 0).any(0)
    weights = rows.flatten(1)[:, places].T
    gram = reach[:, places] @ weights + noise * torch.eye(len(rows), dtype=torch.float64)
    missed = values - prior.flatten(1)[:, places] @ weights
    return prior + (torch.linalg.solve(gram, missed.T).T @ reach).reshape(prior.shape)


def simulated(start: Tensor, frames: int, interval_: float) -> Tensor:
    """By the solver that made the data, from [H, W]: [frames, H, W]."""
    found = [start[None]]
    for _ in range(1, frames):
        found.append(later(found[-1], interval_))
    return torch.cat(found)


def case_of(start: Tensor, task: str, number: int, weights: tuple[WindowModel, FlowModel], chosen: Any) -> Case:
    """Values at random points, the same for a number and a seed."""
    windows, model = weights
    _, frames, share = TASKS[task]
    points, scale = start.numel(), windows.config.scale
    truth = simulated(start, frames, windows.config.interval).double()
    layout, rows, values = Layout.dense(1, {"sensors": (points,)}).rows("sensors"), [], []
    for k, field in enumerate(truth):
        draw = Noise(seed=chosen.seed, index=torch.tensor([number])).at("sensors", k, layout)
        at = draw.uniform()[0].argsort()[: round(share * points)]
        rows.append(torch.eye(points, dtype=torch.float64)[at].reshape(-1, *start.shape))
        values.append(field.flatten()[at] + NOISE * scale * draw.normal(dtype=torch.float64)[0, at])
    times = tuple(windows.config.interval * k for k in range(frames))
    seen = inversion.Observations(times=times, rows=tuple(rows), values=tuple(values), noise=NOISE * scale)
    noise = Noise(seed=chosen.seed, index=number * chosen.samples + torch.arange(chosen.samples))
    return Case(truth=truth, seen=seen, noise=noise, windows=windows, model=model, calls=chosen.calls)


def judged(found: Tensor, case: Case) -> dict[str, float]:
    """Of an ensemble [S, L, H, W]."""
    count, truth = len(found), case.truth
    error, member = found.mean(0) - truth, (found - truth).square().mean()
    weight = (2 * torch.arange(1, count + 1) - count - 1.0)[:, None, None, None]
    apart = (weight * found.sort(0).values).sum(0) / max(count * (count - 1), 1)
    spread = found.var(0).mean() * (count + 1) / count
    read = case.facts.seen(case.windows.leaf(found)) - case.facts.values
    return {
        "error": float(error.norm() / truth.norm()),
        "member": float((member / truth.square().mean()).sqrt()),
        "CRPS": float(((found - truth).abs().mean(0) - apart).mean() / case.windows.config.scale),
        "spread": float((spread / error.square().mean()).sqrt()),
        "misfit": float(read.square().mean() / case.facts.noise),
    }


def compared(weights: tuple[WindowModel, FlowModel], fields: Tensor, chosen: argparse.Namespace) -> list[Table]:
    """A table for each task."""
    tables = []
    for task in chosen.tasks:
        scores: dict[str, list[dict[str, float]]] = {method: [] for method in chosen.methods}
        for number, start in enumerate(fields):
            case = case_of(start, task, number, weights, chosen)
            for method, of_each in scores.items():
                began = time.process_time()
                found = case.draw(method)
                seconds = (time.process_time() - began) / chosen.samples
                of_each.append({**judged(found, case), "seconds": seconds})
            line = ", ".join(f"{m} {s[-1]['error']:.3f}" for m, s in scores.items())
            say(f"{TASKS[task][0]}, case {number + 1} of {len(fields)}: {line}")
        rows = []
        for method, of_each in scores.items():
            cells = [interval([one[name] for one in of_each]) for name in SCORES]
            seconds = interval([one["seconds"] for one in of_each])[0]
            rows.append([method, *(f"{mean:.3f} ± {half:.3f}" for mean, half in cells), seconds])
        where = "flows the weights have seen, quick" if chosen.quick else f"{chosen.split} trajectories"
        title = f"{TASKS[task][0]}: {len(fields)} of {len(fields)} {where}, {chosen.samples} samples each"
        columns = ["method", "error", "error of a member", "CRPS", "spread", "misfit", "seconds a sample"]
        tables.append({"title": title, "columns": columns, "rows": rows})
    return tables


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = options(__doc__, "one case, 2 samples, 3 calls")
    parser.add_argument("--split", choices=("validation", "test"), default="test")
    parser.add_argument("--tasks", default=",".join(TASKS))
    parser.add_argument("--methods", default="windows,kriging,kriging of each", help="and equation, which is slow")
    parser.add_argument("--cases", type=int, default=4, help="trajectories, of 8")
    parser.add_argument("--samples", type=int, default=8, help="of each case")
    parser.add_argument("--calls", type=int, help=f"default {CALLS_MEASURED}")
    parser.add_argument("--windows", type=Path, default=packaged("kolmogorov-windows"), metavar="FOLDER")
    parser.add_argument("--model", type=Path, default=packaged(), metavar="FOLDER")
    chosen = parser.parse_args(arguments)
    for name, known in (("tasks", TASKS), ("methods", METHODS)):
        setattr(chosen, name, getattr(chosen, name).split(","))
        wrong = [one for one in getattr(chosen, name) if one not in known]
        if wrong:
            parser.error(f"expected {name} out of {', '.join(known)}, got {wrong[0]!r}")
    chosen.calls = chosen.calls or (3 if chosen.quick else CALLS_MEASURED)
    chosen.samples = min(chosen.samples, 2) if chosen.quick else chosen.samples
    return chosen


def run(chosen: argparse.Namespace) -> int:
    weights = WindowModel.load(chosen.windows), FlowModel.load(chosen.model)
    folder = fetch(trajectories=16, fields=2) if chosen.quick else fetch()
    fields = read(folder, chosen.split)[: 1 if chosen.quick else chosen.cases, -1]
    return publish("flow_assimilation", chosen, compared(weights, fields, chosen))


def main(arguments: list[str] | None = None) -> int:
    return guarded(run, parse(arguments))


if __name__ == "__main__":
    sys.exit(main())
