"""Balls, spheres and quadratic forms: Lagrange's condition, a fine grid of multipliers, SciPy, and the hard case."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from nearest_points import METRICS, check_batch, check_device, check_projection, metrics, numbers, precision
from scipy.optimize import brentq, minimize

from scidiff.constraints.base import Infeasible, RowConstraint
from scidiff.constraints.quadratic import Ball, QuadraticEquality, QuadraticInequality, Sphere
from scidiff.constraints.secular import onto_quadric
from scidiff.state import Layout

ROOT = numbers(4, 1)[:4]
SLOPE = numbers(4, 2)[0]
FORMS = {  # matrix, slope, level
    "ellipsoid": (ROOT @ ROOT.T, SLOPE, 2.0),
    "cylinder": (ROOT[:2].T @ ROOT[:2], SLOPE @ ROOT[:2].T @ ROOT[:2], 0.5),
    "paraboloid": (ROOT[:2].T @ ROOT[:2], SLOPE, -1.0),
    "nearly a half-space": (1e-9 * ROOT[:1].T @ ROOT[:1], SLOPE, -1.0),
}
CENTRE = numbers(4, 3)[0]


def form(constraint: RowConstraint) -> tuple[np.ndarray, np.ndarray, float]:
    """x^T matrix x + slope . x <= or = level."""
    if isinstance(constraint, QuadraticInequality | QuadraticEquality):
        return constraint.matrix.numpy(), constraint.slope.numpy(), constraint.level
    centre = np.broadcast_to(constraint.centre.numpy(), (4,))
    return np.eye(4), -2 * centre, constraint.radius**2 - centre @ centre


CONVEX = {"ball": Ball(leaf="x", centre=CENTRE, radius=0.7)} | {
    name: QuadraticInequality(leaf="x", matrix=q, slope=p, level=level) for name, (q, p, level) in FORMS.items()
}
SURFACES = {"sphere": Sphere(leaf="x", centre=CENTRE, radius=2.5)} | {
    name: QuadraticEquality(leaf="x", matrix=q, slope=p, level=level) for name, (q, p, level) in FORMS.items()
}


def multiplier(constraint: RowConstraint, x: np.ndarray, near: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """m of weight (x - near) = m gradient(near) for each row, after seeing that there is one."""
    matrix, slope, _ = form(constraint)
    force, gradient = (x - near) @ weight, 2 * near @ matrix + slope
    m = (force * gradient).sum(1) / (gradient**2).sum(1)
    np.testing.assert_allclose(force, m[:, None] * gradient, atol=1e-7 * np.abs(force).max())
    return m


@pytest.mark.parametrize("kind", METRICS)
@pytest.mark.parametrize("name", CONVEX)
def test_the_nearest_point_of_a_convex_set(name: str, kind: str) -> None:
    constraint, metric, x = CONVEX[name], metrics(4)[kind], 3 * numbers(4, 5, batch=24)
    found = check_projection(constraint, x, metric)
    off = constraint.excess(x)[0] > 0
    assert off.any()
    assert torch.equal(found[~off], x[~off])
    m = multiplier(constraint, x[off].numpy(), found[off].numpy(), precision(metric, 4))
    assert (m > 0).all()  # with the point on the surface, this is optimality in a convex set
    matrix, slope, level = form(constraint)
    near = found[off].numpy()
    np.testing.assert_allclose(((near @ matrix) * near).sum(1) + near @ slope, level, atol=1e-9)


@pytest.mark.parametrize("kind", METRICS)
@pytest.mark.parametrize("name", SURFACES)
def test_the_nearest_point_of_a_surface(name: str, kind: str) -> None:
    constraint, metric, x = SURFACES[name], metrics(4)[kind], numbers(4, 6, batch=24)
    x[::2] = x[::2] / 8 - 2 * SLOPE
    weight = precision(metric, 4)
    found = check_projection(constraint, x, metric, convex=False)
    m = multiplier(constraint, x.numpy(), found.numpy(), weight)
    matrix, slope, level = form(constraint)
    assert (m < 0).any()
    assert (m > 0).any()
    # a stationary point is the nearest of all if weight + 2 m matrix is positive semidefinite
    least = np.linalg.eigvalsh(weight + 2 * m[:, None, None] * matrix)[:, 0]
    assert (least > -1e-9 * np.linalg.eigvalsh(weight)[-1]).all()
    near = found.numpy()
    np.testing.assert_allclose(((near @ matrix) * near).sum(1) + near @ slope, level, atol=1e-9)


def test_the_ellipsoid_against_scipy() -> None:
    constraint, metric = CONVEX["ellipsoid"], metrics(4)["dense"]
    matrix, slope, level = form(constraint)
    weight, x = precision(metric, 4), 2 * numbers(4, 7)
    found = constraint.nearest(x, metric)
    for goal, near in zip(x.numpy(), found.numpy(), strict=True):
        peer = minimize(
            lambda y, goal=goal: 0.5 * (y - goal) @ weight @ (y - goal),
            -0.5 * np.linalg.solve(matrix, slope),
            jac=lambda y, goal=goal: weight @ (y - goal),
            constraints={
                "type": "ineq",
                "fun": lambda y: level - y @ matrix @ y - slope @ y,
                "jac": lambda y: -2 * matrix @ y - slope,
            },
            method="SLSQP",
            options={"ftol": 1e-15, "maxiter": 500},
        )
        np.testing.assert_allclose(near, peer.x, atol=1e-5)


@pytest.mark.parametrize("tilt", [0.0, 1.0])
@pytest.mark.parametrize("distance", [1e-6, 0.1, 3.0, 1e5])
@pytest.mark.parametrize("spread", [1.0, 1e4, 1e12])
def test_the_secular_equation_against_bracketing(spread: float, distance: float, tilt: float) -> None:
    q = torch.tensor([1 / spread, 0.3 / spread**0.5, 1.0, 0], dtype=torch.float64)
    p = torch.tensor([0, 0, 0, tilt], dtype=torch.float64)
    for level in (0.7, 1e-3):
        c = distance * numbers(4, 8)
        if tilt:
            c[:, 3] -= level
        f = (q * c**2 + p * c).sum(1, keepdim=True) - level
        y = c + onto_quadric(q * c + p / 2, q, f, level - (p * c).sum(1, keepdim=True))
        for start, found in zip(c.numpy(), y.numpy(), strict=True):

            def point(m: float, start: np.ndarray = start) -> np.ndarray:
                return start / (1 + m * q.numpy()) - m * p.numpy() / 2

            def over(m: float, level: float = level) -> float:
                at = point(m)
                return q.numpy() @ at**2 + p.numpy() @ at - level

            low = 0.0 if over(0.0) >= 0 else -1 + 1e-13
            if over(low) < 0:
                continue  # next to the hard case, which bracketing cannot reach
            m = brentq(over, low, 1e18 if low == 0 else 0.0, xtol=1e-300, rtol=1e-15, maxiter=2000)
            np.testing.assert_allclose(found, point(m), rtol=1e-6, atol=1e-9 * distance)


@pytest.mark.parametrize("kind", METRICS)
def test_the_hard_case(kind: str) -> None:
    metric, layout = metrics(4)[kind], Layout.dense(2, {"x": (4,)})
    sphere = Sphere(leaf="x", centre=CENTRE, radius=2.5)
    x = CENTRE.expand(2, 4).clone()
    found = sphere.project({"x": x}, layout, metric)
    assert (sphere.violation(found, layout) == 0).all()
    away = (found["x"] - CENTRE).numpy()[0]
    # nearest of all points of the sphere: along the axis of the greatest variance
    variance = 1.0 if metric is None else float(metric.max() if metric.ndim == 1 else torch.linalg.eigvalsh(metric)[-1])
    np.testing.assert_allclose(away @ precision(metric, 4) @ away, 2.5**2 / variance, rtol=1e-9)


def test_the_hard_case_off_the_centre() -> None:
    """On the long axis of an ellipse, inside its centre of curvature, the nearest points lie off the axis."""
    ellipse = QuadraticEquality(leaf="x", matrix=torch.diag(torch.tensor([0.25, 1.0])), level=1.0)  # half axes 2 and 1
    for off in (0.0, 1e-14, -1e-14, -1e-9):
        x = torch.tensor([[0.6, off]], dtype=torch.float64)
        found = ellipse.nearest(x, None)
        along = 0.6 / (1 - 0.25)  # 1 + m q with m = -1
        across = np.copysign(np.sqrt(1 - along**2 / 4), -1.0 if off < 0 else 1.0)
        np.testing.assert_allclose(found.numpy(), [[along, across]], rtol=1e-7)


def test_never_not_a_number() -> None:
    point = QuadraticInequality(
        leaf="x", matrix=torch.eye(4), slope=-2 * torch.ones(4), level=-4.0
    )  # the point (1, 1, 1, 1)
    x = torch.cat([torch.zeros(1, 4), torch.ones(1, 4), 1e30 * torch.eye(4), 1e-30 * torch.eye(4)]).double()
    for constraint in (*CONVEX.values(), *SURFACES.values(), point):
        for metric in (*metrics(4).values(), torch.tensor([1.0, 0, 1e-20, 1e20]).double()):
            assert constraint.nearest(x, metric).isfinite().all()
    torch.testing.assert_close(point.nearest(x[:1], None), torch.ones(1, 4).double(), atol=1e-7, rtol=0)
    layout = Layout.dense(1, {"x": (4,)})
    broken = {"x": torch.full((1, 4), torch.nan)}
    for constraint in (*CONVEX.values(), *SURFACES.values()):
        assert (constraint.violation(broken, layout) == torch.inf).all()


@pytest.mark.parametrize("name", CONVEX)
def test_residuals_are_zero_on_the_surface_and_are_smooth(name: str) -> None:
    x = 2 * numbers(4, 9)
    for constraint, part in ((CONVEX[name], 1), (SURFACES["sphere" if name == "ball" else name], 0)):
        value, other = constraint.residuals(x)[part], constraint.residuals(x)[1 - part]
        assert value.shape == (6, 1)
        assert other.shape == (6, 0)
        matrix, slope, level = form(constraint)
        known = ((x.numpy() @ matrix) * x.numpy()).sum(1) + x.numpy() @ slope - level
        scale = 2 * constraint.radius if isinstance(constraint, Ball | Sphere) else 1
        np.testing.assert_allclose(value[:, 0], known / scale, atol=1e-10)
        outside = torch.as_tensor(known > 0)
        assert torch.equal(CONVEX[name].excess(x)[0] > 0, outside) or part == 0
        assert torch.autograd.gradcheck(lambda y, c=constraint, k=part: c.residuals(y)[k], x.clone().requires_grad_())
        assert constraint.polyhedron(4) is None
        size = constraint.sizes(x)
        assert size.shape == constraint.residuals(x)[1].shape
        assert (size >= constraint.residuals(x)[1].abs()).all()


@pytest.mark.parametrize("kind", METRICS)
def test_whatever_the_batch_the_device_and_the_compiler(kind: str) -> None:
    metric, x = metrics(4)[kind], 2 * numbers(4, 10)
    for constraint in (CONVEX["ball"], SURFACES["sphere"]):
        check_batch(constraint, x, metric, atol=1e-12 if kind == "dense" else 0)
    for constraint in (CONVEX["paraboloid"], SURFACES["ellipsoid"]):
        check_batch(constraint, x, metric, atol=1e-12)
    if kind != "Euclidean":
        check_device(SURFACES["sphere"], x, metric)
    if kind != "diagonal":
        check_device(CONVEX["paraboloid"], x, metric)


def test_distances_are_reported() -> None:
    layout = Layout.dense(3, {"x": (2,)})
    x = {"x": torch.tensor([[3.0, 4.0], [0, 0], [0, 1]], dtype=torch.float64)}
    assert Ball(leaf="x", radius=1.0).violation(x, layout).tolist() == [4, 0, 0]
    assert Sphere(leaf="x", radius=1.0).violation(x, layout).tolist() == [4, 1, 0]
    bowl = {"leaf": "x", "matrix": torch.diag(torch.tensor([1.0, 0])), "slope": torch.tensor([0.0, -1]), "level": 0.0}
    assert QuadraticInequality(**bowl).violation(x, layout).tolist() == [5, 0, 0]
    assert QuadraticEquality(**bowl).violation(x, layout).tolist() == [5, 0, 1]


def test_what_is_empty_or_does_not_fit_is_refused() -> None:
    for kind in (Ball, Sphere):
        with pytest.raises(Infeasible, match="radius about the centre of 'x', got -1"):
            kind(leaf="x", radius=-1.0)
        with pytest.raises(ValueError, match="finite centre"):
            kind(leaf="x", radius=1.0, centre=torch.tensor([torch.nan]))
    for kind in (QuadraticInequality, QuadraticEquality):
        with pytest.raises(Infeasible, match=r"on 'x' is at least -1.0 and cannot come down to -1.5"):
            kind(leaf="x", matrix=torch.eye(2), slope=torch.tensor([0.0, 2.0]), level=-1.5)
        with pytest.raises(ValueError, match="semidefinite"):
            kind(leaf="x", matrix=torch.diag(torch.tensor([1.0, -0.1])), level=1.0)
        with pytest.raises(ValueError, match="other than 0"):
            kind(leaf="x", matrix=torch.zeros(2, 2), level=1.0)
        with pytest.raises(ValueError, match="rows of 2 numbers in 'x', got 3"):
            kind(leaf="x", matrix=torch.eye(2), level=1.0).nearest(torch.zeros(1, 3).double(), None)
