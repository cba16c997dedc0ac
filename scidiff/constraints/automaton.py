r"""Exact sampling of token sequences that a finite automaton accepts.

For independent tokens, p(x) = prod_l p_l(x_l), conditioned on acceptance, by forward filter, backward sample (here run
from the end to the beginning, then sampled from the beginning to the end):

    beta_L(q) = [q accepts],    beta_l(q) = sum_k p_l(k) beta_{l+1}(next(q, k))
    p(x_l | q) ~ p_l(x_l) beta_{l+1}(next(q, x_l))

Tokens that move the automaton alike are one *kind*: a vocabulary of thousands is reduced to a few kinds first, and the
token drawn within its kind last. beta_0(start) is the probability of acceptance.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from scidiff.constraints import languages
from scidiff.noise import Draw
from scidiff.state import Rows


@dataclass(frozen=True, kw_only=True)
class Automaton:
    """A deterministic finite automaton over kinds of tokens, usable as the `joint` sampler of a categorical rule.

    Attributes:
        kind: [K] int64, the kind of each token, in [0, kinds).
        transition: [states, kinds] int64, the next state, or -1 where the kind is refused.
        start: the first state.
        accepting: [states] bool, where a sequence may end.
    """

    kind: Tensor
    transition: Tensor
    start: int
    accepting: Tensor

    def __post_init__(self) -> None:
        states, kinds = self.transition.shape
        if int(self.transition.max()) >= states or int(self.transition.min()) < -1:
            raise ValueError(f"expected transitions to states -1 .. {states - 1}, got {int(self.transition.max())}")
        if int(self.kind.min()) < 0 or int(self.kind.max()) >= kinds:
            raise ValueError(
                f"expected kinds in 0 .. {kinds - 1}, got {int(self.kind.min())} .. {int(self.kind.max())}"
            )
        if self.accepting.shape != (states,) or not 0 <= self.start < states:
            raise ValueError(f"expected {states} states, got {tuple(self.accepting.shape)} and start {self.start}")

    @property
    def states(self) -> int:
        """Their number."""
        return len(self.accepting)

    def __and__(self, other: Automaton) -> Automaton:
        """The automaton of the sequences that both accept; `Infeasible` if there are none of any length."""
        name = f"both of two automata of {self.states} and {other.states} states"
        return languages.product(self, other, torch.logical_and, name)

    def __or__(self, other: Automaton) -> Automaton:
        """The automaton of the sequences that either accepts."""
        name = f"either of two automata of {self.states} and {other.states} states"
        return languages.product(self, other, torch.logical_or, name)

    def __invert__(self) -> Automaton:
        """The automaton of the sequences that this one refuses; `Infeasible` if it refuses none."""
        return languages.complement(self)

    def to(self, device: torch.device | str) -> Automaton:
        """The same automaton on another device."""
        return Automaton(
            kind=self.kind.to(device),
            transition=self.transition.to(device),
            start=self.start,
            accepting=self.accepting.to(device),
        )

    @cached_property
    def _members(self) -> Tensor:
        """[K, kinds] 1 where a token is of a kind."""
        return torch.nn.functional.one_hot(self.kind, self.transition.shape[1])

    @cached_property
    def _tokens(self) -> Tensor:
        """[kinds, most] the tokens of each kind, in their order; where there are no more (`_filled`), any."""
        order = self.kind.argsort(stable=True)
        counts = self._members.sum(0)
        place = torch.arange(int(counts.max()), device=self.kind.device)
        return order[((counts.cumsum(0) - counts)[:, None] + place).clamp_max(len(order) - 1)]

    @cached_property
    def _filled(self) -> Tensor:
        """[kinds, most] where `_tokens` holds a token of the kind."""
        counts = self._members.sum(0)
        return torch.arange(int(counts.max()), device=self.kind.device) < counts[:, None]

    @cached_property
    def _following(self) -> Tensor:
        """[states + 1, kinds] the next state; what is refused leads to one more state, which refuses everything."""
        dead = self.transition.shape[0]
        return torch.nn.functional.pad(
            torch.where(self.transition < 0, dead, self.transition), (0, 0, 0, 1), value=dead
        )

    @cached_property
    def _accepting(self) -> Tensor:
        """[states + 1] 1 where a sequence may end."""
        return torch.nn.functional.pad(self.accepting.double(), (0, 1))

    def by_kind(self, probabilities: Tensor) -> Tensor:
        """Probability of each kind at each place: [B, L, K] -> float64 [B, L, kinds]."""
        return (probabilities @ self._members.to(probabilities.dtype)).double()

    def _backward(self, by_kind: Tensor) -> tuple[list[Tensor], Tensor]:
        """beta_1 .. beta_L, each scaled to a maximum of 1, and the logarithm of the product of the scales."""
        batch, length, kinds = by_kind.shape
        next_state = self._following.flatten()
        beta = self._accepting[:, None].expand(-1, batch)  # [states + 1, B]: whole rows are fetched, which is fast
        betas, log_scale = [beta.T], torch.zeros(batch, dtype=torch.float64, device=by_kind.device)
        for place in range(length - 1, -1, -1):
            after = beta.index_select(0, next_state).unflatten(0, (-1, kinds))
            step = (by_kind[:, place].T * after).sum(1)
            scale = step.amax(0)
            beta = step / scale.clamp_min(torch.finfo(torch.float64).tiny)
            betas.append(beta.T.contiguous())
            log_scale = log_scale + scale.log()
        return betas[::-1], log_scale

    def log_acceptance(self, log_probs: Tensor) -> Tensor:
        """log P(accepted) when every token is drawn on its own: [B, L, K] -> float64 [B]; -inf if none can be."""
        return self.log_total(self.by_kind(log_probs.double().exp()))

    def log_total(self, by_kind: Tensor) -> Tensor:
        """`log_acceptance` from the probability of each kind at each place: float64 [B, L, kinds] -> [B]."""
        betas, log_scale = self._backward(by_kind)
        return betas[0][:, self.start].log() + log_scale

    def __call__(self, log_probs: Tensor, draw: Draw, rows: Rows) -> Tensor:
        """One accepted sequence a sample, drawn exactly from prod_l p_l given acceptance: [B, L, K] -> int64 [B, L].

        Where `log_acceptance` is -inf there is nothing to draw from, and the sequence returned means nothing.
        """
        probabilities = log_probs.exp()
        by_kind = self.by_kind(probabilities)
        betas, _ = self._backward(by_kind)
        batch, length, _ = log_probs.shape
        uniform = draw.uniform(shape=(2, length), kind="automaton")
        state = torch.full((batch,), self.start, device=log_probs.device)
        chosen = []
        for place in range(length):
            weight = by_kind[:, place] * betas[place + 1].gather(1, self._following[state])
            kind = draw_class(weight, uniform[:, 0, place])
            chosen.append(kind)
            state = self._following[state].gather(1, kind[:, None]).squeeze(1)
        kinds = torch.stack(chosen, dim=1)
        tokens = self._tokens[kinds]
        within = torch.where(self._filled[kinds], probabilities.gather(-1, tokens), 0)
        return tokens.gather(-1, draw_class(within, uniform[:, 1])[..., None]).squeeze(-1)

    def accepts(self, tokens: Tensor) -> Tensor:
        """Whether each sequence is accepted: int64 [B, L] -> bool [B]."""
        state = torch.full((tokens.shape[0],), self.start, device=tokens.device)
        for kind in self.kind[tokens].unbind(1):
            after = self.transition[state.clamp_min(0), kind]
            state = torch.where(state < 0, state, after)
        return (state >= 0) & self.accepting[state.clamp_min(0)]


def anything(classes: int) -> Automaton:
    """The automaton that accepts every sequence of so many classes."""
    nowhere = torch.zeros(1, 1, dtype=torch.int64)
    accepting = torch.ones(1, dtype=torch.bool)
    return Automaton(kind=torch.zeros(classes, dtype=torch.int64), transition=nowhere, start=0, accepting=accepting)


def draw_class(weight: Tensor, uniform: Tensor) -> Tensor:
    """The class whose share of the cumulative weight [..., K] holds the uniform number [...]."""
    cumulative = weight.cumsum(-1)
    total = cumulative[..., -1:].contiguous()
    exact = uniform[..., None] * total
    # The greatest number of the weights' precision that is not above it: nothing lies between, so nothing is rounded.
    near = exact.to(weight.dtype)
    threshold = torch.where(near > exact, torch.nextafter(near, torch.zeros_like(near)), near)
    chosen = torch.searchsorted(cumulative, threshold, right=True)
    # The class that completes the total is the last possible one.
    return torch.minimum(chosen, torch.searchsorted(cumulative, total)).squeeze(-1)
