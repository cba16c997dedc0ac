r"""The nearest numbers between bounds from which measured values follow by a linear operator, within unit noise.

    minimise   |y - J x|^2 / 2 + sum_d (x_d - centre_d)^2 / (2 variance_d)   over   low <= x <= high

is x = clip(centre + variance J^T w), with a weight w = y - J x for each value, and the weights minimise

    |w|^2 / 2 - y^T w + sum_d h_d((J^T w)_d),    h_d(s) = max_{low <= x <= high} s x - (x - centre_d)^2 / (2 variance_d)

which is convex, piecewise quadratic and has as many unknowns as there are values. Newton's method (semismooth: Qi & Sun
1993), whose steps are halved until the sum falls as the slope promises, ends once it is settled what sits on a bound.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

_STEPS = 50  # most need 5 to 10
_HALVINGS = 20
_CLOSE = 1e-10  # of the values: a slope that ends the search
_ROUNDING = 1e-14  # of the sum
_SHARE = 1e-4  # of what the slope promises, by which a step has to lower the sum (Armijo)


@dataclass(frozen=True, kw_only=True)
class Bounded:
    """What is minimised, float64.

    Attributes:
        centre: [B, D], between the bounds.
        variance: [B, D], > 0.
        operator: J, [B, M, D], in units of the noise.
        values: y, in the same, [B, M].
        bounds: low and high, which may be infinite.
    """

    centre: Tensor
    variance: Tensor
    operator: Tensor
    values: Tensor
    bounds: tuple[float, float]

    def nearest(self) -> Tensor:
        """The minimum, [B, D]."""
        w = torch.zeros_like(self.values)
        total, x = self._dual(w)
        for _ in range(_STEPS):
            slope = self._off(x) - w
            if bool((slope.norm(dim=1) <= _CLOSE * self.values.norm(dim=1)).all()):
                break
            step = torch.linalg.solve(self._curvature(x), slope)
            due, size = _SHARE * (slope * step).sum(1), torch.ones_like(total)
            for _ in range(_HALVINGS):
                ahead, x = self._dual(w + size[:, None] * step)
                worse = ahead > total - size * due + _ROUNDING * total.abs()
                if not bool(worse.any()):
                    break
                size = torch.where(worse, size / 2, size)
            w, total = w + size[:, None] * step, ahead
        return x

    def _off(self, x: Tensor) -> Tensor:
        """y - J x, [B, M]."""
        return self.values - (self.operator @ x[..., None])[..., 0]

    def _dual(self, w: Tensor) -> tuple[Tensor, Tensor]:
        """What the weights [B, M] minimise, but for a constant, [B], and the numbers that they lead to, [B, D]."""
        pull = (w[:, None] @ self.operator)[:, 0]
        x = (self.centre + self.variance * pull).clamp(*self.bounds)
        moved = x - self.centre
        most = pull * moved - moved.square() / (2 * self.variance)
        return w.square().sum(1) / 2 - (self._off(self.centre) * w).sum(1) + most.sum(1), x

    def _curvature(self, x: Tensor) -> Tensor:
        """Of the sum, by the weights: [B, M, M]."""
        low, high = self.bounds
        free = torch.where((x > low) & (x < high), self.variance, 0)
        one = torch.eye(self.values.shape[1], dtype=x.dtype, device=x.device)
        return one + (self.operator * free[:, None]) @ self.operator.mT
