r"""What a network's output stands for where data are, to second order, a field that only shifts along x leave alike.

As `scidiff.processes.stationary`, with the principal axes of a `Covariance` in place of waves: mode by mode

    clean = W x_t + g output,   W = alpha_t v / r,   g = sigma_t sqrt(v / r),   r = alpha_t^2 v + sigma_t^2.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from scidiff.fluids.covariance import Covariance
from scidiff.processes.parametrisations import Parametrisation


@dataclass(frozen=True, kw_only=True, eq=False)
class Correlated(Parametrisation):
    """Wiener's filter, and a network for the rest: fields [N, 1, H, W] without mean.

    The network is given x_t and its filtered estimate, [N, 2, H, W].

    Attributes:
        covariance: of the data.
    """

    covariance: Covariance
    _single: Covariance = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_single", self.covariance.single())

    def coefficients(self, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """The mean of W, and the root mean square of g: the standard deviation that Wiener's filter leaves."""
        keep, gain = self._filters(alpha.reshape(-1), sigma.reshape(-1), like=self._single.variance.to(alpha.device))
        share = self._dimensions().to(keep)
        share = (share / share.sum())[:, :, None]
        mean, square = ((c * share).sum((1, 2, 3)) for c in (keep, gain.square()))
        return mean.to(alpha).reshape(alpha.shape), square.sqrt().to(alpha).reshape(alpha.shape)

    def input_scale(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        """One over the standard deviation of x_t."""
        return (alpha.square() * self._variance().to(alpha) + sigma.square()).rsqrt()

    def network_input(self, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """x_t and its filtered estimate, both of about unit variance: [N, 2, H, W]."""
        plain = self.input_scale(alpha, sigma).to(x_t.dtype) * x_t
        return torch.cat([plain, self._filtered(x_t, alpha, sigma) / self._variance().to(x_t).sqrt()], 1)

    def clean(self, output: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """W x_t + g output."""
        covariance = self._single.to(x_t)
        keep, gain = self._filters(alpha, sigma, like=covariance.variance)
        both = keep[:, None] * covariance.coordinates(x_t) + gain[:, None] * covariance.coordinates(output)
        return covariance.fields(both).to(x_t.dtype)

    def output(self, clean: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """The output that stands for a clean estimate; 0 in modes without variance."""
        covariance = self._single.to(x_t)
        _, gain = self._filters(alpha, sigma, like=covariance.variance)
        rest = covariance.coordinates(clean - self._filtered(x_t, alpha, sigma))
        back = torch.where(gain > 0, 1 / torch.where(gain > 0, gain, 1), 0)
        return covariance.fields(rest * back[:, None]).to(x_t.dtype)

    def _filters(self, alpha: Tensor, sigma: Tensor, *, like: Tensor) -> tuple[Tensor, Tensor]:
        """W and g of each axis: [N, W // 2 + 1, H, 1]."""
        a, s = (level.to(like).reshape(-1, 1, 1, 1) for level in (alpha, sigma))
        v = like[:, :, None]
        total = a.square() * v + s.square()
        total = torch.where(total > 0, total, 1)
        return a * v / total, s * (v / total).sqrt()

    def _filtered(self, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        covariance = self._single.to(x_t)
        keep, _ = self._filters(alpha, sigma, like=covariance.variance)
        return covariance.fields(keep[:, None] * covariance.coordinates(x_t)).to(x_t.dtype)

    def _dimensions(self) -> Tensor:
        """How many real coordinates stand for each axis, [W // 2 + 1, H]: waves along x that stand for two have two."""
        count = torch.full_like(self._single.variance, 2)
        count[0] = 1
        if self._single.width % 2 == 0:
            count[-1] = 1
        return count

    def _variance(self) -> Tensor:
        """Of the data, averaged over the grid."""
        count = self._dimensions()
        return (self._single.variance * count).sum() / count.sum()
