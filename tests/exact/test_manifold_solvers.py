"""Geodesic solvers on problems whose probability flow is known: heat kernels as data, and mixtures of them."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from scipy.optimize import brentq
from scipy.special import ndtr
from torch import Tensor

from scidiff.denoiser import Denoiser
from scidiff.noise import Draw, Noise
from scidiff.processes import so3_kernel
from scidiff.processes.base import Process
from scidiff.processes.gaussian import GaussianProcess
from scidiff.processes.manifold import ManifoldProcess, ScaledScore
from scidiff.processes.parametrisations import Data
from scidiff.processes.so3 import SO3, rotation_exp
from scidiff.processes.torus import Torus, wrap
from scidiff.sampling import sample
from scidiff.schedules import VE
from scidiff.solvers.ancestral import ddim
from scidiff.solvers.base import Rule, Trace
from scidiff.solvers.following import Following
from scidiff.solvers.heun import heun
from scidiff.solvers.manifold import GeodesicEuler, GeodesicMultistep
from scidiff.solvers.plan import Plan
from scidiff.state import Layout, Rows, State

SPREAD = 0.25  # variance of the data's kernel
SCHEDULE = VE(sigma_min=0.05, sigma_max=3.0)
END = 0.4
Clean = Callable[[Tensor, Tensor], Tensor]

ON_TORUS = ManifoldProcess(manifold=Torus(), schedule=SCHEDULE, parametrisation=ScaledScore())
ON_SO3 = ManifoldProcess(manifold=SO3(), schedule=SCHEDULE, parametrisation=ScaledScore())


def descent(n: int, end: float = END) -> dict[str, tuple[float, ...]]:
    times = tuple(np.linspace(1, end, n + 1).tolist())
    return {"times": times, "reach": times[1:]}


def follow(rule: Rule, process: Process, clean: Clean, x: Tensor, rows: Rows, noise: Noise) -> Tensor:  # noqa: PLR0917
    trace = Trace()
    for k in range(len(rule.times) - 1):
        t = torch.full((rows.batch,), rule.times[k], dtype=torch.float64)
        trace.record(x, clean(x, t))
        trace.forget(k - rule.memory - 1)
        x = rule.advance(k, trace, process, rows, lambda step: noise.at("x", step, rows))
    return x


def mixture(process: ManifoldProcess, centres: Tensor, weights: Tensor, rows: Rows) -> Clean:
    """The exact Tweedie point for data drawn from kernels of variance SPREAD about the centres."""

    def clean(x: Tensor, t: Tensor) -> Tensor:
        variance = process.variance(t)
        spread = variance + SPREAD
        at = [centre.to(x).expand_as(x) for centre in centres]
        logits = torch.stack([process.manifold.log_kernel(x, c, spread, rows) for c in at]) + weights.log().reshape(
            -1, *([1] * (1 + len(rows.shape) - len(process.manifold.point)))
        )
        share = logits.softmax(0).reshape(*logits.shape, *([1] * len(process.manifold.vector))).to(x.dtype)
        score = (share * torch.stack([process.manifold.score(x, c, spread, rows) for c in at])).sum(0)
        return process.manifold.exp(x, process.manifold.per_vector(variance, rows).to(x.dtype) * score)

    return clean


def one_torus_kernel() -> tuple[Rows, Tensor, Tensor, Clean]:
    """Start, end and clean estimate: angles keep their quantile, with a centre at 0.4."""
    rows = Layout.dense(9, {"x": ()}).rows("x")
    offset = torch.linspace(-2.9, 2.9, 9, dtype=torch.float64)

    def quantile(d: float, variance: float) -> float:
        k = np.arange(-8, 9) * 2 * math.pi
        return float((ndtr((d + k) / math.sqrt(variance)) - ndtr((k - math.pi) / math.sqrt(variance))).sum())

    variances = [SPREAD + float(SCHEDULE(torch.tensor(t, dtype=torch.float64))[1]) ** 2 for t in (1.0, END)]
    ends = [
        brentq(
            lambda d, o=float(o): quantile(d, variances[1]) - quantile(o, variances[0]), -math.pi, math.pi, xtol=1e-14
        )
        for o in offset
    ]
    centre, one = torch.tensor([0.4], dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    start, end = ON_TORUS.manifold.exp(offset, centre), ON_TORUS.manifold.exp(torch.tensor(ends), centre)
    return rows, start, end, mixture(ON_TORUS, centre, one, rows)


def one_so3_kernel() -> tuple[Rows, Tensor, Tensor, Clean]:
    """Start, end and clean estimate: rotations keep their axis about the centre and the quantile of their angle."""
    rows = Layout.dense(5, {"x": (3, 3)}).rows("x")
    omega = torch.tensor([0.3, 1.0, 1.7, 2.4, 3.0], dtype=torch.float64)
    axis = torch.tensor([[1, 0, 0], [0, 1, 0], [0, 0, 1], [0.6, 0, -0.8], [0, 0.8, 0.6]], dtype=torch.float64)
    begin, finish = (SPREAD + SCHEDULE(torch.full((5,), t, dtype=torch.float64))[1].square() for t in (1.0, END))
    x, w = np.polynomial.legendre.leggauss(200)
    inside = omega[:, None] * torch.as_tensor(x + 1) / 2
    quantile = (so3_kernel.angle_density(inside, begin[:, None]) * torch.as_tensor(w)).sum(-1) * omega / 2
    after = so3_kernel.angle_from_uniform(quantile, finish, rows)
    centre = rotation_exp(torch.tensor([[0.5, -1.2, 0.8]], dtype=torch.float64))
    start, end = (centre @ rotation_exp(angle[:, None] * axis) for angle in (omega, after))
    return rows, start, end, mixture(ON_SO3, centre, torch.ones(1, dtype=torch.float64), rows)


@functools.cache
def three_so3_kernels() -> tuple[Rows, Tensor, Tensor, Clean]:
    """A flow that turns about changing axes; its end by an eighth-order method on the nine matrix entries."""
    rows = Layout.dense(3, {"x": (3, 3)}).rows("x")
    vectors = [[0.5, -1.2, 0.8], [-0.9, 0.4, 0.2], [1.0, 1.5, -0.3]]
    centres = rotation_exp(torch.tensor(vectors, dtype=torch.float64))
    clean = mixture(ON_SO3, centres, torch.tensor([0.5, 0.2, 0.3], dtype=torch.float64), rows)
    start = rotation_exp(torch.tensor([[0.1, 0.2, 1.9], [-1.0, 0.7, 0.3], [0.9, -0.8, -0.9]], dtype=torch.float64))

    def field(sigma: float, y: np.ndarray) -> np.ndarray:
        x = torch.as_tensor(y).reshape(3, 3, 3)
        u, _, vh = torch.linalg.svd(x)
        t = SCHEDULE.time(torch.full((3,), -2 * math.log(sigma), dtype=torch.float64))
        v = ON_SO3.manifold.log(u @ vh, clean(u @ vh, t)) / sigma
        a, b, c = v.unbind(-1)
        o = torch.zeros_like(a)
        turn = torch.stack([o, -c, b, c, o, -a, -b, a, o], -1).reshape(3, 3, 3)
        return -(x @ turn).flatten().numpy()

    first, last = (float(SCHEDULE(torch.tensor(t, dtype=torch.float64))[1]) for t in (1.0, END))
    found = solve_ivp(field, (first, last), start.flatten().numpy(), method="DOP853", rtol=1e-8, atol=1e-10)
    return rows, start, torch.as_tensor(found.y[:, -1]).reshape(3, 3, 3), clean


PROBLEMS = {
    "torus": (ON_TORUS, one_torus_kernel),
    "so3": (ON_SO3, one_so3_kernel),
    "so3 mixture": (ON_SO3, three_so3_kernels),
}


@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize(("kind", "order"), [(GeodesicEuler, 1.0), (GeodesicMultistep, 2.0)])
def test_order(problem: str, kind: type[Following], order: float) -> None:
    process, make = PROBLEMS[problem]
    rows, start, end, clean = make()
    noise = Noise(seed=0, index=torch.arange(rows.batch))
    errors = []
    for n in (60, 120):
        x = follow(kind(**descent(n)), process, clean, start, rows, noise)
        errors.append(float(process.manifold.log(end, x).norm()))
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.1)
    assert errors[-1] < (4e-2 if order == 1 else 4e-3)


def test_multistep_keeps_its_order_beside_a_plan_of_two_calls_a_step() -> None:
    rows, start, end, clean = one_so3_kernel()
    noise = Noise(seed=0, index=torch.arange(rows.batch))
    errors = []
    for n in (40, 80):
        plain = descent(n)["times"]
        times = tuple(t for t in plain for _ in range(2))[1:-1] + plain[-1:]
        assert times[:4] == (plain[0], plain[1], plain[1], plain[2])
        x = follow(GeodesicMultistep(times=times, reach=times[1:]), ON_SO3, clean, start, rows, noise)
        errors.append(float(ON_SO3.manifold.log(end, x).norm()))
    assert math.log2(errors[0] / errors[1]) == pytest.approx(2.0, abs=0.15)
    x = follow(GeodesicMultistep(**descent(80)), ON_SO3, clean, start, rows, noise)
    assert float(ON_SO3.manifold.log(end, x).norm()) == pytest.approx(errors[1], rel=1e-6)


@pytest.mark.parametrize("process", [ON_TORUS, ON_SO3])
def test_one_step_is_exact_for_data_at_one_point_of_small_noise(process: ManifoldProcess) -> None:
    # Far from the cut locus the flow of a single point is the geodesic to it: any number of steps ends at
    # x_0 + (sigma_s / sigma_t) (x_t - x_0).
    shape = process.manifold.point
    rows = Layout.dense(6, {"x": shape}).rows("x")
    noise = Noise(seed=4, index=torch.arange(6))
    x_0 = process.manifold.uniform(rows, noise.at("x", 7, rows), dtype=torch.float64)
    t = torch.full((6,), 0.3, dtype=torch.float64)
    v = process.manifold.normal(rows, noise.at("x", 8, rows), dtype=torch.float64)
    sigma_t, sigma_s = (float(SCHEDULE(torch.tensor(s, dtype=torch.float64))[1]) for s in (0.3, 0.1))
    x_t = process.manifold.exp(x_0, sigma_t * v)
    for kind in (GeodesicEuler, GeodesicMultistep):
        for times in ((0.3, 0.1), (0.3, 0.22, 0.15, 0.1)):
            x = follow(kind(times=times, reach=times[1:]), process, lambda x, t: x_0, x_t, rows, noise)
            torch.testing.assert_close(x, process.manifold.exp(x_0, sigma_s * v), atol=1e-12, rtol=0)
        done = follow(kind(times=(0.3, 0.0), reach=(0.0,)), process, lambda x, t: x_0, x_t, rows, noise)
        torch.testing.assert_close(done, x_0, atol=1e-12, rtol=0)
    assert float(process.variance(t)[0]) == pytest.approx(sigma_t**2)


@pytest.mark.parametrize("eta", [0.5, 1.0])
def test_random_walk_has_the_distribution_of_the_data(eta: float) -> None:
    # Two wrapped normals: E[exp(i m x)] = sum_c weight_c exp(i m c) exp(-m^2 (SPREAD + sigma_end^2) / 2)
    count, n = 20_000, 60
    rows = Layout.dense(20, {"x": (count // 20,)}).rows("x")
    noise = Noise(seed=6, index=torch.arange(20))
    centres = torch.tensor([-1.0, 1.9], dtype=torch.float64)
    weights = torch.tensor([0.3, 0.7], dtype=torch.float64)
    clean = mixture(ON_TORUS, centres, weights, rows)
    start = ON_TORUS.manifold.uniform(rows, noise.at("x", 0, rows), dtype=torch.float64)
    x = follow(GeodesicEuler(**descent(n, 0.2), eta=eta), ON_TORUS, clean, start, rows, noise)
    variance = SPREAD + float(SCHEDULE(torch.tensor(0.2, dtype=torch.float64))[1]) ** 2
    for m in (1, 2):
        damping = math.exp(-(m**2) * variance / 2)
        for part in (torch.cos, torch.sin):
            expected = damping * float((weights * part(m * centres)).sum())
            assert float(part(m * x).mean()) == pytest.approx(expected, abs=4 / math.sqrt(count) + 0.02)


def test_random_walk_on_rotations_has_the_distribution_of_the_data() -> None:
    rows = Layout.dense(20, {"x": (300, 3, 3)}).rows("x")
    noise = Noise(seed=6, index=torch.arange(20))
    centre = rotation_exp(torch.tensor([[0.5, -1.2, 0.8]], dtype=torch.float64))
    clean = mixture(ON_SO3, centre, torch.ones(1, dtype=torch.float64), rows)
    start = ON_SO3.manifold.uniform(rows, noise.at("x", 0, rows), dtype=torch.float64)
    x = follow(GeodesicEuler(**descent(40, 0.2), eta=1.0), ON_SO3, clean, start, rows, noise)
    variance = SPREAD + float(SCHEDULE(torch.tensor(0.2, dtype=torch.float64))[1]) ** 2
    mean = (centre.mT @ x).mean((0, 1))
    error = mean - math.exp(-variance) * torch.eye(3, dtype=torch.float64)
    assert float(error.abs().max()) < 4 / math.sqrt(6000) + 0.02


def test_equal_times_keep_the_state_and_higher_times_noise_it() -> None:
    rows = Layout.dense(400, {"x": (20,)}).rows("x")
    noise = Noise(seed=6, index=torch.arange(400))
    x_0 = torch.zeros(400, 20, dtype=torch.float64)
    start = 0.3 * noise.at("x", 0, rows).normal(dtype=torch.float64)
    kept = follow(GeodesicEuler(times=(0.4, 0.4), reach=(0.4,)), ON_TORUS, lambda x, t: x_0, start, rows, noise)
    assert torch.equal(kept, start)
    # Down to 0.1 and up to 0.3: the variance is the shrunken start's plus the difference of the noise levels.
    rule = GeodesicMultistep(times=(0.4, 0.3), reach=(0.1,))
    x = follow(rule, ON_TORUS, lambda x, t: x_0, start, rows, noise)
    high, low, back = (float(SCHEDULE(torch.tensor(t, dtype=torch.float64))[1]) for t in (0.4, 0.1, 0.3))
    expected = 0.09 * (low / high) ** 2 + back**2 - low**2
    assert float(x.square().mean()) == pytest.approx(expected, rel=4 * math.sqrt(2 / 8000))


class Both(Denoiser):
    """The exact denoiser of an angle and of a number N(0.7, 0.6^2)."""

    def __init__(self, angle: Clean) -> None:
        super().__init__()
        self.angle = angle

    def forward(self, x_t: State, t: Tensor, layout: Layout, condition: Any = None) -> State:
        variance = SCHEDULE(t)[1].square()
        return {"x": self.angle(x_t["x"], t), "number": 0.7 + 0.36 / (0.36 + variance) * (x_t["number"] - 0.7)}


@pytest.mark.parametrize(("make_plan", "steps"), [(ddim, 100), (heun, 50)])
def test_an_angle_beside_a_number_in_the_one_loop(make_plan: Callable[..., Plan], steps: int) -> None:
    rows, start, end, clean = one_torus_kernel()
    layout = Layout(batch=9, leaves={"x": rows, "number": rows})
    plan = make_plan(SCHEDULE, torch.linspace(1, END, steps + 1, dtype=torch.float64))
    number = GaussianProcess(schedule=SCHEDULE, parametrisation=Data())
    values = torch.linspace(-3, 4, 9, dtype=torch.float64)
    result = sample(
        Both(clean),
        {"x": ON_TORUS, "number": number},
        {"x": GeodesicMultistep(times=plan.times, reach=plan.reach), "number": plan},
        layout,
        Noise(seed=0, index=torch.arange(9)),
        initial={"x": start, "number": values},
    )
    # Of second order whether the plan calls the denoiser once a step or twice.
    assert float(wrap(result.state["x"] - end).abs().max()) < 11 / steps**2
    high, low = (float(SCHEDULE(torch.tensor(t, dtype=torch.float64))[1]) for t in (1.0, END))
    expected = 0.7 + math.hypot(0.6, low) / math.hypot(0.6, high) * (values - 0.7)
    assert float((result.state["number"] - expected).abs().max()) < 2e-2


@pytest.mark.slow
@pytest.mark.parametrize("rule", [GeodesicEuler(**descent(3), eta=1.0), GeodesicMultistep(**descent(3))])
def test_geodesic_sampling_compiles_without_a_break(rule: Following) -> None:
    rows, start, _, clean = one_so3_kernel()
    noise = Noise(seed=0, index=torch.arange(rows.batch))

    def run(x: Tensor) -> Tensor:
        return follow(rule, ON_SO3, clean, x, rows, noise)

    torch.testing.assert_close(torch.compile(run, fullgraph=True, backend="aot_eager")(start), run(start))


@pytest.mark.parametrize("eta", [0.0, 0.6, 1.0])
def test_a_step_with_fresh_noise_has_the_moments_of_the_posterior(eta: float) -> None:
    # Given x_0, at small noise: x_s ~ N(x_0 + kept (x_t - x_0), fresh^2), with fresh^2 = eta^2 sigma_s^2 (1 - r^2) and
    # kept = sqrt(sigma_s^2 - fresh^2) / sigma_t, r = sigma_s / sigma_t. At eta = 1 that is q(x_s | x_t, x_0).
    rows = Layout.dense(200, {"x": (100,)}).rows("x")
    noise = Noise(seed=6, index=torch.arange(200))
    x_0, start = (torch.full((200, 100), value, dtype=torch.float64) for value in (0.2, 0.5))
    rule = GeodesicEuler(times=(0.3, 0.15), reach=(0.15,), eta=eta)
    x = follow(rule, ON_TORUS, lambda x, t: x_0, start, rows, noise)
    sigma_t, sigma_s = (float(SCHEDULE(torch.tensor(t, dtype=torch.float64))[1]) for t in (0.3, 0.15))
    fresh = eta * sigma_s * math.sqrt(1 - (sigma_s / sigma_t) ** 2)
    expected = 0.2 + 0.3 * math.sqrt(sigma_s**2 - fresh**2) / sigma_t
    assert float(x.mean()) == pytest.approx(expected, abs=4 * fresh / math.sqrt(20_000) + 1e-12)
    assert float(x.std()) == pytest.approx(fresh, rel=4 / math.sqrt(40_000), abs=1e-12)


def test_the_step_after_call_k_draws_with_the_key_of_step_k_plus_one() -> None:
    rows = Layout.dense(3, {"x": ()}).rows("x")
    noise, asked = Noise(seed=6, index=torch.arange(3)), []

    def draw(step: int) -> Draw:
        asked.append(step)
        return noise.at("x", step, rows)

    rule = GeodesicEuler(times=(0.4, 0.3, 0.35), reach=(0.2, 0.3), eta=1.0)
    trace, x = Trace(), torch.zeros(3, dtype=torch.float64)
    for k, expected in ((0, [1, 1]), (1, [2])):
        trace.record(x, torch.ones_like(x))
        asked.clear()
        x = rule.advance(k, trace, ON_TORUS, rows, draw)
        assert asked == expected


@pytest.mark.parametrize("kind", [GeodesicEuler, GeodesicMultistep])
def test_float32_error_does_not_rise_with_the_number_of_steps(kind: type[Following]) -> None:
    rows, start, _, clean = one_so3_kernel()
    noise = Noise(seed=0, index=torch.arange(rows.batch))
    for n in (10, 150):
        double = follow(kind(**descent(n)), ON_SO3, clean, start, rows, noise)
        single = follow(kind(**descent(n)), ON_SO3, clean, start.float(), rows, noise)
        assert single.dtype == torch.float32
        assert float((single - double).abs().max()) < 1e-6


def test_steps_that_go_below_their_reach_are_refused() -> None:
    with pytest.raises(ValueError, match=r"expected reach\[0\] in"):
        GeodesicEuler(times=(1.0, 0.5), reach=(0.7,))
    with pytest.raises(ValueError, match=r"expected eta in \[0, 1\], got 2"):
        GeodesicEuler(times=(1.0, 0.5), reach=(0.5,), eta=2)
