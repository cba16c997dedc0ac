"""How the classes of a clean estimate are drawn together.

A joint sampler is called as `joint(log_probs, draw, rows)` with log-probabilities [N, *shape, K] and returns classes
[N, *shape]. `scidiff.constraints.automaton.Automaton` is one as well.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from scidiff.noise import Draw
from scidiff.state import Rows

Joint = Callable[[Tensor, Draw, Rows], Tensor]


def independent(log_probs: Tensor, draw: Draw, rows: Rows) -> Tensor:
    """Every element on its own."""
    return draw.categorical(log_probs.exp(), kind="joint")


def likeliest(log_probs: Tensor, draw: Draw, rows: Rows) -> Tensor:
    """The likeliest class of every element."""
    return log_probs.argmax(-1)


@dataclass(frozen=True, kw_only=True)
class Sharpened:
    """Draws from a narrower distribution: temperature, then the smallest set of classes with a share of `top_p`.

    Classes are taken in the order of their probability until they hold `top_p` of it (nucleus sampling, Holtzman et al.
    2020); the likeliest is always kept.

    Attributes:
        temperature: > 0; log-probabilities are divided by it.
        top_p: in (0, 1].
        joint: draws from what is left. A constraint may find `top_p` has left it nothing.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    joint: Joint = independent

    def __post_init__(self) -> None:
        if not 0 < self.temperature < float("inf"):
            raise ValueError(f"expected a finite temperature > 0, got {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"expected top_p in (0, 1], got {self.top_p}")

    def __call__(self, log_probs: Tensor, draw: Draw, rows: Rows) -> Tensor:
        log_probs = torch.log_softmax(log_probs / self.temperature, -1)
        if self.top_p < 1:
            log_probs = nucleus(log_probs, self.top_p)
        return self.joint(log_probs, draw, rows)


def nucleus(log_probs: Tensor, top_p: float) -> Tensor:
    """Log-probabilities [..., K] of the likeliest classes that hold `top_p`, normalised; -inf for the others."""
    ordered, place = log_probs.sort(dim=-1, descending=True, stable=True)
    before = ordered.exp().cumsum(-1) - ordered.exp()
    kept = torch.where(before < top_p, ordered, -torch.inf)
    return torch.log_softmax(torch.empty_like(kept).scatter(-1, place, kept), -1)
