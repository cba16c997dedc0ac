"""Fitted solvers: closer to the fine solution on starts that were not fitted to, and exact where they claim to be."""

from __future__ import annotations

import itertools
import math
from functools import cache
from typing import Any

import pytest
import torch
from gaussian_solvers import ENDING_IN_DATA, SCHEDULES
from torch import Tensor

from scidiff import grids, solvers
from scidiff.noise import Noise
from scidiff.processes.gaussian import GaussianProcess
from scidiff.processes.parametrisations import Data
from scidiff.sampling import sample
from scidiff.schedules import Cosine, RectifiedFlow, Schedule, VPLinear
from scidiff.solvers.extrapolated import stretched, table
from scidiff.solvers.fitted import Problem, fit_numbers
from scidiff.solvers.mixture import GaussianMixture
from scidiff.solvers.recommended import recommended_numbers
from scidiff.state import Layout

F64 = torch.float64
VP = VPLinear()
LAYOUT = Layout.dense(256, {"x": (2,)})  # `fit` asks for some hundred


def process_on(schedule: Schedule) -> GaussianProcess:
    return GaussianProcess(schedule=schedule, parametrisation=Data(), dtype=F64)


def noise(seed: int) -> Noise:
    return Noise(seed=seed, index=torch.arange(LAYOUT.batch))


def triangle(schedule: Schedule) -> GaussianMixture:
    """Three uneven modes in the plane."""
    means = torch.tensor([[1.2, 0.1], [-0.8, 0.9], [-0.5, -1.1]], dtype=F64)
    stds = torch.tensor([[0.2, 0.3], [0.4, 0.1], [0.3, 0.3]], dtype=F64)
    return GaussianMixture(schedule, weights=torch.tensor([0.5, 0.3, 0.2], dtype=F64), means=means, stds=stds)


def single(schedule: Schedule, *, std: float = 1.0) -> GaussianMixture:
    """One normal distribution, its mean away from 0."""
    means = torch.tensor([[0.7, -0.4]], dtype=F64)
    return GaussianMixture(
        schedule, weights=torch.ones(1, dtype=F64), means=means, stds=torch.full((1, 2), std).to(F64)
    )


@cache
def held_out(schedule: Schedule, make: Any = triangle) -> Problem:
    return Problem.solve(make(schedule), process_on(schedule), LAYOUT, noise(99))


def error(problem: Problem, plan: solvers.Plan) -> float:
    """The mean distance from the fine solution, by the package's own loop."""
    got = sample(problem.denoiser, {"x": problem.process}, {"x": plan}, problem.layout, noise(99)).state["x"]
    return float((got - problem.end).square().mean(-1).sqrt().mean())


def test_the_fine_solution_is_the_closed_form() -> None:
    problem = held_out(VP, single)
    (alpha,), (sigma,) = VP(torch.ones(1, dtype=F64))
    mean = problem.denoiser.means[0]  # type: ignore[index, union-attr]
    # variance 1: x_t has variance 1 at all times of a variance-preserving schedule
    torch.testing.assert_close(problem.end, mean + (problem.start - alpha * mean), rtol=1e-4, atol=1e-4)
    assert float(sigma) < 1


@pytest.mark.parametrize(("schedule", "calls"), [(VP, 6), (Cosine(), 3), (RectifiedFlow(), 5)])
def test_fitting_lowers_the_error_on_starts_it_has_not_seen(schedule: Schedule, calls: int) -> None:
    plan = solvers.fit(triangle(schedule), process_on(schedule), LAYOUT, noise(1), calls, iterations=25)
    judged = held_out(schedule)
    assert isinstance(plan, solvers.Plan)
    assert (plan.calls, plan.noises) == (calls, ())
    assert error(judged, plan) < error(judged, solvers.recommended(schedule, calls))
    for solver in (solvers.ddim, solvers.dpmpp_2m, solvers.unipc):
        assert error(judged, plan) < 0.6 * error(judged, solver(schedule, grids.quadratic(calls)))


def test_fitting_never_ends_above_where_it_begins() -> None:
    problem = Problem.solve(triangle(VP), process_on(VP), LAYOUT, noise(1))
    for calls in (1, 2, 4):
        begin = recommended_numbers(calls)
        losses = [float(problem.loss(*table(VP, begin)))]
        losses += [float(problem.loss(*table(VP, fit_numbers([problem], begin, iterations=n)))) for n in (1, 4)]
        assert losses[0] >= losses[1] >= losses[2]


def test_fitting_twice_gives_the_same_plan() -> None:
    first, again = (solvers.fit(triangle(VP), process_on(VP), LAYOUT, noise(5), 3, iterations=4) for _ in range(2))
    other = solvers.fit(triangle(VP), process_on(VP), LAYOUT, noise(6), 3, iterations=4)
    assert first == again
    assert first != other


@pytest.mark.parametrize("name", ENDING_IN_DATA)
@pytest.mark.parametrize("calls", [1, 2, 4, 11])
def test_any_numbers_are_exact_for_data_at_one_point(name: str, calls: int) -> None:
    """All of the plan but its first step, which is exact for data of deviation std: here for next to none."""
    schedule = SCHEDULES[name]
    numbers = torch.sin(torch.arange(3 * calls, dtype=F64)).reshape(calls, 3)
    plan = solvers.extrapolated(schedule, numbers, std=1e-5)
    mean, std = solvers.moments(plan, schedule, solvers.Gaussian(mean=0.7, std=1e-5))
    assert mean == pytest.approx(0.7, abs=1e-9)
    assert std < 1e-3


@pytest.mark.parametrize("name", ENDING_IN_DATA)
def test_one_call_is_exact_for_normal_data(name: str) -> None:
    plan = solvers.recommended(SCHEDULES[name], 1, std=0.6)
    mean, std = solvers.moments(plan, SCHEDULES[name], solvers.Gaussian(mean=0.7, std=0.6))
    assert (mean, std) == (pytest.approx(0.7, abs=1e-12), pytest.approx(0.6, abs=1e-12))


@pytest.mark.parametrize("name", ENDING_IN_DATA)
def test_recommended_solvers_approach_normal_data(name: str) -> None:
    errors = []
    for calls in (3, 6, 12, 24, 48, 96):
        plan = solvers.recommended(SCHEDULES[name], calls)
        assert (plan.calls, plan.times[0], plan.times[-1]) == (calls, 1.0, 0.0)
        assert all(t > s for t, s in itertools.pairwise(plan.times))
        data = [solvers.Gaussian(mean=0.5, std=0.3), solvers.Gaussian(mean=-1.0, std=1.2)]
        errors.append(solvers.moment_error(plan, SCHEDULES[name], data))
    for few, many in itertools.pairwise(errors):
        assert many < few / 2
    assert errors[-1] < 1e-4


def test_recommended_solvers_take_four_terms_a_step_and_six_with_many_calls() -> None:
    for calls, terms in {5: 4, 10: 4, 17: 4, 20: 4, 40: 4, 41: 6}.items():
        assert max(len(row) for row in solvers.recommended(VP, calls).rows) == terms


def test_the_scale_of_the_data_is_that_of_the_plan() -> None:
    """On a schedule with alpha = 1, data and noise levels twice as wide give samples twice as wide."""
    wide, unit = SCHEDULES["Karras"], type(SCHEDULES["Karras"])(sigma_max=10.0, rho=3.0)
    one, two = solvers.recommended(unit, 6), solvers.recommended(wide, 6, std=2.0)
    torch.testing.assert_close(one.table(), two.table(), rtol=1e-9, atol=1e-12)
    assert one.times == pytest.approx(two.times, rel=1e-9)


@pytest.mark.parametrize("name", SCHEDULES)
def test_gradients_are_those_of_the_table(name: str) -> None:
    """Also where the schedule's inverse has no gradient of its own (the learned one)."""
    schedule, numbers = SCHEDULES[name], recommended_numbers(5).clone()

    def value(at: Tensor) -> Tensor:
        times, rows = table(schedule, at)
        return (times * torch.arange(1, 6)).sum() + (rows.tanh() * torch.arange(1, 5)).sum()

    (gradient,) = torch.autograd.grad(value(numbers.requires_grad_()), numbers)
    step = 1e-5
    for k, column in [(0, 0), (3, 0), (2, 1), (4, 2)]:
        shift = torch.zeros_like(numbers)
        shift[k, column] = step
        with torch.no_grad():
            slope = (value(numbers + shift) - value(numbers - shift)) / (2 * step)
        assert float(gradient[k, column]) == pytest.approx(float(slope), rel=1e-4, abs=1e-7)


def test_numbers_for_more_calls_walk_the_same_way() -> None:
    numbers = recommended_numbers(10)
    torch.testing.assert_close(
        stretched(numbers, 10), numbers - numbers.mean(0) * torch.tensor([1, 0, 0]) + 0, atol=1e-4, rtol=0
    )
    twice = stretched(numbers, 20)
    walked, again = (torch.softmax(each[:, 0], 0).cumsum(0) for each in (numbers, twice))
    torch.testing.assert_close(again[1::2], walked)
    assert math.isfinite(float(twice.abs().max()))


def test_wrong_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"expected numbers \[calls, 3\], got shape \(4, 2\)"):
        solvers.extrapolated(VP, torch.zeros(4, 2))
    with pytest.raises(ValueError, match="expected at least one call, got 0"):
        solvers.recommended(VP, 0)
