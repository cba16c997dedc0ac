r"""Schedules of categorical noise: the probability alpha_t that an element still has its own class at time t.

    q(x_t | x_0) = alpha_t [x_t = x_0] + (1 - alpha_t) pi(x_t),        alpha_0 = 1, falling to alpha_1

pi is what noise looks like: one mask class, uniform, or the marginal distribution of the data.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


class Survival(Protocol):
    """What every schedule answers. Times lie in [0, 1]; results have their shape and dtype."""

    def __call__(self, t: Tensor) -> Tensor:
        """alpha_t."""

    def slope(self, t: Tensor) -> Tensor:
        """d alpha_t / dt, never positive."""


@dataclass(frozen=True, kw_only=True)
class Polynomial:
    """alpha_t = 1 - t^power; power 1 is the "log-linear" schedule of masked diffusion (Sahoo et al. 2024, appendix)."""

    power: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.power < math.inf:
            raise ValueError(f"expected a finite power > 0, got {self.power}")

    def __call__(self, t: Tensor) -> Tensor:
        return 1 - t**self.power

    def slope(self, t: Tensor) -> Tensor:
        return -self.power * t ** (self.power - 1)


@dataclass(frozen=True, kw_only=True)
class CosineSurvival:
    """alpha_t = 1 - sin(pi t / 2): few elements change near the noise (Chang et al., MaskGIT, 2022)."""

    def __call__(self, t: Tensor) -> Tensor:
        return 1 - torch.sin(math.pi / 2 * t)

    def slope(self, t: Tensor) -> Tensor:
        return -math.pi / 2 * torch.cos(math.pi / 2 * t)


@dataclass(frozen=True, kw_only=True)
class Geometric:
    """alpha_t = exp(low - low^(1 - t) high^t): a geometric noise rate (Lou et al., SEDD, 2024), shifted so alpha_0 = 1.

    alpha_1 = exp(low - high) stays above 0.
    """

    low: float = 1e-3
    high: float = 20.0

    def __post_init__(self) -> None:
        if not 0 < self.low < self.high < math.inf:
            raise ValueError(f"expected 0 < low < high, got {self.low} and {self.high}")

    def _integrated(self, t: Tensor) -> Tensor:
        return self.low * torch.expm1(math.log(self.high / self.low) * t)

    def __call__(self, t: Tensor) -> Tensor:
        return torch.exp(-self._integrated(t))

    def slope(self, t: Tensor) -> Tensor:
        return -math.log(self.high / self.low) * (self._integrated(t) + self.low) * self(t)
