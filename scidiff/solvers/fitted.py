r"""Solvers fitted to a denoiser: the numbers of `extrapolated` are chosen so that few calls end where many do.

With e_b the distance of start b from the end of the probability flow, a root mean square over elements, what is
minimised is log mean_b e_b, by L-BFGS. Derivatives are exact: the table of a plan is a function of its numbers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scidiff.denoiser import Denoiser
from scidiff.noise import Noise
from scidiff.processes.gaussian import GaussianProcess
from scidiff.solvers.adaptive import Control
from scidiff.solvers.extrapolated import extrapolated, table
from scidiff.solvers.flow import sample_adaptively
from scidiff.solvers.plan import Plan
from scidiff.solvers.recommended import recommended_numbers
from scidiff.state import Layout

REACH = 3.0
"""How far a number may move from where it begins."""

TOLERANCE = 1e-5
"""An error that is as good as none."""

FINE = Control(relative=1e-6, absolute=1e-6, attempts=600, look_every=20)


def fit(
    denoiser: Denoiser,
    process: GaussianProcess,
    layout: Layout,
    noise: Noise,
    calls: int,
    *,
    leaf: str = "x",
    condition: Any = None,
    std: float = 1.0,
    iterations: int = 60,
) -> Plan:
    """The plan of `calls` calls, grid and coefficients, whose samples end closest to a fine solution for a denoiser.

    It begins at `recommended`. Some hundred samples are enough; it takes that many times `iterations` runs of the plan
    with their gradients, and some hundred calls of the denoiser for the fine solution.

    Args:
        denoiser: gives the clean estimates; differentiable in state and time.
        process: of the leaf, the only one of the state.
        layout: who owns which row.
        noise: the prior's; what is fitted is a function of it.
        calls: number of calls of the denoiser.
        leaf: its name.
        condition: passed to the denoiser.
        std: the data's standard deviation, in the mean over elements.
        iterations: of the optimiser, at most.

    Raises:
        ArithmeticError: the fine solution was not found for some samples.
    """
    problem = Problem.solve(denoiser, process, layout, noise, leaf=leaf, condition=condition)
    numbers = fit_numbers([problem], recommended_numbers(calls), std=std, iterations=iterations)
    return extrapolated(process.schedule, numbers, std=std)


@dataclass(frozen=True, kw_only=True, eq=False)
class Problem:
    """Starts of the probability flow and where it takes them. Build it with `solve`.

    Attributes:
        denoiser, process, layout, leaf, condition: see `fit`.
        start: the states at t = 1, [N, *shape].
        end: the states at t = 0 to the tolerance of `FINE`, [N, *shape].
        parts: the batch is this many problems of equal size, one after the other.
    """

    denoiser: Denoiser
    process: GaussianProcess
    layout: Layout
    leaf: str
    condition: Any
    start: Tensor
    end: Tensor
    parts: int = 1

    @classmethod
    def solve(
        cls,
        denoiser: Denoiser,
        process: GaussianProcess,
        layout: Layout,
        noise: Noise,
        *,
        leaf: str = "x",
        condition: Any = None,
        parts: int = 1,
    ) -> Problem:
        """The problem of the prior's samples; the arguments and errors are those of `fit`."""
        rows = layout.rows(leaf)
        start = process.prior(rows, noise.at(leaf, 0, rows))
        path = sample_adaptively(
            denoiser, {leaf: process}, layout, noise, end=1e-5, control=FINE, condition=condition, initial={leaf: start}
        )
        if not bool(path.arrived.all()):
            late = int((~path.arrived).sum())
            raise ArithmeticError(f"expected all samples to arrive within {FINE.attempts} steps, {late} did not")
        return cls(
            denoiser=denoiser,
            process=process,
            layout=layout,
            leaf=leaf,
            condition=condition,
            start=start,
            end=path.state[leaf],
            parts=parts,
        )

    def loss(self, times: Tensor, rows: Tensor) -> Tensor:
        """The sum over the parts of log mean_b e_b after the plan of this table (`extrapolated.table`)."""
        x = self.start
        past: list[Tensor] = []
        for t, (kept, *weights) in zip(times.unbind(), map(Tensor.unbind, rows.to(x.dtype).unbind()), strict=True):
            clean = self.denoiser({self.leaf: x}, t.expand(self.layout.batch), self.layout, self.condition)
            past = [clean[self.leaf], *past][:3]
            x = kept * x + torch.stack([w * d for w, d in zip(weights, past, strict=False)]).sum(0)
        distance = (self.layout.rows(self.leaf).mean((x - self.end).square()) + TOLERANCE**2).sqrt()
        return distance.reshape(self.parts, -1).mean(-1).log().sum()


def fit_numbers(problems: Sequence[Problem], begin: Tensor, *, std: float = 1.0, iterations: int = 100) -> Tensor:
    """The numbers with the smallest mean loss over the parts of all problems, float64 [calls, 3].

    Args:
        problems: what is fitted to.
        begin: where to begin, [calls, 3]; no number moves by more than `REACH`.
        std: the data's standard deviation, in the mean over elements.
        iterations: of L-BFGS, at most.
    """
    from scipy.optimize import minimize

    parts = sum(problem.parts for problem in problems)

    def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
        numbers = torch.tensor(flat).reshape(begin.shape).requires_grad_()
        losses = [problem.loss(*table(problem.process.schedule, numbers, std=std)) for problem in problems]
        value = torch.stack([loss.double() for loss in losses]).sum() / parts
        (gradient,) = torch.autograd.grad(value, numbers)
        found = float(value.detach())
        if not (math.isfinite(found) and bool(gradient.isfinite().all())):
            return 1e3, np.zeros_like(flat)  # the line search turns back
        return found, gradient.flatten().numpy()

    first = begin.flatten().numpy()
    bounds = [(number - REACH, number + REACH) for number in first]
    found = minimize(objective, first, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": iterations})
    return torch.from_numpy(found.x).reshape(begin.shape)
