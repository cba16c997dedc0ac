"""Sets with a closed form on arbitrary numbers: magnitudes from 1e-8 to 1e8 in one row, ties, and points that hold."""

from __future__ import annotations

import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import Tensor

from scidiff.constraints.base import RowConstraint
from scidiff.constraints.box import Box
from scidiff.constraints.monotone import Monotone
from scidiff.constraints.quadratic import Ball, QuadraticEquality, QuadraticInequality, Sphere
from scidiff.constraints.simplex import Simplex
from scidiff.constraints.sums import Total
from scidiff.state import Layout

SIZE = 6
WEIGHT = torch.tensor([[1.0, 0, -2, 0, 1, 0], [0, 0.5, 0, 3, 0, 0]])
MATRIX = torch.tensor([[2.0, 1, 0], [1, 1, 0], [0, 0, 0]]).double().kron(torch.eye(2).double())

magnitudes = st.builds(
    lambda sign, exponent, digits: sign * digits * 10.0**exponent,
    st.sampled_from([-1, 0, 1]),
    st.integers(-8, 8),
    st.sampled_from([1.0, 1.0, 2.5, 9.999]),  # few of them, so that ties are common
)
rows = st.lists(magnitudes, min_size=SIZE, max_size=SIZE).map(lambda row: torch.tensor([row], dtype=torch.float64))
variances = st.lists(st.sampled_from([1e-6, 1e-2, 1.0, 1.0, 30.0, 1e6]), min_size=SIZE, max_size=SIZE)
diagonal = st.none() | variances.map(lambda row: torch.tensor(row, dtype=torch.float64))
dense = st.lists(st.sampled_from([-1.0, 0.0, 0.5, 1.0]), min_size=SIZE**2, max_size=SIZE**2).map(
    lambda numbers: _covariance(torch.tensor(numbers, dtype=torch.float64).reshape(SIZE, SIZE))
)
level = st.sampled_from([1e-8, 1e-3, 1.0, 7.5, 1e8])
convex = st.one_of(
    st.builds(lambda low, width: Box(leaf="x", low=low, high=low + width), magnitudes, level),
    st.builds(lambda gap: Monotone.increasing("x", gap=gap), st.sampled_from([0.0, 0.1, 1e-8, 1e8])),
    st.builds(lambda dim: Monotone.decreasing("x", shape=(2, 3), dim=dim), st.sampled_from([0, 1])),
    st.builds(lambda target: Total(leaf="x", weight=torch.ones(SIZE), target=target), magnitudes),
    st.builds(lambda target: Total(leaf="x", weight=torch.ones(SIZE), target=target, low=0.0), level),
    st.builds(lambda bound: Total(leaf="x", weight=WEIGHT, target=0.0, low=-bound, high=2 * bound), level),
    st.builds(lambda size: Simplex(leaf="x", size=size), st.sampled_from([None, 2, 3])),
    st.builds(lambda centre, radius: Ball(leaf="x", centre=centre, radius=radius), magnitudes, level),
    st.builds(lambda top: QuadraticInequality(leaf="x", matrix=MATRIX, level=top), level),
    st.builds(lambda top: QuadraticInequality(leaf="x", matrix=MATRIX, slope=torch.arange(6.0), level=top), magnitudes),
)
polyhedral = convex.filter(lambda constraint: constraint.polyhedron(SIZE) is not None)
surfaces = st.one_of(
    st.builds(lambda centre, radius: Sphere(leaf="x", centre=centre, radius=radius), magnitudes, level),
    st.builds(lambda top: QuadraticEquality(leaf="x", matrix=MATRIX, level=top), level),
    st.builds(lambda top: QuadraticEquality(leaf="x", matrix=MATRIX, slope=torch.arange(6.0), level=top), magnitudes),
)
LAYOUT = Layout.dense(1, {"x": (SIZE,)})


def _covariance(root: Tensor) -> Tensor:
    return root @ root.T + 0.1 * torch.eye(SIZE, dtype=torch.float64)


def project(constraint: RowConstraint, x: Tensor, metric: Tensor | None) -> Tensor:
    return constraint.project({"x": x}, LAYOUT, metric)["x"]


@given(convex | surfaces, rows, diagonal | dense)
def test_a_projection_is_certified_and_stays(constraint: RowConstraint, x: Tensor, metric: Tensor | None) -> None:
    for dtype in (torch.float64, torch.float32):
        found = project(constraint, x.to(dtype), metric)
        assert found.isfinite().all()
        assert constraint.violation({"x": found}, LAYOUT) == 0
    found = project(constraint, x, metric)
    assert torch.equal(project(constraint, found, metric), found)


@given(convex, rows, rows, diagonal)
def test_no_point_of_the_set_is_nearer(
    constraint: RowConstraint, x: Tensor, other: Tensor, metric: Tensor | None
) -> None:
    """(x - Px)' S^-1 (z - Px) <= 0 for every z of the set, and Px, Pz are no farther apart than x, z."""
    near, z = project(constraint, x, metric), project(constraint, other, None)
    weight = torch.ones(SIZE).double() if metric is None else 1 / metric
    size = ((x.abs() + z.abs() + near.abs()) ** 2 * weight).sum()
    assert ((x - near) * weight * (z - near)).sum() <= 1e-7 * size
    z = project(constraint, other, metric)
    size = ((x.abs() + other.abs() + z.abs() + near.abs()) ** 2 * weight).sum()
    assert ((near - z) ** 2 * weight).sum() <= ((x - other) ** 2 * weight).sum() + 1e-7 * size


@given(polyhedral, rows, rows, dense)
def test_no_point_is_nearer_in_a_dense_metric(
    constraint: RowConstraint, x: Tensor, other: Tensor, metric: Tensor
) -> None:
    """(x - Px)' S^-1 (z - Px) <= 0, also for the z that are as near as the point and its Euclidean projection."""
    near = project(constraint, x, metric)
    force = torch.linalg.solve(metric, (x - near).T).T
    for z in (project(constraint, x, None), project(constraint, other, None)):
        size = force.abs().max() * torch.stack([x.abs(), z.abs(), near.abs()]).max()
        assert (force * (z - near)).sum() <= 1e-7 * size


@given(surfaces, rows, rows)
def test_no_point_of_a_surface_is_nearer(constraint: RowConstraint, x: Tensor, other: Tensor) -> None:
    near, z = project(constraint, x, None), project(constraint, other, None)
    size = x.abs().sum() + z.abs().sum() + near.abs().sum()
    assert (x - near).norm() <= (x - z).norm() + 1e-7 * size


dyadic = st.integers(-(2**20), 2**20).map(lambda n: n / 2**10)


@given(
    st.lists(dyadic, min_size=SIZE, max_size=SIZE), diagonal | dense, st.sampled_from([torch.float32, torch.float64])
)
@example([0.0] * SIZE, None, torch.float32)
@example([1.0] * SIZE, None, torch.float32)
def test_what_holds_stays_bit_for_bit(values: list[float], metric: Tensor | None, dtype: torch.dtype) -> None:
    x = torch.tensor([values], dtype=dtype)
    exact = x.double()
    holding = [
        (Box(leaf="x", low=exact.min(), high=exact.max()), x),
        (Box(leaf="x", low=exact[0], high=exact[0] + 1), x),
        (Monotone.increasing("x"), x.sort().values),
        (Monotone.decreasing("x"), x.sort(descending=True).values),
        (Total(leaf="x", weight=torch.ones(SIZE), target=exact.sum(), low=exact.min()), x),
        (Total(leaf="x", weight=WEIGHT, target=(WEIGHT.double() * exact).sum(1)), x),
        (Simplex(leaf="x", size=2), (x / 2**11 + 0.5).repeat_interleave(2, 1)[:, :SIZE].clone()),
        (Ball(leaf="x", radius=float(exact.norm()) + 1), x),
        (QuadraticInequality(leaf="x", matrix=MATRIX, level=float(((exact @ MATRIX) * exact).sum())), x),
    ]
    for constraint, point in holding:
        if isinstance(constraint, Simplex):
            point[:, 1::2] = 1 - point[:, ::2]
        found = project(constraint, point, metric)
        assert torch.equal(found, point), constraint
        assert constraint.violation({"x": found}, LAYOUT) == 0


@given(convex | surfaces, rows, diagonal)
def test_a_not_a_number_is_never_certified(constraint: RowConstraint, x: Tensor, metric: Tensor | None) -> None:
    for broken in (torch.nan, torch.inf, -torch.inf):
        bad = torch.cat([x[:, :-1], torch.full_like(x[:, :1], broken)], 1)
        assert constraint.violation({"x": bad}, LAYOUT) == torch.inf
        assert constraint.violation({"x": project(constraint, bad * torch.nan, metric)}, LAYOUT) == torch.inf
