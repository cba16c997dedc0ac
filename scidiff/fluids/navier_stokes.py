r"""Two-dimensional incompressible flow on a periodic box, in vorticity:

    d omega / dt + (u + U) . grad omega = nu laplace omega - drag omega + forcing

Pseudo-spectral with the 2/3 rule, so that the quadratic term is free of aliasing, and in the form (Basdevant 1983)

    u . grad omega = (d^2/dx^2 - d^2/dy^2) u v + d^2/dxdy (v^2 - u^2),

four transforms. In time ETDRK4 (`etd`), fourth order, exact in the linear terms.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from scidiff.fluids.etd import integrate
from scidiff.fluids.spectral import Box


@dataclass(frozen=True, kw_only=True)
class NavierStokes:
    """The equation and its parameters.

    Attributes:
        box: with spectral derivatives.
        viscosity: nu >= 0.
        drag: linear friction, >= 0.
        forcing: the curl of the force, [H, W] or None.
        mean_flow: U along x and y; the vorticity does not tell it.
    """

    box: Box
    viscosity: float
    drag: float = 0.0
    forcing: Tensor | None = field(default=None, repr=False)
    mean_flow: tuple[float, float] = (0.0, 0.0)

    def __post_init__(self) -> None:
        if self.box.difference != "spectral":
            raise ValueError(f"expected a box with spectral derivatives, got {self.box.difference}")
        if not (self.viscosity >= 0 and self.drag >= 0):
            raise ValueError(f"expected viscosity and drag >= 0, got {self.viscosity} and {self.drag}")

    def kept(self) -> Tensor:
        """Modes without aliasing, below two thirds of the highest on each axis: bool [H, W // 2 + 1]."""
        k_y, k_x = self.box.wavenumbers()
        (height, width), (l_y, l_x) = self.box.shape, self.box.lengths
        return (3 * k_y.abs() * l_y / (2 * math.pi) < height) & (3 * k_x * l_x / (2 * math.pi) < width)

    def linear(self) -> Tensor:
        """The linear terms: complex128 [H, W // 2 + 1]."""
        k_y, k_x = self.box.wavenumbers()
        along_x, along_y = self.mean_flow
        return -self.viscosity * (k_y**2 + k_x**2) - self.drag - 1j * (along_x * k_x + along_y * k_y)

    def nonlinear(self, *, like: Tensor) -> Callable[[Tensor], Tensor]:
        """From coefficients of omega [..., H, W // 2 + 1] to those of -u . grad omega + forcing."""
        k_y, k_x = self.box.symbols(like=like)
        flow = self.box.flow_symbol(like=like)
        kept = self.kept().to(like.device)
        difference, product = (k_x**2 - k_y**2) * kept, k_x * k_y * kept
        force = None if self.forcing is None else self.box.forward(self.forcing.to(like)) * kept

        def rate(omega: Tensor) -> Tensor:
            u, v = self.box.back(omega[..., None, :, :] * flow).unbind(-3)
            cross, unequal = self.box.forward(torch.stack([u * v, v * v - u * u])).unbind(0)
            found = difference * cross + product * unequal
            return found if force is None else found + force

        return rate

    def integrate(self, vorticity: Tensor, *, step: float, steps: int) -> Tensor:
        """The vorticity `steps` time steps later: [..., H, W] -> [..., H, W], in the precision of the input.

        Raises:
            FloatingPointError: the step was too long, the flow is no longer finite.
        """
        omega = self.box.forward(vorticity) * self.kept().to(vorticity.device)
        return self.box.back(integrate(omega, self.nonlinear(like=vorticity), self.linear(), step=step, steps=steps))

    def residual(self, before: Tensor, after: Tensor, *, spacing: float) -> Tensor:
        """How far two states [..., H, W] a short time apart are from the equation, at the middle: [..., H, W].

        Second order in the time between them; of the quadratic term and the force the modes without aliasing.
        """
        middle = self.box.forward((before + after) / 2)
        rate = self.nonlinear(like=before)(middle) + self.linear().to(middle) * middle
        return (after - before) / spacing - self.box.back(rate)


def kolmogorov(box: Box, *, waves: int = 4, amplitude: float = 1.0) -> Tensor:
    """The curl of the force amplitude sin(k y) along x, k = `waves` per box: -amplitude k cos(k y), float64 [H, W]."""
    y, _ = box.coordinates()
    k = 2 * math.pi * waves / box.lengths[0]
    return (-amplitude * k * torch.cos(k * y))[:, None].expand(box.shape).contiguous()


def resampled(x: Tensor, shape: tuple[int, int]) -> Tensor:
    """Fields on a finer or coarser grid of the same box, by their Fourier series: [..., H, W] -> [..., *shape].

    The highest frequency of an even coarser grid, which has no sign there, is left out.
    """
    (height, width), (rows, columns) = x.shape[-2:], shape
    most_y, most_x = (min(height, rows) - 1) // 2, (min(width, columns) - 1) // 2
    found = torch.fft.rfft2(x)
    out = found.new_zeros(*x.shape[:-2], rows, columns // 2 + 1)
    out[..., : most_y + 1, : most_x + 1] = found[..., : most_y + 1, : most_x + 1]
    if most_y:
        out[..., -most_y:, : most_x + 1] = found[..., -most_y:, : most_x + 1]
    return torch.fft.irfft2(out, s=shape) * (rows * columns / (height * width))
