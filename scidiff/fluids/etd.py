r"""Exponential time differencing for stiff linear terms:   d u / dt = L u + N(u),   L diagonal.

ETDRK4 (Cox & Matthews 2002): fourth order in the step, exact where N = 0, with the coefficients as contour integrals
(Kassam & Trefethen 2005).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

_CONTOUR = 32  # points of the integrals, exact to rounding


def integrate(u: Tensor, rate: Callable[[Tensor], Tensor], linear: Tensor, *, step: float, steps: int) -> Tensor:
    """u [..., *modes], complex, `steps` time steps later.

    Args:
        u: coefficients.
        rate: N, from coefficients to their rate of change.
        linear: L, [*modes], real or complex.
        step: of time.
        steps: how many.

    Raises:
        FloatingPointError: the step was too long, the flow is no longer finite.
    """
    weights = _weights(linear, step, like=u)
    for _ in range(steps):
        u = _advance(u, rate, weights)
    if not bool(u.isfinite().all()):
        raise FloatingPointError(f"expected a stable time step, got {step}: the flow is no longer finite")
    return u


@dataclass(frozen=True, kw_only=True)
class _Weights:
    """exp(h L), exp(h L / 2), the half step's weight, and those of the start, the middle and the end of a step."""

    whole: Tensor
    half: Tensor
    half_weight: Tensor
    start: Tensor
    middle: Tensor
    end: Tensor


def _weights(linear: Tensor, step: float, *, like: Tensor) -> _Weights:
    """Cox & Matthews, eq. 26-29; each integral is the mean of its integrand over a unit circle about h L."""
    h_l = (step * linear.to(torch.complex128))[..., None]
    angles = (torch.arange(_CONTOUR, dtype=torch.float64) + 0.5) * (2 * math.pi / _CONTOUR)
    z = h_l + torch.polar(torch.ones_like(angles), angles)
    e = torch.exp(z)
    parts = {
        "half_weight": (torch.exp(z / 2) - 1) / z,
        "start": (-4 - z + e * (4 - 3 * z + z**2)) / z**3,
        "middle": (2 + z + e * (z - 2)) / z**3,
        "end": (-4 - 3 * z - z**2 + e * (4 - z)) / z**3,
    }
    means = {name: (step * part.mean(-1)).to(like.device, like.dtype) for name, part in parts.items()}
    exact = {"whole": torch.exp(h_l[..., 0]), "half": torch.exp(h_l[..., 0] / 2)}
    return _Weights(**means, **{name: value.to(like.device, like.dtype) for name, value in exact.items()})


def _advance(u: Tensor, rate: Callable[[Tensor], Tensor], w: _Weights) -> Tensor:
    """One step of ETDRK4 (Cox & Matthews, eq. 26-29)."""
    first = rate(u)
    halfway = w.half * u
    a = halfway + w.half_weight * first
    second = rate(a)
    third = rate(halfway + w.half_weight * second)
    fourth = rate(w.half * a + w.half_weight * (2 * third - first))
    return w.whole * u + w.start * first + 2 * w.middle * (second + third) + w.end * fourth
