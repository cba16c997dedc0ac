"""Intersections, unions and complements of constraints, projected onto jointly.

Sets are sets of samples: `~a` holds for a sample if some row of it lies outside `a` (or on its boundary), `a | b` if
all rows hold `a` or all rows hold `b`. Complements are of single constraints, by De Morgan's laws: ~(a & b) is ~a | ~b,
and ~(a | b) is ~a & ~b. An intersection is written as the union of its *ways*, each of which names for every leaf what
all rows must hold and which faces of complements one row must lie beyond; a way is one joint projection.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import prod

import torch
from torch import Tensor

from scidiff.constraints.base import ROUNDING, Constraint, Infeasible, Metric, RowConstraint
from scidiff.constraints.box import Box
from scidiff.constraints.outside import depth
from scidiff.constraints.ways import MOST, Share, Way, nearest, shares, width
from scidiff.state import Layout, State


@dataclass(frozen=True, kw_only=True)
class Intersection(Constraint):
    """What lies in all parts; made by `a & b`.

    On one leaf polyhedra become one polyhedron and one quadratic program, never a sequence of projections; with curved
    parts it is one nonlinear program (see `NonlinearEquality` for what that promises). Leaves are projected onto each
    on their own. Of several ways, through unions and complements, each sample takes the nearest.

    Attributes:
        parts: the sets; those of nested intersections.

    Raises:
        Infeasible: the linear constraints among the parts contradict each other; the message names those that do. It is
            raised here where the parts tell how long rows are, and by the first projection where they do not.
        TypeError: a part is not made of constraints on rows.
        ValueError: there are more ways than can be tried.
    """

    parts: tuple[Constraint, ...]
    _ways: dict[tuple[int, ...], list[Way]] = field(init=False, repr=False, default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "parts", _flat(Intersection, self.parts))
        _refuse_what_is_empty(self.parts, {})

    def project(self, clean: State, layout: Layout, metric: Metric = None) -> State:
        ways = self._at({leaf: prod(clean[leaf].shape[1:]) for leaf in leaves(self)})
        return nearest(self, [way.project(clean, layout, metric) for way in ways], clean, layout, metric)

    def _at(self, sizes: dict[str, int]) -> list[Way]:
        key = tuple(sizes.values())
        if key not in self._ways:
            _refuse_what_is_empty(self.parts, sizes)
            ways = [Way(shares=chosen) for term in terms(self) for chosen in _ways(term, sizes)]
            if len(ways) > MOST:
                raise ValueError(f"expected at most {MOST} ways to meet {self.describe()}, got {len(ways)}")
            self._ways[key] = ways
        return self._ways[key]

    def violation(self, sample: State, layout: Layout) -> Tensor:
        return torch.stack([part.violation(sample, layout) for part in self.parts]).amax(0)

    def describe(self) -> str:
        return " and ".join(_bracketed(part) for part in self.parts)


@dataclass(frozen=True, kw_only=True)
class Union(Constraint):
    """What lies in any part; made by `a | b`. The nearest of the projections onto the parts is each sample's.

    Attributes:
        parts: the sets; those of nested unions.
    """

    parts: tuple[Constraint, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "parts", _flat(Union, self.parts))

    def project(self, clean: State, layout: Layout, metric: Metric = None) -> State:
        return nearest(self, [part.project(clean, layout, metric) for part in self.parts], clean, layout, metric)

    def violation(self, sample: State, layout: Layout) -> Tensor:
        return torch.stack([part.violation(sample, layout) for part in self.parts]).amin(0)

    def describe(self) -> str:
        return " or ".join(_bracketed(part) for part in self.parts)


@dataclass(frozen=True, kw_only=True)
class Complement(Constraint):
    """What does not lie inside a set of rows; made by `~a`. Its boundary belongs to it.

    The violation is how deep inside all rows are: the least by which an inequality holds. The projection moves the row
    that has the shortest way out. A set with equalities has no inside: its complement is met by every sample.

    Attributes:
        part: the set.
    """

    part: RowConstraint

    def project(self, clean: State, layout: Layout, metric: Metric = None) -> State:
        return Intersection(parts=(self,)).project(clean, layout, metric)

    def violation(self, sample: State, layout: Layout) -> Tensor:
        x = sample[self.part.leaf]
        amount, scale = depth(self.part, x.double().flatten(1))
        amount = torch.where(amount <= ROUNDING * torch.finfo(x.dtype).eps * scale, 0, amount)
        no_number = x.flatten(1).isfinite().all(-1).logical_not()
        owner = layout.rows(self.part.leaf).owner
        least = amount.new_full((layout.batch,), torch.inf).scatter_reduce(0, owner, amount, "amin")
        worst = torch.zeros_like(least).scatter_reduce(
            0, owner, torch.where(no_number, torch.inf, 0.0).to(least), "amax"
        )
        return torch.maximum(least, worst)

    def describe(self) -> str:
        return f"not {self.part.describe()}"


def complement(constraint: Constraint) -> Constraint:
    """What does not lie inside a constraint, by De Morgan's laws.

    Raises:
        TypeError: it is not made of constraints on rows, of which alone it is known how deep a sample lies inside.
    """
    match constraint:
        case Complement():
            return constraint.part
        case Intersection():
            return Union(parts=tuple(complement(part) for part in constraint.parts))
        case Union():
            return Intersection(parts=tuple(complement(part) for part in constraint.parts))
        case RowConstraint():
            return Complement(part=constraint)
    raise TypeError(f"expected constraints on rows to take the complement of, got {constraint.describe()}")


Literal = RowConstraint | Complement


def terms(constraint: Constraint) -> list[tuple[Literal, ...]]:
    """The constraint as a union of intersections of row constraints and complements of these."""
    match constraint:
        case RowConstraint() | Complement():
            return [(constraint,)]
        case Union():
            return [term for part in constraint.parts for term in terms(part)]
        case Intersection():
            of_parts = [terms(part) for part in constraint.parts]
            if prod(map(len, of_parts)) > MOST:
                raise ValueError(f"expected at most {MOST} ways to meet {constraint.describe()}, got more")
            return [tuple(itertools.chain(*chosen)) for chosen in itertools.product(*of_parts)]
    raise TypeError(f"expected constraints on rows in an intersection, got {constraint.describe()}")


def leaves(constraint: Constraint) -> list[str]:
    """The leaves that a constraint made of row constraints names, in the order it does."""
    return list(dict.fromkeys(_row(literal).leaf for term in terms(constraint) for literal in term))


def _row(literal: Literal) -> RowConstraint:
    return literal.part if isinstance(literal, Complement) else literal


def _sorted(literals: Sequence[Literal]) -> tuple[list[RowConstraint], list[RowConstraint]]:
    """What all rows must hold, and what some row each must not lie inside."""
    every = [literal for literal in literals if isinstance(literal, RowConstraint)]
    return every, [literal.part for literal in literals if isinstance(literal, Complement)]


def _flat(kind: type[Intersection] | type[Union], parts: Sequence[Constraint]) -> tuple[Constraint, ...]:
    return tuple(inner for part in parts for inner in (part.parts if isinstance(part, kind) else (part,)))


def _bracketed(part: Constraint) -> str:
    return f"({part.describe()})" if isinstance(part, Intersection | Union) else part.describe()


def _ways(term: tuple[Literal, ...], sizes: dict[str, int]) -> list[dict[str, Share]]:
    """The ways of one term whose linear constraints do not contradict each other, for rows of known sizes."""
    of_leaf = []
    for leaf in dict.fromkeys(_row(literal).leaf for literal in term):
        mine = [literal for literal in term if _row(literal).leaf == leaf]
        of_leaf.append([(leaf, share) for share in shares(leaf, *_sorted(mine), sizes[leaf])])
    return [dict(chosen) for chosen in itertools.product(*of_leaf)]


def _refuse_what_is_empty(parts: Sequence[Constraint], sizes: dict[str, int]) -> None:
    """Raise `Infeasible`, naming as few parts as contradict each other, if no way is open."""
    if not _is_empty(parts, sizes):
        return
    for count in range(1, len(parts)):
        for few in itertools.combinations(parts, count):
            if _is_empty(few, sizes):
                return _refuse_what_is_empty_of(few)
    return _refuse_what_is_empty_of(parts)


def _refuse_what_is_empty_of(parts: Sequence[Constraint]) -> None:
    raise Infeasible(f"no point satisfies {' together with '.join(_bracketed(part) for part in parts)}")


def _is_empty(parts: Sequence[Constraint], sizes: dict[str, int]) -> bool:
    """Whether the linear constraints leave no way open; those on leaves of unknown size are not asked."""
    joined = [tuple(itertools.chain(*chosen)) for chosen in itertools.product(*(terms(part) for part in parts))]
    return all(_is_blocked(term, sizes) for term in joined)


def _is_blocked(term: tuple[Literal, ...], sizes: dict[str, int]) -> bool:
    for leaf in dict.fromkeys(_row(literal).leaf for literal in term):
        mine = [literal for literal in term if _row(literal).leaf == leaf]
        size = sizes.get(leaf) or width([_row(literal) for literal in mine])
        if size is None:  # bounds that are the same for all entries contradict each other in one entry, too
            mine, size = [literal for literal in mine if isinstance(_row(literal), Box)], 1
        if mine and not shares(leaf, *_sorted(mine), size):
            return True
    return False
