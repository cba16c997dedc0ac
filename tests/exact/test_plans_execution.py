"""Plans: what a step costs, the noise they draw, learned variances, rounding, and what they refuse."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from gaussian_solvers import DETERMINISTIC, SCHEDULES, SOLVERS
from plan_runs import LAYOUT, NOISE, Exact, bent, run, same
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from scidiff import grids, solvers
from scidiff.noise import Noise
from scidiff.processes.gaussian import GaussianProcess, ZeroMeanGaussianProcess
from scidiff.processes.parametrisations import Data
from scidiff.sampling import sample
from scidiff.schedules import Cosine, Schedule, VPLinear
from scidiff.solvers.base import Trace
from scidiff.solvers.levels import levels_at
from scidiff.solvers.plan import Plan, Tape
from scidiff.state import Layout, State


class Counter(TorchDispatchMode):
    """Counts the tensor operations that run inside it."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return func(*args, **(kwargs or {}))


class Silent(GaussianProcess):
    """A process whose noise costs nothing."""

    def unit_noise(self, rows: Any, draw: Any, *, dtype: torch.dtype, kind: str = "noise") -> Tensor:
        return SILENCE.to(dtype)


SILENCE = torch.zeros(3, 4)


def unused(step: int) -> Any:
    """In place of keyed draws, for a process that does not draw."""


def operations(plan: Plan) -> int:
    """Tensor operations of the costliest advance."""
    trace = Trace()
    process = Silent(schedule=VPLinear(), parametrisation=Data())
    most = 0
    for k in range(plan.calls):
        trace.record(torch.zeros(3, 4), torch.zeros(3, 4))
        with Counter() as counter:
            plan.advance(k, trace, process, LAYOUT.rows("x"), unused)
        most = max(most, counter.count)
    return most


def test_an_advance_takes_few_tensor_operations() -> None:
    grid = grids.cosine(8, end=0.05)
    expected = {
        "ddim": 2,
        "ddim 1": 3,
        "dpmpp_2m": 3,
        "dpmpp_3m": 4,
        "dpmpp_sde_2m": 4,
        "unipc 2": 4,
        "exponential_ab 3": 4,
    }
    assert {name: operations(SOLVERS[name][0](VPLinear(), grid)) for name in expected} == expected
    assert max(operations(solver(VPLinear(), grid)) for solver, _ in SOLVERS.values()) <= 6


def test_time_travel_goes_back_up() -> None:
    schedule, grid = Cosine(), grids.uniform(4)
    plan = solvers.time_travel(schedule, grid, jump=2, repeats=2)
    assert plan.times == (1.0, 0.75, 1.0, 0.75, 0.5, 0.25, 0.5, 0.25, 0.0)
    assert plan.reach == (0.75, 0.5, 0.75, 0.5, 0.25, 0.0, 0.25, 0.0)
    single = solvers.time_travel(schedule, grid, jump=1, repeats=2)
    assert single.times == (1.0, 1.0, 0.75, 0.75, 0.5, 0.5, 0.25, 0.25, 0.0)
    assert single.reach == (0.75, 0.75, 0.5, 0.5, 0.25, 0.25, 0.0, 0.0)
    same(solvers.time_travel(schedule, grid, jump=3, repeats=1, eta=0.5), solvers.ddim(schedule, grid, eta=0.5))


def test_churn_reaches_the_level_it_starts_from() -> None:
    plan = solvers.heun_churn(VPLinear(), grids.uniform(5), churn=1.0, lowest=0.0, highest=1e9)
    descents = [time for time, low in zip(plan.times[1:], plan.reach, strict=True) if time > low]
    assert len(descents) == 4  # before every step but the first
    for time, low in zip(plan.times[1:], plan.reach, strict=True):
        if time > low > 0:
            ratio = VPLinear().log_snr(torch.tensor([low, time], dtype=torch.float64)).diff() / -2
            assert float(ratio) == pytest.approx(math.log(1.2), rel=1e-9)
    quiet = solvers.heun_churn(VPLinear(), grids.uniform(5), churn=1.0, lowest=1e8, highest=1e9)
    same(quiet, solvers.heun(VPLinear(), grids.uniform(5)))


def test_noise_keeps_its_key_when_used_again() -> None:
    tape = Tape()
    x, clean = tape.denoise(tape.start, 1.0)
    noise, other = tape.noise(), tape.noise()
    x, clean = tape.denoise(clean + 2.0 * noise, 0.5)
    plan = tape.plan(x - 2.0 * noise + 3.0 * other + tape.noise(), 0.1)
    assert [(key.step, key.kind) for key in plan.noises] == [(1, "noise0"), (1, "noise1"), (2, "noise0")]
    found, denoiser = run(plan, VPLinear(), lambda x, t: torch.zeros_like(x))
    rows = LAYOUT.rows("x")
    drawn = [NOISE.at("x", step, rows).normal(dtype=torch.float64, kind=kind) for step, kind in plan.noises]
    assert not torch.equal(drawn[0], drawn[1])
    torch.testing.assert_close(denoiser.calls[1][0], 2 * drawn[0])
    torch.testing.assert_close(found, 3 * drawn[1] + drawn[2])


def test_noise_stays_in_the_subspace_of_zero_mean() -> None:
    layout = Layout.ragged({"x": torch.tensor([3, 5])}, {"x": (2,)})
    process = ZeroMeanGaussianProcess(schedule=VPLinear(), parametrisation=Data(), dtype=torch.float64)
    plan = solvers.dpmpp_sde_2m(VPLinear(), grids.uniform(6, end=0.1))
    noise = Noise(seed=1, index=torch.tensor([0, 1]))
    x = sample(Exact(lambda x, t: 0.5 * x), {"x": process}, {"x": plan}, layout, noise).state["x"]
    assert float(x.abs().max()) > 0.1
    torch.testing.assert_close(layout.rows("x").sum(x), torch.zeros(2).double(), atol=1e-12, rtol=0)


def learned(schedule: Schedule, grid: Tensor, output: float) -> tuple[Tensor, Tensor]:
    """Samples with learned variance at a constant output, and with the fixed variance it stands for."""

    class WithVariance(Exact):
        def forward(self, x_t: State, t: Tensor, layout: Layout, condition: Any = None) -> State:
            return {**super().forward(x_t, t, layout), "x.variance": torch.full_like(x_t["x"], output)}

    process = {"x": GaussianProcess(schedule=schedule, parametrisation=Data(), dtype=torch.float64)}
    rule = solvers.ddpm_learned(schedule, grid)
    found = sample(WithVariance(bent), process, {"x": rule}, LAYOUT, NOISE).state["x"]
    fixed, _ = run(solvers.ddpm(schedule, grid, spread=(output + 1) / 2), schedule, bent)
    return found, fixed


@pytest.mark.parametrize("output", [-1.0, 0.2, 1.0])
@pytest.mark.parametrize("schedule", ["VPLinear", "Cosine", "VE"])
def test_learned_variance_interpolates_the_fixed_ones(schedule: str, output: float) -> None:
    for grid in (grids.uniform(5), grids.uniform(5, end=0.1)):
        torch.testing.assert_close(*learned(SCHEDULES[schedule], grid, output), rtol=1e-10, atol=1e-12)


def test_learned_variance_needs_one() -> None:
    with pytest.raises(ValueError, match="expected a learned variance"):
        run(solvers.ddpm_learned(VPLinear(), grids.uniform(3)), VPLinear(), bent)


@cache
def uniform_plan(name: str, n: int) -> Plan:
    return SOLVERS[name][0](VPLinear(), grids.uniform(n, end=1e-3))


def end_without_noise(name: str, n: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The end of a solver's run on data N(m, s^2) with silent noise, in a precision; and the exact flow's, float64."""
    schedule, data = VPLinear(), solvers.Gaussian(mean=0.7, std=0.6)
    plan = uniform_plan(name, n)
    levels = levels_at(schedule, torch.tensor(plan.times, dtype=torch.float64))
    process = Silent(schedule=schedule, parametrisation=Data())
    start = torch.linspace(-2, 2, 12, dtype=torch.float64).reshape(3, 4)
    trace, x = Trace(), start.to(dtype)
    for k, level in enumerate(levels[:-1]):
        gain = data.gain(level)
        trace.record(x, gain * x + data.mean * (1 - gain * level.alpha))
        x = plan.advance(k, trace, process, LAYOUT.rows("x"), unused)
        trace.forget(k - plan.memory)
    (mean_1, std_1), (mean, std) = data.moments(levels[0]), data.moments(levels[-1])
    return x.double(), mean + std / std_1 * (start - mean_1)


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_float32_error_never_rises_with_the_number_of_steps(name: str) -> None:
    ends = [end_without_noise(name, n, torch.float32) for n in (10, 30, 100, 300, 1000)]
    errors = [float((found - exact).abs().max()) for found, exact in ends]
    assert errors == sorted(errors, reverse=True)


@pytest.mark.parametrize("name", sorted(set(SOLVERS) - set(DETERMINISTIC)))
def test_rounding_of_a_thousand_float32_steps_is_a_few_last_digits(name: str) -> None:
    single, _ = end_without_noise(name, 1000, torch.float32)
    double, _ = end_without_noise(name, 1000, torch.float64)
    assert float((single - double).abs().max()) < 64 * torch.finfo(torch.float32).eps


def test_errors_say_what_was_expected() -> None:
    tape = Tape()
    with pytest.raises(ValueError, match="expected a call of the denoiser before the first noise"):
        tape.noise()
    with pytest.raises(ValueError, match="expected at least one call of the denoiser"):
        tape.plan(tape.start, 0.0)
    with pytest.raises(ValueError, match=r"expected the first call of the denoiser on tape\.start"):
        tape.denoise(2.0 * tape.start, 1.0)
    x, clean = tape.denoise(tape.start, 1.0)
    with pytest.raises(ValueError, match="expected a state after call 0, got an empty sum"):
        tape.plan(x - x, 0.5)
    tape = Tape()
    x, clean = tape.denoise(tape.start, 1.0)
    with pytest.raises(ValueError, match="expected finite coefficients, got inf for clean 0 in row 0"):
        tape.plan(x + math.inf * clean, 0.5)
    trace = Trace()
    trace.record(SILENCE, SILENCE)
    trace.record(SILENCE, SILENCE)
    trace.forget(0)
    longer = solvers.dpmpp_2m(VPLinear(), grids.uniform(3))
    with pytest.raises(RuntimeError, match="expected the trace to hold what a rule looks at"):
        longer.advance(
            1,
            trace,
            Silent(schedule=VPLinear(), parametrisation=Data()),
            LAYOUT.rows("x"),
            lambda step: NOISE.at("x", step, LAYOUT.rows("x")),
        )


BAD_CALLS: list[tuple[Callable[[], Any], str]] = [
    (lambda: solvers.ddim(VPLinear(), torch.tensor([1.0])), "at least two times"),
    (lambda: solvers.ddim(VPLinear(), torch.tensor([1.0, 0.5, 0.5])), "fall strictly"),
    (lambda: solvers.ddim(VPLinear(), torch.tensor([1.2, 0.5])), "at most 1"),
    (lambda: solvers.ddim(VPLinear(), torch.tensor([1.0, -0.5])), "at least 0"),
    (lambda: solvers.ddim(VPLinear(), grids.uniform(3), eta=1.5), "eta in"),
    (lambda: solvers.ddpm(VPLinear(), grids.uniform(3), spread=-0.5), "spread in"),
    (lambda: solvers.dpmpp_sde_2m(VPLinear(), grids.uniform(3), eta=-1.0), "eta >= 0"),
    (lambda: solvers.dpmpp_sde_3m(VPLinear(), grids.uniform(3), eta=math.inf), "eta >= 0"),
    (lambda: solvers.sa_solver(VPLinear(), grids.uniform(3), tau=-1.0), "tau >= 0"),
    (lambda: solvers.sa_solver(VPLinear(), grids.uniform(3), corrector=0), "an order of"),
    (lambda: solvers.unipc(VPLinear(), grids.uniform(3), order=4), "an order of"),
    (lambda: solvers.deis(VPLinear(), grids.uniform(3), order=0), "an order of"),
    (lambda: solvers.exponential_ab(VPLinear(), grids.uniform(3), order=0), "an order of"),
    (lambda: solvers.heun_churn(VPLinear(), grids.uniform(3), churn=0.0), "churn > 0"),
    (lambda: solvers.heun_churn(VPLinear(), grids.uniform(3), lowest=2.0, highest=1.0), "lowest <= highest"),
    (lambda: solvers.langevin(VPLinear(), grids.uniform(3), strength=0.0), "strength > 0"),
    (lambda: solvers.langevin(VPLinear(), grids.uniform(3), eta=2.0), "eta in"),
    (lambda: solvers.time_travel(VPLinear(), grids.uniform(3), jump=0), "jump >= 1"),
    (lambda: solvers.time_travel(VPLinear(), grids.uniform(3), eta=2.0), "eta in"),
]


@pytest.mark.parametrize(("call", "message"), BAD_CALLS)
def test_bad_arguments_are_refused(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
