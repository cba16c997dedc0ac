r"""Guidance towards properties by what the model is told of them, with the weights that make the draws exact.

A model that was trained to be told facts (`scidiff.molecules.edges`) gives p_k(. | facts) beside p_k. Draws are made
from the guided product of `scidiff.guidance.CFG`,

    g_k proportional to p_k^(1-w) p_k(. | facts)^w,

inside the grammar and what is enforced, and `scidiff.molecules.conditioned` keeps the weight W = p / q of every draw,
exact for any g_k that excludes nothing: a poor guide costs draws, never the weights. Lengths are drawn from those of
the training molecules that meet the facts, which the weights take back too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from scidiff.denoiser import Denoiser
from scidiff.errors import UserError
from scidiff.guidance import CFG
from scidiff.molecules.language import Expression
from scidiff.molecules.model import LEAF, FragmentModel
from scidiff.state import Layout, State

WEIGHT = 1.5


@dataclass(frozen=True, kw_only=True, eq=False)
class Guide:
    """What a model is told.

    Attributes:
        facts: [2 E], numbers 0 or 1.
        lengths: what numbers of fragments are drawn from, float64 [longest + 1].
        weight: w.
    """

    facts: Tensor
    lengths: Tensor
    weight: float


def guide(model: FragmentModel, terms: Sequence[Expression], *, weight: float) -> Guide:
    """What follows from terms that hold together.

    Raises:
        UserError: the model cannot be told of properties, or the terms say nothing of those it can be told of.
    """
    if not model.config.edges:
        raise UserError("--method guide: this model cannot be told of properties: take --method steer, or train one")
    facts = model.edges.told(terms)
    if not facts.any():
        known, asked = ", ".join(model.config.edges), " and ".join(term.text for term in terms) or "none"
        raise UserError(f"--method guide: expected conditions that say something of {known}; got {asked}")
    device = next(model.denoiser.parameters()).device
    lengths = model.length_probabilities
    if model.census is not None:
        lengths = model.census.lengths_of(terms, lengths)
    return Guide(facts=facts.to(device), lengths=lengths, weight=weight)


class Guided(Denoiser):
    """A guided denoiser for one run, which remembers the unguided estimate of its last call.

    Args:
        denoiser: can be told.
        guide: what it is told.
    """

    def __init__(self, denoiser: Denoiser, guide: Guide):
        super().__init__()
        self._remembered = _Remembered(denoiser)
        self._guided, self._facts = CFG(self._remembered, guide.weight), guide.facts

    def forward(self, x_t: State, t: Tensor, layout: Layout, condition: Any = None) -> State:
        return self._guided(x_t, t, layout, self._facts.expand(layout.batch, -1))

    def plain(self) -> Tensor:
        """The log-probabilities that the last call had without guidance: [B, L, K]."""
        return self._remembered.untold


class _Remembered(Denoiser):
    """A denoiser that keeps what it said when it was told nothing."""

    def __init__(self, denoiser: Denoiser):
        super().__init__()
        self.denoiser, self.untold = denoiser, torch.empty(0)

    def forward(self, x_t: State, t: Tensor, layout: Layout, condition: Any = None) -> State:
        clean = self.denoiser(x_t, t, layout, condition)
        if condition is None:
            self.untold = clean[LEAF]
        return clean
