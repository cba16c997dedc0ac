r"""Flows on a periodic line, in one unknown:

    Burgers                 du/dt + u du/dx = nu d^2u/dx^2 + forcing
    advection-diffusion     du/dt + c du/dx = nu d^2u/dx^2           exact, mode by mode

Burgers is pseudo-spectral in the conservative form (u^2 / 2)_x with the 2/3 rule, and ETDRK4 (`etd`) in time. Its
closed form is that of Hopf (1950) and Cole (1951): u = -2 nu d/dx log phi, where phi obeys the heat equation.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from scidiff.fluids.etd import integrate


def wavenumbers(points: int, length: float) -> Tensor:
    """k of `torch.fft.rfft` on `points` points of a periodic line, in radians a length: float64 [W // 2 + 1]."""
    return 2 * math.pi * torch.fft.rfftfreq(points, length / points, dtype=torch.float64)


@dataclass(frozen=True, kw_only=True)
class Burgers:
    """The equation and its parameters.

    Attributes:
        points: W of the grid.
        viscosity: nu > 0; fronts are as wide as nu over their height, which should be some grid spacings.
        length: of the line.
        forcing: [W] or None.
    """

    points: int
    viscosity: float
    length: float = 2 * math.pi
    forcing: Tensor | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.points < 4:
            raise ValueError(f"expected at least 4 points, got {self.points}")
        if not (self.viscosity > 0 and 0 < self.length < math.inf):
            raise ValueError(f"expected viscosity and length > 0, got {self.viscosity} and {self.length}")

    def kept(self) -> Tensor:
        """Modes without aliasing, below two thirds of the highest: bool [W // 2 + 1]."""
        return 3 * torch.arange(self.points // 2 + 1) < self.points

    def integrate(self, u: Tensor, *, step: float, steps: int) -> Tensor:
        """u `steps` time steps later: [..., W] -> [..., W], in the precision of the input.

        Raises:
            FloatingPointError: the step was too long, the flow is no longer finite.
        """
        k = wavenumbers(self.points, self.length)
        kept = self.kept().to(u.device)
        half_derivative = -0.5j * k.to(u) * kept
        force = None if self.forcing is None else torch.fft.rfft(self.forcing.to(u)) * kept

        def rate(modes: Tensor) -> Tensor:
            found = half_derivative * torch.fft.rfft(torch.fft.irfft(modes, n=self.points).square())
            return found if force is None else found + force

        done = integrate(torch.fft.rfft(u) * kept, rate, -self.viscosity * k**2, step=step, steps=steps)
        return torch.fft.irfft(done, n=self.points)

    def residual(self, before: Tensor, after: Tensor, *, spacing: float) -> Tensor:
        """How far two states [..., W] a short time apart are from the equation, at the middle: [..., W].

        Second order in the time between them, spectral along the line.
        """
        k = wavenumbers(self.points, self.length).to(before)
        middle = (before + after) / 2
        modes = torch.fft.rfft(middle)
        square = torch.fft.rfft(middle.square() / 2)
        found = torch.fft.irfft(1j * k * square + self.viscosity * k**2 * modes, n=self.points)
        force = 0 if self.forcing is None else self.forcing.to(before)
        return (after - before) / spacing + found - force


def advect_diffuse(u: Tensor, *, speed: float, viscosity: float, time: float, length: float = 2 * math.pi) -> Tensor:
    """u a time later under advection by a constant speed and diffusion, exactly: [..., W] -> [..., W]."""
    k = wavenumbers(u.shape[-1], length)
    carried = torch.exp(-(viscosity * k**2 + 1j * speed * k) * time).to(u.device, torch.fft.rfft(u[..., :4]).dtype)
    return torch.fft.irfft(torch.fft.rfft(u) * carried, n=u.shape[-1])
