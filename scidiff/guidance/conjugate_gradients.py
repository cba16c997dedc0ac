"""Conjugate gradients for one small linear system a sample, without a look at the values."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def conjugate_gradients(
    matrix: Callable[[Tensor], Tensor],
    b: Tensor,
    *,
    iterations: int,
    precondition: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Solve `matrix(x) = b` for each sample (Hestenes & Stiefel 1952), starting from 0.

    A sample stops for good where the matrix shows no positive curvature (a converged residual, or a matrix that is not
    positive definite), so that no division by zero can occur.

    Args:
        matrix: symmetric positive semi-definite for each sample, [B, *M] -> [B, *M].
        b: [B, *M].
        iterations: number of products with the matrix; as many as M has elements solve exactly, up to rounding.
        precondition: symmetric positive definite, about the inverse of the matrix; None: the identity.

    Returns:
        x, [B, *M].
    """

    def dot(u: Tensor, v: Tensor) -> Tensor:
        return (u * v).reshape(u.shape[0], -1).sum(-1).reshape(-1, *([1] * (u.ndim - 1)))

    def prepared(residual: Tensor) -> Tensor:
        return residual if precondition is None else precondition(residual)

    x, residual, direction = torch.zeros_like(b), b, prepared(b)
    square = dot(residual, direction)
    running = torch.ones_like(square, dtype=torch.bool)
    for _ in range(iterations):
        product = matrix(direction)
        curvature = dot(direction, product)
        running = running & (curvature > 0) & (square > 0)
        step = torch.where(running, square / torch.where(running, curvature, 1), 0)
        x = x + step * direction
        residual = residual - step * product
        steepest = prepared(residual)
        previous, square = square, dot(residual, steepest)
        direction = steepest + torch.where(running, square / torch.where(running, previous, 1), 0) * direction
    return x
