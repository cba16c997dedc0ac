r"""Diffusion posterior sampling (Chung et al. 2023)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from scidiff.denoiser import Denoiser
from scidiff.guidance.measurement import Measurement, gaussian_leaves, linearise
from scidiff.processes.base import Process
from scidiff.state import Layout, State


class DPS(Denoiser):
    r"""Guidance by the gradient of the residual's norm, through the denoiser.

        clean + (sigma_t^2 / alpha_t) g,     g = -strength grad_{x_t} || y - A(clean(x_t)) ||

    Algorithm 1 of the paper: the likelihood p(y | x_t) is taken for p(y | x_0 = clean), and its gradient is divided by
    the norm of the residual, which keeps it bounded: the measurement's variance plays no part. The paper adds the
    gradient to the state after each ancestral step; here it is added to the score, so that it does not depend on the
    solver. For the likelihood itself, with its variance, use `EnergyGuidance` with `measurement.energy`.

    Biased even for Gaussian data, because p(y | x_t) leaves out what x_t does not tell of x_0. Prefer `MMPS` where the
    operator is close to linear; DPS asks for one vector-Jacobian product only and takes any differentiable operator.

    Args:
        denoiser: what is guided.
        processes: of every leaf; the Gaussian ones are guided.
        measurement: what was measured.
        strength: zeta', in the inverse of the measurement's unit, > 0.
    """

    def __init__(
        self, denoiser: Denoiser, processes: Mapping[str, Process], measurement: Measurement, *, strength: float
    ) -> None:
        if not strength > 0:
            raise ValueError(f"expected a strength > 0, got {strength}")
        super().__init__()
        self.denoiser, self.leaves, self.measurement = denoiser, gaussian_leaves(processes), measurement
        self.strength = strength

    def forward(self, x_t: State, t: Tensor, layout: Layout, condition: Any = None) -> State:
        here = linearise(self.denoiser, self.leaves, self.measurement, x_t=x_t, t=t, layout=layout, condition=condition)
        norm = here.residual.reshape(here.residual.shape[0], -1).norm(dim=-1)
        norm = norm.reshape(-1, *([1] * (here.residual.ndim - 1)))
        direction = here.residual / torch.where(norm > 0, norm, 1)
        return here.shifted(self.strength * direction)
