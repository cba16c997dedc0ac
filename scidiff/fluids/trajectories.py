r"""What must hold of trajectories [C, T, X], frames u_t on a line: mass, and the entropy inequality.

    mass_t = mean_x u_t,        entropy_t = mean_x u_t^2 / 2,     entropy_{t+1} <= entropy_t

Lax's entropy condition for Burgers' equation with eta(u) = u^2 / 2 on a line through whose ends nothing flows (Evans
2010, "Partial differential equations", sec. 11.4): viscosity and shocks only take of it. Means are over the points of
a period, or by the trapezoidal rule on a line that holds both of its ends.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from scidiff.fluids.constraints import Curved, Measured
from scidiff.fluids.dependence import dependent


def weights(points: int, *, ends: bool) -> Tensor:
    """Of points in a mean over the line: float64 [X]; `ends`: the first and the last point are its ends."""
    found = torch.ones(points, dtype=torch.float64)
    if ends:
        found[0] = found[-1] = 0.5
    return found / found.sum()


def mass(leaf: str, shape: tuple[int, int, int], values: Tensor | None = None, *, ends: bool = False) -> Measured:
    """The mean of each channel in each frame.

    Args:
        leaf: the leaf.
        shape: (C, T, X).
        values: [C, T]; None: whatever it is, it stays.
        ends: as of `weights`.
    """
    channels, frames, points = shape
    rows = torch.zeros(channels, frames, *shape, dtype=torch.float64)
    for c in range(channels):
        rows[c, torch.arange(frames), c, torch.arange(frames)] = weights(points, ends=ends)
    names = [[f"mass of channel {c}, frame {t}" for t in range(frames)] for c in range(channels)]
    if values is None:
        rows = rows[:, 1:] - rows[:, :1]
        names, values = [told[1:] for told in names], torch.zeros(channels, frames - 1)
    flat = tuple(name for told in names for name in told)
    return Measured(leaf=leaf, rows=rows.reshape(-1, *shape), values=values.flatten(), names=flat)


@dataclass(frozen=True, kw_only=True)
class Entropy(Curved):
    """No frame has more entropy than the one before.

    Attributes:
        leaf: the leaf.
        shape: (C, T, X).
        ends: as of `weights`.
    """

    leaf: str
    shape: tuple[int, int, int]
    ends: bool = False
    inequality: ClassVar[bool] = True

    @property
    def count(self) -> int:
        return self.shape[1] - 1

    def of_frames(self, x: Tensor) -> Tensor:
        """The entropy of each frame: [N, D] -> [N, T]."""
        share = weights(self.shape[2], ends=self.ends).to(x)
        return (self.fields(x).square() * share).sum((1, 3)) / 2

    def values(self, x: Tensor) -> Tensor:
        return self.of_frames(x).diff(dim=1)

    def linearised(self, x: Tensor) -> tuple[Tensor, Tensor]:
        pull = self.fields(x) * weights(self.shape[2], ends=self.ends).to(x)
        frame = torch.eye(self.shape[1], dtype=x.dtype, device=x.device)
        return torch.einsum("kt,nctx->nkctx", frame.diff(dim=0), pull).flatten(2), self.values(x)

    def sizes(self, x: Tensor) -> Tensor:
        entropy = self.of_frames(x)
        return entropy[:, 1:] + entropy[:, :-1]

    def grows(self, facts: Measured) -> str | None:
        """Why facts leave no trajectory, where they tell a frame whole and another one, later, that it has more."""
        share = weights(self.shape[2], ends=self.ends).repeat(self.shape[0])
        read = (facts.rows != 0).any(-1).any(1)
        most, first = torch.inf, 0
        for t in range(self.shape[1]):
            inside = read[:, t] & (read.sum(1) == 1)
            rows, values = facts.rows[inside][:, :, t].flatten(1), facts.values[inside]
            gram = (rows / share) @ rows.T
            chosen = dependent(gram, values).independent if len(rows) else torch.zeros(0, dtype=torch.int64)
            least = float(values[chosen] @ torch.linalg.solve(gram[chosen][:, chosen], values[chosen])) / 2
            if least > most * (1 + 1e-9):
                return f"frame {t} has at least {least:g}, frame {first} {most:g}"
            if len(chosen) == len(share) and least < most:
                most, first = least, t
        return None

    def describe(self) -> str:
        return f"no gain of entropy in {self.leaf!r}"
