r"""Pseudo-inverse guided diffusion (Song et al., "Pseudoinverse-guided diffusion models", 2023)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from scidiff.denoiser import Denoiser
from scidiff.guidance.conjugate_gradients import conjugate_gradients
from scidiff.guidance.measurement import Measurement, gaussian_leaves, linearise
from scidiff.processes.base import Process
from scidiff.state import Layout, State


class PiGDM(Denoiser):
    r"""Guidance by a measurement, with one assumed variance for all that x_t does not tell of x_0.

        p(y | x_t) = N( A clean, r_t^2 A A^T + variance )
        clean + V A^T (r_t^2 A A^T + variance)^{-1} (y - A clean),   V = (sigma_t^2 / alpha_t) J^T
        r_t^2 = s^2 sigma_t^2 / (sigma_t^2 + s^2 alpha_t^2)

    r_t^2 is Cov[x_0 | x_t] of independent elements of variance s^2 (the paper's choice with s = 1). Exact for Gaussian
    data of covariance s^2 I; for correlated data use `MMPS`, which asks the denoiser for its covariance instead. The
    system is solved by conjugate gradients, so no pseudo-inverse is asked for; they do not touch the denoiser.

    Args:
        denoiser: what is guided.
        processes: of every leaf; the Gaussian ones are guided.
        measurement: what was measured.
        data_variance: s^2, > 0.
        iterations: of the conjugate gradients. A A^T of a mask is the identity and takes one.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        processes: Mapping[str, Process],
        measurement: Measurement,
        *,
        data_variance: float = 1.0,
        iterations: int = 5,
    ) -> None:
        if not data_variance > 0:
            raise ValueError(f"expected data_variance > 0, got {data_variance}")
        if iterations < 1:
            raise ValueError(f"expected at least one iteration, got {iterations}")
        super().__init__()
        self.denoiser, self.leaves, self.measurement = denoiser, gaussian_leaves(processes), measurement
        self.data_variance, self.iterations = data_variance, iterations

    def forward(self, x_t: State, t: Tensor, layout: Layout, condition: Any = None) -> State:
        here = linearise(self.denoiser, self.leaves, self.measurement, x_t=x_t, t=t, layout=layout, condition=condition)
        spread = self._spread(here.clean, t, layout)

        def covariance_of_y(v: Tensor) -> Tensor:
            back = here.transpose(v)
            return here.push({leaf: spread[leaf] * back[leaf] for leaf in back}) + here.variance * v

        return here.shifted(conjugate_gradients(covariance_of_y, here.residual, iterations=self.iterations))

    def _spread(self, clean: State, t: Tensor, layout: Layout) -> State:
        """r_t^2 of each leaf, [N, 1, ...]."""
        spread = {}
        for leaf, x in clean.items():
            alpha, sigma = self.leaves[leaf].levels(t, layout.rows(leaf))
            variance = self.data_variance * sigma**2 / (sigma**2 + self.data_variance * alpha**2)
            spread[leaf] = variance.to(x.dtype)
        return spread
