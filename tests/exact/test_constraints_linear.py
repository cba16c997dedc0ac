"""Projection onto polyhedra: optimality by the KKT conditions' consequences, against SciPy, and feasibility."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from scidiff.constraints.base import Infeasible
from scidiff.constraints.linear import LinearEquality, LinearInequality
from scidiff.constraints.polyhedron import Polyhedron
from scidiff.noise import Noise
from scidiff.state import Layout

LAYOUT = Layout.dense(6, {"x": (5,)})


def numbers(step: int) -> torch.Tensor:
    draw = Noise(seed=4, index=torch.arange(6)).at("x", step, LAYOUT.rows("x"))
    return draw.normal(dtype=torch.float64)


ROOT = numbers(9)[:5]
COVARIANCE = ROOT @ ROOT.T + 0.3 * torch.eye(5, dtype=torch.float64)


@pytest.mark.parametrize("metric", [None, COVARIANCE, COVARIANCE.diagonal()], ids=["Euclidean", "full", "diagonal"])
def test_equalities_by_lagrange(metric) -> None:
    constraint = LinearEquality(leaf="x", matrix=numbers(1)[:2], target=numbers(2)[0, :2])
    clean = {"x": 3 * numbers(3)}
    found = constraint.project(clean, LAYOUT, metric)
    assert (constraint.violation(found, LAYOUT) == 0).all()
    assert (constraint.violation(clean, LAYOUT) > 0).all()
    covariance = torch.eye(5).double() if metric is None else torch.diag(metric) if metric.ndim == 1 else metric
    gradient = torch.linalg.solve(covariance, (found["x"] - clean["x"]).T).T  # must lie in the span of the rows
    inside = torch.linalg.lstsq(constraint.matrix.T, gradient.T).solution.T @ constraint.matrix
    torch.testing.assert_close(inside, gradient, atol=1e-10, rtol=0)
    again = constraint.project(found, LAYOUT, metric)
    torch.testing.assert_close(again["x"], found["x"], atol=1e-12, rtol=0)


@pytest.mark.parametrize("metric", [None, COVARIANCE], ids=["Euclidean", "full"])
def test_faces_all_at_once_against_scipy(metric) -> None:
    box = torch.cat([torch.eye(5), -torch.eye(5)]).double()
    bound = torch.full((10,), 0.6, dtype=torch.float64)
    one = torch.ones(1, dtype=torch.float64)
    polyhedron = Polyhedron.of(5, equal=one.expand(1, 5), target=one, below=box, bound=bound)
    c = 2 * numbers(5)
    found = polyhedron.nearest(c, metric)
    assert (found.sum(1) - 1).abs().max() < 1e-12
    assert (found.abs() - 0.6).max() < 1e-12
    precision = np.eye(5) if metric is None else np.linalg.inv(metric.numpy())
    for x, goal in zip(found.numpy(), c.numpy(), strict=True):
        peer = minimize(
            lambda y, goal=goal: 0.5 * (y - goal) @ precision @ (y - goal),
            np.full(5, 0.2),
            jac=lambda y, goal=goal: precision @ (y - goal),
            bounds=[(-0.6, 0.6)] * 5,
            constraints={"type": "eq", "fun": lambda y: y.sum() - 1},
            method="SLSQP",
            options={"ftol": 1e-15, "maxiter": 500},
        )
        np.testing.assert_allclose(x, peer.x, atol=1e-6)


def test_inequalities_leave_what_holds_alone() -> None:
    constraint = LinearInequality(leaf="x", matrix=torch.ones(1, 5), bound=torch.zeros(1))
    clean = {"x": numbers(6) * torch.tensor([1.0, -1.0] * 3, dtype=torch.float64)[:, None]}
    found = constraint.project(clean, LAYOUT)
    held = clean["x"].sum(1) <= 0
    assert held.any()
    assert not held.all()
    torch.testing.assert_close(found["x"][held], clean["x"][held], atol=1e-12, rtol=0)
    torch.testing.assert_close(found["x"][~held], (clean["x"] - clean["x"].mean(1, keepdim=True))[~held])
    assert (constraint.violation(found, LAYOUT) == 0).all()


def test_what_contradicts_itself_is_refused() -> None:
    with pytest.raises(Infeasible, match="contradict"):
        LinearEquality(leaf="x", matrix=torch.ones(2, 5), target=torch.tensor([0.0, 1.0]))
    with pytest.raises(Infeasible, match="contradict"):
        LinearInequality(leaf="x", matrix=torch.tensor([[1.0], [-1.0]]), bound=torch.tensor([0.0, -1.0]))


def test_not_a_number_is_no_sample() -> None:
    constraint = LinearEquality(leaf="x", matrix=torch.ones(1, 5), target=torch.zeros(1))
    assert (constraint.violation({"x": torch.full((6, 5), torch.nan)}, LAYOUT) == torch.inf).all()


def test_infinite_numbers_are_never_certified():
    x = torch.tensor([[float("inf"), 0.0], [float("-inf"), 1.0], [0.5, 0.0]])
    layout = Layout.dense(3, {"x": (2,)})
    below = LinearInequality(leaf="x", matrix=torch.tensor([[1.0, 0.0]]), bound=torch.tensor([1.0]))
    assert below.violation({"x": x}, layout).tolist() == [torch.inf, torch.inf, 0.0]
