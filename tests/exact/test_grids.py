"""Grids: exact ends, strict order, equal steps in their own variable."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from scidiff import grids
from scidiff.schedules import VE, Cosine, Karras, LearnedSchedule, RectifiedFlow, Schedule, SubVP, VPLinear

SCHEDULES: list[Schedule] = [VPLinear(), SubVP(), Cosine(), VE(), Karras(), RectifiedFlow(), LearnedSchedule()]


def all_equal(values: Tensor) -> None:
    torch.testing.assert_close(values, values[:1].expand_as(values), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("end", [0.0, 1e-3, 0.3])
@pytest.mark.parametrize("n", [1, 2, 7, 1000])
def test_grids_in_t(n: int, end: float) -> None:
    for make, variable in (
        (grids.uniform, lambda t: t),
        (grids.quadratic, torch.sqrt),
        (grids.cosine, lambda t: torch.acos(((t - end) / (1 - end)).clamp(0, 1))),
    ):
        grid = make(n, end=end)
        assert grid.dtype == torch.float64
        assert len(grid) == n + 1
        assert (float(grid[0]), float(grid[-1])) == (1.0, end)
        assert bool((grid.diff() < 0).all())
        steps = variable(grid).diff()
        torch.testing.assert_close(steps, steps.mean().expand_as(steps), rtol=1e-6, atol=1e-9)


def test_first_step_of_the_cosine_grid_is_of_second_order() -> None:
    first = [1 - float(grids.cosine(n)[1]) for n in (100, 200)]
    assert first[0] / first[1] == pytest.approx(4, rel=1e-3)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda schedule: type(schedule).__name__)
def test_log_snr_uniform(schedule: Schedule) -> None:
    grid = grids.log_snr_uniform(schedule, 12, end=0.02)
    assert (len(grid), float(grid[0]), float(grid[-1])) == (13, 1.0, 0.02)
    all_equal(schedule.log_snr(grid).diff()[1:])
    own = float(schedule.log_snr(grid[0]))
    step = float(schedule.log_snr(grid[1:]).diff()[0])
    # The first step is as long as the others, or longer where the schedule's noise lies below the floor.
    assert float(schedule.log_snr(grid[1])) == pytest.approx(max(own, -10.0) + step, abs=1e-9)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda schedule: type(schedule).__name__)
def test_karras_is_equation_5(schedule: Schedule) -> None:
    n, rho, low = 10, 7.0, 0.05
    own = math.exp(-float(schedule.log_snr(torch.ones(1, dtype=torch.float64))) / 2)
    high = min(80.0, own)
    grid = grids.karras(schedule, n, rho=rho, sigma_min=low)
    ratio = torch.exp(-schedule.log_snr(grid) / 2)
    expected = [(high ** (1 / rho) + i / n * (low ** (1 / rho) - high ** (1 / rho))) ** rho for i in range(n + 1)]
    assert ratio[1:].tolist() == pytest.approx(expected[1:], rel=1e-9)
    assert float(grid[0]) == 1.0
    assert len(grid) == n + 1


def test_karras_on_its_own_schedule_is_nearly_uniform_in_t() -> None:
    grid = grids.karras(Karras(), 20, sigma_min=1e-12)
    torch.testing.assert_close(grid, grids.uniform(20, end=float(grid[-1])), rtol=1e-12, atol=1e-12)


def test_to_data_adds_the_last_step() -> None:
    grid = grids.uniform(3, end=0.1)
    assert grids.to_data(grid).tolist() == [*grid.tolist(), 0.0]
    with pytest.raises(ValueError, match="ends above 0"):
        grids.to_data(grids.uniform(3))


BAD_CALLS: list[tuple[Callable[[], Tensor], str]] = [
    (lambda: grids.uniform(0), "at least one step"),
    (lambda: grids.uniform(3, end=1.0), r"end in \[0, 1\)"),
    (lambda: grids.cosine(3, end=-0.1), r"end in \[0, 1\)"),
    (lambda: grids.quadratic(0), "at least one step"),
    (lambda: grids.quadratic(3, end=-0.1), r"end in \[0, 1\)"),
    (lambda: grids.log_snr_uniform(VPLinear(), 4, end=0.0), "finite log-SNR"),
    (lambda: grids.karras(VPLinear(), 4, sigma_min=0.0), "sigma_min"),
    (lambda: grids.karras(VPLinear(), 4, sigma_min=90.0), "sigma_min"),
    (lambda: grids.karras(LearnedSchedule(start=2.0), 4, sigma_min=1e-3), "fall strictly|noise"),
]


@pytest.mark.parametrize(("call", "message"), BAD_CALLS)
def test_bad_arguments_are_refused(call: Callable[[], Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
