"""Isotonic regression against pooling one block at a time, the enumeration of faces, and the KKT conditions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from nearest_points import (
    METRICS,
    by_enumeration,
    check_batch,
    check_device,
    check_projection,
    metrics,
    numbers,
    precision,
)

from scidiff.constraints.monotone import Monotone, isotonic
from scidiff.state import Layout

SETS = {
    "increasing": Monotone.increasing("x"),
    "decreasing": Monotone.decreasing("x"),
    "increasing by 0.3": Monotone.increasing("x", gap=0.3),
}


def pooled(y: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Pool adjacent violators, from left to right."""
    blocks: list[tuple[float, float, int]] = []
    for value, share in zip(y, weight, strict=True):
        blocks.append((value, share, 1))
        while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
            (b, v, m), (a, u, n) = blocks.pop(), blocks.pop()
            blocks.append(((a * u + b * v) / (u + v), u + v, n + m))
    return np.concatenate([np.full(count, value) for value, _, count in blocks])


@pytest.mark.parametrize("length", [1, 2, 3, 7, 16, 37])
def test_all_blocks_at_once_are_blocks_one_by_one(length: int) -> None:
    y = numbers(length, 1) - torch.linspace(0, 1.5, length, dtype=torch.float64)
    y[2] = y[2].round()  # ties
    y[3] = y[3].sort(descending=True).values
    weight = (2 * numbers(length, 2)).exp()
    found = isotonic(y, weight)
    known = np.stack([pooled(a, w) for a, w in zip(y.numpy(), weight.numpy(), strict=True)])
    np.testing.assert_allclose(found.numpy(), known, atol=1e-12)


def test_the_multipliers_of_a_long_sequence() -> None:
    y, weight = 5 * numbers(300, 3).cumsum(1).sin(), (2 * numbers(300, 4)).exp()
    x = isotonic(y, weight)
    multiplier = (weight * (y - x)).cumsum(1)
    step = x.diff(dim=1)
    assert (step >= 0).all()
    assert multiplier.min() > -1e-9
    assert multiplier[:, -1].abs().max() < 1e-9
    assert (multiplier[:, :-1] * step).abs().max() < 1e-9
    assert (step > 0.01).any()


@pytest.mark.parametrize("kind", METRICS)
@pytest.mark.parametrize("name", SETS)
def test_the_nearest_point(name: str, kind: str) -> None:
    monotone, metric, x = SETS[name], metrics(5)[kind], numbers(5, 5)
    found = check_projection(monotone, x, metric)
    rows = (np.eye(5)[:-1] - np.eye(5)[1:]) * (-1 if name == "decreasing" else 1)
    bound = np.full(4, -0.3 if name.endswith("0.3") else 0.0)
    for goal, near in zip(x.numpy(), found.numpy(), strict=True):
        known = by_enumeration(goal, precision(metric, 5), below=rows, bound=bound)
        np.testing.assert_allclose(near, known, atol=1e-10)
    described = monotone.polyhedron(5)
    np.testing.assert_array_equal(described.below.numpy(), rows)
    np.testing.assert_array_equal(described.bound.numpy(), bound)


@pytest.mark.parametrize("kind", METRICS)
@pytest.mark.parametrize("dim", [0, 1, -1, -3])
def test_along_one_dimension(dim: int, kind: str) -> None:
    metric, x = metrics(12)[kind], numbers(12, 6)
    monotone = Monotone.decreasing("x", shape=(3, 2, 2), dim=dim)
    found = check_projection(monotone, x.unflatten(1, (3, 2, 2)), metric)
    assert (found.diff(dim=dim if dim < 0 else dim + 1) <= 1e-12).all()
    if kind == "dense":
        known = monotone.polyhedron(12).nearest(x, metric).reshape(found.shape)
    else:
        weight = (torch.ones(12).double() if metric is None else 1 / metric).expand(6, 12)
        lines, weights = (
            -part.unflatten(1, (3, 2, 2)).movedim(dim if dim < 0 else dim + 1, -1) for part in (x, weight)
        )
        flat = zip(lines.flatten(0, -2).numpy(), -weights.flatten(0, -2).numpy(), strict=True)
        known = torch.from_numpy(np.stack([pooled(a, w) for a, w in flat])).reshape(lines.shape)
        known = -known.movedim(-1, dim if dim < 0 else dim + 1)
    torch.testing.assert_close(found, known, atol=1e-10, rtol=0)


def test_steps_of_at_least_a_gap_are_certified_however_many() -> None:
    for gap in (0.1, 1 / 3, 1e-3):
        monotone = Monotone.increasing("x", gap=gap)
        found = check_projection(monotone, 0.1 * gap * numbers(700, 7, batch=2), None)
        np.testing.assert_allclose(found.diff(dim=1).min(), gap, rtol=1e-9)


@pytest.mark.parametrize("kind", METRICS)
def test_whatever_the_batch_the_device_and_the_compiler(kind: str) -> None:
    metric, x = metrics(5)[kind], numbers(5, 8)
    for monotone in SETS.values():
        check_batch(monotone, x, metric, atol=1e-12 if kind == "dense" else 0)
    check_device(monotone, x, metric)


def test_the_violation_is_the_greatest_fall_and_a_great_entry_hides_none() -> None:
    layout = Layout.dense(4, {"x": (3,)})
    x = torch.tensor([[0.0, 1.0, 0.75], [0.5, 0.25, 2.0**40], [1, 1, 1], [0, 0, torch.inf]], dtype=torch.float64)
    violation = Monotone.increasing("x").violation({"x": x}, layout)
    assert violation.tolist() == [0.25, 0.25, 0, torch.inf]
    assert Monotone.decreasing("x").violation({"x": x}, layout)[:3].tolist() == [1.0, 2.0**40 - 0.25, 0]


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="gap >= 0, got -1"):
        Monotone.increasing("x", gap=-1.0)
    with pytest.raises(ValueError, match="dim of the row's shape"):
        Monotone.increasing("x", shape=(3, 2), dim=2)
    with pytest.raises(ValueError, match="rows of shape"):
        Monotone.increasing("x", shape=(3, 2)).nearest(torch.zeros(1, 5, dtype=torch.float64), None)
