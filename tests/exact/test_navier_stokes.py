"""The flow solver against closed forms: decay, advection, budgets, order in time; derivatives against identities."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from scidiff.fluids.navier_stokes import NavierStokes, kolmogorov, resampled
from scidiff.fluids.spectral import Box

BOX = Box(shape=(32, 32))


def _grid(box: Box = BOX) -> tuple[Tensor, Tensor]:
    y, x = box.coordinates()
    return y[:, None], x[None]


def _rough(box: Box = BOX, *, scale: float = 1.0) -> Tensor:
    """A smooth random vorticity without mean."""
    source = torch.Generator().manual_seed(5)
    k_y, k_x = box.wavenumbers()
    low = ((k_y**2 + k_x**2) <= 25) & ((k_y**2 + k_x**2) > 0)
    white = torch.randn(box.shape, dtype=torch.float64, generator=source)
    return scale * box.multiply(white, low) * 3


def test_taylor_green_decays_at_its_own_rate():
    y, x = _grid()
    start = 2 * torch.cos(x) * torch.cos(y)
    end = NavierStokes(box=BOX, viscosity=0.1).integrate(start, step=0.1, steps=20)
    torch.testing.assert_close(end, start * math.exp(-2 * 0.1 * 2.0), rtol=0, atol=1e-12)


def test_one_wave_is_carried_and_diffused_exactly():
    y, x = _grid()
    flow = NavierStokes(box=BOX, viscosity=0.02, drag=0.05, mean_flow=(1.3, -0.4))
    end = flow.integrate(torch.cos(3 * x - 2 * y), step=0.05, steps=40)
    phase = 3 * (x - 1.3 * 2) - 2 * (y + 0.4 * 2)
    torch.testing.assert_close(end, torch.cos(phase) * math.exp(-(0.02 * 13 + 0.05) * 2), rtol=0, atol=1e-12)


def test_steady_kolmogorov_flow_balances_its_force():
    force = kolmogorov(BOX, waves=2)
    steady = force / (0.5 * 2**2 + 0.1)
    end = NavierStokes(box=BOX, viscosity=0.5, drag=0.1, forcing=force).integrate(steady, step=0.1, steps=10)
    torch.testing.assert_close(end, steady, rtol=0, atol=1e-12)


def test_the_nonlinear_term_keeps_energy_and_enstrophy():
    omega = _rough()
    flow = NavierStokes(box=BOX, viscosity=0.0)
    kept = BOX.multiply(omega, flow.kept())
    rate = BOX.back(flow.nonlinear(like=kept)(BOX.forward(kept)))
    k_y, k_x = BOX.wavenumbers()
    square = k_y**2 + k_x**2
    psi = BOX.multiply(kept, torch.where(square > 0, 1 / square.clamp_min(1e-9), 0))
    assert rate.abs().mean() > 0.1
    assert abs(float((rate * kept).mean())) < 1e-10
    assert abs(float((rate * psi).mean())) < 1e-11


def test_the_nonlinear_term_is_advection():
    omega = _rough()
    rate = BOX.back(NavierStokes(box=BOX, viscosity=0.0).nonlinear(like=omega)(BOX.forward(omega)))
    (u, v), (s_y, s_x) = BOX.velocity(omega), BOX.symbols()
    advected = u * BOX.multiply(omega, 1j * s_x) + v * BOX.multiply(omega, 1j * s_y)
    expected = -BOX.multiply(advected, NavierStokes(box=BOX, viscosity=0.0).kept())
    torch.testing.assert_close(rate, expected, rtol=0, atol=1e-9)


def test_energy_falls_by_viscosity_and_rises_by_the_force():
    """d/dt <u^2 / 2> = -nu <omega^2> - 2 drag <u^2 / 2> + <psi forcing>, by differences in time."""
    force = kolmogorov(BOX, waves=3)
    flow, omega = NavierStokes(box=BOX, viscosity=0.03, drag=0.1, forcing=force), _rough()
    k_y, k_x = BOX.wavenumbers()

    def energy(omega: Tensor) -> float:
        return float(BOX.velocity(omega).square().sum(0).mean() / 2)

    before, h = BOX.multiply(omega, flow.kept()), 1e-3
    middle, after = (flow.integrate(before, step=h, steps=n) for n in (1, 2))
    inverse = torch.where(k_y**2 + k_x**2 > 0, 1 / (k_y**2 + k_x**2).clamp_min(1e-9), 0)
    psi = BOX.multiply(middle, inverse)
    budget = -0.03 * middle.square().mean() - 0.2 * energy(middle) + (psi * force).mean()
    assert (energy(after) - energy(before)) / (2 * h) == pytest.approx(float(budget), rel=1e-4)


def test_fourth_order_in_time():
    flow, omega = NavierStokes(box=BOX, viscosity=0.01, forcing=kolmogorov(BOX)), _rough(scale=0.3)
    exact = flow.integrate(omega, step=1 / 640, steps=320)
    errors = [float((flow.integrate(omega, step=0.5 / n, steps=n) - exact).abs().max()) for n in (20, 40)]
    assert math.log2(errors[0] / errors[1]) == pytest.approx(4, abs=0.25)


def test_too_long_a_step_is_told():
    with pytest.raises(FloatingPointError, match="time step"):
        NavierStokes(box=BOX, viscosity=0.0).integrate(_rough(scale=50.0), step=5.0, steps=50)


@pytest.mark.parametrize("difference", ["spectral", "centred"])
def test_projection_removes_the_divergence_of_its_own_symbol(difference):
    box = Box(shape=(24, 32), lengths=(3.0, 5.0), difference=difference)
    velocity = torch.randn(2, 24, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    free = box.solenoidal(velocity)
    assert box.divergence(velocity).abs().max() > 1
    assert box.divergence(free).abs().max() < 1e-12
    torch.testing.assert_close(box.solenoidal(free), free, rtol=0, atol=1e-13)
    other = Box(shape=box.shape, lengths=box.lengths, difference="spectral" if difference == "centred" else "centred")
    assert other.divergence(free).abs().max() > 1e-2
    assert abs(float(((velocity - free) * free).sum())) < 1e-10


@pytest.mark.parametrize("difference", ["spectral", "centred"])
def test_velocity_and_vorticity_are_inverse(difference):
    box = Box(shape=(16, 24), difference=difference)
    noise = torch.randn(2, 16, 24, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    omega = box.vorticity(noise)
    torch.testing.assert_close(box.vorticity(box.velocity(omega)), omega, rtol=0, atol=1e-12)


def test_centred_differences_are_neighbours():
    box = Box(shape=(8, 8), lengths=(8.0, 8.0), difference="centred")
    velocity = torch.randn(2, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    u, v = velocity
    by_hand = (u.roll(-1, -1) - u.roll(1, -1) + v.roll(-1, -2) - v.roll(1, -2)) / 2
    torch.testing.assert_close(box.divergence(velocity), by_hand, rtol=0, atol=1e-13)


def test_spectrum_sums_to_the_mean_square():
    x = torch.randn(3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(BOX.spectrum(x).sum(-1), x.square().mean((-2, -1)))


def test_resampling_keeps_a_series_that_both_grids_hold():
    (y, x), (fine_y, fine_x) = _grid(), _grid(Box(shape=(48, 40)))

    def series(y: Tensor, x: Tensor) -> Tensor:
        return torch.cos(5 * x - 3 * y) + torch.sin(7 * y) + 0.3

    torch.testing.assert_close(resampled(series(y, x), (48, 40)), series(fine_y, fine_x), rtol=0, atol=1e-12)
    torch.testing.assert_close(resampled(series(fine_y, fine_x), (32, 32)), series(y, x), rtol=0, atol=1e-12)
