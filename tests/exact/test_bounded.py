"""Numbers between bounds from which values follow: closed forms, a solver that knows another way, and two phases."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import lsq_linear
from torch import Tensor

from scidiff.fluids.bounded import Bounded
from scidiff.fluids.equations import Darcy
from scidiff.fluids.pair_inversion import Given, Told, _finished, solved
from scidiff.fluids.pairs import PairConfig, PairModel, statistics

N = 16


def _search(seed: int, *, numbers: int, values: int, reach: float, bounds: tuple[float, float]) -> Bounded:
    draw = torch.Generator().manual_seed(seed)

    def white(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw, dtype=torch.float64)

    return Bounded(
        centre=white(3, numbers).clamp(*bounds),
        variance=reach**2 * torch.rand(3, numbers, generator=draw, dtype=torch.float64) + 1e-3,
        operator=3 * white(3, values, numbers),
        values=5 * white(3, values),
        bounds=bounds,
    )


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 10_000),
    numbers=st.integers(1, 12),
    values=st.integers(1, 6),
    reach=st.sampled_from([0.03, 0.3, 3.0, 30.0]),
)
def test_it_is_the_minimum_between_the_bounds(seed: int, numbers: int, values: int, reach: float):
    """As trust-region least squares of SciPy have it."""
    search = _search(seed, numbers=numbers, values=values, reach=reach, bounds=(-0.7, 1.1))
    found = search.nearest()
    assert bool((found >= -0.7).all() & (found <= 1.1).all())
    for row in range(3):
        firm = search.variance[row].rsqrt()
        matrix = torch.cat([search.operator[row], torch.diag(firm)]).numpy()
        goal = torch.cat([search.values[row], firm * search.centre[row]]).numpy()
        due = lsq_linear(matrix, goal, bounds=(-0.7, 1.1), tol=1e-14).x
        sizes = [np.square(matrix @ x - goal).sum() for x in (found[row].numpy(), due)]
        assert sizes[0] <= sizes[1] * (1 + 1e-9) + 1e-9
        np.testing.assert_allclose(found[row].numpy(), due, atol=1e-4)


def test_without_bounds_it_is_kalmans_update():
    search = _search(1, numbers=9, values=4, reach=1.0, bounds=(-np.inf, np.inf))
    spread = search.variance[:, None] * search.operator
    gram = search.operator @ spread.mT + torch.eye(4, dtype=torch.float64)
    off = search.values - torch.einsum("bmd,bd->bm", search.operator, search.centre)
    due = search.centre + torch.einsum("bmd,bm->bd", spread, torch.linalg.solve(gram, off))
    torch.testing.assert_close(search.nearest(), due)


def test_a_row_does_not_depend_on_the_others():
    search = _search(2, numbers=40, values=6, reach=3.0, bounds=(-0.7, 1.1))
    parts = [getattr(search, name)[:1] for name in ("centre", "variance", "operator", "values")]
    alone = Bounded(centre=parts[0], variance=parts[1], operator=parts[2], values=parts[3], bounds=search.bounds)
    torch.testing.assert_close(alone.nearest()[0], search.nearest()[0], rtol=0, atol=1e-9)


@pytest.mark.parametrize("measured", ["pressures", "both"])
def test_two_phases_are_moved_on_to_the_pressures(measured: str):
    """Whose every point sits on a bound, where a search that leaves bounds alone can do nothing."""
    flow, place = Darcy(), (torch.arange(N).double() + 0.5) / N
    fields = torch.stack([(place[:, None] - 0.3 - k / 40 + 0.3 * place).sign() for k in range(8)])
    pairs = torch.stack([7.5 + 4.5 * fields, flow.solve(7.5 + 4.5 * fields)], 1)
    mean, scale, known = statistics(pairs.float(), periodic=False, axes=8)
    sizes = PairConfig(equation="darcy", shape=(N, N), scale=scale, widths=(8,), blocks=1)
    model = PairModel.create(sizes, mean, known)
    at = torch.arange(0, N * N, 7)
    places = (at[:10] if measured == "both" else at[:0]), at
    told = Told(model, Given.at(places, pairs[3], (0.003 * scale[0], 0.003 * scale[1])))
    draws = model.scaled(pairs[[2, 4]])
    assert (told.given.misfit(solved(model, model.fields(draws)[:, 0])) > 2 * told.given.bound()).all()
    found = _finished(told, draws)
    assert (told.given.misfit(found) <= told.given.bound()).all()
    assert bool((found[:, 0] >= 3).all() & (found[:, 0] <= 12).all())
    torch.testing.assert_close(flow.solve(found[:, 0]), found[:, 1])
    torch.testing.assert_close(found[0], _finished(told, draws[[1, 0]])[1], rtol=0, atol=1e-9)
