"""How one leaf of the state goes from one call of the denoiser to the next."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor

from scidiff.noise import Draw
from scidiff.processes.base import Process
from scidiff.state import Rows


@dataclass(kw_only=True)
class Trace:
    """The history of one leaf: what the denoiser was given and what it answered, call by call.

    Attributes:
        x: x[j] is the leaf's state at call j, [N, *shape].
        clean: clean[j] is the clean estimate of call j.
        variance: variance[j] is the learned variance of call j (`"leaf.variance"`), where the denoiser gives one.

    Entries that no rule needs any more are None.
    """

    x: list[Tensor | None] = field(default_factory=list)
    clean: list[Tensor | None] = field(default_factory=list)
    variance: list[Tensor | None] = field(default_factory=list)

    def record(self, x: Tensor, clean: Tensor, variance: Tensor | None = None) -> None:
        """Append one call."""
        self.x.append(x)
        self.clean.append(clean)
        self.variance.append(variance)

    def forget(self, j: int) -> None:
        """Drop the tensors of call j; a call before the first is ignored."""
        if j >= 0:
            self.x[j] = self.clean[j] = self.variance[j] = None

    def map(self, function: Callable[[Tensor], Tensor]) -> None:
        """Replace every tensor kept by `function` of it (particles that change places, for one)."""
        for series in (self.x, self.clean, self.variance):
            series[:] = [None if value is None else function(value) for value in series]


def held(value: Tensor | None) -> Tensor:
    """What a trace must have kept for a rule that looks at it; RuntimeError if it was dropped."""
    if value is None:
        raise RuntimeError("expected the trace to hold what a rule looks at, got None")
    return value


class Rule(ABC):
    """How one leaf advances.

    Attributes:
        times: n + 1 host floats: call k of the denoiser happens at times[k], the finished sample is at times[n].
        reach: n host floats: the lowest time the leaf is brought to between calls k and k + 1. It lies below
            times[k + 1] where the leaf is denoised to reach[k] and then noised again (time travel, churn).
        memory: how many calls before the present one `advance` looks at.
    """

    times: tuple[float, ...]
    reach: tuple[float, ...]
    memory: int

    @abstractmethod
    def advance(self, k: int, trace: Trace, process: Process, rows: Rows, draw: Callable[[int], Draw]) -> Tensor:
        """The leaf's state for call k + 1 (the finished sample after the last call).

        Args:
            k: the call just recorded, the last entry of the trace.
            trace: the leaf's history.
            process: the leaf's process.
            rows: the leaf's rows.
            draw: keyed random numbers of the leaf at a step of the run; the advance after call k owns step k + 1,
                step 0 is the prior's.
        """
