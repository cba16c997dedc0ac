r"""Euler's method, Euler-Maruyama and the midpoint rule, in the time t of the schedule itself.

    probability flow   dx/dt = (sigma' / sigma) x + (alpha' - alpha sigma' / sigma) clean
    reverse SDE        dx = [(alpha' / alpha - 2 lambda') x + 2 alpha lambda' clean] dt + sigma sqrt(-2 lambda') dw

with lambda = log(alpha / sigma) and primes for d/dt (Song et al. 2021, eq. 6 and 13, in terms of the clean estimate).
On straight paths (`RectifiedFlow`) Euler's method is that of flow matching. A last step to sigma = 0 is the clean
estimate, and a step of the SDE from alpha = 0, where its rate is infinite, is the ancestral one.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from scidiff.schedules import Schedule
from scidiff.solvers.levels import Level, first_order, is_open, levels_at, slope, steps
from scidiff.solvers.plan import Linear, Plan, Tape


def _velocity(x: Linear, clean: Linear, t: Level, alpha_rate: float, sigma_rate: float) -> Linear:
    """dx/dt of the probability flow."""
    return (sigma_rate / t.sigma) * x + (alpha_rate - t.alpha * sigma_rate / t.sigma) * clean


def _flow_rates(schedule: Schedule, times: Tensor) -> list[tuple[float, float]]:
    """alpha' and sigma' at each of the times."""
    times = times.to(torch.float64)
    alpha, sigma = slope(lambda t: schedule(t)[0], times), slope(lambda t: schedule(t)[1], times)
    return list(zip(alpha.tolist(), sigma.tolist(), strict=True))


def euler(schedule: Schedule, grid: Tensor) -> Plan:
    """Euler's method on the probability flow in t. Order 1."""
    tape = Tape()
    x = tape.start
    for (t, s), rates in zip(steps(schedule, grid), _flow_rates(schedule, grid[:-1]), strict=True):
        x, clean = tape.denoise(x, t.t)
        straight = x + (s.t - t.t) * _velocity(x, clean, t, *rates)
        x = straight if s.sigma > 0 else first_order(tape, x, clean, t, s)
    return tape.plan(x, s.t)


def midpoint(schedule: Schedule, grid: Tensor) -> Plan:
    """The explicit midpoint rule on the probability flow in t: two calls a step, one for a last step to sigma = 0.

    Order 2.
    """
    tape = Tape()
    x = tape.start
    times = torch.stack([grid[:-1], (grid[:-1] + grid[1:]) / 2], dim=1).flatten().to(torch.float64)
    rates = iter(_flow_rates(schedule, times))
    middles = levels_at(schedule, times[1::2])
    for (t, s), middle in zip(steps(schedule, grid), middles, strict=True):
        x, clean = tape.denoise(x, t.t)
        half = x + (middle.t - t.t) * _velocity(x, clean, t, *next(rates))
        if s.sigma == 0:
            x = first_order(tape, x, clean, t, s)
        else:
            half, clean = tape.denoise(half, middle.t)
            x = x + (s.t - t.t) * _velocity(half, clean, middle, *next(rates))
    return tape.plan(x, s.t)


def euler_maruyama(schedule: Schedule, grid: Tensor) -> Plan:
    """The Euler-Maruyama method on the reverse SDE in t. Weak order 1."""
    tape = Tape()
    x = tape.start
    times = grid[:-1].to(torch.float64)
    alpha_rates = slope(lambda t: schedule(t)[0], times).tolist()
    lam_rates = slope(lambda t: schedule.log_snr(t) / 2, times).tolist()
    for (t, s), alpha_rate, lam_rate in zip(steps(schedule, grid), alpha_rates, lam_rates, strict=True):
        x, clean = tape.denoise(x, t.t)
        if is_open(t, s):
            x = first_order(tape, x, clean, t, s, rate=1.0)
            continue
        drift = (alpha_rate / t.alpha - 2 * lam_rate) * x + 2 * t.alpha * lam_rate * clean
        x = x + (s.t - t.t) * drift + t.sigma * math.sqrt(2 * lam_rate * (s.t - t.t)) * tape.noise()
    return tape.plan(x, s.t)
