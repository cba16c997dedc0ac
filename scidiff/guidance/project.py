r"""Projection of the clean estimate onto a constraint."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from scidiff.denoiser import Denoiser
from scidiff.state import Layout, State


class Projection(Protocol):
    """What is asked of a constraint."""

    def project(self, clean: State, layout: Layout, metric: Tensor | None = None) -> State:
        """The nearest feasible clean estimate."""


class Project(Denoiser):
    """The denoiser whose clean estimates are feasible, from a given time on.

    Early clean estimates are averages over many samples: a projection there drags all of them to the same feasible
    point and ruins the distribution. Tighten late. The estimate that the finished sample is made of must be projected,
    so `start` has to lie at or above the last time the denoiser is called at; the sample is feasible if the solver ends
    on that estimate (at t = 0) and nothing outside this wrapper moves it again. Certify it in any case.

    Args:
        denoiser: what is projected; guidance belongs inside.
        constraint: what must hold.
        metric: posterior covariance of a row, [D] or [D, D]: "nearest" is meant in its inverse, so that what is
            uncertain moves most. None: Euclidean.
        start: the projection acts at times t <= start; at earlier ones the estimate is returned bit for bit.
    """

    def __init__(
        self, denoiser: Denoiser, constraint: Projection, metric: Tensor | None = None, *, start: float = 1.0
    ) -> None:
        if not 0 < start <= 1:
            raise ValueError(f"expected a start in (0, 1], got {start}")
        super().__init__()
        self.denoiser, self.constraint, self.metric, self.start = denoiser, constraint, metric, start

    def forward(self, x_t: State, t: Tensor, layout: Layout, condition: Any = None) -> State:
        outputs = self.denoiser(x_t, t, layout, condition)
        clean = {leaf: outputs[leaf] for leaf in x_t}
        projected = self.constraint.project(clean, layout, self.metric)
        tightened = {
            leaf: torch.where(layout.rows(leaf).per_row(t <= self.start, ndim=x.ndim), projected[leaf], x)
            for leaf, x in clean.items()
        }
        return outputs | tightened
