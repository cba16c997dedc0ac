"""The solver to begin with: fitted once to many random Gaussian mixtures, for any schedule and number of calls."""

from __future__ import annotations

import json
from functools import cache
from importlib import resources

import torch
from torch import Tensor

from scidiff.schedules import Schedule
from scidiff.solvers.adams import adams_bashforth_velocity
from scidiff.solvers.extrapolated import extrapolated, stretched
from scidiff.solvers.plan import Plan


def recommended(schedule: Schedule, calls: int, *, std: float = 1.0) -> Plan:
    """A deterministic solver from t = 1 to t = 0 that ends close to the probability flow after few calls.

    Up to 40 calls its numbers are fitted (`workflows/fit_recommended.py`) as those of `scidiff.solvers.fit` are to one
    denoiser; with more calls it is Adams-Bashforth of order 3 on the velocity, on the grid fitted for 40.

    Args:
        schedule: the process's.
        calls: number of calls of the denoiser, at least 1.
        std: the data's standard deviation, in the mean over elements.
    """
    numbers = recommended_numbers(calls)
    plan = extrapolated(schedule, numbers, std=std)
    if calls <= max(_fitted()):
        return plan
    return adams_bashforth_velocity(schedule, torch.tensor(plan.times, dtype=torch.float64), order=3)


def recommended_numbers(calls: int) -> Tensor:
    """The numbers of `extrapolated` that were fitted for so many calls, or the nearest ones stretched."""
    fitted = _fitted()
    return stretched(fitted[min(fitted, key=lambda n: abs(n - calls))], calls)


@cache
def _fitted() -> dict[int, Tensor]:
    text = resources.files("scidiff.solvers").joinpath("recommended.json").read_text(encoding="utf-8")
    return {int(calls): torch.tensor(rows, dtype=torch.float64) for calls, rows in json.loads(text).items()}
