"""Rules that step between any two times, and so keep pace with a plan made for another leaf."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

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
        x, clean = held(trace.x[k]), held(trace.clean[k])
        now, low, after = self.times[k], self.reach[k], self.times[k + 1]
        x = self.descend(x, clean, process, rows, draw(k + 1), s=_time(low, x, rows), t=_time(now, x, rows))
        if after > low:
            x = process.renoise(x, _time(low, x, rows), _time(after, x, rows), rows, draw(k + 1))
        return x

    @abstractmethod
    def descend(
        self, x_t: Tensor, clean: Tensor, process: Process, rows: Rows, draw: Draw, *, s: Tensor, t: Tensor
    ) -> Tensor:
        """The leaf at time s <= t: [N, *shape]."""


def _time(t: float, x: Tensor, rows: Rows) -> Tensor:
    return torch.full((rows.batch,), t, dtype=torch.float64, device=x.device)
