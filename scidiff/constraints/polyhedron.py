r"""Projection onto a polyhedron, all its faces at once.

    min_x 1/2 (x - c)^T S^-1 (x - c)    subject to    A x = b,  G x <= h

Equalities alone have a closed form, x = c - S A^T (A S A^T)^-1 (A c - b). With inequalities, an interior-point method
finds which faces are active; the equalities of those faces are then solved once more, which makes the answer exact to
rounding.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from scidiff.constraints.base import spread
from scidiff.constraints.interior import quadratic_program


@dataclass(frozen=True, kw_only=True)
class Polyhedron:
    """The points x in R^D with equal @ x = target and below @ x <= bound, all float64.

    Attributes:
        equal, target: [M, D] and [M].
        below, bound: [K, D] and [K].
    """

    equal: Tensor
    target: Tensor
    below: Tensor
    bound: Tensor

    @classmethod
    def of(
        cls,
        size: int,
        *,
        equal: Tensor | None = None,
        target: Tensor | None = None,
        below: Tensor | None = None,
        bound: Tensor | None = None,
    ) -> Polyhedron:
        """A polyhedron in R^size from whichever parts there are."""
        given = next(part for part in (equal, below) if part is not None)
        none, nothing = given.new_zeros(0, size), given.new_zeros(0)
        return cls(
            equal=none if equal is None else equal,
            target=nothing if target is None else target,
            below=none if below is None else below,
            bound=nothing if bound is None else bound,
        )

    def __and__(self, other: Polyhedron) -> Polyhedron:
        return Polyhedron(
            equal=torch.cat([self.equal, other.equal]),
            target=torch.cat([self.target, other.target]),
            below=torch.cat([self.below, other.below]),
            bound=torch.cat([self.bound, other.bound]),
        )

    def to(self, like: Tensor) -> Polyhedron:
        """The same set, of the type and on the device of a tensor."""
        return Polyhedron(
            equal=self.equal.to(like),
            target=self.target.to(like),
            below=self.below.to(like),
            bound=self.bound.to(like),
        )

    def is_empty(self) -> bool:
        """Whether no point lies in it, by linear programming on the host."""
        from scipy.optimize import linprog

        equal, target, below, bound = (part.cpu().numpy() for part in (self.equal, self.target, self.below, self.bound))
        found = linprog(
            np.zeros(equal.shape[1]),
            A_eq=equal if len(equal) else None,
            b_eq=target if len(target) else None,
            A_ub=below if len(below) else None,
            b_ub=bound if len(bound) else None,
            bounds=(None, None),
        )
        return found.status == 2

    def independent(self) -> Polyhedron:
        """The same set with linearly independent equalities."""
        if len(self.equal) < 2:
            return self
        u, size, _ = torch.linalg.svd(self.equal, full_matrices=False)
        kept = size > size[0] * 1e-12
        turn = u[:, kept].T
        return Polyhedron(equal=turn @ self.equal, target=turn @ self.target, below=self.below, bound=self.bound)

    def nearest(self, c: Tensor, metric: Tensor | None) -> Tensor:
        """The nearest point to each c: float64 [N, D] -> [N, D]."""
        if len(self.below) == 0:
            return onto_affine(c, self.equal, self.target, metric)
        covariance = _dense(metric, c)
        x, _, multiplier, slack = quadratic_program(
            c,
            torch.linalg.inv(covariance)[None],
            equal=self.equal[None],
            target=self.target.expand(len(c), -1),
            below=self.below[None],
            bound=self.bound.expand(len(c), -1),
        )
        return _polish(self, c, covariance, x, multiplier > slack)


def onto_affine(c: Tensor, equal: Tensor, target: Tensor, metric: Tensor | None) -> Tensor:
    """The point of equal @ x = target nearest to each c [N, D]; rows of `equal` are independent."""
    gram = equal @ spread(metric, equal).T
    multiplier = torch.linalg.solve(gram, (c @ equal.T - target).T).T
    return c - spread(metric, multiplier @ equal)


def _dense(metric: Tensor | None, c: Tensor) -> Tensor:
    if metric is None:
        return torch.eye(c.shape[-1], dtype=c.dtype, device=c.device)
    return torch.diag(metric) if metric.ndim == 1 else metric


def _polish(p: Polyhedron, c: Tensor, covariance: Tensor, x: Tensor, active: Tensor) -> Tensor:
    """Solve the equalities of the active faces exactly; keep x where that leaves the polyhedron by more than x does."""
    rows = torch.cat([p.equal.expand(len(c), -1, -1), p.below * active[:, :, None]], 1)
    goal = torch.cat([p.target.expand(len(c), -1), p.bound * active], 1)
    for _ in range(2):
        gram = rows @ covariance @ rows.mT
        off = (rows @ c[:, :, None])[:, :, 0] - goal
        multiplier = (torch.linalg.pinv(gram, hermitian=True, rtol=1e-13) @ off[:, :, None])[:, :, 0]
        c = c - (multiplier[:, None, :] @ rows @ covariance)[:, 0]
    return torch.where(_outside(p, c) <= _outside(p, x) + 1e-12, c, x)


def _outside(p: Polyhedron, x: Tensor) -> Tensor:
    """The greatest violation: [N, 1]."""
    parts = [(x @ p.equal.T - p.target).abs(), (x @ p.below.T - p.bound).clamp_min(0), torch.zeros_like(x[:, :1])]
    return torch.cat(parts, -1).amax(-1, keepdim=True)
