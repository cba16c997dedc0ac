"""Trajectories of Burgers' equation under boundaries, mass, entropy and the equation itself: do all draws hold them?

    python benchmarks/fluid_trajectories.py [--quick] [--seed N] [--json FILE] [--draws N]

Trajectories of 5 frames, 0.1 apart, on 16 points of a periodic line and the first again, viscosity 0.1, from random
smooth starts. The prior is the Gaussian of 4,096 of them, with its exact denoiser. Draws take 12 calls of the shared
loop (DPM-Solver++ 2M); the estimate of the last is projected, in the metric of the covariance and of what a Gaussian
misses, white noise of 1e-3 of its greatest variance (chosen on other trajectories). All are conditioned on one other
trajectory: its values at 4 points of the first frame. What is measured is by the oracle in NumPy: linear facts and
entropy relative to the greatest value, the equation relative to the greatest du / dt. Over the standard deviation of
that trajectory: error, root mean square of single draws; spread, their standard deviation. Processor time of one core.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from _running import guarded, options, publish, say
from torch import Tensor

from scidiff.denoiser import Denoiser
from scidiff.fluids import oracle
from scidiff.fluids.boundaries import dirichlet, periodic
from scidiff.fluids.burgers import Burgers
from scidiff.fluids.constraints import FieldConstraint
from scidiff.fluids.residuals import burgers
from scidiff.fluids.trajectories import Entropy, mass
from scidiff.grids import to_data, uniform
from scidiff.guidance import Project
from scidiff.noise import Noise
from scidiff.processes.gaussian import GaussianProcess
from scidiff.processes.parametrisations import Data
from scidiff.sampling import sample
from scidiff.schedules import Cosine
from scidiff.solvers import dpmpp_2m
from scidiff.solvers.mixture import GaussianMixture
from scidiff.state import Layout, State

LEAF, FRAMES, POINTS, SPACING, VISCOSITY = "u", 5, 16, 0.1, 0.1
SHAPE = (1, FRAMES, POINTS + 1)
CALLS, TIGHT, BATCH, DATA = 12, 0.05, 50, 4096
MISSED = 1e-3
KINDS = ("edges", "initial values", "mass", "entropy", "equation")
SEEN = torch.arange(0, POINTS, 4)
FLOW = Burgers(points=POINTS, viscosity=VISCOSITY)


def simulated(count: int, seed: int) -> Tensor:
    """Trajectories, float64 [N, 1, T, X + 1]."""
    rows = Layout.dense(count, {LEAF: (POINTS,)}).rows(LEAF)
    white = Noise(seed=seed, index=torch.arange(count)).at(LEAF, 0, rows).normal(dtype=torch.float64)
    damped = torch.exp(-torch.arange(POINTS // 2 + 1) / 2.0)
    frames = [2 * torch.fft.irfft(torch.fft.rfft(white) * damped, n=POINTS)]
    for _ in range(FRAMES - 1):
        frames.append(FLOW.integrate(frames[-1], step=SPACING / 10, steps=10))
    found = torch.stack(frames, 1)[:, None]
    return torch.cat([found, found[..., :1]], -1)


class Exact(Denoiser):
    """That of the Gaussian with the mean and covariance of trajectories."""

    def __init__(self, data: Tensor) -> None:
        super().__init__()
        flat = data.flatten(1)
        values, axes = torch.linalg.eigh(torch.cov(flat.T))
        variance = values.clamp_min(1e-8 * float(values.max()))
        self.variance, self.axes = variance, axes
        parts = {"means": flat.mean(0)[None], "stds": variance.sqrt()[None], "axes": axes[None]}
        self.rows = GaussianMixture(Cosine(), weights=torch.ones(1, dtype=torch.float64), leaf=LEAF, **parts)

    def metric(self, missed: float) -> Tensor:
        """The covariance, and white noise of a share of its greatest variance."""
        return (self.axes * (self.variance + missed * self.variance.max())) @ self.axes.T

    def forward(self, x_t: State, t: Tensor, layout: Layout, condition: Any = None) -> State:
        x = x_t[LEAF]
        return {LEAF: self.rows({LEAF: x.flatten(1)}, t, layout)[LEAF].reshape(x.shape)}


def sets(truth: Tensor) -> dict[str, FieldConstraint]:
    """Ever more of what a trajectory has to hold."""
    edges = periodic(LEAF, SHAPE, "x") & dirichlet(LEAF, SHAPE, "y low", truth[:, 0, SEEN], at=SEEN)
    masses = edges & mass(LEAF, SHAPE, ends=True)
    entropy = masses & Entropy(leaf=LEAF, shape=SHAPE, ends=True)
    equation = burgers(LEAF, FLOW, frames=FRAMES, spacing=SPACING, ends=True)
    return {
        "edges, initial values": edges,
        "edges, initial values, mass": masses,
        "edges, initial values, mass, entropy": entropy,
        "edges, initial values, mass, entropy, equation": entropy & equation,
    }


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """Draws [N, T, X + 1], how many hold by the sampler's own certificate, and the time of each in milliseconds."""

    u: np.ndarray
    hold: int
    milliseconds: float


def drawn(denoiser: Denoiser, held: FieldConstraint, *, count: int, seed: int) -> Drawn:
    """Draws, and how many of them hold a constraint."""
    schedule, parts, hold = Cosine(), [], 0
    processes = {LEAF: GaussianProcess(schedule=schedule, parametrisation=Data(), dtype=torch.float64)}
    rules = {LEAF: dpmpp_2m(schedule, to_data(uniform(CALLS - 1, end=0.02)))}
    began = time.process_time()
    for first in range(0, count, BATCH):
        size = min(BATCH, count - first)
        noise = Noise(seed=seed, index=first + torch.arange(size))
        layout = Layout.dense(size, {LEAF: SHAPE})
        done = sample(denoiser, processes, rules, layout, noise, certify={"all": held})
        hold += int((done.certificate["all"] == 0).sum())
        parts.append(done.state[LEAF][:, 0].numpy())
    return Drawn(u=np.concatenate(parts), hold=hold, milliseconds=1000 * (time.process_time() - began) / count)


def measured(u: np.ndarray, truth: np.ndarray) -> Mapping[str, float]:
    """Worst of all draws, by the oracle: relative."""
    size, seen = np.abs(u).max((1, 2)), SEEN.numpy()
    means, entropy = oracle.line_means(u, ends=True), oracle.line_means(u**2, ends=True)
    left = oracle.burgers(u[..., :POINTS], viscosity=VISCOSITY, spacing=SPACING)
    rate = np.abs(np.diff(u, axis=1)).max((1, 2)) / SPACING
    found = {
        "edges": float((np.abs(u[..., 0] - u[..., -1]).max(1) / size).max()),
        "initial values": float((np.abs(u[:, 0, seen] - truth[0, seen]).max(1) / size).max()),
        "mass": float((np.abs(np.diff(means, axis=1)).max(1) / size).max()),
        "entropy": float((np.maximum(np.diff(entropy, axis=1), 0).max(1) / size**2).max()),
        "equation": float((np.abs(left).max((1, 2)) / rate).max()),
    }
    return {kind: found[kind] for kind in KINDS}


def table(seed: int, count: int) -> dict[str, Any]:
    """All sets, beside draws without any and, a tenth as many, draws in the metric of the covariance alone."""
    exact, truth = Exact(simulated(DATA, seed)), simulated(1, seed + 1)[0]
    chosen, body = sets(truth), []
    every = list(chosen.values())[-1]
    runs: list[tuple[str, Denoiser, FieldConstraint, int]] = [("none (hold: all)", exact, every, count)]
    for name, held in chosen.items():
        runs.append((name, Project(exact, held, exact.metric(MISSED), start=TIGHT), held, count))
    alone = Project(exact, every, exact.metric(0.0), start=TIGHT)
    runs.append(("all, in the metric of the covariance alone", alone, every, max(count // 10, 1)))
    for name, denoiser, held, draws in runs:
        found = drawn(denoiser, held, count=draws, seed=seed)
        worst = measured(found.u, truth[0].numpy())
        diverged = draws - int(np.isfinite(found.u).all((1, 2)).sum())
        size, off = float(truth.std()), found.u - truth[0].numpy()
        told = [float(np.sqrt(np.square(off).mean())) / size, float(found.u.std(0).mean()) / size]
        row = [name, draws, found.hold, diverged, *(f"{value:.1e}" for value in worst.values())]
        body.append([*row, *told, found.milliseconds])
        say(f"{name}: {found.hold} of {draws} hold, {found.milliseconds:.3g} ms")
    columns = ["constraints", "draws", "hold", "diverged", *KINDS, "error", "spread", "ms a draw"]
    title = (
        f"Trajectories of Burgers' equation, {FRAMES} frames of {POINTS} + 1 points, {CALLS} calls: draws that hold, "
        "and the worst of all by the oracle, relative"
    )
    return {"title": title, "columns": columns, "rows": body}


def main(arguments: list[str] | None = None) -> int:
    parser = options(__doc__, "100 draws of each set")
    parser.add_argument("--draws", type=int, help="of each set; default 10,000")
    return guarded(run, parser.parse_args(arguments))


def run(chosen: argparse.Namespace) -> int:
    count = chosen.draws or (100 if chosen.quick else 10_000)
    return publish("fluid_trajectories", chosen, [table(chosen.seed, count)])


if __name__ == "__main__":
    sys.exit(main())
