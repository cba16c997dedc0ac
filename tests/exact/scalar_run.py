"""A scalar Gaussian run whose law is known exactly, for the tests of steering."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from scidiff.denoiser import Denoiser
from scidiff.noise import Noise
from scidiff.processes.gaussian import GaussianProcess
from scidiff.processes.parametrisations import Data
from scidiff.schedules import VPLinear
from scidiff.solvers.plan import Plan
from scidiff.state import Layout, State

F64 = torch.float64
SCHEDULE = VPLinear()
PROCESS = GaussianProcess(schedule=SCHEDULE, parametrisation=Data(), dtype=F64)
MEAN, VARIANCE = 0.8, 0.6


def noise(count: int, *, seed: int = 8) -> Noise:
    return Noise(seed=seed, index=torch.arange(count))


class Scalar(Denoiser):
    """E[x_0 | x_t] of N(MEAN, VARIANCE)."""

    def forward(self, x_t: State, t: Tensor, layout: Layout, condition: Any = None) -> State:
        alpha, sigma = SCHEDULE(t)
        return {"x": MEAN + alpha * VARIANCE / (alpha**2 * VARIANCE + sigma**2) * (x_t["x"] - alpha * MEAN)}


def law(plan: Plan) -> tuple[float, float]:
    """Mean and variance of what the plan makes of unit noise: each row is affine in the state, so both are exact."""
    _, sigma = SCHEDULE(torch.ones((), dtype=F64))
    mean, variance = 0.0, float(sigma) ** 2
    for row, time in zip(plan.rows, plan.times, strict=False):
        alpha, sigma = (float(level) for level in SCHEDULE(torch.tensor(time, dtype=F64)))
        gain = alpha * VARIANCE / (alpha**2 * VARIANCE + sigma**2)
        slope = sum(c * {"x": 1.0, "clean": gain, "noise": 0.0}[atom.kind] for atom, c in row)
        shift = sum(c * (1 - gain * alpha) * MEAN for atom, c in row if atom.kind == "clean")
        mean = slope * mean + shift
        variance = slope**2 * variance + sum(c**2 for atom, c in row if atom.kind == "noise")
    return mean, variance
