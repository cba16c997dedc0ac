r"""Steady flow through a porous square:   -div(a grad p) = f on (0, 1)^2,   p = 0 on its boundary.

Finite volumes on N x N cells: the flux between two cells takes the harmonic mean of their permeabilities, as layers do,
and mass is kept to rounding; the boundary is half a cell away from the outermost centres. Second order for smooth
permeabilities. The matrix is symmetric and positive definite, and is solved directly (SuperLU).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse import csc_array, diags_array
from scipy.sparse.linalg import splu
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class _Conductances:
    """Between cells and to the boundary, over the square of the spacing: each [N, N + 1] or [N + 1, N], float64."""

    along_y: Tensor
    along_x: Tensor


def _conductances(permeability: Tensor) -> _Conductances:
    n = permeability.shape[-1]
    if permeability.shape != (n, n) or not bool((permeability > 0).all()) or not bool(permeability.isfinite().all()):
        raise ValueError(f"expected a square of positive permeabilities, got {tuple(permeability.shape)} or others")
    found = []
    for a in (permeability.double(), permeability.double().T):
        inner = 2 * a[1:] * a[:-1] / (a[1:] + a[:-1])
        faces = torch.cat([2 * a[:1], inner, 2 * a[-1:]]) * n**2
        found.append(faces)
    return _Conductances(along_y=found[0], along_x=found[1].T)


def pressure(permeability: Tensor, source: Tensor | float = 1.0) -> Tensor:
    """The pressure at the centres of the cells: float64 [N, N].

    Args:
        permeability: a of each cell, > 0, [N, N].
        source: f of each cell, [N, N], or one for all.

    Raises:
        ValueError: another shape, or a permeability that is not positive.
    """
    c = _conductances(permeability)
    n = permeability.shape[-1]
    diagonal = (c.along_y[1:] + c.along_y[:-1] + c.along_x[:, 1:] + c.along_x[:, :-1]).flatten().numpy()
    down = c.along_y[1:-1].flatten().numpy()
    right = torch.cat([c.along_x[:, 1:-1], torch.zeros(n, 1, dtype=torch.float64)], dim=1).flatten().numpy()[:-1]
    matrix = diags_array([diagonal, -right, -right, -down, -down], offsets=[0, 1, -1, n, -n])
    given = torch.as_tensor(source, dtype=torch.float64).expand(n, n).flatten().numpy()
    return torch.from_numpy(splu(csc_array(matrix)).solve(np.ascontiguousarray(given))).reshape(n, n)


def residual(permeability: Tensor, found: Tensor, source: Tensor | float = 1.0) -> Tensor:
    """What mass each cell [N, N] gains that it should not: -div(a grad p) - f, by fluxes through its faces."""
    c = _conductances(permeability)
    p = found.double()
    up_down = torch.nn.functional.pad(p[None], (0, 0, 1, 1))[0].diff(dim=0) * c.along_y
    left_right = torch.nn.functional.pad(p[None], (1, 1, 0, 0))[0].diff(dim=1) * c.along_x
    return -(up_down.diff(dim=0) + left_right.diff(dim=1)) - torch.as_tensor(source, dtype=torch.float64)


def two_phase(field: Tensor, *, low: float = 3.0, high: float = 12.0) -> Tensor:
    """Permeabilities of two phases by the sign of a field (Li et al. 2021, A.3.2: 3 and 12): [...] -> [...]."""
    return torch.where(field >= 0, high, low).to(field.dtype)
