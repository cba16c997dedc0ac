r"""Moment matching posterior sampling (Rozet et al. 2024)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from scidiff.denoiser import Denoiser
from scidiff.guidance.conjugate_gradients import conjugate_gradients
from scidiff.guidance.measurement import Measurement, gaussian_leaves, linearise
from scidiff.processes.base import Process
from scidiff.state import Layout, State


class MMPS(Denoiser):
    r"""Guidance by a measurement, with the covariance that the denoiser itself implies.

        p(y | x_t) = N( A clean, variance + A V A^T ),   V = Cov[x_0 | x_t] = (sigma_t^2 / alpha_t) J^T
        clean + V A^T (variance + A V A^T)^{-1} (y - A clean)

    with J = d clean / d x_t. Exact for Gaussian data and linear A once the conjugate gradients have converged. A
    nonlinear A is linearised at the clean estimate.

    Each iteration costs one vector-Jacobian product of the denoiser, about as much as two calls. Few are enough: the
    first already points along the residual, with a step of the right length.

    Args:
        denoiser: what is guided.
        processes: of every leaf; the Gaussian ones are guided.
        measurement: what was measured.
        iterations: of the conjugate gradients (the paper uses 1 to 3).
    """

    def __init__(
        self, denoiser: Denoiser, processes: Mapping[str, Process], measurement: Measurement, *, iterations: int = 3
    ) -> None:
        if iterations < 1:
            raise ValueError(f"expected at least one iteration, got {iterations}")
        super().__init__()
        self.denoiser, self.leaves, self.measurement = denoiser, gaussian_leaves(processes), measurement
        self.iterations = iterations

    def forward(self, x_t: State, t: Tensor, layout: Layout, condition: Any = None) -> State:
        here = linearise(self.denoiser, self.leaves, self.measurement, x_t=x_t, t=t, layout=layout, condition=condition)

        def covariance_of_y(v: Tensor) -> Tensor:
            return here.push(here.covariance(here.transpose(v))) + here.variance * v

        return here.shifted(conjugate_gradients(covariance_of_y, here.residual, iterations=self.iterations))
