r"""SA-Solver: stochastic Adams predictor-corrector on the clean estimate in lambda (Xue et al. 2023).

    x_s = (sigma_s / sigma_t) exp(-tau^2 h) x_t + sum_j w_j clean_j + sigma_s sqrt(1 - exp(-2 tau^2 h)) noise

The corrector (algorithm 1) uses the clean estimate at s as well, with the noise of the prediction.
"""

from __future__ import annotations

from torch import Tensor

from scidiff.schedules import Schedule
from scidiff.solvers.adams import History, check_order_given, usable
from scidiff.solvers.levels import clean_weights, combine, first_order, is_open, steps, stochastic_step
from scidiff.solvers.plan import Linear, Plan, Tape


def sa_solver(schedule: Schedule, grid: Tensor, *, tau: float = 1.0, predictor: int = 2, corrector: int = 2) -> Plan:
    """SA-Solver, one call a step.

    Args:
        schedule: the process's.
        grid: float [n + 1] falling times.
        tau: amount of noise; 1 is the reverse SDE, 0 the probability flow.
        predictor: number of past clean estimates that the prediction uses, 1 to 3.
        corrector: number of clean estimates that the correction uses, the new one included, 1 to 3.
    """
    if not 0 <= tau < float("inf"):
        raise ValueError(f"expected a finite tau >= 0, got {tau}")
    check_order_given(predictor)
    check_order_given(corrector)
    tape = Tape()
    x = tape.start
    past: History = []
    predicted: Linear | None = None
    for t, s in steps(schedule, grid):
        x, clean = tape.denoise(x, t.t)
        if predicted is not None:
            nodes, values = usable(past[: corrector - 1])
            weights = clean_weights(past[0][0], t, [t, *nodes], rate=tau**2)
            x = x + combine(weights, [clean, *values]) - predicted
        past = [(t, clean), *past][: max(predictor, corrector)]
        if is_open(t, s):
            x, predicted = first_order(tape, x, clean, t, s, rate=tau**2), None
            continue
        nodes, values = usable(past[:predictor])
        predicted = combine(clean_weights(t, s, nodes, rate=tau**2), values)
        kept, _, deviation = stochastic_step(t, s, rate=tau**2)
        x = kept * x + predicted
        if deviation > 0:
            x = x + deviation * tape.noise()
    return tape.plan(x, s.t)
