r"""Several constraints on a flow, met together.

    min_x 1/2 (x - c)^T S^-1 (x - c)   subject to   P x = x,   R x = y,   q_j(x) = 0,   g_k(x) <= 0,   low <= x <= high

P is Leray's projection (of vorticities, that onto curls); S, which tells how uncertain things are, is taken as P S P,
the covariance of the part without divergence. The linear facts are solved by one Cholesky factorisation of R P S P R^T.
Inequalities join in the Euclidean metric, about the point that is nearest in the other.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import combinations
from math import prod
from typing import TypeVar

import torch
from torch import Tensor

from scidiff.constraints.base import ROUNDING, Infeasible
from scidiff.constraints.base import spread as plain
from scidiff.constraints.interior import all_rest
from scidiff.constraints.rounding import kept, worst
from scidiff.fluids.blended import Blended, FieldCovariance, homogeneous
from scidiff.fluids.constraints import (
    Bounded,
    Conserved,
    Curl,
    Curved,
    FieldConstraint,
    Measured,
    Solenoidal,
)
from scidiff.fluids.covariance import Covariance
from scidiff.fluids.dependence import dependent
from scidiff.fluids.linear import Linear, Table
from scidiff.fluids.nearest import onto_equal, onto_inequalities
from scidiff.fluids.residuals import Equation
from scidiff.fluids.secular import Secular
from scidiff.fluids.trajectories import Entropy

Part = TypeVar("Part", bound=FieldConstraint)


@dataclass(frozen=True, kw_only=True)
class Joined(FieldConstraint):
    """The intersection of constraints on the fields of one leaf; made by `joined`, or by `a & b`.

    Attributes:
        leaf: of all parts.
        shape: (C, H, W).
        parts: the constraints.

    Raises:
        Infeasible: two parts contradict each other; the message names them.
    """

    leaf: str
    shape: tuple[int, int, int]
    parts: tuple[FieldConstraint, ...]
    _facts: tuple[Tensor, Tensor, Tensor] = field(init=False, repr=False, compare=False)
    _plain: dict[str, Linear] = field(init=False, repr=False, compare=False, default_factory=dict)
    _searches: dict[str, Secular | None] = field(init=False, repr=False, compare=False, default_factory=dict)

    def __post_init__(self) -> None:
        if len({part.box for part in self.of(Solenoidal)}) > 1:
            raise ValueError("expected one kind of divergence, got two: only a uniform flow is free of both")
        object.__setattr__(self, "_facts", self._independent())
        for a, b in combinations([*self._facts_as_one(), *(p for p in self.parts if not isinstance(p, Measured))], 2):
            _refuse(a, b, self.free)

    def of(self, kind: type[Part]) -> list[Part]:
        """The parts of a kind."""
        return [part for part in self.parts if isinstance(part, kind)]

    def curved(self) -> list[Curved]:
        """The parts that are neither linear nor bounds."""
        return [part for part in self.parts if isinstance(part, Curved)]

    def _facts_as_one(self) -> list[Measured]:
        facts = self.of(Measured)
        if len(facts) < 2:
            return facts
        rows, values = torch.cat([part.rows for part in facts]), torch.cat([part.values for part in facts])
        names = tuple(name for part in facts for name in part.names)
        return [Measured(leaf=self.leaf, rows=rows, values=values, names=names)]

    def spaces(self) -> list[Solenoidal | Curl]:
        """The parts that are linear spaces."""
        return [*self.of(Solenoidal)[:1], *self.of(Curl)[:1]]

    def free(self, x: Tensor) -> Tensor:
        """P x: [..., D] -> [..., D]."""
        for part in self.spaces():
            x = part.free(x.unflatten(-1, self.shape)).flatten(-3)
        return x

    def _independent(self) -> tuple[Tensor, Tensor, Tensor]:
        """Of the independent facts: the places that they read [P], their weights there [M, P] and their values [M]."""
        facts = self.of(Measured)
        if not facts:
            none = torch.zeros(0, 0, dtype=torch.float64)
            return torch.zeros(0, dtype=torch.int64), none, none.flatten()
        rows, values = torch.cat([part.rows for part in facts]).flatten(1), torch.cat([part.values for part in facts])
        names = [name for part in facts for name in part.names]
        found = dependent(rows @ rows.T, values)
        if found.contradiction is None:
            free = self.free(rows)
            found = dependent(free @ free.T, values, rows.square().sum(-1))
            parts = " together with ".join(part.describe() for part in (*self.spaces(), *facts))
        else:
            parts = " together with ".join(part.describe() for part in facts)
        if found.contradiction is not None:
            a, b = (names[m] for m in found.contradiction)
            why = f"{a} and {b} contradict each other" if a != b else f"{a} is 0 in all of them"
            raise Infeasible(f"no field satisfies {parts}: {why}")
        rows = rows[found.independent]
        places = (rows != 0).any(0).nonzero()[:, 0]
        return places, rows[:, places], values[found.independent]

    def linear(self, metric: Tensor | FieldCovariance | None, like: Tensor) -> Linear:
        """The linear facts in a metric; in the Euclidean one they are factorised once."""
        if metric is not None:
            table = self._table(metric, like) if isinstance(metric, Covariance | Blended) else None
            return self._factorised(self._spread(metric), table, like)
        key = str(like.device)
        if key not in self._plain:
            self._plain[key] = self._factorised(self.free, Table.of(self.free, self.shape, like), like)
        return self._plain[key]

    def _factorised(self, spread: Callable[[Tensor], Tensor], table: Table | None, like: Tensor) -> Linear:
        places, weights, values = self._facts
        return Linear(
            places=places.to(like.device),
            weights=weights.to(like),
            values=values.to(like),
            spread=spread,
            size=prod(self.shape),
            table=table,
        )

    def _free_waves(self, coefficients: Tensor) -> Tensor:
        """P of Fourier coefficients [..., C, H, W // 2 + 1]."""
        for part in self.spaces():
            coefficients = part.free_waves(coefficients)
        return coefficients

    def _secular(self, linear: Linear) -> Secular | None:
        """The search by multipliers of the integrals, where what instruments see is values at as many places."""
        key = str(linear.values.device)
        if key not in self._searches:
            alike = len(linear.places) == len(linear.values) and len(self.curved()) == len(self.of(Conserved))
            seen = torch.linalg.solve(linear.weights, linear.values) if alike else linear.values
            found = Secular.of(self.of(Conserved), self._free_waves, linear.places, seen) if alike else None
            self._searches[key] = found
        return self._searches[key]

    def _spread(self, metric: Tensor | FieldCovariance) -> Callable[[Tensor], Tensor]:
        """P S P of a metric S."""

        def spread(x: Tensor) -> Tensor:
            if isinstance(metric, Tensor):
                return self.free(plain(metric, self.free(x)))
            return self.free(metric.spread(self.free(x).unflatten(-1, self.shape)).flatten(-3))

        return spread

    def _table(self, metric: Covariance | Blended, like: Tensor) -> Table:
        """Of P S P."""
        base, patterns = homogeneous(metric)
        if not self.spaces() and self.shape[0] == 1:
            return Table(values=base.table(), patterns=patterns.flatten(1))
        if not len(patterns):
            return Table.of(self._spread(base), self.shape, like)
        if self.shape[0] > 1:
            raise ValueError(f"expected patterns of fields of one channel, got {self.shape[0]} channels")
        return Table.of(self._spread(base), self.shape, like, patterns=self.free(patterns.flatten(1)))

    def nearest(self, x: Tensor, metric: Tensor | FieldCovariance | None) -> Tensor:
        together = min([len(x), *(part.together for part in self.curved())])
        if len(x) <= together:
            return self._nearest(x, metric)
        return torch.cat([self._nearest(part, metric) for part in x.split(together)])

    def _nearest(self, x: Tensor, metric: Tensor | FieldCovariance | None) -> Tensor:
        curved, found = self.curved(), self.free(x)
        equal = [part for part in curved if not part.inequality]
        if metric is not None:
            linear = self.linear(metric, x)
            found = linear.onto(found)
            found = onto_equal(equal, linear, found) if equal else found
        linear = self.linear(None, x)
        found = linear.onto(found)
        found = onto_equal(equal, linear, found, self._secular(linear)) if equal else found
        bounds = self.of(Bounded)
        if not bounds and len(equal) < len(curved):
            bounds = [Bounded(leaf=self.leaf, shape=self.shape)]
        for bound in bounds:
            found = onto_inequalities(bound, curved, linear, found)
        found = self._settled(found)
        found = torch.where(found.isfinite().all(-1, keepdim=True), found, x)
        return found if self._all_off(x) else kept(self, x, found)

    def _settled(self, x: Tensor) -> Tensor:
        """Points with single values that are known set to the last bit: next to 0 no rounding is allowed for."""
        places, weights, values = self._facts
        if not len(places):
            return x
        alone = (weights != 0).sum(1) == 1
        at = places[(weights[alone] != 0).to(torch.uint8).argmax(1)].to(x.device)
        return x.index_copy(1, at, (values[alone] / weights[alone].sum(1)).to(x).expand(len(x), -1))

    def _all_off(self, x: Tensor) -> bool:
        """Whether no row holds, as far as instruments tell, which no transform is needed for."""
        seen = [part.excess(x) for part in self.of(Measured)]
        off = [amount > ROUNDING * torch.finfo(x.dtype).eps * scale for amount, scale in seen]
        return bool(off) and all_rest(torch.stack(off).any(0))

    def excess(self, x: Tensor) -> tuple[Tensor, Tensor]:
        amounts, scales = zip(*(part.excess(x) for part in self.parts), strict=True)
        return worst(torch.stack(amounts, 1), torch.stack(scales, 1))

    def describe(self) -> str:
        return " and ".join(part.describe() for part in self.parts)


def joined(*parts: FieldConstraint) -> Joined:
    """The intersection of constraints on one leaf; those of intersections are taken out of them."""
    if len(parts) == 1 and isinstance(parts[0], Joined):
        return parts[0]
    flat = tuple(inner for part in parts for inner in (part.parts if isinstance(part, Joined) else (part,)))
    if len({(part.leaf, part.shape) for part in flat}) > 1:
        raise ValueError(f"expected fields of one shape, got {sorted({str(part.shape) for part in flat})}")
    return Joined(leaf=flat[0].leaf, shape=flat[0].shape, parts=flat)


def _refuse(a: FieldConstraint, b: FieldConstraint, free: Callable[[Tensor], Tensor]) -> None:
    """Raise `Infeasible` where two constraints can be seen to contradict each other."""
    for one, other in ((a, b), (b, a)):
        reason = None
        if isinstance(one, Conserved):
            if isinstance(other, Measured):
                reason = _below_least(one, other, free)
            elif isinstance(other, Conserved):
                reason = _out_of_ratio(one, other)
            elif isinstance(other, Bounded):
                reason = _above_most(one, other)
        elif isinstance(other, Measured):
            if isinstance(one, Bounded):
                reason = _out_of_reach(one, other)
            elif isinstance(one, Entropy):
                reason = one.grows(other)
            elif isinstance(one, Equation) and one.balance is not None:
                reason = _out_of_balance(one.balance, other)
        if reason is not None:
            raise Infeasible(f"no field satisfies {one.describe()} together with {other.describe()}: {reason}")


def _below_least(integral: Conserved, facts: Measured, free: Callable[[Tensor], Tensor]) -> str | None:
    """The least value of the integral among fields that meet the facts."""
    rows = free(facts.rows.flatten(1))
    multiplier = integral.multiplier.clamp_min(1e-9 * float(integral.multiplier.max()))
    back = torch.fft.irfft2(torch.fft.rfft2(rows.unflatten(-1, facts.shape)) / multiplier, s=facts.shape[1:])
    gram = rows @ back.flatten(1).T * prod(facts.shape[1:])
    chosen = dependent(gram, facts.values).independent
    part = gram[chosen][:, chosen]
    least = float(facts.values[chosen] @ torch.linalg.solve(part, facts.values[chosen])) / 2
    return f"they ask for at least {least:g}" if least > integral.value * (1 + 1e-6) else None


def _out_of_ratio(one: Conserved, other: Conserved) -> str | None:
    """The most that one integral can be while the other has its value."""
    seen = other.multiplier > 0
    if bool((one.multiplier[~seen] > 0).any()):
        return None
    most = float((one.multiplier[seen] / other.multiplier[seen]).max()) * other.value
    return f"it is at most {most:g}" if one.value > most * (1 + 1e-9) else None


def _above_most(integral: Conserved, bounds: Bounded) -> str | None:
    low, high = bounds.ends(torch.zeros(1, dtype=torch.float64))
    square = torch.maximum(low.square(), high.square()).mean() * bounds.shape[0]
    most = float(square * integral.multiplier.max()) / 2
    return f"within them it is at most {most:g}" if integral.value > most * (1 + 1e-9) else None


def _out_of_balance(balance: Measured, facts: Measured) -> str | None:
    rows, values = torch.cat([balance.rows, facts.rows]).flatten(1), torch.cat([balance.values, facts.values])
    found = dependent(rows @ rows.T, values).contradiction
    names = (*balance.names, *facts.names)
    return None if found is None else f"{names[found[0]]} and {names[found[1]]} contradict each other"


def _out_of_reach(bounds: Bounded, facts: Measured) -> str | None:
    ends = [
        torch.where(facts.rows.flatten(1) == 0, 0, facts.rows.flatten(1) * end) for end in bounds.ends(facts.values)
    ]
    least, most = torch.minimum(*ends).sum(1), torch.maximum(*ends).sum(1)
    rounding = 1e-9 * (1 + facts.values.abs())
    bad = (facts.values < least - rounding) | (facts.values > most + rounding)
    if not bool(bad.any()):
        return None
    m = int(bad.to(torch.uint8).argmax())
    return f"{facts.names[m]} is {float(facts.values[m]):g}"
