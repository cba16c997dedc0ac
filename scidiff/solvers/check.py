r"""Proof of a solver on problems whose answer is known.

For data N(mean, std^2) the exact denoiser is affine,

    clean(x_t, t) = mean + gain_t (x_t - alpha_t mean),   gain_t = alpha_t std^2 / (alpha_t^2 std^2 + sigma_t^2),

so that a plan is an affine map of its start and its noises, and the mean and standard deviation of what it returns are
known exactly: no sampling, no statistical error.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from scidiff.schedules import Schedule
from scidiff.solvers.levels import Level, levels_at
from scidiff.solvers.plan import Plan

Solver = Callable[[Schedule, Tensor], Plan]


@dataclass(frozen=True, kw_only=True)
class Gaussian:
    """Data N(mean, std^2), and all that follows in closed form."""

    mean: float = 0.7
    std: float = 0.6

    def moments(self, level: Level) -> tuple[float, float]:
        """Mean and standard deviation of x_t."""
        return level.alpha * self.mean, math.hypot(level.alpha * self.std, level.sigma)

    def gain(self, level: Level) -> float:
        """d clean / d x_t."""
        return level.alpha * self.std**2 / (level.alpha**2 * self.std**2 + level.sigma**2)


def moments(plan: Plan, schedule: Schedule, data: Gaussian) -> tuple[float, float]:
    """Mean and standard deviation of the finished sample, from a start with the exact moments of x_t there."""
    calls = levels_at(schedule, torch.tensor(plan.times[:-1], dtype=torch.float64))
    mean, std = data.moments(calls[0])
    # Every symbol as an affine form over [1, the standardised start, noises ...].
    states = np.zeros((plan.calls + 1, 2 + len(plan.noises)))
    cleans = np.zeros_like(states)
    states[0, :2] = mean, std
    for k, (level, row) in enumerate(zip(calls, plan.rows, strict=True)):
        gain = data.gain(level)
        cleans[k] = gain * states[k]
        cleans[k, 0] += data.mean * (1 - gain * level.alpha)
        for atom, coefficient in row:
            if atom.kind == "noise":
                states[k + 1, 2 + atom.number] += coefficient
            else:
                states[k + 1] += coefficient * (states if atom.kind == "x" else cleans)[atom.number]
    final = states[-1]
    return float(final[0]), float(np.linalg.norm(final[1:]))


def moment_error(plan: Plan, schedule: Schedule, data: Sequence[Gaussian]) -> float:
    """The error of mean and standard deviation at the end of a plan, as a root sum of squares over several data sets.

    For a deterministic plan these two are the whole map from start to end, and the probability flow is the affine map
    that keeps the moments: this is its error at the endpoint, for starts about one standard deviation from the mean.
    """
    (end,) = levels_at(schedule, torch.tensor(plan.times[-1:], dtype=torch.float64))
    errors = [np.subtract(moments(plan, schedule, each), each.moments(end)) for each in data]
    return float(np.linalg.norm(errors))


DATA = (Gaussian(mean=1.0, std=0.3), Gaussian(mean=-0.5, std=0.7), Gaussian(mean=0.2, std=1.6))


def observed_order(
    solver: Solver,
    schedule: Schedule,
    grid: Callable[[int], Tensor],
    *,
    finest: int = 256,
    data: Sequence[Gaussian] = DATA,
) -> float:
    """The order at which `moment_error` falls as the grid is refined from finest / 4 to finest / 2 to finest.

    With error = c n^-p (1 + d / n + ...), log2(error_n / error_2n) = p + O(1 / n): two such give p to O(1 / n^2).
    """
    sizes = (finest // 4, finest // 2, finest)
    coarse, middle, fine = (math.log2(moment_error(solver(schedule, grid(n)), schedule, data)) for n in sizes)
    return 2 * (middle - fine) - (coarse - middle)


def check_order(
    solver: Solver,
    schedule: Schedule,
    grid: Callable[[int], Tensor],
    *,
    order: float,
    within: float = 0.1,
    finest: int = 256,
    data: Sequence[Gaussian] = DATA,
) -> float:
    """Check that a solver has its claimed order (the weak one, if it draws noise) on Gaussian data.

    Args:
        solver: makes a plan from a schedule and a grid.
        schedule: the process's.
        grid: makes a grid of n steps; let it end above t = 0, where orders are defined.
        order: the claim.
        within: the largest allowed difference.
        finest: number of steps of the finest grid.
        data: the data sets.

    Returns:
        The observed order.

    Raises:
        ArithmeticError: if the observed order differs from the claim by more than `within`.
    """
    observed = observed_order(solver, schedule, grid, finest=finest, data=data)
    if not abs(observed - order) <= within:
        raise ArithmeticError(f"expected order {order} within {within}, observed {observed:.3f}")
    return observed
