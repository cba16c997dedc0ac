"""Projection onto smooth sets: closed forms, peers, order of convergence, and what cannot be projected onto."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from nearest_points import METRICS, check_batch, check_projection, metrics, numbers, precision
from scipy.optimize import lsq_linear, minimize
from torch import Tensor

from scidiff.constraints import (
    LinearInequality,
    NonlinearEquality,
    NonlinearInequality,
    QuadraticEquality,
    QuadraticInequality,
    Sphere,
)
from scidiff.constraints import sqp as sequential
from scidiff.state import Layout

FORM = torch.diag(torch.tensor([2.0, 0.5, 1.0, 1.0]).double()) + 0.3


def sphere(x: Tensor) -> Tensor:
    return x.square().sum(-1, keepdim=True) - 1


def ellipsoid(x: Tensor) -> Tensor:
    return ((x @ FORM) * x).sum(-1, keepdim=True) - 1.5


def two_surfaces(x: Tensor) -> Tensor:
    return torch.stack([x.square().sum(-1) - 4, x[:, 0] * x[:, 1] + x[:, 2].exp() - 1.2], 1)


def three_bounds(x: Tensor) -> Tensor:
    return torch.stack([x.square().sum(-1) - 2, x[:, 0] * x[:, 1] - 0.2, x[:, 2].exp() - 1 - x[:, 3]], 1)


@pytest.mark.parametrize("kind", METRICS)
def test_closed_forms(kind: str) -> None:
    metric, x = metrics(4)[kind], 2 * numbers(4, 1)
    pairs = [
        (NonlinearEquality(leaf="x", function=sphere), Sphere(leaf="x", radius=1.0)),
        (NonlinearEquality(leaf="x", function=ellipsoid), QuadraticEquality(leaf="x", matrix=FORM, level=1.5)),
        (NonlinearInequality(leaf="x", function=ellipsoid), QuadraticInequality(leaf="x", matrix=FORM, level=1.5)),
    ]
    for smooth, known in pairs:
        found = check_projection(smooth, x, metric, convex=False)
        torch.testing.assert_close(found, known.nearest(x, metric), atol=1e-9, rtol=0)
    matrix, bound = numbers(4, 2)[:3], numbers(4, 3)[0, :3]
    flat = NonlinearInequality(leaf="x", function=lambda x: x @ matrix.T - bound)
    known = LinearInequality(leaf="x", matrix=matrix, bound=bound)
    torch.testing.assert_close(check_projection(flat, x, metric), known.nearest(x, metric), atol=1e-9, rtol=0)


def kkt(function, equality: bool, c: Tensor, x: Tensor, weight: np.ndarray) -> None:
    """The gradient lies in the cone of the constraints' gradients, by least squares with SciPy's bounds."""
    gradient = torch.func.vmap(torch.func.jacfwd(lambda row: function(row[None])[0]))(x)
    value = function(x)
    assert (value.abs() if equality else value).max() < 1e-10
    for n in range(len(x)):
        held = gradient[n] if equality else gradient[n][value[n] > -1e-9]
        pull = weight @ (x[n] - c[n]).numpy()
        if len(held) == 0:
            assert np.abs(pull).max() < 1e-12
            continue
        bounds = (-np.inf, np.inf) if equality else (0, np.inf)
        left = lsq_linear(held.T.numpy(), -pull, bounds=bounds, tol=1e-14)
        assert np.sqrt(2 * left.cost) < 1e-7 * (1 + np.abs(pull).max())


@pytest.mark.parametrize("kind", METRICS)
def test_conditions_of_karush_kuhn_and_tucker_and_a_peer(kind: str) -> None:
    metric, x = metrics(4)[kind], 1.5 * numbers(4, 4)
    weight = precision(metric, 4)
    for constraint, equality in [
        (NonlinearEquality(leaf="x", function=two_surfaces), True),
        (NonlinearInequality(leaf="x", function=three_bounds), False),
    ]:
        function = constraint.function
        found = check_projection(constraint, x, metric, convex=False)
        kkt(function, equality, x, found, weight)
        for goal, near in zip(x.numpy(), found.numpy(), strict=True):
            scale = np.trace(weight)

            def cost(y: np.ndarray, goal: np.ndarray = goal, scale: float = scale) -> float:
                return (y - goal) @ weight @ (y - goal) / scale

            held = {
                "type": "eq" if equality else "ineq",
                "fun": lambda y, function=function: -function(torch.tensor(y)[None])[0].numpy(),
            }
            peers = [
                minimize(cost, start, constraints=held, method="SLSQP", options={"ftol": 1e-14, "maxiter": 300})
                for start in (goal, near)
            ]
            assert cost(near) <= peers[1].fun + 1e-8  # no better point next to it
            if peers[0].success:  # from the same start: seldom a better one, never by much
                assert cost(near) <= peers[0].fun * 1.5 + 1e-8


def test_the_error_is_squared_by_each_step() -> None:
    constraint, x = NonlinearEquality(leaf="x", function=two_surfaces), 1.5 * numbers(4, 5)
    for metric in metrics(4).values():
        problem = sequential._Problem(functions=constraint.values, equalities=2, c=x, root=sequential._root(metric, x))
        answer = constraint.nearest(x, metric)
        exact = (answer - x) @ torch.linalg.inv(problem.root).T
        u, active = exact + 0.02 * numbers(4, 6), torch.ones(len(x), 2, dtype=torch.bool)
        errors = []
        for _ in range(5):
            errors.append((u - exact).norm(dim=1))
            u = u + sequential._newton(problem, u, active)
        assert (errors[-1] < 1e-10 * (1 + exact.norm(dim=1))).all()
        # e_{k+1} <= C e_k^2 with the C of the first step, until rounding
        first = errors[1] / errors[0] ** 2
        for before, after in pairwise(errors[1:]):
            assert (after <= 10 * first * before**2 + 1e-11).all()
        assert (errors[2] < 1e-2 * errors[1]).all()


@pytest.mark.parametrize("kind", METRICS)
def test_whatever_the_batch(kind: str) -> None:
    metric, x = metrics(4)[kind], 1.5 * numbers(4, 7)
    check_batch(NonlinearInequality(leaf="x", function=three_bounds), x, metric, atol=1e-9)


def test_nothing_is_read_back_from_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("STEPS", "APPROACH", "POLISH", "PROGRAM_STEPS"):
        monkeypatch.setattr(sequential, name, 1)
    x = numbers(4, 8)
    constraint = NonlinearEquality(leaf="x", function=two_surfaces)
    found = constraint.solve(x.to("meta"), None)
    assert found.x.shape == x.shape
    assert found.tripped.device.type == "meta"
    found = NonlinearInequality(leaf="x", function=three_bounds).solve(x.to("meta"), None)
    assert found.x.shape == x.shape


def test_from_a_ridge_the_point_slides_off() -> None:
    """Inside an ellipse, near the middle of its long axis, the nearest point is not at the end of the axis, though that
    is stationary, too, and symmetry keeps Newton's method on the axis."""
    ellipse = NonlinearEquality(leaf="x", function=lambda x: x[:, :1] ** 2 / 9 + x[:, 1:] ** 2 - 1)
    x = torch.tensor([[0.5, 0.0], [-1.0, 0.0], [2.9, 0.0]], dtype=torch.float64)
    found = ellipse.nearest(x, None)
    # stationary in x: (x - c) + m x / 9 = 0, y + m y = 0 with m = -1: x = 9 c / 8
    along = torch.tensor([9 / 16, -9 / 8, 3.0], dtype=torch.float64)
    across = (1 - along**2 / 9).clamp_min(0).sqrt()
    torch.testing.assert_close(found[:, 0], along, atol=1e-9, rtol=0)
    torch.testing.assert_close(found[:, 1].abs(), across, atol=1e-9, rtol=0)


def never(x: Tensor) -> Tensor:
    return x.square().sum(-1, keepdim=True) + 1


def far_off(x: Tensor) -> Tensor:
    return 1 / (1 + x[:, :1] ** 2)


def rootless(x: Tensor) -> Tensor:
    return (x[:, :1] - 9).sqrt()


def flat_at_the_start(x: Tensor) -> Tensor:
    return x.pow(2).sum(-1, keepdim=True).pow(2) - 1


def apart(x: Tensor) -> Tensor:
    return torch.stack([x[:, 0] + x[:, 1] ** 3, x[:, 0] + x[:, 1] ** 3 - 1], 1)


@pytest.mark.parametrize("function", [never, far_off, rootless, flat_at_the_start, apart])
@pytest.mark.parametrize("kind", METRICS)
def test_rows_that_cannot_be_projected_come_back_as_they_were_and_are_told(function, kind: str) -> None:
    constraint = NonlinearEquality(leaf="x", function=function)
    x = numbers(4, 9)
    if function is flat_at_the_start:
        x[0] = 0  # no gradient there; the other rows have an answer
    found = constraint.solve(x, metrics(4)[kind])
    layout = Layout.dense(len(x), {"x": (4,)})
    told = constraint.violation({"x": found.x}, layout) > 0
    assert found.x.isfinite().all()
    assert torch.equal(told, found.tripped)
    assert torch.equal(found.x[told], x[told])
    assert told[0]
    assert told.all() != (function is flat_at_the_start)


def test_constraints_told_twice_lose_rank_and_no_digits() -> None:
    twice = NonlinearEquality(leaf="x", function=lambda x: sphere(x).expand(-1, 2) * torch.tensor([1.0, -3.0]))
    x = 2 * numbers(4, 10)
    torch.testing.assert_close(twice.nearest(x, None), x / x.norm(dim=1, keepdim=True), atol=1e-12, rtol=0)


def test_what_is_no_number_is_no_sample_and_harms_no_other_row() -> None:
    constraint, x = NonlinearEquality(leaf="x", function=two_surfaces), numbers(4, 11)
    whole = constraint.solve(x, None)
    x[1], x[2, 0] = torch.nan, torch.inf
    found = constraint.solve(x, None)
    rest = torch.tensor([True, False, False, True, True, True])
    torch.testing.assert_close(found.x[rest], whole.x[rest], atol=1e-12, rtol=0)
    assert found.tripped.tolist() == [False, True, True, False, False, False]
    violation = constraint.violation({"x": found.x}, Layout.dense(6, {"x": (4,)}))
    assert torch.equal(violation == torch.inf, ~rest)


def test_a_function_of_another_shape_is_refused() -> None:
    constraint = NonlinearEquality(leaf="x", function=lambda x: x.sum(-1))
    with pytest.raises(ValueError, match=r"on 'x' to give \[6, M\] for \[6, 4\], got \[6\]"):
        constraint.nearest(numbers(4, 12), None)
