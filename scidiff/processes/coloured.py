r"""Gaussian noise with the covariance of the data: as loud as they are in every direction.

    x_t = alpha_t x_0 + sigma_t n,   n ~ N(0, K)

(non-isotropic noise, Voleti et al., arXiv 2210.12254; over time a Gaussian process in place of white noise, as in
TSFlow, Kollovieh et al., arXiv 2410.03024). Where K is the data's covariance all directions are known equally well at
every time, so a solver of few calls does as well by small waves as by large ones, and Gaussian data have the clean
estimate alpha_t x_t / (alpha_t^2 + sigma_t^2), which `EDM(sigma_data=1)` gives for a network that answers 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from scidiff.noise import Draw
from scidiff.processes.gaussian import GaussianProcess
from scidiff.state import Rows


class Colour(Protocol):
    """A covariance K of a leaf, by a square root of it."""

    def root(self, white: Tensor) -> Tensor:
        """K^(1/2) times white noise: [N, *shape]."""

    def within(self, x: Tensor) -> Tensor:
        """x [N, *shape], as far as it lies where K has variance."""


@dataclass(frozen=True, kw_only=True)
class Spectrum:
    """Stationary noise on a periodic grid [C, H, W]; modes without variance have neither noise nor signal.

    Attributes:
        variance: of each mode of the unitary `rfft2`, [C, H, W // 2 + 1], >= 0; white noise has 1.
    """

    variance: Tensor

    def __post_init__(self) -> None:
        if not bool((self.variance >= 0).all() and (self.variance > 0).any()):
            raise ValueError("expected variances >= 0, some of them positive")

    def root(self, white: Tensor) -> Tensor:
        """Each mode times the root of its variance."""
        return self._filtered(white, self.variance.sqrt())

    def within(self, x: Tensor) -> Tensor:
        """The modes that have variance."""
        return self._filtered(x, (self.variance > 0).to(x))

    def _filtered(self, x: Tensor, multiplier: Tensor) -> Tensor:
        return torch.fft.irfft2(torch.fft.rfft2(x) * multiplier.to(x), s=x.shape[-2:])


@dataclass(frozen=True, kw_only=True)
class Separable:
    """Noise on a table [H, V] of the covariance K[(h, v), (g, w)] = A[h, g] B[v, w].

    Attributes:
        rows: [H, H], a square root of A.
        columns: [V, V], a square root of B.
    """

    rows: Tensor
    columns: Tensor

    @classmethod
    def of(cls, rows: Tensor, columns: Tensor) -> Separable:
        """From A and B; ValueError if they are not positive definite."""
        roots = [torch.linalg.cholesky_ex(one.double()) for one in (rows, columns)]
        if any(int(failed) for _, failed in roots):
            raise ValueError("expected covariances that are positive definite, got others")
        return cls(rows=roots[0][0], columns=roots[1][0])

    def root(self, white: Tensor) -> Tensor:
        """A^(1/2) white B^(1/2)^T."""
        return self.rows.to(white) @ white @ self.columns.to(white).T

    def within(self, x: Tensor) -> Tensor:
        """x: all directions have variance."""
        return x


@dataclass(frozen=True, kw_only=True)
class ColouredGaussianProcess(GaussianProcess):
    """Gaussian noise of a given covariance.

    It has no variational bound here, and guidance by gradients, which takes noise to be white, is not for it.

    Attributes:
        colour: the covariance.
    """

    colour: Colour

    bound_prior = bound_step = bound_rate = bound_data = None  # type: ignore[assignment]

    def unit_noise(self, rows: Rows, draw: Draw, *, dtype: torch.dtype, kind: str = "noise") -> Tensor:
        """White noise, coloured."""
        return self.colour.root(super().unit_noise(rows, draw, dtype=dtype, kind=kind))

    def clean(self, output: Tensor, x_t: Tensor, t: Tensor, rows: Rows) -> Tensor:
        """The posterior mean, where there is variance."""
        return self.colour.within(super().clean(output, x_t, t, rows))
