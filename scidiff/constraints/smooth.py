"""Values and derivatives of functions of rows, by automatic differentiation."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Functions = Callable[[Tensor], Tensor]
"""M numbers of every row: float64 [N, D] -> [N, M], each row on its own."""


def linearise(functions: Functions, x: Tensor) -> tuple[Tensor, Tensor]:
    """Values [N, M] and Jacobians [N, M, D] at the rows x [N, D]."""

    def one(row: Tensor) -> tuple[Tensor, Tensor]:
        value = functions(row[None])[0]
        return value, value

    jacobian, value = torch.func.vmap(torch.func.jacrev(one, has_aux=True))(x)
    return value, jacobian


def curvature(functions: Functions, x: Tensor, weight: Tensor) -> Tensor:
    """The Hessians of sum_m weight_m functions_m at the rows x [N, D], with weights [N, M]: [N, D, D]."""

    def combined(row: Tensor, share: Tensor) -> Tensor:
        return (share * functions(row[None])[0]).sum()

    return torch.func.vmap(torch.func.jacrev(torch.func.grad(combined)))(x, weight)
