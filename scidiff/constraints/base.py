"""What must hold of a finished sample, how far it is from holding, and the nearest estimate that holds."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from scidiff.state import Layout, State

if TYPE_CHECKING:
    from scidiff.constraints.polyhedron import Polyhedron

ROUNDING = 64
"""A violation counts as zero up to this many units of rounding of the terms that it is the difference of."""


class Infeasible(ValueError):
    """No point satisfies the constraints; the message names them."""


class Constraint(ABC):
    """A set of samples."""

    @abstractmethod
    def project(self, clean: State, layout: Layout, metric: Tensor | None = None) -> State:
        """The nearest feasible clean estimate.

        Args:
            clean: the clean estimates; leaves that the constraint does not name come back untouched.
            layout: who owns which row.
            metric: posterior covariance of a row, [D] (diagonal) or [D, D]; "nearest" is then meant in its inverse, so
                that what is uncertain moves most. None: Euclidean.
        """

    @abstractmethod
    def violation(self, sample: State, layout: Layout) -> Tensor:
        """How far each sample is from holding: float64 [B], exactly 0 where it holds up to rounding, inf for NaN."""


class RowConstraint(Constraint):
    """A constraint on every row of one leaf, seen as a vector of D numbers in float64.

    Attributes:
        leaf: the leaf it speaks of.
    """

    leaf: str

    @abstractmethod
    def nearest(self, x: Tensor, metric: Tensor | None) -> Tensor:
        """The nearest points: float64 [N, D] -> [N, D]."""

    @abstractmethod
    def excess(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The violation of each row, float64 [N] >= 0, and the size of the terms it is the difference of, [N]."""

    @abstractmethod
    def polyhedron(self, size: int) -> Polyhedron | None:
        """The set as linear equalities and inequalities in `size` numbers, if it is one."""

    def project(self, clean: State, layout: Layout, metric: Tensor | None = None) -> State:
        x = clean[self.leaf]
        flat = x.double().flatten(1)
        metric = None if metric is None else metric.to(flat)
        return clean | {self.leaf: self.nearest(flat, metric).to(x.dtype).reshape(x.shape)}

    def violation(self, sample: State, layout: Layout) -> Tensor:
        x = sample[self.leaf]
        amount, scale = self.excess(x.double().flatten(1))
        amount = torch.where(amount <= ROUNDING * torch.finfo(x.dtype).eps * scale, 0, amount)
        amount = torch.where(amount.isnan(), torch.inf, amount)
        none = torch.zeros(layout.batch, dtype=torch.float64, device=x.device)
        return none.scatter_reduce(0, layout.rows(self.leaf).owner, amount, "amax")


def spread(metric: Tensor | None, vectors: Tensor) -> Tensor:
    """Covariance times vectors [..., D]; the vectors themselves in the Euclidean metric."""
    if metric is None:
        return vectors
    return vectors * metric if metric.ndim == 1 else vectors @ metric
