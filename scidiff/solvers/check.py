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


def moment_error(plan: Plan, schedule: Schedule, data: Gaussian) -> float:
    """The larger error of mean and standard deviation at the end of a plan.

    For a deterministic plan these two are the whole map from start to end, and the probability flow is the affine map
    that keeps the moments: this is its error at the endpoint, for starts within one standard deviation.
    """
    (end,) = levels_at(schedule, torch.tensor(plan.times[-1:], dtype=torch.float64))
    return max(abs(got - true) for got, true in zip(moments(plan, schedule, data), data.moments(end), strict=True))


def observed_order(
    solver: Solver,
    schedule: Schedule,
    grid: Callable[[int], Tensor],
    *,
    sizes: Sequence[int] = (128, 256),
    data: Gaussian | None = None,
) -> float:
    """The order at which `moment_error` falls between the two largest grids: log(error ratio) / log(size ratio)."""
    data = data or Gaussian()
    coarse, fine = sorted(sizes)[-2:]
    errors = [moment_error(solver(schedule, grid(n)), schedule, data) for n in (coarse, fine)]
    return math.log(errors[0] / errors[1]) / math.log(fine / coarse)


def check_order(
    solver: Solver,
    schedule: Schedule,
    grid: Callable[[int], Tensor],
    *,
    order: float,
    within: float = 0.1,
    sizes: Sequence[int] = (128, 256),
    data: Gaussian | None = None,
) -> float:
    """Check that a solver has its claimed order (the weak one, if it draws noise) on Gaussian data.

    Args:
        solver: makes a plan from a schedule and a grid.
        schedule: the process's.
        grid: makes a grid of n steps; let it end above t = 0, where orders are defined.
        order: the claim.
        within: the largest allowed difference.
        sizes: the numbers of steps to compare.
        data: the data's distribution.

    Returns:
        The observed order.

    Raises:
        ArithmeticError: if the observed order differs from the claim by more than `within`.
    """
    observed = observed_order(solver, schedule, grid, sizes=sizes, data=data)
    if not abs(observed - order) <= within:
        raise ArithmeticError(f"expected order {order} within {within}, observed {observed:.3f}")
    return observed
