"""Unmasking by count: every call of the denoiser reveals a fixed number of elements, in random order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from scidiff.noise import Draw
from scidiff.processes.base import Process
from scidiff.processes.categorical import MaskedProcess
from scidiff.solvers.base import Rule, Trace
from scidiff.state import Rows

Joint = Callable[[Tensor, Draw, Rows], Tensor]


def independent(log_probs: Tensor, draw: Draw, rows: Rows) -> Tensor:
    """Every element on its own: log-probabilities [N, *shape, K] -> classes [N, *shape]."""
    return draw.categorical(log_probs.exp(), kind="independent")


@dataclass(frozen=True, kw_only=True)
class FixedCount(Rule):
    """Masked sequences [B, L] without padding, unmasked in `calls` calls.

    A reverse trajectory of masked diffusion is a uniformly random order of the elements with random times; the times
    carry nothing (first-hitting sampling: Zheng et al., arXiv 2409.02908). So call k may as well reveal its share of
    the L elements, chosen at random among the masked ones. With calls = L one element is revealed a call, and the sample is
    exactly one of the model's any-order factorisation; with fewer, elements revealed together are drawn by `joint`.

    Attributes:
        length: L.
        calls: n in 1 .. L.
        joint: draws a whole sequence from the clean estimate; an automaton makes it one that is accepted.
    """

    length: int
    calls: int
    joint: Joint = independent
    memory: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.calls <= self.length:
            raise ValueError(f"expected calls in 1 .. {self.length} (the length), got {self.calls}")

    @cached_property
    def masked(self) -> tuple[int, ...]:
        """How many elements are masked at each of the n + 1 times, from L down to 0."""
        return tuple(self.length - self.length * k // self.calls for k in range(self.calls + 1))

    @cached_property
    def times(self) -> tuple[float, ...]:  # type: ignore[override]
        """t = masked / length: the fraction that is masked under alpha_t = 1 - t."""
        return tuple(count / self.length for count in self.masked)

    @cached_property
    def reach(self) -> tuple[float, ...]:  # type: ignore[override]
        """No step goes back up."""
        return self.times[1:]

    def advance(self, k: int, trace: Trace, process: Process, rows: Rows, draw: Callable[[int], Draw]) -> Tensor:
        """Reveal the share of call k."""
        x, clean = trace.x[k], trace.clean[k]
        if x is None or clean is None or not isinstance(process, MaskedProcess):
            raise TypeError(f"expected the last call of a MaskedProcess, got {type(process).__name__}")
        now = draw(k + 1)
        x_0 = self.joint(clean, now, rows)
        masked = x == process.mask
        score = torch.where(masked, now.uniform(kind="order"), 2.0)
        revealed = masked & (score.argsort(-1).argsort(-1) < self.masked[k] - self.masked[k + 1])
        return torch.where(revealed, x_0, x)
