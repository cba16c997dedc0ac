"""Equations that make one field of another: a coefficient, source or start, and the solution. Both are on N x N points.

    Darcy            -div(a grad u) = 1 on the unit square, u = 0 around it      permeability a -> pressure u
    Poisson          -laplace u = a on the unit square, u = 0 around it          source a -> potential u
    Navier-Stokes    vorticity that decays on a periodic square                  at 0 -> at a later time

As in "DiffusionPDE" (Huang et al. 2024). Solutions may be differentiated, as often as is wanted.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from scidiff.fluids.darcy import pressure
from scidiff.fluids.navier_stokes import NavierStokes, resampled
from scidiff.fluids.spectral import Box


class Equation(Protocol):
    """What ties a solution to its coefficient."""

    @property
    def periodic(self) -> bool:
        """Whether the square goes around, or ends at walls."""

    @property
    def bounds(self) -> tuple[float, float]:
        """Between which the coefficient lies; it is solved for the nearest number between them."""

    def solve(self, coefficient: Tensor) -> Tensor:
        """The solutions of coefficients [B, N, N], in their precision or in float64."""


@dataclass(frozen=True, kw_only=True)
class Darcy:
    """Flow through a porous square that is fed evenly.

    Attributes:
        bounds: of the permeability.
    """

    bounds: tuple[float, float] = (3.0, 12.0)
    periodic: bool = False

    def solve(self, coefficient: Tensor) -> Tensor:
        return pressure(coefficient.double().clamp(*self.bounds))


@dataclass(frozen=True, kw_only=True)
class Poisson:
    """A potential of a source, linear."""

    bounds: tuple[float, float] = (-math.inf, math.inf)
    periodic: bool = False

    def solve(self, coefficient: Tensor) -> Tensor:
        return pressure(torch.ones_like(coefficient, dtype=torch.float64), coefficient.double())


@dataclass(frozen=True, kw_only=True)
class Decay:
    """Vorticity of a flow that nothing drives, on [0, 2 pi)^2.

    Attributes:
        viscosity: nu.
        time: of the solution.
        points: of the solver's grid along each axis, which keeps waves below a third of them; others are lost.
        steps: of the solver.
    """

    viscosity: float = 0.005
    time: float = 1.0
    points: int = 48
    steps: int = 24
    bounds: tuple[float, float] = (-math.inf, math.inf)
    periodic: bool = True

    @property
    def flow(self) -> NavierStokes:
        """The equation on the solver's grid."""
        return NavierStokes(box=Box(shape=(self.points, self.points)), viscosity=self.viscosity)

    def solve(self, coefficient: Tensor) -> Tensor:
        start = resampled(coefficient, self.flow.box.shape)
        end = self.flow.integrate(start, step=self.time / self.steps, steps=self.steps)
        return resampled(end, (coefficient.shape[-2], coefficient.shape[-1]))


EQUATIONS: dict[str, Equation] = {"darcy": Darcy(), "poisson": Poisson(), "navier-stokes": Decay()}
"""By name."""
