"""Several constraints on the rows of one leaf, held all at once."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from scidiff.constraints.base import RowConstraint, spread
from scidiff.constraints.monotone import Monotone
from scidiff.constraints.polyhedron import Polyhedron
from scidiff.constraints.rounding import kept, worst
from scidiff.constraints.sqp import Projection, nearest_on, onto_touching

DUST = 1e-24  # of the greatest entry of a row


@dataclass(frozen=True, kw_only=True)
class Joint(RowConstraint):
    """The intersection of sets of rows.

    Polyhedra become one polyhedron, and the nearest point is that of one quadratic program. If any part is curved, the
    linear and the smooth constraints of all parts make up one nonlinear program.

    Attributes:
        leaf: the leaf of all parts.
        parts: one or more.
    """

    leaf: str
    parts: tuple[RowConstraint, ...]
    _merged: dict[int, Polyhedron] = field(init=False, repr=False, default_factory=dict)
    _bounds: dict[int, tuple[Tensor, Tensor]] = field(init=False, repr=False, default_factory=dict)

    def _gathered(self, size: int) -> Polyhedron:
        none = torch.zeros(0, size, dtype=torch.float64)
        described = Polyhedron.of(size, equal=none)
        for part in self.parts:
            linear = part.polyhedron(size)
            described = described & linear.to(none) if linear is not None else described
        return described

    def is_empty(self, size: int) -> bool:
        """Whether the linear constraints contradict each other, by linear programming on the host."""
        return self._gathered(size).is_empty()

    def linear(self, size: int) -> Polyhedron:
        """What is polyhedral in it, in `size` numbers: rows of length 1, and equalities that are independent."""
        if size not in self._merged:
            self._merged[size] = _of_unit_rows(self._gathered(size)).independent()
        return self._merged[size]

    def settle(self, x: Tensor, c: Tensor) -> Tensor:
        """The nearest points x to c that hold but for rounding, with bounds on single entries, and orders of entries,
        met to the last bit: next to 0 no rounding is allowed for, and what is 0 but for rounding of c becomes 0."""
        size = x.shape[-1]
        x = torch.where(x.abs() <= DUST * c.abs().amax(-1, keepdim=True), 0, x)
        if size not in self._bounds:
            self._bounds[size] = _of_entries(self._gathered(size))
        for part in self.parts:
            x = part.nearest(x, None) if isinstance(part, Monotone) else x
        low, high = (bound.to(x) for bound in self._bounds[size])
        return torch.minimum(torch.maximum(x, low), high)

    def _smooth(self, size: int) -> list[RowConstraint]:
        return [part for part in self.parts if part.polyhedron(size) is None]

    def polyhedron(self, size: int) -> Polyhedron | None:
        return None if self._smooth(size) else self.linear(size)

    def nearest(self, x: Tensor, metric: Tensor | None) -> Tensor:
        if len(self.parts) == 1:
            return self.parts[0].nearest(x, metric)
        if self._smooth(x.shape[-1]):
            return kept(self, x, self.solve(x, metric).x)
        linear = self.linear(x.shape[-1]).to(x)
        found = _onto_polyhedron(linear, x, metric)
        touching = onto_touching(self._functions, len(linear.equal), x, found, metric)
        return kept(self, x, kept(self, found, kept(self, touching, self.settle(touching, x))))

    def solve(self, x: Tensor, metric: Tensor | None) -> Projection:
        """The nearest points of rows float64 [N, D] by the nonlinear program, and how the search for them went."""
        return nearest_on(
            self._functions, self.residuals(x)[0].shape[1], x, metric, excess=self.excess, settle=self.settle
        )

    def _functions(self, x: Tensor) -> Tensor:
        return torch.cat(self.residuals(x), 1)

    def excess(self, x: Tensor) -> tuple[Tensor, Tensor]:
        amounts, scales = zip(*(part.excess(x) for part in self.parts), strict=True)
        return worst(torch.stack(amounts, 1), torch.stack(scales, 1))

    def residuals(self, x: Tensor) -> tuple[Tensor, Tensor]:
        linear = self.linear(x.shape[-1]).to(x)
        equal, below = [x @ linear.equal.T - linear.target], [x @ linear.below.T - linear.bound]
        for part in self._smooth(x.shape[-1]):
            more_equal, more_below = part.residuals(x)
            equal, below = [*equal, more_equal], [*below, more_below]
        return torch.cat(equal, 1), torch.cat(below, 1)

    def sizes(self, x: Tensor) -> Tensor:
        linear = self.linear(x.shape[-1]).to(x)
        parts = [x.abs() @ linear.below.abs().T + linear.bound.abs()]
        return torch.cat([*parts, *(part.sizes(x) for part in self._smooth(x.shape[-1]))], 1)

    def describe(self) -> str:
        return " and ".join(part.describe() for part in self.parts)


def _of_unit_rows(p: Polyhedron) -> Polyhedron:
    equal, below = (torch.linalg.vector_norm(rows, dim=-1) for rows in (p.equal, p.below))
    told, bounded = equal > 0, below > 0
    return Polyhedron(
        equal=p.equal[told] / equal[told, None],
        target=p.target[told] / equal[told],
        below=p.below[bounded] / below[bounded, None],
        bound=p.bound[bounded] / below[bounded],
    )


def _of_entries(p: Polyhedron) -> tuple[Tensor, Tensor]:
    """The bounds [D] that a polyhedron sets to single entries."""
    rows, bounds = torch.cat([p.below, p.equal, -p.equal]), torch.cat([p.bound, p.target, -p.target])
    single = (rows != 0).sum(1) == 1
    rows, bounds = rows[single], bounds[single]
    most = torch.where(rows > 0, bounds[:, None] / rows, torch.inf)
    least = torch.where(rows < 0, bounds[:, None] / rows, -torch.inf)
    none = rows.new_full((1, rows.shape[1]), torch.inf)
    return torch.cat([least, -none]).amax(0), torch.cat([most, none]).amin(0)


def _onto_polyhedron(p: Polyhedron, x: Tensor, metric: Tensor | None) -> Tensor:
    """The nearest point, found as a displacement in units of the farthest face that is overstepped."""
    equal, below = x @ p.equal.T - p.target, x @ p.below.T - p.bound
    rows = torch.cat([p.equal, p.below])
    reach = (spread(metric, rows) * rows).sum(-1).clamp_min(0).sqrt()
    off = torch.cat([equal.abs(), below.clamp_min(0)], 1)
    unit = torch.where(reach > 0, off / reach, 0).amax(-1, keepdim=True)
    unit = torch.where(unit > 0, unit, 1)
    moved = Polyhedron(equal=p.equal, target=-equal / unit, below=p.below, bound=-below / unit)
    return x + unit * moved.nearest(torch.zeros_like(x), metric)
