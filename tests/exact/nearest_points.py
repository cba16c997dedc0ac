"""What every set of points must do, and slow ways to the nearest of them, for the tests of constraints."""

from __future__ import annotations

import itertools

import numpy as np
import torch
from torch import Tensor

from scidiff.constraints.base import RowConstraint
from scidiff.noise import Noise
from scidiff.state import Layout

BATCH = 6


def numbers(size: int, step: int, *, batch: int = BATCH) -> Tensor:
    """Normal numbers [batch, size], the same for the same step."""
    rows = Layout.dense(batch, {"x": (size,)}).rows("x")
    return Noise(seed=11, index=torch.arange(batch)).at("x", step, rows).normal(dtype=torch.float64)


def metrics(size: int) -> dict[str, Tensor | None]:
    """One of each kind."""
    root = numbers(size, 90, batch=size)
    return {
        "Euclidean": None,
        "diagonal": (1.5 * numbers(size, 91)[0]).exp(),
        "dense": root @ root.T + 0.3 * torch.eye(size, dtype=torch.float64),
    }


METRICS = ("Euclidean", "diagonal", "dense")


def precision(metric: Tensor | None, size: int) -> np.ndarray:
    """The matrix that distances are measured in, [D, D]."""
    if metric is None:
        return np.eye(size)
    return np.diag(1 / metric.numpy()) if metric.ndim == 1 else np.linalg.inv(metric.numpy())


def by_enumeration(
    goal: np.ndarray,
    weight: np.ndarray,
    *,
    equal: np.ndarray | None = None,
    target: np.ndarray | None = None,
    below: np.ndarray | None = None,
    bound: np.ndarray | None = None,
) -> np.ndarray:
    """The point nearest to `goal` [D] in a polyhedron: the best feasible one of the nearest points of all its faces."""
    size = len(goal)
    equal, target = (np.zeros((0, size)), np.zeros(0)) if equal is None else (equal, target)
    below, bound = (np.zeros((0, size)), np.zeros(0)) if below is None else (below, bound)
    best, least = None, np.inf
    for count in range(size - len(equal) + 1):
        for active in itertools.combinations(range(len(below)), count):
            rows = np.concatenate([equal, below[list(active)]])
            goals = np.concatenate([target, bound[list(active)]])
            system = np.block([[weight, rows.T], [rows, np.zeros((len(rows), len(rows)))]])
            x = np.linalg.lstsq(system, np.concatenate([weight @ goal, goals]), rcond=None)[0][:size]
            if np.abs(rows @ x - goals).max(initial=0) > 1e-9 or (below @ x - bound).max(initial=0) > 1e-9:
                continue
            cost = (x - goal) @ weight @ (x - goal)
            if cost < least:
                best, least = x, cost
    if best is None:
        raise ValueError("expected a polyhedron with a point in it")
    return best


def check_projection(constraint: RowConstraint, x: Tensor, metric: Tensor | None, *, convex: bool = True) -> Tensor:
    """Feasible in float64 and float32, idempotent bit for bit, and, of convex sets, the variational inequality and
    nonexpansiveness. Returns the projection of x [N, D]."""
    layout = Layout.dense(len(x), {"x": tuple(x.shape[1:])})
    found = constraint.project({"x": x}, layout, metric)["x"]
    assert found.shape == x.shape
    for dtype in (torch.float64, torch.float32):
        state = constraint.project({"x": x.to(dtype)}, layout, metric)
        assert state["x"].dtype == dtype
        assert (constraint.violation(state, layout) == 0).all()
    assert torch.equal(constraint.project({"x": found}, layout, metric)["x"], found)
    if convex:
        flat, near = x.flatten(1).numpy(), found.flatten(1).numpy()
        weight = precision(metric, flat.shape[1])
        size = np.einsum("nd,de,ne->n", flat, weight, flat).max()
        # no feasible point lies on the far side: (x - Px)' S^-1 (z - Px) <= 0 for every z of the set
        assert np.einsum("nd,de,nme->nm", flat - near, weight, near[None] - near[:, None]).max() <= 1e-9 * size
        apart, apart_near = flat[None] - flat[:, None], near[None] - near[:, None]
        before, after = (np.einsum("nmd,de,nme->nm", a, weight, a) for a in (apart, apart_near))
        assert (after <= before + 1e-9 * size).all()
    return found


def check_batch(constraint: RowConstraint, x: Tensor, metric: Tensor | None, *, atol: float = 0.0) -> None:
    """A row's projection and violation do not depend on its neighbours."""
    together = constraint.nearest(x, metric)
    alone = torch.cat([constraint.nearest(row[None], metric) for row in x])
    turned = constraint.nearest(x.flip(0), metric).flip(0)
    torch.testing.assert_close(alone, together, atol=atol, rtol=0)
    torch.testing.assert_close(turned, together, atol=atol, rtol=0)


def check_device(constraint: RowConstraint, x: Tensor, metric: Tensor | None) -> None:
    """One graph, nothing read back: compiled whole, and run on a device that holds no numbers at all."""
    layout = Layout.dense(len(x), {"x": tuple(x.shape[1:])})

    def run(x: Tensor) -> tuple[Tensor, Tensor]:
        state = constraint.project({"x": x}, layout, metric)
        return state["x"], constraint.violation(state, layout)

    torch._dynamo.reset()
    if metric is None or metric.ndim == 1:  # the interior-point method, unrolled, takes the compiler 20 seconds
        for found, known in zip(torch.compile(run, fullgraph=True, backend="eager")(x), run(x), strict=True):
            torch.testing.assert_close(found, known, atol=1e-12, rtol=0)
    nowhere = x.flatten(1).to("meta")
    found = constraint.nearest(nowhere, None if metric is None else metric.to("meta"))
    assert found.device.type == "meta"
    amount, scale = constraint.excess(found)
    assert amount.shape == scale.shape == (len(x),)
