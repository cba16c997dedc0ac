"""Intersections, unions and complements: exact joint projections, and refusals that name what contradicts itself."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from nearest_points import METRICS, by_enumeration, metrics, numbers, precision
from scipy.optimize import minimize
from torch import Tensor

from scidiff.constraints import (
    Ball,
    Box,
    Complement,
    Constraint,
    Infeasible,
    Intersection,
    LinearEquality,
    LinearInequality,
    Monotone,
    NonlinearEquality,
    NonlinearInequality,
    QuadraticEquality,
    Simplex,
    Sphere,
    Total,
    Union,
)
from scidiff.guidance import Project
from scidiff.state import Layout

SIZE, BATCH = 4, 6
LAYOUT = Layout.dense(BATCH, {"x": (SIZE,), "y": (SIZE,)})
BOX = Box(leaf="x", low=-0.6, high=0.5)
TOTAL = LinearEquality(leaf="x", matrix=torch.ones(1, SIZE), target=torch.ones(1))
RISING = Monotone.increasing("x", gap=0.05)
BALL = Ball(leaf="x", radius=0.8, centre=0.1)


def project(constraint: Constraint, x: Tensor, metric: Tensor | None = None) -> Tensor:
    """The projection, after checking what holds of all of them: certified in both precisions, idempotent to the bit."""
    for dtype in (torch.float32, torch.float64):
        clean = {"x": x.to(dtype), "y": x.to(dtype)}
        found = constraint.project(clean, LAYOUT, metric)
        assert (constraint.violation(found, LAYOUT) == 0).all()
        again = constraint.project(found, LAYOUT, metric)
        assert all(torch.equal(again[leaf], found[leaf]) for leaf in found)
    assert found["y"] is clean["y"] or torch.equal(found["y"], clean["y"])
    return found["x"]


@pytest.mark.parametrize("kind", METRICS)
def test_polyhedra_are_one_polyhedron(kind: str) -> None:
    metric, x = metrics(SIZE)[kind], 2 * numbers(SIZE, 1)
    weight = precision(metric, SIZE)
    for parts in [
        (BOX, TOTAL),
        (RISING, BOX),
        (BOX, RISING, TOTAL),
        (TOTAL, LinearInequality(leaf="x", matrix=numbers(SIZE, 2)[:2], bound=torch.ones(2))),
    ]:
        joint = parts[0] & parts[1] if len(parts) == 2 else (parts[0] & parts[1]) & parts[2]
        assert isinstance(joint, Intersection)
        assert len(joint.parts) == len(parts)
        found = project(joint, x, metric)
        sets = [part.polyhedron(SIZE) for part in parts]
        rows = {
            name: np.concatenate([getattr(p, name).numpy() for p in sets])
            for name in ("equal", "target", "below", "bound")
        }
        for goal, near in zip(x.numpy(), found.numpy(), strict=True):
            np.testing.assert_allclose(near, by_enumeration(goal, weight, **rows), atol=1e-8)


def test_closed_forms_of_merged_polyhedra() -> None:
    x = 2 * numbers(SIZE, 3)
    positive = Box(leaf="x", low=0.0)
    for kind in ("Euclidean", "diagonal"):
        metric = metrics(SIZE)[kind]
        torch.testing.assert_close(
            project(positive & TOTAL, x, metric), Simplex(leaf="x").nearest(x, metric), atol=1e-10, rtol=0
        )
        torch.testing.assert_close(
            project(BOX & TOTAL, x, metric),
            Total(leaf="x", weight=torch.ones(SIZE), target=1.0, low=-0.6, high=0.5).nearest(x, metric),
            atol=1e-10,
            rtol=0,
        )
    torch.testing.assert_close(project(Box(leaf="x", low=0.0) & Box(leaf="x", high=0.3), x), x.clamp(0, 0.3))


def test_sets_that_touch_in_one_point_and_sets_told_twice() -> None:
    x = 2 * numbers(SIZE, 4)
    corner = Box(leaf="x", high=0.25) & LinearInequality(leaf="x", matrix=-torch.ones(1, SIZE), bound=-torch.ones(1))
    torch.testing.assert_close(project(corner, x), torch.full_like(x, 0.25), atol=1e-9, rtol=0)
    twice = TOTAL & TOTAL & LinearEquality(leaf="x", matrix=2 * torch.ones(1, SIZE), target=2 * torch.ones(1))
    torch.testing.assert_close(project(twice, x), TOTAL.nearest(x, None), atol=1e-12, rtol=0)


def test_a_joint_projection_beats_one_after_the_other() -> None:
    """(2, 0) onto {x + y <= 1} and {x <= 1/4}: in turn it goes to (1/4, -1/2), jointly to (1/4, 0)."""
    layout = Layout.dense(1, {"x": (2,)})
    clean = {"x": torch.tensor([[2.0, 0.0]], dtype=torch.float64)}
    slope = LinearInequality(leaf="x", matrix=torch.ones(1, 2), bound=torch.ones(1))
    wall = LinearInequality(leaf="x", matrix=torch.tensor([[1.0, 0.0]]), bound=torch.tensor([0.25]))
    in_turn = wall.project(slope.project(clean, layout), layout)["x"]
    jointly = (slope & wall).project(clean, layout)["x"]
    torch.testing.assert_close(in_turn, torch.tensor([[0.25, -0.5]]).double())
    torch.testing.assert_close(jointly, torch.tensor([[0.25, 0.0]]).double(), atol=1e-12, rtol=0)


def test_a_gaussian_given_linear_measurements_has_their_conditional_mean() -> None:
    """For N(m, S) given A x = b and C x = d the mean is m + S H' (H S H')^-1 (g - H m), H and g stacked."""
    covariance, mean = metrics(SIZE)["dense"], numbers(SIZE, 5)
    first = LinearEquality(leaf="x", matrix=numbers(SIZE, 6)[:1], target=torch.tensor([0.3]))
    second = LinearEquality(leaf="x", matrix=numbers(SIZE, 7)[:2], target=torch.tensor([-0.2, 1.0]))
    rows, goals = torch.cat([first.matrix, second.matrix]), torch.cat([first.target, second.target])
    gain = covariance @ rows.T @ torch.linalg.inv(rows @ covariance @ rows.T)
    exact = mean + (goals - mean @ rows.T) @ gain.T
    torch.testing.assert_close(project(first & second, mean, covariance), exact, atol=1e-10, rtol=0)


@pytest.mark.parametrize("kind", METRICS)
def test_curved_and_flat_together_against_a_peer(kind: str) -> None:
    metric, x = metrics(SIZE)[kind], 1.5 * numbers(SIZE, 8)
    weight = precision(metric, SIZE)
    for joint in [BALL & TOTAL & BOX, BALL & RISING]:  # convex: one answer
        found = project(joint, x, metric)
        equal, below = zip(*(part.residuals(torch.zeros(1, SIZE).double()) for part in joint.parts), strict=True)
        held = [
            {"type": "ineq", "fun": lambda y, part=part: -part.residuals(torch.tensor(y)[None])[1][0].numpy()}
            for part, b in zip(joint.parts, below, strict=True)
            if b.shape[1]
        ]
        held += [
            {"type": "eq", "fun": lambda y, part=part: part.residuals(torch.tensor(y)[None])[0][0].numpy()}
            for part, e in zip(joint.parts, equal, strict=True)
            if e.shape[1]
        ]
        for goal, near in zip(x.numpy(), found.numpy(), strict=True):

            def cost(y: np.ndarray, goal: np.ndarray = goal) -> float:
                return (y - goal) @ weight @ (y - goal) / np.trace(weight)

            peer = minimize(
                cost, near + 0.01, constraints=held, method="SLSQP", options={"ftol": 1e-15, "maxiter": 300}
            )
            assert cost(near) <= peer.fun + 1e-8
            np.testing.assert_allclose(near, peer.x, atol=3e-4)


def test_a_sphere_and_a_plane_meet_in_a_circle() -> None:
    x = 2 * numbers(SIZE, 9)
    found = project(Sphere(leaf="x", radius=1.0) & TOTAL, x)
    foot = torch.full((SIZE,), 0.25, dtype=torch.float64)
    along = x - x.mean(1, keepdim=True)
    exact = foot + along / along.norm(dim=1, keepdim=True) * (1 - foot.square().sum()).sqrt()
    torch.testing.assert_close(found, exact, atol=1e-9, rtol=0)


def test_leaves_are_projected_each_on_their_own() -> None:
    clean = {"x": 2 * numbers(SIZE, 10), "y": 2 * numbers(SIZE, 11)}
    other = Simplex(leaf="y")
    metric = {"x": metrics(SIZE)["dense"], "y": metrics(SIZE)["diagonal"]}
    found = (BOX & other & TOTAL).project(clean, LAYOUT, metric)
    torch.testing.assert_close(found["x"], project(BOX & TOTAL, clean["x"], metric["x"]))
    torch.testing.assert_close(found["y"], other.nearest(clean["y"], metric["y"]))


@pytest.mark.parametrize("kind", METRICS)
def test_a_union_takes_the_nearer_side(kind: str) -> None:
    metric, x = metrics(SIZE)[kind], 2 * numbers(SIZE, 12)
    weight = precision(metric, SIZE)
    either = BOX | BALL | RISING
    assert isinstance(either, Union)
    found = project(either, x, metric).numpy()
    sides = [part.nearest(x, metric).numpy() for part in either.parts]
    ways = np.stack([np.einsum("nd,de,ne->n", side - x.numpy(), weight, side - x.numpy()) for side in sides])
    assert len(set(ways.argmin(0))) > 1
    np.testing.assert_allclose(found, np.stack(sides)[ways.argmin(0), np.arange(BATCH)], atol=1e-12)


@pytest.mark.parametrize("kind", METRICS)
def test_a_complement_is_left_by_the_nearest_face(kind: str) -> None:
    metric, x = metrics(SIZE)[kind], 0.2 * numbers(SIZE, 13)
    covariance = torch.linalg.inv(torch.tensor(precision(metric, SIZE)))
    wide = Box(leaf="x", low=-1.0, high=torch.tensor([0.5, 1.5, torch.inf, 0.8]))
    assert (wide.violation({"x": x}, LAYOUT) == 0).all()
    found = project(~wide, x, metric)
    faces = wide.polyhedron(SIZE)
    reach = ((faces.below @ covariance) * faces.below).sum(1)
    slack = faces.bound - x @ faces.below.T
    step = (slack.square() / reach).argmin(1)
    exact = x + (slack.gather(1, step[:, None]) / reach[step][:, None]) * (faces.below @ covariance)[step]
    torch.testing.assert_close(found, exact, atol=1e-12, rtol=0)
    depth = (~wide).violation({"x": x}, LAYOUT)
    torch.testing.assert_close(depth, slack.amin(1))
    out = project(~BALL, x)  # straight out of the ball
    away = (x - 0.1) / (x - 0.1).norm(dim=1, keepdim=True)
    inside = (x - 0.1).norm(dim=1, keepdim=True) < 0.8
    torch.testing.assert_close(out, torch.where(inside, 0.1 + 0.8 * away, x), atol=1e-9, rtol=0)


def test_what_has_no_inside_has_a_complement_that_always_holds() -> None:
    x = TOTAL.nearest(numbers(SIZE, 14), None)
    for flat in (
        TOTAL,
        Simplex(leaf="x"),
        Sphere(leaf="x", radius=1.0),
        NonlinearEquality(leaf="x", function=lambda x: x),
    ):
        assert torch.equal(project(~flat, x), x)


def test_laws_of_de_morgan_and_flattening() -> None:
    a, b, c = BOX, BALL, RISING
    assert (~~a) is a
    assert isinstance(~(a & b), Union)
    assert isinstance(~(a | b), Intersection)
    assert all(isinstance(part, Complement) for part in (~(a | b | c)).parts)
    assert (a & (b & c)).parts == ((a & b) & c).parts == (a, b, c)
    assert ~(~a | ~b) == a & b or (~(~a | ~b)).parts == (a, b)


def test_one_row_of_a_sample_leaves_what_all_rows_were_in() -> None:
    """Samples of 2, 3 and 1 rows: the row nearest to the boundary moves, and no other."""
    layout = Layout.ragged({"x": torch.tensor([2, 3, 1])}, {"x": (2,)})
    x = torch.tensor([[0.1, 0.2], [0.9, 0.3], [0.0, -0.8], [0.5, 0.5], [0.3, 0.0], [2.0, 0.0]], dtype=torch.float64)
    box = Box(leaf="x", low=-1.0, high=1.0)
    exact = x.clone()
    exact[1, 0], exact[2, 1] = 1.0, -1.0
    outside = ~box
    assert outside.violation({"x": x}, layout).tolist() == pytest.approx([0.1, 0.2, 0.0])
    torch.testing.assert_close(outside.project({"x": x}, layout)["x"], exact)
    inner = Box(leaf="x", low=-3.0, high=1.5)
    found = (inner & outside).project({"x": x}, layout)["x"]
    exact[5, 0] = 1.5
    torch.testing.assert_close(found, exact, atol=1e-12, rtol=0)
    # the row that has to move in any case is out then, and the other one, nearer to the boundary, stays
    two = Layout.ragged({"x": torch.tensor([2])}, {"x": (2,)})
    found = (inner & outside).project({"x": torch.tensor([[2.0, 0.0], [0.95, 0.0]])}, two)["x"]
    torch.testing.assert_close(found, torch.tensor([[1.5, 0.0], [0.95, 0.0]]))
    with pytest.raises(ValueError, match="one row a sample, or only one complement"):
        (outside & ~Box(leaf="x", low=-5.0, high=5.0)).project({"x": x}, layout)


@pytest.mark.parametrize(
    ("build", "names"),
    [
        (lambda: BOX & TOTAL & Box(leaf="x", low=0.6, high=1.0), ("low [-0.6], high [0.5]", "low [0.6], high [1]")),
        (
            lambda: TOTAL & RISING & LinearEquality(leaf="x", matrix=torch.ones(1, SIZE), target=torch.zeros(1)),
            ("target [1]", "target [0]"),
        ),
        (lambda: BOX & ~Box(leaf="x", low=-1.0), ("high [0.5]", "not Box on 'x' (low [-1]")),
        (lambda: TOTAL & (Box(leaf="x", high=0.2) | Box(leaf="x", low=0.3)), ("target [1]", " or ")),
    ],
)
def test_contradictions_are_refused_when_combined_and_named(build, names: tuple[str, str]) -> None:
    with pytest.raises(Infeasible) as caught:
        build()
    message = str(caught.value)
    assert all(name in message for name in names)
    assert message.count("together with") == 1
    assert "Monotone" not in message


def test_contradictions_that_need_the_length_of_rows_are_refused_by_the_first_projection() -> None:
    both = Simplex(leaf="x") & Box(leaf="x", high=0.2)  # five entries or more could
    with pytest.raises(Infeasible, match=r"Simplex on 'x' .* together with Box on 'x'"):
        both.project({"x": numbers(SIZE, 15)}, LAYOUT)
    clean = {"x": numbers(6, 15)}
    layout = Layout.dense(BATCH, {"x": (6,)})
    assert (both.violation(both.project(clean, layout), layout) == 0).all()


def test_three_that_contradict_themselves_only_together_are_all_named() -> None:
    rows = [
        LinearInequality(leaf="x", matrix=torch.tensor([m]), bound=torch.tensor([b]))
        for m, b in (([1.0, 0.0], 0.0), ([0.0, 1.0], 0.0), ([-1.0, -1.0], -1.0))
    ]
    with pytest.raises(Infeasible) as caught:
        rows[0] & rows[1] & rows[2]
    assert str(caught.value).count("together with") == 2


def test_curved_sets_that_do_not_meet_are_told_by_the_projection() -> None:
    apart = Ball(leaf="x", radius=0.5) & Ball(leaf="x", radius=0.5, centre=1.0)
    clean = {"x": numbers(SIZE, 16)}
    found = apart.project(clean, LAYOUT)
    assert torch.equal(found["x"], clean["x"])
    assert (apart.violation(found, LAYOUT) > 0).all()


def test_only_constraints_on_rows_are_taken_apart() -> None:
    class Anything(Constraint):
        def project(self, clean, layout, metric=None):
            return clean

        def violation(self, sample, layout):
            return torch.ones(layout.batch).double()

    with pytest.raises(TypeError, match="constraints on rows to take the complement of, got Anything"):
        ~Anything()
    with pytest.raises(TypeError, match="in an intersection, got Anything"):
        BOX & Anything()
    clean = {"x": numbers(SIZE, 17)}
    torch.testing.assert_close((BOX | Anything()).project(clean, LAYOUT)["x"], BOX.nearest(clean["x"], None))


def test_nonlinear_parts_and_a_complement_of_them() -> None:
    x = 1.5 * numbers(SIZE, 18)
    saddle = NonlinearInequality(leaf="x", function=lambda x: x[:, :1] * x[:, 1:2] - 0.1)
    form = QuadraticEquality(leaf="x", matrix=torch.diag(torch.arange(1.0, 5.0)), level=1.0)
    for joint in (saddle & form, ~saddle & BALL, saddle & RISING, (saddle & BALL) | TOTAL):
        project(joint, x)


def test_wraps_a_denoiser(gaussian_data) -> None:
    from scidiff.schedules import Cosine

    denoiser = Project(gaussian_data(Cosine()), BOX & TOTAL)
    clean = denoiser({"x": 2 * numbers(SIZE, 19)}, torch.full((BATCH,), 0.5).double(), LAYOUT)
    assert ((BOX & TOTAL).violation(clean, LAYOUT) == 0).all()
