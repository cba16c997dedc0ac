r"""Gaussian diffusion of continuous leaves, whatever the schedule.

    x_t = alpha_t x_0 + sigma_t noise
    x_t = alpha_{t|s} x_s + sqrt(sigma_t^2 - alpha_{t|s}^2 sigma_s^2) noise,   alpha_{t|s} = alpha_t / alpha_s

The clean estimate is the posterior mean E[x_0 | x_t].
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from scidiff.noise import Draw
from scidiff.processes.base import Process
from scidiff.processes.loss_weights import LossWeight
from scidiff.processes.parametrisations import Parametrisation
from scidiff.schedules import Schedule
from scidiff.state import Rows


@dataclass(frozen=True, kw_only=True)
class GaussianProcess(Process):
    """Gaussian noise on every element.

    Attributes:
        schedule: alpha_t and sigma_t.
        parametrisation: what the network's output stands for.
        weight: of the squared error of the clean estimate, by log-SNR; None is the error of the network's own output.
        dtype: precision of the states drawn at t=1.
    """

    schedule: Schedule
    parametrisation: Parametrisation
    weight: LossWeight | None = None
    dtype: torch.dtype = torch.float32

    def levels(self, t: Tensor, rows: Rows) -> tuple[Tensor, Tensor]:
        """alpha_t and sigma_t spread over the rows, in the precision of t: [N, 1, ...]."""
        alpha, sigma = self.schedule(t)
        return rows.per_row(alpha), rows.per_row(sigma)

    def unit_noise(self, rows: Rows, draw: Draw, *, dtype: torch.dtype, kind: str = "noise") -> Tensor:
        """Unit normal noise in the space of the leaf: [N, *shape]."""
        return draw.normal(dtype=dtype, kind=kind)

    def prior(self, rows: Rows, draw: Draw) -> Tensor:
        """sigma_1 noise."""
        one = torch.ones(rows.batch, dtype=torch.float64, device=rows.owner.device)
        _, sigma = self.levels(one, rows)
        return sigma.to(self.dtype) * self.unit_noise(rows, draw, dtype=self.dtype)

    def corrupt(self, x_0: Tensor, t: Tensor, rows: Rows, draw: Draw) -> Tensor:
        """alpha_t x_0 + sigma_t noise."""
        return self.mix(x_0, self.unit_noise(rows, draw, dtype=x_0.dtype), t, rows)

    def mix(self, x_0: Tensor, noise: Tensor, t: Tensor, rows: Rows) -> Tensor:
        """alpha_t x_0 + sigma_t noise, for given noise [N, *shape]."""
        alpha, sigma = self.levels(t, rows)
        return alpha.to(x_0.dtype) * x_0 + sigma.to(x_0.dtype) * noise

    def renoise(self, x_s: Tensor, s: Tensor, t: Tensor, rows: Rows, draw: Draw) -> Tensor:
        """alpha_{t|s} x_s + sqrt(sigma_t^2 - alpha_{t|s}^2 sigma_s^2) noise."""
        alpha_s, sigma_s = self.levels(s, rows)
        alpha_t, sigma_t = self.levels(t, rows)
        kept = torch.where(alpha_s > 0, alpha_t / alpha_s, 1)  # alpha_s = 0 at s = t = 1 alone
        spread = (sigma_t.square() - (kept * sigma_s).square()).clamp_min(0).sqrt()
        return kept.to(x_s.dtype) * x_s + spread.to(x_s.dtype) * self.unit_noise(rows, draw, dtype=x_s.dtype)

    def network_input(self, x_t: Tensor, t: Tensor, rows: Rows) -> Tensor:
        """x_t, scaled as the parametrisation asks."""
        return self.parametrisation.input_scale(*self.levels(t, rows)).to(x_t.dtype) * x_t

    def clean(self, output: Tensor, x_t: Tensor, t: Tensor, rows: Rows) -> Tensor:
        """The posterior mean that an output stands for: [N, *shape]."""
        return self.parametrisation.clean(output, x_t, *self.levels(t, rows))

    def loss(self, clean: Tensor, x_0: Tensor, x_t: Tensor, t: Tensor, rows: Rows) -> Tensor:
        """weight_t |clean - x_0|^2, the mean over the elements of a sample: [B]."""
        error = rows.mean((clean - x_0).square())
        if self.weight is None:
            _, gain = self.parametrisation.coefficients(*self.schedule(t))
            weight = gain.square().reciprocal()
        else:
            weight = self.weight(self.schedule.log_snr(t))
        return weight.to(error.dtype) * error


@dataclass(frozen=True, kw_only=True)
class ZeroMeanGaussianProcess(GaussianProcess):
    """Gaussian noise whose mean over the rows of each sample is zero, for positions that may be shifted freely.

    Data must be centred (`centred`); every state then is, and clean estimates are centred here (Hoogeboom et al., EDM
    for molecules, 2022, appendix A; Xu et al., GeoDiff, 2022). The noise of n points in d dimensions has (n - 1) d
    degrees of freedom.
    """

    def unit_noise(self, rows: Rows, draw: Draw, *, dtype: torch.dtype, kind: str = "noise") -> Tensor:
        """Unit normal noise in the subspace of zero mean."""
        return centred(super().unit_noise(rows, draw, dtype=dtype, kind=kind), rows)

    def clean(self, output: Tensor, x_t: Tensor, t: Tensor, rows: Rows) -> Tensor:
        """The posterior mean, centred."""
        return centred(super().clean(output, x_t, t, rows), rows)


def centred(x: Tensor, rows: Rows) -> Tensor:
    """Rows less their mean over each sample: [N, *shape].

    Raises:
        ValueError: a dense leaf, whose one row a sample would vanish.
    """
    if rows.single:
        raise ValueError("expected a leaf with many rows a sample (a ragged layout), got one row a sample")
    total = x.new_zeros(rows.batch, *x.shape[1:]).index_add(0, rows.owner, x)
    count = x.new_zeros(rows.batch).index_add(0, rows.owner, torch.ones_like(rows.owner, dtype=x.dtype))
    mean = total / count.clamp_min(1).reshape(-1, *([1] * (x.ndim - 1)))
    return x - mean[rows.owner]
