"""Ancestral sampling: DDPM, with fixed or learned variance, and DDIM."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from scidiff.noise import Draw
from scidiff.processes.base import Process
from scidiff.schedules import Schedule
from scidiff.solvers.base import Rule, Trace
from scidiff.solvers.levels import Level, levels, log_ratio, noise_estimate, steps, stochastic_step
from scidiff.solvers.plan import Linear, Plan, Tape, UnitNoise
from scidiff.state import Rows


def ddim_step(tape: Tape, x: Linear, clean: Linear, t: Level, s: Level, *, eta: float) -> Linear:
    r"""One step of DDIM (Song et al. 2021, eq. 12 and 16).

    x_s = alpha_s clean + sqrt(sigma_s^2 - spread^2) (x_t - alpha_t clean) / sigma_t + spread noise,
    spread = eta sigma_s sqrt(1 - exp(-2 h))
    """
    fresh = -(eta**2) * math.expm1(-2 * log_ratio(t, s))  # the fraction of the noise variance that is drawn anew
    x = s.alpha * clean + s.sigma * math.sqrt(1 - fresh) * noise_estimate(x, clean, t)
    return x + s.sigma * math.sqrt(fresh) * tape.noise() if s.sigma * fresh > 0 else x


def ddim(schedule: Schedule, grid: Tensor, *, eta: float = 0.0) -> Plan:
    """DDIM: deterministic at eta = 0 (order 1), DDPM's ancestral sampling at eta = 1 (weak order 1).

    Args:
        schedule: the process's.
        grid: float [n + 1] falling times.
        eta: in [0, 1], the fresh noise relative to ancestral sampling.
    """
    if not 0 <= eta <= 1:
        raise ValueError(f"expected eta in [0, 1], got {eta}")
    tape = Tape()
    x = tape.start
    for t, s in steps(schedule, grid):
        x, clean = tape.denoise(x, t.t)
        x = ddim_step(tape, x, clean, t, s, eta=eta)
    return tape.plan(x, s.t)


def ddpm(schedule: Schedule, grid: Tensor, *, spread: float = 0.0) -> Plan:
    r"""Ancestral sampling (Ho et al. 2020, algorithm 2). Weak order 1.

    x_s = mean of q(x_s | x_t, x_0 = clean) + sqrt(variance) noise,
    variance = (1 - exp(-2 h)) sigma_s^(2 - 2 spread) sigma_t^(2 spread)

    Args:
        schedule: the process's.
        grid: float [n + 1] falling times.
        spread: in [0, 1]; 0 is the posterior's variance, right for data at a point; 1 is the larger one of
            q(x_t | x_s), right for unit normal data.
    """
    if not 0 <= spread <= 1:
        raise ValueError(f"expected spread in [0, 1], got {spread}")
    tape = Tape()
    x = tape.start
    for t, s in steps(schedule, grid):
        x, clean = tape.denoise(x, t.t)
        kept, clean_weight, deviation = stochastic_step(t, s, rate=1.0)
        x = kept * x + clean_weight * clean
        if deviation > 0:
            x = x + deviation * (t.sigma / s.sigma) ** spread * tape.noise()
    return tape.plan(x, s.t)


@dataclass(frozen=True, kw_only=True)
class LearnedVariance(Rule):
    r"""Ancestral sampling with the variance that the network gives (Nichol & Dhariwal 2021, eq. 15). Weak order 1.

    log variance = log(1 - exp(-2 h)) + 2 v log(sigma_t) + 2 (1 - v) log(sigma_s),   v = (output + 1) / 2

    The output is read from the clean estimate's "leaf.variance", [N, *shape], meant to lie in [-1, 1].
    Build it with `ddpm_learned`.
    """

    times: tuple[float, ...]
    reach: tuple[float, ...]
    memory: int
    kept: tuple[float, ...]
    clean_weight: tuple[float, ...]
    log_deviation: tuple[tuple[float, float], ...]  # at v = 0 and at v = 1

    def advance(self, k: int, trace: Trace, process: Process, rows: Rows, draw: Callable[[int], Draw]) -> Tensor:
        x, clean, output = trace.x[k], trace.clean[k], trace.variance[k]
        if x is None or clean is None or output is None:
            raise ValueError("expected a learned variance beside the clean estimate, got none")
        mean = torch.add(self.kept[k] * x, clean, alpha=self.clean_weight[k])
        low, high = self.log_deviation[k]
        if math.isinf(low):
            return mean
        noise = cast(UnitNoise, process).unit_noise(rows, draw(k + 1), dtype=x.dtype, kind="noise0")
        return mean + torch.exp(low + (high - low) * (output + 1) / 2) * noise


def ddpm_learned(schedule: Schedule, grid: Tensor) -> LearnedVariance:
    """Ancestral sampling with learned variance on a grid, float [n + 1] falling times."""
    found = levels(schedule, grid)
    moves, log_deviation = [], []
    for t, s in itertools.pairwise(found):
        moves.append(stochastic_step(t, s, rate=1.0))
        low = math.log(moves[-1][2]) if s.sigma > 0 else -math.inf
        log_deviation.append((low, low + math.log(t.sigma / s.sigma) if s.sigma > 0 else -math.inf))
    return LearnedVariance(
        times=tuple(level.t for level in found),
        reach=tuple(level.t for level in found[1:]),
        memory=0,
        kept=tuple(kept for kept, _, _ in moves),
        clean_weight=tuple(weight for _, weight, _ in moves),
        log_deviation=tuple(log_deviation),
    )
