r"""Guidance towards properties, with the weights that make the draws exact.

Draws are made from another product g_k than the model's p_k, inside the grammar and what is enforced:

    by facts        g_k proportional to p_k^(1-w) p_k(. | facts)^w, by `scidiff.guidance.CFG`, of a model that was
                    trained to be told (`scidiff.molecules.edges`); two network calls a step
    by projection   g_k the nearest to p_k whose expectations of properties lie where they should, by
                    `scidiff.guidance.ProjectTokens`, properties being what a network expects of beliefs about fragments
                    (`scidiff.molecules.head`), or what fragments add (`scidiff.molecules.scores`)

`scidiff.molecules.conditioned` keeps the weight W = p / q of every draw, exact for any g_k that excludes nothing: a
poor guide costs draws, never the weights. Lengths are drawn from those of the training molecules that meet the request,
as a census tells them, which the weights take back too.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from scidiff.denoiser import Denoiser
from scidiff.errors import UserError
from scidiff.guidance import CFG, ProjectTokens, Sums
from scidiff.guidance.project_tokens import Properties
from scidiff.molecules.edges import ends
from scidiff.molecules.head import Expected
from scidiff.molecules.language import Expression
from scidiff.molecules.model import LEAF, FragmentModel
from scidiff.molecules.scores import SCORED
from scidiff.state import Layout, State

WEIGHT = 1.5


@dataclass(frozen=True, kw_only=True, eq=False)
class Guide(ABC):
    """A way to another product.

    Attributes:
        lengths: what numbers of fragments are drawn from, float64 [longest + 1].
        calls: of the network in a step.
    """

    lengths: Tensor
    calls: ClassVar[int]

    @abstractmethod
    def around(self, plain: Denoiser) -> Denoiser:
        """The guided denoiser; its last call of `plain` without a condition is the model's own estimate."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ByFacts(Guide):
    """A model that is told facts, [2 E] numbers 0 or 1, and guided by them with weight w."""

    facts: Tensor
    weight: float
    calls: ClassVar[int] = 2

    def around(self, plain: Denoiser) -> Denoiser:
        return Informed(CFG(plain, self.weight), self.facts)


@dataclass(frozen=True, kw_only=True, eq=False)
class ByProjection(Guide):
    """J properties that are to lie between low and high, [J], in expectation."""

    properties: Properties
    low: Tensor
    high: Tensor
    calls: ClassVar[int] = 1

    def around(self, plain: Denoiser) -> Denoiser:
        return ProjectTokens(plain, leaf=LEAF, properties=self.properties, low=self.low, high=self.high)


def by_facts(model: FragmentModel, terms: Sequence[Expression], *, weight: float = WEIGHT) -> ByFacts:
    """The guide of a model that is told what follows from terms which hold together.

    Raises:
        UserError: the model cannot be told of properties, or the terms say nothing of those it can be told of.
    """
    if not model.config.edges:
        raise UserError("--method guide: this model cannot be told of properties: take --method steer, or train one")
    facts = model.edges.told(terms)
    if not facts.any():
        raise UserError(_nothing_said("guide", tuple(model.config.edges), terms))
    return ByFacts(facts=facts.to(_device(model)), lengths=_lengths(model, terms), weight=weight)


def by_projection(model: FragmentModel, terms: Sequence[Expression]) -> ByProjection:
    """The guide by what is expected of the properties that terms are about.

    Raises:
        UserError: the model has no scores of fragments, or the terms say nothing of what is scored.
    """
    if model.scores is None:
        raise UserError("--method project: this model has no scores of fragments: workflows/fit_scores.py makes them")
    low, high = ends(SCORED, terms)
    asked = (low.isfinite() | high.isfinite()).nonzero().flatten()
    if not len(asked):
        raise UserError(_nothing_said("project", SCORED, terms))
    device, lengths = _device(model), _lengths(model, terms)
    low, high = low[asked].float().to(device), high[asked].float().to(device)
    # what sums say well they say at half the cost, with slopes that have nothing to learn
    if model.head is not None and model.scores.say_little(model.head.unit, asked):
        expected = Expected(head=model.head, asked=asked.to(device))
        return ByProjection(properties=expected, low=low, high=high, lengths=lengths)
    table, intercept, left = model.scores.table, model.scores.intercept[asked].float().to(device), model.scores.left
    sums = Sums(
        scores=table[:, asked].float().to(device), left=None if left is None else left[asked].float().to(device)
    )
    return ByProjection(properties=sums, low=low - intercept, high=high - intercept, lengths=lengths)


def _nothing_said(method: str, known: Sequence[str], terms: Sequence[Expression]) -> str:
    asked = " and ".join(term.text for term in terms) or "none"
    return f"--method {method}: expected conditions that say something of {', '.join(known)}; got {asked}"


def _lengths(model: FragmentModel, terms: Sequence[Expression]) -> Tensor:
    lengths = model.length_probabilities
    return lengths if model.census is None else model.census.lengths_of(terms, lengths)


def _device(model: FragmentModel) -> torch.device:
    return next(model.denoiser.parameters()).device


class Guided(Denoiser):
    """The denoiser of one run of a guide, which remembers the model's own estimate of its last call.

    Args:
        denoiser: the model's.
        guide: the way.
    """

    def __init__(self, denoiser: Denoiser, guide: Guide):
        super().__init__()
        self._remembered = _Remembered(denoiser)
        self._guided = guide.around(self._remembered)

    def forward(self, x_t: State, t: Tensor, layout: Layout, condition: Any = None) -> State:
        return self._guided(x_t, t, layout)

    def plain(self) -> Tensor:
        """The log-probabilities that the last call had without guidance: [B, L, K]."""
        return self._remembered.untold


class Informed(Denoiser):
    """A denoiser that is told the same of every sample."""

    def __init__(self, denoiser: Denoiser, facts: Tensor):
        super().__init__()
        self.denoiser, self.facts = denoiser, facts

    def forward(self, x_t: State, t: Tensor, layout: Layout, condition: Any = None) -> State:
        return self.denoiser(x_t, t, layout, self.facts.expand(layout.batch, -1))


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
