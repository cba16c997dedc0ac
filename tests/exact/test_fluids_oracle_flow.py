"""The oracle's own solver: closed forms, and the sampler's solver at a finer step."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from scidiff.fluids import oracle
from scidiff.fluids.navier_stokes import NavierStokes, kolmogorov, resampled
from scidiff.fluids.spectral import Box

LENGTHS = (2 * math.pi, 3 * math.pi)
SHAPE = (16, 24)
FLOW = {"viscosity": 0.03, "drag": 0.2, "lengths": LENGTHS}


def test_cells_decay_and_do_not_move() -> None:
    """cos(a x) cos(b y) is a steady flow but for friction: Taylor and Green's decaying vortices."""
    y, x = Box(shape=SHAPE, lengths=LENGTHS).coordinates()
    a, b = 2 * math.pi / LENGTHS[1] * 2, 1.0
    start = torch.outer(torch.cos(b * y), torch.cos(a * x)).numpy()[None]
    for time, found in zip(
        (0.0, 0.5, 2.0), oracle.carried(start, (0.0, 0.5, 2.0), waves=2, force=0.0, **FLOW), strict=True
    ):
        np.testing.assert_allclose(found, start * math.exp(-(0.03 * (a * a + b * b) + 0.2) * time), atol=1e-9)


def test_a_laminar_flow_grows_under_its_force() -> None:
    y, _ = Box(shape=SHAPE, lengths=LENGTHS).coordinates()
    rate = 0.03 * 4 + 0.2
    (found,) = oracle.carried(np.zeros((1, *SHAPE)), (1.5,), waves=2, force=0.7, **FLOW)
    expected = -0.7 * 2 * np.cos(2 * y.numpy())[:, None] * (1 - math.exp(-rate * 1.5)) / rate
    np.testing.assert_allclose(found[0], np.broadcast_to(expected, SHAPE), atol=1e-9)


def test_turbulent_flows_are_those_of_the_samplers_solver() -> None:
    box, fine = Box(shape=SHAPE, lengths=LENGTHS), Box(shape=(24, 36), lengths=LENGTHS)
    random = torch.randn(3, *SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    start = 20 * box.multiply(random, torch.exp(-box.shells() / 2.0))
    equation = NavierStokes(box=fine, viscosity=0.03, drag=0.2, forcing=kolmogorov(fine, waves=2, amplitude=0.7))
    expected = resampled(equation.integrate(resampled(start, fine.shape), step=1e-3, steps=400), SHAPE)
    (found,) = oracle.carried(start.numpy(), (0.4,), waves=2, force=0.7, step=2e-3, **FLOW)
    assert np.abs(found - start.numpy()).max() > 1.0
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-6)


def test_misses_are_in_units_of_the_noise() -> None:
    """u of cos(y) is -sin(y) but for its sign: omega = -du/dy."""
    y, _ = Box(shape=SHAPE, lengths=LENGTHS).coordinates()
    omega = torch.cos(y)[:, None].expand(SHAPE).numpy()[None]
    at = (math.pi / 2, 0.3)
    tools = [
        oracle.Instrument(kind="point", quantity=name, start=at, end=at, value=value, name="", time=time)
        for name, value, time in (("u", -1.0, 1.0), ("u", 1.0, 1.0), ("vorticity", 0.5, 2.0))
    ]
    found = oracle.missed({1.0: omega, 2.0: 2 * omega}, tools, LENGTHS, noise=0.1)
    assert found[1.0] == pytest.approx(np.array([[0.0, -20.0]]), abs=1e-9)
    assert found[2.0] == pytest.approx(np.array([[-5.0]]), abs=1e-9)
