r"""The derivative of an operator at one point, as a small matrix: it preconditions the systems of points nearby.

    J ~ Q B,   B = Q^T J,      (1 + G^T G)^-1 ~ 1 - F^T (1 + F F^T)^-1 F,      G = J V^(1/2) / s,   F = B V^(1/2) / s

Q spans what J makes of random fields (Halko, Martinsson & Tropp 2011), or everything where no more values than that
are measured. At the point itself and with all values the inverse is exact, whatever V and s are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from scidiff.guidance.measurement import derivative
from scidiff.state import State

Root = Callable[[Tensor], Tensor]
"""V^(1/2), symmetric, of one leaf: [N, *shape] -> [N, *shape]."""

_CHUNK = 32  # rows of a derivative that are computed together


@dataclass(frozen=True, kw_only=True, eq=False)
class Sketch:
    """A derivative at one point.

    Attributes:
        rows: B, [K, *shape].
    """

    rows: Tensor

    @classmethod
    def of(
        cls, operator: Callable[[State], Tensor], leaf: str, at: Tensor, *, rank: int, probes: Callable[[int], Tensor]
    ) -> Sketch:
        """Of an operator at one point.

        Args:
            operator: A, from states [1, *shape] to [1, M].
            leaf: the leaf.
            at: the point, [1, *shape].
            rank: K, at most.
            probes: so many random fields, [rank, *shape]; asked for where more than `rank` values are measured.
        """
        value, transpose, push = derivative(operator, {leaf: at})
        basis = torch.eye(value.shape[1], dtype=value.dtype, device=value.device)
        if len(basis) > rank:
            seen = torch.func.vmap(lambda field: push({leaf: field[None]})[0], chunk_size=_CHUNK)(probes(rank).to(at))
            basis = torch.linalg.qr(seen.T).Q.T
        rows = torch.func.vmap(lambda row: transpose(row[None])[leaf][0], chunk_size=_CHUNK)(basis)
        return cls(rows=rows.detach())

    def preconditioner(self, root: Root, variance: Tensor) -> Callable[[Tensor], Tensor]:
        """1 - F^T (1 + F F^T)^-1 F on rows [N, *shape], of a metric V and a variance of what is measured."""
        f = root(self.rows).flatten(1).double() / variance.sqrt()
        factor = torch.linalg.cholesky_ex(f @ f.T + torch.eye(len(f), dtype=f.dtype, device=f.device)).L

        def inverse(x: Tensor) -> Tensor:
            flat = x.flatten(1).double()
            return (flat - torch.cholesky_solve(f @ flat.T, factor).T @ f).reshape(x.shape).to(x)

        return inverse
