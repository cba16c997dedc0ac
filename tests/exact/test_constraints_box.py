"""Boxes against the enumeration of their faces."""

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
from scidiff.constraints.box import Box
from scidiff.state import Layout

LOW = torch.tensor([-0.5, -torch.inf, 0.25, -1.0])
HIGH = torch.tensor([0.5, 0.75, 0.25, torch.inf])
BOXES = {"scalar": Box(leaf="x", low=-0.5, high=0.75), "half open, one pinned": Box(leaf="x", low=LOW, high=HIGH)}


@pytest.mark.parametrize("kind", METRICS)
@pytest.mark.parametrize("name", BOXES)
def test_the_nearest_point(name: str, kind: str) -> None:
    box, metric, x = BOXES[name], metrics(4)[kind], 2 * numbers(4, 1)
    found = check_projection(box, x, metric)
    low, high = (bound.expand(4).numpy() for bound in box.bounds(x))
    rows = np.concatenate([-np.eye(4)[np.isfinite(low)], np.eye(4)[np.isfinite(high)]])
    bound = np.concatenate([-low[np.isfinite(low)], high[np.isfinite(high)]])
    for goal, near in zip(x.numpy(), found.numpy(), strict=True):
        known = by_enumeration(goal, precision(metric, 4), below=rows, bound=bound)
        np.testing.assert_allclose(near, known, atol=1e-10)


@pytest.mark.parametrize("kind", METRICS)
def test_whatever_the_batch_the_device_and_the_compiler(kind: str) -> None:
    metric, x = metrics(4)[kind], 2 * numbers(4, 2)
    for box in BOXES.values():
        check_batch(box, x, metric, atol=1e-12 if kind == "dense" else 0)
    check_device(box, x, metric)


def test_rows_of_any_shape() -> None:
    layout = Layout.dense(6, {"x": (2, 3)})
    x = 2 * numbers(6, 3).unflatten(1, (2, 3))
    box = Box(leaf="x", low=torch.tensor([[-9.0, 0, -9], [-9, -9, -9]]), high=1.0)
    found = box.project({"x": x, "y": x}, layout)
    assert torch.equal(found["y"], x)
    known = x.clamp_max(1)
    known[:, 0, 1].clamp_min_(0)
    assert torch.equal(found["x"], known)


def test_the_violation_is_the_greatest_overstep_and_a_great_entry_hides_none() -> None:
    box = Box(leaf="x", low=torch.tensor([0.0, 0.0]), high=torch.tensor([2.0**40, 1.0]))
    layout = Layout.dense(3, {"x": (2,)})
    x = torch.tensor([[2.0**40, 1 + 2.0**-10], [-0.5, 1.25], [5.0, 0.5]], dtype=torch.float64)
    torch.testing.assert_close(
        box.violation({"x": x}, layout), torch.tensor([2.0**-10, 0.5, 0.0]).double(), atol=1e-12, rtol=0
    )
    assert (box.violation({"x": torch.full((3, 2), torch.inf)}, layout) == torch.inf).all()
    unbounded = Box(leaf="x", low=0.0)
    assert (unbounded.violation({"x": torch.full((3, 2), torch.inf)}, layout) == torch.inf).all()


def test_the_polyhedron_is_the_box() -> None:
    described = BOXES["half open, one pinned"].polyhedron(4)
    assert described.equal.tolist() == [[0, 0, 1, 0]]
    assert described.target.tolist() == [0.25]
    x = numbers(4, 4, batch=200)
    x[:, 2] = 0.25
    inside = ((x >= LOW) & (x <= HIGH)).all(1)
    assert inside.any()
    assert not inside.all()
    assert torch.equal((x @ described.below.T <= described.bound).all(1), inside)


def test_what_is_empty_or_does_not_fit_is_refused() -> None:
    with pytest.raises(Infeasible, match=r"low 2.0 and high 1.0: entry 1 of the bounds on 'x'"):
        Box(leaf="x", low=torch.tensor([0.0, 2.0]), high=1.0)
    with pytest.raises(Infeasible, match="entry 0"):
        Box(leaf="x", low=torch.inf)
    with pytest.raises(ValueError, match="NaN"):
        Box(leaf="x", low=torch.nan)
    with pytest.raises(ValueError, match="rows of 2 numbers in 'x', got 3"):
        Box(leaf="x", low=torch.zeros(2)).nearest(torch.zeros(1, 3, dtype=torch.float64), None)
