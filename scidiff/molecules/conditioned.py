r"""Steps conditioned on a constraint, and the weights that make them exact.

Step k of the model draws x_0 from the network's product p_k = prod_l p_l(. | x_k) given the grammar G, and keeps some
of its classes; a conditioned step draws it given the grammar and the constraint C. With r_k(x) = P(C | G, p_k) after
the classes of x that p_k did not know yet were put in their places, the probability of the classes kept, x_{k+1}, is

    q(x_{k+1} | x_k) = p(x_{k+1} | x_k) r_k(x_{k+1}) / r_k(x_k)

by Bayes' rule, and the weight of a whole path, model over proposal, telescopes (twisted sequential Monte Carlo,
Whiteley & Lee 2014; Wu et al., "Practical and asymptotically exact conditional sampling in diffusion models", 2023)

    w = r_0(x_0) prod_{k >= 1} r_k(x_k) / r_{k-1}(x_k)

r_0(x_0) is the same for all samples of one length and is spent on drawing the length; the logarithm of the rest is
kept here. Each factor compares what two successive estimates say of one state, so a denoiser whose products foresee
the constraint exactly has weights of 1. An automaton with several runs a sequence (`scidiff.constraints.runs`) has in
place of r_k their expected number, and the weight is divided by the number of runs of the sequence that came out.

A step may be tilted too: x_0 is drawn in proportion to p_k(x_0) exp(sum_l tilt(x_0^l)) given G and C, which is again
a product given automata. Then r_k(x) is the mean of exp(sum_l tilt) [C] under p_k given G, and

    w = r_0(x_0) prod_{k >= 1} r_k(x_k) / r_{k-1}(x_k) exp(-sum_l tilt(x_n^l))

is exact for any tilt.

Of several sequences that a step draws one may be chosen (`scidiff.molecules.candidates`), which no weight takes back.

And a step may draw from another product g_k in place of p_k, such as a guided one, tilted or not. Then r_k(x) is the
total of g_k exp(sum_l tilt) over the sequences of G and C, over the total of p_k over those of G, each with the classes
of x in their places, and w has another factor p_k(x_{k+1}^l) / g_k(x_{k+1}^l) for each class that step k keeps.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from scidiff.constraints.automaton import Automaton
from scidiff.constraints.pair import Pair
from scidiff.constraints.runs import Runs
from scidiff.molecules.candidates import Candidates
from scidiff.noise import Draw
from scidiff.processes.categorical import LOG_ZERO
from scidiff.state import Rows

_Tables = tuple[Tensor, ...]  # [B, L, *] each: what a step's product says of kinds of tokens


class Conditioned:
    """The `joint` of one run of a categorical rule; a new one for each run, for it adds up the weights.

    Args:
        grammar: G.
        pair: the grammar and the constraint C; None for no constraint.
        tilt: [K] float64, what each class adds to the exponent; None for nothing.
        plain: asked at each step for log p_k, [B, L, K], where the log-probabilities given are those of g_k.
        candidates: chooses among sequences of a pair; None to draw one.
    """

    def __init__(
        self,
        grammar: Automaton,
        pair: Pair | Runs | None,
        tilt: Tensor | None = None,
        plain: Callable[[], Tensor] | None = None,
        candidates: Candidates | None = None,
    ):
        self.grammar, self.pair, self.tilt, self.plain, self.candidates = grammar, pair, tilt, plain, candidates
        self._path = torch.zeros(())
        self._before: _Tables | None = None
        self._estimates: tuple[Tensor, Tensor, Tensor] | None = None  # log p_k, log g_k, and what step k knew: [B, L]

    def __call__(self, log_probs: Tensor, draw: Draw, rows: Rows) -> Tensor:
        seen = log_probs.amin(-1) <= LOG_ZERO  # only what is not masked is known for certain
        tilted, tables = self._tables(log_probs)
        if self.pair is None:
            log_tilted = log_probs if self.tilt is None else tilted.log()
            x_0, share = self.grammar(log_tilted, draw, rows), self._log_share(tables)
        else:
            x_0, share = self._drawn(self.pair, tilted, tables[0], draw)
            share = share + self._log_other(tables)
        if self._before is None:
            self._path = torch.zeros_like(share)
        else:
            foreseen = (torch.where(seen[..., None], x, y) for x, y in zip(tables, self._before, strict=True))
            kept = self._kept(log_probs.argmax(-1), seen)
            self._path = self._path + share - self._log_share(tuple(foreseen)) + kept
        self._before = tables
        if self.plain is not None:
            self._estimates = self.plain(), log_probs, seen
        return x_0

    def _drawn(self, pair: Pair | Runs, tilted: Tensor, by_pair: Tensor, draw: Draw) -> tuple[Tensor, Tensor]:
        """A sequence of each sample and log P(C | G)."""
        if self.candidates is None or isinstance(pair, Runs):
            return pair.draw(tilted, by_pair, draw)
        several, share = pair.several(tilted, by_pair, draw, count=self.candidates.count)
        return self.candidates.choose(several, draw), share

    def _kept(self, x: Tensor, seen: Tensor | None = None) -> Tensor | float:
        """log p / g of the classes x that the step before kept, all if it is not said which are seen: [B]."""
        if self._estimates is None:
            return 0.0
        *both, known = self._estimates
        plain, given = (each.gather(-1, x[..., None]).squeeze(-1).double() for each in both)
        kept = ~known if seen is None else seen & ~known
        return torch.where(kept, plain - given, 0.0).sum(-1)

    def log_weight(self, x: Tensor) -> Tensor:
        """log w / r_0 of the finished sequences: int64 [B, L] -> float64 [B]."""
        weight = self._path + self._kept(x)
        weight = weight if self.tilt is None else weight - self.tilt[x].sum(-1)
        return weight - self.pair.log_runs(x) if isinstance(self.pair, Runs) else weight

    def first(self, log_probs: Tensor) -> Tensor:
        """log r of the first step, from its log-probabilities [B, L, K]: [B]."""
        return self._log_share(self._tables(log_probs)[1])

    @property
    def _other(self) -> bool:
        """Whether what is drawn from is another product than the model's."""
        return self.tilt is not None or self.plain is not None

    def _tables(self, log_probs: Tensor) -> tuple[Tensor, _Tables]:
        """The product that is drawn from, [B, L, K], and what `_log_share` needs of it and of the model's.

        In float64 for pairs, whose sums are longer; the grammar adds up to kinds in the precision of the estimates.
        """
        given = self._probabilities(log_probs)
        plain = given if self.plain is None else self._probabilities(self.plain())
        tilted = given if self.tilt is None else given * self.tilt.exp()
        pairs = () if self.pair is None else (self.pair.by_pair(tilted),)
        kinds = (self.grammar.by_kind(tilted), self.grammar.by_kind(plain)) if self._other else ()
        return tilted, (*pairs, *kinds)

    def _probabilities(self, log_probs: Tensor) -> Tensor:
        return log_probs.exp() if self.pair is None else log_probs.double().exp()

    def _log_share(self, tables: _Tables) -> Tensor:
        """log r of a step: [B]."""
        other = self._log_other(tables)
        return other if self.pair is None else other + self.pair.log_share(tables[0])

    def _log_other(self, tables: _Tables) -> Tensor:
        """log of the total of what is drawn from over that of the model's product, in the sequences of the grammar."""
        if not self._other:
            return tables[0].new_zeros(len(tables[0]))
        return self.grammar.log_total(tables[-2]) - self.grammar.log_total(tables[-1])
