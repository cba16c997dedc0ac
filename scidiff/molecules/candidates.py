r"""Of several sequences that one estimate of the network allows, one that fits what the model is told.

Step k draws M sequences of fragments x_0 from the network's product, given the automata, and takes one in proportion to

    [every pair of ring labels of x_0 bonds two atoms] prod_p N(asked_p; b_p + sum_l s_p(x_0^l), e_p^2)

where s_p and b_p are what fragments add to property p by a ridge regression on the molecules that the model learned
from (`scidiff.molecules.scores`), and e_p is what it leaves on others. Facts tell a model of a property to the width of
a twentieth of the training molecules; sums tell where within. As M grows x_0 follows the network's product times that
factor, conditioned on the automata; with a finite M it is importance resampling (Rubin 1987), within one draw and
without another call of the network.

The grammar lets a label close at an atom that the label's own is bonded to, which hydrogens then cap. An automaton that
tells which open slots belong to such atoms is no way out: at its smallest it has 458 states for five open slots and two
labels, 1,951 for six and 8,265 for seven, and molecules of QM9 have up to ten open slots and four labels.

Where no sequence of the M has labels that all bond, those without are not told apart, and certification judges what
comes of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from scidiff.constraints.automaton import draw_class
from scidiff.molecules.fragments import RING_LABELS, closes
from scidiff.molecules.vocabulary import Vocabulary
from scidiff.noise import Draw

COUNT = 16
_OPEN = -1e6  # in place of log 0


@dataclass(frozen=True, kw_only=True)
class Candidates:
    """A choice among sequences.

    Attributes:
        vocabulary: of the sequences.
        log_likelihood: of what is asked, given each of the sequences [B, M, L]: float64 [B, M]; None: all fit alike.
        count: M.
    """

    vocabulary: Vocabulary
    log_likelihood: Callable[[Tensor], Tensor] | None = None
    count: int = COUNT

    @cached_property
    def _labels(self) -> Tensor:
        """Which tokens are ring labels: bool [K]."""
        return torch.tensor([token in RING_LABELS for token in self.vocabulary.tokens])

    def choose(self, x_0: Tensor, draw: Draw) -> Tensor:
        """One of M sequences of each sample: int64 [B, M, L] -> [B, L]."""
        log_factor = torch.where(self._closing(x_0), 0.0, _OPEN).double()
        if self.log_likelihood is not None:
            log_factor = log_factor + self.log_likelihood(x_0)
        chosen = draw_class(log_factor.softmax(1), draw.uniform(shape=(1,), kind="candidate")[:, 0])
        return x_0[torch.arange(len(x_0), device=x_0.device), chosen]

    def _closing(self, x_0: Tensor) -> Tensor:
        """Which sequences have labels that all bond: bool [B, M]."""
        found = torch.ones(x_0.shape[:2], dtype=torch.bool)
        labelled = self._labels.to(x_0.device)[x_0].any(-1).nonzero().cpu()
        for (i, m), classes in zip(labelled.tolist(), x_0[tuple(labelled.T)].tolist(), strict=True):
            found[i, m] = closes([self.vocabulary.tokens[k] for k in classes])
        return found.to(x_0.device)
