r"""What a model can be told of a molecule's properties: which edges a value lies at or above, and which it lies below.

The edges of a property are quantiles of the training set, fine in the tails, where conditions are asked for. To be told
of a property is to be given facts, "y >= edge" and "y < edge", as numbers 0 (nothing is known) or 1:

    facts(low <= y <= high) = ( [edge <= low] for each edge,  [edge > high] for each edge )

An interval is a set of facts, so is its absence (none), and a tighter one only adds to it, so that edges that few
molecules pass share what is learned of those before them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from scidiff.molecules.language import RULES, And, Expression, Holds, rule
from scidiff.molecules.where import Condition, Interval, Region
from scidiff.noise import Noise
from scidiff.state import Layout

_TAIL = (0.0003, 0.001, 0.003, 0.01, 0.025)
LEVELS = (*_TAIL, *(0.05 * k for k in range(1, 20)), *(1 - q for q in reversed(_TAIL)))
_OFTEN = 0.6  # the largest chance of a property to be told of in training
_NOTHING = 0.1  # share of the samples that are told no value


def conjuncts(terms: Sequence[Expression]) -> Iterator[Condition]:
    """The conditions that must hold for terms to hold together, those of rules of thumb among them."""
    for term in terms:
        if isinstance(term, Condition):
            yield term
        elif isinstance(term, And):
            yield from conjuncts(term.of)
        elif isinstance(term, Holds) and term.name in RULES:
            yield from rule(term.name)


def ends(names: Sequence[str], terms: Sequence[Expression]) -> tuple[Tensor, Tensor]:
    """The intervals [P] and [P] that the named properties lie in if terms hold together, infinite where none is given.

    From `or` and `not` nothing follows.
    """
    found = dict.fromkeys(names, (-math.inf, math.inf))
    for condition in conjuncts(terms):
        if condition.property in found:
            at, (low, high) = found[condition.property], span(condition.allowed)
            found[condition.property] = max(at[0], low), min(at[1], high)
    lows, highs = torch.tensor(list(found.values()), dtype=torch.float64).reshape(-1, 2).unbind(1)
    return lows, highs


def span(allowed: Region) -> tuple[float, float]:
    """The smallest and the largest number allowed."""
    if isinstance(allowed, Interval):
        return allowed.low, allowed.high
    numbers = [float(value) for value in allowed.values if not isinstance(value, str)]
    return min(numbers), max(numbers)


@dataclass(frozen=True, kw_only=True)
class Edges:
    """The edges of P properties, E in all.

    Attributes:
        of: ascending edges by property, in its unit.
    """

    of: Mapping[str, tuple[float, ...]]

    @classmethod
    def between(cls, names: tuple[str, ...], values: np.ndarray) -> Edges:
        """Edges at the quantiles `LEVELS` of values [S, P]; the least value is none, for all lie at or above it."""
        found = {}
        for name, column in zip(names, values.T, strict=True):
            cuts = np.unique(np.quantile(column, LEVELS, method="higher"))
            found[name] = tuple(float(f"{cut:.5g}") for cut in cuts if cut > column.min())
        return cls(of=found)

    @property
    def size(self) -> int:
        """Number of facts, 2 E."""
        return 2 * len(self._all)

    @cached_property
    def _all(self) -> Tensor:
        """The edges of one property after those of another: float64 [E]."""
        return torch.tensor([edge for edges in self.of.values() for edge in edges], dtype=torch.float64)

    @cached_property
    def _owner(self) -> Tensor:
        """The property of each edge: int64 [E]."""
        return torch.repeat_interleave(torch.tensor([len(edges) for edges in self.of.values()]))

    def facts(self, low: Tensor, high: Tensor) -> Tensor:
        """What is known of values in [low, high], ends included, infinite where there is none: [B, P] -> [B, 2 E]."""
        edges, owner = self._all.to(low.device), self._owner.to(low.device)
        return torch.cat([edges <= low[:, owner], edges > high[:, owner]], dim=1).float()

    def of_values(self, values: Tensor) -> Tensor:
        """What is known of values, NaN where nothing is: [B, P] -> [B, 2 E]."""
        return self.facts(values.nan_to_num(-math.inf), values.nan_to_num(math.inf))

    def told(self, terms: Sequence[Expression]) -> Tensor:
        """The facts that follow from terms which hold together: [2 E]."""
        low, high = ends(tuple(self.of), terms)
        return self.facts(low[None], high[None])[0]

    def some(self, values: Tensor, noise: Noise) -> Tensor:
        """Some of what is true of values [B, P], for training: [B, 2 E], each a function of (seed, index).

        Each property is told of with probability 0.6 u^2, u uniform in each sample, so that one sample in three is told
        of none (ten properties). A third each are told of a lower end, of an upper one, and of both. Of the k edges on
        its side an end is drawn floor((k + 1) u^2) edges away from the value, rather near than far.
        """
        count, device = len(self.of), values.device
        rows = Layout.dense(len(values), {"told": ()}, device=device).rows("told")
        u = noise.at("told", 0, rows).uniform(shape=(1 + 4 * count,))
        told, side, below, above = u[:, 1:].unflatten(1, (4, count)).unbind(1)
        told = told < _OFTEN * u[:, :1] ** 2
        low = self._away(values, torch.where(told & (side < 2 / 3), below, math.nan), up=False)
        high = self._away(values, torch.where(told & (side > 1 / 3), above, math.nan), up=True)
        return self.facts(low, high)

    def pinned(self, values: Tensor, noise: Noise, *, chances: Mapping[str, float]) -> Tensor:
        """Some of the values [B, P] themselves, for training: [B, 2 E], each a function of (seed, index).

        For a model that is asked for values and not for ranges. One sample in ten is told nothing, for guidance needs
        what the model says then; of others each property is told up to the edges next to its value.

        Args:
            values: of each property.
            noise: keys the draws.
            chances: of each property by name, to be told in the other samples, independently.
        """
        count, device = len(self.of), values.device
        rows = Layout.dense(len(values), {"pinned": ()}, device=device).rows("pinned")
        u = noise.at("pinned", 0, rows).uniform(shape=(1 + count,))
        chance = torch.tensor([chances[name] for name in self.of], dtype=u.dtype, device=device)
        told = (u[:, 1:] < chance) & (u[:, :1] >= _NOTHING)
        return self.of_values(torch.where(told, values, math.nan))

    def _away(self, values: Tensor, u: Tensor, *, up: bool) -> Tensor:
        """An end of an interval about each value: [B, P]; infinite where u is NaN or the edges are used up."""
        ends = []
        for k, edges in enumerate(self.of.values()):
            ladder = torch.tensor([-math.inf, *edges, math.inf], dtype=torch.float64, device=values.device)
            at = torch.searchsorted(ladder, values[:, k].double().contiguous(), right=True)  # the first edge above
            room = (len(ladder) - 1 - at if up else at - 1).double()
            step = torch.floor((room + 1) * u[:, k].nan_to_num(1.0) ** 2).minimum(room).long()
            ends.append(ladder[at + step if up else at - 1 - step])
        end = torch.stack(ends, dim=1)
        return torch.nextafter(end, torch.full_like(end, -math.inf)) if up else end
