r"""Linear facts R x = y in a metric S, factorised once: the nearest point, and what the facts leave free.

    nearest = c - S R^T (R S R^T)^-1 (R c - y),        S' = S - S R^T (R S R^T)^-1 R S

Facts that carry noise of a variance s stand as R S R^T + s.

R is kept on the places that it reads, which are few where instruments are points. Every S here is that of a flow which
shifts along x leave alike (Leray's projection, covariances), so a table of it between lines of the grid, by distance
along x, tells all its entries, with those of a few patterns added; only metrics written out as matrices have none.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from scidiff.constraints.interior import all_rest

RIDGE = 1e-12  # of a Gram matrix's diagonal
ROUNDED = 4  # units of rounding of what is seen that pass


class Entries(Protocol):
    """The entries of an S."""

    def between(self, a: Tensor, b: Tensor) -> Tensor:
        """S between places [..., A] and [..., B] of the flattened field: [..., A, B]."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """The entries of an S that shifts along x leave alike, plus F^T F.

    Attributes:
        values: between lines and by distance along x, [C H, C H, W].
        patterns: F, [E, D].
    """

    values: Tensor
    patterns: Tensor

    @classmethod
    def of(
        cls,
        spread: Callable[[Tensor], Tensor],
        shape: tuple[int, int, int],
        like: Tensor,
        *,
        patterns: Tensor | None = None,
    ) -> Table:
        """From what S does, [..., D] -> [..., D], on fields of a shape, and from F [E, D]."""
        channels, height, width = shape
        lines = channels * height
        impulses = torch.zeros(lines, lines, width, dtype=torch.float64, device=like.device)
        impulses[:, :, 0] = torch.eye(lines, dtype=torch.float64, device=like.device)
        values = spread(impulses.flatten(1)).reshape(lines, lines, width)
        return cls(values=values, patterns=values.new_zeros(0, lines * width) if patterns is None else patterns)

    def between(self, a: Tensor, b: Tensor) -> Tensor:
        """S between places [..., A] and [..., B] of the flattened field: [..., A, B]."""
        width = self.values.shape[-1]
        apart = (b[..., None, :] - a[..., :, None]) % width
        found = self.values[(a // width)[..., :, None], (b // width)[..., None, :], apart]
        if not len(self.patterns):
            return found
        return found + self.patterns.T[a] @ self.patterns.T[b].mT


@dataclass(frozen=True, kw_only=True)
class Linear:
    """Independent linear facts, factorised in one metric.

    Attributes:
        places: that R reads, int64 [P].
        weights: R on them, [M, P].
        values: y, [M].
        spread: S, [..., D] -> [..., D].
        size: D.
        table: of S; None: it has none.
        noise: variance of what the facts' values carry, s.
        apart: whether fact m reads place m alone.
        factor: of R S R^T + s, lower, [M, M].
    """

    places: Tensor
    weights: Tensor
    values: Tensor
    spread: Callable[[Tensor], Tensor]
    size: int
    table: Entries | None = field(repr=False)
    noise: float = 0.0
    apart: bool = False
    factor: Tensor = field(init=False, repr=False)
    _reach: list[Tensor] = field(init=False, repr=False, default_factory=list)

    def __post_init__(self) -> None:
        if self.table is not None and len(self.places) <= 2 * len(self.weights):
            between, single = self.table.between(self.places, self.places), self.weights.diagonal()
            gram = single[:, None] * between * single if self.apart else self.weights @ between @ self.weights.T
        else:
            gram = self.reach[:, self.places] @ self.weights.T
        gram = gram + torch.diag(RIDGE * gram.diagonal() + self.noise)
        object.__setattr__(self, "factor", torch.linalg.cholesky_ex(gram).L)

    @property
    def reach(self) -> Tensor:
        """R S, [M, D], found when it is first asked for (`cached_property` has a lock that compilers cannot follow)."""
        if not self._reach:
            rows = self._lifted(torch.eye(len(self.weights), dtype=self.weights.dtype, device=self.weights.device))
            self._reach.append(self.spread(rows) if len(rows) else rows)
        return self._reach[0]

    def onto(self, c: Tensor) -> Tensor:
        """The nearest points that meet the facts: [N, D] -> [N, D]; again where rounding is to be made up for."""
        found = self.closer(c)
        seen = self._seen(found)
        off = (seen - self.values).abs() > ROUNDED * torch.finfo(c.dtype).eps * (seen.abs() + self.values.abs())
        again = off.any(-1, keepdim=True)
        if all_rest(~again[:, 0]):
            return found
        return torch.where(again, self.closer(found), found)

    def closer(self, c: Tensor) -> Tensor:
        """The same but for rounding, and without where c nearly meets the facts."""
        if not len(self.values):
            return c
        return c - self.spread(self._lifted(self._solved(self._seen(c) - self.values)))

    def within(self, g: Tensor) -> Tensor:
        """S' g: [..., D] -> [..., D]."""
        if not g.numel():
            return g
        moved = self.spread(g)
        if not len(self.values):
            return moved
        return moved - self.spread(self._lifted(self._solved(self._seen(moved))))

    def within_entries(self, at: Tensor, weight: Tensor) -> Tensor:
        """S' of fields with weights [N, K] at entries [N, K] and 0 elsewhere: [N, D]."""
        field = weight.new_zeros(len(at), self.size).scatter_add(1, at, weight)
        if not len(self.values):
            return self.spread(field)
        seen = (weight[:, None] @ self.reach.T[at])[:, 0]
        return self.spread(field - self._lifted(self._solved(seen)))

    def entries(self, at: Tensor) -> Tensor:
        """S' between entries [N, K]: [N, K, K]."""
        if self.table is None:
            raise TypeError("expected a metric that shifts along x leave alike")
        reach = self.reach.T[at]
        return self.table.between(at, at) - reach @ self._solved(reach).mT

    def _seen(self, x: Tensor) -> Tensor:
        """R x: [..., M]."""
        return x[..., self.places] @ self.weights.T

    def _lifted(self, share: Tensor) -> Tensor:
        """R^T share: [..., D]."""
        return share.new_zeros(*share.shape[:-1], self.size).index_copy(-1, self.places, share @ self.weights)

    def _solved(self, off: Tensor) -> Tensor:
        """(R S R^T)^-1 for vectors [..., M]."""
        return torch.cholesky_solve(off.flatten(0, -2).T, self.factor).T.reshape(off.shape)
