r"""Measurements of the clean state, and what a denoiser says of them.

    y = A(x_0) + e,   e ~ N(0, diag(variance)).

All methods that guide by a measurement (DPS, PiGDM, MMPS) approximate p(y | x_t) by a Gaussian around A(clean) and move
the clean estimate along the gradient of its logarithm. With J = d clean / d x_t, Tweedie's formula and its second-order
form (Rozet et al. 2024, section 4) are

    E[x_0 | x_t, y] = clean + (sigma_t^2 / alpha_t) grad_{x_t} log p(y | x_t),
    V = Cov[x_0 | x_t] = (sigma_t^2 / alpha_t) J^T,

so that each of them is `clean + V A^T w` for some weights w on the residual y - A(clean), and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from scidiff.denoiser import Denoiser
from scidiff.processes.base import Process
from scidiff.processes.gaussian import GaussianProcess, ZeroMeanGaussianProcess, centred
from scidiff.state import Layout, State

Input = TypeVar("Input", Tensor, State)
Output = TypeVar("Output", Tensor, State)


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """What was measured.

    Attributes:
        operator: A, from a state to [B, *M], differentiable; row b depends on sample b alone. It sees the Gaussian
            leaves only. In a ragged batch whose samples have different numbers of measurements, pad with zeros.
        value: y, [B, *M] or broadcastable to it.
        variance: of the noise, in the measurement's unit squared, >= 0: a number, or broadcastable to [B, *M].
    """

    operator: Callable[[State], Tensor]
    value: Tensor
    variance: float | Tensor

    def energy(self, state: State) -> Tensor:
        """The negative log-likelihood without its constant, sum (y - A(x))^2 / (2 variance): [B]."""
        residual = self.value - self.operator(state)
        return (residual.square() / (2 * self.variance)).reshape(residual.shape[0], -1).sum(-1)


@dataclass(frozen=True, kw_only=True)
class Linearised:
    """A denoiser and a measurement's operator, linearised at one x_t.

    Attributes:
        outputs: all that the denoiser gave.
        clean: the clean estimates of the Gaussian leaves.
        residual: y - A(clean), [B, *M].
        variance: of the measurement's noise, broadcastable to it.
        transpose: A^T, [B, *M] -> State.
        push: A, State -> [B, *M].
        covariance: V, State -> State, by one vector-Jacobian product of the denoiser.
    """

    outputs: State
    clean: State
    residual: Tensor
    variance: Tensor
    transpose: Callable[[Tensor], State]
    push: Callable[[State], Tensor]
    covariance: Callable[[State], State]

    def shifted(self, weights: Tensor) -> State:
        """clean + V A^T weights, with all other outputs as they are."""
        shift = self.covariance(self.transpose(weights))
        return self.outputs | {leaf: clean + shift[leaf] for leaf, clean in self.clean.items()}


def linearise(
    denoiser: Denoiser,
    leaves: Mapping[str, GaussianProcess],
    measurement: Measurement,
    *,
    x_t: State,
    t: Tensor,
    layout: Layout,
    condition: Any,
) -> Linearised:
    """Call the denoiser once and keep what its vector-Jacobian products need."""

    def denoise(noisy: State) -> tuple[State, State]:
        outputs = denoiser({**x_t, **noisy}, t, layout, condition)
        return {leaf: outputs[leaf] for leaf in noisy}, outputs

    clean, pull, outputs = pullback(denoise, {leaf: x_t[leaf] for leaf in leaves})
    predicted, transpose, push = derivative(measurement.operator, clean)

    def covariance(direction: State) -> State:
        return tweedie_shift(leaves, pull(direction), t, layout)

    return Linearised(
        outputs=outputs,
        clean=clean,
        residual=(measurement.value - predicted).to(predicted.dtype),
        variance=torch.as_tensor(measurement.variance, dtype=predicted.dtype, device=predicted.device),
        transpose=transpose,
        push=push,
        covariance=covariance,
    )


def derivative(
    operator: Callable[[State], Tensor], at: State
) -> tuple[Tensor, Callable[[Tensor], State], Callable[[State], Tensor]]:
    """An operator at a state: its value, its derivative's transpose, and the derivative."""
    value, transpose, _ = pullback(lambda state: (operator(state), {}), at)

    # The transpose is linear, and its own transpose is the derivative: no forward mode is needed.
    _, push, _ = pullback(lambda weights: (transpose(weights), {}), torch.zeros_like(value))
    return value, transpose, push


def pullback(
    function: Callable[[Input], tuple[Output, State]], at: Input
) -> tuple[Output, Callable[[Output], Input], State]:
    """The value of a function at a point, its vector-Jacobian product there, and what else the function returned.

    Unlike `torch.autograd.grad` it works without gradients enabled, and within `torch.compile`.
    """
    value, pull, rest = torch.func.vjp(function, at, has_aux=True)  # type: ignore[misc]
    return value, lambda vector: pull(vector)[0], rest


def gaussian_leaves(processes: Mapping[str, Process]) -> dict[str, GaussianProcess]:
    """The leaves that a gradient can move.

    Raises:
        ValueError: if there is none.
    """
    leaves = {leaf: process for leaf, process in processes.items() if isinstance(process, GaussianProcess)}
    if not leaves:
        raise ValueError(f"expected at least one Gaussian leaf, got none among {sorted(processes)}")
    return leaves


def tweedie_shift(leaves: Mapping[str, GaussianProcess], gradient: State, t: Tensor, layout: Layout) -> State:
    """(sigma_t^2 / alpha_t) times a gradient by x_t: what it adds to the score, in terms of the clean estimates.

    Where alpha_t = 0, x_t says nothing of x_0, and nothing is added. Gradients stay in the space of the leaf (of zero
    mean where that is).
    """
    shift = {}
    for leaf, process in leaves.items():
        rows, along = layout.rows(leaf), gradient[leaf]
        if isinstance(process, ZeroMeanGaussianProcess):
            along = centred(along, rows)
        alpha, sigma = process.levels(t, rows)
        seen = alpha > torch.finfo(alpha.dtype).eps
        gain = torch.where(seen, sigma.square() / torch.where(seen, alpha, 1), 0)
        shift[leaf] = gain.to(along.dtype) * along
    return shift
