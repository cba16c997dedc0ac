"""Boundaries, mass, entropy and equations: closed forms, the generic solver, and an oracle that shares no code."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import isotonic_regression
from torch import Tensor

from scidiff.constraints import NonlinearEquality
from scidiff.constraints.base import Infeasible
from scidiff.denoiser import Denoiser
from scidiff.fluids import oracle
from scidiff.fluids.boundaries import dirichlet, neumann, periodic
from scidiff.fluids.burgers import Burgers
from scidiff.fluids.constraints import Bounded, FieldConstraint
from scidiff.fluids.constraints import mean as means
from scidiff.fluids.joined import joined
from scidiff.fluids.navier_stokes import NavierStokes, kolmogorov
from scidiff.fluids.residuals import burgers, darcy, navier_stokes
from scidiff.fluids.spectral import Box
from scidiff.fluids.trajectories import Entropy, mass
from scidiff.grids import to_data, uniform
from scidiff.guidance import Project
from scidiff.noise import Noise
from scidiff.processes.gaussian import GaussianProcess
from scidiff.processes.parametrisations import Data
from scidiff.sampling import sample
from scidiff.schedules import Cosine
from scidiff.solvers import ddim
from scidiff.solvers.mixture import GaussianMixture
from scidiff.state import Layout

SHAPE = (1, 4, 12)
FLOW = Burgers(points=12, viscosity=0.2)
SPACING = 0.05


def white(batch: int, shape: tuple[int, ...], step: int = 0) -> Tensor:
    rows = Layout.dense(batch, {"u": shape}).rows("u")
    return Noise(seed=5, index=torch.arange(batch)).at("u", step, rows).normal(dtype=torch.float64)


def trajectories(batch: int, frames: int = 4) -> Tensor:
    """Of Burgers' equation, smooth: [N, 1, T, X]."""
    damped = torch.exp(-torch.arange(7) / 1.5)
    start = 2 * torch.fft.irfft(torch.fft.rfft(white(batch, (12,), 7)) * damped, n=12) + 0.3
    found = [start]
    for _ in range(frames - 1):
        found.append(FLOW.integrate(found[-1], step=SPACING / 5, steps=5))
    return torch.stack(found, 1)[:, None]


def projected(constraint: FieldConstraint, x: Tensor, metric: Tensor | None = None) -> Tensor:
    """The projection, which holds in both precisions and is idempotent."""
    layout = Layout.dense(len(x), {"u": tuple(x.shape[1:])})
    for dtype in (torch.float32, torch.float64):
        state = constraint.project({"u": x.to(dtype)}, layout, metric)
        assert (constraint.violation(state, layout) == 0).all()
    assert torch.equal(constraint.project(state, layout, metric)["u"], state["u"])
    return state["u"]


def test_boundary_values_are_one_least_squares_problem():
    shape, x = (2, 5, 6), white(3, (2, 5, 6))
    facts = joined(
        dirichlet("u", shape, "x low", torch.arange(10.0).reshape(2, 5)),
        neumann("u", shape, "y high", 0.5, spacing=0.1, at=torch.tensor([2, 3, 4])),
        dirichlet("u", shape, "x high", -1.0, at=torch.tensor([1, 2])),
    )
    found = projected(facts, x)
    rows = torch.cat([part.rows for part in facts.parts]).flatten(1).numpy()
    goal = torch.cat([part.values for part in facts.parts]).numpy()
    n, m = 60, len(rows)
    kkt = np.block([[np.eye(n), rows.T], [rows, np.zeros((m, m))]])
    for c, answer in zip(x.flatten(1).numpy(), found.flatten(1).numpy(), strict=True):
        np.testing.assert_allclose(answer, np.linalg.solve(kkt, np.concatenate([c, goal]))[:n], atol=1e-11)
    torch.testing.assert_close(found[:, :, :, 0], torch.arange(10.0).double().reshape(2, 5).expand(3, -1, -1))


@pytest.mark.parametrize("side", ["y low", "y high", "x low", "x high"])
def test_slopes_are_those_of_parabolas_outward(side):
    y, x = torch.meshgrid(torch.arange(5).double() * 0.3, torch.arange(7).double() * 0.2, indexing="ij")
    field = (2 * x**2 - 3 * x + y**2 * 1.5 + y)[None]
    slope = {"y low": -1.0, "y high": 3 * 1.2 + 1, "x low": 3.0, "x high": 4 * 1.2 - 3}[side]
    facts = neumann("u", (1, 5, 7), side, slope, spacing=0.3 if side.startswith("y") else 0.2)
    assert facts.excess(field.flatten()[None])[0].max() < 1e-12
    assert facts.excess(field.flatten()[None] * 1.1)[0].max() > 0.1


def test_a_periodic_grid_ends_where_it_begins():
    x = white(2, (1, 4, 5))
    found = projected(periodic("u", (1, 4, 5), "x") & periodic("u", (1, 4, 5), "y"), x)
    assert (found[..., 0] - found[..., -1]).abs().max() < 1e-14
    assert (found[:, :, 0] - found[:, :, -1]).abs().max() < 1e-14
    corners = x[:, 0, ::3, ::4].flatten(1).mean(1)
    torch.testing.assert_close(found[:, 0, 0, 0], corners)
    torch.testing.assert_close(found[:, 0, 1, 0], (x[:, 0, 1, 0] + x[:, 0, 1, -1]) / 2)
    torch.testing.assert_close(found[:, 0, 1, 2], x[:, 0, 1, 2])


@given(st.integers(0, 1000), st.booleans())
@settings(max_examples=6, deadline=None)
def test_mass_in_closed_form(step, ends):
    shape = (1, 3, 6)
    x = white(2, shape, step)
    share = torch.ones(6).double()
    share[[0, -1]] = 0.5 if ends else 1.0
    goal = torch.tensor([[0.3, -0.2, 1.0]])
    found = projected(mass("u", shape, goal, ends=ends), x)
    off = (oracle.line_means(x[:, 0].numpy(), ends=ends) - goal.numpy())[..., None]
    by = share / share.square().sum() * share.sum()
    torch.testing.assert_close(found[:, 0], x[:, 0] - torch.from_numpy(off) * by)
    stays = projected(mass("u", shape, ends=ends), x)
    kept = oracle.line_means(stays[:, 0].numpy(), ends=ends)
    np.testing.assert_allclose(kept, kept[:, :1].repeat(3, 1), atol=1e-14)
    np.testing.assert_allclose(kept[:, 0], oracle.line_means(x[:, 0].numpy(), ends=ends).mean(1), atol=1e-13)


@given(st.integers(0, 1000), st.integers(2, 6))
@settings(max_examples=10, deadline=None)
def test_entropy_is_a_regression_of_norms(step, frames):
    """Frames keep their shape, and their norms become the nearest that do not grow."""
    x = white(3, (1, frames, 5), step)
    found = projected(joined(Entropy(leaf="u", shape=(1, frames, 5))), x)
    norms = x[:, 0].norm(dim=-1).numpy()
    wanted = np.stack([isotonic_regression(row, increasing=False).x for row in norms])
    np.testing.assert_allclose(found[:, 0].numpy(), x[:, 0].numpy() * (wanted / norms)[..., None], atol=1e-7)


def test_entropy_beside_mass_and_bounds():
    x = white(6, SHAPE) * (1 + torch.arange(4.0)[:, None] / 2)
    both = mass("u", SHAPE) & Entropy(leaf="u", shape=SHAPE) & Bounded(leaf="u", shape=SHAPE, low=-1.5, high=1.5)
    found = projected(both, x)[:, 0].numpy()
    masses, entropies = oracle.line_means(found), oracle.line_means(found**2)
    np.testing.assert_allclose(masses, masses[:, :1].repeat(4, 1), atol=1e-14)
    assert (np.diff(entropies) <= 1e-13).all()
    assert np.abs(found).max() <= 1.5 + 1e-13


def test_burgers_equation_against_the_oracle_and_the_generic_solver():
    equation = burgers("u", FLOW, frames=4, spacing=SPACING)
    x = trajectories(3) + 0.05 * white(3, SHAPE, 3)
    told = oracle.burgers(x[:, 0].numpy(), viscosity=0.2, spacing=SPACING)
    np.testing.assert_allclose(equation.values(x.flatten(1)).numpy(), told.reshape(3, -1), atol=1e-11)
    found = projected(joined(equation), x)
    assert np.abs(oracle.burgers(found[:, 0].numpy(), viscosity=0.2, spacing=SPACING)).max() < 1e-11
    peer = NonlinearEquality(leaf="u", function=equation.values).nearest(x.flatten(1), None)
    torch.testing.assert_close(found.flatten(1), peer, atol=1e-5, rtol=0)
    one = burgers("u", FLOW, frames=4, spacing=SPACING, steps=[2])
    assert one.count == 12
    np.testing.assert_allclose(one.values(x.flatten(1)).numpy(), told[:, 2], atol=1e-11)


def test_the_vorticity_equation_against_the_oracle():
    box = Box(shape=(8, 10), lengths=(2 * math.pi, 5.0))
    flow = NavierStokes(box=box, viscosity=0.05, drag=0.1, forcing=kolmogorov(box, waves=2))
    x = 2 * box.multiply(white(2, (3, 8, 10)), torch.exp(-box.shells() / 2.0))
    equation = navier_stokes("u", flow, frames=3, spacing=0.1)

    def told(found: Tensor) -> np.ndarray:
        forcing = flow.forcing.numpy()
        return oracle.navier_stokes(
            found.numpy(), viscosity=0.05, spacing=0.1, lengths=box.lengths, drag=0.1, forcing=forcing
        )

    np.testing.assert_allclose(equation.values(x.flatten(1)).numpy(), told(x).reshape(2, -1), atol=1e-11)
    still = means("u", (3, 8, 10), torch.zeros(3))
    assert np.abs(told(projected(equation & still, x))).max() < 1e-11


def test_flow_through_pores_against_the_oracle():
    x = white(2, (2, 6, 6)) * torch.tensor([0.7, 0.05]).double()[:, None, None]
    found = projected(joined(darcy("u", 6)), x)
    assert np.abs(oracle.imbalance(found[:, 0].exp().numpy(), found[:, 1].numpy())).max() < 1e-11
    assert (found - x).abs().max() < 1


def everything(truth: Tensor, *, ends: bool) -> FieldConstraint:
    """Edges that agree, a third of the initial values, mass, entropy, and the equation at every step."""
    shape = tuple(truth.shape)
    at = torch.arange(0, 12, 3)
    return (
        dirichlet("u", shape, "y low", truth[:, 0, at], at=at)
        & mass("u", shape, ends=ends)
        & Entropy(leaf="u", shape=shape, ends=ends)
        & burgers("u", FLOW, frames=4, spacing=SPACING, ends=ends)
        & (periodic("u", shape, "x") if ends else Bounded(leaf="u", shape=shape, low=-9, high=9))
    )


def certified(found: Tensor, truth: Tensor, *, ends: bool) -> None:
    """By the oracle alone."""
    u = found[:, 0].numpy()
    masses, entropies = oracle.line_means(u, ends=ends), oracle.line_means(u**2, ends=ends)
    np.testing.assert_allclose(masses, masses[:, :1].repeat(4, 1), atol=1e-12)
    assert (np.diff(entropies) <= 1e-12).all()
    np.testing.assert_allclose(u[:, 0, 0:12:3], truth[:, 0, 0:12:3].numpy().repeat(len(u), 0), atol=1e-12)
    if ends:
        np.testing.assert_allclose(u[..., 0], u[..., -1], atol=1e-12)
    left = oracle.burgers(u[..., :12], viscosity=0.2, spacing=SPACING)
    assert np.abs(left).max() < 1e-10 * np.abs(np.diff(u, axis=1)).max() / SPACING


@pytest.mark.parametrize("ends", [False, True])
def test_all_at_once_in_a_metric_and_without(ends):
    x = trajectories(4)
    x = torch.cat([x, x[..., :1]], -1) if ends else x
    near = (x.flatten(1) - x.flatten(1).mean(0)).T
    metric = 0.1 * near @ near.T + 0.01 * torch.eye(len(near), dtype=torch.float64)
    constraint = everything(x[0], ends=ends)
    for chosen in (None, metric):
        certified(projected(constraint, x + 0.1 * white(4, tuple(x.shape[1:]), 8), chosen), x[0], ends=ends)


def test_draws_of_the_loop_are_certified():
    data = trajectories(64)
    flat = data.flatten(1)
    values, axes = torch.linalg.eigh(torch.cov(flat.T))
    stds = values.clamp_min(1e-6).sqrt()
    exact = _Flat(
        GaussianMixture(
            Cosine(), weights=torch.ones(1), means=flat.mean(0)[None], stds=stds[None], axes=axes[None], leaf="u"
        )
    )
    constraint, schedule = everything(data[0], ends=False), Cosine()
    covariance = (axes * (stds**2 + 1e-3)) @ axes.T
    denoiser = Project(exact, constraint, covariance, start=0.2)
    layout = Layout.dense(6, {"u": SHAPE})
    plan = ddim(schedule, to_data(uniform(7, end=0.02)))
    processes = {"u": GaussianProcess(schedule=schedule, parametrisation=Data(), dtype=torch.float64)}
    found = sample(
        denoiser, processes, {"u": plan}, layout, Noise(seed=1, index=torch.arange(6)), certify={"all": constraint}
    )
    assert (found.certificate["all"] == 0).all()
    certified(found.state["u"], data[0], ends=False)
    assert found.state["u"].std(0).mean() > 0.02


class _Flat(Denoiser):
    """A denoiser of rows, of fields."""

    def __init__(self, rows: GaussianMixture) -> None:
        super().__init__()
        self.rows = rows

    def forward(self, x_t, t, layout, condition=None):
        x = x_t["u"]
        return {"u": self.rows({"u": x.flatten(1)}, t, layout)["u"].reshape(x.shape)}


def test_what_is_empty_names_the_two():
    with pytest.raises(Infeasible, match=r"value on . low, .* point 0 and value on . low, .* point 0 contradict"):
        dirichlet("u", SHAPE, "y low", 1.0) & dirichlet("u", SHAPE, "x low", 2.0)
    start, end = dirichlet("u", SHAPE, "y low", 1.0), dirichlet("u", SHAPE, "y high", 2.0)
    with pytest.raises(Infeasible, match=r"no gain of entropy .* 24 .*: frame 3 has at least 2, frame 0 0.5"):
        Entropy(leaf="u", shape=SHAPE) & (start & end)
    masses = mass("u", SHAPE, torch.tensor([[1.0, 1.0, 1.5, 1.5]]))
    with pytest.raises(Infeasible, match=r"Burgers' equation .* 4 measurements .*: mass .* contradict"):
        burgers("u", FLOW, frames=4, spacing=SPACING) & masses
    assert len((burgers("u", FLOW, frames=4, spacing=SPACING, steps=[0]) & masses).parts) == 2
    with pytest.raises(Infeasible, match=r"entropy .* 16 measurements"):
        Entropy(leaf="u", shape=SHAPE) & (start & mass("u", SHAPE, torch.tensor([[1.0, 1.0, 1.5, 1.5]])))
    with pytest.raises(ValueError, match="expected a side"):
        dirichlet("u", SHAPE, "left", 1.0)
    with pytest.raises(ValueError, match="at least 3 points"):
        neumann("u", (1, 2, 9), "y low", 1.0, spacing=0.1)
    with pytest.raises(ValueError, match=r"expected one number or \[1, 12\]"):
        dirichlet("u", SHAPE, "y low", torch.ones(3))
