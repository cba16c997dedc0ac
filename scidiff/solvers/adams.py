r"""Adams-Bashforth methods: past estimates are continued by a polynomial, and the integral of that is exact.

They differ in what is interpolated and in which variable:

    adams_bashforth_clean      d(x / sigma) / d(alpha / sigma) = clean estimate, in alpha / sigma
    adams_bashforth_noise      d(x / alpha) / d(sigma / alpha) = noise estimate, in sigma / alpha
    adams_bashforth_velocity   d(x / (alpha + sigma)) / d(sigma / (alpha + sigma)) = noise - clean estimate
    exponential_ab             the clean estimate in lambda = log(alpha / sigma)

The first steps use as many estimates as there are; a step with infinite h is of first order. Order `order` where the
first steps are short (`grids.cosine`); on grids with equal steps the first one, of first order, limits any order
above 2 to 2.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from torch import Tensor

from scidiff.schedules import Schedule
from scidiff.solvers.levels import (
    Level,
    clean_weights,
    combine,
    first_order,
    integrate,
    is_open,
    lagrange,
    noise_estimate,
    steps,
)
from scidiff.solvers.plan import Linear, Plan, Tape

History = list[tuple[Level, Linear]]
Weights = Callable[[Level, Level, Sequence[Level]], np.ndarray]


def usable(past: History) -> tuple[list[Level], list[Linear]]:
    """The past estimates at finite lambda, as levels and values: all but one from alpha = 0."""
    kept = [(level, value) for level, value in past if level.alpha > 0]
    return [level for level, _ in kept], [value for _, value in kept]


def multistep_clean(schedule: Schedule, grid: Tensor, *, order: int, weights: Weights) -> Plan:
    """Continue the last `order` clean estimates by a polynomial.

    x_s = (sigma_s / sigma_t) x_t + sum_j w_j clean_j,   w_j = sigma_s int_t^s ell_j d(alpha / sigma)

    Args:
        schedule: the process's.
        grid: float [n + 1] falling times.
        order: number of estimates, 1 to 3.
        weights: (t, s, nodes) -> w_j; the nodes are the levels of the last estimates, t first.
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
            x = (s.sigma / t.sigma) * x + combine(weights(t, s, [level for level, _ in past]), [d for _, d in past])
    return tape.plan(x, s.t)


def multistep_noise(schedule: Schedule, grid: Tensor, *, order: int, weights: Weights) -> Plan:
    """Continue the last `order` noise estimates by a polynomial.

    x_s = (alpha_s / alpha_t) x_t + sum_j w_j noise_j,   w_j = alpha_s int_t^s ell_j d(sigma / alpha)

    Args:
        schedule: the process's.
        grid: float [n + 1] falling times.
        order: number of estimates, 1 to 3.
        weights: (t, s, nodes) -> w_j; the nodes are the levels of the last estimates, t first.
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
            x = (s.alpha / t.alpha) * x + combine(weights(t, s, [level for level, _ in past]), [e for _, e in past])
    return tape.plan(x, s.t)


def check_order_given(order: int) -> None:
    """Refuse an order outside 1 .. 3."""
    if order not in (1, 2, 3):
        raise ValueError(f"expected an order of 1, 2 or 3, got {order}")


def adams_bashforth_clean(schedule: Schedule, grid: Tensor, *, order: int = 2) -> Plan:
    """Adams-Bashforth on the clean estimate in alpha / sigma ("in x")."""

    def weights(t: Level, s: Level, nodes: Sequence[Level]) -> np.ndarray:
        places = [node.alpha / node.sigma for node in nodes]
        return s.sigma * integrate(lambda ratio: lagrange(places, ratio), t.alpha / t.sigma, s.alpha / s.sigma)

    return multistep_clean(schedule, grid, order=order, weights=weights)


def adams_bashforth_noise(schedule: Schedule, grid: Tensor, *, order: int = 2) -> Plan:
    """Adams-Bashforth on the noise estimate in sigma / alpha ("in z"; rhoAB-DEIS of Zhang & Chen 2023)."""

    def weights(t: Level, s: Level, nodes: Sequence[Level]) -> np.ndarray:
        places = [node.sigma / node.alpha for node in nodes if node.alpha > 0]
        found = s.alpha * integrate(lambda ratio: lagrange(places, ratio), t.sigma / t.alpha, s.sigma / s.alpha)
        return _with_unused(found, len(nodes))

    return multistep_noise(schedule, grid, order=order, weights=weights)


def adams_bashforth_velocity(schedule: Schedule, grid: Tensor, *, order: int = 2) -> Plan:
    r"""Adams-Bashforth on the velocity of straight paths ("in v"), whatever the schedule's own paths are.

    x_s / (alpha_s + sigma_s) = x_t / (alpha_t + sigma_t) + sum_j v_j int_t^s ell_j du,   v = noise - clean,

    u = sigma / (alpha + sigma), which is finite at both ends: no step is of first order but the first.
    """
    check_order_given(order)
    tape = Tape()
    x = tape.start
    past: History = []
    for t, s in steps(schedule, grid):
        x, clean = tape.denoise(x, t.t)
        past = [(t, noise_estimate(x, clean, t) - clean), *past][:order]
        places = [node.sigma / (node.alpha + node.sigma) for node, _ in past]
        weights = integrate(partial(lagrange, places), places[0], s.sigma / (s.alpha + s.sigma))
        change = combine(weights, [velocity for _, velocity in past])
        x = (s.alpha + s.sigma) * (x / (t.alpha + t.sigma) + change)
    return tape.plan(x, s.t)


def exponential_ab(schedule: Schedule, grid: Tensor, *, order: int = 2) -> Plan:
    """Exponential Adams-Bashforth on the clean estimate in lambda (Hochbruck & Ostermann 2010, section 2.5)."""

    def weights(t: Level, s: Level, nodes: Sequence[Level]) -> np.ndarray:
        return _with_unused(clean_weights(t, s, [node for node in nodes if node.alpha > 0]), len(nodes))

    return multistep_clean(schedule, grid, order=order, weights=weights)


def _with_unused(weights: np.ndarray, count: int) -> np.ndarray:
    """Weights followed by zeros: an estimate from alpha = 0, always the oldest, has no finite place to stand on."""
    return np.append(weights, np.zeros(count - len(weights)))
