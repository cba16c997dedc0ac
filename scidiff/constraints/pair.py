r"""Exact sampling of sequences that two automata accept, without building their product.

A state of the product is a pair (q, c), and there are too many pairs to visit each kind of token from each. But the
first automaton sees only the kind g of a token and the second only its kind f, so the filter of
`scidiff.constraints.automaton` splits into one matrix for each g, which does not depend on q:

    beta_l(q, c) = sum_g sum_c' M_lg(c, c') beta_{l+1}(a(q, g), c'),    M_lg(c, c') = sum_{f: b(c, f) = c'} p_l(g, f)

Only those q are visited at place l that lie on a way of L tokens from the start to an end of the first automaton.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise

import torch
from torch import Tensor

from scidiff.constraints.automaton import Automaton, draw_class
from scidiff.noise import Draw
from scidiff.state import Rows

_ROOM = 1 << 20  # numbers in the matrices of one place


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two automata over the same K classes, both of which must accept; usable as the `joint` of a categorical rule.

    Attributes:
        a: the automaton with the fewer kinds.
        b: the other; the cost grows with the square of its states.
    """

    a: Automaton
    b: Automaton
    _layers: dict[int, list[Tensor]] = field(init=False, repr=False, default_factory=dict)
    _found: dict[int, list[list[tuple[int, Tensor, Tensor]]]] = field(init=False, repr=False, default_factory=dict)

    def __post_init__(self) -> None:
        if self.a.kind.shape != self.b.kind.shape:
            raise ValueError(f"expected automata over the same classes, got {len(self.a.kind)} and {len(self.b.kind)}")

    @property
    def states(self) -> int:
        """Their number, had the product been built."""
        return self.a.states * self.b.states

    @cached_property
    def _pairs(self) -> tuple[Tensor, Tensor]:
        """The kinds (g, f) that tokens have, [2, P] in order, and which of them each token has, [K]."""
        both = torch.stack([self.a.kind, self.b.kind])
        pairs, kind = torch.unique(both, dim=1, return_inverse=True)
        return pairs, kind

    @cached_property
    def _members(self) -> tuple[Tensor, Tensor]:
        """[P, most] the tokens of each pair, in their order, and where there is one."""
        pairs, kind = self._pairs
        order, counts = kind.argsort(stable=True), torch.bincount(kind, minlength=pairs.shape[1])
        place = torch.arange(int(counts.max()), device=kind.device)
        return order[((counts.cumsum(0) - counts)[:, None] + place).clamp_max(len(order) - 1)], place < counts[:, None]

    @cached_property
    def _entries(self) -> tuple[Tensor, Tensor]:
        """The terms of the sums in M: place in [kinds of a, C, C] flattened, and the pair; both [terms]."""
        pairs, _ = self._pairs
        size = self.b.states
        after = self.b.transition[:, pairs[1]]  # [C, P]
        c, p = (after >= 0).nonzero(as_tuple=True)
        return (pairs[0][p] * size + c) * size + after[c, p], p

    def layers(self, length: int) -> list[Tensor]:
        """For places 0 .. length the states of `a` on a way of `length` tokens from its start to an end: int64 [R]."""
        if length not in self._layers:
            step, states = self.a.transition, self.a.states
            ahead = [torch.zeros(states, dtype=torch.bool, device=step.device)]
            ahead[0][self.a.start] = True
            back = [self.a.accepting]
            for _ in range(length):
                after = step[ahead[-1]].flatten()
                ahead.append(torch.zeros_like(ahead[0]).index_fill(0, after[after >= 0].unique(), True))
                back.append(((step >= 0) & back[-1][step.clamp_min(0)]).any(1))
            self._layers[length] = [(x & y).nonzero().flatten() for x, y in zip(ahead, back[::-1], strict=True)]
        return self._layers[length]

    def by_pair(self, probabilities: Tensor) -> Tensor:
        """Probability of each pair of kinds at each place: float64 [B, L, K] -> [B, L, P]."""
        pairs, kind = self._pairs
        none = probabilities.new_zeros(*probabilities.shape[:2], pairs.shape[1])
        return none.index_add(2, kind, probabilities)

    def _backward(self, by_pair: Tensor) -> tuple[list[Tensor], Tensor]:
        """beta_0 .. beta_L, [B, R, C] each scaled to a maximum of 1, and the logarithm of the product of the scales."""
        batch, length, _ = by_pair.shape
        rows, accepting = self.layers(length), self.b.accepting.to(by_pair)
        betas = [accepting.expand(batch, len(rows[-1]), -1)]
        log_scale = by_pair.new_zeros(batch)
        moves = by_pair.new_empty(batch, self.a.transition.shape[1], self.b.states, self.b.states)  # of one place
        for place in range(length - 1, -1, -1):
            self._fill(moves, by_pair[:, place])
            step = self._step(moves, betas[-1], self._ways(length)[place], len(rows[place]))
            scale = step.flatten(1).amax(1) if step.shape[1] else by_pair.new_zeros(batch)
            betas.append(step / scale.clamp_min(torch.finfo(step.dtype).tiny)[:, None, None])
            log_scale = log_scale + scale.log()
        return betas[::-1], log_scale

    def _fill(self, moves: Tensor, by_pair: Tensor) -> None:
        """The matrices M_lg of a place, [B, kinds of a, C, C], from [B, P]; written over those of another."""
        at, pair = self._entries
        moves.zero_().flatten(1).scatter_add_(1, at.expand(len(moves), -1), by_pair.index_select(1, pair))

    def _ways(self, length: int) -> list[list[tuple[int, Tensor, Tensor]]]:
        """From each place: a kind of `a`, which states of the place's layer it leads on from, and to which of the next.

        Found once for a length: which they are is asked of the tables, not of probabilities.
        """
        if length not in self._found:
            layers, step, kept = self.layers(length), self.a.transition, []
            for rows, below in pairwise(layers):
                number, ways = self._places(below), []
                for kind in range(step.shape[1]):
                    target = number[step[rows, kind]]
                    here = (target >= 0).nonzero().flatten()
                    if len(here):
                        ways.append((kind, here, target[here]))
                kept.append(ways)
            self._found[length] = kept
        return self._found[length]

    def _step(self, moves: Tensor, beta: Tensor, ways: list[tuple[int, Tensor, Tensor]], rows: int) -> Tensor:
        """beta_l from beta_{l+1}: M [B, kinds of a, C, C], [B, R', C] -> [B, R, C]."""
        done = beta.new_zeros(len(beta), rows, beta.shape[2])
        for kind, here, to in ways:
            done[:, here] += beta[:, to] @ moves[:, kind].mT
        return done

    def _chunks(self, batch: int) -> Iterator[slice]:
        """Samples whose matrices are made together."""
        most = max(1, _ROOM // (self.a.transition.shape[1] * self.b.states**2 + len(self._entries[0])))
        return (slice(k, k + most) for k in range(0, batch, most))

    def log_acceptance(self, log_probs: Tensor) -> Tensor:
        """log P(both accept) when every token is drawn on its own: [B, L, K] -> float64 [B]; -inf if none can be."""
        by_pair = self.by_pair(log_probs.double().exp())
        return torch.cat([self._total(*self._backward(by_pair[part])) for part in self._chunks(len(by_pair))])

    def log_share(self, by_pair: Tensor) -> Tensor:
        """log P(b accepts | a accepts) from the probabilities of the pairs of kinds: [B, L, P] -> float64 [B]."""
        both = torch.cat([self._total(*self._backward(by_pair[part])) for part in self._chunks(len(by_pair))])
        return both - self.a.log_total(self._by_kind(by_pair))

    def _by_kind(self, by_pair: Tensor) -> Tensor:
        """Probability of each kind of `a`: [B, L, P] -> [B, L, kinds]."""
        none = by_pair.new_zeros(*by_pair.shape[:2], self.a.transition.shape[1])
        return none.index_add(2, self._pairs[0][0], by_pair)

    def _total(self, betas: list[Tensor], log_scale: Tensor) -> Tensor:
        """log P(both accept) from the filter."""
        if not betas[0].shape[1]:
            return torch.full_like(log_scale, -torch.inf)
        return betas[0][:, 0, self.b.start].log() + log_scale

    def __call__(self, log_probs: Tensor, draw: Draw, rows: Rows) -> Tensor:
        """One accepted sequence a sample, drawn exactly from prod_l p_l given acceptance: [B, L, K] -> int64 [B, L].

        Where `log_acceptance` is -inf there is nothing to draw from, and the sequence returned means nothing.
        """
        probabilities = log_probs.double().exp()
        return self.draw(probabilities, self.by_pair(probabilities), draw)[0]

    def draw(self, probabilities: Tensor, by_pair: Tensor, draw: Draw) -> tuple[Tensor, Tensor]:
        """As the call, with `log_share` beside it: float64 [B, L, K] and [B, L, P] -> int64 [B, L] and [B]."""
        drawn, log_share = self.several(probabilities, by_pair, draw, count=1)
        return drawn[:, 0], log_share

    def several(self, probabilities: Tensor, by_pair: Tensor, draw: Draw, *, count: int) -> tuple[Tensor, Tensor]:
        """As `draw`, but M independent sequences a sample, of which the first is that of `draw`: [B, M, L] and [B]."""
        uniform = draw.uniform(shape=(count, 2, probabilities.shape[1]), kind="automaton").unbind(1)
        drawn, log_both = [], []
        for part in self._chunks(len(by_pair)):
            betas, log_scale = self._backward(by_pair[part])
            some = (self._forward(probabilities[part], by_pair[part], betas, one[part]) for one in uniform)
            drawn.append(torch.stack(list(some), dim=1))
            log_both.append(self._total(betas, log_scale))
        return torch.cat(drawn), torch.cat(log_both) - self.a.log_total(self._by_kind(by_pair))

    def _forward(self, probabilities: Tensor, by_pair: Tensor, betas: list[Tensor], uniform: Tensor) -> Tensor:
        """Sequences [B, L] drawn from the start to the end."""
        batch, length, _ = by_pair.shape
        (g, f), layers = self._pairs[0], self.layers(length)
        if not len(layers[0]):
            return torch.zeros(batch, length, dtype=torch.int64, device=by_pair.device)
        q, c = (torch.full((batch,), start, device=by_pair.device) for start in (self.a.start, self.b.start))
        sample = torch.arange(batch, device=by_pair.device)[:, None]
        chosen = []
        for place in range(length):
            target = self._places(layers[place + 1])[self.a.transition[q[:, None], g]]  # [B, P]
            after = self.b.transition[c[:, None], f]
            ahead = betas[place + 1][sample, target.clamp_min(0), after.clamp_min(0)]
            weight = by_pair[:, place] * torch.where((target >= 0) & (after >= 0), ahead, 0)
            pair = draw_class(weight, uniform[:, 0, place])
            chosen.append(pair)
            q = self.a.transition[q, g[pair]].clamp_min(0)
            c = self.b.transition[c, f[pair]].clamp_min(0)
        pairs = torch.stack(chosen, dim=1)
        tokens, there = (x[pairs] for x in self._members)
        within = torch.where(there, probabilities.gather(-1, tokens), 0)
        return tokens.gather(-1, draw_class(within, uniform[:, 1])[..., None]).squeeze(-1)

    def _places(self, rows: Tensor) -> Tensor:
        """[states + 1] the place of each state of `a` among some; -1 for others and refusals."""
        places = torch.full((self.a.states + 1,), -1, device=rows.device)
        places[rows] = torch.arange(len(rows), device=rows.device)
        return places

    def accepts(self, tokens: Tensor) -> Tensor:
        """Whether both accept each sequence: int64 [B, L] -> bool [B]."""
        return self.a.accepts(tokens) & self.b.accepts(tokens)
