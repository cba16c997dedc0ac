"""Constraints on velocities: what they cost, and whether 10,000 fields hold them. A part of `benchmarks/fluids.py`.

Fields: a random flow of unit root mean square (k^2 exp(-k / 4) spectrum of its energy, roughly) plus white noise of a
fifth of it. Sensors see u and v of the flow at 3 % of the grid points; energy and enstrophy are the flow's, bounds are
0.95 of its extremes away from the sensors, so that some points sit on them. Times are of one core, batches of 32.
"""

from __future__ import annotations

import sys
import time
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scidiff.constraints.base import ROUNDING
from scidiff.fluids import functionals, oracle
from scidiff.fluids.constraints import Bounded, Conserved, Measured, Solenoidal, energy, enstrophy
from scidiff.fluids.joined import Joined, joined
from scidiff.fluids.spectral import Box
from scidiff.noise import Noise
from scidiff.state import Layout

LEAF, BATCH, SHARE, ROUGH = "velocity", 32, 0.03, 0.2
RESOLUTIONS = (32, 64, 128, 256)


def noise(batch: int, shape: tuple[int, ...], *, seed: int, step: int, first: int = 0) -> Tensor:
    """White noise, float64 [batch, *shape]."""
    rows = Layout.dense(batch, {LEAF: shape}).rows(LEAF)
    return Noise(seed=seed, index=first + torch.arange(batch)).at(LEAF, step, rows).normal(dtype=torch.float64)


def flow(box: Box, seed: int) -> Tensor:
    """A velocity without divergence, of unit root mean square: [2, H, W]."""
    vorticity = box.multiply(noise(1, box.shape, seed=seed, step=1)[0], torch.exp(-box.shells() / 4.0))
    velocity = box.velocity(vorticity - vorticity.mean())
    return velocity / velocity.square().sum(0).mean().sqrt()


def measured(box: Box, truth: Tensor, seed: int) -> Measured:
    """u and v at random grid points."""
    points = box.shape[0] * box.shape[1]
    rows = Layout.dense(1, {"at": (points,)}).rows("at")
    order = Noise(seed=seed, index=torch.zeros(1, dtype=torch.int64)).at("at", 0, rows).uniform()[0].argsort()
    at = order[: round(SHARE * points)]
    place = torch.stack([at // box.shape[1], at % box.shape[1]], 1).double() * torch.tensor(
        box.spacings, dtype=torch.float64
    )
    seen = functionals.points(box, place)
    none = torch.zeros_like(seen)
    both = torch.cat([torch.stack([seen, none], 1), torch.stack([none, seen], 1)])
    return Measured(leaf=LEAF, rows=both, values=(both * truth).sum((1, 2, 3)))


def sets(box: Box, truth: Tensor, seed: int) -> dict[str, Joined]:
    """The sets that are timed."""
    free, seen = Solenoidal(leaf=LEAF, box=box), measured(box, truth, seed)
    integrals = (
        energy(LEAF, box, float(truth.square().sum(0).mean()) / 2),
        enstrophy(LEAF, box, float(box.vorticity(truth).square().mean()) / 2),
    )
    most = max(0.95 * float(truth.abs().max()), 1.0001 * float(seen.values.abs().max()))
    bounds = Bounded(leaf=LEAF, shape=(2, *box.shape), low=-most, high=most)
    return {
        "divergence": joined(free),
        "divergence, sensors": joined(free, seen),
        "divergence, sensors, energy, enstrophy": joined(free, seen, *integrals),
        "divergence, sensors, energy, enstrophy, bounds": joined(free, seen, *integrals, bounds),
    }


def milliseconds(constraint: Joined, x: Tensor, repeats: int) -> float:
    """The median time of a projection, a field; what is factorised once is not counted."""
    layout = Layout.dense(len(x), {LEAF: tuple(x.shape[1:])})
    constraint.project({LEAF: x[:1]}, Layout.dense(1, {LEAF: tuple(x.shape[1:])}))
    taken = []
    for _ in range(repeats):
        began = time.perf_counter()
        constraint.project({LEAF: x}, layout)
        taken.append(time.perf_counter() - began)
    return 1000 * float(np.median(taken)) / len(x)


def costs(seed: int, quick: bool) -> list[dict[str, Any]]:
    """Times by resolution, and their exponent: time a field ~ points^p."""
    resolutions, found = RESOLUTIONS[:2] if quick else RESOLUTIONS, {}
    for side in resolutions:
        box = Box(shape=(side, side))
        truth = flow(box, seed)
        batch = BATCH if side <= 64 else max(BATCH * 64 * 64 // side**2, 2)
        x = truth + ROUGH * noise(batch, (2, *box.shape), seed=seed, step=2)
        for name, constraint in sets(box, truth, seed).items():
            found.setdefault(name, []).append(milliseconds(constraint, x, 1 if quick or side > 128 else 5))
            print(f"{side}: {name} {found[name][-1]:.3g} ms", file=sys.stderr, flush=True)
    log = np.log(np.array(resolutions, dtype=float) ** 2)
    rows = [[name, *times, float(np.polyfit(log, np.log(times), 1)[0])] for name, times in found.items()]
    columns = ["constraints", *(f"{side} x {side}" for side in resolutions), "exponent of points"]
    title = "Milliseconds a field to meet constraints, one core; what is factorised once not counted"
    return [{"title": title, "columns": columns, "rows": rows}]


def worst(constraint: Joined, found: Tensor, box: Box) -> dict[str, float]:
    """Of float64 fields by the oracle, relative: NumPy, no Fourier transform of it."""
    u, v = found.numpy().swapaxes(0, 1)
    values = [integral.value for integral in constraint.of(Conserved)]
    (bounds,), (facts,) = constraint.of(Bounded), constraint.of(Measured)
    seen = found.flatten(1)[:, facts.rows.flatten(1).argmax(1)].numpy()
    return {
        "linear": max(
            float(oracle.divergence(u, v, box.lengths).max()),
            float(np.abs(seen - facts.values.numpy()).max() / np.abs(seen).max()),
        ),
        "nonlinear": max(
            float(np.abs(oracle.energy(u, v) / values[0] - 1).max()),
            float(np.abs(oracle.enstrophy(oracle.curl(u, v, box.lengths)) / values[1] - 1).max()),
        ),
        "bounds": float(np.maximum(np.abs(found.numpy()) / float(bounds.high) - 1, 0).max()),
    }


def feasibility(seed: int, count: int) -> list[dict[str, Any]]:
    """Fields under all constraints at once at 64 x 64, in both precisions."""
    box = Box(shape=(64, 64))
    truth = flow(box, seed)
    constraint = list(sets(box, truth, seed).values())[-1]
    body = []
    for dtype in (torch.float64, torch.float32):
        held, most, diverged, began = 0, {"linear": 0.0, "nonlinear": 0.0, "bounds": 0.0}, 0, time.perf_counter()
        done = count if dtype == torch.float64 else max(count // 10, 1)
        for first in range(0, done, BATCH):
            size = min(BATCH, done - first)
            layout = Layout.dense(size, {LEAF: constraint.shape})
            x = truth + ROUGH * noise(size, constraint.shape, seed=seed, step=3, first=first)
            state = constraint.project({LEAF: x.to(dtype)}, layout)
            held += int((constraint.violation(state, layout) == 0).sum())
            diverged += int((~state[LEAF].isfinite()).flatten(1).any(1).sum())
            for name, off in worst(constraint, state[LEAF].double(), box).items():
                most[name] = max(most[name], off)
        row = [str(dtype).removeprefix("torch."), done, held, diverged, *(f"{off:.1e}" for off in most.values())]
        body.append([*row, 1000 * (time.perf_counter() - began) / done])
    columns = ["precision", "fields", "hold", "diverged", "linear", "nonlinear", "bounds", "ms a field"]
    title = (
        "Divergence, sensors, energy, enstrophy and bounds at once, 64 x 64: worst relative violation by the oracle "
        f"(holds: within {ROUNDING} units of rounding of its terms)"
    )
    return [{"title": title, "columns": columns, "rows": body}]
