"""Flows drawn by a network that is told of the Reynolds number, beside the simulator's at numbers it never saw.

    python benchmarks/flow_told.py --model FOLDER [--quick] [--seed N] [--json FILE]

FOLDER holds weights of `workflows/train_fluids.py --told reynolds`, which learned from Reynolds numbers 50, 100, 200,
and 400. Fields are judged at 80, 140 and 280, beside 512 of the simulator there (32 trajectories, on the points
of the weights). Enstrophy: mean over fields, with the standard error of draws and, of the simulator, of trajectories.
Spectrum: mean over waves that hold 0.1 % of the enstrophy or more of |log10 of the ratio of draws to simulator|; its
floor is that of one half of the simulator's trajectories to the other. Beside draws told of the number: draws told
nothing, draws told of the nearest number of training, and the training's fields at that number (the simulator's own).
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
from scidiff.fluids.model import LEAF, FlowModel
from scidiff.fluids.navier_stokes import resampled
from scidiff.fluids.spectral import Box

SEEN, UNSEEN = (50.0, 100.0, 200.0, 400.0), (80.0, 140.0, 280.0)
SMALL = 1e-3  # of the enstrophy


def drawn(model: FlowModel, *, count: int, seed: int) -> Tensor:
    """Vorticities, float64 [N, H, W]."""
    curl = Curl(leaf=LEAF, box=model.config.box)
    return ensemble.draw(model, curl, samples=count, seed=seed).vorticity


def simulated(model: FlowModel, reynolds: tuple[float, ...], *, trajectories: int, fields: int) -> Tensor:
    """Of all trajectories, on the points of the weights: float64 [R, trajectory, time, H, W]."""
    folder = fetch(trajectories=trajectories, fields=fields, reynolds=reynolds)
    whole = torch.cat([read(folder, split) for split in ("train", "validation", "test")], 1)
    return resampled(whole, model.config.shape).double()


def enstrophy(fields: Tensor) -> tuple[float, float]:
    """Mean and standard error of mean omega^2 / 2, of independent groups of fields [N, ..., H, W]."""
    each = fields.square().mean((-2, -1)).flatten(1).mean(1) if fields.ndim > 3 else fields.square().mean((-2, -1))
    return float(each.mean() / 2), float(each.std() / 2 / math.sqrt(len(each)))


def apart(box: Box, found: Tensor, truth: Tensor) -> float:
    """Of the spectra of two sets of fields [N, H, W]."""
    of, to = (box.spectrum(fields).mean(0) for fields in (found, truth))
    large = to > SMALL * to.sum()
    return float((of[large] / to[large]).log10().abs().mean())


def table(model: FlowModel, *, count: int, seed: int, trajectories: int, fields: int) -> dict[str, Any]:
    """At every number that was not learned from."""
    truths = simulated(model, UNSEEN, trajectories=trajectories, fields=fields)
    learned = simulated(model, SEEN, trajectories=32, fields=24) if trajectories == 32 else None
    box, untold, body = model.config.box, drawn(model, count=count, seed=seed), []
    for reynolds, truth in zip(UNSEEN, truths, strict=True):
        near = min(SEEN, key=lambda of, to=reynolds: abs(math.log(of / to)))
        whole, half = truth.flatten(0, 1), trajectories // 2
        floor = apart(box, truth[:half].flatten(0, 1), truth[half:].flatten(0, 1))
        rows: list[tuple[str, Tensor, float]] = [("simulator", truth, floor)]
        kinds = {f"told {reynolds:g}": model.told(reynolds), f"told {near:g}": model.told(near)}
        found = {name: drawn(of, count=count, seed=seed) for name, of in kinds.items()} | {"told nothing": untold}
        rows += [(name, fields, apart(box, fields, whole)) for name, fields in found.items()]
        if learned is not None:
            other = learned[SEEN.index(near)]
            rows.append((f"simulator at {near:g}", other, apart(box, other.flatten(0, 1), whole)))
        body += [[f"{reynolds:g}", name, *enstrophy(fields), off] for name, fields, off in rows]
        say(f"Reynolds number {reynolds:g} done")
    columns = ["Reynolds number", "fields", "enstrophy", "standard error", "spectrum, log10"]
    title = f"Enstrophy and spectrum at Reynolds numbers that were not learned from: {count} draws of each kind"
    return {"title": title, "columns": columns, "rows": body}


def main(arguments: list[str] | None = None) -> int:
    parser = options(__doc__, "16 draws, beside 4 trajectories of 4 fields")
    parser.add_argument("--model", type=Path, required=True, help="folder of weights that are told")
    return guarded(run, parser.parse_args(arguments))


def run(chosen: argparse.Namespace) -> int:
    quick = chosen.quick
    sizes = {"count": 16, "trajectories": 4, "fields": 4} if quick else {"count": 96, "trajectories": 32, "fields": 16}
    found = table(FlowModel.load(chosen.model), seed=chosen.seed, **sizes)
    return publish("flow_told", chosen, [found])


if __name__ == "__main__":
    sys.exit(main())
