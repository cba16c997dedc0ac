r"""DPM-Solver++: the probability flow in lambda = log(alpha / sigma), on the clean estimate (Lu et al. 2022).

    x_s = (sigma_s / sigma_t) x_t + alpha_s int_0^h exp(-(h - l)) clean(lambda_t + l) dl

A step with infinite h (from alpha = 0, or to sigma = 0) is of first order, in all of them.
"""

from __future__ import annotations

import math

from torch import Tensor

from scidiff.schedules import Schedule
from scidiff.solvers.ancestral import ddim
from scidiff.solvers.levels import Level, first_order, is_open, levels_of, log_ratio, steps
from scidiff.solvers.plan import Linear, Plan, Tape


def dpmpp_1s(schedule: Schedule, grid: Tensor) -> Plan:
    """DPM-Solver++(1), which is DDIM at eta = 0. Order 1."""
    return ddim(schedule, grid)


def dpmpp_2s(schedule: Schedule, grid: Tensor) -> Plan:
    """DPM-Solver++(2S) (algorithm 1) with the second call half-way in lambda: two calls a step. Order 2."""
    tape = Tape()
    x = tape.start
    pairs = list(steps(schedule, grid))
    middles = iter(levels_of(schedule, [(t.lam + s.lam) / 2 for t, s in pairs if not is_open(t, s)]))
    for t, s in pairs:
        x, clean = tape.denoise(x, t.t)
        if is_open(t, s):
            x = first_order(tape, x, clean, t, s)
            continue
        middle = next(middles)
        _, clean_middle = tape.denoise(first_order(tape, x, clean, t, middle), middle.t)
        x = first_order(tape, x, clean_middle, t, s)
    return tape.plan(x, s.t)


def extrapolated(past: list[tuple[Level, Linear]], s: Level) -> Linear:
    """The clean estimate continued linearly in lambda to the middle of the step: clean + (clean - last) / (2 r).

    r = h_last / h, inf after a step from alpha = 0, whose estimate then counts for nothing.
    """
    (t, clean), *before = past
    if not before or is_open(t, s):
        return clean
    ((last_t, last),) = before
    ratio = log_ratio(last_t, t) / log_ratio(t, s)
    return clean + (clean - last) / (2 * ratio)


def dpmpp_2m(schedule: Schedule, grid: Tensor) -> Plan:
    """DPM-Solver++(2M) (algorithm 2): one call a step. Order 2."""
    tape = Tape()
    x = tape.start
    past: list[tuple[Level, Linear]] = []
    for t, s in steps(schedule, grid):
        x, clean = tape.denoise(x, t.t)
        past = [(t, clean), *past][:2]
        x = first_order(tape, x, extrapolated(past, s), t, s)
    return tape.plan(x, s.t)


def dpmpp_3m(schedule: Schedule, grid: Tensor) -> Plan:
    r"""DPM-Solver++(3M): one call a step, the clean estimate continued by a parabola in lambda.

    x_s = (sigma_s / sigma_t) x_t + alpha_s (phi_1 clean + phi_2 h clean' + phi_3 h^2 clean''),
    phi_1 = 1 - exp(-h),   phi_2 = 1 - phi_1 / h,   phi_3 = 1/2 - phi_2 / h

    Order 3 under the conditions of `scidiff.solvers.adams`. The form shipped with the paper takes the divided
    difference of the clean estimates for h^2 clean'', which is its half, and so is of order 2.
    """
    tape = Tape()
    x = tape.start
    past: list[tuple[Level, Linear]] = []
    for t, s in steps(schedule, grid):
        x, clean = tape.denoise(x, t.t)
        past = [(t, clean), *past][:3]
        if len(past) < 3 or is_open(t, s):
            x = first_order(tape, x, extrapolated(past[:2], s), t, s)
        else:
            x = _parabola(x, past, s)
    return tape.plan(x, s.t)


def _parabola(x: Linear, past: list[tuple[Level, Linear]], s: Level) -> Linear:
    """The third-order step of `dpmpp_3m`."""
    (t, clean), (t_1, clean_1), (t_2, clean_2) = past
    h, h_1, h_2 = log_ratio(t, s), log_ratio(t_1, t), log_ratio(t_2, t_1)
    slope, slope_1 = (clean - clean_1) / h_1, (clean_1 - clean_2) / h_2
    bend = (slope - slope_1) / (h_1 + h_2)  # half the second derivative
    phi_1 = -math.expm1(-h)
    phi_2 = 1 - phi_1 / h
    phi_3 = 0.5 - phi_2 / h
    change = phi_1 * clean + phi_2 * h * (slope + h_1 * bend) + phi_3 * h**2 * (2 * bend)
    return (s.sigma / t.sigma) * x + s.alpha * change
