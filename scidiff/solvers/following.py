"""Rules that step between any two times, and so keep pace with a plan made for another leaf."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from scidiff.noise import Draw
from scidiff.processes.base import Process
from scidiff.solvers.base import Rule, Trace, held
from scidiff.state import Rows


@dataclass(frozen=True, kw_only=True)
class Following(Rule):
    """Steps down from times[k] to reach[k], then is noised up to times[k + 1].

    Attributes:
        times: n + 1 host floats in [0, 1], see `Rule`.
        reach: n host floats, see `Rule`; times[1:] for a plain descent.
    """

    times: tuple[float, ...]
    reach: tuple[float, ...]
    memory = 0
    moves_in_place: ClassVar[bool] = False
    """Whether a step between equal times does anything."""

    def __post_init__(self) -> None:
        if len(self.times) < 2 or len(self.reach) != len(self.times) - 1:
            raise ValueError(f"expected n + 1 times and n reaches, got {len(self.times)} and {len(self.reach)}")
        for k, low in enumerate(self.reach):
            if not 0 <= low <= min(self.times[k], self.times[k + 1]):
                raise ValueError(f"expected reach[{k}] in [0, min(times[{k}], times[{k + 1}])], got {low}")

    @classmethod
    def on(cls, grid: Tensor, **settings: Any) -> Self:
        """The rule on a grid: float [n + 1] falling times."""
        times = tuple(grid.tolist())
        return cls(times=times, reach=times[1:], **settings)

    @classmethod
    def beside(cls, other: Rule, **settings: Any) -> Self:
        """The rule at the times of another, the plan of a continuous leaf for one."""
        return cls(times=other.times, reach=other.reach, **settings)

    def advance(self, k: int, trace: Trace, process: Process, rows: Rows, draw: Callable[[int], Draw]) -> Tensor:
        x, low, after = held(trace.x[k]), self.reach[k], self.times[k + 1]
        if low < self.times[k] or self.moves_in_place:
            x = self.descend(k, trace, process, rows, draw)
        if after > low:
            x = process.renoise(x, everywhere(low, x, rows), everywhere(after, x, rows), rows, draw(k + 1))
        return x

    @abstractmethod
    def descend(self, k: int, trace: Trace, process: Process, rows: Rows, draw: Callable[[int], Draw]) -> Tensor:
        """The leaf at time reach[k]: [N, *shape]; arguments as in `advance`."""


def everywhere(t: float, x: Tensor, rows: Rows) -> Tensor:
    """One time for all samples, on the device of x: float64 [B]."""
    return torch.full((rows.batch,), t, dtype=torch.float64, device=x.device)
