r"""Derivatives on a periodic box, all of them Fourier multipliers, and what follows from them.

    d/dx -> i s_x,   d/dy -> i s_y,      s = k                 spectral
                                         s = sin(k h) / h      second-order centred differences

Whoever speaks of divergence must say which: a field that is free of one is not free of the other. A `Box` carries the
choice, so that one symbol is used everywhere. The derivative of the highest frequency of an even grid is 0 in both.

    omega = dv/dx - du/dy,   laplace psi = -omega,   u = dpsi/dy,   v = -dpsi/dx
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Difference = Literal["spectral", "centred"]


@dataclass(frozen=True, kw_only=True)
class Box:
    """A periodic box and how derivatives are taken on it.

    Attributes:
        shape: (H, W), grid points along y and x.
        lengths: of the box along y and x, in the unit of the derivatives.
        difference: "spectral", or "centred" differences of second order.
    """

    shape: tuple[int, int]
    lengths: tuple[float, float] = (2 * math.pi, 2 * math.pi)
    difference: Difference = "spectral"

    def __post_init__(self) -> None:
        if min(self.shape) < 4:
            raise ValueError(f"expected at least 4 points along each axis, got {self.shape}")
        if not all(0 < length < math.inf for length in self.lengths):
            raise ValueError(f"expected positive lengths, got {self.lengths}")

    @property
    def spacings(self) -> tuple[float, float]:
        """Distance of grid points along y and x."""
        return self.lengths[0] / self.shape[0], self.lengths[1] / self.shape[1]

    def coordinates(self) -> tuple[Tensor, Tensor]:
        """y [H] and x [W] of the grid points, float64."""
        y, x = (torch.arange(n, dtype=torch.float64) * h for n, h in zip(self.shape, self.spacings, strict=True))
        return y, x

    def wavenumbers(self, *, like: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """k_y [H, 1] and k_x [1, W // 2 + 1] of `torch.fft.rfft2`, in radians a length."""
        (height, width), (dy, dx) = self.shape, self.spacings
        k_y = 2 * math.pi * torch.fft.fftfreq(height, dy, dtype=torch.float64)[:, None]
        k_x = 2 * math.pi * torch.fft.rfftfreq(width, dx, dtype=torch.float64)[None]
        return (k_y, k_x) if like is None else (k_y.to(like.real), k_x.to(like.real))

    def symbols(self, *, like: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """s_y [H, 1] and s_x [1, W // 2 + 1]: the derivative along an axis multiplies by i s."""
        found = []
        for axis, (k, n, h) in enumerate(zip(self.wavenumbers(), self.shape, self.spacings, strict=True)):
            s = k.clone() if self.difference == "spectral" else torch.sin(k * h) / h
            if n % 2 == 0:
                s.select(axis, n // 2).zero_()
            found.append(s if like is None else s.to(like.real))
        return found[0], found[1]

    def shells(self) -> Tensor:
        """The number of waves of each mode, |k| L / 2 pi rounded: int64 [H, W // 2 + 1]."""
        k_y, k_x = self.wavenumbers()
        waves = torch.hypot(k_y * self.lengths[0], k_x * self.lengths[1]) / (2 * math.pi)
        return waves.round().long()

    def forward(self, x: Tensor) -> Tensor:
        """[..., H, W] -> its Fourier coefficients [..., H, W // 2 + 1]."""
        return torch.fft.rfft2(x)

    def back(self, coefficients: Tensor) -> Tensor:
        """The inverse of `forward`."""
        return torch.fft.irfft2(coefficients, s=self.shape)

    def multiply(self, x: Tensor, multiplier: Tensor) -> Tensor:
        """A Fourier multiplier [..., H, W // 2 + 1] applied to fields [..., H, W]."""
        return self.back(self.forward(x) * multiplier)

    def divergence(self, velocity: Tensor) -> Tensor:
        """du/dx + dv/dy: [..., 2, H, W] -> [..., H, W]."""
        s_y, s_x = self.symbols(like=velocity)
        u, v = self.forward(velocity).unbind(-3)
        return self.back(1j * (s_x * u + s_y * v))

    def vorticity(self, velocity: Tensor) -> Tensor:
        """dv/dx - du/dy: [..., 2, H, W] -> [..., H, W]."""
        s_y, s_x = self.symbols(like=velocity)
        u, v = self.forward(velocity).unbind(-3)
        return self.back(1j * (s_x * v - s_y * u))

    def flow_symbol(self, *, like: Tensor) -> Tensor:
        """Of vorticity to velocity without divergence and without mean: [2, H, W // 2 + 1], complex."""
        s_y, s_x = self.symbols(like=like)
        inverse = reciprocal(s_y.square() + s_x.square())
        return 1j * torch.stack([s_y * inverse, -s_x * inverse])

    def velocity(self, vorticity: Tensor) -> Tensor:
        """The velocity without divergence and without mean that has a vorticity: [..., H, W] -> [..., 2, H, W]."""
        return self.back(self.forward(vorticity)[..., None, :, :] * self.flow_symbol(like=vorticity))

    def solenoidal(self, velocity: Tensor) -> Tensor:
        """The nearest velocity without divergence (Leray's projection): [..., 2, H, W]."""
        return self.back(self.leray(self.forward(velocity)))

    def leray(self, coefficients: Tensor) -> Tensor:
        """Leray's projection of Fourier coefficients [..., 2, H, W // 2 + 1]."""
        s_y, s_x = self.symbols(like=coefficients)
        u, v = coefficients.unbind(-3)
        share = (s_x * u + s_y * v) * reciprocal(s_y.square() + s_x.square())
        return torch.stack([u - s_x * share, v - s_y * share], -3)

    def spectrum(self, x: Tensor) -> Tensor:
        """Mean square of a field by number of waves: [..., H, W] -> [..., K]; the sum over K is the mean of x^2."""
        height, width = self.shape
        twice = torch.full((width // 2 + 1,), 2.0, dtype=x.dtype, device=x.device)
        twice[0] = 1
        if width % 2 == 0:
            twice[-1] = 1
        power = self.forward(x).abs().square() * twice / (height * width) ** 2
        shells = self.shells().to(x.device)
        out = x.new_zeros(*x.shape[:-2], int(shells.max()) + 1)
        return out.index_add(-1, shells.flatten(), power.flatten(-2))


def reciprocal(x: Tensor) -> Tensor:
    """1 / x of numbers that are not negative, 0 where x is 0."""
    return torch.where(x > 0, 1 / torch.where(x > 0, x, 1), 0)
