r"""Adams-Bashforth methods: past estimates are continued by a polynomial, and the integral of that is exact.

They differ in what is interpolated and in which variable:

    adams_bashforth_clean   d(x / sigma) / d(alpha / sigma) = clean estimate, in alpha / sigma
    adams_bashforth_noise   d(x / alpha) / d(sigma / alpha) = noise estimate, in sigma / alpha
    exponential_ab          the clean estimate in lambda = log(alpha / sigma)

The first steps use as many estimates as there are; a step with infinite h is of first order. Order `order` where the
first steps are short (`grids.cosine`); on grids with equal steps the first one, of first order, limits any order
above 2 to 2.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor

from scidiff.schedules import Schedule
from scidiff.solvers.levels import (
    Curve,
    Level,
    clean_weights,
    combine,
    first_order,
    is_open,
    noise_estimate,
    noise_weights,
    steps,
)
from scidiff.solvers.plan import Linear, Plan, Tape

History = list[tuple[Level, Linear]]


def usable(past: History, variable: Curve) -> tuple[list[Level], list[Linear]]:
    """The past estimates whose place on the variable's axis is finite, as levels and values."""
    kept = [(level, value) for level, value in past if bool(np.isfinite(variable(np.array(level.lam))))]
    return [level for level, _ in kept], [value for _, value in kept]


def multistep_clean(schedule: Schedule, grid: Tensor, *, order: int, variable: Curve) -> Plan:
    """Continue the last `order` clean estimates by a polynomial in a function of lambda.

    x_s = (sigma_s / sigma_t) x_t + sum_j w_j clean_j,   w_j of `clean_weights`
    """
    check_order_given(order)
    tape = Tape()
    x = tape.start
    past: History = []
    for t, s in steps(schedule, grid):
        x, clean = tape.denoise(x, t.t)
        past = [(t, clean), *past][:order]
        if is_open(t, s):
            x = first_order(tape, x, clean, t, s)
        else:
            nodes, values = usable(past, variable)
            x = (s.sigma / t.sigma) * x + combine(clean_weights(t, s, nodes, variable=variable), values)
    return tape.plan(x, s.t)


def multistep_noise(schedule: Schedule, grid: Tensor, *, order: int, variable: Curve) -> Plan:
    """Continue the last `order` noise estimates by a polynomial in a function of lambda.

    x_s = (alpha_s / alpha_t) x_t + sum_j w_j noise_j,   w_j of `noise_weights`
    """
    check_order_given(order)
    tape = Tape()
    x = tape.start
    past: History = []
    for t, s in steps(schedule, grid):
        x, clean = tape.denoise(x, t.t)
        past = [(t, noise_estimate(x, clean, t)), *past][:order]
        if is_open(t, s):
            x = first_order(tape, x, clean, t, s)
        else:
            nodes, values = usable(past, variable)
            x = (s.alpha / t.alpha) * x + combine(noise_weights(t, s, nodes, variable=variable), values)
    return tape.plan(x, s.t)


def check_order_given(order: int) -> None:
    """Refuse an order outside 1 .. 4."""
    if order not in (1, 2, 3, 4):
        raise ValueError(f"expected an order of 1, 2, 3 or 4, got {order}")


def adams_bashforth_clean(schedule: Schedule, grid: Tensor, *, order: int = 2) -> Plan:
    """Adams-Bashforth on the clean estimate in alpha / sigma ("in x")."""
    return multistep_clean(schedule, grid, order=order, variable=np.exp)


def adams_bashforth_noise(schedule: Schedule, grid: Tensor, *, order: int = 2) -> Plan:
    """Adams-Bashforth on the noise estimate in sigma / alpha ("in z"; rhoAB-DEIS of Zhang & Chen 2023)."""
    return multistep_noise(schedule, grid, order=order, variable=lambda lam: np.exp(-lam))


def exponential_ab(schedule: Schedule, grid: Tensor, *, order: int = 2) -> Plan:
    """Exponential Adams-Bashforth on the clean estimate in lambda (Hochbruck & Ostermann 2010, section 2.5)."""
    return multistep_clean(schedule, grid, order=order, variable=np.asarray)
