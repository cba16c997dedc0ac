r"""DPM-Solver++ on the reverse SDE (Lu et al. 2022, section 5; with the amount of noise as a parameter).

    x_s = (sigma_s / sigma_t) exp(-eta h) x_t + alpha_s (1 + eta) int_0^h exp(-(1 + eta) (h - l)) clean(lambda_t + l) dl
          + sigma_s sqrt(1 - exp(-2 eta h)) noise

eta = 1 is the reverse SDE, eta = 0 the probability flow. A step with infinite h is of first order.
"""

from __future__ import annotations

from torch import Tensor

from scidiff.schedules import Schedule
from scidiff.solvers.adams import History, usable
from scidiff.solvers.dpmpp import extrapolated
from scidiff.solvers.levels import clean_weights, combine, first_order, is_open, steps, stochastic_step
from scidiff.solvers.plan import Plan, Tape


def dpmpp_sde_2m(schedule: Schedule, grid: Tensor, *, eta: float = 1.0) -> Plan:
    """SDE-DPM-Solver++(2M): one call a step.

    Args:
        schedule: the process's.
        grid: float [n + 1] falling times.
        eta: how fast noise is put back, >= 0.
    """
    _check_eta(eta)
    tape = Tape()
    x = tape.start
    past: History = []
    for t, s in steps(schedule, grid):
        x, clean = tape.denoise(x, t.t)
        past = [(t, clean), *past][:2]
        x = first_order(tape, x, extrapolated(past, s), t, s, rate=eta)
    return tape.plan(x, s.t)


def dpmpp_sde_3m(schedule: Schedule, grid: Tensor, *, eta: float = 1.0) -> Plan:
    """SDE-DPM-Solver++(3M): one call a step, the integral of a parabola through the last three clean estimates."""
    _check_eta(eta)
    tape = Tape()
    x = tape.start
    past: History = []
    for t, s in steps(schedule, grid):
        x, clean = tape.denoise(x, t.t)
        past = [(t, clean), *past][:3]
        if is_open(t, s):
            x = first_order(tape, x, clean, t, s, rate=eta)
            continue
        nodes, values = usable(past)
        kept, _, deviation = stochastic_step(t, s, rate=eta)
        x = kept * x + combine(clean_weights(t, s, nodes, rate=eta), values)
        if deviation > 0:
            x = x + deviation * tape.noise()
    return tape.plan(x, s.t)


def _check_eta(eta: float) -> None:
    if not 0 <= eta < float("inf"):
        raise ValueError(f"expected a finite eta >= 0, got {eta}")
