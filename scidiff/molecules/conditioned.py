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
"""

from __future__ import annotations

import torch
from torch import Tensor

from scidiff.constraints.pair import Pair
from scidiff.constraints.runs import Runs
from scidiff.noise import Draw
from scidiff.processes.categorical import LOG_ZERO
from scidiff.state import Rows


class Conditioned:
    """The `joint` of one run of a categorical rule; a new one for each run, for it adds up the weights.

    Args:
        pair: the grammar and the constraint.
    """

    def __init__(self, pair: Pair | Runs):
        self.pair = pair
        self.log_weight = torch.zeros(())
        self._before: Tensor | None = None

    def __call__(self, log_probs: Tensor, draw: Draw, rows: Rows) -> Tensor:
        probabilities = log_probs.double().exp()
        by_pair = self.pair.by_pair(probabilities)
        x_0, log_share = self.pair.draw(probabilities, by_pair, draw)
        if self._before is None:
            self.log_weight = torch.zeros_like(log_share)
        else:
            seen = log_probs.amin(-1, keepdim=True) <= LOG_ZERO  # only what is not masked is known for certain
            foreseen = torch.where(seen, by_pair, self._before)
            self.log_weight = self.log_weight + log_share - self.pair.log_share(foreseen)
        self._before = by_pair
        return x_0
