r"""A flow seen by instruments at several times, as a function of where it starts.

    y_k = R_k omega(t_k) + e,   omega(t) = S_t(omega(0)),   e ~ N(0, noise^2)

S is the equation's own solver, differentiable, on a grid half as fine again, so that the 2/3 rule keeps every wave that
the fields have.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from scidiff.fluids.model import FlowConfig
from scidiff.fluids.navier_stokes import NavierStokes, kolmogorov, resampled
from scidiff.fluids.spectral import Box

STEP = 0.02  # of time
VISCOSITY, DRAG = 0.005, 0.1  # of the packaged weights' flow


def equation_of(config: FlowConfig, *, viscosity: float = VISCOSITY, drag: float = DRAG) -> NavierStokes:
    """Kolmogorov flow with as many waves as a model's fields have."""
    box = Box(shape=(3 * config.shape[0] // 2, 3 * config.shape[1] // 2), lengths=config.lengths)
    force = kolmogorov(box, waves=config.waves)
    return NavierStokes(box=box, viscosity=viscosity, drag=drag, forcing=force)


@dataclass(frozen=True, kw_only=True, eq=False)
class Observed:
    """What was seen of a trajectory.

    Attributes:
        equation: of the flow.
        shape: (H, W) of its fields.
        scale: of the vorticity: starts are in units of it, and so are rows, values and noise.
        steps: of time, at which it was seen, ascending, the first >= 0: K.
        rows: of the sensors of each time, [M_k, H W].
        values: what they saw, [M], time after time.
        noise: standard deviation of their errors, > 0.
        step: of time.
    """

    equation: NavierStokes
    shape: tuple[int, int]
    scale: float
    steps: tuple[int, ...]
    rows: tuple[Tensor, ...]
    values: Tensor
    noise: float
    step: float = STEP

    def __post_init__(self) -> None:
        if not self.noise > 0:
            raise ValueError(f"expected noise > 0, got {self.noise}")
        if list(self.steps) != sorted(set(self.steps)) or self.steps[0] < 0:
            raise ValueError(f"expected ascending steps from 0 on, got {self.steps}")

    @property
    def lags(self) -> Tensor:
        """From the start to each value, [M], float64."""
        lags = [
            torch.full((len(rows),), self.step * at, dtype=torch.float64)
            for at, rows in zip(self.steps, self.rows, strict=True)
        ]
        return torch.cat(lags)

    def seen(self, start: Tensor) -> Tensor:
        """What the sensors would see of flows that start at [B, 1, H, W]: [B, M]."""
        fields = trajectory(self.equation, self.scale * start[:, 0], self.steps, step=self.step)
        seen = [field.flatten(1) @ rows.to(field).T for field, rows in zip(fields, self.rows, strict=True)]
        return torch.cat(seen, 1) / self.scale


def trajectory(equation: NavierStokes, start: Tensor, steps: Sequence[int], *, step: float = STEP) -> Iterator[Tensor]:
    """Vorticity after so many steps of time each, ascending, from [..., H, W]."""
    shape = (start.shape[-2], start.shape[-1])
    fine, before = resampled(start, equation.box.shape), 0
    for after in steps:
        if after > before:
            fine = equation.integrate(fine, step=step, steps=after - before)
        before = after
        yield resampled(fine, shape)
