"""Intersections, unions and complements of the languages of finite automata, by their product.

The states of a product are pairs of states, its kinds pairs of kinds. Pairs that the start does not reach, and pairs
from which no sequence can be finished, are left out; kinds that move the product alike are joined.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from scidiff.constraints.base import Infeasible

if TYPE_CHECKING:
    from scidiff.constraints.automaton import Automaton

Accepts = Callable[[Tensor, Tensor], Tensor]
"""Whether a pair of automata accepts, given whether each does: bool [S], bool [S] -> bool [S]."""


def product(a: Automaton, b: Automaton, accepts: Accepts, name: str) -> Automaton:
    """The automaton that reads a sequence with both and asks `accepts` at its end.

    Raises:
        ValueError: they are not over the same classes.
        Infeasible: no sequence of any length is accepted; `name` says of what.
    """
    if a.kind.shape != b.kind.shape:
        raise ValueError(f"expected automata over the same classes, got {len(a.kind)} and {len(b.kind)}")
    pairs, kind = torch.unique(torch.stack([a.kind.cpu(), b.kind.cpu()]), dim=1, return_inverse=True)
    after_a, ends_a = _complete(a)
    after_b, ends_b = _complete(b)
    after_a, after_b = after_a[:, pairs[0]], after_b[:, pairs[1]]
    following = (after_a[:, None] * len(ends_b) + after_b[None]).flatten(0, 1)
    ends = accepts(ends_a[:, None], ends_b[None]).expand(len(ends_a), len(ends_b)).flatten()
    return trimmed(kind, following, a.start * len(ends_b) + b.start, ends, name).to(a.kind.device)


def complement(a: Automaton) -> Automaton:
    """The automaton of all other sequences.

    Raises:
        Infeasible: there are none.
    """
    following, ends = _complete(a)
    name = f"the complement of an automaton of {len(a.accepting)} states"
    return trimmed(a.kind.cpu(), following, a.start, ~ends, name).to(a.kind.device)


def _complete(a: Automaton) -> tuple[Tensor, Tensor]:
    """Transitions [states + 1, kinds] without refusals, and where a sequence may end; the last state refuses all."""
    dead = len(a.accepting)
    following = torch.where(a.transition.cpu() < 0, dead, a.transition.cpu())
    return torch.nn.functional.pad(following, (0, 0, 0, 1), value=dead), torch.nn.functional.pad(
        a.accepting.cpu(), (0, 1)
    )


def trimmed(kind: Tensor, following: Tensor, start: int, ends: Tensor, name: str) -> Automaton:
    """Only states on a way from the start to an end, and one kind for those that move all of them alike."""
    from scidiff.constraints.automaton import Automaton

    reached = torch.zeros_like(ends)
    reached[start] = True
    fresh = reached.nonzero().flatten()
    while len(fresh):
        after = following[fresh].unique()
        fresh = after[~reached[after]]
        reached[fresh] = True
    useful, before = ends & reached, -1
    while int(useful.sum()) != before:
        before = int(useful.sum())
        useful = reached & (useful | useful[following].any(1))
    if not useful[start]:
        raise Infeasible(f"no sequence is accepted by {name}")
    place = torch.where(useful, useful.cumsum(0) - 1, -1)
    transition, joined = torch.unique(place[following[useful]], dim=1, return_inverse=True)
    return Automaton(kind=joined[kind], transition=transition, start=int(place[start]), accepting=ends[useful])
