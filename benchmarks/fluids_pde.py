"""Coefficient and solution of an equation from 3 % of the points of either or of both, as in DiffusionPDE.

    python benchmarks/fluids_pde.py [--quick] [--seed N] [--json FILE] [--split validation] [--cases N] [--samples N]
                                    [--calls N] [--equations darcy,...] [--tasks forward,...] [--model NAME=FOLDER ...]

Pairs of 64 x 64 points of `datasets/equations.py` that no weights have seen; values at random points, without noise.
Forward: of the coefficient (or source, or start). Inverse: of the solution. Both: of each.

* `scidiff`: `scidiff.fluids.pair_inversion.through`: the solution is the solver's. `without network`: the same under
  the Gaussian prior of the joint covariance. `without equation`: `scidiff.fluids.pair_inversion.alike`.
* `kriging`: Gaussian process with the joint covariance of 16,384 training pairs under the symmetries of the square:
  posterior mean and samples. `kriging, solved`: its coefficients within their bounds, and the solver's solutions.
* `interpolation`: cubic, of what is measured, nearest beyond. `climatology`: training pairs at random.

Error: |mean - truth| / |truth|; of the two phases of `darcy` the share of points where the mean is on the wrong side.
CRPS (fair) in units of the data's standard deviation and coverage of the range of the S samples, of points that were
not measured; calibrated ones hold (S - 1) / (S + 1) of them. Equation: |u - solver(a)| / |solver(a)| of the samples.
Held: share of the samples with a misfit that draws from the posterior have (99.9 %). Values: worst misfit, in units of
the standard deviation. Intervals are 95 % (Student's t) over pairs.

Sources of `poisson` and starts of `navier-stokes` are Gaussian, so that a network has nothing to learn of them: unless
--model names weights, `scidiff` is what it is without one. Forward, `kriging, solved` is then the exact posterior but
for the sampling of the covariance; of `poisson`, which is linear, so is kriging in all tasks. `--quick` simulates a few
pairs and has fresh weights throughout.

`DiffusionPDE (published, other data)` is not measured here: errors as the paper gives them, of 1,000 pairs of its own
on 128 x 128 points, 500 values (3 %) of each field that is measured; an error rate of the two phases, relative else.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _running import Table, guarded, interval, options, publish, say
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1] / "datasets"))
from equations import fetch, read

from scidiff.errors import UserError
from scidiff.fluids.equations import EQUATIONS
from scidiff.fluids.pair_inversion import CALLS, Given, alike, solved, through
from scidiff.fluids.pairs import PairConfig, PairModel, statistics, symmetric
from scidiff.noise import Noise
from scidiff.state import Layout

SHARE = 0.03
TOLERANCE = 0.003  # standard deviation that `through` takes the values' noise for, in units of the data's
COLUMNS = ["method", "error a", "error u", "CRPS a", "CRPS u", "coverage a", "coverage u"]
COLUMNS += ["equation", "held", "values", "calls", "seconds"]
TASKS = {"forward": (True, False), "inverse": (False, True), "both": (True, True)}
PRIOR = 16_384
PUBLISHED = {
    ("darcy", "forward"): {"error u": "0.025 (SD 0.007)"},
    ("darcy", "inverse"): {"error a": "0.032 (SD 0.009)"},
    ("darcy", "both"): {"error a": "0.034", "error u": "0.017"},
    ("poisson", "forward"): {"error u": "0.045 (SD 0.009)"},
    ("poisson", "inverse"): {"error a": "0.200 (SD 0.018)"},
    ("poisson", "both"): {"error a": "0.103", "error u": "0.003"},
    ("navier-stokes", "forward"): {"error u": "0.069 (SD 0.009)"},
    ("navier-stokes", "inverse"): {"error a": "0.104 (SD 0.010)"},
    ("navier-stokes", "both"): {"error a": "0.049", "error u": "0.006"},
}
"""Of DiffusionPDE (Huang et al., NeurIPS 2024, arXiv 2406.17763v2): tables 6 (forward, inverse) and 3 (both)."""
RIDGE = 1e-5  # of kriging, in units of the variance; best of 1e-6 to 1e-4 on validation


@dataclass(frozen=True, kw_only=True)
class Case:
    """A pair and where it is measured.

    Attributes:
        truth: [2, N, N], float64.
        places: of coefficient and solution, in the flattened fields.
        given: the values there.
        seed: of the samples.
    """

    truth: Tensor
    places: tuple[Tensor, Tensor]
    given: Given
    seed: int

    @classmethod
    def of(cls, truth: Tensor, task: str, number: int, seed: int, model: PairModel) -> Case:
        """Values at random points, the same for a number and a seed."""
        points, places = truth[0].numel(), []
        for k, measured in enumerate(TASKS[task]):
            rows = Layout.dense(1, {"sensors": (points,)}).rows("sensors")
            order = Noise(seed=seed, index=torch.tensor([number])).at("sensors", k, rows).uniform()[0].argsort()
            places.append(order[: round(SHARE * points) if measured else 0])
        noise = TOLERANCE * model.config.scale[0], TOLERANCE * model.config.scale[1]
        both = places[0], places[1]
        return cls(truth=truth.double(), places=both, given=Given.at(both, truth, noise), seed=seed + number)

    def seen(self) -> Tensor:
        """Places in the flattened pair."""
        return torch.cat([self.places[0], self.places[1] + self.truth[0].numel()])


@dataclass(frozen=True, kw_only=True)
class Bench:
    """What all methods share: the weights, training pairs as the model sees them, samples and calls; and which."""

    model: PairModel
    training: Tensor
    samples: int
    calls: int
    methods: tuple[str, ...]

    def scidiff(self, case: Case) -> Tensor:
        return through(self.model, case.given, samples=self.samples, seed=case.seed, calls=self.calls)

    def without_network(self, case: Case) -> Tensor:
        model = self.model
        prior = PairModel.create(replace(model.config, widths=(8,), blocks=1), model.mean, model.covariance)
        return through(prior, case.given, samples=self.samples, seed=case.seed, calls=self.calls)

    def without_equation(self, case: Case) -> Tensor:
        return alike(self.model, case.given, samples=self.samples, seed=case.seed, calls=self.calls)

    def kriging(self, case: Case) -> Tensor:
        """The mean and, beside it, as many samples: [1 + S, 2, N, N]."""
        prior, seen = self.training.flatten(1), case.seen()
        rows = Layout.dense(self.samples, {"prior": (len(prior),)}).rows("prior")
        weights = Noise(seed=case.seed, index=torch.arange(self.samples)).at("prior", 0, rows).normal()
        draws = torch.cat([torch.zeros_like(prior[:1]), weights @ prior / len(prior) ** 0.5]).double()
        reach = (prior[:, seen].T @ prior / len(prior)).double()
        gram = reach[:, seen] + RIDGE * torch.eye(len(seen), dtype=torch.float64)
        known = self.model.scaled(case.truth).flatten()[seen]
        moved = draws + (known - draws[:, seen]) @ torch.linalg.solve(gram, reach)
        return self.model.fields(moved.reshape(-1, *case.truth.shape))

    def kriging_solved(self, case: Case) -> Tensor:
        return solved(self.model, self.kriging(case)[1:, 0])

    def interpolation(self, case: Case) -> Tensor:
        from scipy.interpolate import griddata

        points, found = case.truth.shape[-1], torch.full_like(case.truth, torch.nan)
        grid = np.stack(np.meshgrid(np.arange(points), np.arange(points), indexing="ij"), -1)
        for channel, at in enumerate(case.places):
            if len(at):
                places = np.stack([(at // points).numpy(), (at % points).numpy()], 1)
                values = case.truth[channel].flatten()[at].numpy()
                cubic, near = (griddata(places, values, grid, method=how) for how in ("cubic", "nearest"))
                found[channel] = torch.from_numpy(np.where(np.isfinite(cubic), cubic, near))
        return found[None]

    def climatology(self, case: Case) -> Tensor:
        rows = Layout.dense(self.samples, {"choice": (1,)}).rows("choice")
        uniform = Noise(seed=case.seed, index=torch.arange(self.samples)).at("choice", 0, rows).uniform()[:, 0]
        return self.model.fields(self.training[(uniform * len(self.training)).long()].double())


METHODS: dict[str, Callable[[Bench, Case], Tensor]] = {
    "scidiff": Bench.scidiff,
    "without network": Bench.without_network,
    "without equation": Bench.without_equation,
    "kriging": Bench.kriging,
    "kriging, solved": Bench.kriging_solved,
    "interpolation": Bench.interpolation,
    "climatology": Bench.climatology,
}
DRAWN = ("scidiff", "without network", "without equation")  # by calls of a denoiser
GAUSSIAN = ("poisson", "navier-stokes")


def error_of(mean: Tensor, case: Case, bench: Bench, channel: int) -> float:
    """Relative, in L2; of two phases, the share of points in the wrong one. NaN where there is no mean."""
    config, truth = bench.model.config, case.truth[channel]
    if config.equation == "darcy" and channel == 0:
        middle = sum(config.ties.bounds) / 2
        wrong = ((mean > middle) != (truth > middle)).double().mean()
        return float(torch.where(mean.isfinite().all(), wrong, torch.nan))
    return float((mean - truth).norm() / truth.norm())


def judged(pairs: Tensor, mean: Tensor, case: Case, bench: Bench) -> dict[str, float | None]:
    """Scores of samples [S, 2, N, N] and of a mean [2, N, N]."""
    config, truth, found = bench.model.config, case.truth, {}
    for channel, name in enumerate(("a", "u")):
        draws, known = pairs[:, channel].flatten(1), truth[channel].flatten()
        found[f"error {name}"] = error_of(mean[channel], case, bench, channel)
        hidden = torch.ones(known.numel(), dtype=torch.bool)
        hidden[case.places[channel]] = False
        draws, known, count = draws[:, hidden], known[hidden], len(draws)
        ranked = draws.sort(0).values
        weight = 2 * torch.arange(1, count + 1, dtype=torch.float64) - count - 1
        apart = (weight[:, None] * ranked).sum(0) / max(count * (count - 1), 1)
        found[f"CRPS {name}"] = float(((draws - known).abs().mean(0) - apart).mean() / config.scale[channel])
        inside = (known >= ranked[0]) & (known <= ranked[-1])
        found[f"coverage {name}"] = float(inside.double().mean()) if count > 1 else None
    try:
        due = solved(bench.model, pairs[:, 0])[:, 1]
        found["equation"] = float(((pairs[:, 1] - due).flatten(1).norm(dim=1) / due.flatten(1).norm(dim=1)).mean())
    except (ValueError, FloatingPointError):
        found["equation"] = None
    off = (bench.model.scaled(pairs) - bench.model.scaled(truth)).flatten(1)[:, case.seen()]
    found["values"] = float(off.abs().max())
    found["held"] = float((case.given.misfit(pairs) <= case.given.bound()).double().mean())
    return {name: None if value is None or np.isnan(value) else value for name, value in found.items()}


def one_task(bench: Bench, truths: Tensor, task: str, seed: int) -> dict[str, list[dict[str, float | None]]]:
    """Scores of every method of each pair."""
    found: dict[str, list[dict[str, float | None]]] = {method: [] for method in bench.methods}
    for number, truth in enumerate(truths):
        case = Case.of(truth, task, number, seed, bench.model)
        for method in bench.methods:
            began = time.process_time()
            pairs = METHODS[method](bench, case)
            spent = time.process_time() - began
            mean, pairs = (pairs[0], pairs[1:]) if method == "kriging" else (pairs.mean(0), pairs)
            found[method].append({**judged(pairs, mean, case, bench), "seconds": spent})
        told = ", ".join(f"{m} {s[-1]['error a'] or 0:.3f} {s[-1]['error u'] or 0:.3f}" for m, s in found.items())
        say(f"{bench.model.config.equation}, {task}, pair {number + 1} of {len(truths)}: {told}")
    return found


def cell(values: list[float | None]) -> str | None:
    """Mean and interval; None where a method has no such figure."""
    known = [value for value in values if value is not None]
    if not known:
        return None
    mean, half = interval(known)
    return f"{mean:.3f} ± {half:.3f}"


def rows(found: dict[str, list[dict[str, float | None]]], calls: int) -> list[list[Any]]:
    """A row for each method."""
    body: list[list[Any]] = []
    for method, scores in found.items():
        row = [method, *(cell([score[name] for score in scores]) for name in COLUMNS[1:7])]
        for name in ("equation", "held", "values"):
            known = [score[name] for score in scores if score[name] is not None]
            row.append(f"{max(known):.0e}" if known and name == "values" else float(np.mean(known)) if known else None)
        row.append(calls if method in DRAWN else None)
        body.append([*row, float(np.mean([score["seconds"] for score in scores]))])
    return body


def published(equation: str, task: str) -> list[Any]:
    """The row of figures that others published."""
    known = PUBLISHED[equation, task]
    return ["DiffusionPDE (published, other data)", *(known.get(name) for name in COLUMNS[1:])]


def compared(chosen: argparse.Namespace) -> list[Table]:
    """A table for each equation and task."""
    tables = []
    for equation in chosen.equations:
        folder = fetch(equation, pairs=144) if chosen.quick else fetch(equation)
        pairs, periodic = read(folder, "train"), EQUATIONS[equation].periodic
        model, trained = loaded(equation, pairs, chosen)
        every = model.scaled(symmetric(pairs, periodic=periodic)[:: max(8 * len(pairs) // PRIOR, 1)])
        methods = tuple(one for one in METHODS if trained or one != "without network")
        bench = Bench(model=model, training=every, samples=chosen.samples, calls=chosen.calls, methods=methods)
        truths = read(folder, chosen.split)[: chosen.cases]
        for task in chosen.tasks:
            found = one_task(bench, truths, task, chosen.seed)
            title = f"{equation}, {task}: {len(truths)} {chosen.split} pairs, {chosen.samples} samples each"
            body = [*rows(found, chosen.calls), published(equation, task)]
            tables.append({"title": title + (", quick" if chosen.quick else ""), "columns": COLUMNS, "rows": body})
    return tables


def loaded(equation: str, pairs: Tensor, chosen: argparse.Namespace) -> tuple[PairModel, bool]:
    """The weights, and whether they are trained: of Gaussian coefficients and in a quick run they need not be."""
    if equation in chosen.model and not chosen.quick:
        model = PairModel.load(chosen.model[equation])
        if model.config.equation != equation:
            raise UserError(f"--model: expected weights of {equation}, got those of {model.config.equation}")
        return model, True
    if equation not in GAUSSIAN and not chosen.quick:
        raise UserError(f"--model: expected {equation}=FOLDER with weights of workflows/train_pairs.py, got none")
    mean, scale, known = statistics(pairs, periodic=EQUATIONS[equation].periodic)
    shape = (pairs.shape[-2], pairs.shape[-1])
    sizes = PairConfig(equation=equation, shape=shape, scale=scale, widths=(8,), blocks=1)
    return PairModel.create(sizes, mean, known), False


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = options(__doc__, "2 pairs, 3 samples, 3 calls, fresh weights")
    parser.add_argument("--split", choices=("validation", "test"), default="test")
    parser.add_argument("--cases", type=int, help="pairs; default 20")
    parser.add_argument("--samples", type=int, help="of each pair; default 6")
    parser.add_argument("--calls", type=int, help=f"default {CALLS}")
    parser.add_argument("--equations", default=",".join(EQUATIONS))
    parser.add_argument("--tasks", default=",".join(TASKS))
    parser.add_argument("--model", action="append", default=[], metavar="NAME=FOLDER", help="weights of an equation")
    chosen = parser.parse_args(arguments)
    for name, (quick, full) in {"cases": (2, 20), "samples": (3, 6), "calls": (3, CALLS)}.items():
        if getattr(chosen, name) is None:
            setattr(chosen, name, quick if chosen.quick else full)
    for name, known in (("equations", EQUATIONS), ("tasks", TASKS)):
        setattr(chosen, name, getattr(chosen, name).split(","))
        wrong = [one for one in getattr(chosen, name) if one not in known]
        if wrong:
            parser.error(f"expected {name} out of {', '.join(known)}, got {wrong[0]!r}")
    chosen.model = {name: Path(folder) for name, _, folder in (text.partition("=") for text in chosen.model)}
    return chosen


def run(chosen: argparse.Namespace) -> int:
    return publish("fluids_pde", chosen, compared(chosen))


def main(arguments: list[str] | None = None) -> int:
    return guarded(run, parse(arguments))


if __name__ == "__main__":
    sys.exit(main())
