r"""Noise levels of a grid, and the algebra of steps between them.

With half the log-SNR, lambda = log(alpha / sigma), and the step h = lambda_s - lambda_t > 0, every exponential
integrator is a sum of exp(-h) and expm1(-h), both finite at the ends: h = inf where alpha_t = 0 or sigma_s = 0.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from scidiff.schedules import Schedule
from scidiff.solvers.plan import Linear, Tape

Curve = Callable[[np.ndarray], np.ndarray]

_POINTS, _WEIGHTS = np.polynomial.legendre.leggauss(64)


@dataclass(frozen=True, kw_only=True)
class Level:
    """One time of a grid: t, alpha_t, sigma_t and lambda_t = log(alpha_t / sigma_t), as host floats."""

    t: float
    alpha: float
    sigma: float
    lam: float


def levels(schedule: Schedule, grid: Tensor) -> list[Level]:
    """The levels at the times of a grid: float [n + 1], falling strictly within [0, 1].

    Raises:
        ValueError: for any other grid, and for one that calls the denoiser without noise (sigma_t = 0).
    """
    times = torch.as_tensor(grid, dtype=torch.float64, device="cpu")
    if times.ndim != 1 or len(times) < 2:
        raise ValueError(f"expected a grid of at least two times, got shape {tuple(times.shape)}")
    if bool((times.diff() >= 0).any()) or float(times[0]) > 1 or float(times[-1]) < 0:
        raise ValueError(f"expected times that fall strictly from at most 1 to at least 0, got {times.tolist()}")
    found = levels_at(schedule, times)
    if found[-2].sigma <= 0:
        raise ValueError(f"expected noise at every time but the last, got sigma = 0 at t = {found[-2].t}")
    return found


def levels_at(schedule: Schedule, times: Tensor) -> list[Level]:
    """The levels at any times, float64 [n]."""
    with torch.no_grad():
        alpha, sigma = schedule(times)
        lam = schedule.log_snr(times) / 2
    columns = (column.tolist() for column in (times, alpha, sigma, lam))
    return [Level(t=t, alpha=a, sigma=s, lam=x) for t, a, s, x in zip(*columns, strict=True)]


def levels_of(schedule: Schedule, lam: Sequence[float]) -> list[Level]:
    """The levels at which half the log-SNR has the values `lam`."""
    return levels_at(schedule, schedule.time(2 * torch.tensor(lam, dtype=torch.float64)).detach())


def slope(curve: Callable[[Tensor], Tensor], times: Tensor) -> Tensor:
    """d curve / dt at each of the times, float64 [n]; the curve acts on each time by itself."""
    t = times.detach().clone().requires_grad_()
    # A curve that does not depend on t has no graph of its own: 0 * t gives it one.
    (found,) = torch.autograd.grad((curve(t) + 0 * t).sum(), t)
    return found


def steps(schedule: Schedule, grid: Tensor) -> Iterator[tuple[Level, Level]]:
    """The steps (t, s) of a grid, from noise to data."""
    return itertools.pairwise(levels(schedule, grid))


def log_ratio(t: Level, s: Level) -> float:
    """h = lambda_s - lambda_t; inf for a step from no signal or to no noise."""
    return s.lam - t.lam


def is_open(t: Level, s: Level) -> bool:
    """Whether h is infinite: t has no signal or s no noise. There the first-order step is all that is defined."""
    return math.isinf(log_ratio(t, s))


def noise_estimate(x: Linear, clean: Linear, t: Level) -> Linear:
    """The noise that a clean estimate implies: (x_t - alpha_t clean) / sigma_t."""
    return (x - t.alpha * clean) / t.sigma


def first_order(tape: Tape, x: Linear, clean: Linear, t: Level, s: Level, *, rate: float = 0.0) -> Linear:
    r"""The step that is exact for a constant clean estimate, defined for every step of every schedule.

    x_s = (sigma_s / sigma_t) exp(-rate h) x_t + alpha_s (1 - exp(-(1 + rate) h)) clean
          + sigma_s sqrt(1 - exp(-2 rate h)) noise

    `rate` is the noise put back relative to the reverse-time SDE: 0 is the probability flow (DDIM), 1 the SDE itself,
    where the step is DDPM's ancestral one. A step to sigma_s = 0 is the clean estimate.
    """
    kept, clean_weight, spread = stochastic_step(t, s, rate=rate)
    x = kept * x + clean_weight * clean
    return x + spread * tape.noise() if spread > 0 else x


def stochastic_step(t: Level, s: Level, *, rate: float) -> tuple[float, float, float]:
    """The three coefficients of `first_order`: of x_t, of the clean estimate, of the noise."""
    h = log_ratio(t, s)
    damping = rate * h if rate > 0 else 0.0
    kept = s.sigma / t.sigma * math.exp(-damping)
    return kept, -s.alpha * math.expm1(-h - damping), s.sigma * math.sqrt(-math.expm1(-2 * damping))


def forward(x: Linear, noise: Linear, s: Level, t: Level) -> Linear:
    """Noise added to go back from s to the noisier t: a sample of q(x_t | x_s).

    x_t = (alpha_t / alpha_s) x_s + sigma_t sqrt(1 - exp(-2 h)) noise
    """
    return (t.alpha / s.alpha) * x + t.sigma * math.sqrt(-math.expm1(-2 * log_ratio(t, s))) * noise


def lagrange(nodes: Sequence[float], at: np.ndarray) -> np.ndarray:
    """The Lagrange polynomials of the nodes, float64 [nodes, *at.shape]: 1 at their own node, 0 at the others."""
    basis = np.ones((len(nodes), *at.shape))
    for j, node in enumerate(nodes):
        for i, other in enumerate(nodes):
            if i != j:
                basis[j] *= (at - other) / (node - other)
    return basis


def integrate(curve: Curve, low: float, high: float) -> np.ndarray:
    """The integral of a smooth curve [..., points] by `quadrature`."""
    points, weights = quadrature(np.array(low), np.array(high))
    return (curve(points) * weights).sum(-1)


def quadrature(low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Points and weights of the 64-point Gauss-Legendre rule on each interval: two arrays [*low.shape, 64]."""
    half = ((high - low) / 2)[..., None]
    return low[..., None] + half * (1 + _POINTS), half * _WEIGHTS


def clean_weights(t: Level, s: Level, nodes: Sequence[Level], *, rate: float = 0.0) -> np.ndarray:
    r"""Weights w_j of the clean estimates at the nodes in the exponential integral over a step from t to s.

    w_j = alpha_s (1 + rate) int_{lambda_t}^{lambda_s} exp(-(1 + rate) (lambda_s - l)) ell_j(l) dl

    with ell_j the Lagrange polynomials: exact where the clean estimate is a polynomial in lambda. DPM-Solver++ (Lu et
    al. 2022, eq. 9); with `rate`, SA-Solver (Xue et al. 2023, eq. 14).
    """
    places = [node.lam for node in nodes]

    def curve(lam: np.ndarray) -> np.ndarray:
        return (1 + rate) * np.exp(-(1 + rate) * (s.lam - lam)) * lagrange(places, lam)

    return s.alpha * integrate(curve, t.lam, s.lam)


def combine(weights: Sequence[float] | np.ndarray, values: Sequence[Linear]) -> Linear:
    """sum_j weights[j] values[j]."""
    total = Linear()
    for weight, value in zip(weights, values, strict=True):
        total = total + float(weight) * value
    return total
