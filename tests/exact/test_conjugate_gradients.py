"""Conjugate gradients against the direct solution, and where they must stop."""

from __future__ import annotations

import torch
from gaussian_data import (
    F64,
    B,
    M,
    Y,
    numbers,
)

from scidiff.guidance.conjugate_gradients import conjugate_gradients


def test_conjugate_gradients_are_exact_after_as_many_steps_as_unknowns() -> None:
    roots = numbers("roots", B, M, M)
    matrices = roots @ roots.mT + 0.1 * torch.eye(M, dtype=F64)
    got = conjugate_gradients(lambda v: (matrices @ v[..., None]).squeeze(-1), Y, iterations=M)
    torch.testing.assert_close(got, torch.linalg.solve(matrices, Y), rtol=0, atol=1e-9)
    early = conjugate_gradients(lambda v: (matrices @ v[..., None]).squeeze(-1), Y, iterations=1)
    along = (Y * Y).sum(-1) / (Y * (matrices @ Y[..., None]).squeeze(-1)).sum(-1)
    torch.testing.assert_close(early, along[:, None] * Y, rtol=1e-12, atol=0)


def test_conjugate_gradients_stop_where_they_must() -> None:
    # Solved at the start, solved at once, singular but consistent, negative: each sample on its own, and no NaN.
    diagonal = torch.tensor([[2.0, 3.0], [2.0, 2.0], [4.0, 0.0], [-1.0, -1.0]], dtype=F64)
    b = torch.tensor([[0.0, 0.0], [1.0, 3.0], [8.0, 0.0], [1.0, 1.0]], dtype=F64)
    got = conjugate_gradients(lambda v: diagonal * v, b, iterations=40)
    expected = torch.tensor([[0.0, 0.0], [0.5, 1.5], [2.0, 0.0], [0.0, 0.0]], dtype=F64)
    torch.testing.assert_close(got, expected, rtol=1e-14, atol=0)


def test_conjugate_gradients_keep_what_they_had_when_the_curvature_turns_negative() -> None:
    # A is indefinite and b such that the first step is sound and the second direction is not: x stays after one step.
    diagonal, b = torch.tensor([[3.0, 0.5, -1.0]], dtype=F64), torch.ones(1, 3, dtype=F64)
    step = 3 / diagonal.sum()
    residual = b - step * diagonal * b
    direction = residual + residual.square().sum() / 3 * b
    assert (direction * diagonal * direction).sum() < 0 < (residual * diagonal * residual).sum()
    got = conjugate_gradients(lambda v: diagonal * v, b, iterations=6)
    torch.testing.assert_close(got, step * b, rtol=1e-14, atol=0)
