"""Linear equalities and inequalities."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from scidiff.constraints.base import Infeasible, RowConstraint
from scidiff.constraints.polyhedron import Polyhedron


def _checked(matrix: Tensor, vector: Tensor, name: str) -> tuple[Tensor, Tensor]:
    if matrix.ndim != 2 or vector.shape != matrix.shape[:1]:
        raise ValueError(f"expected a matrix [M, D] and {name} [M], got {list(matrix.shape)} and {list(vector.shape)}")
    if not (torch.isfinite(matrix).all() and torch.isfinite(vector).all()):
        raise ValueError(f"expected finite numbers in the matrix and {name}, got NaN or infinity")
    return matrix.double(), vector.double()


@dataclass(frozen=True, kw_only=True)
class LinearEquality(RowConstraint):
    """matrix @ x = target for the row x, flattened to D numbers.

    Attributes:
        leaf: the leaf.
        matrix: [M, D].
        target: [M].
    """

    leaf: str
    matrix: Tensor
    target: Tensor

    def __post_init__(self) -> None:
        matrix, target = _checked(self.matrix, self.target, "target")
        object.__setattr__(self, "matrix", matrix)
        object.__setattr__(self, "target", target)
        if self._set.independent().is_empty() or self._set.is_empty():
            raise Infeasible(f"the {len(matrix)} equalities on {self.leaf!r} contradict each other")

    @cached_property
    def _set(self) -> Polyhedron:
        return Polyhedron.of(self.matrix.shape[1], equal=self.matrix, target=self.target)

    @cached_property
    def _independent(self) -> Polyhedron:
        return self._set.independent()

    def polyhedron(self, size: int) -> Polyhedron:
        if size != self.matrix.shape[1]:
            raise ValueError(f"expected rows of {self.matrix.shape[1]} numbers in {self.leaf!r}, got {size}")
        return self._set

    def nearest(self, x: Tensor, metric: Tensor | None) -> Tensor:
        self.polyhedron(x.shape[-1])
        return self._independent.nearest(x, metric)

    def excess(self, x: Tensor) -> tuple[Tensor, Tensor]:
        off = (x[:, None, :] * self.matrix).sum(-1) - self.target
        scale = (x[:, None, :] * self.matrix).abs().sum(-1) + self.target.abs()
        return off.abs().amax(-1), scale.amax(-1)


@dataclass(frozen=True, kw_only=True)
class LinearInequality(RowConstraint):
    """matrix @ x <= bound for the row x, flattened to D numbers.

    Attributes:
        leaf: the leaf.
        matrix: [K, D].
        bound: [K].
    """

    leaf: str
    matrix: Tensor
    bound: Tensor

    def __post_init__(self) -> None:
        matrix, bound = _checked(self.matrix, self.bound, "bound")
        object.__setattr__(self, "matrix", matrix)
        object.__setattr__(self, "bound", bound)
        if self.polyhedron(matrix.shape[1]).is_empty():
            raise Infeasible(f"the {len(matrix)} inequalities on {self.leaf!r} contradict each other")

    def polyhedron(self, size: int) -> Polyhedron:
        if size != self.matrix.shape[1]:
            raise ValueError(f"expected rows of {self.matrix.shape[1]} numbers in {self.leaf!r}, got {size}")
        return Polyhedron.of(size, below=self.matrix, bound=self.bound)

    def nearest(self, x: Tensor, metric: Tensor | None) -> Tensor:
        return self.polyhedron(x.shape[-1]).nearest(x, metric)

    def excess(self, x: Tensor) -> tuple[Tensor, Tensor]:
        over = ((x[:, None, :] * self.matrix).sum(-1) - self.bound).clamp_min(0)
        scale = (x[:, None, :] * self.matrix).abs().sum(-1) + self.bound.abs()
        return over.amax(-1), scale.amax(-1)
