r"""Atoms that keep the places they are given, as one rigid part of the molecule.

In harmonic coordinates x = root y, and positions of unit noise have the covariance C = root^2. The nearest y whose
part F is the target B, turned by R and shifted by s, is

    y + root[:, F] K (B R + 1 s - x_F),    K = C_FF^(-1),

so that atoms bound to the part are drawn along with it. R and s minimise tr (B R + 1 s - x_F)^T K (B R + 1 s - x_F):
the shift makes the mean weighted by 1^T K vanish, and R is Kabsch's rotation of the matrix B^T K x_F.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np
import torch
from torch import Tensor

from scidiff.constraints.base import Constraint, Metric
from scidiff.molecules.three_d.batches import LEAF
from scidiff.state import Layout, State

TOLERANCE = 1e-6
"""Angstrom; fixed atoms that are nearer than this to their places hold."""


@dataclass(frozen=True, kw_only=True)
class RigidPart(Constraint):
    """Some atoms of molecules of one graph keep their places relative to each other.

    Attributes:
        atoms: int64 [F], fewer than all.
        target: float64 [F, 3], angstrom.
        root: float64 [n, n], from harmonic coordinates to positions.
    """

    atoms: Tensor
    target: Tensor
    root: Tensor

    def __post_init__(self) -> None:
        if not 0 < len(self.atoms) < len(self.root):
            raise ValueError(f"expected 1 to {len(self.root) - 1} fixed atoms, got {len(self.atoms)}")

    @classmethod
    def of(cls, atoms: tuple[int, ...], position: np.ndarray, root: Tensor) -> Self:
        """The atoms of a molecule at positions [n, 3]."""
        target = torch.as_tensor(position[list(atoms)], dtype=torch.float64, device=root.device)
        return cls(atoms=torch.tensor(atoms, device=root.device), target=target, root=root.double())

    def project(self, clean: State, layout: Layout, metric: Metric = None) -> State:
        """The nearest clean estimate in harmonic coordinates; another metric is an error.

        Raises:
            ValueError: a metric is given.
        """
        if metric is not None:
            raise ValueError("expected no metric: a rigid part is projected in that of the springs")
        y = clean[LEAF].double().unflatten(0, (layout.batch, -1))
        here = (self.root @ y)[:, self.atoms]
        rows = self.root[self.atoms]
        weight = torch.linalg.inv(rows @ rows.T)
        moved = y + rows.T @ weight @ (superposed(self.target, here, weight) - here)
        return clean | {LEAF: moved.flatten(0, 1).to(clean[LEAF].dtype)}

    @cached_property
    def loose(self) -> Tensor:
        """The projector on changes of y that leave the fixed atoms where they are among themselves: float64 [n, n]."""
        rows = self.root[self.atoms]
        among = rows - rows.mean(0)
        return torch.eye(len(self.root), dtype=rows.dtype, device=rows.device) - torch.linalg.pinv(among) @ among

    def pose(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Turns [B, 3, 3] and shifts [B, 1, 3] by which the fixed atoms of x @ turn + shift are where they belong."""
        here = x[:, self.atoms]
        turn, centre = _rotation(here, self.target, torch.eye(len(self.atoms), dtype=x.dtype, device=x.device))
        return turn, self.target.mean(0) - centre @ turn

    def violation(self, sample: State, layout: Layout) -> Tensor:
        """The largest distance of a fixed atom from its place, best superposed, in angstrom; 0 up to 1e-6."""
        y = sample[LEAF].double().unflatten(0, (layout.batch, -1))
        here = (self.root @ y)[:, self.atoms]
        weight = torch.eye(len(self.atoms), dtype=torch.float64, device=here.device)
        away = (superposed(self.target, here, weight) - here).norm(dim=-1).amax(-1)
        away = torch.where(away.isfinite(), away, torch.inf)
        return torch.where(away <= TOLERANCE, 0, away)

    def placed(self, x: Tensor) -> Tensor:
        """Positions [B, n, 3] turned and shifted as a whole so that the fixed atoms are where they were given."""
        turn, shift = self.pose(x)
        return x @ turn + shift


def superposed(target: Tensor, here: Tensor, weight: Tensor) -> Tensor:
    """The target [F, 3], properly turned and shifted on to `here` [B, F, 3], nearest in the weight [F, F]."""
    turn, centre = _rotation(target.expand_as(here), here, weight)
    shift = (weight.sum(0) @ here / weight.sum())[:, None]
    return (target - centre) @ turn + shift


def _rotation(source: Tensor, goal: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """The proper rotation [B, 3, 3], for rows from the right, of the source on to the goal; the source's mean."""
    share = weight.sum(0) / weight.sum()
    centre = (share @ source)[..., None, :]
    b, x = source - centre, goal - (share @ goal)[..., None, :]
    u, _, vt = torch.linalg.svd(b.transpose(-1, -2) @ weight @ x)
    sign = torch.linalg.det(u @ vt)
    u = torch.cat([u[..., :2], u[..., 2:] * sign[..., None, None]], dim=-1)
    return u @ vt, centre
