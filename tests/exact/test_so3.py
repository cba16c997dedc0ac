"""The heat kernel of SO(3) against its characters, the exponential map, and the process on rotations."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from scidiff.noise import Noise
from scidiff.processes import so3_kernel
from scidiff.processes.manifold import CleanPoint, ManifoldProcess, ScaledScore, tweedie_point
from scidiff.processes.so3 import SO3, quaternion, rotation_exp, rotation_log, rotation_matrix
from scidiff.state import Layout

VARIANCES = (1e-4, 1e-2, 0.3, 1.0, 1.4999, 1.5001, 3.0, 12.0)


class Exploding:
    """sigma_t = 0.01 * 400^t."""

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return torch.ones_like(t), 0.01 * 400**t


PROCESS = ManifoldProcess(manifold=SO3(), schedule=Exploding(), parametrisation=ScaledScore())


def quadrature(variance: float) -> tuple[Tensor, Tensor]:
    """Angles and weights of the Haar measure (1 - cos omega)/pi over where a kernel of this variance has mass."""
    x, w = np.polynomial.legendre.leggauss(300)
    reach = min(math.pi, 12 * math.sqrt(variance))
    omega = torch.as_tensor(reach * (x + 1) / 2)
    return omega, torch.as_tensor(w * reach / 2) * (1 - omega.cos()) / math.pi


def character(degree: int, omega: Tensor) -> Tensor:
    """chi_l = sin((l + 1/2) omega) / sin(omega/2), the trace of the representation of degree l."""
    return torch.sin((degree + 0.5) * omega) / torch.sin(omega / 2)


def rotations(count: int, *lead: int) -> tuple[Layout, Noise]:
    return Layout.dense(count, {"x": (*lead, 3, 3)}), Noise(seed=3, index=torch.arange(count))


def matrix_by_series(v: Tensor) -> Tensor:
    """exp([v]_x) by the general matrix exponential."""
    x, y, z = v.unbind(-1)
    o = torch.zeros_like(x)
    return torch.linalg.matrix_exp(torch.stack([o, -z, y, z, o, -x, -y, x, o], -1).unflatten(-1, (3, 3)))


@pytest.mark.parametrize("variance", VARIANCES)
def test_kernel_has_the_characters_of_brownian_motion(variance: float) -> None:
    # E[chi_l(R)] = (2l + 1) exp(-l(l+1) v/2); l = 0 says that the density integrates to 1 against the Haar measure.
    omega, haar = quadrature(variance)
    density = so3_kernel.log_density(omega, torch.tensor(variance, dtype=torch.float64)).exp()
    for degree in (0, 1, 2, 5, 9):
        expected = (2 * degree + 1) * math.exp(-degree * (degree + 1) * variance / 2)
        got = float((density * character(degree, omega) * haar).sum())
        assert got == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize("variance", [0.2, 0.9, 1.4999])
def test_windings_and_representations_are_one_function(variance: float) -> None:
    omega = torch.linspace(1e-6, math.pi, 200, dtype=torch.float64)
    v = torch.tensor(variance, dtype=torch.float64)
    series = sum((2 * j + 1) * torch.exp(-0.5 * j * (j + 1) * v) * character(j, omega) for j in range(40))
    torch.testing.assert_close(so3_kernel.log_density(omega, v).exp(), series, atol=1e-12, rtol=1e-12)
    # ... and pass into each other without a step.
    edge = torch.tensor([1.5 - 1e-15, 1.5 + 1e-15], dtype=torch.float64)[:, None]
    for function in (so3_kernel.log_density, so3_kernel.slope):
        below, above = function(omega, edge)
        torch.testing.assert_close(below, above, atol=1e-13, rtol=1e-12)


def test_kernel_approaches_the_flat_gaussian_for_small_times() -> None:
    # f(omega; v) (1 - cos omega)/pi domega -> the density of |z| for z ~ N(0, v I_3)
    v = torch.tensor(1e-6, dtype=torch.float64)
    r = torch.linspace(1e-4, 5e-3, 30, dtype=torch.float64)
    flat = 4 * math.pi * r**2 * (2 * math.pi * v) ** -1.5 * torch.exp(-(r**2) / (2 * v))
    torch.testing.assert_close(so3_kernel.angle_density(r, v), flat, rtol=1e-5, atol=0)


def test_heat_equation() -> None:
    # df/dv = (1/2) [f'' + cot(omega/2) f'], by finite differences of fourth order
    omega = torch.linspace(0.3, 3.0, 28, dtype=torch.float64)
    h = 2e-3
    for variance in (0.5, 1.0, 1.5, 4.0):

        def density(place: Tensor, time: float) -> Tensor:
            return so3_kernel.log_density(place, torch.tensor(time, dtype=torch.float64)).exp()

        def first(f: list[Tensor]) -> Tensor:
            return (f[0] - 8 * f[1] + 8 * f[3] - f[4]) / (12 * h)

        by_time = [density(omega, variance + i * h) for i in range(-2, 3)]
        by_angle = [density(omega + i * h, variance) for i in range(-2, 3)]
        bend = (-by_angle[0] + 16 * by_angle[1] - 30 * by_angle[2] + 16 * by_angle[3] - by_angle[4]) / (12 * h**2)
        laplacian = bend + first(by_angle) / torch.tan(omega / 2)
        torch.testing.assert_close(first(by_time), laplacian / 2, atol=1e-7, rtol=0)


@pytest.mark.parametrize("variance", VARIANCES)
def test_slope_is_the_gradient_of_the_log_density(variance: float) -> None:
    reach = min(math.pi, 10 * math.sqrt(variance))
    omega = (reach * torch.logspace(-3, 0, 120, dtype=torch.float64)).requires_grad_()
    v = torch.tensor(variance, dtype=torch.float64)
    (gradient,) = torch.autograd.grad(so3_kernel.log_density(omega, v).sum(), omega)
    omega = omega.detach()
    torch.testing.assert_close(so3_kernel.slope(omega, v), gradient / omega, rtol=1e-8, atol=1e-9 / variance)


def test_slope_at_the_ends() -> None:
    v = torch.tensor([1e-8, 1e-3, 0.1, 1.0, 2.0], dtype=torch.float64)
    at_zero = so3_kernel.slope(torch.zeros(5, dtype=torch.float64), v)
    torch.testing.assert_close(at_zero[:3], -1 / v[:3] + 1 / 12, rtol=1e-9, atol=0)
    assert torch.isfinite(so3_kernel.log_density(torch.zeros(5, dtype=torch.float64), v)).all()
    half_turn = so3_kernel.slope(torch.full((5,), math.pi, dtype=torch.float64), v)
    torch.testing.assert_close(half_turn * v, torch.zeros_like(v), atol=1e-12, rtol=0)


def test_angle_inverts_its_distribution() -> None:
    v = torch.tensor([1e-8, 1e-3, 0.3, 1.4999, 1.5001, 20.0], dtype=torch.float64)
    u = torch.tensor([1e-9, 0.01, 0.3, 0.5, 0.9, 0.9999, 1 - 1e-9], dtype=torch.float64).expand(6, 7)
    omega = so3_kernel.angle_from_uniform(u, v, Layout.dense(6, {"x": (7,)}).rows("x"))
    x, w = np.polynomial.legendre.leggauss(300)
    inside = omega[..., None] * torch.as_tensor(x + 1) / 2
    reached = (so3_kernel.angle_density(inside, v[:, None, None]) * torch.as_tensor(w)).sum(-1) * omega / 2
    torch.testing.assert_close(reached, u, atol=1e-12, rtol=0)
    # For long times the distribution is the Haar measure's: (omega - sin omega)/pi
    torch.testing.assert_close((omega[-1] - omega[-1].sin()) / math.pi, u[-1], atol=1e-7, rtol=0)


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-14), (torch.float32, 6e-7)])
def test_exp_and_log_near_zero_and_half_turns(dtype: torch.dtype, bound: float) -> None:
    axes = torch.tensor([[1, 0, 0], [0, -1, 0], [0, 0, 1], [0.6, 0.8, 0], [-0.48, 0.6, 0.64]], dtype=torch.float64)
    angles = [0, 1e-12, 1e-7, 1e-4, 0.1, 1.0, 2.0, 3.0, math.pi - 1e-4, math.pi - 1e-6]
    for angle in angles:
        v = (angle * axes).to(dtype)
        r = rotation_exp(v)
        assert r.dtype == dtype
        assert float((r.double() - matrix_by_series(v.double())).abs().max()) < bound
        assert float((rotation_log(r).double() - v.double()).abs().max()) < 4 * bound
        if 0 < angle < 1e-3:  # small angles keep their relative precision
            relative = (rotation_log(r).double() - v.double()).abs().max() / angle
            assert float(relative) < 10 * torch.finfo(dtype).eps
    # A half turn has two logarithms, of which either will do.
    half = rotation_exp((math.pi * axes).to(dtype))
    assert float((rotation_exp(rotation_log(half)) - half).abs().max()) < 2 * bound
    assert float((rotation_log(half).double().norm(dim=-1) - math.pi).abs().max()) < 4 * bound


def test_gradients_are_finite_at_zero_and_half_turn() -> None:
    for angle in (0.0, 1.0, math.pi):
        v = (angle * torch.tensor([[0.6, 0.0, 0.8]], dtype=torch.float64)).requires_grad_()
        (gradient,) = torch.autograd.grad(rotation_log(rotation_exp(v)).sum(), v)
        assert torch.isfinite(gradient).all()
        if angle < 3:
            torch.testing.assert_close(gradient, torch.ones_like(v), atol=1e-8, rtol=0)


def test_quaternions_round_trip() -> None:
    q = torch.linalg.qr(torch.arange(16, dtype=torch.float64).reshape(4, 4).sin())[0]
    back = quaternion(rotation_matrix(3.0 * q))
    torch.testing.assert_close(back * (back * q).sum(-1, keepdim=True).sign(), q, atol=1e-14, rtol=0)


def test_exp_steps_in_the_body_frame_and_log_undoes_it() -> None:
    _, noise = rotations(20)
    rows = Layout.dense(20, {"x": (3, 3)}).rows("x")
    x = PROCESS.manifold.uniform(rows, noise.at("x", 0, rows), dtype=torch.float64)
    v = PROCESS.manifold.normal(rows, noise.at("x", 1, rows), dtype=torch.float64) * 0.5
    y = PROCESS.manifold.exp(x, v)
    torch.testing.assert_close(y, x @ matrix_by_series(v), atol=1e-14, rtol=0)
    torch.testing.assert_close(PROCESS.manifold.log(x, y), v, atol=1e-13, rtol=0)
    torch.testing.assert_close(y.mT @ y, torch.eye(3, dtype=torch.float64).expand(20, 3, 3), atol=1e-14, rtol=0)
    torch.testing.assert_close(torch.linalg.det(y), torch.ones(20, dtype=torch.float64), atol=1e-13, rtol=0)


def test_rotations_stay_orthogonal_over_a_thousand_float32_steps() -> None:
    x = torch.eye(3).expand(8, 3, 3)
    v = torch.linspace(-0.3, 0.3, 24).reshape(8, 3)
    worst = []
    for _ in range(1000):
        x = PROCESS.manifold.exp(x, v)
        worst.append(float((x.mT @ x - torch.eye(3)).abs().max()))
    assert max(worst) < 1e-6


def test_score_is_the_gradient_along_the_body_frame() -> None:
    layout, noise = rotations(6)
    rows = layout.rows("x")
    x_0 = PROCESS.manifold.uniform(rows, noise.at("x", 0, rows), dtype=torch.float64)
    variance = torch.tensor([0.1, 0.5, 1.0, 1.6, 4.0, 9.0], dtype=torch.float64)
    x_t = PROCESS.manifold.diffuse(x_0, variance, rows, noise.at("x", 1, rows))
    v = torch.zeros(6, 3, dtype=torch.float64, requires_grad=True)
    moved = PROCESS.manifold.log_kernel(PROCESS.manifold.exp(x_t, v), x_0, variance, rows)
    (gradient,) = torch.autograd.grad(moved.sum(), v)
    torch.testing.assert_close(PROCESS.manifold.score(x_t, x_0, variance, rows), gradient, atol=1e-8, rtol=1e-8)


def test_uniform_rotations_have_no_characters() -> None:
    count = 40_000
    layout, noise = rotations(count)
    x = PROCESS.prior(layout.rows("x"), noise.at("x", 0, layout.rows("x"))).double()
    assert float(x.mean(0).abs().max()) < 4 / math.sqrt(3 * count)
    omega = rotation_log(x).norm(dim=-1)
    for degree in (1, 2):  # characters have mean 0 and variance 1
        assert float(character(degree, omega).mean()) == pytest.approx(0.0, abs=4 / math.sqrt(count))


def test_corrupt_and_many_small_steps_have_the_characters_of_the_kernel() -> None:
    # E[x_0^T x_t] = exp(-v) I, the representation of degree 1, whether in one step or in several.
    layout, noise = rotations(20, 1000)
    rows = layout.rows("x")
    t, count = torch.full((20,), 0.75, dtype=torch.float64), 20_000
    variance = float(PROCESS.variance(t)[0])
    x_0 = PROCESS.manifold.uniform(rows, noise.at("x", 0, rows), dtype=torch.float64)
    once = PROCESS.corrupt(x_0, t, rows, noise.at("x", 1, rows))
    often, s = x_0, torch.zeros_like(t)
    for step, time in enumerate((0.5, 0.6, 0.68, 0.72, 0.75)):
        s, before = torch.full_like(t, time), s
        if step == 0:
            often = PROCESS.corrupt(often, s, rows, noise.at("x", 2, rows))
        else:
            often = PROCESS.renoise(often, before, s, rows, noise.at("x", 2 + step, rows))
    for x_t in (once, often):
        turn = x_0.mT @ x_t
        error = turn.mean((0, 1)) - math.exp(-variance) * torch.eye(3, dtype=torch.float64)
        assert float(error.abs().max()) < 4 / math.sqrt(count)
        omega = rotation_log(turn).norm(dim=-1)
        expected = 5 * math.exp(-3 * variance)
        assert float(character(2, omega).mean()) == pytest.approx(expected, abs=4 * 2 / math.sqrt(count))
    assert torch.allclose(PROCESS.renoise(once, t, t, rows, noise.at("x", 9, rows)), once, atol=1e-13)


def test_renoise_convolves_kernels() -> None:
    # The density of two steps, integrated over the middle rotation, is the kernel of the summed time. The middle is
    # averaged over the axis: cos(w/2) = cos(a/2) cos(b/2) - sin(a/2) sin(b/2) cos(theta).
    omega, haar = quadrature(9.0)
    x, w = np.polynomial.legendre.leggauss(60)
    cosine, weight = torch.as_tensor(x), torch.as_tensor(w) / 2
    first, second = (torch.tensor(v, dtype=torch.float64) for v in (0.4, 1.3))
    target = torch.tensor([0.2, 1.0, 2.0, 3.0], dtype=torch.float64)
    half = (target[:, None, None] / 2).cos() * (omega / 2).cos()[:, None]
    half = half + (target[:, None, None] / 2).sin() * (omega / 2).sin()[:, None] * cosine
    rest = 2 * torch.arccos(half.abs().clamp_max(1 - 1e-15))
    inner = (so3_kernel.log_density(rest, second).exp() * weight).sum(-1)
    convolved = (so3_kernel.log_density(omega, first).exp() * haar * inner).sum(-1)
    torch.testing.assert_close(convolved, so3_kernel.log_density(target, first + second).exp(), rtol=1e-6, atol=0)


def test_tweedie_point_gives_the_score_back() -> None:
    layout, noise = rotations(40, 5)
    rows = layout.rows("x")
    t = torch.linspace(0.1, 1.0, 40, dtype=torch.float64)
    x_0 = PROCESS.manifold.uniform(rows, noise.at("x", 0, rows), dtype=torch.float64)
    x_t = PROCESS.corrupt(x_0, t, rows, noise.at("x", 1, rows))
    variance = PROCESS.variance(t)
    score = PROCESS.manifold.score(x_t, x_0, variance, rows)
    clean = tweedie_point(PROCESS.manifold, x_t, x_0, variance, rows)
    scaled = PROCESS.manifold.log(x_t, clean)
    torch.testing.assert_close(scaled, variance[:, None, None] * score, atol=1e-11, rtol=0)
    assert float(scaled.norm(dim=-1).max()) < math.pi
    # At the smallest noise it is x_0 itself.
    assert float((clean[0] - x_0[0]).abs().max()) < 1e-3
    by_score = PROCESS.clean(variance.sqrt()[:, None, None] * score, x_t, t, rows)
    by_point = ManifoldProcess(manifold=SO3(), schedule=Exploding(), parametrisation=CleanPoint()).clean(
        x_0, x_t, t, rows
    )
    torch.testing.assert_close(by_score, clean, atol=1e-12, rtol=0)
    torch.testing.assert_close(by_point, clean, atol=1e-12, rtol=0)


def test_loss_is_the_mean_squared_error_of_the_scaled_score() -> None:
    layout, noise = rotations(4, 2)
    rows = layout.rows("x")
    t = torch.tensor([0.2, 0.5, 0.8, 1.0], dtype=torch.float64)
    x_0 = PROCESS.manifold.uniform(rows, noise.at("x", 0, rows), dtype=torch.float64)
    x_t = PROCESS.corrupt(x_0, t, rows, noise.at("x", 1, rows))
    scaled = PROCESS.manifold.log(x_t, tweedie_point(PROCESS.manifold, x_t, x_0, PROCESS.variance(t), rows))
    error = torch.tensor([[0.1, 0.0, 0.2], [0.0, -0.3, 0.0]], dtype=torch.float64)
    loss = PROCESS.loss(PROCESS.manifold.exp(x_t, scaled + error), x_0, x_t, t, rows)
    torch.testing.assert_close(loss, (0.05 + 0.09) / 2 / PROCESS.variance(t), atol=1e-10, rtol=1e-9)


def test_batch_invariance_on_ragged_rows() -> None:
    counts = torch.tensor([2, 1, 4])
    rows = Layout.ragged({"x": counts}, {"x": (3, 3)}).rows("x")
    noise = Noise(seed=1, index=torch.tensor([7, 8, 9]))
    t = torch.tensor([0.3, 0.6, 0.9])
    x_0 = PROCESS.prior(rows, noise.at("x", 0, rows))
    x_t = PROCESS.corrupt(x_0, t, rows, noise.at("x", 1, rows))
    clean = tweedie_point(PROCESS.manifold, x_t, x_0, PROCESS.variance(t), rows)
    for b in range(3):
        mine = rows.owner == b
        row = Layout.ragged({"x": counts[b : b + 1]}, {"x": (3, 3)}).rows("x")
        alone = Noise(seed=1, index=torch.tensor([7 + b]))
        first = PROCESS.prior(row, alone.at("x", 0, row))
        then = PROCESS.corrupt(first, t[b : b + 1], row, alone.at("x", 1, row))
        last = tweedie_point(PROCESS.manifold, then, first, PROCESS.variance(t[b : b + 1]), row)
        assert torch.equal(first, x_0[mine])
        assert torch.equal(then, x_t[mine])
        assert torch.equal(last, clean[mine])


def test_rows_that_are_not_rotations_are_refused() -> None:
    rows = Layout.dense(2, {"x": (4,)}).rows("x")
    with pytest.raises(ValueError, match=r"expected rows whose shape ends in \(3, 3\), got \(4,\)"):
        PROCESS.prior(rows, Noise(seed=0, index=torch.arange(2)).at("x", 0, rows))
