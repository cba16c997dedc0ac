r"""Nearest points of many small polyhedra at once, each with its own faces.

    min_x 1/2 (x - c)^T diag(1 / variance) (x - c)    subject to    A x = b,  G x <= h

An interior-point method finds which faces are active; the equalities of those faces are then solved once more, which
makes the answer exact to rounding.
"""

from __future__ import annotations

import torch
from torch import Tensor

from scidiff.constraints.interior import quadratic_program


def nearest_each(c: Tensor, variance: Tensor, *, equal: Tensor, target: Tensor, below: Tensor, bound: Tensor) -> Tensor:
    """The nearest point to each c, float64 [N, D]; of a polyhedron that is empty some point that is not far off.

    Args:
        c: [N, D] float64.
        variance: [N, D] > 0: what is uncertain moves most.
        equal, target: A and b, [N, M, D] and [N, M].
        below, bound: G and h, [N, K, D] and [N, K], K > 0.
    """
    std = variance.sqrt()
    equal, below = equal * std[:, None], below * std[:, None]  # in units of the uncertainty, from c on
    target, bound = target - _times(equal, c / std), bound - _times(below, c / std)
    still, weight = torch.zeros_like(c), torch.eye(c.shape[1], dtype=c.dtype, device=c.device)[None]
    move, _, multiplier, slack = quadratic_program(
        still, weight, equal=equal, target=target, below=below, bound=bound, relax=1e-12
    )
    active = multiplier > slack
    rows = torch.cat([equal, below * active[:, :, None]], 1)
    goal = torch.cat([target, bound * active], 1)
    inverse = torch.linalg.pinv(rows @ rows.mT, hermitian=True, rtol=1e-13)
    exact = still
    for _ in range(2):
        exact = exact - _times(rows.mT, _times(inverse, _times(rows, exact) - goal))

    def outside(x: Tensor) -> Tensor:
        off, over = _times(equal, x) - target, _times(below, x) - bound
        return torch.cat([off.abs(), over.clamp_min(0)], 1).amax(1, keepdim=True)

    return c + std * torch.where(outside(exact) <= outside(move) + 1e-12, exact, move)


def _times(matrix: Tensor, vector: Tensor) -> Tensor:
    """Matrices [N, M, D] times vectors [N, D]."""
    return (matrix @ vector[:, :, None])[:, :, 0]
