r"""Exact sampling of sequences by the runs of an automaton that may have several for one sequence.

An automaton that guesses where a pattern begins is small, where one that need not guess is large. Its filter counts

    beta_L(q) = [q accepts],    beta_l(q) = sum over edges (q, g, q') of p_l(g) beta_{l+1}(q')

each run once, so that a sequence x is drawn with probability in proportion to p(x) n(x), n(x) the number of its
accepting runs: a weight of 1 / n(x) makes it exact (`log_runs`). An automaton with one run a sequence needs none.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from scidiff.constraints.automaton import Automaton, draw_class
from scidiff.constraints.base import Infeasible
from scidiff.noise import Draw
from scidiff.state import Rows

_ROOM = 1 << 23  # numbers in the edges of one place

Edge = tuple[int, int, int]
"""From a state, by a kind of token, to a state."""


@dataclass(frozen=True, kw_only=True)
class Runs:
    """An automaton by its edges; usable as the `joint` of a categorical rule.

    Attributes:
        whole: the deterministic automaton whose language this one's is a part of; shares are of it.
        kind: [K] int64, the kind of each token; tokens of one kind are of one kind of `whole` too.
        target, label: [states, most] int64, where the edges of each state lead and by which kind; target is the
            number of states where there are no more.
        start: the first state.
        accepting: [states] bool.
    """

    whole: Automaton
    kind: Tensor
    target: Tensor
    label: Tensor
    start: int
    accepting: Tensor

    @classmethod
    def of(
        cls, whole: Automaton, kind: Sequence[int], edges: Sequence[Edge], accepting: Sequence[bool], *, name: str
    ) -> Runs:
        """From edges, of which only those are kept that lie on a way from state 0 to an end.

        Raises:
            Infeasible: there is no such way; `name` says of what.
        """
        source, by, to = torch.tensor([*edges, (0, 0, 0)]).unbind(1)
        source, by, to = source[:-1], by[:-1], to[:-1]
        useful, before = torch.tensor(accepting), -1
        while int(useful.sum()) != before:
            before = int(useful.sum())
            useful = useful.index_fill(0, source[useful[to]], True)
        if not useful[0]:
            raise Infeasible(f"no sequence is accepted by {name}")
        place = torch.where(useful, useful.cumsum(0) - 1, -1)
        kept = useful[source] & useful[to]
        source, by, to = place[source[kept]], by[kept], place[to[kept]]
        order = source.argsort(stable=True)
        source, by, to = source[order], by[order], to[order]
        counts = torch.bincount(source, minlength=int(useful.sum()))
        column = torch.arange(len(source)) - (counts.cumsum(0) - counts)[source]
        shape = (len(counts), int(counts.max()) if len(source) else 1)
        target, label = torch.full(shape, len(counts)), torch.zeros(shape, dtype=torch.int64)
        target[source, column], label[source, column] = to, by
        ends = torch.tensor(accepting)[useful]
        return cls(whole=whole, kind=torch.tensor(kind), target=target, label=label, start=0, accepting=ends).to(
            whole.kind.device
        )

    def to(self, device: torch.device | str) -> Runs:
        """The same automaton on another device."""
        tensors = {name: getattr(self, name).to(device) for name in ("kind", "target", "label", "accepting")}
        return Runs(whole=self.whole.to(device), start=self.start, **tensors)

    @property
    def states(self) -> int:
        """Their number."""
        return len(self.accepting)

    @cached_property
    def _kinds(self) -> int:
        return int(self.kind.max()) + 1

    @cached_property
    def _members(self) -> tuple[Tensor, Tensor]:
        """[kinds, most] the tokens of each kind, in their order, and where there is one."""
        order, counts = self.kind.argsort(stable=True), torch.bincount(self.kind, minlength=self._kinds)
        place = torch.arange(int(counts.max()), device=self.kind.device)
        return order[((counts.cumsum(0) - counts)[:, None] + place).clamp_max(len(order) - 1)], place < counts[:, None]

    @cached_property
    def _of_whole(self) -> Tensor:
        """[kinds] the kind of `whole` that each kind is of."""
        none = torch.zeros(self._kinds, dtype=torch.int64, device=self.kind.device)
        return none.index_copy(0, self.kind, self.whole.kind)

    def by_pair(self, probabilities: Tensor) -> Tensor:
        """Probability of each kind at each place: float64 [B, L, K] -> [B, L, P]."""
        none = probabilities.new_zeros(*probabilities.shape[:2], self._kinds)
        return none.index_add(2, self.kind, probabilities)

    @cached_property
    def _edges(self) -> tuple[Tensor, Tensor, Tensor]:
        """Source, kind and target of every edge."""
        source, column = (self.target < self.states).nonzero().unbind(1)
        return source, self.label[source, column], self.target[source, column]

    def _chunks(self, batch: int) -> Iterator[slice]:
        most = max(1, _ROOM // len(self._edges[0]))
        return (slice(k, k + most) for k in range(0, batch, most))

    def _backward(self, by_kind: Tensor) -> tuple[list[Tensor], Tensor]:
        """beta_0 .. beta_L, [states + 1, B] each scaled to a maximum of 1, and the logarithm of the scales' product."""
        beta = torch.nn.functional.pad(self.accepting.to(by_kind), (0, 1))[:, None].expand(-1, len(by_kind))
        betas, log_scale = [beta], by_kind.new_zeros(len(by_kind))
        source, by, to = self._edges
        for place in range(by_kind.shape[1] - 1, -1, -1):
            moves = by_kind[:, place].T.contiguous().index_select(0, by) * beta.index_select(0, to)
            step = torch.zeros_like(beta).index_add(0, source, moves)
            scale = step.amax(0)
            beta = step / scale.clamp_min(torch.finfo(step.dtype).tiny)
            betas.append(beta)
            log_scale = log_scale + scale.log()
        return betas[::-1], log_scale

    def _total(self, by_kind: Tensor) -> Tensor:
        """log of the expected number of runs: [B, L, P] -> [B]."""
        found = [self._backward(by_kind[part]) for part in self._chunks(len(by_kind))]
        return torch.cat([betas[0][self.start].log() + log_scale for betas, log_scale in found])

    def _log_whole(self, by_kind: Tensor) -> Tensor:
        none = by_kind.new_zeros(*by_kind.shape[:2], self.whole.transition.shape[1])
        return self.whole.log_total(none.index_add(2, self._of_whole, by_kind))

    def log_share(self, by_pair: Tensor) -> Tensor:
        """log of the expected number of runs given that `whole` accepts: [B, L, P] -> float64 [B]."""
        return self._total(by_pair) - self._log_whole(by_pair)

    def log_runs(self, tokens: Tensor) -> Tensor:
        """log n(x), the number of accepting runs of sequences: int64 [B, L] -> float64 [B]; -inf if there is none."""
        return self._total(torch.nn.functional.one_hot(self.kind[tokens], self._kinds).double())

    def accepts(self, tokens: Tensor) -> Tensor:
        """Whether each sequence has a run: int64 [B, L] -> bool [B]."""
        return self.log_runs(tokens) > -torch.inf

    def __call__(self, log_probs: Tensor, draw: Draw, rows: Rows) -> Tensor:
        """One sequence a sample, in proportion to its probability and runs: [B, L, K] -> int64 [B, L]."""
        probabilities = log_probs.double().exp()
        return self.draw(probabilities, self.by_pair(probabilities), draw)[0]

    def draw(self, probabilities: Tensor, by_pair: Tensor, draw: Draw) -> tuple[Tensor, Tensor]:
        """As the call, with `log_share` beside it: float64 [B, L, K] and [B, L, P] -> int64 [B, L] and [B]."""
        uniform = draw.uniform(shape=(2, probabilities.shape[1]), kind="automaton")
        drawn, totals = [], []
        for part in self._chunks(len(by_pair)):
            betas, log_scale = self._backward(by_pair[part])
            drawn.append(self._forward(probabilities[part], by_pair[part], betas, uniform[part]))
            totals.append(betas[0][self.start].log() + log_scale)
        return torch.cat(drawn), torch.cat(totals) - self._log_whole(by_pair)

    def _forward(self, probabilities: Tensor, by_kind: Tensor, betas: list[Tensor], uniform: Tensor) -> Tensor:
        state = torch.full((len(by_kind),), self.start, device=by_kind.device)
        sample = torch.arange(len(by_kind), device=by_kind.device)
        chosen = []
        for place in range(by_kind.shape[1]):
            to, by = self.target[state], self.label[state]
            weight = by_kind[:, place].gather(1, by) * betas[place + 1][to, sample[:, None]]
            edge = draw_class(weight, uniform[:, 0, place])[:, None]
            chosen.append(by.gather(1, edge).squeeze(1))
            state = to.gather(1, edge).squeeze(1).clamp_max(self.states - 1)
        kinds = torch.stack(chosen, dim=1)
        tokens, there = (x[kinds] for x in self._members)
        within = torch.where(there, probabilities.gather(-1, tokens), 0)
        return tokens.gather(-1, draw_class(within, uniform[:, 1])[..., None]).squeeze(-1)
