"""Shares: numbers that are not negative and sum to 1."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from scidiff.constraints.base import RowConstraint
from scidiff.constraints.dense import nearest_dense
from scidiff.constraints.polyhedron import Polyhedron
from scidiff.constraints.rounding import kept, worst
from scidiff.constraints.sums import fill


@dataclass(frozen=True, kw_only=True)
class Simplex(RowConstraint):
    """x >= 0 and sum x = 1 along the last dimension of each row.

    Attributes:
        leaf: the leaf.
        size: K, that last dimension, of rows [..., K]; None: the row, flattened, is one simplex.
    """

    leaf: str
    size: int | None = None

    def __post_init__(self) -> None:
        if self.size is not None and self.size < 1:
            raise ValueError(f"expected a last dimension of at least 1, got {self.size}")

    def _shares(self, x: Tensor) -> Tensor:
        """Rows [N, D] as [N, D / K, K]."""
        size = self.size or x.shape[-1]
        if x.shape[-1] % size:
            raise ValueError(f"expected rows of a multiple of {size} numbers in {self.leaf!r}, got {x.shape[-1]}")
        return x.unflatten(-1, (-1, size))

    def nearest(self, x: Tensor, metric: Tensor | None) -> Tensor:
        if metric is not None and metric.ndim == 2:
            return kept(self, x, nearest_dense(self, x, metric))
        shares = self._shares(x)
        variance = torch.ones_like(shares[:1]) if metric is None else self._shares(metric[None])
        none, unbounded, one = x.new_zeros(()), x.new_full((), torch.inf), x.new_ones(())
        return kept(self, x, fill(shares, variance, none, unbounded, one).flatten(1))

    def excess(self, x: Tensor) -> tuple[Tensor, Tensor]:
        shares = self._shares(x)
        off, size = (shares.sum(-1) - 1).abs(), shares.abs().sum(-1) + 1
        return worst(torch.cat([off, (-x).clamp_min(0)], 1), torch.cat([size, x.abs()], 1))

    def polyhedron(self, size: int) -> Polyhedron:
        one = torch.eye(size, dtype=torch.float64)
        equal = self._shares(one).sum(-1).T
        return Polyhedron.of(size, equal=equal, target=one.new_ones(len(equal)), below=-one, bound=one.new_zeros(size))
