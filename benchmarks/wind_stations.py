"""Monthly winds from sparse stations: months of 1991 and 1992, which no weights have seen.

    python benchmarks/wind_stations.py [--quick] [--seed N] [--json FILE] [--split validation] [--fields N]
                                       [--samples N] [--calls N] [--shares 0.03,0.01] [--methods NAME,...]
                                       [--model FOLDER]

u and v are known at some of 73 x 144 points, drawn at random evenly over the Earth; an ensemble has to tell the rest.

* `scidiff`: `scidiff.fluids.wind_fields`, as the command does it.
* `kriging`: Gaussian process about the climatology with the covariance of the training data averaged over longitudes,
  u and v together (cokriging): posterior mean, and posterior samples by conditional simulation.
* `kriging with EOFs`: the same, a fifth of its covariance that of the first EOFs of the training months, not averaged.
* `interpolation`: cubic on the map, of anomalies, nearest beyond the outermost stations; one field is the ensemble.
* `climatology`: the month's mean with anomalies of training months. `unconditional`: the model without stations.

RMSE of the ensemble's mean, CRPS (fair, of finite ensembles), both in m/s, and coverage of the central 90 % (between
order statistics, exact for calibrated ensembles of 19 or 39), all weighted by the area that a point stands for.
Spectrum: mean |log10| of the ratio of the ensemble's to the truths' power of anomalies over 1 to 36 waves around the
parallels. Violation: the worst misfit at a station, relative, by the oracle. Intervals are 95 % (Student's t) over
months. `--quick` needs no download: it judges months of the vendored sample.
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
from winds import DatasetError, fetch, read

from scidiff.fluids import ensemble
from scidiff.fluids.blended import FieldCovariance
from scidiff.fluids.covariance import Covariance
from scidiff.fluids.joined import Joined, joined
from scidiff.fluids.model import packaged
from scidiff.fluids.stations import Station, facts, misfit
from scidiff.fluids.wind_fields import unstacked
from scidiff.fluids.winds import LEAF, SHARE, WindModel, stacked
from scidiff.noise import Noise
from scidiff.sampling import sample
from scidiff.state import Layout

WAVES = slice(1, 37)
METHODS = ("scidiff", "kriging", "kriging_with_EOFs", "interpolation", "unconditional", "climatology")
SAMPLE = Path(__file__).parents[1] / "datasets" / "winds" / "sample.nc"


@dataclass(frozen=True, kw_only=True)
class Case:
    """One month and its stations.

    Attributes:
        truth: [2, H, W], m/s.
        usual: the climatology, [2, H, W], m/s.
        at: [M] places of the stations on the map, H W points.
        stations: they.
        constraint: what they say.
        noise, layout: of the samples.
    """

    truth: Tensor
    usual: Tensor
    at: Tensor
    stations: tuple[Station, ...]
    constraint: Joined
    noise: Noise
    layout: Layout


@dataclass(frozen=True, kw_only=True)
class Bench:
    """What all methods share: the weights, training anomalies [S, 1, 2 H, W] in units of the scale, and sizes."""

    model: WindModel
    training: Tensor
    samples: int
    calls: int

    def case(self, truth: Tensor, month: int, share: float, number: int, seed: int) -> Case:
        """Stations at random points, the same for a number and a seed, evenly over the Earth."""
        config = self.model.config
        points = truth[0].numel()
        rows = Layout.dense(1, {"stations": (points,)}).rows("stations")
        uniform = Noise(seed=seed, index=torch.tensor([number])).at("stations", 0, rows).uniform()[0].double()
        chance = torch.deg2rad(config.latitudes).cos().clamp_min(1e-9).repeat_interleave(config.shape[1])
        at = (uniform.log() / chance).argsort(descending=True)[: round(share * points)]
        stations = [
            Station(
                latitude=float(config.latitudes[k // config.shape[1]]),
                longitude=float(config.longitudes[k % config.shape[1]]),
                component=c,
                value=float(truth[c].flatten()[k]),
                name=f"station {k}",
            )
            for k in at.tolist()
            for c in range(2)
        ]
        usual = self.model.usual(month)
        constraint = joined(facts(stations, config, usual))
        return Case(
            truth=truth.double(),
            usual=usual,
            at=at,
            stations=tuple(stations),
            constraint=constraint,
            noise=Noise(seed=seed, index=number * self.samples + torch.arange(self.samples)),
            layout=Layout.dense(self.samples, {LEAF: constraint.shape}),
        )

    def scidiff(self, case: Case) -> Tensor:
        """Of the model, told the stations."""
        rule = ensemble.plan(self.model, self.calls)
        return ensemble.tile(self.model, case.constraint, case.layout, case.noise, rule)

    def unconditional(self, case: Case) -> Tensor:
        """Of the model alone."""
        rule, layout = ensemble.plan(self.model, self.calls), Layout.dense(self.samples, {LEAF: case.constraint.shape})
        with torch.autocast("cpu", dtype=torch.bfloat16):
            done = sample(self.model.denoiser, self.model.processes, {LEAF: rule}, layout, case.noise)
        return done.state[LEAF].double()

    def kriging(self, case: Case) -> Tensor:
        """Draws of the prior, moved onto the stations in the prior's metric; last its mean."""
        return self._moved(self._prior(case), self._averaged(), case)

    def kriging_with_EOFs(self, case: Case) -> Tensor:
        """The same of a covariance that is partly that of the EOFs."""
        blended = self.model.covariance
        rows = Layout.dense(self.samples, {"weights": (len(blended.patterns),)}).rows("weights")
        weights = case.noise.at("weights", 0, rows).normal(dtype=torch.float64)
        draws = (1 - SHARE) ** 0.5 * self._prior(case) + torch.einsum("se,eyx->syx", weights, blended.patterns)[:, None]
        return self._moved(draws, blended, case)

    def _averaged(self) -> Covariance:
        """The covariance averaged over longitudes."""
        base = self.model.covariance.base
        return replace(base, variance=base.variance / (1 - SHARE))

    def _prior(self, case: Case) -> Tensor:
        white = case.noise.at(LEAF, 0, case.layout.rows(LEAF)).normal(dtype=torch.float64)
        return self._averaged().root(white)

    def _moved(self, draws: Tensor, covariance: FieldCovariance, case: Case) -> Tensor:
        draws = torch.cat([draws, torch.zeros_like(draws[:1])])
        layout = Layout.dense(len(draws), {LEAF: case.constraint.shape})
        return case.constraint.project({LEAF: draws}, layout, covariance)[LEAF]

    def interpolation(self, case: Case) -> Tensor:
        """Cubic, of anomalies, on three copies of the map side by side."""
        from scipy.interpolate import griddata

        height, width = self.model.config.shape
        y, x = (case.at // width).numpy(), (case.at % width).numpy()
        places = np.concatenate([np.stack([y, x + i * width], 1) for i in (-1, 0, 1)])
        grid = np.stack(np.meshgrid(np.arange(height), np.arange(width), indexing="ij"), -1)
        fields = []
        for seen in ((case.truth - case.usual) / self.model.config.scale).flatten(1)[:, case.at].numpy():
            values = np.tile(seen, 3)
            cubic, near = (griddata(places, values, grid, method=method) for method in ("cubic", "nearest"))
            fields.append(np.where(np.isnan(cubic), near, cubic))
        return stacked(torch.from_numpy(np.stack(fields)))[None]

    def climatology(self, case: Case) -> Tensor:
        """Anomalies of training months at random; last their mean, none."""
        rows = Layout.dense(self.samples, {"choice": (1,)}).rows("choice")
        uniform = case.noise.at("choice", 0, rows).uniform()[:, 0]
        chosen = self.training[(uniform * len(self.training)).long()].double()
        return torch.cat([chosen, torch.zeros_like(chosen[:1])])


WITH_MEAN = (
    "kriging",
    "kriging_with_EOFs",
    "climatology",
)  # the last of their fields is the mean, known in closed form


def judged(found: Tensor, mean: Tensor, case: Case, bench: Bench) -> dict[str, Any]:
    """Scores of an ensemble of winds [S, 2, H, W], m/s."""
    config = bench.model.config
    area = torch.deg2rad(config.latitudes).cos()[:, None].expand(config.shape)
    hidden = torch.ones(area.numel(), dtype=torch.bool)
    hidden[case.at] = False
    weight = (area.flatten() * hidden).repeat(2)
    weight = weight / weight.sum()
    draws, known, count = found.flatten(1), case.truth.flatten(), len(found)
    spread, ranked = torch.zeros_like(known), draws.sort(0).values
    if count > 1:
        order = 2 * torch.arange(1, count + 1, dtype=torch.float64) - count - 1
        spread = (order[:, None] * ranked).sum(0) / (count * (count - 1))
    out = round((count + 1) / 20)  # order statistics beyond the central 90 %
    inside = (known >= ranked[out - 1]) & (known <= ranked[count - out]) if out else None
    power = [
        (torch.fft.rfft(x - case.usual, norm="forward").abs().square() * area[:, :1]).sum((-3, -2))
        for x in (found, case.truth)
    ]
    return {
        "RMSE": float((weight * (mean.flatten() - known).square()).sum().sqrt()),
        "CRPS": float((weight * ((draws - known).abs().mean(0) - spread)).sum()),
        "coverage": None if inside is None else float((weight * inside).sum()),
        "violation": float(misfit(found.numpy(), case.stations, config).max()),
        "spectrum": power[0].mean(0)[WAVES],
        "true spectrum": power[1][WAVES],
    }


def one_share(
    bench: Bench, truths: Tensor, months: Tensor, share: float, chosen: argparse.Namespace
) -> dict[str, list[dict[str, Any]]]:
    """Scores of every method of each month [F, 2, H, W]."""
    found: dict[str, list[dict[str, Any]]] = {method: [] for method in chosen.methods}
    for number, (truth, month) in enumerate(zip(truths, months.tolist(), strict=True)):
        case = bench.case(truth, month, share, number, chosen.seed)
        for method in chosen.methods:
            began = time.perf_counter()
            draw: Callable[[Case], Tensor] = getattr(bench, method)
            winds = unstacked(draw(case), bench.model.config, case.usual)
            seconds = time.perf_counter() - began
            draws, mean = (winds[:-1], winds[-1]) if method in WITH_MEAN else (winds, winds.mean(0))
            found[method].append({**judged(draws, mean, case, bench), "seconds": seconds})
        told = ", ".join(f"{m} {s[-1]['RMSE']:.3f}" for m, s in found.items())
        say(f"{share:.0%} month {number + 1} of {len(truths)}: {told}")
    return found


def rows(found: dict[str, list[dict[str, Any]]], calls: int) -> list[list[Any]]:
    """A row for each method."""
    table = []
    for method, scores in found.items():
        row: list[Any] = [method.replace("_", " ")]
        for name in ("RMSE", "CRPS", "coverage"):
            values = [score[name] for score in scores]
            row.append(None if None in values else "{:.3f} ± {:.3f}".format(*interval(values)))
        ratio = sum(s["spectrum"] for s in scores) / sum(s["true spectrum"] for s in scores)
        row += [float(ratio.log10().abs().mean()), f"{max(s['violation'] for s in scores):.0e}"]
        row += [calls if method in ("scidiff", "unconditional") else None]
        table.append([*row, float(np.mean([s["seconds"] for s in scores]))])
    return table


def compared(
    bench: Bench, truths: Tensor, months: Tensor, chosen: argparse.Namespace
) -> tuple[list[Table], dict[str, dict[str, str]]]:
    """The tables, and by how much the model is below kriging."""
    columns = ["method", "RMSE", "CRPS", "coverage of 90 %", "spectrum, log10", "violation", "calls", "seconds"]
    tables, below, body = [], {}, []
    for share in chosen.shares:
        found = one_share(bench, truths, months, share, chosen)
        where = (
            "the vendored sample, quick"
            if chosen.quick
            else {"test": "1991 and 1992", "validation": "1990"}[chosen.split]
        )
        title = (
            f"Monthly winds (m/s) from stations at {share:.0%} of 73 x 144 points: {len(truths)} months of {where}, "
            f"{chosen.samples} samples each"
        )
        tables.append({"title": title, "columns": columns, "rows": rows(found, chosen.calls)})
        for other in ("kriging", "kriging_with_EOFs"):
            if {"scidiff", other} <= set(found):
                gains = {}
                for name in ("RMSE", "CRPS"):
                    ratio = [100 * (1 - a[name] / b[name]) for a, b in zip(found["scidiff"], found[other], strict=True)]
                    gains[name] = "{:.1f} ± {:.1f}".format(*interval(ratio))
                below[f"{share:g} {other}"] = gains
                body.append([f"{share:.0%}", other.replace("_", " "), gains["RMSE"], gains["CRPS"]])
    if body:
        title = "How far scidiff lies below, paired by month; per cent"
        tables.append({"title": title, "columns": ["stations", "below", "RMSE", "CRPS"], "rows": body})
    return tables, below


def data(chosen: argparse.Namespace, model: WindModel) -> tuple[Tensor, Tensor, Tensor]:
    """Truths [F, 2, H, W] and their months, and training anomalies [S, 1, 2 H, W] in units of the scale."""
    if chosen.quick:
        import xarray as xr

        with xr.open_dataset(SAMPLE) as held:
            winds = torch.from_numpy(np.stack([held[name].values for name in "uv"], 1))[::3]
            months = torch.from_numpy(held["time"].values.astype(np.int64))[::3] - 1
        return winds, months, torch.zeros(0, 1, 2 * winds.shape[2], winds.shape[3])
    path = fetch()
    winds, months = read(path, chosen.split)
    kept = torch.arange(len(winds))[:: max(len(winds) // chosen.fields, 1)][: chosen.fields]
    learned, of_them = read(path, "train")
    usual = torch.stack([model.usual(month) for month in range(12)])[of_them]
    return winds[kept], months[kept], stacked((learned - usual) / model.config.scale)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = options(__doc__, "2 months of the vendored sample, 4 calls")
    parser.add_argument("--split", choices=("validation", "test"), default="test")
    parser.add_argument("--fields", type=int, default=12, help="months, evenly spread; default 12")
    parser.add_argument("--samples", type=int, default=19, help="of each month; default 19")
    parser.add_argument("--calls", type=int, help=f"default {ensemble.CALLS}")
    parser.add_argument("--shares", default="0.03,0.01", help="of points with a station")
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--model", type=Path, default=packaged("winds"), metavar="FOLDER")
    chosen = parser.parse_args(arguments)
    chosen.calls = chosen.calls or (4 if chosen.quick else ensemble.CALLS)
    chosen.shares = [float(share) for share in chosen.shares.split(",")]
    chosen.methods = chosen.methods.split(",")
    wrong = [name for name in chosen.methods if name not in METHODS]
    if wrong:
        parser.error(f"expected methods out of {', '.join(METHODS)}, got {wrong[0]!r}")
    if chosen.quick:
        chosen.methods = [m for m in chosen.methods if m not in ("kriging_with_EOFs", "climatology")]
    return chosen


def run(chosen: argparse.Namespace) -> int:
    model = WindModel.load(chosen.model)
    truths, months, training = data(chosen, model)
    bench = Bench(model=model, training=training, samples=chosen.samples, calls=chosen.calls)
    tables, below = compared(bench, truths, months, chosen)
    return publish("wind_stations", chosen, tables, below=below)


def main(arguments: list[str] | None = None) -> int:
    return guarded(run, parse(arguments), DatasetError, OSError)


if __name__ == "__main__":
    sys.exit(main())
