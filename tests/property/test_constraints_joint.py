"""Random expressions of constraints against plain Python."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from scidiff.constraints import Ball, Box, Constraint, Infeasible, LinearInequality, Monotone, NonlinearInequality
from scidiff.state import Layout

Inside = Callable[[list[list[float]], int], bool]
"""Whether the rows of a sample lie in a set; 1 for the closed set, -1 for what lies off its boundary, too."""

eighths = st.integers(-16, 16).map(lambda n: n / 8)  # sums and products without rounding: boundaries are hit exactly


def rows_all(holds: Callable[[list[float]], list[float]]) -> Inside:
    """All inequalities hold in all rows, with room to spare if `side` is -1."""
    return lambda rows, side: all(value <= 0 if side == 1 else value < 0 for row in rows for value in holds(row))


@st.composite
def atoms(draw: st.DrawFn) -> tuple[Constraint, Inside]:
    kind = draw(st.sampled_from(["box", "plane", "ball", "rising", "product"]))
    if kind == "box":
        low, width = draw(eighths), draw(st.integers(1, 16)) / 8
        return Box(leaf="x", low=low, high=low + width), rows_all(
            lambda row: [low - v for v in row] + [v - low - width for v in row]
        )
    if kind == "plane":
        a, b = draw(st.sampled_from([[1.0, 1, 1], [1, -2, 0], [0, 0, -1]])), draw(eighths)
        plane = LinearInequality(leaf="x", matrix=torch.tensor([a]), bound=torch.tensor([b]))
        return plane, rows_all(lambda row: [sum(p * v for p, v in zip(a, row, strict=True)) - b])
    if kind == "ball":
        centre, radius = draw(eighths), draw(st.integers(1, 16)) / 8
        return Ball(leaf="x", centre=centre, radius=radius), rows_all(
            lambda row: [sum((v - centre) ** 2 for v in row) - radius**2]
        )
    if kind == "rising":
        return Monotone.increasing("x"), rows_all(lambda row: [row[0] - row[1], row[1] - row[2]])
    level = draw(eighths)
    return NonlinearInequality(leaf="x", function=lambda x: x[:, :1] * x[:, 1:2] - level), rows_all(
        lambda row: [row[0] * row[1] - level]
    )


def grown(inner: st.SearchStrategy) -> st.SearchStrategy:
    """`not` turns closed sets into the closures of their complements: the side changes, and so does the answer."""
    negations = inner.map(lambda a: (lambda: ~a[0](), lambda rows, side: not a[1](rows, -side)))
    both = st.tuples(inner, inner)
    return (
        negations
        | both.map(lambda ab: (lambda: ab[0][0]() & ab[1][0](), lambda r, s: ab[0][1](r, s) and ab[1][1](r, s)))
        | both.map(lambda ab: (lambda: ab[0][0]() | ab[1][0](), lambda r, s: ab[0][1](r, s) or ab[1][1](r, s)))
    )


expressions = st.recursive(atoms().map(lambda a: (lambda: a[0], a[1])), grown, max_leaves=5)
row = st.lists(eighths, min_size=3, max_size=3)
samples = st.lists(st.lists(row, min_size=1, max_size=2), min_size=4, max_size=4)


def batch(samples: list[list[list[float]]]) -> tuple[torch.Tensor, Layout]:
    rows = reduce(lambda a, b: a + b, samples)
    counts = torch.tensor([len(sample) for sample in samples])
    return torch.tensor(rows, dtype=torch.float64), Layout.ragged({"x": counts}, {"x": (3,)})


def built(build: Callable[[], Constraint]) -> Constraint | None:
    try:
        return build()
    except Infeasible:
        return None


@settings(max_examples=40)
@given(expressions, samples)
def test_a_violation_is_0_exactly_where_the_expression_holds(expression, samples) -> None:
    constraint, inside = built(expression[0]), expression[1]
    x, layout = batch(samples)
    held = [inside(sample, 1) for sample in samples]
    if constraint is None:  # a part of the expression is empty
        return
    for dtype in (torch.float64, torch.float32):
        assert (constraint.violation({"x": x.to(dtype)}, layout) == 0).tolist() == held


@settings(max_examples=25)
@given(expressions, expressions, samples)
def test_laws_of_de_morgan(a, b, samples) -> None:
    x, layout = batch(samples)
    pairs = [
        (lambda: ~(a[0]() & b[0]()), lambda: ~a[0]() | ~b[0]()),
        (lambda: ~(a[0]() | b[0]()), lambda: ~a[0]() & ~b[0]()),
        (lambda: ~~a[0](), a[0]),
    ]
    for left, right in pairs:
        one, other = built(left), built(right)
        if one is not None and other is not None:
            assert torch.equal(one.violation({"x": x}, layout), other.violation({"x": x}, layout))


@settings(max_examples=20)
@given(expressions, st.lists(row, min_size=4, max_size=4), st.booleans())
def test_a_projection_holds_or_is_told_and_stays(expression, rows, single: bool) -> None:
    """Feasible or as it was; at no greater distance than any sample that holds."""
    constraint = built(expression[0])
    if constraint is None:
        return
    x, layout = torch.tensor(rows, dtype=torch.float32 if single else torch.float64), Layout.dense(4, {"x": (3,)})
    try:
        found = constraint.project({"x": x}, layout)["x"]
    except Infeasible:
        return
    violation = constraint.violation({"x": found}, layout)
    assert found.isfinite().all()
    assert torch.equal(found[violation > 0], x[violation > 0])
    assert torch.equal(constraint.project({"x": found}, layout)["x"], found)
    held = constraint.violation({"x": x}, layout) == 0
    assert torch.equal(found[held], x[held])


@settings(max_examples=25)
@given(
    st.lists(atoms().filter(lambda a: not isinstance(a[0], NonlinearInequality)), min_size=2, max_size=3),
    st.lists(row, min_size=4, max_size=4),
)
def test_intersections_of_convex_sets_are_projected_onto_exactly(parts, rows) -> None:
    """(x - Px)' (z - Px) <= 0 for every z in the set."""
    x, layout = torch.tensor(rows, dtype=torch.float64), Layout.dense(4, {"x": (3,)})
    try:
        joint = reduce(lambda a, b: a & b, [part[0] for part in parts])
        found = joint.project({"x": x}, layout)["x"]
    except Infeasible:
        assert not any(all(inside([row], -1) for _, inside in parts) for row in rows)
        return
    holds = joint.violation({"x": found}, layout) == 0
    if all(part[0].polyhedron(3) is not None for part in parts):
        assert holds.all()
    near, x = found[holds], x[holds]
    away = torch.einsum("nd,nmd->nm", x - near, near[None] - near[:, None])
    assert (away <= 1e-7).all()
