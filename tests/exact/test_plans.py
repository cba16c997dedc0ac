"""Plans: the tape records what was written, the table is what is executed, the last step is exact."""

from __future__ import annotations

import itertools
import math

import pytest
import scipy.integrate
import torch
from gaussian_solvers import ENDING_IN_DATA, SCHEDULES, SOLVERS
from plan_runs import LAYOUT, NOISE, Clean, bent, run, same
from torch import Tensor

from scidiff import grids, solvers
from scidiff.schedules import RectifiedFlow, Schedule, VPLinear
from scidiff.solvers.levels import Level, levels_at
from scidiff.solvers.plan import Plan, Tape


def bent_like(schedule: Schedule) -> Clean:
    """`bent` of a state scaled to unit size, so that nothing saturates at large noise."""

    def clean(x: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = schedule(t)
        return bent(x / (alpha.square() + sigma.square()).sqrt()[:, None], t)

    return clean


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("name", SOLVERS)
def test_table_is_what_the_loop_executes(name: str, schedule: str) -> None:
    plan = SOLVERS[name][0](SCHEDULES[schedule], grids.cosine(9, end=0.05))
    found, denoiser = run(plan, SCHEDULES[schedule], bent_like(SCHEDULES[schedule]))
    z = denoiser.calls[0][0]
    noises = [NOISE.at("x", step, LAYOUT.rows("x")).normal(dtype=z.dtype, kind=kind) for step, kind in plan.noises]
    symbols = torch.stack([z, *(clean for _, _, clean in denoiser.calls), *noises])
    states = torch.tensordot(plan.table(), symbols, dims=1)
    reached = [x for x, _, _ in denoiser.calls[1:]] + [found]
    torch.testing.assert_close(states, torch.stack(reached), rtol=1e-9, atol=1e-11)
    assert [float(t[0]) for _, t, _ in denoiser.calls] == list(plan.times[:-1])


def test_table_is_lower_triangular() -> None:
    for solver, _ in SOLVERS.values():
        plan = solver(VPLinear(), grids.cosine(6, end=0.05))
        cleans = plan.table()[:, 1 : 1 + plan.calls]
        assert torch.equal(cleans, cleans.tril())


# A velocity that is extrapolated to the end of the last step does not end on the last estimate.
ENDS_ON_ESTIMATE = [name for name in SOLVERS if not name.startswith("adams_bashforth_velocity")]


@pytest.mark.parametrize("schedule", ENDING_IN_DATA)
@pytest.mark.parametrize("name", ENDS_ON_ESTIMATE)
def test_last_step_to_no_noise_is_the_clean_estimate(name: str, schedule: str) -> None:
    for grid in (grids.uniform(1), grids.uniform(5)):
        plan = SOLVERS[name][0](SCHEDULES[schedule], grid)
        (term,) = plan.rows[-1]
        assert (term.atom.kind, term.atom.number) == ("clean", plan.calls - 1)
        assert term.coefficient == pytest.approx(1, abs=1e-15)
        found, denoiser = run(plan, SCHEDULES[schedule], bent_like(SCHEDULES[schedule]))
        torch.testing.assert_close(found, denoiser.calls[-1][2], rtol=1e-15, atol=0)


KEEPS_POINTS = {name: solver for name, (solver, _) in SOLVERS.items() if not name.startswith(("euler", "midpoint"))}


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("name", KEEPS_POINTS)
def test_data_at_one_point_are_exact_in_any_number_of_steps(name: str, schedule: str) -> None:
    """The clean estimate is then constant, and every exponential integrator exact: mean alpha c, deviation sigma."""
    data = solvers.Gaussian(mean=1.3, std=0.0)
    for n, end in itertools.product((1, 2, 3, 10), (0.05, 0.3)):
        plan = KEEPS_POINTS[name](SCHEDULES[schedule], grids.uniform(n, end=end))
        (level,) = levels_at(SCHEDULES[schedule], torch.tensor([end], dtype=torch.float64))
        mean, std = solvers.moments(plan, SCHEDULES[schedule], data)
        # Long extrapolations have large coefficients of both signs, whose rounding is what is left of them.
        largest = max(abs(term.coefficient) for row in plan.rows for term in row)
        assert mean == pytest.approx(level.alpha * 1.3, rel=1e-12, abs=max(1e-12, 1e-15 * largest))
        if name != "ddpm, spread 1":
            assert std == pytest.approx(level.sigma, rel=1e-12, abs=max(1e-12, 1e-15 * largest))


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_renoising_is_exact_for_data_at_one_point(schedule: str) -> None:
    plan = solvers.renoise(SCHEDULES[schedule], grids.uniform(4, end=0.2))
    (level,) = levels_at(SCHEDULES[schedule], torch.tensor([0.2], dtype=torch.float64))
    mean, std = solvers.moments(plan, SCHEDULES[schedule], solvers.Gaussian(mean=-0.4, std=0.0))
    assert (mean, std) == pytest.approx((level.alpha * -0.4, level.sigma), rel=1e-12)
    assert plan.rows[0][0].atom.kind == "clean"  # nothing but the clean estimate is kept


def test_larger_ddpm_variance_is_exact_for_unit_normal_data() -> None:
    """Ho et al. 2020, section 3.2: sigma_{t|s}^2 is right for data N(0, 1)."""
    plan = solvers.ddpm(VPLinear(), grids.uniform(7, end=0.1), spread=1.0)
    assert solvers.moments(plan, VPLinear(), solvers.Gaussian(mean=0.0, std=1.0)) == pytest.approx((0, 1), abs=1e-12)


def test_steps_in_symbols_are_the_textbook_ones() -> None:
    """DDPM as Ho et al. write it, in beta and alpha-bar (algorithm 2 with eq. 7), on three steps."""
    schedule, grid = VPLinear(), grids.uniform(3, end=0.1)
    alpha_bar = schedule(grid)[0].square()
    plan = solvers.ddpm(schedule, grid)
    for k in range(3):
        beta = 1 - alpha_bar[k] / alpha_bar[k + 1]
        kept = (1 - beta).sqrt() * (1 - alpha_bar[k + 1]) / (1 - alpha_bar[k])
        clean = alpha_bar[k + 1].sqrt() * beta / (1 - alpha_bar[k])
        variance = beta * (1 - alpha_bar[k + 1]) / (1 - alpha_bar[k])
        expected = [float(kept), float(clean), float(variance.sqrt())]
        assert [term.coefficient for term in plan.rows[k]] == pytest.approx(expected, rel=1e-12)
        assert [term.atom.kind for term in plan.rows[k]] == ["x", "clean", "noise"]


def noise_coefficients(plan: Plan) -> list[float]:
    return [term.coefficient for row in plan.rows for term in row if term.atom.kind == "noise"]


def test_amounts_of_noise_are_those_of_the_papers() -> None:
    schedule, grid = VPLinear(), grids.uniform(4, end=0.1)
    alpha_bar = schedule(grid)[0].square()
    t, s = alpha_bar[:-1], alpha_bar[1:]
    # Song et al., DDIM, 2021, eq. 16
    ddim = 0.3 * ((1 - s) / (1 - t)).sqrt() * (1 - t / s).sqrt()
    assert noise_coefficients(solvers.ddim(schedule, grid, eta=0.3)) == pytest.approx(ddim.tolist(), rel=1e-12)
    # Xue et al., SA-Solver, 2023, proposition 4.2, at tau = 0.3; in DPM-Solver++'s SDE forms eta is tau^2.
    h = schedule.log_snr(grid).diff() / 2
    fresh = ((1 - s) * (1 - torch.exp(-2 * 0.09 * h))).sqrt().tolist()
    assert noise_coefficients(solvers.sa_solver(schedule, grid, tau=0.3)) == pytest.approx(fresh, rel=1e-12)
    for solver in (solvers.dpmpp_sde_2m, solvers.dpmpp_sde_3m):
        assert noise_coefficients(solver(schedule, grid, eta=0.09)) == pytest.approx(fresh, rel=1e-12)


LATE = torch.tensor([0.9, 0.6, 0.5], dtype=torch.float64)


def test_sa_solver_damps_as_much_as_it_draws() -> None:
    """tau enters the predictor, the corrector and the noise alike: one-estimate SA is SDE-DPM-Solver++ of order one."""
    grid = torch.tensor([0.9, 0.6], dtype=torch.float64)
    for schedule in SCHEDULES.values():
        same(solvers.sa_solver(schedule, grid, tau=0.3), solvers.dpmpp_sde_2m(schedule, grid, eta=0.09))
    tape = Tape()
    t, s, u = levels_at(VPLinear(), LATE)
    x, clean = tape.denoise(tape.start, t.t)
    draw_one = s.sigma * math.sqrt(-math.expm1(-2 * 0.09 * (s.lam - t.lam))) * tape.noise()
    kept = (s.sigma / t.sigma) * math.exp(-0.09 * (s.lam - t.lam)) * x + draw_one
    weight = -s.alpha * math.expm1(-1.09 * (s.lam - t.lam))
    _, clean = tape.denoise(kept + weight * clean, s.t)
    draw_two = u.sigma * math.sqrt(-math.expm1(-2 * 0.09 * (u.lam - s.lam))) * tape.noise()
    corrected = kept + weight * clean
    end = (u.sigma / s.sigma) * math.exp(-0.09 * (u.lam - s.lam)) * corrected + draw_two
    expected = tape.plan(end - u.alpha * math.expm1(-1.09 * (u.lam - s.lam)) * clean, u.t)
    same(
        solvers.sa_solver(VPLinear(), LATE, tau=0.3, predictor=1, corrector=1),
        expected,
    )


def test_2m_is_the_papers_on_uneven_steps() -> None:
    """Lu et al., DPM-Solver++, 2022, algorithm 2: D = (1 + 1 / (2 r)) clean - 1 / (2 r) last, r = h_last / h."""
    for schedule in (VPLinear(), RectifiedFlow()):
        _, t, s = levels = levels_at(schedule, LATE)
        last_h, h = levels[1].lam - levels[0].lam, levels[2].lam - levels[1].lam
        share = -s.alpha * math.expm1(-h)
        expected = [s.sigma / t.sigma, share * (1 + h / (2 * last_h)), -share * h / (2 * last_h)]
        row = solvers.dpmpp_2m(schedule, LATE).rows[1]
        assert [term.coefficient for term in row] == pytest.approx(expected, rel=1e-12)


def test_every_call_is_made_at_the_time_of_its_state() -> None:
    grid = grids.uniform(3)
    third = float(grid[1]), float(grid[2])
    assert solvers.dpmpp_2m(VPLinear(), grid).times == (1.0, *third, 0.0)
    assert solvers.heun(VPLinear(), grid).times == (1.0, third[0], third[0], third[1], third[1], 0.0)
    assert solvers.langevin(VPLinear(), grid).times == (1.0, third[0], third[0], third[1], third[1], 0.0)
    middle = solvers.midpoint(VPLinear(), grid).times
    assert middle == pytest.approx((1.0, 5 / 6, third[0], 0.5, third[1], 0.0), abs=1e-15)
    two = solvers.dpmpp_2s(VPLinear(), grid).times
    lam = VPLinear().log_snr(torch.tensor(two[:-1], dtype=torch.float64)).tolist()
    assert (lam[1], lam[3]) == pytest.approx(((lam[0] + lam[2]) / 2, (lam[2] + lam[4]) / 2), rel=1e-12)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_methods_that_are_one_another(schedule: str) -> None:
    make, grid = SCHEDULES[schedule], grids.cosine(6, end=0.1)
    ddim = solvers.ddim(make, grid)
    same(ddim, solvers.dpmpp_1s(make, grid))
    for first_order in (
        solvers.exponential_ab,
        solvers.adams_bashforth_clean,
        solvers.adams_bashforth_noise,
        solvers.deis,
    ):
        same(ddim, first_order(make, grid, order=1))
    same(solvers.ddim(make, grid, eta=1.0), solvers.ddpm(make, grid))
    same(solvers.dpmpp_2m(make, grid), solvers.dpmpp_sde_2m(make, grid, eta=0.0))
    same(solvers.exponential_ab(make, grid, order=3), solvers.dpmpp_sde_3m(make, grid, eta=0.0))
    same(solvers.sa_solver(make, grid, tau=0.0, predictor=1, corrector=1), corrected_euler(make, grid))


def corrected_euler(schedule: Schedule, grid: Tensor) -> Plan:
    """x_s = (sigma_s / sigma_t) x_t + alpha_s (1 - exp(-h)) clean_s: implicit, once clean_s is known."""
    tape, corrected, before = Tape(), None, None
    guess = tape.start
    found = levels_at(schedule, grid)
    for t, s in itertools.pairwise(found):
        x, clean = tape.denoise(guess, t.t)
        if corrected is None or before is None or before.alpha == 0:
            corrected = x  # the start, or a step that no correction follows
        else:
            corrected = (t.sigma / before.sigma) * corrected + gain(before, t) * clean
        guess, before = (s.sigma / t.sigma) * corrected + gain(t, s) * clean, t
    return tape.plan(guess, found[-1].t)


def gain(t: Level, s: Level) -> float:
    """alpha_s (1 - exp(-h)), as a difference."""
    return s.alpha - t.alpha * s.sigma / t.sigma


def test_3m_is_the_exact_integral_of_a_parabola() -> None:
    """Written with phi functions and divided differences, it equals quadrature of Lagrange polynomials."""
    grid = torch.tensor([0.95, 0.8, 0.55, 0.4, 0.33], dtype=torch.float64)
    for schedule in SCHEDULES.values():
        written, integrated = solvers.dpmpp_3m(schedule, grid), solvers.exponential_ab(schedule, grid, order=3)
        for row, other in zip(written.rows[2:], integrated.rows[2:], strict=True):
            assert [term.atom for term in row] == [term.atom for term in other]
            expected = [term.coefficient for term in other]
            assert [term.coefficient for term in row] == pytest.approx(expected, rel=1e-10)


def test_euler_on_straight_paths_is_ddim() -> None:
    same(solvers.euler(RectifiedFlow(), grids.uniform(5)), solvers.ddim(RectifiedFlow(), grids.uniform(5)))


@pytest.mark.parametrize("order", [1, 2, 3])
def test_exponential_methods_are_exact_for_polynomials_in_lambda(order: int) -> None:
    """With a clean estimate that is a polynomial of degree order - 1 in lambda, whatever x is."""
    schedule, grid = VPLinear(), torch.tensor([0.9, 0.7, 0.6, 0.45, 0.2, 0.1], dtype=torch.float64)

    def clean(x: Tensor, t: Tensor) -> Tensor:
        lam = (schedule.log_snr(t) / 2)[:, None]
        return torch.ones_like(x) * (0.3 + (order > 1) * 0.7 * lam - (order > 2) * 0.4 * lam**2)

    found, denoiser = run(solvers.exponential_ab(schedule, grid, order=order), schedule, clean)
    # From call order - 1 on there are enough estimates. The flow in y = x / sigma: dy / dlambda = exp(lambda) clean.
    start, t, _ = denoiser.calls[order - 1]

    def integrand(lam: float) -> float:
        time = schedule.time(torch.tensor([2 * lam], dtype=torch.float64))
        return math.exp(lam) * float(clean(torch.zeros(1, 1, dtype=torch.float64), time))

    ends = [float(schedule.log_snr(time)) / 2 for time in (t[0], grid[-1])]
    integral = scipy.integrate.quad(integrand, *ends, epsabs=1e-12, epsrel=1e-12)[0]
    sigma_t, sigma_s = schedule(t[0])[1], schedule(grid[-1])[1]
    torch.testing.assert_close(found, sigma_s * (start / sigma_t + integral), rtol=1e-10, atol=1e-10)


def test_memory_is_what_the_rows_look_back_to() -> None:
    schedule, grid = VPLinear(), grids.cosine(8, end=0.05)
    assert solvers.ddim(schedule, grid).memory == 0
    assert solvers.dpmpp_2m(schedule, grid).memory == 1
    assert solvers.heun(schedule, grid).memory == 1
    assert solvers.dpmpp_3m(schedule, grid).memory == 2
    assert solvers.unipc(schedule, grid, order=2).memory == 2  # the last prediction's oldest estimate is taken back
    for solver, _ in SOLVERS.values():
        plan = solver(schedule, grid)
        oldest = [k - term.atom.number for k, row in enumerate(plan.rows) for term in row if term.atom.kind != "noise"]
        assert plan.memory == max(oldest) <= 3
