"""Totals and simplices against the enumeration of their faces and the KKT conditions."""

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

from scidiff.constraints.base import Infeasible
from scidiff.constraints.simplex import Simplex
from scidiff.constraints.sums import Total, fill
from scidiff.state import Layout

WEIGHT = torch.tensor([[1.0, 0, -2, 0, 0], [0, 0.5, 0, 0, 1]])
ONE = torch.ones(5)
SETS = {
    "plain": Total(leaf="x", weight=ONE, target=1.5),
    "of some": Total(leaf="x", weight=torch.tensor([0, 1.0, 1, 0, 1]), target=-1.0, high=0.5),
    "not negative": Total(leaf="x", weight=ONE, target=2.0, low=0.0),
    "two, weighted, bounded": Total(leaf="x", weight=WEIGHT, target=torch.tensor([0.5, 0.75]), low=-1.0, high=0.9),
    "one pinned": Total(
        leaf="x", weight=ONE, target=1.0, low=torch.tensor([0, 0.25, 0, 0, 0]), high=torch.tensor([1, 0.25, 1, 1, 1])
    ),
    "one point": Total(leaf="x", weight=ONE, target=-5.0, low=-1.0, high=3.0),
    "all of one total pinned": Total(
        leaf="x",
        weight=WEIGHT,
        target=torch.tensor([0.5, 0.5]),
        low=torch.tensor([-9, 0.25, -9, -9, 0.375]),
        high=torch.tensor([9, 0.25, 9, 9, 0.375]),
    ),
}


@pytest.mark.parametrize("kind", METRICS)
@pytest.mark.parametrize("name", SETS)
def test_the_nearest_point(name: str, kind: str) -> None:
    total, metric, x = SETS[name], metrics(5)[kind], 1.5 * numbers(5, 1)
    found = check_projection(total, x, metric)
    low, high = (np.broadcast_to(bound.numpy(), (5,)) for bound in (total.low, total.high))
    rows = np.concatenate([-np.eye(5)[np.isfinite(low)], np.eye(5)[np.isfinite(high)]])
    bound = np.concatenate([-low[np.isfinite(low)], high[np.isfinite(high)]])
    for goal, near in zip(x.numpy(), found.numpy(), strict=True):
        known = by_enumeration(
            goal, precision(metric, 5), equal=total.weight.numpy(), target=total.target.numpy(), below=rows, bound=bound
        )
        np.testing.assert_allclose(near, known, atol=1e-9)


def test_bounds_hold_to_the_last_bit() -> None:
    total = Total(
        leaf="x", weight=torch.tensor([3.0, 1.0, 1.0, -1.0]), target=0.2, low=-1.0, high=0.1
    )  # 3 * 0.1 / 3 > 0.1
    for metric in (None, metrics(4)["diagonal"]):
        found = total.nearest(numbers(4, 9, batch=200), metric)
        assert ((found >= total.low) & (found <= total.high)).all()
        assert (found == total.high).any(0).all()


@pytest.mark.parametrize("kind", METRICS)
def test_the_nearest_shares(kind: str) -> None:
    metric, x = metrics(6)[kind], numbers(6, 2)
    for simplex, rows in (
        (Simplex(leaf="x"), np.ones((1, 6))),
        (Simplex(leaf="x", size=3), np.kron(np.eye(2), np.ones(3))),
    ):
        found = check_projection(simplex, x, metric)
        for goal, near in zip(x.numpy(), found.numpy(), strict=True):
            known = by_enumeration(
                goal, precision(metric, 6), equal=rows, target=np.ones(len(rows)), below=-np.eye(6), bound=np.zeros(6)
            )
            np.testing.assert_allclose(near, known, atol=1e-10)
        assert (found == 0).any()


def test_one_level_fills_many() -> None:
    c, variance = 3 * numbers(400, 3), (2 * numbers(400, 4)).exp()
    low, high = -numbers(400, 5).abs(), numbers(400, 6).abs()
    high[:, ::7] = torch.inf
    target = numbers(1, 7)[:, 0]
    u = fill(c, variance, low, high, target)
    torch.testing.assert_close(u.sum(1), target, atol=1e-10, rtol=0)
    assert ((u >= low) & (u <= high)).all()
    level = (c - u) / variance
    free = (u > low) & (u < high)
    at = torch.where(free, level, 0).sum(1, keepdim=True) / free.sum(1, keepdim=True)
    torch.testing.assert_close(torch.where(free, level, at), at.expand_as(level), atol=1e-9, rtol=1e-9)
    assert (level[u == low] - at.expand_as(u)[u == low] <= 1e-9).all()  # was to go below its bound
    assert (level[u == high] - at.expand_as(u)[u == high] >= -1e-9).all()
    assert (u == low).any()
    assert (u == high).any()


@pytest.mark.parametrize("kind", METRICS)
def test_whatever_the_batch_the_device_and_the_compiler(kind: str) -> None:
    metric, x = metrics(5)[kind], numbers(5, 8)
    for constraint in (SETS["one pinned"], Simplex(leaf="x"), SETS["two, weighted, bounded"]):
        check_batch(constraint, x, metric, atol=1e-12 if kind == "dense" else 0)
    check_device(constraint, x, metric)


def test_the_violation_is_the_greatest_and_a_great_entry_hides_none() -> None:
    layout = Layout.dense(3, {"x": (4,)})
    total = Total(
        leaf="x", weight=torch.tensor([[1.0, 1, 0, 0], [0, 0, 1, 1]]), target=torch.tensor([2.0**41, 1.0]), low=0.0
    )
    x = torch.tensor(
        [[2.0**40, 2.0**40, 0.5, 0.625], [2.0**41, 0, 1.25, -0.25], [0, 2.0**41, 1, 0]], dtype=torch.float64
    )
    assert total.violation({"x": x}, layout).tolist() == [0.125, 0.25, 0]
    shares = torch.tensor([[0.5, 0.5, 0.5, 0.5], [1.5, -0.5, 1, 0], [1, 0, 0.5, 0.5]], dtype=torch.float64)
    assert Simplex(leaf="x", size=2).violation({"x": shares}, layout).tolist() == [0, 0.5, 0]
    assert Simplex(leaf="x").violation({"x": shares}, layout).tolist() == [1, 1, 1]


def test_the_polyhedron_is_the_set() -> None:
    described = SETS["two, weighted, bounded"].polyhedron(5)
    assert torch.equal(described.equal, WEIGHT.double())
    assert described.below.shape == (10, 5)
    assert len(SETS["all of one total pinned"].polyhedron(5).independent().equal) == 3
    assert len(SETS["all of one total pinned"].polyhedron(5).equal) == 3
    assert torch.equal(
        Simplex(leaf="x", size=2).polyhedron(4).equal, torch.tensor([[1.0, 1, 0, 0], [0, 0, 1, 1]]).double()
    )


def test_what_is_out_of_reach_or_does_not_fit_is_refused() -> None:
    with pytest.raises(
        Infeasible, match=r"total 1 of 'x' lies between -2.0 and 0.5 within the bounds and cannot be 0.75"
    ):
        Total(
            leaf="x",
            weight=torch.tensor([[1.0, 0, 0], [0, -1.0, 0]]),
            target=torch.tensor([0.0, 0.75]),
            low=-0.5,
            high=2.0,
        )
    with pytest.raises(Infeasible, match="entry 0"):
        Total(leaf="x", weight=ONE, target=1.0, low=1.0, high=0.0)
    with pytest.raises(ValueError, match="no other counts"):
        Total(leaf="x", weight=torch.ones(2, 3), target=1.0)
    with pytest.raises(ValueError, match="no other counts"):
        Total(leaf="x", weight=torch.tensor([[1.0, 0], [0, 0]]), target=1.0)
    with pytest.raises(ValueError, match="finite"):
        Total(leaf="x", weight=ONE, target=torch.nan)
    with pytest.raises(ValueError, match="multiple of 3 numbers in 'x', got 5"):
        Simplex(leaf="x", size=3).nearest(torch.zeros(1, 5, dtype=torch.float64), None)
    with pytest.raises(ValueError, match="rows of 5 numbers"):
        SETS["plain"].polyhedron(4)
