r"""Gaussian noise as loud in every Fourier mode as the data, on a periodic grid.

    x_t = alpha_t x_0 + sigma_t n,   n stationary, with variance S_k of mode k

(non-isotropic noise, Voleti et al., arXiv 2210.12254). Where S is the data's spectrum all modes are known equally well
at every time, so a solver of few calls does as well by small waves as by large ones, and a Gaussian field has the clean
estimate alpha_t x_t / (alpha_t^2 + sigma_t^2), which `EDM(sigma_data=1)` gives for a network that answers 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from scidiff.noise import Draw
from scidiff.processes.gaussian import GaussianProcess
from scidiff.state import Rows


@dataclass(frozen=True, kw_only=True)
class ColouredGaussianProcess(GaussianProcess):
    """Gaussian noise of a given spectrum; modes without variance have neither noise nor signal.

    It has no variational bound here, and guidance by gradients, which takes noise to be white, is not for it.

    Attributes:
        variance: S_k of each mode of the unitary `rfft2`, [C, H, W // 2 + 1], >= 0; white noise has 1.
    """

    variance: Tensor

    bound_prior = bound_step = bound_rate = bound_data = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        if not bool((self.variance >= 0).all() and (self.variance > 0).any()):
            raise ValueError("expected variances >= 0, some of them positive")

    def unit_noise(self, rows: Rows, draw: Draw, *, dtype: torch.dtype, kind: str = "noise") -> Tensor:
        """White noise, each mode times sqrt(S_k)."""
        return self._filtered(super().unit_noise(rows, draw, dtype=dtype, kind=kind), self.variance.sqrt())

    def clean(self, output: Tensor, x_t: Tensor, t: Tensor, rows: Rows) -> Tensor:
        """The posterior mean, in the modes that have variance."""
        found = super().clean(output, x_t, t, rows)
        return self._filtered(found, (self.variance > 0).to(found))

    def _filtered(self, x: Tensor, multiplier: Tensor) -> Tensor:
        return torch.fft.irfft2(torch.fft.rfft2(x) * multiplier.to(x), s=x.shape[-2:])
