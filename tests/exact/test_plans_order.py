"""Every Gaussian solver on every schedule converges to the exact answer at the order it claims.

The data are Gaussian, so that the moments of a plan's result are known exactly: no sampling is involved.
"""

from __future__ import annotations

import itertools
from functools import partial

import numpy as np
import pytest
import torch
from gaussian_solvers import BETTER_ON_GAUSSIANS, DETERMINISTIC, SCHEDULES, SOLVERS, STOCHASTIC

from scidiff import grids, solvers
from scidiff.schedules import VE, RectifiedFlow, Schedule, VPLinear
from scidiff.solvers.check import DATA
from scidiff.solvers.levels import levels_at
from scidiff.solvers.plan import Plan


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("name", DETERMINISTIC)
def test_probability_flow_is_reached_at_the_claimed_order(name: str, schedule: str) -> None:
    solver, order = DETERMINISTIC[name]
    if (name, schedule) == ("midpoint", "RectifiedFlow"):
        order = 3  # x_t's variance is a quadratic in t there, and the third-order term of the error vanishes
    end, finest = {1: (0.3, 64), 2: (0.3, 128), 3: (0.3, 256), 4: (0.1, 256)}[order]
    solvers.check_order(solver, SCHEDULES[schedule], partial(grids.cosine, end=end), order=order, finest=finest)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("name", STOCHASTIC)
def test_moments_are_reached_at_the_claimed_weak_order(name: str, schedule: str) -> None:
    solver, order = STOCHASTIC[name]
    solvers.check_order(solver, SCHEDULES[schedule], partial(grids.uniform, end=0.6), order=order, finest=128)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("name", BETTER_ON_GAUSSIANS)
def test_moments_are_reached_at_least_at_the_claimed_weak_order(name: str, schedule: str) -> None:
    solver, order = BETTER_ON_GAUSSIANS[name]
    grid = partial(grids.uniform, end=0.6)
    if schedule == "RectifiedFlow":
        solvers.check_order(solver, SCHEDULES[schedule], grid, order=order, finest=256)
    else:
        assert solvers.observed_order(solver, SCHEDULES[schedule], grid, finest=256) > order - 0.1


def uneven(n: int) -> torch.Tensor:
    """Steps of 1 and 3 by turns, after a start as gentle as the cosine grid's."""
    return grids.cosine(2 * n, end=0.3)[torch.arange(n + 1) * 2 - torch.arange(n + 1) % 2]


MULTISTEP = [name for name, (_, order) in DETERMINISTIC.items() if order > 1] + ["dpmpp_sde_2m", "sa_solver 1, 2"]


@pytest.mark.parametrize("name", MULTISTEP)
def test_order_holds_on_grids_of_uneven_steps(name: str) -> None:
    solver, order = (DETERMINISTIC | STOCHASTIC)[name]
    solvers.check_order(solver, SCHEDULES["VPLinear"], uneven, order=order, finest=512)


def test_third_order_multistep_methods_lose_their_order_to_a_long_first_step() -> None:
    for solver in (solvers.dpmpp_3m, partial(solvers.deis, order=3)):
        observed = solvers.observed_order(solver, RectifiedFlow(), partial(grids.uniform, end=0.3), finest=512)
        assert observed == pytest.approx(2, abs=0.2)


def test_wrong_claims_are_refused() -> None:
    with pytest.raises(ArithmeticError, match=r"expected order 2 within 0.1, observed 1\.0|observed 0\.9"):
        solvers.check_order(solvers.ddim, VPLinear(), partial(grids.uniform, end=0.3), order=2, finest=32)


def shipped_3m(schedule: Schedule, grid: torch.Tensor) -> Plan:
    """The multistep third-order DPM-Solver++ as other libraries have it: half the second derivative that is meant."""
    tape = solvers.Tape()
    x = tape.start
    past: list[tuple[float, solvers.Linear]] = []
    found = levels_at(schedule, grid)
    for t, s in itertools.pairwise(found):
        x, clean = tape.denoise(x, t.t)
        past = [(t.lam, clean), *past][:3]
        h = s.lam - t.lam
        phi_1 = np.expm1(-h)
        x = (s.sigma / t.sigma) * x - s.alpha * phi_1 * clean
        if len(past) == 1:
            continue
        r_0 = (past[0][0] - past[1][0]) / h
        slope = (past[0][1] - past[1][1]) / r_0
        if len(past) == 2:
            x = x - 0.5 * s.alpha * phi_1 * slope
            continue
        r_1 = (past[1][0] - past[2][0]) / h
        slope_1 = (past[1][1] - past[2][1]) / r_1
        bend = (slope - slope_1) / (r_0 + r_1)
        x = x + s.alpha * (phi_1 / h + 1) * (slope + (r_0 / (r_0 + r_1)) * (slope - slope_1))
        x = x - s.alpha * ((phi_1 + h) / h**2 - 0.5) * bend
    return tape.plan(x, found[-1].t)


def test_the_shipped_form_of_3m_is_of_second_order() -> None:
    grid = partial(grids.cosine, end=0.3)
    assert solvers.observed_order(shipped_3m, VE(sigma_max=20.0), grid) == pytest.approx(2, abs=0.1)
    assert solvers.observed_order(solvers.dpmpp_3m, VE(sigma_max=20.0), grid) == pytest.approx(3, abs=0.1)


@pytest.mark.parametrize("schedule", ["VPLinear", "VE", "RectifiedFlow"])
@pytest.mark.parametrize("name", SOLVERS)
def test_runs_to_the_data_give_its_moments(name: str, schedule: str) -> None:
    solver, order = SOLVERS[name]
    data = DATA[1]
    # Karras' levels fall fast enough to keep the last step, of first order, short.
    grid = grids.to_data(grids.karras(SCHEDULES[schedule], 199))
    mean, std = solvers.moments(solver(SCHEDULES[schedule], grid), SCHEDULES[schedule], data)
    within = 0.08 if order == 1 else 3e-3
    assert mean == pytest.approx(data.mean, abs=within)
    assert std == pytest.approx(data.std, rel=within)
