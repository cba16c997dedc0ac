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
"""

from __future__ import annotations

import torch
from torch import Tensor

from scidiff.constraints.automaton import Automaton
from scidiff.constraints.pair import Pair
from scidiff.constraints.runs import Runs
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
    """

    def __init__(self, grammar: Automaton, pair: Pair | Runs | None, tilt: Tensor | None = None):
        self.grammar, self.pair, self.tilt = grammar, pair, tilt
        self._path = torch.zeros(())
        self._before: _Tables | None = None

    def __call__(self, log_probs: Tensor, draw: Draw, rows: Rows) -> Tensor:
        plain = log_probs.double().exp()
        seen = log_probs.amin(-1) <= LOG_ZERO  # only what is not masked is known for certain
        tilted = self._tilted(plain)
        tables = self.tables(plain, tilted)
        if self.pair is None:
            x_0, share = self.grammar(tilted.log(), draw, rows), self.log_share(tables)
        else:
            x_0, share = self.pair.draw(tilted, tables[0], draw)
            share = share + self._log_tilt(tables)
        if self._before is None:
            self._path = torch.zeros_like(share)
        else:
            foreseen = (torch.where(seen[..., None], x, y) for x, y in zip(tables, self._before, strict=True))
            self._path = self._path + share - self.log_share(tuple(foreseen))
        self._before = tables
        return x_0

    def _tilted(self, plain: Tensor) -> Tensor:
        return plain if self.tilt is None else plain * self.tilt.exp()

    def log_weight(self, x: Tensor) -> Tensor:
        """log w / r_0 of the finished sequences: int64 [B, L] -> float64 [B]."""
        weight = self._path if self.tilt is None else self._path - self.tilt[x].sum(-1)
        return weight - self.pair.log_runs(x) if isinstance(self.pair, Runs) else weight

    def tables(self, plain: Tensor, tilted: Tensor) -> _Tables:
        """What `log_share` needs of a product without and with the tilt: float64 [B, L, K]."""
        pairs = () if self.pair is None else (self.pair.by_pair(tilted),)
        kinds = () if self.tilt is None else (self.grammar.by_kind(tilted), self.grammar.by_kind(plain))
        return (*pairs, *kinds)

    def log_share(self, tables: _Tables) -> Tensor:
        """log r of a product: [B]."""
        tilt = self._log_tilt(tables)
        return tilt if self.pair is None else tilt + self.pair.log_share(tables[0])

    def first(self, log_probs: Tensor) -> Tensor:
        """log r of the first step, from its log-probabilities [B, L, K]: [B]."""
        plain = log_probs.double().exp()
        return self.log_share(self.tables(plain, self._tilted(plain)))

    def _log_tilt(self, tables: _Tables) -> Tensor:
        """log of the mean of exp(sum_l tilt) over the sequences of the grammar."""
        if self.tilt is None:
            return tables[0].new_zeros(len(tables[0]))
        return self.grammar.log_total(tables[-2]) - self.grammar.log_total(tables[-1])
