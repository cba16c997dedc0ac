"""Solvers on a line and in a porous square against closed forms, their orders, and what they conserve."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from scidiff.fluids.burgers import Burgers, advect_diffuse, wavenumbers
from scidiff.fluids.darcy import pressure, residual, two_phase


def _line(points: int) -> Tensor:
    return torch.arange(points, dtype=torch.float64) * (2 * math.pi / points)


def _hopf_cole(points: int, viscosity: float, time: float) -> Tensor:
    """u = -2 nu phi_x / phi with phi = 2 + exp(-nu t) cos x + exp(-9 nu t) cos(3 x) / 4."""
    x = _line(points)
    one, three = math.exp(-viscosity * time), math.exp(-9 * viscosity * time) / 4
    phi = 2 + one * torch.cos(x) + three * torch.cos(3 * x)
    return 2 * viscosity * (one * torch.sin(x) + 3 * three * torch.sin(3 * x)) / phi


def test_burgers_is_hopf_and_coles():
    found = Burgers(points=128, viscosity=0.3).integrate(_hopf_cole(128, 0.3, 0.0), step=0.01, steps=200)
    torch.testing.assert_close(found, _hopf_cole(128, 0.3, 2.0), rtol=0, atol=1e-9)


def test_burgers_is_of_fourth_order_in_time():
    flow, start, errors = Burgers(points=128, viscosity=0.3), 4 * _hopf_cole(128, 0.3, 0.0), []
    fine = flow.integrate(start, step=1 / 1024, steps=1024)
    for steps in (16, 32):
        errors.append(float((flow.integrate(start, step=1 / steps, steps=steps) - fine).abs().max()))
    assert 3.6 < math.log2(errors[0] / errors[1]) < 4.6


def test_burgers_keeps_momentum_and_gains_what_is_forced():
    force = 0.2 + torch.sin(_line(64))
    start = torch.cos(_line(64)) + 0.5
    end = Burgers(points=64, viscosity=0.1, forcing=force).integrate(start, step=0.02, steps=50)
    assert float(end.mean()) == pytest.approx(0.5 + 0.2 * 1.0, abs=1e-12)


def test_a_solution_leaves_no_residual_and_another_does():
    flow = Burgers(points=128, viscosity=0.3)
    left = []
    for spacing in (0.02, 0.01):
        before, after = _hopf_cole(128, 0.3, 1.0), _hopf_cole(128, 0.3, 1.0 + spacing)
        left.append(float(flow.residual(before, after, spacing=spacing).abs().max()))
    assert left[0] / left[1] == pytest.approx(4, rel=0.05)
    assert float(flow.residual(before, after * 1.01, spacing=0.01).abs().max()) > 100 * left[1]


def test_a_step_too_long_is_an_error_and_not_a_field():
    with pytest.raises(FloatingPointError, match="expected a stable time step, got 5"):
        Burgers(points=64, viscosity=1e-3).integrate(1e3 * torch.sin(_line(64)), step=5.0, steps=30)


@given(st.floats(-3, 3), st.floats(0, 0.5), st.floats(0, 2))
def test_advection_and_diffusion_of_a_wave(speed: float, viscosity: float, time: float):
    found = advect_diffuse(torch.cos(3 * _line(32)), speed=speed, viscosity=viscosity, time=time)
    expected = torch.cos(3 * (_line(32) - speed * time)) * math.exp(-9 * viscosity * time)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_wavenumbers_know_the_length():
    assert wavenumbers(8, math.pi)[1].item() == pytest.approx(2.0)


def _centres(n: int) -> Tensor:
    return (torch.arange(n, dtype=torch.float64) + 0.5) / n


def test_darcy_is_of_second_order_for_a_smooth_permeability():
    """p = sin(pi x) sin(2 pi y), a = 1 + x / 2 + y^2, f = -div(a grad p) by hand."""
    errors = []
    for n in (32, 64):
        y, x = _centres(n)[:, None], _centres(n)[None]
        a = 1 + x / 2 + y**2
        sin_x, cos_x = torch.sin(math.pi * x), torch.cos(math.pi * x)
        sin_y, cos_y = torch.sin(2 * math.pi * y), torch.cos(2 * math.pi * y)
        p = sin_x * sin_y
        f = 5 * math.pi**2 * a * p - 0.5 * math.pi * cos_x * sin_y - 2 * y * 2 * math.pi * sin_x * cos_y
        errors.append(float((pressure(a, f) - p).abs().max()))
    assert math.log2(errors[0] / errors[1]) == pytest.approx(2, abs=0.15)


def test_darcy_lets_nothing_through_a_wall():
    n = 48
    a = torch.ones(n, n, dtype=torch.float64)
    a[:, n // 2 :] = 1e-9
    p = pressure(a, torch.where(torch.arange(n) < n // 2, 1.0, 0.0).double().expand(n, n))
    assert float(p[:, : n // 2].min()) > 0
    jump = 2 * 1e-9 / (1 + 1e-9) * (p[:, n // 2 - 1] - p[:, n // 2]) * n
    assert float(jump.abs().max()) < 1e-7


@settings(max_examples=15, deadline=None)
@given(st.integers(2, 24), st.integers(0, 2**20))
def test_darcy_keeps_mass_cell_by_cell(n: int, seed: int):
    source = torch.Generator().manual_seed(seed)
    a = two_phase(torch.randn(n, n, dtype=torch.float64, generator=source))
    f = torch.randn(n, n, dtype=torch.float64, generator=source)
    p = pressure(a, f)
    assert set(a.unique().tolist()) <= {3.0, 12.0}
    assert float(residual(a, p, f).abs().max()) < 1e-9
    assert float(residual(a, p + 1e-3, f).abs().max()) > 1e-3


def test_darcy_is_symmetric_under_exchange_of_source_and_sensor():
    a = two_phase(torch.randn(12, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(1)))
    one, other = torch.zeros(12, 12, dtype=torch.float64), torch.zeros(12, 12, dtype=torch.float64)
    one[2, 3], other[9, 7] = 1, 1
    assert float(pressure(a, one)[9, 7]) == pytest.approx(float(pressure(a, other)[2, 3]), rel=1e-10)


def test_a_permeability_must_be_positive():
    with pytest.raises(ValueError, match="positive permeabilities"):
        pressure(torch.zeros(4, 4))


def test_the_derivative_of_the_pressure_is_exact_and_may_be_taken_again():
    source = torch.Generator().manual_seed(2)
    a = (1 + torch.rand(2, 5, 5, dtype=torch.float64, generator=source)).requires_grad_()
    f = torch.randn(2, 5, 5, dtype=torch.float64, generator=source).requires_grad_()
    assert torch.autograd.gradcheck(pressure, (a, f))
    assert torch.autograd.gradgradcheck(pressure, (a, f))
    torch.testing.assert_close(pressure(a, f)[1], pressure(a[1], f[1]))
