r"""Polyhedral sets in the metric of a dense covariance, where none of them has a closed form.

The interior-point method is given the way d = (y - x) / u from the point instead of the point, in the unit u of the
length of the Euclidean closed form's way, so that its numbers are near 1 whatever those of x and of the bounds:

    min_d 1/2 d^T S^-1 d    subject to    A d = (b - A x) / u,  G d <= (h - G x) / u

The nearest point is no farther than the Euclidean one, |d| <= 1 in this metric, so no face g is ever met that lies
beyond (g^T S g)^(1/2), and all those may as well lie at twice that.
"""

from __future__ import annotations

import torch
from torch import Tensor

from scidiff.constraints.base import RowConstraint
from scidiff.constraints.polyhedron import Polyhedron


def nearest_dense(constraint: RowConstraint, x: Tensor, metric: Tensor) -> Tensor:
    """The nearest point, feasible to rounding: what the interior-point method finds is moved by the closed form.

    Args:
        constraint: a polyhedral set with linearly independent equalities and a Euclidean closed form of its own.
        x: rows, float64 [N, D].
        metric: covariance, [D, D], positive definite.
    """
    described = constraint.polyhedron(x.shape[-1])
    if described is None:
        raise TypeError(f"expected a polyhedral constraint, got {type(constraint).__name__}")
    equal, below = described.equal.to(x), described.below.to(x)
    metric = metric / metric.diagonal().mean()  # only the ratios of the variances matter
    way = constraint.nearest(x, None) - x
    unit = (way * torch.linalg.solve_ex(metric, way.T)[0].T).sum(-1, keepdim=True)
    unit = unit.clamp_min(torch.finfo(x.dtype).tiny).sqrt()
    reach = ((below @ metric) * below).sum(-1).sqrt()
    moved = Polyhedron(
        equal=equal,
        target=(described.target.to(x) - x @ equal.T) / unit,
        below=below,
        bound=torch.minimum((described.bound.to(x) - x @ below.T) / unit, 2 * reach),
    )
    return constraint.nearest(x + unit * moved.nearest(torch.zeros_like(x), metric), None)
