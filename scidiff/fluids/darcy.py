r"""Steady flow through a porous square:   -div(a grad p) = f on (0, 1)^2,   p = 0 on its boundary.

Finite volumes on N x N cells: the flux between two cells takes the harmonic mean of their permeabilities, as layers do,
and mass is kept to rounding; the boundary is half a cell away from the outermost centres. Second order for smooth
permeabilities. The matrix A is symmetric and positive definite, and is solved directly (SuperLU).

The pressure may be differentiated, by permeability and by source, as often as is wanted: with q = A^-1 dL/dp,

    dL/df = q,     dL/dT_face = -(q_i - q_j) (p_i - p_j)      for the conductance T between cells i and j.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import torch
from scipy.sparse import csc_array, diags_array
from scipy.sparse.linalg import SuperLU, splu
from torch import Tensor


def pressure(permeability: Tensor, source: Tensor | float = 1.0) -> Tensor:
    """The pressure at the centres of the cells: float64 [..., N, N].

    Args:
        permeability: a of each cell, > 0, [..., N, N].
        source: f of each cell, broadcastable to it.

    Raises:
        ValueError: another shape, or a permeability that is not positive.
    """
    along_y, along_x = _conductances(_checked(permeability))
    given = torch.as_tensor(source, dtype=torch.float64, device=along_y.device).expand(permeability.shape)
    return _Solved.apply(along_y, along_x, given)


def residual(permeability: Tensor, found: Tensor, source: Tensor | float = 1.0) -> Tensor:
    """What mass each cell [..., N, N] gains that it should not: -div(a grad p) - f, by fluxes through its faces."""
    return imbalance(_checked(permeability), found.double(), source)


def imbalance(permeability: Tensor, p: Tensor, source: Tensor | float = 1.0) -> Tensor:
    """The same of numbers that nobody checks, in operations that `torch.func.vmap` can map."""
    along_y, along_x = _conductances(permeability)
    gained = (_steps(p, -2) * along_y).diff(dim=-2) + (_steps(p, -1) * along_x).diff(dim=-1)
    return -gained - torch.as_tensor(source, dtype=p.dtype, device=p.device)


def two_phase(field: Tensor, *, low: float = 3.0, high: float = 12.0) -> Tensor:
    """Permeabilities of two phases by the sign of a field (Li et al. 2021, A.3.2: 3 and 12): [...] -> [...]."""
    return torch.where(field >= 0, high, low).to(field.dtype)


def _checked(permeability: Tensor) -> Tensor:
    n = permeability.shape[-1]
    if permeability.shape[-2:] != (n, n) or not bool((permeability > 0).all() & permeability.isfinite().all()):
        raise ValueError(f"expected a square of positive permeabilities, got {tuple(permeability.shape)} or others")
    return permeability.double()


def _conductances(permeability: Tensor) -> tuple[Tensor, Tensor]:
    """Of faces across y [..., N + 1, N] and across x [..., N, N + 1], over the square of the spacing."""
    n, found = permeability.shape[-1], []
    for a in (permeability, permeability.mT):
        before, after = a[..., :-1, :], a[..., 1:, :]
        ends = 2 * a[..., :1, :], 2 * a[..., -1:, :]
        found.append(torch.cat([ends[0], 2 * before * after / (before + after), ends[1]], -2) * n**2)
    return found[0], found[1].mT


def _steps(p: Tensor, axis: int) -> Tensor:
    """Differences across faces along an axis, with 0 beyond the walls: one more than cells."""
    wall = torch.zeros_like(p.narrow(axis, 0, 1))
    return torch.cat([wall, p, wall], axis).diff(dim=axis)


class _Solved(torch.autograd.Function):
    """A^-1 f from conductances and f."""

    @staticmethod
    def forward(along_y: Tensor, along_x: Tensor, source: Tensor) -> Tensor:
        n = source.shape[-1]
        faces = zip(along_y.reshape(-1, n + 1, n).cpu(), along_x.reshape(-1, n, n + 1).cpu(), strict=True)
        found = [
            _factorised(y.numpy().tobytes(), x.numpy().tobytes(), n).solve(f.flatten().numpy())
            for (y, x), f in zip(faces, source.reshape(-1, n, n).cpu().contiguous(), strict=True)
        ]
        return torch.from_numpy(np.stack(found)).reshape(source.shape).to(source.device)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:2], output)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        along_y, along_x, p = ctx.saved_tensors
        q = _Solved.apply(along_y, along_x, gradients[0])
        return -_steps(q, -2) * _steps(p, -2), -_steps(q, -1) * _steps(p, -1), q


@lru_cache(maxsize=64)
def _factorised(along_y: bytes, along_x: bytes, n: int) -> SuperLU:
    """Of conductances, which a search asks for again and again."""
    y = np.frombuffer(along_y).reshape(n + 1, n)
    x = np.frombuffer(along_x).reshape(n, n + 1)
    diagonal = (y[1:] + y[:-1] + x[:, 1:] + x[:, :-1]).flatten()
    down = y[1:-1].flatten()
    right = np.concatenate([x[:, 1:-1], np.zeros((n, 1))], 1).flatten()[:-1]
    matrix = csc_array(diags_array([diagonal, -right, -right, -down, -down], offsets=[0, 1, -1, n, -n]))
    return splu(matrix, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True})
