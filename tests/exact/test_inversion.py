"""Starts from what was measured later: a linear flow of a Gaussian field, where Kalman's smoother is known exactly."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from scidiff.denoiser import NetworkDenoiser
from scidiff.fluids.covariance import Covariance
from scidiff.fluids.inversion import Inverse, Observations, evolved, plan
from scidiff.fluids.model import LEAF
from scidiff.fluids.navier_stokes import NavierStokes
from scidiff.fluids.spectral import Box
from scidiff.noise import Noise
from scidiff.processes.gaussian import GaussianProcess
from scidiff.processes.stationary import Stationary
from scidiff.sampling import sample
from scidiff.schedules import Cosine
from scidiff.solvers import recommended
from scidiff.state import Layout

BOX = Box(shape=(6, 8))
SIZE = 6 * 8
NOISE, SCALE = 0.2, 2.0
TIMES, MEASURED = (0.0, 0.5, 0.9), (3, 4, 2)
COUNT = sum(MEASURED)


@dataclass(frozen=True, kw_only=True)
class Carried:
    """Advection by a constant speed, diffusion and drag: exact, mode by mode."""

    flow: NavierStokes

    @property
    def box(self) -> Box:
        return self.flow.box

    def integrate(self, vorticity: Tensor, *, step: float, steps: int) -> Tensor:
        return BOX.multiply(vorticity, torch.exp(self.flow.linear() * step * steps))


FLOW = Carried(flow=NavierStokes(box=BOX, viscosity=0.05, drag=0.1, mean_flow=(1.0, -0.3)))


@dataclass(frozen=True, kw_only=True)
class Prior:
    """A Gaussian field, in float64."""

    denoiser: NetworkDenoiser
    covariance: Covariance

    @property
    def processes(self):
        return self.denoiser.processes


class Nothing(torch.nn.Module):
    def forward(self, inputs, t, layout, condition=None):
        return {LEAF: torch.zeros_like(inputs[LEAF][:, :1])}


def prior() -> Prior:
    variance = 6.0 / (1 + BOX.shells().double()) ** 2
    variance[0, 0] = 0
    parts = Stationary(mean=torch.zeros(1, *BOX.shape, dtype=torch.float64), variance=variance[None])
    process = GaussianProcess(schedule=Cosine(), parametrisation=parts, dtype=torch.float64)
    return Prior(denoiser=NetworkDenoiser(Nothing(), {LEAF: process}), covariance=Covariance.stationary(variance, 8))


def observations() -> Observations:
    source = torch.Generator().manual_seed(3)
    rows = tuple(torch.randn(m, *BOX.shape, generator=source, dtype=torch.float64) / 3 for m in MEASURED)
    values = tuple(torch.randn(len(r), generator=source, dtype=torch.float64) for r in rows)
    return Observations(times=TIMES, rows=rows, values=values, noise=NOISE)


def inverse() -> Inverse:
    """With as many conjugate gradients as solve exactly: one for each measured value, and some for rounding."""
    mean = torch.zeros(1, *BOX.shape, dtype=torch.float64)
    return Inverse(model=prior(), mean=mean, scale=SCALE, flow=FLOW, observations=observations(), iterations=COUNT + 2)


def smoother() -> tuple[Tensor, Tensor]:
    """Mean and covariance of starts / SCALE by Kalman's smoother: forward through the times, back to the first.

    Without noise of the model, the smoothed start is the start of the state (start, now) that the filter carries.
    """
    unit = torch.eye(SIZE, dtype=torch.float64).reshape(SIZE, *BOX.shape)
    p = prior().covariance.spread(unit).reshape(SIZE, SIZE)
    seen, now = observations(), 0.0
    mean = torch.zeros(2 * SIZE, dtype=torch.float64)
    cov = p.repeat(2, 2)
    for time, rows, values in zip(seen.times, seen.rows, seen.values, strict=True):
        step = evolved(FLOW, unit, [time - now])[0].reshape(SIZE, SIZE).T if time > now else torch.eye(SIZE).double()
        moved = torch.block_diag(torch.eye(SIZE, dtype=torch.float64), step)
        mean, cov, now = moved @ mean, moved @ cov @ moved.T, time
        h = torch.cat([torch.zeros(len(rows), SIZE, dtype=torch.float64), SCALE * rows.flatten(1)], 1)
        gain = cov @ h.T @ torch.linalg.inv(h @ cov @ h.T + NOISE**2 * torch.eye(len(rows), dtype=torch.float64))
        mean, cov = mean + gain @ (values - h @ mean), cov - gain @ h @ cov
    return mean[:SIZE], cov[:SIZE, :SIZE]


def test_draws_of_a_linear_flow_follow_kalmans_smoother() -> None:
    """The loop is affine in the noise it starts from, x = b + M z: b and M M^T are found without sampling."""
    model = inverse()
    layout = Layout.dense(SIZE + 1, {LEAF: (1, *BOX.shape)})
    z = torch.cat([torch.zeros(1, SIZE, dtype=torch.float64), torch.eye(SIZE, dtype=torch.float64)])
    initial = {LEAF: z.reshape(-1, 1, *BOX.shape)}
    noise = Noise(seed=0, index=torch.arange(SIZE + 1))
    rule = recommended(Cosine(), 24)
    done = sample(model.guided(), model.model.processes, {LEAF: rule}, layout, noise, initial=initial)
    found = done.state[LEAF].flatten(1)
    mean, factor = found[0], (found[1:] - found[0]).T
    expected, covariance = smoother()
    size = prior().covariance.spread(torch.eye(SIZE).double().reshape(SIZE, *BOX.shape)).reshape(SIZE, SIZE)
    assert covariance.diagonal().sum() < 0.9 * size.diagonal().sum()  # the test is not empty
    assert (mean - expected).abs().max() < 0.02 * expected.abs().max()
    assert torch.linalg.matrix_norm(factor @ factor.T - covariance) < 0.02 * torch.linalg.matrix_norm(covariance)


def test_starts_from_noisy_values_are_draws_from_the_posterior_and_stay_so() -> None:
    count, one = 600, inverse()
    noise = Noise(seed=1, index=torch.arange(count))
    best = one.likeliest()
    expected, covariance = smoother()
    start = one.model.covariance.root(best.u).flatten()
    torch.testing.assert_close(start, expected, rtol=0, atol=1e-8)
    drawn = one.draws(best, noise)
    for found in (drawn, one.refined(drawn, best, noise, plan(16, noise=1.0))):
        x = found.flatten(1)
        error = (x.mean(0) - expected) / (covariance.diagonal() / count).sqrt()
        assert error.abs().max() < 5
        assert error.square().mean() < 2
        apart = (x - expected).T @ (x - expected) / count - covariance
        sampling = (covariance.trace().square() + covariance.square().sum()) / count  # of a Gaussian's covariance
        assert torch.linalg.matrix_norm(apart) < 1.5 * sampling.sqrt()
        misfit = one.observations.misfit(FLOW, SCALE * found[:, 0])
        assert abs(float((misfit <= one.observations.bound()).double().mean()) - 0.999) < 0.006


def test_a_derivative_of_lower_rank_leads_to_the_same_start(monkeypatch) -> None:
    monkeypatch.setattr("scidiff.fluids.inversion.RANK", 4)
    best = inverse().likeliest()
    assert best.sketch.rows.shape == (4, 1, *BOX.shape)
    expected, _ = smoother()
    torch.testing.assert_close(prior().covariance.root(best.u).flatten(), expected, rtol=0, atol=1e-8)


def test_starts_that_miss_what_was_measured_are_led_back_and_others_stay() -> None:
    one, noise = inverse(), Noise(seed=2, index=torch.arange(6))
    best = one.likeliest()
    drawn = one.draws(best, noise)
    off = drawn + torch.tensor([0, 0, 0, 3.0, 6.0, 12.0], dtype=torch.float64)[:, None, None, None] * 0.1
    held = one.observations.misfit(FLOW, SCALE * off[:, 0]) <= one.observations.bound()
    assert held.tolist() == [True] * 3 + [False] * 3
    found = one.closer(off, best, noise)
    assert (found[:3] == off[:3]).all()
    misfit = one.observations.misfit(FLOW, SCALE * found[:, 0])
    assert (misfit <= one.observations.bound()).all()
