"""Polyhedral sets in the metric of a dense covariance, where none of them has a closed form."""

from __future__ import annotations

from torch import Tensor

from scidiff.constraints.base import RowConstraint
from scidiff.constraints.polyhedron import Polyhedron


def nearest_dense(constraint: RowConstraint, x: Tensor, metric: Tensor) -> Tensor:
    """The nearest point by the interior-point method, then made feasible to rounding by the Euclidean closed form.

    Args:
        constraint: a polyhedral set with linearly independent equalities and a closed form of its own.
        x: rows, float64 [N, D].
        metric: covariance, [D, D].
    """
    described = constraint.polyhedron(x.shape[-1])
    if described is None:
        raise TypeError(f"expected a polyhedral constraint, got {type(constraint).__name__}")
    moved = Polyhedron(
        equal=described.equal.to(x),
        target=described.target.to(x),
        below=described.below.to(x),
        bound=described.bound.to(x),
    )
    # only the ratios of the variances matter; near 1 they suit the start of the interior-point method
    return constraint.nearest(moved.nearest(x, metric / metric.diagonal().mean()), None)
