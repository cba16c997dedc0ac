"""Going back up: multistep consistency sampling and time travel."""

from __future__ import annotations

import itertools

from torch import Tensor

from scidiff.schedules import Schedule
from scidiff.solvers.ancestral import ddim_step
from scidiff.solvers.levels import forward, levels, steps
from scidiff.solvers.plan import Plan, Tape


def renoise(schedule: Schedule, grid: Tensor) -> Plan:
    """Denoise fully, noise again: x_s = alpha_s clean + sigma_s noise (Song et al., consistency models, algorithm 1).

    Made for a denoiser that returns samples of x_0 (a consistency model). With a posterior mean the variance of the
    result is too small at any number of steps.
    """
    tape = Tape()
    x = tape.start
    for t, s in steps(schedule, grid):
        x, clean = tape.denoise(x, t.t)
        x = s.alpha * clean
        if s.sigma > 0:
            x = x + s.sigma * tape.noise()
    return tape.plan(x, s.t)


def time_travel(schedule: Schedule, grid: Tensor, *, jump: int = 10, repeats: int = 10, eta: float = 1.0) -> Plan:
    """DDIM that goes over the grid in blocks, each several times: at its end, noise leads back to its start.

    Repetition lets known parts and unknown ones agree (RePaint, Lugmayr et al. 2022, algorithm 1). Weak order 1.

    Args:
        schedule: the process's.
        grid: float [n + 1] falling times.
        jump: number of steps of a block.
        repeats: how often each block is gone through; the number of calls is n * repeats.
        eta: fresh noise of each step, in [0, 1].
    """
    if jump < 1 or repeats < 1:
        raise ValueError(f"expected jump >= 1 and repeats >= 1, got {jump} and {repeats}")
    if not 0 <= eta <= 1:
        raise ValueError(f"expected eta in [0, 1], got {eta}")
    found = levels(schedule, grid)
    tape = Tape()
    x = tape.start
    for first in range(0, len(found) - 1, jump):
        block = found[first : first + jump + 1]
        for repeat in range(repeats):
            if repeat > 0:
                tape.touch(block[-1].t)
                x = forward(x, tape.noise(), block[-1], block[0])
            for t, s in itertools.pairwise(block):
                x, clean = tape.denoise(x, t.t)
                x = ddim_step(tape, x, clean, t, s, eta=eta)
    return tape.plan(x, found[-1].t)
