"""Predictor-corrector sampling with Langevin steps (Song et al. 2021, algorithm 1)."""

from __future__ import annotations

import math

from torch import Tensor

from scidiff.schedules import Schedule
from scidiff.solvers.ancestral import ddim_step
from scidiff.solvers.levels import log_ratio, steps
from scidiff.solvers.plan import Plan, Tape


def langevin(schedule: Schedule, grid: Tensor, *, strength: float = 0.5, eta: float = 1.0) -> Plan:
    r"""A DDIM step, then one Langevin step at the new time: two calls a step, one for a last step to sigma = 0.

    dx = sigma^2 score dT + sqrt(2) sigma dw,   score = (alpha clean - x) / sigma^2,   over T = strength h

    The Langevin equation is integrated exactly for a constant clean estimate,

    x <- exp(-T) x + (1 - exp(-T)) alpha clean + sigma sqrt(1 - exp(-2 T)) noise.

    Its length shrinks with the step h in lambda, so that the bias of the discretisation vanishes: weak order 1. (With
    a length of its own, as in the paper, a bias remains at any number of steps.)

    Args:
        schedule: the process's.
        grid: float [n + 1] falling times.
        strength: length of the Langevin dynamics relative to h, >= 0.
        eta: fresh noise of the DDIM step, in [0, 1].
    """
    if not 0 < strength < float("inf"):
        raise ValueError(f"expected a finite strength > 0, got {strength}")
    if not 0 <= eta <= 1:
        raise ValueError(f"expected eta in [0, 1], got {eta}")
    tape = Tape()
    x = tape.start
    for t, s in steps(schedule, grid):
        x, clean = tape.denoise(x, t.t)
        x = ddim_step(tape, x, clean, t, s, eta=eta)
        if s.sigma > 0 and s.t > float(grid[-1]):
            x, clean = tape.denoise(x, s.t)
            length = strength * log_ratio(t, s)
            x = math.exp(-length) * x - math.expm1(-length) * s.alpha * clean
            x = x + s.sigma * math.sqrt(-math.expm1(-2 * length)) * tape.noise()
    return tape.plan(x, s.t)
