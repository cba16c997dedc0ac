r"""A denoiser that knows linear facts.

    E[x_0 | x_t, R x_0 = y] = clean + V R^T (R V R^T)^-1 (y - R clean),     V = Cov[x_0 | x_t]

is the projection of the clean estimate onto the facts in the metric of V, which is taken to be that of a Gaussian field
with the data's covariance. For such a field it is exact, at every noise level: the loop then draws from the posterior
itself, as conditional simulation does in kriging. For others V says only how an error spreads, its size cancels.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from scidiff.denoiser import Denoiser
from scidiff.fluids.blended import FieldCovariance
from scidiff.fluids.constraints import FieldConstraint
from scidiff.fluids.joined import joined
from scidiff.processes.gaussian import GaussianProcess
from scidiff.state import Layout, State


class Conditioned(Denoiser):
    """The denoiser whose clean estimates meet linear facts.

    Args:
        denoiser: what is told.
        process: of the leaf.
        facts: sensors, no divergence; what is not linear ruins the average that an early clean estimate is.
        covariance: of the data.
    """

    def __init__(
        self, denoiser: Denoiser, process: GaussianProcess, facts: FieldConstraint, covariance: FieldCovariance
    ) -> None:
        super().__init__()
        self.denoiser, self.process, self.covariance = denoiser, process, covariance
        self.facts = joined(facts)  # once: which facts depend on others is found on the host

    def forward(self, x_t: State, t: Tensor, layout: Layout, condition: Any = None) -> State:
        """All samples are at one time, as in the loop."""
        torch._assert_async((t == t[0]).all(), "expected one time for all samples")
        alpha, sigma = self.process.schedule(t[0])
        left = self.covariance.posterior((sigma / alpha).square())
        return self.facts.project(self.denoiser(x_t, t, layout, condition), layout, left)
