"""Flow fields from sparse sensors: Kolmogorov flow at Reynolds number 200, trajectories that no weights have seen.

    python benchmarks/fluids.py [--quick] [--seed N] [--json FILE] [--split validation] [--fields N] [--samples N]
                                [--calls N] [--shares 0.1,0.03] [--methods NAME,...] [--model FOLDER]

The vorticity of a field of 64 x 64 points is known at some points, drawn at random; an ensemble has to tell the rest.

* `scidiff`: `scidiff.fluids.ensemble`, as the command does it.
* `kriging`: Gaussian process with the covariance of the training data, that over y of each wave along x and averaged
  over the symmetries of the flow: posterior mean, and posterior samples by conditional simulation.
* `interpolation`: cubic, on the periodic box; its one field is the ensemble.
* `climatology`: fields of the training data at random. `unconditional`: the model without sensors.
* `DPS`: the model guided by the gradient of the misfit (Chung et al. 2023), as many calls, each with a backward pass.

Error: |mean - truth| / |truth|, of all points. CRPS (fair, of finite ensembles), in units of the data's standard
deviation, and coverage of the ensemble's central 90 % (between order statistics, exact for calibrated ensembles of 19
or 39), of points without sensor. Spectrum: mean |log10| of the ratio of the ensemble's to the truths' spectrum over 1
to 30 waves; climatology, whose fields are like the truths, tells how much of it is chance. Increments: the same of the
velocity's longitudinal structure functions of order 2 and 4 at 1 to 32 points' distance. Violation: the worst misfit
at a sensor, relative, by the oracle. Intervals are 95 % (Student's t) over trajectories. `--quick` simulates a small
data set, and judges fields that the weights have seen.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _running import Table, guarded, interval, options, publish, say
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1] / "datasets"))
from kolmogorov import fetch, read

from scidiff.fluids import ensemble, oracle
from scidiff.fluids.constraints import Curl
from scidiff.fluids.joined import Joined, joined
from scidiff.fluids.model import LEAF, FlowModel, packaged
from scidiff.fluids.sensors import facts
from scidiff.fluids.spectral import Box
from scidiff.fluids.statistics import structure_function
from scidiff.guidance import DPS, Measurement
from scidiff.noise import Noise
from scidiff.sampling import sample
from scidiff.state import Layout

WAVES = slice(1, 31)
ORDERS = (2, 4)  # of structure functions
STRENGTH, NOISE = 50.0, 1.5  # of DPS and of its SDE: best of 0.2 to 100 and of 1.5 and 10 on trajectories 112 to 119
METHODS = ("scidiff", "kriging", "DPS", "interpolation", "unconditional", "climatology")


@dataclass(frozen=True, kw_only=True)
class Case:
    """One field and its sensors.

    Attributes:
        truth: [H, W], in units of the scale.
        at: [M] places of the sensors in the flattened field.
        constraint: what they say.
        tools: they, for the oracle.
        noise: of the samples.
        layout: of the samples.
    """

    truth: Tensor
    at: Tensor
    constraint: Joined
    tools: tuple[oracle.Instrument, ...]
    noise: Noise
    layout: Layout


@dataclass(frozen=True, kw_only=True)
class Bench:
    """What all methods share: the weights, the training data, and how many samples by how many calls."""

    model: FlowModel
    training: Tensor
    samples: int
    calls: int

    def case(self, truth: Tensor, share: float, number: int, seed: int) -> Case:
        """Sensors at random points, the same for a number and a seed."""
        config = self.model.config
        points = truth.numel()
        rows = Layout.dense(1, {"sensors": (points,)}).rows("sensors")
        order = Noise(seed=seed, index=torch.tensor([number])).at("sensors", 0, rows).uniform()[0].argsort()
        at = order[: round(share * points)]
        dy, dx = config.box.spacings
        tools = []
        for k in at.tolist():
            place = (k // config.shape[1] * dy, k % config.shape[1] * dx)
            value = config.scale * float(truth.flatten()[k])
            tools.append(
                oracle.Instrument(kind="point", quantity="vorticity", start=place, end=place, value=value, name="")
            )
        return Case(
            truth=truth.double(),
            at=at,
            constraint=joined(Curl(leaf=LEAF, box=config.box), facts(tools, config)),
            tools=tuple(tools),
            noise=Noise(seed=seed, index=number * self.samples + torch.arange(self.samples)),
            layout=Layout.dense(self.samples, {LEAF: (1, *config.shape)}),
        )

    def scidiff(self, case: Case) -> Tensor:
        return self._by_tiles(case, case.constraint)

    def unconditional(self, case: Case) -> Tensor:
        return self._by_tiles(case, joined(Curl(leaf=LEAF, box=self.model.config.box)))

    def _by_tiles(self, case: Case, constraint: Joined) -> Tensor:
        rule, parts = ensemble.plan(self.model, self.calls), []
        for index in case.noise.index.split(ensemble.TILE):
            noise = Noise(seed=case.noise.seed, index=index)
            layout = Layout.dense(len(index), {LEAF: case.layout.rows(LEAF).shape})
            parts.append(ensemble.tile(self.model, constraint, layout, noise, rule))
        return torch.cat(parts)[:, 0]

    def kriging(self, case: Case) -> Tensor:
        """Draws of the prior, moved onto the sensors in the prior's metric."""
        white = case.noise.at(LEAF, 0, case.layout.rows(LEAF)).normal(dtype=torch.float64)
        draws = self.model.prior.mean.double() + self.model.covariance.root(white)
        return case.constraint.project({LEAF: draws}, case.layout, self.model.covariance)[LEAF][:, 0]

    def kriging_mean(self, case: Case) -> Tensor:
        layout = Layout.dense(1, {LEAF: case.layout.rows(LEAF).shape})
        prior = {LEAF: self.model.prior.mean.double()[None]}
        return case.constraint.project(prior, layout, self.model.covariance)[LEAF][0, 0]

    def DPS(self, case: Case) -> Tensor:
        measurement = Measurement(
            operator=lambda state: state[LEAF].flatten(1)[:, case.at],
            value=case.truth.flatten()[case.at].float(),
            variance=0.0,
        )
        model, parts = self.model, []
        guided = DPS(model.denoiser, model.processes, measurement, strength=STRENGTH)
        for index in case.noise.index.split(ensemble.TILE):
            layout = Layout.dense(len(index), {LEAF: case.layout.rows(LEAF).shape})
            noise, rule = Noise(seed=case.noise.seed, index=index), ensemble.plan(model, self.calls, noise=NOISE)
            with torch.autocast("cpu", dtype=torch.bfloat16):
                parts.append(sample(guided, model.processes, {LEAF: rule}, layout, noise).state[LEAF].double())
        return torch.cat(parts)[:, 0]

    def interpolation(self, case: Case) -> Tensor:
        from scipy.interpolate import griddata

        height, width = case.truth.shape
        y, x = (case.at // width).numpy(), (case.at % width).numpy()
        around = [(j * height, i * width) for j in (-1, 0, 1) for i in (-1, 0, 1)]
        places = np.concatenate([np.stack([y + j, x + i], 1) for j, i in around])
        values = np.tile(case.truth.flatten()[case.at].numpy(), 9)
        grid = np.stack(np.meshgrid(np.arange(height), np.arange(width), indexing="ij"), -1)
        return torch.from_numpy(griddata(places, values, grid, method="cubic"))[None]

    def climatology(self, case: Case) -> Tensor:
        rows = Layout.dense(self.samples, {"choice": (1,)}).rows("choice")
        uniform = case.noise.at("choice", 0, rows).uniform()[:, 0]
        return self.training[(uniform * len(self.training)).long()].double()


def judged(found: Tensor, mean: Tensor, case: Case, bench: Bench) -> dict[str, Any]:
    """Scores of an ensemble [S, H, W]."""
    config, truth = bench.model.config, case.truth
    hidden = torch.ones(truth.numel(), dtype=torch.bool)
    hidden[case.at] = False
    draws, known = found.flatten(1)[:, hidden], truth.flatten()[hidden]
    count = len(draws)
    spread = torch.zeros_like(known)
    ranked = draws.sort(0).values
    if count > 1:
        weight = 2 * torch.arange(1, count + 1, dtype=torch.float64) - count - 1
        spread = (weight[:, None] * ranked).sum(0) / (count * (count - 1))
    out = round((count + 1) / 20)  # order statistics beyond the central 90 %
    inside = (known >= ranked[out - 1]) & (known <= ranked[count - out]) if out else None
    missed = oracle.misfit({"vorticity": (config.scale * found).numpy()}, case.tools, config.lengths)
    return {
        "error": float((mean - truth).norm() / truth.norm()),
        "CRPS": float(((draws - known).abs().mean(0) - spread).mean()),
        "coverage": None if inside is None else float(inside.double().mean()),
        "violation": float(missed.max()),
        "spectrum": config.box.spectrum(found).mean(0)[WAVES],
        "true spectrum": config.box.spectrum(truth)[WAVES],
        "increments": moments_of_increments(config.box, found).mean(0),
        "true increments": moments_of_increments(config.box, truth),
    }


def moments_of_increments(box: Box, vorticity: Tensor) -> Tensor:
    """Structure functions of the velocity: [..., H, W] -> [..., orders, distances]."""
    velocity = box.velocity(vorticity)
    return torch.stack([structure_function(velocity, order) for order in ORDERS], -2)


def off(scores: list[dict[str, Any]], name: str) -> float:
    """Mean |log10| of a statistic of all ensembles over that of all truths."""
    ratio = sum(s[name] for s in scores) / sum(s[f"true {name}"] for s in scores)
    return float(ratio.log10().abs().mean())


def one_share(
    bench: Bench, truths: Tensor, share: float, chosen: argparse.Namespace
) -> dict[str, list[dict[str, Any]]]:
    """Scores of every method of each field [T, F, H, W]; fields are numbered through."""
    found: dict[str, list[dict[str, Any]]] = {method: [] for method in chosen.methods}
    for number, truth in enumerate(truths.flatten(0, 1)):
        case = bench.case(truth, share, number, chosen.seed)
        for method in chosen.methods:
            began = time.perf_counter()
            draw: Callable[[Case], Tensor] = getattr(bench, method)
            ensemble_ = draw(case)
            mean = bench.kriging_mean(case) if method == "kriging" else ensemble_.mean(0)
            scores = judged(ensemble_, mean, case, bench)
            found[method].append({**scores, "seconds": time.perf_counter() - began})
        told = ", ".join(f"{m} {s[-1]['error']:.3f}" for m, s in found.items())
        say(f"{share:.0%} field {number + 1} of {truths.shape[0] * truths.shape[1]}: {told}")
    return found


def rows(found: dict[str, list[dict[str, Any]]], trajectories: int, calls: int) -> list[list[Any]]:
    """A row for each method."""
    table = []
    for method, scores in found.items():
        row: list[Any] = [method]
        for name in ("error", "CRPS", "coverage"):
            values = [score[name] for score in scores]
            if None in values:
                row.append(None)
                continue
            mean, half = interval(np.array(values).reshape(trajectories, -1).mean(1).tolist())
            row.append(f"{mean:.3f} ± {half:.3f}")
        row += [off(scores, "spectrum"), off(scores, "increments"), f"{max(s['violation'] for s in scores):.0e}"]
        row += [calls if method in ("scidiff", "DPS", "unconditional") else None]
        table.append([*row, float(np.mean([s["seconds"] for s in scores]))])
    return table


def gains(found: dict[str, list[dict[str, Any]]], trajectories: int) -> dict[str, str]:
    """By how much the model's error and CRPS are below kriging's, paired by trajectory; per cent."""
    told = {}
    for name in ("error", "CRPS"):
        ours, theirs = (
            np.array([s[name] for s in found[m]]).reshape(trajectories, -1).mean(1) for m in ("scidiff", "kriging")
        )
        mean, half = interval((100 * (1 - ours / theirs)).tolist())
        told[name] = f"{mean:.1f} ± {half:.1f}"
    return told


def compared(bench: Bench, truths: Tensor, chosen: argparse.Namespace) -> tuple[list[Table], dict[str, dict[str, str]]]:
    """The tables, and by how much the model is below kriging for each share of sensors."""
    columns = [
        "method",
        "error",
        "CRPS",
        "coverage of 90 %",
        "spectrum, log10",
        "increments, log10",
        "violation",
        "calls",
        "seconds a field",
    ]
    tables, below = [], {}
    for share in chosen.shares:
        found = one_share(bench, truths, share, chosen)
        where = "fields the weights have seen, quick" if chosen.quick else f"{chosen.split} trajectories"
        title = (
            f"Vorticity from sensors at {share:.0%} of 64 x 64 points: {truths.shape[0] * truths.shape[1]} fields of "
            f"{truths.shape[0]} {where}, {chosen.samples} samples each"
        )
        tables.append({"title": title, "columns": columns, "rows": rows(found, len(truths), chosen.calls)})
        if {"scidiff", "kriging"} <= set(found):
            below[f"{share:g}"] = gains(found, len(truths))
    if below:
        body = [[f"{float(share):.0%}", gain["error"], gain["CRPS"]] for share, gain in below.items()]
        title = "How far scidiff lies below kriging, paired by trajectory; per cent"
        tables.append({"title": title, "columns": ["sensors", "error", "CRPS"], "rows": body})
    return tables, below


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = options(__doc__, "2 fields, 19 samples, 6 calls")
    parser.add_argument("--split", choices=("validation", "test"), default="test")
    parser.add_argument("--fields", type=int, help="of each trajectory; default 4")
    parser.add_argument("--samples", type=int, help="of each field; default 19")
    parser.add_argument("--calls", type=int, help=f"default {ensemble.CALLS}")
    parser.add_argument("--shares", default="0.1,0.03", help="of points with a sensor")
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument(
        "--model", type=Path, default=packaged(), metavar="FOLDER", help="default: the packaged weights"
    )
    chosen = parser.parse_args(arguments)
    for name, (quick, full) in {"fields": (1, 4), "samples": (19, 19), "calls": (6, ensemble.CALLS)}.items():
        if getattr(chosen, name) is None:
            setattr(chosen, name, quick if chosen.quick else full)
    chosen.shares = [float(share) for share in chosen.shares.split(",")]
    chosen.methods = chosen.methods.split(",")
    wrong = [name for name in chosen.methods if name not in METHODS]
    if wrong:
        parser.error(f"expected methods out of {', '.join(METHODS)}, got {wrong[0]!r}")
    return chosen


def run(chosen: argparse.Namespace) -> int:
    model = FlowModel.load(chosen.model)
    folder = fetch(trajectories=16, fields=2) if chosen.quick else fetch()
    training = read(folder, "train").flatten(0, 1) / model.config.scale
    held = read(folder, chosen.split) / model.config.scale
    step = held.shape[1] // chosen.fields
    truths = held[: 2 if chosen.quick else None, step // 2 :: step][:, : chosen.fields]
    bench = Bench(model=model, training=training, samples=chosen.samples, calls=chosen.calls)
    tables, below = compared(bench, truths, chosen)
    return publish("fluids", chosen, tables, **{"below kriging": below})


def main(arguments: list[str] | None = None) -> int:
    return guarded(run, parse(arguments))


if __name__ == "__main__":
    sys.exit(main())
