"""Guidance by a measurement against the posterior of Gaussian data in closed form."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from gaussian_data import (
    COV,
    F64,
    LAYOUT,
    MEAN,
    SCHEDULES,
    TIMES,
    A,
    B,
    Bent,
    D,
    Exact,
    M,
    R,
    Y,
    gaussian,
    linear,
    noisy,
    numbers,
    posterior,
    slope,
)
from torch import Tensor

from scidiff import grids
from scidiff.denoiser import Denoiser
from scidiff.guidance import DPS, MMPS, EnergyGuidance, GaussNewton, Measurement, PiGDM
from scidiff.noise import Noise
from scidiff.processes.categorical import MaskedProcess
from scidiff.processes.gaussian import ZeroMeanGaussianProcess
from scidiff.processes.parametrisations import Data
from scidiff.sampling import sample
from scidiff.schedules import Cosine, RectifiedFlow, Schedule, VPLinear
from scidiff.solvers.dpmpp import dpmpp_3m
from scidiff.state import Layout, State


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)
def test_mmps_is_the_posterior_mean_of_gaussian_data(schedule: Schedule) -> None:
    guided = MMPS(Exact(MEAN, COV, {"x": schedule}), {"x": gaussian(schedule)}, linear(), iterations=2 * M)
    x_t = {"x": noisy(schedule, TIMES)}
    mean, cov = posterior(MEAN, COV, A, Y, R)
    expected = Exact(mean, cov, {"x": schedule})(x_t, TIMES, LAYOUT)["x"]
    got = guided(x_t, TIMES, LAYOUT)["x"]
    unguided = Exact(MEAN, COV, {"x": schedule})(x_t, TIMES, LAYOUT)["x"]
    assert (unguided - expected).abs().amax() > 0.5  # the test is not empty
    # sigma_t^2 / alpha_t = 1e3 .. 1e4 at VE's and EDM's largest noise loses that many digits of J
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-8)


def root_of_posterior(level: Tensor) -> Callable[[Tensor], Tensor]:
    """The symmetric root of Cov[x_0 | x_t] by sigma^2 / alpha^2."""
    variance, axes = torch.linalg.eigh(torch.linalg.inv(torch.linalg.inv(COV) + torch.eye(D, dtype=F64) / level))
    return lambda x: x @ (axes * variance.sqrt()) @ axes.T


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)
def test_gauss_newton_is_the_posterior_mean_of_gaussian_data(schedule: Schedule) -> None:
    denoiser, processes = Exact(MEAN, COV, {"x": schedule}), {"x": gaussian(schedule)}
    guided = GaussNewton(denoiser, processes, linear(), posterior=root_of_posterior, iterations=2 * D)
    exact = Exact(*posterior(MEAN, COV, A, Y, R), {"x": schedule})
    for time in TIMES:
        t = time.expand(B)
        x_t = {"x": noisy(schedule, t)}
        torch.testing.assert_close(guided(x_t, t, LAYOUT)["x"], exact(x_t, t, LAYOUT)["x"], rtol=0, atol=1e-8)


def test_gauss_newton_ends_where_the_slope_is_zero_and_never_climbs() -> None:
    """Of |y - A(x)|^2 / (2 R) + |x - clean|^2 / 2 in the metric of V, A bent, one of its samples out of reach."""
    schedule, t = VPLinear(), torch.full((B,), 0.4, dtype=F64)

    def operator(state: State) -> Tensor:
        plain = state["x"] @ A.T
        seen = plain + torch.sin(plain) / 2
        return torch.where((torch.arange(B) == 2)[:, None], torch.inf, seen)

    denoiser, processes = Exact(MEAN, COV, {"x": schedule}), {"x": gaussian(schedule)}
    measurement = Measurement(operator=operator, value=Y, variance=R)
    x_t = {"x": noisy(schedule, t)}
    clean = denoiser(x_t, t, LAYOUT)["x"]
    alpha, sigma = schedule(t[0])
    precision = torch.linalg.inv(COV) + (alpha / sigma) ** 2 * torch.eye(D, dtype=F64)

    def total(x: Tensor) -> Tensor:
        off = x - clean
        return measurement.energy({"x": x}) + (off @ precision * off).sum(-1) / 2

    before = total(clean)
    for steps in (1, 2, 40):
        guided = GaussNewton(
            denoiser, processes, measurement, posterior=root_of_posterior, steps=steps, iterations=2 * D
        )
        x = guided(x_t, t, LAYOUT)["x"]
        assert (total(x) <= before)[torch.arange(B) != 2].all()
        before = total(x)
    torch.testing.assert_close(x[2], clean[2])
    reached = torch.arange(B) != 2
    assert slope(total, x)[reached].abs().max() < 1e-3
    assert (x - clean)[reached].abs().max() > 0.1


def test_mmps_with_leaves_of_different_schedules() -> None:
    # Cov[x_0 | x_t] = J diag(sigma^2 / alpha) is symmetric though its blocks are not noised alike.
    schedules: dict[str, Schedule] = {"u": VPLinear(), "v": RectifiedFlow()}
    layout = Layout.dense(B, {"u": (2,), "v": (3,)})
    x_t = {"u": noisy(schedules["u"], TIMES, 2), "v": noisy(schedules["v"], TIMES, 3)}
    measurement = Measurement(operator=lambda s: torch.cat([s["u"], s["v"]], -1) @ A.T, value=Y, variance=R)
    processes = {leaf: gaussian(schedule) for leaf, schedule in schedules.items()}
    guided = MMPS(Exact(MEAN, COV, schedules), processes, measurement, iterations=2 * M)(x_t, TIMES, layout)
    expected = Exact(*posterior(MEAN, COV, A, Y, R), schedules)(x_t, TIMES, layout)
    for leaf in schedules:
        torch.testing.assert_close(guided[leaf], expected[leaf], rtol=0, atol=1e-9)


def test_mmps_linearises_a_nonlinear_operator_at_the_clean_estimate() -> None:
    schedule = VPLinear()
    x_t = {"x": noisy(schedule, TIMES)}
    denoiser = Exact(MEAN, COV, {"x": schedule})
    measurement = Measurement(operator=lambda s: torch.tanh(s["x"] @ A.T), value=Y, variance=R)
    got = MMPS(denoiser, {"x": gaussian(schedule)}, measurement, iterations=2 * M)(x_t, TIMES, LAYOUT)["x"]
    clean = denoiser(x_t, TIMES, LAYOUT)["x"]
    alpha, sigma = schedule(TIMES)
    for b in range(B):
        jacobian = (1 - torch.tanh(A @ clean[b]) ** 2)[:, None] * A
        v = COV - alpha[b] ** 2 * COV @ torch.linalg.solve(
            alpha[b] ** 2 * COV + sigma[b] ** 2 * torch.eye(D, dtype=F64), COV
        )
        residual = Y[b] - torch.tanh(A @ clean[b])
        weights = torch.linalg.solve(torch.diag(R) + jacobian @ v @ jacobian.T, residual)
        torch.testing.assert_close(got[b], clean[b] + v @ jacobian.T @ weights, rtol=0, atol=1e-9)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("variance", [1.0, 0.3])
def test_pigdm_is_the_posterior_mean_of_white_gaussian_data(schedule: Schedule, variance: float) -> None:
    cov = variance * torch.eye(D, dtype=F64)
    guided = PiGDM(
        Exact(MEAN, cov, {"x": schedule}),
        {"x": gaussian(schedule)},
        linear(),
        data_variance=variance,
        iterations=2 * M,
    )
    x_t = {"x": noisy(schedule, TIMES)}
    expected = Exact(*posterior(MEAN, cov, A, Y, R), {"x": schedule})(x_t, TIMES, LAYOUT)["x"]
    torch.testing.assert_close(guided(x_t, TIMES, LAYOUT)["x"], expected, rtol=0, atol=1e-8)


def test_pigdm_follows_its_formula_for_correlated_data() -> None:
    # clean + V A^T (r^2 A A^T + R)^{-1} (y - A clean), V the data's own, r^2 = sigma^2 / (sigma^2 + alpha^2)
    schedule = Cosine()
    x_t = {"x": noisy(schedule, TIMES)}
    denoiser = Exact(MEAN, COV, {"x": schedule})
    got = PiGDM(denoiser, {"x": gaussian(schedule)}, linear(), iterations=2 * M)(x_t, TIMES, LAYOUT)["x"]
    clean = denoiser(x_t, TIMES, LAYOUT)["x"]
    for b, (alpha, sigma) in enumerate(zip(*schedule(TIMES), strict=True)):
        v = torch.linalg.inv(torch.linalg.inv(COV) + (alpha / sigma) ** 2 * torch.eye(D, dtype=F64))
        assumed = sigma**2 / (sigma**2 + alpha**2) * A @ A.T + torch.diag(R)
        expected = clean[b] + v @ A.T @ torch.linalg.solve(assumed, Y[b] - A @ clean[b])
        torch.testing.assert_close(got[b], expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("method", ["mmps", "pigdm"])
def test_sampling_yields_the_posterior(method: str) -> None:
    # The deterministic sampler is an affine map of the first state: its matrix, column by column, carries the exact
    # distribution at t=1 to one that must be the posterior. No Monte Carlo.
    schedule = VPLinear()
    cov = COV if method == "mmps" else torch.eye(D, dtype=F64)
    y = Y[:1]
    mean, spread = posterior(MEAN, cov, A, y, R)
    measurement = Measurement(operator=lambda s: s["x"] @ A.T, value=y, variance=R)
    wrap: Callable[..., Denoiser] = MMPS if method == "mmps" else PiGDM
    guided = wrap(Exact(MEAN, cov, {"x": schedule}), {"x": gaussian(schedule)}, measurement, iterations=M)
    starts = torch.cat([torch.zeros(1, D, dtype=F64), torch.eye(D, dtype=F64)])
    times = grids.to_data(grids.log_snr_uniform(schedule, 60, end=1e-4))
    finished = sample(
        guided,
        {"x": gaussian(schedule)},
        {"x": dpmpp_3m(schedule, times)},
        Layout.dense(D + 1, {"x": (D,)}),
        Noise(seed=0, index=torch.arange(D + 1)),
        initial={"x": starts},
    ).state["x"]
    offset, matrix = finished[0], (finished[1:] - finished[0]).T
    alpha, sigma = schedule(torch.ones((), dtype=F64))
    at_one = alpha**2 * spread + sigma**2 * torch.eye(D, dtype=F64)
    torch.testing.assert_close(offset + matrix @ (alpha * mean[0]), mean[0], rtol=0, atol=1e-12)
    torch.testing.assert_close(matrix @ at_one @ matrix.T, spread, rtol=0, atol=1e-4)


class Isotropic(Denoiser):
    """The exact denoiser of N(0, I) on centred positions, right on centred states only: gain x_t, not centred."""

    def __init__(self, schedule: Schedule) -> None:
        super().__init__()
        self.schedule = schedule

    def forward(self, x_t: State, t: Tensor, layout: Layout, condition: Any = None) -> State:
        alpha, sigma = (layout.rows("pos").per_row(level) for level in self.schedule(t))
        return {"pos": alpha / (alpha**2 + sigma**2) * x_t["pos"]}


def test_ragged_positions_stay_centred_and_exact() -> None:
    # Two graphs of 3 and 4 points; measured: the first coordinate of their first point.
    schedule = VPLinear()
    layout = Layout.ragged({"pos": torch.tensor([3, 4])}, {"pos": (2,)})
    process = ZeroMeanGaussianProcess(schedule=schedule, parametrisation=Data(), dtype=F64)
    first = torch.tensor([0, 3])
    y, variance = torch.tensor([[0.7], [-1.2]], dtype=F64), 0.2
    measurement = Measurement(operator=lambda s: s["pos"][first, :1], value=y, variance=variance)
    t = torch.tensor([0.4, 0.2], dtype=F64)
    raw = numbers("pos", 7, 2)
    x_t = torch.cat([raw[:3] - raw[:3].mean(0), raw[3:] - raw[3:].mean(0)])
    clean = Isotropic(schedule)({"pos": x_t}, t, layout)["pos"]
    for guided in (
        MMPS(Isotropic(schedule), {"pos": process}, measurement, iterations=2),
        PiGDM(Isotropic(schedule), {"pos": process}, measurement, iterations=2),
        DPS(Isotropic(schedule), {"pos": process}, measurement, strength=0.3),
        EnergyGuidance(Isotropic(schedule), {"pos": process}, measurement.energy),
    ):
        got = guided({"pos": x_t}, t, layout)["pos"]
        assert got[:3].mean(0).abs().max() < 1e-14
        assert got[3:].mean(0).abs().max() < 1e-14
    got = MMPS(Isotropic(schedule), {"pos": process}, measurement, iterations=2)({"pos": x_t}, t, layout)["pos"]
    for rows, b in ((slice(0, 3), 0), (slice(3, 7), 1)):
        n = rows.stop - rows.start
        alpha, sigma = (level[b] for level in schedule(t))
        centring = torch.eye(n, dtype=F64) - 1 / n
        v = sigma**2 / (alpha**2 + sigma**2) * centring  # Cov[x_0 | x_t] of one coordinate
        gain = v[:, 0] / (v[0, 0] + variance)
        expected = clean[rows].clone()
        expected[:, 0] += gain * (y[b, 0] - clean[rows][0, 0])
        torch.testing.assert_close(got[rows], expected, rtol=0, atol=1e-12)


def test_dps_moves_along_the_finite_difference_of_the_residual_norm() -> None:
    schedule = VPLinear()
    t = TIMES.clamp_max(0.6)
    x = noisy(schedule, t)
    measurement = Measurement(operator=lambda s: (s["x"] @ A.T) ** 3, value=Y, variance=R)

    def norm(x: Tensor) -> Tensor:
        return (Y - (Bent()({"x": x}, t, LAYOUT)["x"] @ A.T) ** 3).norm(dim=-1)

    guided = DPS(Bent(), {"x": gaussian(schedule)}, measurement, strength=0.7)({"x": x}, t, LAYOUT)
    alpha, sigma = schedule(t)
    expected = Bent()({"x": x}, t, LAYOUT)["x"] - 0.7 * (sigma**2 / alpha)[:, None] * slope(norm, x)
    torch.testing.assert_close(guided["x"], expected, rtol=1e-6, atol=1e-7)
    assert torch.equal(guided["x.variance"], x * 0.5)


def test_a_residual_of_zero_moves_nothing() -> None:
    schedule = VPLinear()
    x_t = {"x": noisy(schedule, TIMES)}
    clean = Bent()(x_t, TIMES, LAYOUT)["x"]
    met = Measurement(operator=lambda s: s["x"] @ A.T, value=clean @ A.T, variance=0.0)
    for guided in (
        DPS(Bent(), {"x": gaussian(schedule)}, met, strength=1.0),
        MMPS(Bent(), {"x": gaussian(schedule)}, met),
        PiGDM(Bent(), {"x": gaussian(schedule)}, met),
    ):
        assert torch.equal(guided(x_t, TIMES, LAYOUT)["x"], clean)


def test_a_noiseless_measurement_is_met_by_the_guided_estimate() -> None:
    schedule = RectifiedFlow()
    x_t = {"x": noisy(schedule, TIMES)}
    measurement = Measurement(operator=lambda s: s["x"] @ A.T, value=Y, variance=0.0)
    guided = MMPS(Exact(MEAN, COV, {"x": schedule}), {"x": gaussian(schedule)}, measurement, iterations=3 * M)
    torch.testing.assert_close(guided(x_t, TIMES, LAYOUT)["x"] @ A.T, Y, rtol=0, atol=1e-6)


def test_states_keep_their_precision_and_leaves_that_are_not_measured_are_guided_too() -> None:
    # A float32 state, times and measurement in float64; only the first of two correlated leaves is measured.
    schedules: dict[str, Schedule] = {"u": VPLinear(), "v": VPLinear()}
    layout = Layout.dense(B, {"u": (2,), "v": (3,)})
    x = noisy(VPLinear(), TIMES)
    x_t = {"u": x[:, :2], "v": x[:, 2:]}
    seen = torch.cat([A[:, :2], torch.zeros(M, 3, dtype=F64)], -1)
    measurement = Measurement(operator=lambda s: s["u"] @ A[:, :2].T.to(s["u"].dtype), value=Y, variance=R)
    processes = {leaf: gaussian(schedule) for leaf, schedule in schedules.items()}
    expected = Exact(*posterior(MEAN, COV, seen, Y, R), schedules)(x_t, TIMES, layout)
    halved = {leaf: value.float() for leaf, value in x_t.items()}
    for state, tolerance in ((x_t, 1e-9), (halved, 2e-3)):
        guided = MMPS(Rounding(Exact(MEAN, COV, schedules)), processes, measurement, iterations=M)
        got = guided(state, TIMES, layout)
        for leaf in schedules:
            assert got[leaf].dtype == state[leaf].dtype
            torch.testing.assert_close(got[leaf].double(), expected[leaf], rtol=0, atol=tolerance)


class Rounding(Denoiser):
    """Answers in the precision it was asked in."""

    def __init__(self, denoiser: Denoiser) -> None:
        super().__init__()
        self.denoiser = denoiser

    def forward(self, x_t: State, t: Tensor, layout: Layout, condition: Any = None) -> State:
        clean = self.denoiser({leaf: x.double() for leaf, x in x_t.items()}, t, layout, condition)
        return {leaf: clean[leaf].to(x.dtype) for leaf, x in x_t.items()}


def test_without_signal_nothing_is_guided() -> None:
    # alpha = 0 at t = 1: sigma^2 / alpha is infinite, and x_t says nothing.
    schedule = RectifiedFlow()
    t = torch.ones(B, dtype=F64)
    x_t = {"x": noisy(schedule, t)}
    processes = {"x": gaussian(schedule)}
    for guided in (
        MMPS(Bent(), processes, linear()),
        PiGDM(Bent(), processes, linear()),
        DPS(Bent(), processes, linear(), strength=1.0),
        EnergyGuidance(Bent(), processes, linear().energy),
    ):
        assert torch.equal(guided(x_t, t, LAYOUT)["x"], Bent()(x_t, t, LAYOUT)["x"])


def test_guidance_compiles_into_one_graph_and_needs_no_gradients() -> None:
    schedule = VPLinear()
    processes = {"x": gaussian(schedule)}
    x_t = {"x": noisy(schedule, TIMES)}
    for guided in (
        MMPS(Bent(), processes, linear(), iterations=2),
        EnergyGuidance(Bent(), processes, linear().energy),
    ):
        expected = guided(x_t, TIMES, LAYOUT)["x"]
        with torch.no_grad():
            assert torch.equal(guided(x_t, TIMES, LAYOUT)["x"], expected)
            compiled = torch.compile(guided, fullgraph=True, backend="eager")
            torch.testing.assert_close(compiled(x_t, TIMES, LAYOUT)["x"], expected, rtol=0, atol=1e-12)


def test_bad_arguments_say_what_is_wrong() -> None:
    processes = {"c": MaskedProcess(classes=3)}
    with pytest.raises(ValueError, match=r"at least one Gaussian leaf, got none among \['c'\]"):
        MMPS(Bent(), processes, linear())
    continuous = {"x": gaussian(VPLinear())}
    with pytest.raises(ValueError, match="strength > 0, got -1"):
        DPS(Bent(), continuous, linear(), strength=-1.0)
    with pytest.raises(ValueError, match="at least one iteration, got 0"):
        MMPS(Bent(), continuous, linear(), iterations=0)
    with pytest.raises(ValueError, match="data_variance > 0, got 0"):
        PiGDM(Bent(), continuous, linear(), data_variance=0.0)
