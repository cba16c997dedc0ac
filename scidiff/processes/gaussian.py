r"""Gaussian diffusion of continuous leaves, whatever the schedule.

    x_t = alpha_t x_0 + sigma_t noise
    x_t = alpha_{t|s} x_s + sqrt(sigma_t^2 - alpha_{t|s}^2 sigma_s^2) noise,   alpha_{t|s} = alpha_t / alpha_s

The clean estimate is the posterior mean E[x_0 | x_t].
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from scidiff.noise import Draw
from scidiff.processes.base import Process
from scidiff.processes.loss_weights import LossWeight
from scidiff.processes.parametrisations import Parametrisation
from scidiff.schedules import Schedule
from scidiff.state import Rows

VARIANCE_STEPS = 1000
"""Number of steps for which a learned variance is trained."""


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
        return self.parametrisation.network_input(x_t, *self.levels(t, rows))

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

    def variance_loss(self, variance: Tensor, clean: Tensor, x_0: Tensor, t: Tensor, rows: Rows) -> Tensor:
        r"""What a learned variance is trained by: the bound's KL(q(x_s | x_t, x_0) || p(x_s | x_t)): [B].

            log spread_v^2 = log(1 - exp(-2 h)) + (1 - v) log sigma_s^2 + v log sigma_t^2,   v = (output + 1) / 2

        for s = t - 1 / VARIANCE_STEPS, the mean over elements, no gradient through the mean; 0 in the last step, which
        has none (Nichol & Dhariwal 2021, eq. 15 and 16: lambda = 0.001 takes the sum over 1000 steps back to one).

        Args:
            variance: [N, *shape], the network's output, meant to lie in [-1, 1].
            clean: the clean estimate.
            x_0: the data.
            t: [B].
            rows: the leaf's rows.
        """
        last = t <= 1 / VARIANCE_STEPS
        s = torch.where(last, t / 2, t - 1 / VARIANCE_STEPS)  # any s > 0 in the last step keeps gradients finite
        (_, sigma_t), (alpha_s, sigma_s) = self.levels(t, rows), self.levels(s, rows)
        fresh = -torch.expm1(rows.per_row(self.schedule.log_snr(t) - self.schedule.log_snr(s)))  # 1 - exp(-2 h)
        wider = (sigma_t / sigma_s).log().to(variance.dtype) * (variance + 1)  # log spread_v^2 - log spread_0^2
        shift = alpha_s * fresh.sqrt() / sigma_s  # of the mean, in units of spread_0, per unit of error of x_0
        error = (shift.to(variance.dtype) * (clean.detach() - x_0)).square()
        divergence = rows.mean(wider + (1 + error) * torch.exp(-wider) - 1) / 2
        return torch.where(last, 0, divergence)

    def bound_prior(self, x_0: Tensor, rows: Rows) -> Tensor:
        """KL(q(x_1 | x_0) || N(0, sigma_1^2)) = |alpha_1 x_0|^2 / (2 sigma_1^2): [B]."""
        alpha, sigma = self.schedule(torch.ones(rows.batch, dtype=torch.float64, device=x_0.device))
        return 0.5 * (alpha / sigma).square() * rows.sum(x_0.square())

    def bound_step(self, clean: Tensor, x_0: Tensor, x_t: Tensor, rows: Rows, *, s: Tensor, t: Tensor) -> Tensor:
        """KL(q(x_s|x_t,x_0) || q(x_s|x_t,x_0=clean)) = (SNR_s - SNR_t) / 2 |x_0 - clean|^2: [B] (VDM, eq. 14)."""
        gained = self.schedule.log_snr(s).exp() - self.schedule.log_snr(t).exp()
        return 0.5 * gained * rows.sum((clean - x_0).square())

    def bound_rate(self, clean: Tensor, x_0: Tensor, x_t: Tensor, t: Tensor, rows: Rows) -> Tensor:
        """-SNR'_t / 2 |x_0 - clean|^2: [B] (VDM, eq. 17)."""
        with torch.set_grad_enabled(True):
            moving = t.detach().requires_grad_()
            log_snr = self.schedule.log_snr(moving)
            (slope,) = torch.autograd.grad(log_snr.sum(), moving, create_graph=True)
        return -0.5 * slope * log_snr.exp() * rows.sum((clean - x_0).square())

    def bound_data(self, clean: Tensor, x_0: Tensor, x_t: Tensor, t: Tensor, rows: Rows) -> Tensor:
        """-log N(x_0; clean, sigma_t^2 / alpha_t^2), nats relative to Lebesgue measure: [B]."""
        log_snr = self.schedule.log_snr(t)
        scale = math.log(2 * math.pi) - log_snr
        return 0.5 * (log_snr.exp() * rows.sum((clean - x_0).square()) + self.dimension(x_0, rows) * scale)

    def dimension(self, x_0: Tensor, rows: Rows) -> Tensor:
        """Degrees of freedom of each sample, float64 [B]."""
        return rows.sum(torch.ones_like(x_0, dtype=torch.float64))


@dataclass(frozen=True, kw_only=True)
class VariationalGaussianProcess(GaussianProcess):
    """Gaussian noise whose loss is the variational bound itself, which a `LearnedSchedule` may be trained by.

    The mean over uniform t of the loss bounds -log p(x_0), in nats a sample (VDM, Kingma et al. 2021, eq. 11, with data
    reconstructed as N(x_0; x_t / alpha_t, sigma_t^2 / alpha_t^2) at t = 0, which needs no network). Only the ends of
    the schedule move the bound: what is between them changes the variance of its estimate alone (eq. 18).
    """

    def __post_init__(self) -> None:
        with torch.no_grad():
            start = self.schedule.log_snr(torch.zeros((), dtype=torch.float64))
        if not bool(start.isfinite()):
            raise ValueError(f"expected a schedule with noise left at t = 0, got log-SNR {float(start)} there")

    def loss(self, clean: Tensor, x_0: Tensor, x_t: Tensor, t: Tensor, rows: Rows) -> Tensor:
        """bound_prior + bound_rate + E[-log p(x_0 | x_t at t = 0)]: [B]."""
        start = self.schedule.log_snr(torch.zeros_like(t))
        data = 0.5 * self.dimension(x_0, rows) * (1 + math.log(2 * math.pi) - start)
        return self.bound_prior(x_0, rows) + self.bound_rate(clean, x_0, x_t, t, rows) + data


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

    def dimension(self, x_0: Tensor, rows: Rows) -> Tensor:
        """Degrees of freedom, those of the mean taken off: float64 [B]."""
        return (super().dimension(x_0, rows) - math.prod(rows.shape)).clamp_min(0)


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
