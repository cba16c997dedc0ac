"""A derivative known at one point: exact there, and where the operator has no higher rank."""

from __future__ import annotations

import torch

from scidiff.guidance.conjugate_gradients import conjugate_gradients
from scidiff.guidance.gauss_newton import Misfit
from scidiff.guidance.measurement import Measurement
from scidiff.guidance.sketch import Sketch

F64 = torch.float64
D, M = 12, 7
SOURCE = torch.Generator().manual_seed(0)
A = torch.randn(M, D, generator=SOURCE, dtype=F64)
FACTOR = torch.randn(D, D, generator=SOURCE, dtype=F64)
ROOT = FACTOR @ FACTOR.T / D  # symmetric
VALUES = torch.randn(M, generator=SOURCE, dtype=F64)


def bent(state):
    return torch.sin(state["x"]) @ A.T


def root(x):
    return x @ ROOT


def unasked(count):
    raise AssertionError("no probes are needed where all values fit")


def systems(at: torch.Tensor, variance: float) -> torch.Tensor:
    g = (A * torch.cos(at)) @ ROOT / variance**0.5
    return torch.eye(D, dtype=F64) + g.T @ g


def test_at_its_own_point_the_inverse_is_exact_whatever_the_noise() -> None:
    at, right = torch.randn(1, D, generator=SOURCE, dtype=F64), torch.randn(3, D, generator=SOURCE, dtype=F64)
    sketch = Sketch.of(bent, "x", at, rank=M, probes=unasked)
    torch.testing.assert_close(sketch.rows, A * torch.cos(at), rtol=1e-12, atol=1e-12)
    for variance in (0.01, 4.0):
        found = sketch.preconditioner(root, torch.tensor(variance, dtype=F64))(right)
        torch.testing.assert_close(found, torch.linalg.solve(systems(at, variance), right.T).T, rtol=1e-9, atol=1e-9)


def test_random_fields_find_all_of_a_derivative_of_low_rank() -> None:
    few = torch.randn(M, 2, generator=SOURCE, dtype=F64) @ torch.randn(2, D, generator=SOURCE, dtype=F64)
    at, right = torch.zeros(1, D, dtype=F64), torch.randn(2, D, generator=SOURCE, dtype=F64)
    sketch = Sketch.of(
        lambda state: state["x"] @ few.T,
        "x",
        at,
        rank=3,
        probes=lambda count: torch.randn(count, D, generator=SOURCE, dtype=F64),
    )
    assert len(sketch.rows) == 3
    torch.testing.assert_close(sketch.rows.T @ sketch.rows, few.T @ few, rtol=1e-9, atol=1e-9)
    found = sketch.preconditioner(root, torch.tensor(0.1, dtype=F64))(right)
    g = few @ ROOT / 0.1**0.5
    expected = torch.linalg.solve(torch.eye(D, dtype=F64) + g.T @ g, right.T).T
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-8)


def test_a_step_with_a_sketch_is_the_step_of_many_iterations() -> None:
    centre, variance = 0.3 * torch.randn(2, D, generator=SOURCE, dtype=F64), 0.05
    measurement = Measurement(operator=bent, value=VALUES, variance=variance)
    sketch = Sketch.of(bent, "x", centre[:1] + 0.05, rank=M, probes=unasked)
    u = torch.zeros_like(centre)
    plain = Misfit(leaf="x", measurement=measurement, centre=centre, root=root)
    near = Misfit(leaf="x", measurement=measurement, centre=centre, root=root, sketch=sketch)
    exact = plain.step(u, iterations=40)
    gap = [(misfit.step(u, iterations=3)[0] - exact[0]).norm() for misfit in (plain, near)]
    assert gap[1] < 0.05 * gap[0]
    torch.testing.assert_close(near.step(u, iterations=40), exact, rtol=1e-7, atol=1e-7)


def test_conjugate_gradients_take_one_product_where_the_inverse_is_known() -> None:
    matrix = systems(torch.zeros(D, dtype=F64), 0.01)
    b = torch.randn(2, D, generator=SOURCE, dtype=F64)
    inverse = torch.linalg.inv(matrix)
    found = conjugate_gradients(lambda v: v @ matrix, b, iterations=1, precondition=lambda v: v @ inverse)
    torch.testing.assert_close(found, b @ inverse, rtol=1e-9, atol=1e-9)
    # And with another metric they are plain conjugate gradients in its coordinates.
    scale = 1 + torch.arange(D, dtype=F64)
    found = conjugate_gradients(lambda v: v @ matrix, b, iterations=4, precondition=lambda v: v * scale.square())
    inner = conjugate_gradients(lambda v: ((v * scale) @ matrix) * scale, b * scale, iterations=4)
    torch.testing.assert_close(found, inner * scale, rtol=1e-8, atol=1e-10)
