"""What lies outside a set of rows, its boundary included."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from scidiff.constraints.base import RowConstraint, spread
from scidiff.constraints.linear import LinearInequality
from scidiff.constraints.polyhedron import Polyhedron
from scidiff.constraints.rounding import kept, worst
from scidiff.constraints.sqp import Projection, nearest_on


def depth(part: RowConstraint, x: Tensor) -> tuple[Tensor, Tensor]:
    """How deep rows x [N, D] lie inside a set: the least by which an inequality holds, [N] >= 0, and its terms' size.

    0 on the boundary and outside; 0 everywhere for sets with equalities, which have no inside; inf if no inequality
    bounds the set.
    """
    equal, below = part.residuals(x)
    if equal.shape[1]:
        nothing = 0 * x.sum(-1)
        return nothing, nothing
    inside, size = torch.where(below < 0, -below, 0 * below), part.sizes(x)
    tiny = torch.finfo(x.dtype).tiny
    ratio = torch.nn.functional.pad(inside / size.clamp_min(tiny), (0, 1), value=torch.inf).amin(-1)
    least = torch.nn.functional.pad(inside, (0, 1), value=torch.inf).amin(-1)
    return least, torch.where((ratio > 0) & ratio.isfinite(), least / ratio.clamp_min(tiny), 0)


def sides(part: RowConstraint, size: int) -> list[RowConstraint] | None:
    """The sets whose union is the closure of the complement of `part`, in rows of `size` numbers; None: all rows."""
    described = part.polyhedron(size)
    if described is None:
        equal, below = part.residuals(torch.zeros(1, size, dtype=torch.float64))
        return None if equal.shape[1] else [Side(leaf=part.leaf, part=part, face=k) for k in range(below.shape[1])]
    if len(described.equal):
        return None
    turned = zip((-described.below).split(1), (-described.bound).split(1), strict=True)
    faces = ((matrix, bound) for matrix, bound in turned if bool((matrix != 0).any() | (bound >= 0).all()))
    return [LinearInequality(leaf=part.leaf, matrix=matrix, bound=bound) for matrix, bound in faces]


@dataclass(frozen=True, kw_only=True)
class Side(RowConstraint):
    """The rows on the far side of one smooth inequality of a set, or on its boundary.

    Attributes:
        leaf: the leaf.
        part: the set.
        face: which of its inequalities.
    """

    leaf: str
    part: RowConstraint
    face: int

    def residuals(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x[:, :0], -self.part.residuals(x)[1][:, self.face, None]

    def sizes(self, x: Tensor) -> Tensor:
        return self.part.sizes(x)[:, self.face, None]

    def excess(self, x: Tensor) -> tuple[Tensor, Tensor]:
        below = self.residuals(x)[1]
        return worst(torch.where(below > 0, below, 0 * below), self.sizes(x))

    def solve(self, x: Tensor, metric: Tensor | None) -> Projection:
        """The nearest points of rows float64 [N, D], and how the search for them went."""
        return nearest_on(lambda x: self.residuals(x)[1], 0, x, metric, excess=self.excess)

    def nearest(self, x: Tensor, metric: Tensor | None) -> Tensor:
        return kept(self, x, self.solve(x, metric).x)

    def polyhedron(self, size: int) -> None:
        return None


@dataclass(frozen=True, kw_only=True)
class Outside(RowConstraint):
    """The closure of the complement of a polyhedron without equalities: the nearest of the far sides of its faces.

    Attributes:
        leaf: the leaf.
        part: the polyhedron.
    """

    leaf: str
    part: RowConstraint

    def nearest(self, x: Tensor, metric: Tensor | None) -> Tensor:
        described = self.part.polyhedron(x.shape[-1])
        if described is None:
            raise TypeError(f"expected a polyhedron, got {self.part.describe()}")
        described = described.to(x)
        found = kept(self, x, _through(described, x, metric))
        return kept(self, found, _through(described, found, metric))

    def excess(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return depth(self.part, x)

    def polyhedron(self, size: int) -> None:
        return None


def _through(p: Polyhedron, x: Tensor, metric: Tensor | None) -> Tensor:
    """Through the nearest face: [N, D] -> [N, D]."""
    way = spread(metric, p.below)
    reach = (way * p.below).sum(-1)
    inside = p.bound - x @ p.below.T
    far = torch.where(reach > 0, inside / reach.clamp_min(torch.finfo(x.dtype).tiny).sqrt(), torch.inf)
    face = far.argmin(-1)
    step = inside.gather(1, face[:, None]) / reach[face][:, None].clamp_min(torch.finfo(x.dtype).tiny)
    return x + step * way[face]
