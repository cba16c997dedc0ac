"""The wrapped normal distribution against Jacobi's theta function, and the process on the torus against its theory."""

from __future__ import annotations

import math

import mpmath
import pytest
import torch
from torch import Tensor

from scidiff.noise import Noise
from scidiff.processes.manifold import CleanPoint, ManifoldProcess, ScaledScore, tweedie_point
from scidiff.processes.torus import Torus, wrap, wrapped_normal_log_density, wrapped_normal_score
from scidiff.state import Layout


class Exploding:
    """sigma_t = 0.01 * 700^t."""

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return torch.ones_like(t), 0.01 * 700**t


PROCESS = ManifoldProcess(manifold=Torus(), schedule=Exploding(), parametrisation=ScaledScore())
VARIANCES = (1e-4, 0.05, 1.0, 5.0, 6.28, 6.29, 9.0, 60.0)


def many(count: int, *shape: int) -> tuple[Layout, Noise]:
    return Layout.dense(count, {"x": shape}), Noise(seed=5, index=torch.arange(count))


@pytest.mark.parametrize("variance", VARIANCES)
@pytest.mark.parametrize("period", [2 * math.pi, 1.0])
def test_wrapped_normal_is_the_theta_function(variance: float, period: float) -> None:
    # q(d) = theta_3(pi d / P, exp(-2 pi^2 v / P^2)) / P
    variance *= (period / (2 * math.pi)) ** 2
    mpmath.mp.dps = 50
    nome = mpmath.exp(-2 * mpmath.pi**2 * mpmath.mpf(variance) / mpmath.mpf(period) ** 2)
    for part in (-0.5, -0.31, -0.02, 0.0, 1e-7, 0.2, 0.4999):
        d = part * period
        if variance < 1e-3 * period**2 and abs(part) > 0.1:
            continue  # below the reach of the theta series' fifty digits
        z = mpmath.pi * mpmath.mpf(d) / mpmath.mpf(period)
        theta, slope = mpmath.jtheta(3, z, nome), mpmath.jtheta(3, z, nome, derivative=1)
        place, time = torch.tensor(d, dtype=torch.float64), torch.tensor(variance, dtype=torch.float64)
        got = wrapped_normal_log_density(place, time, period)
        assert float(got) == pytest.approx(float(mpmath.log(theta / period)), abs=1e-12)
        expected = float(mpmath.pi / period * slope / theta)
        assert float(wrapped_normal_score(place, time, period)) == pytest.approx(expected, rel=1e-10, abs=1e-8 / period)


def test_density_integrates_to_one_and_is_periodic() -> None:
    d = torch.linspace(-math.pi, math.pi, 2001, dtype=torch.float64)
    for variance in VARIANCES[1:]:
        time = torch.tensor(variance, dtype=torch.float64)
        density = wrapped_normal_log_density(d, time).exp()
        assert float(density[:-1].mean() * 2 * math.pi) == pytest.approx(1.0, abs=1e-12)
        torch.testing.assert_close(wrapped_normal_log_density(d + 4 * math.pi, time), density.log(), atol=1e-12, rtol=0)


def test_heat_equation() -> None:
    # df/dv = (1/2) d2f/dd2
    for variance in (0.3, 6.2831, 6.2833, 8.0):
        d = torch.linspace(-3.1, 3.1, 63, dtype=torch.float64).requires_grad_()
        time = torch.full_like(d, variance, requires_grad=True)
        density = wrapped_normal_log_density(d, time).exp()
        slope, rate = torch.autograd.grad(density.sum(), (d, time), create_graph=True)
        (bend,) = torch.autograd.grad(slope.sum(), d)
        torch.testing.assert_close(rate, bend / 2, atol=1e-12, rtol=0)


def test_score_is_the_gradient_of_the_log_density() -> None:
    d = torch.linspace(-math.pi, math.pi, 41, dtype=torch.float64).requires_grad_()
    for variance in VARIANCES:
        time = torch.tensor(variance, dtype=torch.float64)
        (gradient,) = torch.autograd.grad(wrapped_normal_log_density(d, time).sum(), d)
        torch.testing.assert_close(wrapped_normal_score(d.detach(), time), gradient, rtol=1e-10, atol=1e-10 / variance)


def test_extremes_of_time_are_finite_and_right() -> None:
    d = torch.tensor([-math.pi, -1.0, 0.0, 1e-9, 3.0], dtype=torch.float64)
    for variance in (0.0, 1e-20, 1e6):
        time = torch.tensor(variance, dtype=torch.float64)
        assert torch.isfinite(wrapped_normal_score(d, time)).all()
        assert torch.isfinite(wrapped_normal_log_density(d, time)).all()
    torch.testing.assert_close(
        wrapped_normal_log_density(d, torch.tensor(1e6)), torch.full_like(d, -math.log(2 * math.pi)), atol=1e-14, rtol=0
    )


def test_corrupt_has_the_characters_of_the_kernel() -> None:
    # E[exp(i m (x_t - x_0))] = exp(-m^2 sigma_t^2 / 2)
    count = 40_000
    layout, noise = many(count)
    x_0 = wrap(torch.arange(count, dtype=torch.float64))
    for place, time in enumerate((0.3, 0.7, 0.85)):
        t = torch.full((count,), time, dtype=torch.float64)
        x_t = PROCESS.corrupt(x_0, t, layout.rows("x"), noise.at("x", place, layout.rows("x")))
        assert x_t.abs().max() <= math.pi
        sigma = 0.01 * 700**time
        for m in (1, 2):
            angle = m * (x_t - x_0)
            assert float(angle.cos().mean()) == pytest.approx(
                math.exp(-(m**2) * sigma**2 / 2), abs=4 / math.sqrt(count)
            )
            assert float(angle.sin().mean()) == pytest.approx(0.0, abs=4 / math.sqrt(count))


def test_renoise_completes_corrupt() -> None:
    # Corrupting to s and renoising to t has the characters of corrupting to t at once.
    count = 40_000
    layout, noise = many(count)
    rows = layout.rows("x")
    x_0 = torch.full((count,), 3.0, dtype=torch.float64)
    s, t = torch.full((count,), 0.68, dtype=torch.float64), torch.full((count,), 0.75, dtype=torch.float64)
    x_s = PROCESS.corrupt(x_0, s, rows, noise.at("x", 1, rows))
    x_t = PROCESS.renoise(x_s, s, t, rows, noise.at("x", 2, rows))
    sigma = 0.01 * 700**0.75
    assert float((x_t - x_0).cos().mean()) == pytest.approx(math.exp(-(sigma**2) / 2), abs=4 / math.sqrt(count))
    assert torch.equal(PROCESS.renoise(x_s, s, s, rows, noise.at("x", 2, rows)), x_s)


def test_tweedie_point_is_the_mean_of_the_unwound_clean_angle() -> None:
    # By brute force: E[x_0 + 2 pi k | x_t] over both the data and the windings.
    layout, _ = many(7)
    rows = layout.rows("x")
    atoms = torch.tensor([-2.0, 0.4, 3.0], dtype=torch.float64)
    weights = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
    x_t = torch.linspace(-3, 3, 7, dtype=torch.float64)
    k = torch.arange(-8, 9, dtype=torch.float64)
    for sigma in (0.3, 1.0, 2.4, 3.0):
        variance = torch.full((7,), sigma**2, dtype=torch.float64)
        lifted = atoms[:, None, None] + 2 * math.pi * k[:, None] - x_t  # [atoms, windings, 7]
        posterior = weights[:, None, None] * torch.exp(-lifted.square() / (2 * sigma**2))
        displacement = (posterior * lifted).sum((0, 1)) / posterior.sum((0, 1))
        kernel = torch.stack([PROCESS.manifold.log_kernel(x_t, a.expand(7), variance, rows) for a in atoms]).exp()
        scores = torch.stack([PROCESS.manifold.score(x_t, a.expand(7), variance, rows) for a in atoms])
        score = (weights[:, None] * kernel * scores).sum(0) / (weights[:, None] * kernel).sum(0)
        clean = PROCESS.manifold.exp(x_t, sigma**2 * score)
        torch.testing.assert_close(clean, wrap(x_t + displacement), atol=1e-10, rtol=0)
        # ... and it gives the score back.
        torch.testing.assert_close(PROCESS.manifold.log(x_t, clean) / sigma**2, score, atol=1e-9, rtol=0)


def test_parametrisations_agree_on_a_known_clean_point() -> None:
    layout, noise = many(50, 4)
    rows = layout.rows("x")
    x_0 = noise.at("x", 9, rows).uniform() * 6 - 3
    t = torch.linspace(0.05, 1, 50, dtype=torch.float64)
    x_t = PROCESS.corrupt(x_0, t, rows, noise.at("x", 1, rows))
    variance = PROCESS.variance(t)
    score = PROCESS.manifold.score(x_t, x_0, variance, rows)
    by_score = PROCESS.clean(variance.sqrt()[:, None] * score, x_t, t, rows)
    by_point = ManifoldProcess(manifold=Torus(), schedule=Exploding(), parametrisation=CleanPoint()).clean(
        x_0, x_t, t, rows
    )
    torch.testing.assert_close(wrap(by_score - by_point), torch.zeros_like(x_0), atol=1e-10, rtol=0)
    torch.testing.assert_close(by_score, tweedie_point(PROCESS.manifold, x_t, x_0, variance, rows), atol=1e-10, rtol=0)
    loss = PROCESS.loss(by_score, x_0, x_t, t, rows)
    assert loss.shape == (50,)
    assert float(loss.max()) < 1e-18


def test_loss_is_least_at_the_true_tweedie_point() -> None:
    # Two atoms; the loss at fixed x_t averaged over the posterior is quadratic about the true Tweedie displacement.
    layout, _ = many(2)
    rows = layout.rows("x")
    atoms, x_t = torch.tensor([0.5, 2.5], dtype=torch.float64), torch.full((2,), 1.2, dtype=torch.float64)
    t = torch.full((2,), 0.7, dtype=torch.float64)
    variance = PROCESS.variance(t)
    posterior = PROCESS.manifold.log_kernel(x_t, atoms, variance, rows).softmax(0)
    target = variance * PROCESS.manifold.score(x_t, atoms, variance, rows)
    best = (posterior * target).sum()
    for offset in (-0.2, 0.0, 0.3):
        clean = PROCESS.manifold.exp(x_t, (best + offset).expand(2))
        mean = (posterior * PROCESS.loss(clean, atoms, x_t, t, rows)).sum()
        spread = (posterior * (target - best).square()).sum()
        assert float(mean * variance[0]) == pytest.approx(float(spread) + offset**2, rel=1e-10)


def test_a_shrinking_schedule_is_refused() -> None:
    class Shrinking:
        def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
            return 1 - t, t

    with pytest.raises(ValueError, match="variance-exploding"):
        ManifoldProcess(manifold=Torus(), schedule=Shrinking(), parametrisation=ScaledScore())


def test_batch_invariance() -> None:
    layout, noise = many(9, 3)
    one = Layout.dense(1, {"x": (3,)})
    x_0, t = torch.linspace(-3, 3, 27).reshape(9, 3), torch.linspace(0.1, 1, 9)
    rows = layout.rows("x")
    x_t = PROCESS.corrupt(x_0, t, rows, noise.at("x", 1, rows))
    clean = tweedie_point(PROCESS.manifold, x_t, x_0, PROCESS.variance(t), rows)
    for b in range(9):
        row = one.rows("x")
        alone = Noise(seed=5, index=torch.tensor([b])).at("x", 1, row)
        x_b = PROCESS.corrupt(x_0[b : b + 1], t[b : b + 1], row, alone)
        assert torch.equal(x_b, x_t[b : b + 1])
        clean_b = tweedie_point(PROCESS.manifold, x_b, x_0[b : b + 1], PROCESS.variance(t[b : b + 1]), row)
        assert torch.equal(clean_b, clean[b : b + 1])
