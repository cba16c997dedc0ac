"""The torus: angles, and any other coordinate that comes round again, such as fractional coordinates in a crystal.

The heat kernel is the wrapped normal distribution, with P the period and d = x_t - x_0,

    q(x_t | x_0) = sum_k N(d + P k; 0, v)                                                (sum over windings)
                 = (1/P) [1 + 2 sum_{m>=1} exp(-2 pi^2 m^2 v / P^2) cos(2 pi m d / P)]    (sum over waves)

The two are one Jacobi theta function (Jing et al., "Torsional diffusion for molecular conformer generation", 2022,
give the first). Seven windings below v/P^2 = 1/2 pi and three waves above it are exact to every digit of
float64, in which both are computed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from scidiff.noise import Draw
from scidiff.processes.manifold import Manifold
from scidiff.state import Rows

_CROSSOVER = 1 / (2 * math.pi)
_WINDINGS = 3
_WAVES = 3
_SMALLEST_VARIANCE = 1e-30
_REACH = 9.0  # standard deviations beyond which a normal distribution holds nothing
_GAUSS_LEGENDRE = np.polynomial.legendre.leggauss(64)


def wrap(x: Tensor, period: float = 2 * math.pi) -> Tensor:
    """The representative of x in [-period/2, period/2]."""
    return x - period * torch.round(x / period)


def wrapped_normal_log_density(d: Tensor, variance: Tensor, period: float = 2 * math.pi) -> Tensor:
    """log sum_k N(d + period k; 0, variance), float64; arguments of broadcastable shapes, variance > 0."""
    d, v = _reduced(d, variance, period)
    short = v.clamp_max(_CROSSOVER)
    windings = _windings(d, short)[0].log() - d.square() / (2 * short) - 0.5 * (2 * math.pi * short).log()
    waves = _waves(d, v.clamp_min(_CROSSOVER))[0].log()
    return torch.where(v < _CROSSOVER, windings, waves) - math.log(period)


def wrapped_normal_score(d: Tensor, variance: Tensor, period: float = 2 * math.pi) -> Tensor:
    """The derivative of `wrapped_normal_log_density` by d, float64. It vanishes at d = 0 and at d = period/2."""
    d, v = _reduced(d, variance, period)
    short = v.clamp_max(_CROSSOVER)
    weight, displacement = _windings(d, short)
    density, derivative = _waves(d, v.clamp_min(_CROSSOVER))
    return torch.where(v < _CROSSOVER, -displacement / (weight * short), derivative / density) / period


def _reduced(d: Tensor, variance: Tensor, period: float) -> tuple[Tensor, Tensor]:
    """Difference and variance in units of the period."""
    d, variance = torch.broadcast_tensors(wrap(d.double(), period), variance.double())
    return d / period, (variance / period**2).clamp_min(_SMALLEST_VARIANCE)


def _windings(d: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """sum_k N(d + k)/N(d) and sum_k (d + k) N(d + k)/N(d), in periods; |d| <= 1/2 makes k = 0 the largest."""
    weight, displacement = torch.ones_like(d), d
    for k in (k for j in range(1, _WINDINGS + 1) for k in (j, -j)):
        ratio = torch.exp(-k * (k + 2 * d) / (2 * v))
        weight = weight + ratio
        displacement = displacement + (d + k) * ratio
    return weight, displacement


def _waves(d: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """The density and its derivative by the sum over waves, in units of the period."""
    density, derivative = torch.ones_like(d), torch.zeros_like(d)
    for m in range(1, _WAVES + 1):
        wave = 2 * math.pi * m
        height = 2 * torch.exp(-0.5 * wave**2 * v)
        density = density + height * torch.cos(wave * d)
        derivative = derivative - wave * height * torch.sin(wave * d)
    return density, derivative


@dataclass(frozen=True, kw_only=True)
class Torus(Manifold):
    """Angles: rows of any shape, each element an independent angle in [-period/2, period/2].

    Attributes:
        period: 2 pi for radians, 1 for fractional coordinates.
    """

    period: float = 2 * math.pi

    point = ()
    vector = ()

    def __post_init__(self) -> None:
        if not self.period > 0:
            raise ValueError(f"expected a positive period, got {self.period}")

    @property
    def log_uniform(self) -> float:  # type: ignore[override]
        """-log(period)."""
        return -math.log(self.period)

    def exp(self, x: Tensor, v: Tensor) -> Tensor:
        """wrap(x + v)."""
        return wrap(x + v, self.period)

    def log(self, x: Tensor, y: Tensor) -> Tensor:
        """wrap(y - x)."""
        return wrap(y - x, self.period)

    def uniform(self, rows: Rows, draw: Draw, *, dtype: torch.dtype = torch.float32) -> Tensor:
        """Uniform angles [N, *shape]."""
        return (self.period * (draw.uniform() - 0.5)).to(dtype)

    def diffuse(self, x: Tensor, variance: Tensor, rows: Rows, draw: Draw) -> Tensor:
        """wrap(x + sigma z)."""
        return wrap(x + self.per_point(variance.sqrt(), rows).to(x.dtype) * draw.normal(dtype=x.dtype), self.period)

    def score(self, x_t: Tensor, x_0: Tensor, variance: Tensor, rows: Rows) -> Tensor:
        """Score of the wrapped normal, [N, *shape] in x_t's precision."""
        return wrapped_normal_score(x_t - x_0, self.per_point(variance, rows), self.period).to(x_t.dtype)

    def log_kernel(self, x_t: Tensor, x_0: Tensor, variance: Tensor, rows: Rows) -> Tensor:
        """Log-density of the wrapped normal, float64 [N, *shape]."""
        return wrapped_normal_log_density(x_t - x_0, self.per_point(variance, rows), self.period)

    def information(self, variance: Tensor) -> Tensor:
        """log(period) less the entropy of the wrapped normal, by quadrature."""
        reach = (_REACH * variance.double().sqrt()).clamp_max(self.period / 2)[:, None]
        points, weights = (torch.as_tensor(a, device=variance.device) for a in _GAUSS_LEGENDRE)
        log_density = wrapped_normal_log_density(reach * (points + 1) / 2, variance[:, None], self.period)
        # the integral over half a turn, twice
        return (reach * weights * log_density.exp() * (log_density - self.log_uniform)).sum(-1).clamp_min(0)
