"""Deterministic solvers keep their order where the probability flow is not linear: data at two clusters.

The exact denoiser of (N(-1, s^2) + N(1, s^2)) / 2 is known; the exact endpoint comes from an adaptive Runge-Kutta
method of order 8 at a tolerance of 1e-13.
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import pytest
import scipy.integrate
import torch
from gaussian_solvers import DETERMINISTIC, SCHEDULES

from scidiff import grids
from scidiff.solvers.levels import Level, levels_at, slope
from scidiff.solvers.plan import Plan

SPREAD = 0.4
END = 0.3
STARTS = np.array([-1.3, -0.2, 0.4, 0.9, 2.0])


def clean(x: np.ndarray, alpha: float, sigma: float) -> np.ndarray:
    """E[x_0 | x_t]: the clusters' posterior means, weighted by their posterior probabilities."""
    variance = alpha**2 * SPREAD**2 + sigma**2
    gain = alpha * SPREAD**2 / variance
    side = np.tanh(alpha * x / variance)
    return gain * x + (1 - gain * alpha) * side


@cache
def endpoint(schedule: str) -> np.ndarray:
    """Where the probability flow takes the starts, sigma_1 times each."""
    make = SCHEDULES[schedule]

    def velocity(t: float, x: np.ndarray) -> np.ndarray:
        time = torch.tensor([t], dtype=torch.float64)
        (level,) = levels_at(make, time)
        alpha_rate = float(slope(lambda u: make(u)[0], time))
        sigma_rate = float(slope(lambda u: make(u)[1], time))
        noise = (x - level.alpha * clean(x, level.alpha, level.sigma)) / level.sigma
        return alpha_rate * clean(x, level.alpha, level.sigma) + sigma_rate * noise

    start = start_of(levels_at(make, torch.ones(1, dtype=torch.float64))[0])
    solution = scipy.integrate.solve_ivp(velocity, (1.0, END), start, method="DOP853", rtol=1e-12, atol=1e-13)
    return solution.y[:, -1]


def start_of(level: Level) -> np.ndarray:
    return math.hypot(level.sigma, level.alpha) * STARTS


def execute(plan: Plan, found: list[Level]) -> np.ndarray:
    """The end of a plan, in numpy."""
    states, cleans = [start_of(found[0])], []
    for level, row in zip(found, plan.rows, strict=True):
        cleans.append(clean(states[-1], level.alpha, level.sigma))
        values = {"x": states, "clean": cleans}
        states.append(sum(term.coefficient * values[term.atom.kind][term.atom.number] for term in row))
    return states[-1]


@pytest.mark.parametrize("schedule", ["VPLinear", "RectifiedFlow"])
@pytest.mark.parametrize("name", DETERMINISTIC)
def test_order_on_two_clusters(name: str, schedule: str) -> None:
    solver, order = DETERMINISTIC[name]
    make = SCHEDULES[schedule]
    logs = []
    for n in (64, 128, 256):
        plan = solver(make, grids.cosine(n, end=END))
        found = levels_at(make, torch.tensor(plan.times[:-1], dtype=torch.float64))
        logs.append(math.log2(np.linalg.norm(execute(plan, found) - endpoint(schedule))))
    assert 2 * (logs[1] - logs[2]) - (logs[0] - logs[1]) == pytest.approx(order, abs=0.1)
