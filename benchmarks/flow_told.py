"""Flows drawn by a network that is told of the Reynolds number and of the force, beside the simulator's.

    python benchmarks/flow_told.py [--model NAME|FOLDER] [--quick] [--seed N] [--json FILE]

The weights, by default those packaged, learned from Reynolds numbers 50, 100, 200 and 400 under forces of two and four
waves. Fields are judged at 80, 140 and 280, which they did not learn from, beside 512 of the simulator there (32
trajectories, on the points of the weights). Beside draws: draws told of the nearest number of training, the Gaussian
field of the interpolated mean and covariance, and the simulator's fields at the nearest number (its climatology).

* enstrophy: mean over fields, with the standard error of draws and, of the simulator, of trajectories
* spectrum: mean over waves that hold 0.1 % of the enstrophy or more of |log10 of the ratio to the simulator|
* mean flow: |difference of the means over x and fields| / |the simulator's|, which knows where the force pushes
* flatness: of the slope along x, <(d omega / dx)^4> / <(d omega / dx)^2>^2; of a Gaussian field it is 3

Spectrum and mean flow of the simulator are those of one half of its trajectories to the other: a floor.
"""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path
from typing import Any

import torch
from _running import guarded, options, publish, say
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1] / "datasets"))
from kolmogorov import fetch, read

from scidiff.fluids import ensemble
from scidiff.fluids.constraints import Curl
from scidiff.fluids.family import FlowFamily
from scidiff.fluids.model import LEAF, FlowModel, packaged
from scidiff.fluids.navier_stokes import resampled
from scidiff.fluids.spectral import Box
from scidiff.fluids.statistics import flatness, spectra_apart
from scidiff.noise import Noise
from scidiff.state import Layout

UNSEEN = (80.0, 140.0, 280.0)


def drawn(model: FlowModel, *, count: int, seed: int) -> Tensor:
    """Vorticities, float64 [N, H, W]."""
    curl = Curl(leaf=LEAF, box=model.config.box)
    return ensemble.draw(model, curl, samples=count, seed=seed).vorticity


def gaussian(model: FlowModel, *, count: int, seed: int) -> Tensor:
    """Vorticities of the Gaussian field with the model's mean and covariance, float64 [N, H, W]."""
    rows = Layout.dense(count, {LEAF: model.config.shape}).rows(LEAF)
    white = Noise(seed=seed, index=torch.arange(count)).at(LEAF, 0, rows).normal(dtype=torch.float64)
    return model.config.scale * (model.prior.mean[0] + model.covariance.root(white))


def simulated(shape: tuple[int, int], reynolds: tuple[float, ...], **sizes: int) -> dict[float, Tensor]:
    """Of all trajectories, on the points of the weights, by Reynolds number: float64 [trajectory, time, H, W]."""
    folder = fetch(reynolds=reynolds, **sizes)
    whole = torch.cat([read(folder, split) for split in ("train", "validation", "test")], 1)
    return dict(zip(reynolds, resampled(whole, shape).double(), strict=True))


def measured(box: Box, fields: Tensor, truth: Tensor) -> list[float]:
    """Enstrophy, its standard error, how far spectrum and mean flow are from those of `truth` [N, H, W], and flatness.

    Fields are independent, [N, H, W], or N groups that are, [N, S, H, W].
    """
    each = fields.flatten(1, -3).square().mean((1, 2, 3)) if fields.ndim > 3 else fields.square().mean((1, 2))
    every = fields.flatten(0, -3)
    flow, other = (part.mean((0, 2)) for part in (truth, every))
    apart = float((other - flow).norm() / flow.norm())
    error = float(each.std() / 2 / math.sqrt(len(each)))
    return [float(each.mean() / 2), error, spectra_apart(box, every, truth), apart, flatness(box, every)]


def table(family: FlowFamily, chosen: argparse.Namespace, *, waves: int) -> dict[str, Any]:
    """Under one force, at every number that was not learned from."""
    quick, shape, learned = chosen.quick, family.config.shape, family.config.reynolds
    count, trajectories, fields = (16, 4, 4) if quick else (96, 32, 16)
    unseen = UNSEEN[1:2] if quick else UNSEEN
    truths = simulated(shape, unseen, trajectories=trajectories, fields=fields, waves=waves)
    others = {} if quick else simulated(shape, learned, trajectories=32, fields=24, waves=waves)
    nearest: dict[float, Tensor] = {}
    body: list[list[Any]] = []
    for reynolds, truth in truths.items():
        near = min(learned, key=lambda of, to=reynolds: abs(math.log(of / to)))
        model = family.told(reynolds=reynolds, waves=waves)
        if near not in nearest:
            nearest[near] = drawn(family.told(reynolds=near, waves=waves), count=count, seed=chosen.seed)
        box, half, whole = model.config.box, trajectories // 2, truth.flatten(0, 1)
        *size, _, _, steep = measured(box, truth, whole)
        floor = measured(box, truth[:half], truth[half:].flatten(0, 1))[2:4]
        body.append([f"{reynolds:g}", "simulator", *size, *floor, steep])
        rows = {
            f"told {reynolds:g}": drawn(model, count=count, seed=chosen.seed),
            f"told {near:g}": nearest[near],
            f"Gaussian field at {reynolds:g}": gaussian(model, count=count, seed=chosen.seed),
        }
        rows |= {f"simulator at {near:g}": others[near]} if others else {}
        body += [[f"{reynolds:g}", name, *measured(box, found, whole)] for name, found in rows.items()]
        say(f"{waves} waves, Reynolds number {reynolds:g} done")
    columns = ["Reynolds number", "fields", "enstrophy", "standard error", "spectrum, log10", "mean flow", "flatness"]
    title = f"A force of {waves} waves, Reynolds numbers that were not learned from: {count} draws of each kind"
    return {"title": title, "columns": columns, "rows": body}


def main(arguments: list[str] | None = None) -> int:
    parser = options(__doc__, "16 draws at 140, beside 4 trajectories of 4 fields")
    parser.add_argument("--model", default="kolmogorov-told", help="packaged weights, or their folder")
    return guarded(run, parser.parse_args(arguments))


def run(chosen: argparse.Namespace) -> int:
    folder = packaged(chosen.model)
    family = FlowFamily.load(folder if folder.is_dir() else Path(chosen.model))
    found = [table(family, chosen, waves=waves) for waves in family.config.waves]
    return publish("flow_told", chosen, found)


if __name__ == "__main__":
    sys.exit(main())
