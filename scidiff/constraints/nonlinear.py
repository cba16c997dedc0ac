"""Smooth functions of a row that must be 0, or must not be positive."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from scidiff.constraints.base import RowConstraint
from scidiff.constraints.rounding import kept, worst
from scidiff.constraints.smooth import Functions, linearise
from scidiff.constraints.sqp import Projection, nearest_on


class _Smooth(RowConstraint):
    """Functions of a row, of which the derivatives are found automatically."""

    function: Functions
    size: float

    def values(self, x: Tensor) -> Tensor:
        """The functions at the rows: float64 [N, D] -> [N, M]."""
        value = self.function(x)
        if value.ndim != 2 or len(value) != len(x) or not value.shape[1]:
            raise ValueError(
                f"expected the function on {self.leaf!r} to give [{len(x)}, M] for {list(x.shape)}, "
                f"got {list(value.shape)}"
            )
        return value.double()

    @abstractmethod
    def solve(self, x: Tensor, metric: Tensor | None) -> Projection:
        """The nearest points of rows float64 [N, D], and how the search for them went."""

    def nearest(self, x: Tensor, metric: Tensor | None) -> Tensor:
        return kept(self, x, self.solve(x, metric).x)

    def polyhedron(self, size: int) -> None:
        return None

    def sizes(self, x: Tensor) -> Tensor:
        """sum_d |df_m / dx_d| |x_d| + size, for every function: [N, D] -> [N, M]."""
        _, gradient = linearise(self.values, x)
        return (gradient.abs() @ x.abs()[:, :, None])[:, :, 0] + self.size


@dataclass(frozen=True, kw_only=True)
class NonlinearEquality(_Smooth):
    """function(x) = 0 for the row x, flattened to D numbers.

    A projection starts at the estimate and follows the constraints' gradients: of a set that is not convex it finds a
    stationary point, which need not be the nearest. Rows from which none is found (the gradients lose their rank, the
    point runs off, there is no point) come back as they were, and their violation tells.

    Attributes:
        leaf: the leaf.
        function: float64 [N, D] -> [N, M], each row on its own, in PyTorch operations that can be differentiated twice
            and mapped by `torch.func.vmap`.
        size: of the terms that the function is the difference of, in its unit, where its derivatives do not tell: at
            x = 0. A value counts as 0 up to the rounding of sum_d |df / dx_d| |x_d| + size.
    """

    leaf: str
    function: Functions
    size: float = 1.0

    def solve(self, x: Tensor, metric: Tensor | None) -> Projection:
        return nearest_on(self.values, self.values(x).shape[1], x, metric, excess=self.excess)

    def excess(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return worst(self.values(x).abs(), self.sizes(x))

    def residuals(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.values(x), x[:, :0]


@dataclass(frozen=True, kw_only=True)
class NonlinearInequality(_Smooth):
    """function(x) <= 0 for the row x, flattened to D numbers. See `NonlinearEquality` for how it is projected onto.

    Attributes:
        leaf: the leaf.
        function: float64 [N, D] -> [N, K], each row on its own, in PyTorch operations that can be differentiated twice
            and mapped by `torch.func.vmap`.
        size: of the terms that the function is the difference of, in its unit, where its derivatives do not tell: at
            x = 0. A value counts as 0 up to the rounding of sum_d |df / dx_d| |x_d| + size.
    """

    leaf: str
    function: Functions
    size: float = 1.0

    def solve(self, x: Tensor, metric: Tensor | None) -> Projection:
        return nearest_on(self.values, 0, x, metric, excess=self.excess)

    def excess(self, x: Tensor) -> tuple[Tensor, Tensor]:
        value = self.values(x)
        return worst(torch.where(value > 0, value, 0) + 0 * value, self.sizes(x))

    def residuals(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x[:, :0], self.values(x)
