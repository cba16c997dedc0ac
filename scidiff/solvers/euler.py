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
from scidiff.solvers.levels import Level, first_order, is_open, levels_at, steps
from scidiff.solvers.plan import Linear, Plan, Tape


def _rates(schedule: Schedule, level: Level) -> tuple[float, float, float]:
    """alpha', sigma' and lambda' at a level."""
    t = torch.tensor(level.t, dtype=torch.float64)
    one = torch.ones_like(t)
    alpha, sigma = torch.func.jvp(schedule, (t,), (one,))[1]
    log_snr = torch.func.jvp(schedule.log_snr, (t,), (one,))[1]
    return float(alpha.detach()), float(sigma.detach()), float(log_snr.detach()) / 2


def _velocity(schedule: Schedule, x: Linear, clean: Linear, t: Level) -> Linear:
    """dx/dt of the probability flow."""
    alpha_rate, sigma_rate, _ = _rates(schedule, t)
    return (sigma_rate / t.sigma) * x + (alpha_rate - t.alpha * sigma_rate / t.sigma) * clean


def euler(schedule: Schedule, grid: Tensor) -> Plan:
    """Euler's method on the probability flow in t. Order 1."""
    tape = Tape()
    x = tape.start
    for t, s in steps(schedule, grid):
        x, clean = tape.denoise(x, t.t)
        straight = x + (s.t - t.t) * _velocity(schedule, x, clean, t)
        x = straight if s.sigma > 0 else first_order(tape, x, clean, t, s)
    return tape.plan(x, s.t)


def midpoint(schedule: Schedule, grid: Tensor) -> Plan:
    """The explicit midpoint rule on the probability flow in t: two calls a step, one for a last step to sigma = 0.

    Order 2.
    """
    tape = Tape()
    x = tape.start
    for t, s in steps(schedule, grid):
        x, clean = tape.denoise(x, t.t)
        if s.sigma == 0:
            x = first_order(tape, x, clean, t, s)
            continue
        (middle,) = levels_at(schedule, torch.tensor([(t.t + s.t) / 2], dtype=torch.float64))
        half = x + (middle.t - t.t) * _velocity(schedule, x, clean, t)
        half, clean = tape.denoise(half, middle.t)
        x = x + (s.t - t.t) * _velocity(schedule, half, clean, middle)
    return tape.plan(x, s.t)


def euler_maruyama(schedule: Schedule, grid: Tensor) -> Plan:
    """The Euler-Maruyama method on the reverse SDE in t. Weak order 1."""
    tape = Tape()
    x = tape.start
    for t, s in steps(schedule, grid):
        x, clean = tape.denoise(x, t.t)
        if is_open(t, s):
            x = first_order(tape, x, clean, t, s, rate=1.0)
            continue
        alpha_rate, _, lam_rate = _rates(schedule, t)
        drift = (alpha_rate / t.alpha - 2 * lam_rate) * x + 2 * t.alpha * lam_rate * clean
        x = x + (s.t - t.t) * drift + t.sigma * math.sqrt(2 * lam_rate * (s.t - t.t)) * tape.noise()
    return tape.plan(x, s.t)
