r"""Equations that fields must obey on their grid, as smooth equalities: Burgers, Navier-Stokes, Darcy.

Of trajectories every step between frames is the midpoint rule of the equation,

    (u_{t+1} - u_t) / spacing = rate((u_t + u_{t+1}) / 2),

so what holds is the equation as discretised, to rounding. Jacobians [J, D] are written out by automatic
differentiation, and each Gauss-Newton step factorises one matrix [J, J]: for up to a few thousand numbers a field.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from scidiff.constraints.rounding import worst
from scidiff.constraints.smooth import linearise
from scidiff.fluids import darcy as porous
from scidiff.fluids.burgers import Burgers
from scidiff.fluids.constraints import Curved, Measured
from scidiff.fluids.navier_stokes import NavierStokes


@dataclass(frozen=True, kw_only=True)
class Equation(Curved):
    """residual(field) = 0.

    Attributes:
        leaf: the leaf.
        shape: (C, H, W).
        residual: [N, C, H, W] -> [N, J], each field on its own, in operations that `torch.func.vmap` can map.
        size: J.
        name: for messages.
        balance: linear facts that follow from it, by which facts that contradict it are found out.
    """

    leaf: str
    shape: tuple[int, int, int]
    residual: Callable[[Tensor], Tensor] = field(repr=False)
    size: int
    name: str
    balance: Measured | None = field(default=None, repr=False)

    @property
    def count(self) -> int:
        return self.size

    def values(self, x: Tensor) -> Tensor:
        return self.residual(self.fields(x))

    def linearised(self, x: Tensor) -> tuple[Tensor, Tensor]:
        value, gradient = linearise(self.values, x)
        return gradient, value

    def sizes(self, x: Tensor) -> Tensor:
        return self._sizes(self.linearised(x)[0], x)

    def excess(self, x: Tensor) -> tuple[Tensor, Tensor]:
        found = []
        for part in x.split(self.together):
            gradient, value = self.linearised(part)
            found.append(worst(value.abs(), self._sizes(gradient, part)))
        amounts, scales = zip(*found, strict=True)
        return torch.cat(amounts), torch.cat(scales)

    def _sizes(self, gradient: Tensor, x: Tensor) -> Tensor:
        """sum_d |dh_j / dx_d| |x_d| + |h_j(0)|."""
        return (gradient.abs() @ x.abs()[..., None])[..., 0] + self.values(torch.zeros_like(x[:1])).abs()

    def describe(self) -> str:
        return f"{self.name} of {self.leaf!r}"


def burgers(
    leaf: str,
    equation: Burgers,
    *,
    frames: int,
    spacing: float,
    steps: Sequence[int] | None = None,
    ends: bool = False,
) -> Equation:
    """Burgers' equation between the frames of trajectories [1, T, X].

    Args:
        leaf: the leaf.
        equation: on a periodic line.
        frames: T.
        spacing: of time between frames.
        steps: the steps, 0 from the first frame to the second, at which it holds; None: all.
        ends: X is one more than the points of the line, the last point is the first again.
    """
    points, chosen = equation.points, list(range(frames - 1) if steps is None else steps)
    shape = (1, frames, points + ends)

    def residual(x: Tensor) -> Tensor:
        u = x[:, 0, :, :points]
        return equation.residual(u[:, :-1], u[:, 1:], spacing=spacing)[:, chosen].flatten(1)

    gain = 0.0 if equation.forcing is None else spacing * float(equation.forcing.mean())
    rows = torch.zeros(len(chosen), *shape, dtype=torch.float64)
    for k, step in enumerate(chosen):
        rows[k, 0, step, :points], rows[k, 0, step + 1, :points] = -1 / points, 1 / points
    names = tuple(f"mass from frame {step} to {step + 1}" for step in chosen)
    balance = Measured(leaf=leaf, rows=rows, values=torch.full((len(chosen),), gain), names=names)
    size, told = len(chosen) * points, "Burgers' equation"
    return Equation(leaf=leaf, shape=shape, residual=residual, size=size, name=told, balance=balance)


def navier_stokes(
    leaf: str, equation: NavierStokes, *, frames: int, spacing: float, steps: Sequence[int] | None = None
) -> Equation:
    """The vorticity equation between the frames of flows [T, H, W], frames as channels; arguments as of `burgers`."""
    chosen = list(range(frames - 1) if steps is None else steps)

    def residual(x: Tensor) -> Tensor:
        return equation.residual(x[:, :-1], x[:, 1:], spacing=spacing)[:, chosen].flatten(1)

    shape, told = (frames, *equation.box.shape), "the Navier-Stokes equation"
    size = len(chosen) * shape[1] * shape[2]
    return Equation(leaf=leaf, shape=shape, residual=residual, size=size, name=told)


def darcy(leaf: str, points: int, *, source: Tensor | float = 1.0) -> Equation:
    """Flow through a porous square of N x N cells (`scidiff.fluids.darcy`), of fields [2, N, N].

    Channels are the logarithm of the permeability, which keeps it positive, and the pressure. The residual is the mass
    that a cell gains, over 4 N^2, as of the difference of pressures.
    """

    def residual(x: Tensor) -> Tensor:
        return porous.imbalance(x[:, 0].exp(), x[:, 1], source).flatten(1) / (4 * points**2)

    shape, told = (2, points, points), "Darcy's equation"
    return Equation(leaf=leaf, shape=shape, residual=residual, size=points**2, name=told)
