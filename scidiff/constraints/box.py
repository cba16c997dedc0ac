"""Bounds on every entry."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from scidiff.constraints.base import Infeasible, RowConstraint
from scidiff.constraints.dense import nearest_dense
from scidiff.constraints.polyhedron import Polyhedron
from scidiff.constraints.rounding import kept, worst


@dataclass(frozen=True, kw_only=True)
class Box(RowConstraint):
    """low <= x <= high for every entry of the row x, flattened to D numbers.

    In the Euclidean metric, and in that of independent entries, the nearest point clamps each entry on its own.

    Attributes:
        leaf: the leaf.
        low, high: one number for all entries, or one for each, [D]; -inf and +inf where there is no bound.

    Raises:
        Infeasible: some low lies above its high.
    """

    leaf: str
    low: Tensor | float = -torch.inf
    high: Tensor | float = torch.inf
    _pinned: tuple[bool, ...] = field(init=False, repr=False, default=())
    _below: tuple[bool, ...] = field(init=False, repr=False, default=())
    _above: tuple[bool, ...] = field(init=False, repr=False, default=())

    def __post_init__(self) -> None:
        low, high = (torch.as_tensor(bound, dtype=torch.float64).flatten() for bound in (self.low, self.high))
        if len(low) != len(high) and 1 not in (len(low), len(high)):
            raise ValueError(f"expected as many low as high bounds on {self.leaf!r}, got {len(low)} and {len(high)}")
        low, high = (bound.to(max(low.device, high.device, key=lambda d: d.type != "cpu")) for bound in (low, high))
        low, high = (bound.contiguous() for bound in torch.broadcast_tensors(low, high))
        if low.isnan().any() or high.isnan().any():
            raise ValueError(f"expected numbers as bounds on {self.leaf!r}, got NaN")
        empty = (low > high) | (low == torch.inf) | (high == -torch.inf)
        if empty.any():
            entry = int(empty.to(torch.uint8).argmax())
            raise Infeasible(
                f"no number lies between low {float(low[entry])} and high {float(high[entry])}: "
                f"entry {entry} of the bounds on {self.leaf!r}"
            )
        pinned = low == high
        for name, value in {
            "low": low,
            "high": high,
            "_pinned": tuple(pinned.tolist()),
            "_below": tuple((low.isfinite() & ~pinned).tolist()),
            "_above": tuple((high.isfinite() & ~pinned).tolist()),
        }.items():
            object.__setattr__(self, name, value)

    def bounds(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The bounds of rows x [N, D], on their device: [D] each, or [1] where one number bounds all entries."""
        self._check(x.shape[-1])
        return torch.as_tensor(self.low).to(x), torch.as_tensor(self.high).to(x)

    def _check(self, size: int) -> None:
        if len(self._pinned) not in (1, size):
            raise ValueError(f"expected rows of {len(self._pinned)} numbers in {self.leaf!r}, got {size}")

    def pinned(self, size: int) -> list[int]:
        """The entries, of `size`, whose low is their high."""
        return _places(self._pinned, size)

    def clamp(self, x: Tensor) -> Tensor:
        """The nearest point in any metric of independent entries: [N, D] -> [N, D]."""
        low, high = self.bounds(x)
        return torch.minimum(torch.maximum(x, low), high)

    def nearest(self, x: Tensor, metric: Tensor | None) -> Tensor:
        if metric is None or metric.ndim == 1:
            return self.clamp(x)
        return kept(self, x, nearest_dense(self, x, metric))

    def apart(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The violation of each entry, [N, D] >= 0, and the size of the terms it is the difference of, [N, D]."""
        inside = self.clamp(x)
        return (x - inside).abs(), x.abs() + inside.abs()

    def excess(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return worst(*self.apart(x))

    def polyhedron(self, size: int) -> Polyhedron:
        self._check(size)
        one = torch.eye(size, dtype=torch.float64)
        low, high = (torch.as_tensor(bound).cpu().expand(size) for bound in (self.low, self.high))
        pinned, below, above = (_places(flags, size) for flags in (self._pinned, self._below, self._above))
        return Polyhedron(
            equal=one[pinned],
            target=low[pinned],
            below=torch.cat([-one[below], one[above]]),
            bound=torch.cat([-low[below], high[above]]),
        )


def _places(flags: tuple[bool, ...], size: int) -> list[int]:
    return [place for place in range(size) if flags[place % len(flags)]]
