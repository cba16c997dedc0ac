"""The heat kernel of the rotation group, the isotropic Gaussian IGSO(3).

Brownian motion on SO(3), run for time v from the identity, turns by an angle omega in [0, pi] about a uniform axis. Its
density relative to the uniform (Haar) measure is a function of omega alone, a sum over the irreducible representations

    f(omega; v) = sum_l (2l + 1) exp(-l(l+1) v/2) chi_l(omega),      chi_l = sin((l+1/2) omega) / sin(omega/2)

(Leach et al., "Denoising diffusion probabilistic models on SO(3) for rotational alignment", 2022, where epsilon^2 is
v/2; Yim et al., "SE(3) diffusion model with application to protein backbone generation", 2023). It needs more and more
terms as v falls. Poisson summation turns it into a sum over the geodesics that wind round the group,

    f(omega; v) = sqrt(2 pi) v^(-3/2) exp(v/8) / sin(omega/2)
                  * sum_k (-1)^k (omega + 2 pi k) exp(-(omega + 2 pi k)^2 / 2v)

whose term k = 0 is the usual small-time form. Both are exact; at v = 1.5, where this module passes from one to the
other, 9 representations and 5 windings are enough for every digit of float64.

The metric is the one in which the length of a tangent vector is an angle in radians, and the generator half the
Laplacian, so that for small v a rotation vector has variance v in each of its three coordinates.

Everything here is computed in float64 and elementwise: `omega` and `variance` are tensors of broadcastable shapes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from scidiff.state import Rows

_CROSSOVER = 1.5
_DEGREES = 9
_WINDINGS = 2
_SMALLEST_VARIANCE = 1e-30
_PANELS = 24
_REACH = 9.0
_NEWTON_STEPS = 4
_GAUSS_LEGENDRE = tuple((float(x), float(w)) for x, w in zip(*np.polynomial.legendre.leggauss(8), strict=True))


def log_density(omega: Tensor, variance: Tensor) -> Tensor:
    """log f(omega; v), the log-density of the rotation relative to the Haar measure of total mass 1.

    Args:
        omega: angle in radians, in [0, pi].
        variance: v > 0 in radians^2.
    """
    omega, variance = omega.double(), variance.double().clamp_min(_SMALLEST_VARIANCE)
    short = variance.clamp_max(_CROSSOVER)
    flat = 0.5 * math.log(2 * math.pi) - 1.5 * short.log() - omega.square() / (2 * short)
    by_windings = flat + short / 8 + (_windings(omega, short) / (0.5 * torch.sinc(omega / (2 * math.pi)))).log()
    by_degrees = _degrees(omega, variance.clamp_min(_CROSSOVER))
    return torch.where(variance < _CROSSOVER, by_windings, by_degrees.log())


def slope(omega: Tensor, variance: Tensor) -> Tensor:
    """(1/omega) d log f / d omega: the factor that turns a rotation vector into the score.

    With Q = R_0^T R_t and q = log(Q), the score of R_t in the body frame is slope(|q|; v) * q. It tends to -1/v + 1/12
    for small v and omega, and stays finite at omega = 0; at omega = pi, opposite to the start, it is 0.
    """
    omega, variance = omega.double(), variance.double().clamp_min(_SMALLEST_VARIANCE)
    short = variance.clamp_max(_CROSSOVER)
    by_windings = -1 / short + curvature(omega) + _windings_turning(omega, short) / _windings(omega, short)
    long = variance.clamp_min(_CROSSOVER)
    return torch.where(variance < _CROSSOVER, by_windings, _degrees_turning(omega, long) / _degrees(omega, long))


def curvature(omega: Tensor) -> Tensor:
    """(1/omega) (1/omega - cot(omega/2)/2), in the precision of omega, by its Taylor series near 0, where it is 1/12.

    It is the slope of log[omega / sin(omega/2)] over omega, and a coefficient of the inverse of exp's derivative.
    """
    z = omega.clamp_max(0.25).square()
    series = 1 / 12 + z * (1 / 720 + z * (1 / 30240 + z * (1 / 1209600 + z / 47900160)))
    large = omega.clamp_min(0.25)
    return torch.where(omega < 0.25, series, (1 / large - 0.5 / torch.tan(large / 2)) / large)


def angle_density(omega: Tensor, variance: Tensor) -> Tensor:
    """The density of the angle itself, f(omega; v) (1 - cos omega) / pi, which integrates to 1 over [0, pi]."""
    omega = omega.double()
    return log_density(omega, variance).exp() * (2 / math.pi) * (omega / 2).sin().square()


def angle_from_uniform(u: Tensor, variance: Tensor, rows: Rows) -> Tensor:
    """The angle of the kernel by inversion of its cumulative distribution.

    The distribution is tabulated once a sample by Gauss-Legendre quadrature over panels that follow the width of the
    kernel, and inverted within a panel by Newton's method. The result's cumulative probability is u within 1e-12.

    Args:
        u: uniform in (0, 1), [N, ...].
        variance: v >= 0 of each sample, [B].
        rows: which sample owns which row of u.

    Returns:
        Angles in [0, pi], float64 of u's shape.
    """
    shape = u.shape
    u = u.double().reshape(shape[0], -1)
    variance = variance.double()[:, None].clamp_min(_SMALLEST_VARIANCE)
    edges = _panels(variance)
    masses = _integral(lambda w: angle_density(w, variance), edges[:, :-1], edges[:, 1:])
    cumulative = torch.cat([torch.zeros_like(variance), masses.cumsum(-1)], dim=-1)
    cumulative = cumulative / cumulative[:, -1:]
    if not rows.single:
        variance, edges, cumulative = variance[rows.owner], edges[rows.owner], cumulative[rows.owner]

    panel = torch.searchsorted(cumulative[:, 1:-1].contiguous(), u.contiguous())
    low, high = edges.gather(1, panel), edges.gather(1, panel + 1)
    below, above = cumulative.gather(1, panel), cumulative.gather(1, panel + 1)
    # Interpolated in omega^3, to which the mass of a small ball is proportional.
    part = ((u - below) / (above - below).clamp_min(1e-300)).clamp(0, 1)
    omega = (low**3 + part * (high**3 - low**3)) ** (1 / 3)
    for _ in range(_NEWTON_STEPS):
        error = below + _integral(lambda w: angle_density(w, variance), low, omega) - u
        step = error / angle_density(omega, variance).clamp_min(1e-300)
        omega = torch.minimum(torch.maximum(omega - step, low), high)
    return omega.reshape(shape)


def information(variance: Tensor) -> Tensor:
    """KL(kernel || Haar measure) = int f log f, in nats: float64 [B]."""
    variance = variance.double()[:, None].clamp_min(_SMALLEST_VARIANCE)
    edges = _panels(variance)

    def nats(omega: Tensor) -> Tensor:
        return angle_density(omega, variance) * log_density(omega, variance)

    return _integral(nats, edges[:, :-1], edges[:, 1:]).sum(-1).clamp_min(0)


def _panels(variance: Tensor) -> Tensor:
    """Edges between which the kernel of each variance has its mass: [B, 1] -> [B, _PANELS + 1]."""
    reach = (_REACH * variance.sqrt()).clamp_max(math.pi)
    return reach * torch.arange(_PANELS + 1, dtype=torch.float64, device=variance.device) / _PANELS


def _windings(omega: Tensor, variance: Tensor) -> Tensor:
    """P = sum_k (-1)^k (1 + 2 pi k/omega) exp(-(2 pi k omega + 2 pi^2 k^2)/v).

    The windings k and -k are paired, which takes the pole at omega = 0 away: with c = 2 pi k/v and y = c omega,

        pair = 2 (-1)^k exp(-2 pi^2 k^2/v) [cosh y - 2 pi k c sinh(y)/y]

    Here, and in its derivative, every exponential has a non-positive exponent.
    """
    total = torch.ones_like(omega * variance)
    for k in range(1, _WINDINGS + 1):
        c, _, peak, back, sinhc = _pair(k, omega, variance)
        total = total + peak * (1 + back - 4 * math.pi * k * c * sinhc)
    return total


def _windings_turning(omega: Tensor, variance: Tensor) -> Tensor:
    """P'/omega."""
    total = torch.zeros_like(omega * variance)
    for k in range(1, _WINDINGS + 1):
        c, y, peak, back, sinhc = _pair(k, omega, variance)
        total = total + peak * c**2 * (2 * sinhc - 4 * math.pi * k * c * _sinhc_turning(y, back, sinhc))
    return total


def _pair(k: int, omega: Tensor, variance: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """c, y, (-1)^k exp(y - 2 pi^2 k^2/v), exp(-2y) and exp(-y) sinh(y)/y of the windings k and -k."""
    c = 2 * math.pi * k / variance
    y = c * omega
    peak = (-1) ** k * torch.exp(-2 * math.pi * k * (math.pi * k - omega) / variance)
    sinhc = torch.where(y > 1e-8, -torch.expm1(-2 * y) / (2 * y).clamp_min(1e-8), 1 - y)
    return c, y, peak, torch.exp(-2 * y), sinhc


def _sinhc_turning(y: Tensor, back: Tensor, sinhc: Tensor) -> Tensor:
    """exp(-y) (1/y) d/dy [sinh(y)/y], by its Taylor series where the closed form cancels."""
    z = y.clamp_max(0.2).square()
    series = 1 / 3 + z * (1 / 30 + z * (1 / 840 + z * (1 / 45360 + z / 3991680)))
    closed = ((1 + back) / 2 - sinhc) / y.clamp_min(0.2).square()
    return torch.where(y < 0.2, torch.exp(-y) * series, closed)


def _degrees(omega: Tensor, variance: Tensor) -> Tensor:
    """f by the sum over representations, with chi_l = 1 + 2 sum_{m=1}^l cos(m omega)."""
    return sum(
        (tail * (1 if m == 0 else 2) * torch.cos(m * omega) for m, tail in _tails(variance)),
        torch.zeros_like(omega * variance),
    )


def _degrees_turning(omega: Tensor, variance: Tensor) -> Tensor:
    """f'/omega."""
    return sum(
        (-2 * m**2 * tail * torch.sinc(m * omega / math.pi) for m, tail in _tails(variance)),
        torch.zeros_like(omega * variance),
    )


def _tails(variance: Tensor) -> Iterator[tuple[int, Tensor]]:
    """m and sum_{l >= m} (2l + 1) exp(-l(l+1) v/2), from the largest m down."""
    tail = torch.zeros_like(variance)
    for m in range(_DEGREES - 1, -1, -1):
        tail = tail + (2 * m + 1) * torch.exp(-0.5 * m * (m + 1) * variance)
        yield m, tail


def _integral(density: Callable[[Tensor], Tensor], low: Tensor, high: Tensor) -> Tensor:
    """Eight-point Gauss-Legendre integral of `density` from `low` to `high`, elementwise."""
    half, centre = (high - low) / 2, (high + low) / 2
    total = torch.zeros_like(half)
    for node, weight in _GAUSS_LEGENDRE:
        total = total + weight * density(centre + half * node)
    return half * total
