"""What must hold of a finished sample, how far it is from holding, and the nearest estimate that holds."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from scidiff.state import Layout, State

if TYPE_CHECKING:
    from scidiff.constraints.polyhedron import Polyhedron

ROUNDING = 64
"""A violation counts as zero up to this many units of rounding of the terms that it is the difference of."""

Metric = Tensor | Mapping[str, Tensor] | None
"""Posterior covariance of a row, [D] (diagonal) or [D, D], for every leaf or for each by name; None: Euclidean."""


class Infeasible(ValueError):
    """No point satisfies the constraints; the message names them."""


class Constraint(ABC):
    """A set of samples. `a & b`, `a | b` and `~a` are the intersection, the union and the complement of sets."""

    @abstractmethod
    def project(self, clean: State, layout: Layout, metric: Metric = None) -> State:
        """The nearest feasible clean estimate.

        Args:
            clean: the clean estimates; leaves that the constraint does not name come back untouched.
            layout: who owns which row.
            metric: posterior covariance of a row, [D] (diagonal) or [D, D]; "nearest" is then meant in its inverse, so
                that what is uncertain moves most. None: Euclidean. Where the leaves differ, one for each by name.
        """

    @abstractmethod
    def violation(self, sample: State, layout: Layout) -> Tensor:
        """How far each sample is from holding: float64 [B], exactly 0 where it holds up to rounding.

        Infinite for a sample with numbers that are not finite."""

    def describe(self) -> str:
        """The set in a few words, for messages."""
        return type(self).__name__

    def __and__(self, other: Constraint) -> Constraint:
        from scidiff.constraints.combine import Intersection

        return Intersection(parts=(self, other)) if isinstance(other, Constraint) else NotImplemented

    def __or__(self, other: Constraint) -> Constraint:
        from scidiff.constraints.combine import Union

        return Union(parts=(self, other)) if isinstance(other, Constraint) else NotImplemented

    def __invert__(self) -> Constraint:
        from scidiff.constraints.combine import complement

        return complement(self)


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

    def residuals(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The set as smooth equalities = 0, [N, M], and inequalities <= 0, [N, K]: float64 [N, D] in."""
        described = self._described(x)
        return x @ described.equal.T - described.target, x @ described.below.T - described.bound

    def sizes(self, x: Tensor) -> Tensor:
        """The size of the terms that each inequality of `residuals` is the difference of: [N, D] -> [N, K].

        For sets that are no polyhedra what the derivatives tell of it, sum_d |dg_k / dx_d| |x_d|.
        """
        if self.polyhedron(x.shape[-1]) is None:
            from scidiff.constraints.smooth import linearise

            _, gradient = linearise(lambda x: self.residuals(x)[1], x)
            return (gradient.abs() @ x.abs()[:, :, None])[:, :, 0]
        described = self._described(x)
        return x.abs() @ described.below.abs().T + described.bound.abs()

    def _described(self, x: Tensor) -> Polyhedron:
        described = self.polyhedron(x.shape[-1])
        if described is None:
            raise TypeError(f"expected a polyhedron, or residuals of its own, got {type(self).__name__}")
        return described.to(x)

    def project(self, clean: State, layout: Layout, metric: Metric = None) -> State:
        x = clean[self.leaf]
        flat = x.double().flatten(1)
        return clean | {self.leaf: self.nearest(flat, metric_of(self.leaf, metric, flat)).to(x.dtype).reshape(x.shape)}

    def violation(self, sample: State, layout: Layout) -> Tensor:
        x = sample[self.leaf]
        flat = x.double().flatten(1)
        amount, scale = self.excess(flat)
        amount = torch.where(amount <= ROUNDING * torch.finfo(x.dtype).eps * scale, 0, amount)
        amount = torch.where(flat.isfinite().all(1) & ~amount.isnan(), amount, torch.inf)
        none = torch.zeros(layout.batch, dtype=torch.float64, device=x.device)
        return none.scatter_reduce(0, layout.rows(self.leaf).owner, amount, "amax")

    def describe(self) -> str:
        names: list[str] = [field.name for field in fields(self) if field.repr] if is_dataclass(self) else []
        told = [f"{name} {_told(getattr(self, name))}" for name in names if name != "leaf"]
        return f"{type(self).__name__} on {self.leaf!r}" + (f" ({', '.join(told)})" if told else "")


def _told(value: Any) -> str:
    if isinstance(value, Tensor):
        if value.numel() > 6:
            return str(list(value.shape))
        return "[" + ", ".join(f"{number:g}" for number in value.flatten().tolist()) + "]"
    if callable(value):
        return str(getattr(value, "__name__", type(value).__name__))
    return f"{value:g}" if isinstance(value, float) else str(value)


def metric_of(leaf: str, metric: Metric, like: Tensor) -> Tensor | None:
    """The metric of one leaf, of the type and on the device of `like`."""
    found = metric.get(leaf) if isinstance(metric, Mapping) else metric
    return None if found is None else found.to(like)


def spread(metric: Tensor | None, vectors: Tensor) -> Tensor:
    """Covariance times vectors [..., D]; the vectors themselves in the Euclidean metric."""
    if metric is None:
        return vectors
    return vectors * metric if metric.ndim == 1 else vectors @ metric
