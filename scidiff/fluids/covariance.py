r"""The covariance of a field that no shift along x changes, and what is left of it once the field was seen in noise.

Waves along x are independent; each has a covariance over y, Hermitian [H, H], with principal axes:

    C = sum_{k, m} v_{km} a_{km} a_{km}^*,   a_{km}(y, x) = U_k[y, m] exp(2 pi i k x / W) / sqrt(W)

Where no shift along y changes the field either, the axes are waves along y. From x_t = alpha_t x_0 + sigma_t noise,

    Cov[x_0 | x_t] = sum v sigma_t^2 / (alpha_t^2 v + sigma_t^2) a a^*.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class Covariance:
    """A covariance of fields [N, ..., H, W]; channels are independent and alike.

    Attributes:
        axes: U_k, complex [W // 2 + 1, H, H], unitary, an axis a column.
        variance: v, [W // 2 + 1, H], >= 0; white noise has 1.
        width: W.
    """

    axes: Tensor
    variance: Tensor
    width: int

    @classmethod
    def stationary(cls, variance: Tensor, width: int) -> Covariance:
        """Of the variance of each mode of the unitary `rfft2`, [H, W // 2 + 1]."""
        height = len(variance)
        waves = torch.fft.ifft(torch.eye(height, dtype=torch.complex128), dim=0, norm="ortho")
        return cls(axes=waves.expand(width // 2 + 1, -1, -1), variance=variance.double().T.contiguous(), width=width)

    @classmethod
    def of(cls, fields: Tensor, mean: Tensor) -> Covariance:
        """The sample covariance of fields [S, H, W] about a mean [H, W], averaged over shifts along x."""
        found = torch.zeros(fields.shape[-1] // 2 + 1, fields.shape[-2], fields.shape[-2], dtype=torch.complex128)
        for part in fields.split(512):
            waves = torch.fft.rfft(part.double() - mean.double(), norm="ortho").permute(2, 1, 0)
            found += waves @ waves.mH
        return cls.from_matrices(found / len(fields), fields.shape[-1])

    @classmethod
    def from_matrices(cls, matrices: Tensor, width: int) -> Covariance:
        """Of the Hermitian covariance over y of each wave along x, [W // 2 + 1, H, H]."""
        variance, axes = torch.linalg.eigh(matrices.to(torch.complex128))
        return cls(axes=axes, variance=variance.clamp_min(0), width=width)

    def to(self, like: Tensor) -> Covariance:
        """The same, on the device of a tensor, in float64."""
        return replace(self, axes=self.axes.to(like.device), variance=self.variance.to(like.device))

    def single(self) -> Covariance:
        """The same in single precision, for a network's use."""
        return replace(self, axes=self.axes.to(torch.complex64), variance=self.variance.float())

    def matrices(self) -> Tensor:
        """The covariance over y of each wave along x: [W // 2 + 1, H, H]."""
        return (self.axes * self.variance[:, None]) @ self.axes.mH

    def table(self) -> Tensor:
        """C between two lines and by distance along x: [H, H, W]."""
        return torch.fft.irfft(self.matrices(), n=self.width, dim=0).permute(2, 1, 0)

    def coordinates(self, x: Tensor) -> Tensor:
        """Fields along the axes, real: [..., H, W] -> [..., W // 2 + 1, H, 2]; inner products stay."""
        waves = torch.fft.rfft(x.to(self.variance.dtype), norm="ortho").flatten(0, -3).permute(2, 0, 1)
        found = (waves @ self.axes.conj()).movedim(0, 1)  # one product a wave
        return (torch.view_as_real(found) * self._twice(x)).reshape(*x.shape[:-2], *found.shape[1:], 2)

    def fields(self, coordinates: Tensor) -> Tensor:
        """The inverse of `coordinates`."""
        found = torch.view_as_complex((coordinates / self._twice(coordinates)).contiguous()).flatten(0, -3)
        waves = (found.movedim(0, 1) @ self.axes.mT).permute(1, 2, 0)
        return torch.fft.irfft(waves, n=self.width, norm="ortho").unflatten(0, coordinates.shape[:-3])

    def spread(self, x: Tensor) -> Tensor:
        """C x for fields x [..., H, W]."""
        return self.fields(self.coordinates(x) * self.variance[..., None])

    def total(self) -> Tensor:
        """The trace of C: the variance summed over the points of one channel."""
        return (self.variance * self.multiplicity()[:, None]).sum()

    def root(self, white: Tensor) -> Tensor:
        """Fields of covariance C from white noise [..., H, W]."""
        return self.fields(self.coordinates(white) * self.variance.sqrt()[..., None])

    def posterior(self, noise: Tensor) -> Covariance:
        """What is left once the field was seen with white noise of a variance `noise`, a number >= 0; inf: all."""
        noise = torch.as_tensor(noise, dtype=self.variance.dtype, device=self.variance.device)
        return replace(self, variance=self.variance / (1 + self.variance / noise))

    def filtered(self, x: Tensor, noise: Tensor) -> Tensor:
        """E[field | x = field + white noise of a variance `noise`], fields without mean: Wiener's filter."""
        return self.fields(self.coordinates(x) * (self.variance / (self.variance + noise))[..., None])

    def multiplicity(self) -> Tensor:
        """How many waves along x each stands for, itself and its conjugate: 2, or 1 at the ends; [W // 2 + 1]."""
        count = self.variance.new_full((self.width // 2 + 1,), 2)
        count[0] = 1
        if self.width % 2 == 0:
            count[-1] = 1
        return count

    def _twice(self, like: Tensor) -> Tensor:
        """By what real coordinates are scaled so that inner products stay, [W // 2 + 1, 1, 1]."""
        return self.multiplicity().to(like.device).sqrt()[:, None, None]


def hermitian(parts: Tensor) -> Tensor:
    """Matrices as they are kept, real and imaginary parts [..., H, H, 2], without what rounding added: complex128."""
    matrices = torch.view_as_complex(parts.double())
    return (matrices + matrices.mH) / 2
