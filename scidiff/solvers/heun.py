r"""Heun's method in the noise level sigma / alpha, plain and with Karras' churn (EDM, Karras et al. 2022).

d(x / alpha) / d(sigma / alpha) = noise estimate = (x - alpha clean) / sigma
"""

from __future__ import annotations

import math

from torch import Tensor

from scidiff.schedules import Schedule
from scidiff.solvers.levels import Level, first_order, forward, is_open, levels_of, log_ratio, noise_estimate, steps
from scidiff.solvers.plan import Linear, Plan, Tape


def _heun_step(tape: Tape, x: Linear, t: Level, s: Level) -> Linear:
    """Algorithm 1 of EDM: the trapezoidal rule; a step with infinite h falls back to the first order, as there.

    x_s = (alpha_s / alpha_t) x_t - sigma_s (exp(h) - 1) (noise_t + noise_s) / 2
    """
    x, clean = tape.denoise(x, t.t)
    guess = first_order(tape, x, clean, t, s)
    if is_open(t, s):
        return guess
    guess, clean_s = tape.denoise(guess, s.t)
    slope = (noise_estimate(x, clean, t) + noise_estimate(guess, clean_s, s)) / 2
    return (s.alpha / t.alpha) * x - s.sigma * math.expm1(log_ratio(t, s)) * slope


def heun(schedule: Schedule, grid: Tensor) -> Plan:
    """Heun's method (EDM, algorithm 1): two calls a step, one for a last step to sigma = 0. Order 2."""
    tape = Tape()
    x = tape.start
    for t, s in steps(schedule, grid):
        x = _heun_step(tape, x, t, s)
    return tape.plan(x, s.t)


def heun_churn(
    schedule: Schedule,
    grid: Tensor,
    *,
    churn: float = 40.0,
    lowest: float = 0.05,
    highest: float = 50.0,
) -> Plan:
    r"""Karras' stochastic sampler (EDM, algorithm 2): noise is added before each step of Heun's method. Weak order 2.

    noise level of the step: sigma / alpha -> (1 + gamma) sigma / alpha,   gamma = min(churn / n, sqrt(2) - 1)

    The inflation of the noise (S_noise) is 1, the value for which the method converges to the data's distribution.

    Args:
        schedule: the process's.
        grid: float [n + 1] falling times.
        churn: total amount of noise added, S_churn > 0.
        lowest, highest: the noise levels sigma / alpha between which noise is added (S_tmin, S_tmax).
    """
    if not churn > 0:
        raise ValueError(f"expected churn > 0, got {churn}")
    if not 0 <= lowest <= highest:
        raise ValueError(f"expected 0 <= lowest <= highest, got {lowest} and {highest}")
    tape = Tape()
    x = tape.start
    gamma = min(churn / (len(grid) - 1), math.sqrt(2) - 1)
    pairs = list(steps(schedule, grid))
    noisier = levels_of(schedule, [t.lam - math.log1p(gamma) for t, _ in pairs])
    for (t, s), start in zip(pairs, noisier, strict=True):
        if tape.calls > 0 and lowest <= math.exp(-t.lam) <= highest:
            tape.touch(t.t)
            x = forward(x, tape.noise(), t, start)
            x = _heun_step(tape, x, start, s)
        else:
            x = _heun_step(tape, x, t, s)
    return tape.plan(x, s.t)
