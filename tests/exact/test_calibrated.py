"""Plans as wide as the data: their standard deviations are known exactly."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch

from scidiff.grids import karras, to_data
from scidiff.schedules import Cosine
from scidiff.solvers import Gaussian, Plan, calibrated, dpmpp_sde_2m, moments
from scidiff.solvers.calibrated import SIZES

SCHEDULE = Cosine()


def solver(calls: int, eta: float):
    grid = to_data(karras(SCHEDULE, calls - 1, rho=5.0, sigma_min=0.005, sigma_max=12.0))
    return lambda factor: dpmpp_sde_2m(SCHEDULE, grid, eta=eta, noise=factor)


def widths(plan: Plan) -> torch.Tensor:
    return torch.tensor([moments(plan, SCHEDULE, Gaussian(mean=0.0, std=size))[1] / size for size in SIZES])


@pytest.mark.parametrize("eta", [1.0, 10.0])
@pytest.mark.parametrize("calls", [8, 16, 32])
def test_a_calibrated_plan_is_as_wide_as_it_should_be(calls, eta) -> None:
    plain = widths(solver(calls, eta)(1.0))
    for width in (1.0, 0.9):
        found = widths(calibrated(solver(calls, eta), SCHEDULE, width=width))
        assert float(found.log().mean()) == pytest.approx(math.log(width), abs=1e-5)
        assert (found / width - 1).abs().max() < {8: 0.25, 16: 0.07, 32: 0.05}[calls]
    assert plain.log().mean() > 0.01  # the test is not empty


def test_where_no_factor_is_large_enough_the_largest_is_taken() -> None:
    found = calibrated(solver(3, 1.0), SCHEDULE)
    torch.testing.assert_close(found.table(), solver(3, 1.0)(1.5).table(), rtol=1e-5, atol=1e-6)
    assert widths(found).log().mean() < 0


def test_the_factor_is_that_of_each_draw_of_noise() -> None:
    make = partial(dpmpp_sde_2m, SCHEDULE, to_data(karras(SCHEDULE, 5)), eta=2.0)
    plan, half = make(), make(noise=0.5)
    calls = 1 + plan.calls
    torch.testing.assert_close(half.table()[:, :calls], plan.table()[:, :calls], rtol=0, atol=0)
    torch.testing.assert_close(half.table()[:, calls:], 0.5 * plan.table()[:, calls:], rtol=1e-14, atol=0)
