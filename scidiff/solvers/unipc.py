r"""UniPC: a unified predictor-corrector on the clean estimate in lambda (Zhao et al. 2023).

The estimate that a step's end yields for the next prediction also corrects the step itself, at no extra call:

    predicted  x_s = (sigma_s / sigma_t) x_t + sum_j p_j clean_j,               j = t and before
    corrected  x_s = (sigma_s / sigma_t) x_t + sum_j c_j clean_j + c_s clean_s
"""

from __future__ import annotations

import math

from torch import Tensor

from scidiff.schedules import Schedule
from scidiff.solvers.adams import History, check_order_given, usable
from scidiff.solvers.levels import Level, clean_weights, combine, first_order, is_open, log_ratio, steps
from scidiff.solvers.plan import Linear, Plan, Tape


def unipc(schedule: Schedule, grid: Tensor, *, order: int = 2) -> Plan:
    """UniPC-p with B(h) = exp(h) - 1 ("bh2"), one call a step.

    Order p + 1 under the conditions of `scidiff.solvers.adams`, one more than the predictor's. No correction follows
    the last step, nor one with infinite h.

    Args:
        schedule: the process's.
        grid: float [n + 1] falling times.
        order: p, 1 to 3.
    """
    check_order_given(order)
    tape = Tape()
    x = tape.start
    past: History = []
    predicted: Linear | None = None
    for t, s in steps(schedule, grid):
        x, clean = tape.denoise(x, t.t)
        if predicted is not None:
            # (sigma_s / sigma_t) x is the same in both, so that only the sums over clean estimates change.
            x = x + _corrected(past, t, clean) - predicted
        past = [(t, clean), *past][:order]
        if is_open(t, s):
            x, predicted = first_order(tape, x, clean, t, s), None
        else:
            predicted = _predicted(past, s)
            x = (s.sigma / t.sigma) * x + predicted
    return tape.plan(x, s.t)


def _halfway(first: Linear, slope: Linear, t: Level, s: Level) -> Linear:
    """The sum over two clean estimates with the weight 1/2 that the paper sets where p = 2 (UniP) or 1 (UniC)."""
    return -s.alpha * math.expm1(-log_ratio(t, s)) * (first + 0.5 * slope)


def _predicted(past: History, s: Level) -> Linear:
    """UniP: sum_j p_j clean_j."""
    nodes, values = usable(past)
    if len(nodes) == 2:
        ratio = log_ratio(nodes[1], nodes[0]) / log_ratio(nodes[0], s)
        return _halfway(values[0], (values[0] - values[1]) / ratio, nodes[0], s)
    return combine(clean_weights(nodes[0], s, nodes), values)


def _corrected(past: History, s: Level, clean: Linear) -> Linear:
    """UniC: sum_j c_j clean_j + c_s clean_s, over the estimates that the prediction of s used and the one at s."""
    nodes, values = usable(past)
    if len(nodes) == 1:
        return _halfway(values[0], clean - values[0], nodes[0], s)
    return combine(clean_weights(nodes[0], s, [s, *nodes]), [clean, *values])
