"""Totals: sums of entries that must come out at a given number, within bounds on the entries."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from scidiff.constraints.base import ROUNDING, Infeasible, RowConstraint
from scidiff.constraints.box import Box
from scidiff.constraints.dense import nearest_dense
from scidiff.constraints.polyhedron import Polyhedron
from scidiff.constraints.rounding import kept, worst


@dataclass(frozen=True, kw_only=True)
class Total(RowConstraint):
    """sum_d weight_{md} x_d = target_m for every m, and low <= x <= high, for the row x, flattened to D numbers.

    Each entry counts in at most one total (for totals that share entries there is `LinearEquality`), so each total is
    met on its own by filling to a common level.

    Attributes:
        leaf: the leaf.
        weight: [M, D], or [D] for one total; 0 where an entry does not count.
        target: [M], or one number for all totals.
        low, high: bounds on the entries, one number or [D].

    Raises:
        Infeasible: the bounds contradict each other or keep a total from its target.
    """

    leaf: str
    weight: Tensor
    target: Tensor | float
    low: Tensor | float = -torch.inf
    high: Tensor | float = torch.inf
    _box: Box = field(init=False, repr=False)
    _members: Tensor = field(init=False, repr=False)
    _open: tuple[int, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        weight = torch.atleast_2d(torch.as_tensor(self.weight, dtype=torch.float64))
        target = torch.as_tensor(self.target, dtype=torch.float64, device=weight.device).flatten()
        if weight.ndim != 2 or len(target) not in (1, len(weight)):
            raise ValueError(
                f"expected weight [M, D] and target [M], got {list(weight.shape)} and {list(target.shape)}"
            )
        if not (weight.isfinite().all() and target.isfinite().all()):
            raise ValueError(f"expected finite weights and targets of the totals of {self.leaf!r}, got NaN or infinity")
        count = (weight != 0).sum(1)
        if (count == 0).any() or ((weight != 0).sum(0) > 1).any():
            raise ValueError(f"expected each total of {self.leaf!r} to count entries that no other counts")
        size = weight.shape[1]
        box = Box(leaf=self.leaf, low=self.low, high=self.high)
        pinned = torch.ones(size, dtype=torch.bool, device=weight.device)
        pinned[[d for d in range(size) if d not in set(box.pinned(size))]] = False
        for name, value in {
            "weight": weight,
            "target": target.expand(len(weight)).contiguous(),
            "low": box.low,
            "high": box.high,
            "_box": box,
            # the entries of each total, [M, most], filled up with D: one more entry, which is 0 and stays
            "_members": torch.where(weight != 0, torch.arange(size).to(weight.device), size)
            .sort(1)
            .values[:, : int(count.max())],
            "_open": tuple(((weight != 0) & ~pinned).any(1).nonzero().flatten().tolist()),
        }.items():
            object.__setattr__(self, name, value)
        self._refuse_what_is_out_of_reach()

    def _refuse_what_is_out_of_reach(self) -> None:
        low, high = self._box.bounds(self.weight)
        ends = [torch.where(self.weight == 0, 0, self.weight * bound) for bound in (low, high)]
        least, most = torch.minimum(*ends).sum(1), torch.maximum(*ends).sum(1)
        target = torch.as_tensor(self.target)
        size = sum(torch.where(end.isfinite(), end.abs(), 0).sum(1) for end in ends) + target.abs()
        rounding = 8 * torch.finfo(torch.float64).eps * size
        out = (least > target + rounding) | (most < target - rounding)
        if out.any():
            m = int(out.to(torch.uint8).argmax())
            raise Infeasible(
                f"total {m} of {self.leaf!r} lies between {float(least[m])} and {float(most[m])} within the bounds "
                f"and cannot be {float(target[m])}"
            )

    def nearest(self, x: Tensor, metric: Tensor | None) -> Tensor:
        if metric is not None and metric.ndim == 2:
            return kept(self, x, nearest_dense(self, x, metric))
        weight, members = self.weight.to(x), self._members.to(x.device)
        place = members.clamp_max(x.shape[-1] - 1)
        counts = members < x.shape[-1]
        share = torch.where(counts, weight.gather(1, place), 1)
        variance = share**2 if metric is None else share**2 * metric[place]
        low, high = (bound.expand(x.shape[-1])[place] for bound in self._box.bounds(x))
        low, high = torch.where(share > 0, low, high), torch.where(share > 0, high, low)
        clamped = self._box.clamp(x)
        parts = fill(
            torch.where(counts, share * x[:, place], 0),
            variance,
            torch.where(counts, share * low, 0),
            torch.where(counts, share * high, 0),
            torch.as_tensor(self.target).to(x),
        )
        # scattered into one more entry, where what fills the groups up lands
        wide = torch.nn.functional.pad(clamped, (0, 1))
        wide = wide.scatter(1, members.flatten().expand(len(x), -1), (parts / share).flatten(1))
        return kept(self, x, self._box.clamp(wide[:, :-1]))

    def excess(self, x: Tensor) -> tuple[Tensor, Tensor]:
        weight, target = self.weight.to(x), torch.as_tensor(self.target).to(x)
        off = (x[:, None, :] * weight).sum(-1) - target
        size = (x[:, None, :] * weight).abs().sum(-1) + target.abs()
        apart, terms = self._box.apart(x)
        return worst(torch.cat([off.abs(), apart], 1), torch.cat([size, terms], 1))

    def polyhedron(self, size: int) -> Polyhedron:
        weight, target = (part.cpu()[list(self._open)] for part in (self.weight, torch.as_tensor(self.target)))
        if size != weight.shape[1]:
            raise ValueError(f"expected rows of {weight.shape[1]} numbers in {self.leaf!r}, got {size}")
        return Polyhedron.of(size, equal=weight, target=target) & self._box.polyhedron(size)


def fill(c: Tensor, variance: Tensor, low: Tensor, high: Tensor, target: Tensor) -> Tensor:
    """The numbers of a given sum nearest to c within bounds: [..., M] -> [..., M].

        min_u sum_i (u_i - c_i)^2 / variance_i    subject to    sum_i u_i = target,  low <= u <= high

    u_i = clamp(c_i - level variance_i, low_i, high_i) at the one level that gives the sum. Where c is so much greater
    than the answer that the sum is lost to rounding, a second pass, from the answer, makes up for it.

    Args:
        c: [..., M].
        variance: > 0, broadcasts to c.
        low, high: broadcast to c; infinite where there is no bound. The sum of low must not exceed the target, nor that
            of high fall short of it.
        target: broadcasts to c without its last dimension.

    Source: Brucker, "An O(n) algorithm for quadratic knapsack problems", 1984, with bisection between sorted
    breakpoints in place of medians.
    """
    variance = variance.clamp_min(torch.finfo(c.dtype).tiny)
    u = _fill_once(c, variance, low, high, target)
    off, size = (u.sum(-1) - target).abs(), u.abs().sum(-1) + target.abs()
    met = off <= ROUNDING * torch.finfo(c.dtype).eps * size
    return torch.where(met[..., None], u, _fill_once(u, variance, low, high, target))


def _fill_once(c: Tensor, variance: Tensor, low: Tensor, high: Tensor, target: Tensor) -> Tensor:
    target = target[..., None]
    leaves_high, meets_low = (c - high) / variance, (c - low) / variance
    knots = torch.cat([leaves_high, meets_low], -1).sort(-1).values
    knots = torch.cat([torch.full_like(c[..., :1], -torch.inf), knots, torch.full_like(c[..., :1], torch.inf)], -1)
    first = torch.zeros_like(c[..., :1], dtype=torch.int64)
    last = first + knots.shape[-1] - 1
    for _ in range((knots.shape[-1] - 1).bit_length()):
        middle = (first + last) // 2
        sums = _at(knots.gather(-1, middle), c, variance, low, high).sum(-1, keepdim=True)
        too_much = (sums >= target) | (middle == first)
        first, last = torch.where(too_much, middle, first), torch.where(too_much, last, middle)
    start, end = knots.gather(-1, first), knots.gather(-1, last)
    free = (leaves_high <= start) & (meets_low >= end)
    fixed = torch.where(leaves_high >= end, high, low)
    over = torch.where(free, c, fixed).sum(-1, keepdim=True) - target
    slope = torch.where(free, variance, 0).sum(-1, keepdim=True)
    between = torch.minimum(torch.maximum(over / slope, start), end)
    return _at(torch.where(free.any(-1, keepdim=True), between, start), c, variance, low, high)


def _at(level: Tensor, c: Tensor, variance: Tensor, low: Tensor, high: Tensor) -> Tensor:
    return torch.minimum(torch.maximum(c - level * variance, low), high)
