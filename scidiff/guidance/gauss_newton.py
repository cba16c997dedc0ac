r"""Measurements through a nonlinear operator, in the metric of a covariance that is known: Gauss and Newton's steps.

    x = centre + V^(1/2) u,     minimise |y - A(x)|^2 / (2 variance) + |u - around|^2 / 2
    (1 + G^T G) du = G^T r - (u - around),     G = J V^(1/2) / s,   r = (y - A(x)) / s,   J = dA/dx,   s^2 = variance

The system is solved by conjugate gradients, whose steps lower the sum, A linearised, however few they are. A sample's
step is halved as long as it raises the sum, A taken as it is, and left out if nothing helps. Few of them do where J is
known at a point nearby (`Sketch`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from scidiff.denoiser import Denoiser
from scidiff.guidance.conjugate_gradients import conjugate_gradients
from scidiff.guidance.measurement import Measurement, derivative, gaussian_leaves
from scidiff.guidance.sketch import Root, Sketch
from scidiff.processes.base import Process
from scidiff.state import Layout, State

_HALVINGS = 6


@dataclass(frozen=True, kw_only=True)
class Misfit:
    """What is minimised.

    Attributes:
        leaf: that is moved, one row a sample.
        measurement: what was measured, its variance > 0. Where the operator cannot be computed it gives infinity.
        centre: [B, *shape].
        root: V^(1/2).
        around: what u should be near, broadcastable to [B, *shape]; 0 for the likeliest, unit noise for a draw.
        sketch: of A at a point nearby.
    """

    leaf: str
    measurement: Measurement
    centre: Tensor
    root: Root
    around: Tensor | float = 0.0
    sketch: Sketch | None = None

    @cached_property
    def _precondition(self) -> Callable[[Tensor], Tensor] | None:
        if self.sketch is None:
            return None
        return self.sketch.preconditioner(self.root, torch.as_tensor(self.measurement.variance).mean())

    def at(self, u: Tensor) -> Tensor:
        """centre + V^(1/2) u."""
        return self.centre + self.root(u).to(self.centre)

    def value(self, u: Tensor) -> Tensor:
        """The sum, of each sample: [B]."""
        return self.measurement.energy({self.leaf: self.at(u)}) + (u - self.around).square().flatten(1).sum(1) / 2

    def step(self, u: Tensor, *, iterations: int) -> Tensor:
        """u one step on, by so many products with G and with its transpose."""
        seen, transpose, push = derivative(self.measurement.operator, {self.leaf: self.at(u)})
        variance = torch.as_tensor(self.measurement.variance, dtype=seen.dtype, device=seen.device)

        def back(v: Tensor) -> Tensor:
            return self.root(transpose(v / variance)[self.leaf]).to(u)

        def curvature(du: Tensor) -> Tensor:
            return du + back(push({self.leaf: self.root(du).to(self.centre)}))

        slope = back((self.measurement.value - seen).to(seen)) - (u - self.around)
        du = conjugate_gradients(curvature, slope, iterations=iterations, precondition=self._precondition)
        return self._damped(u, du)

    def _damped(self, u: Tensor, du: Tensor) -> Tensor:
        """A whole, a half, a quarter ... of each sample's step, or nothing of it."""
        start = self.value(u)
        size = torch.ones_like(start)
        for _ in range(_HALVINGS):
            value = self.value(u + _per_row(size, u) * du)
            worse = ~(value.isfinite() & ~(value > start))
            if _all(~worse):
                return u + _per_row(size, u) * du
            size = torch.where(worse, size / 2, size)
        return u + _per_row(torch.where(worse, 0, size), u) * du


def _all(done: Tensor) -> bool:
    """Whether all rows are done, where the answer is at hand: elsewhere halving goes on, and leaves done ones alike."""
    return done.device.type == "cpu" and not torch.compiler.is_compiling() and bool(done.all())


def _per_row(size: Tensor, like: Tensor) -> Tensor:
    return size.reshape(-1, *([1] * (like.ndim - 1))).to(like)


class GaussNewton(Denoiser):
    r"""Guidance by a measurement, without gradients through the denoiser: the clean estimate is the centre.

    V = Cov[x_0 | x_t] is that of Gaussian data of a known covariance. For such data and a linear A one step is exact
    once the conjugate gradients have converged (as `MMPS` is, which asks the denoiser for V at the price of its
    gradients).

    Args:
        denoiser: what is guided.
        processes: of every leaf; of them one is Gaussian, and is guided.
        measurement: what was measured, its variance > 0. Where the operator cannot be computed it gives infinity.
        posterior: V^(1/2), from sigma_t^2 / alpha_t^2, a number that may be infinite.
        steps: at each call.
        iterations: of the conjugate gradients in a step.
        sketch: of A at a point nearby.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        processes: Mapping[str, Process],
        measurement: Measurement,
        *,
        posterior: Callable[[Tensor], Root],
        steps: int = 1,
        iterations: int = 10,
        sketch: Sketch | None = None,
    ) -> None:
        if min(steps, iterations) < 1:
            raise ValueError(f"expected at least one step and one iteration, got {steps} and {iterations}")
        super().__init__()
        self.denoiser, self.measurement, self.posterior = denoiser, measurement, posterior
        ((self.leaf, self.process),) = gaussian_leaves(processes).items()
        self.steps, self.iterations, self.sketch = steps, iterations, sketch

    def forward(self, x_t: State, t: Tensor, layout: Layout, condition: Any = None) -> State:
        """All samples are at one time, as in the loop."""
        torch._assert_async((t == t[0]).all(), "expected one time for all samples")
        outputs = self.denoiser(x_t, t, layout, condition)
        alpha, sigma = self.process.schedule(t[0])
        misfit = Misfit(
            leaf=self.leaf,
            measurement=self.measurement,
            centre=outputs[self.leaf],
            root=self.posterior((sigma / alpha).square()),
            sketch=self.sketch,
        )
        u = torch.zeros_like(misfit.centre)
        for _ in range(self.steps):
            u = misfit.step(u, iterations=self.iterations)
        return outputs | {self.leaf: misfit.at(u)}
