r"""What a network's output stands for where data are, to second order, a stationary field on a periodic grid.

A Gaussian field of mean m and variance S_k of each Fourier mode has the posterior mean

    clean = m + W_k (x_t - alpha_t m),     W_k = alpha_t S_k / (alpha_t^2 S_k + sigma_t^2)       (Wiener's filter)

and the posterior standard deviation  g_k = sigma_t sqrt(S_k) / sqrt(alpha_t^2 S_k + sigma_t^2). The network answers for
what a Gaussian field has not:

    clean = m + W_k (x_t - alpha_t m) + g_k output.

This is EDM's preconditioning (Karras et al. 2022, table 1) mode by mode: with one variance for all modes it is that. A
network that answers 0 denoises as kriging does, and modes without variance stay where the mean is.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from scidiff.processes.parametrisations import Parametrisation


@dataclass(frozen=True, kw_only=True, eq=False)
class Stationary(Parametrisation):
    """Wiener's filter, and a network for the rest.

    The network is given two fields for each channel, c_in (x_t - alpha_t m) and the filter's estimate less m: its input
    is [N, 2 C, H, W], its output [N, C, H, W].

    Attributes:
        mean: m, [C, H, W], or of each sample, [N, C, H, W].
        variance: S_k of each mode of the unitary `rfft2`, [C, H, W // 2 + 1] or [N, C, H, W // 2 + 1], >= 0; white
            noise has 1.
    """

    mean: Tensor
    variance: Tensor

    def __post_init__(self) -> None:
        wanted = [*self.mean.shape[:-1], self.mean.shape[-1] // 2 + 1]
        if list(self.variance.shape) != wanted:
            raise ValueError(f"expected a variance of shape {wanted}, got {list(self.variance.shape)}")
        if not bool((self.variance >= 0).all() and (self.variance > 0).any()):
            raise ValueError("expected variances >= 0, some of them positive")

    def _filters(self, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """W_k and g_k: [N, C, H, W // 2 + 1]."""
        variance = self.variance.to(alpha)
        total = alpha.square() * variance + sigma.square()
        total = torch.where(total > 0, total, 1)
        return alpha * variance / total, sigma * (variance / total).sqrt()

    def _centred(self, x_t: Tensor, alpha: Tensor) -> Tensor:
        """x_t - alpha_t m."""
        return x_t - (alpha * self.mean.to(alpha)).to(x_t)

    def _mean_variance(self, like: Tensor) -> Tensor:
        """Over the modes: a scalar, or of each sample [N, 1, 1, 1]."""
        return self.variance.to(like).mean((-3, -2, -1), keepdim=self.variance.ndim > 3)

    def coefficients(self, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """The mean of W_k, and the root mean square of g_k: the standard deviation that Wiener's filter leaves."""
        keep, gain = self._filters(alpha.reshape(-1, 1, 1, 1), sigma.reshape(-1, 1, 1, 1))
        twice = torch.full((self.variance.shape[-1],), 2.0, dtype=gain.dtype, device=gain.device)
        twice[0] = 1
        if self.mean.shape[-1] % 2 == 0:
            twice[-1] = 1
        share = twice / (twice.sum() * self.variance.shape[-3] * self.variance.shape[-2])
        mean, square = (keep * share).sum((1, 2, 3)), (gain.square() * share).sum((1, 2, 3))
        return mean.reshape(alpha.shape), square.sqrt().reshape(alpha.shape)

    def input_scale(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        """One over the standard deviation of x_t."""
        return (alpha.square() * self._mean_variance(alpha) + sigma.square()).rsqrt()

    def network_input(self, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """x_t and its filtered estimate, both without the mean and of about unit variance: [N, 2 C, H, W]."""
        keep, _ = self._filters(alpha, sigma)
        centred = self._centred(x_t, alpha)
        plain = self.input_scale(alpha, sigma).to(x_t.dtype) * centred
        return torch.cat([plain, _filtered(centred, keep) / self._mean_variance(x_t).sqrt()], 1)

    def clean(self, output: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """m + W_k (x_t - alpha_t m) + g_k output."""
        keep, gain = self._filters(alpha, sigma)
        estimate = _filtered(self._centred(x_t, alpha), keep)
        return self.mean.to(x_t) + estimate + _filtered(output.to(x_t.dtype), gain)

    def output(self, clean: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """The output that stands for a clean estimate; 0 in modes without variance."""
        keep, gain = self._filters(alpha, sigma)
        rest = clean - self.mean.to(x_t) - _filtered(self._centred(x_t, alpha), keep)
        return _filtered(rest, torch.where(gain > 0, 1 / torch.where(gain > 0, gain, 1), 0))


def _filtered(x: Tensor, multiplier: Tensor) -> Tensor:
    """A real Fourier multiplier applied to fields, in the precision of the fields."""
    return torch.fft.irfft2(torch.fft.rfft2(x) * multiplier.to(x.dtype), s=x.shape[-2:])
