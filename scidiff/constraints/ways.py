"""How the rows of a sample meet an intersection: what all must hold, and which one leaves a set it must not be in."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from scidiff.constraints.base import ROUNDING, Constraint, Metric, RowConstraint, metric_of
from scidiff.constraints.box import Box
from scidiff.constraints.joint import Joint
from scidiff.constraints.linear import LinearEquality, LinearInequality
from scidiff.constraints.monotone import Monotone
from scidiff.constraints.outside import Outside, sides
from scidiff.constraints.sums import Total
from scidiff.state import Layout, Rows, State

MOST = 256  # ways of an intersection, each projected onto


@dataclass(frozen=True, kw_only=True)
class Share:
    """What a way asks of the rows of one leaf.

    Attributes:
        every: what all rows must hold; None: nothing.
        beyond: the number of complements among what one row must hold.
        one: all of it, for that row.
    """

    every: Joint | None
    beyond: int
    one: Joint

    def project(self, x: Tensor, rows: Rows, metric: Tensor | None) -> Tensor:
        """The nearest rows: float64 [N, D] -> [N, D]."""
        if self.beyond == 0 or rows.single:
            return self.one.nearest(x, metric)
        if self.beyond > 1:
            raise ValueError(
                f"expected one row a sample, or only one complement, on {self.one.leaf!r}: {self.one.describe()}"
            )
        all_rows = x if self.every is None else self.every.nearest(x, metric)
        one = self.one.nearest(x, metric)
        amount, scale = self.one.excess(one)
        missed = ~(amount <= ROUNDING * torch.finfo(x.dtype).eps * scale)
        more = _cost(one - x, metric) - _cost(all_rows - x, metric)
        first = rows.rank(torch.where(missed, torch.inf, more)) == 0
        return torch.where(first[:, None], one, all_rows)


@dataclass(frozen=True, kw_only=True)
class Way:
    """One way to meet an intersection: a share for every leaf."""

    shares: dict[str, Share]

    def project(self, clean: State, layout: Layout, metric: Metric) -> State:
        found = dict(clean)
        for leaf, share in self.shares.items():
            x = clean[leaf]
            flat = x.double().flatten(1)
            moved = share.project(flat, layout.rows(leaf), metric_of(leaf, metric, flat))
            found[leaf] = moved.to(x.dtype).reshape(x.shape)
        return found


def shares(leaf: str, every: Sequence[RowConstraint], outer: Sequence[RowConstraint], size: int) -> list[Share]:
    """The shares of one leaf, of rows of `size` numbers, whose linear constraints do not contradict each other.

    Args:
        leaf: the leaf.
        every: what all rows must hold.
        outer: sets that some row each must not lie inside.
        size: D.
    """
    choices: list[list[RowConstraint]] = []
    for part in outer:
        described = part.polyhedron(size)
        alone = not every and len(outer) == 1
        if alone and described is not None and len(described.below) and not len(described.equal):
            choices.append([Outside(leaf=leaf, part=part)])
        elif (found := sides(part, size)) is not None:
            choices.append(found)
    if prod(map(len, choices)) > MOST:
        raise ValueError(
            f"expected at most {MOST} ways out of {' and '.join(part.describe() for part in outer)}, got more"
        )
    open_ways = []
    for beyond in itertools.product(*choices):
        one = Joint(leaf=leaf, parts=(*every, *beyond) or (Box(leaf=leaf),))
        if not one.is_empty(size):
            all_rows = Joint(leaf=leaf, parts=tuple(every)) if every else None
            open_ways.append(Share(every=all_rows, beyond=len(beyond), one=one))
    return open_ways


def nearest(constraint: Constraint, found: list[State], clean: State, layout: Layout, metric: Metric) -> State:
    """For each sample the nearest of its projections; the sample itself where it holds, or where none of them does."""
    costs = []
    for state in found:
        cost = torch.where(constraint.violation(state, layout) == 0, 0.0, torch.inf).double()
        for leaf, x in state.items():
            if x is not clean[leaf]:
                way = (x.double() - clean[leaf].double()).flatten(1)
                each = _cost(way, metric_of(leaf, metric, way))
                cost = cost.index_add(0, layout.rows(leaf).owner, each)
        costs.append(cost)
    cost = torch.stack(costs)
    stays = (constraint.violation(clean, layout) == 0) | ~cost.isfinite().any(0)
    chosen = cost.nan_to_num(nan=torch.inf).argmin(0)
    nearest = dict(clean)
    for leaf, x in clean.items():
        if all(state[leaf] is x for state in found):
            continue
        rows = layout.rows(leaf)
        for place, state in enumerate(found):
            nearest[leaf] = torch.where(rows.per_row(chosen == place, ndim=x.ndim), state[leaf], nearest[leaf])
        nearest[leaf] = torch.where(rows.per_row(stays, ndim=x.ndim), x, nearest[leaf])
    return nearest


def _cost(way: Tensor, metric: Tensor | None) -> Tensor:
    """Squared length of moves [N, D] in the metric: [N]."""
    if metric is None:
        return way.square().sum(-1)
    if metric.ndim == 1:
        return torch.where(way == 0, 0, way.square() / metric).sum(-1)
    return ((way @ torch.linalg.pinv(metric, hermitian=True)) * way).sum(-1)


def width(parts: list[RowConstraint]) -> int | None:
    """The length of rows, if any of the parts tells."""
    for part in parts:
        match part:
            case LinearEquality() | LinearInequality():
                return part.matrix.shape[1]
            case Total():
                return torch.as_tensor(part.weight).shape[1]
            case Monotone(shape=tuple() as shape):
                return prod(shape)
            case Box() if torch.as_tensor(part.low).numel() > 1:
                return torch.as_tensor(part.low).numel()
    return None
