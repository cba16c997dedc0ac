"""Constraints on flows: closed forms, an independent oracle, SciPy, joint sets, and sets that are empty."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from scidiff.constraints.base import Infeasible
from scidiff.fluids import functionals, oracle
from scidiff.fluids.constraints import Bounded, Conserved, Curl, Measured, Solenoidal, energy, enstrophy, mean
from scidiff.fluids.covariance import Covariance
from scidiff.fluids.joined import Joined, joined
from scidiff.fluids.nearest import _stationary
from scidiff.fluids.spectral import Box
from scidiff.noise import Noise
from scidiff.state import Layout

BOX = Box(shape=(16, 20), lengths=(2 * math.pi, 5.0))
SHAPE = (2, 16, 20)


def white(batch: int, shape: tuple[int, ...], step: int = 0) -> torch.Tensor:
    rows = Layout.dense(batch, {"x": shape}).rows("x")
    return Noise(seed=3, index=torch.arange(batch)).at("x", step, rows).normal(dtype=torch.float64)


def smooth(batch: int, step: int = 0) -> torch.Tensor:
    """Velocities without divergence."""
    vorticity = BOX.multiply(white(batch, BOX.shape, step), torch.exp(-BOX.shells() / 2.0))
    velocity = BOX.velocity(vorticity)
    return velocity / velocity.square().mean().sqrt()


def sensors(count: int, truth: torch.Tensor) -> Measured:
    at = white(count, (2,), 9).abs() % 1 * torch.tensor(BOX.lengths)
    seen = functionals.points(BOX, at)
    none = torch.zeros_like(seen)
    rows = torch.cat([torch.stack([seen, none], 1), torch.stack([none, seen], 1)])
    return Measured(leaf="velocity", rows=rows, values=(rows * truth).sum((1, 2, 3)))


def projected(constraint, x: torch.Tensor, metric=None) -> torch.Tensor:
    layout = Layout.dense(len(x), {"velocity": tuple(x.shape[1:])})
    for dtype in (torch.float32, torch.float64):
        state = constraint.project({"velocity": x.to(dtype)}, layout, metric)
        assert state["velocity"].dtype == dtype
        assert (constraint.violation(state, layout) == 0).all()
    assert torch.equal(constraint.project(state, layout, metric)["velocity"], state["velocity"])
    return state["velocity"]


@pytest.mark.parametrize("difference", ["spectral", "centred"])
def test_divergence_by_the_oracle_and_the_projection_by_least_squares(difference) -> None:
    box = Box(shape=BOX.shape, lengths=BOX.lengths, difference=difference)
    x = white(2, SHAPE)
    found = projected(Solenoidal(leaf="velocity", box=box), x)
    assert oracle.divergence(*found.numpy().swapaxes(0, 1), BOX.lengths, difference).max() < 1e-13
    other = {"spectral": "centred", "centred": "spectral"}[difference]
    assert oracle.divergence(*found.numpy().swapaxes(0, 1), BOX.lengths, other).min() > 0.01
    along_y = oracle.derivative(16, BOX.lengths[0], difference)
    along_x = oracle.derivative(20, BOX.lengths[1], difference)
    matrix = np.concatenate([np.kron(np.eye(16), along_x), np.kron(along_y, np.eye(20))], 1)
    flat = x.flatten(1).numpy()
    nearest = flat - (np.linalg.pinv(matrix, rcond=1e-10) @ (matrix @ flat.T)).T
    np.testing.assert_allclose(found.flatten(1).numpy(), nearest, atol=1e-11)


def test_instruments_see_what_the_oracle_integrates() -> None:
    field = white(3, BOX.shape)
    start, end = torch.tensor([[0.3, 0.2], [2.0, 3.9]]), torch.tensor([[1.9, 3.1], [5.5, 4.4]])
    makers = {
        "point": functionals.points(BOX, start),
        "line": functionals.lines(BOX, start, end),
        "area": functionals.areas(BOX, start, end),
    }
    for kind, rows in makers.items():
        seen = torch.einsum("mhw,nhw->nm", rows, field).numpy()
        for m in range(2):
            place = tuple(map(float, start[m])), tuple(map(float, end[m]))
            tool = oracle.Instrument(kind=kind, quantity="u", start=place[0], end=place[1], value=0, name="")
            np.testing.assert_allclose(seen[:, m], oracle.measured(field.numpy(), tool, BOX.lengths), atol=1e-12)
    on_grid = functionals.points(BOX, torch.tensor([[3 * BOX.spacings[0], 7 * BOX.spacings[1]]], dtype=torch.float64))
    assert on_grid[0, 3, 7] == 1
    assert on_grid.abs().sum() == 1
    with pytest.raises(ValueError, match="positions"):
        functionals.points(BOX, torch.tensor([[7.0, 1.0]]))


def test_velocity_is_seen_through_vorticity() -> None:
    vorticity = BOX.vorticity(smooth(2))
    rows = white(4, SHAPE, 5)
    through = functionals.through_vorticity(BOX, rows)
    seen = torch.einsum("mchw,nchw->nm", rows, BOX.velocity(vorticity))
    torch.testing.assert_close(torch.einsum("mhw,nhw->nm", through, vorticity), seen, atol=1e-11, rtol=0)


def test_sensors_without_divergence_are_one_least_squares_problem() -> None:
    truth, x = smooth(1)[0], white(2, SHAPE, 1)
    both = Solenoidal(leaf="velocity", box=BOX) & sensors(12, truth)
    found = projected(both, x)
    measured = both.of(Measured)[0]
    free = both.free(torch.eye(640, dtype=torch.float64)).numpy()
    rows = measured.rows.flatten(1).numpy()
    matrix, goal = np.concatenate([np.eye(640) - free, rows]), np.concatenate([np.zeros(640), measured.values.numpy()])
    flat = x.flatten(1).numpy()
    nearest = flat - (np.linalg.pinv(matrix, rcond=1e-11) @ (matrix @ flat.T - goal[:, None])).T
    np.testing.assert_allclose(found.flatten(1).numpy(), nearest, atol=1e-9)
    one_after_the_other = both.free(sensors(12, truth).nearest(x.flatten(1), None))
    assert both.excess(one_after_the_other)[0].min() > 0.01


def test_a_covariance_says_what_moves() -> None:
    box = Box(shape=(8, 10))
    variance = 1 / (1.0 + box.shells()) ** 3
    covariance = Covariance.stationary(variance, 10)
    dense = covariance.spread(torch.eye(80, dtype=torch.float64).reshape(-1, 8, 10)).reshape(80, 80)
    torch.testing.assert_close(dense, dense.T)
    rows = functionals.points(box, torch.tensor([[0.4, 0.9], [3.0, 2.0], [5.0, 6.0]]))[:, None]
    constraint = Measured(leaf="velocity", rows=rows, values=torch.tensor([1.0, -2.0, 0.5]))
    x = white(3, (1, 8, 10))
    found, same = projected(constraint, x, covariance), projected(constraint, x, dense)
    torch.testing.assert_close(found, same, atol=1e-8, rtol=0)
    r = rows.flatten(1)
    kriging = dense @ r.T @ torch.linalg.solve(r @ dense @ r.T, constraint.values[:, None] - r @ x.flatten(1).T)
    torch.testing.assert_close(found.flatten(1), x.flatten(1) + kriging.T, atol=1e-8, rtol=0)


def test_covariances_of_waves_are_those_of_fields() -> None:
    fields = white(40, (6, 8)) * torch.linspace(0.5, 2, 6)[:, None]
    covariance = Covariance.of(fields, torch.zeros(6, 8))
    flat = torch.cat([fields.roll(s, -1) for s in range(8)]).flatten(1)
    torch.testing.assert_close(
        covariance.spread(torch.eye(48).double().reshape(-1, 6, 8)).flatten(1), flat.T @ flat / 320
    )
    x = white(5, (6, 8), 3)
    torch.testing.assert_close(covariance.fields(covariance.coordinates(x)), x)
    torch.testing.assert_close(covariance.coordinates(x).square().sum((1, 2, 3)), x.square().sum((1, 2)))
    noise, dense = torch.tensor(0.3), (flat.T @ flat / 320)
    left = dense - dense @ torch.linalg.solve(dense + 0.3 * torch.eye(48), dense)
    eye = torch.eye(48).double().reshape(-1, 6, 8)
    torch.testing.assert_close(covariance.posterior(noise).spread(eye).flatten(1), left)


def test_integrals_by_the_oracle_and_the_sphere_in_closed_form() -> None:
    x = smooth(3)
    found = projected(energy("velocity", BOX, 0.3), x)
    np.testing.assert_allclose(oracle.energy(*found.numpy().swapaxes(0, 1)), 0.3, rtol=1e-13)
    size = x.square().sum((1, 2, 3), keepdim=True)
    torch.testing.assert_close(found, x * (0.6 * 320 / size).sqrt())
    found = projected(Solenoidal(leaf="velocity", box=BOX) & enstrophy("velocity", BOX, 0.7), x)
    curls = oracle.curl(*found.numpy().swapaxes(0, 1), BOX.lengths)
    np.testing.assert_allclose(oracle.enstrophy(curls), 0.7, rtol=1e-12)
    vorticity = {"velocity": white(2, (1, 16, 20))}
    both = energy("velocity", BOX, 0.2, of="vorticity") & enstrophy("velocity", BOX, 0.9, of="vorticity")
    found = both.project(vorticity, Layout.dense(2, {"velocity": (1, 16, 20)}))["velocity"]
    flow = BOX.velocity(found[:, 0]).numpy().swapaxes(0, 1)
    np.testing.assert_allclose(oracle.energy(*flow), 0.2, rtol=1e-12)
    np.testing.assert_allclose(oracle.enstrophy(found[:, 0].numpy()), 0.9, rtol=1e-12)


def test_curls_and_sensors_of_vorticity_together() -> None:
    x = white(2, (1, *BOX.shape)) + 1
    rows = functionals.points(BOX, torch.tensor([[0.5, 1.5], [3.0, 2.0]]))[:, None]
    told = Measured(leaf="velocity", rows=rows, values=torch.tensor([2.0, -1.0]))
    found = projected(Curl(leaf="velocity", box=BOX) & told, x)
    u, v = BOX.velocity(found[:, 0]).numpy().swapaxes(0, 1)
    np.testing.assert_allclose(oracle.curl(u, v, BOX.lengths), found[:, 0].numpy(), atol=1e-12)
    with pytest.raises(Infeasible, match=r"a velocity that has 'velocity' together with 1 measurements .* is 0 in all"):
        Curl(leaf="velocity", box=BOX) & mean("velocity", (1, *BOX.shape), torch.ones(1))


def everything(truth: torch.Tensor) -> Joined:
    return (
        Solenoidal(leaf="velocity", box=BOX)
        & sensors(6, truth)
        & mean("velocity", SHAPE, truth.mean((1, 2)))
        & energy("velocity", BOX, 1.1 * float(truth.square().sum(0).mean()) / 2)
        & enstrophy("velocity", BOX, 1.1 * float(BOX.vorticity(truth).square().mean()) / 2)
        & Bounded(leaf="velocity", shape=SHAPE, low=-2.4, high=2.4)
    )


def test_all_at_once() -> None:
    truth = smooth(1)[0]
    constraint = everything(truth)
    found = projected(constraint, truth + 0.1 * white(4, SHAPE, 2))
    u, v = found.numpy().swapaxes(0, 1)
    assert oracle.divergence(u, v, BOX.lengths).max() < 1e-12
    np.testing.assert_allclose(oracle.energy(u, v), constraint.of(Conserved)[0].value, rtol=1e-12)
    np.testing.assert_allclose(
        oracle.enstrophy(oracle.curl(u, v, BOX.lengths)), constraint.of(Conserved)[1].value, rtol=1e-12
    )
    np.testing.assert_allclose(found.mean((2, 3)), truth.mean((1, 2)).expand(4, -1), atol=1e-13)
    assert 2.4 - 1e-12 < found.abs().max() < 2.4 + 1e-12


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_ten_thousand_are_feasible() -> None:
    truth = smooth(1)[0]
    constraint = everything(truth)
    layout = Layout.dense(500, {"velocity": SHAPE})
    for step in range(20):
        state = constraint.project({"velocity": truth + 0.2 * white(500, SHAPE, 100 + step)}, layout)
        assert (constraint.violation(state, layout) == 0).all()


def test_bounds_without_divergence_against_scipy() -> None:
    box = Box(shape=(4, 6))
    x = 1.5 * white(3, (2, 4, 6), 4)
    constraint = Solenoidal(leaf="velocity", box=box) & Bounded(leaf="velocity", shape=(2, 4, 6), low=-0.7, high=0.6)
    found = projected(constraint, x).flatten(1).numpy()
    free = constraint.free(torch.eye(48, dtype=torch.float64)).numpy()
    values, axes = np.linalg.eigh(free)
    basis = axes[:, values > 0.5]
    for c, answer in zip(x.flatten(1).numpy(), found, strict=True):
        peer = minimize(
            lambda z, c=c: 0.5 * np.sum((basis @ z - c) ** 2),
            np.zeros(basis.shape[1]),
            jac=lambda z, c=c: basis.T @ (basis @ z - c),
            constraints=[
                {"type": "ineq", "fun": lambda z: 0.6 - basis @ z, "jac": lambda z: -basis},
                {"type": "ineq", "fun": lambda z: basis @ z + 0.7, "jac": lambda z: basis},
            ],
            method="SLSQP",
            options={"ftol": 1e-15, "maxiter": 500},
        )
        np.testing.assert_allclose(answer, basis @ peer.x, atol=1e-6)


def test_the_nearest_point_of_a_curved_set_is_stationary() -> None:
    truth = smooth(1)[0]
    constraint = Solenoidal(leaf="velocity", box=BOX) & sensors(6, truth) & energy("velocity", BOX, 0.9)
    x = smooth(2, 7)
    found = projected(constraint, x).flatten(1)
    linear = constraint.linear(None, found)
    pull = linear.within(x.flatten(1) - found)  # along the set nothing pulls but the integral
    push = linear.within(constraint.of(Conserved)[0].gradient(found))
    share = (pull * push).sum(1, keepdim=True) / push.square().sum(1, keepdim=True)
    assert (pull - share * push).norm() < 1e-5 * pull.norm()


def on_the_grid(truth: torch.Tensor) -> Measured:
    """u at three points of the grid and v at two of them."""
    rows = torch.zeros(5, *SHAPE, dtype=torch.float64)
    for m, (c, y, x) in enumerate([(0, 2, 3), (0, 9, 17), (0, 14, 8), (1, 2, 3), (1, 9, 17)]):
        rows[m, c, y, x] = 1 + m
    return Measured(leaf="velocity", rows=rows, values=(rows * truth).sum((1, 2, 3)))


def test_the_multipliers_of_integrals_give_the_nearest_point() -> None:
    truth = smooth(1)[0]
    values = [float(of.square().sum(0).mean()) / 2 for of in (truth, BOX.vorticity(truth)[None])]
    constraint = (
        Solenoidal(leaf="velocity", box=BOX)
        & on_the_grid(truth)
        & energy("velocity", BOX, values[0])
        & enstrophy("velocity", BOX, values[1])
    )
    x = truth + 0.4 * white(6, SHAPE, 8)
    linear, integrals = constraint.linear(None, x), constraint.of(Conserved)
    start = linear.onto(constraint.free(x.flatten(1)))
    found, done = constraint._secular(linear).nearest(start)
    assert done.all()
    for integral in integrals:
        torch.testing.assert_close(integral.excess(found)[0], torch.zeros(6).double(), atol=1e-13, rtol=0)
    assert constraint.of(Measured)[0].excess(found)[0].max() < 1e-12
    assert (constraint.free(found) - found).abs().max() < 1e-12
    pull = start - found  # along the facts nothing pulls but the integrals
    push = linear.within(torch.stack([q.gradient(found) for q in integrals], 1))
    share = torch.linalg.lstsq(push.mT, pull[..., None]).solution
    assert (pull - (push.mT @ share)[..., 0]).norm() < 1e-6 * pull.norm()
    other = _stationary(integrals, linear, start)
    assert ((found - start).norm(dim=1) <= (other - start).norm(dim=1) * (1 + 1e-9)).all()
    assert projected(constraint, x).flatten(1).sub(found).abs().max() < 1e-6


def test_fields_that_have_to_gain_energy_are_found_too() -> None:
    truth = smooth(1)[0]
    constraint = Solenoidal(leaf="velocity", box=BOX) & on_the_grid(truth) & energy("velocity", BOX, 40.0)
    found = projected(constraint, truth + 0.1 * white(3, SHAPE, 8))
    np.testing.assert_allclose(oracle.energy(*found.numpy().swapaxes(0, 1)), 40.0, rtol=1e-12)


def test_what_is_empty_names_the_two() -> None:
    truth = smooth(1)[0]
    rows = sensors(3, truth).rows
    with pytest.raises(Infeasible, match="b contradicts a"):
        Measured(leaf="velocity", rows=rows[[0, 0, 1]], values=torch.tensor([1.0, 2.0, 0.0]), names=("a", "b", "c"))
    free = Solenoidal(leaf="velocity", box=BOX)
    across = torch.zeros(2, 2, 16, 20, dtype=torch.float64)
    across[0, 0, :, 3] = across[1, 0, :, 9] = 1 / 16  # the flow through two sections is the same
    flux = Measured(leaf="velocity", rows=across, values=torch.tensor([1.0, 1.5]), names=("left", "right"))
    with pytest.raises(
        Infeasible, match=r"no divergence .* together with 2 measurements .*: (left|right) and (left|right)"
    ):
        free & flux
    assert isinstance(free & Measured(leaf="velocity", rows=across, values=torch.ones(2)), Joined)
    with pytest.raises(Infeasible, match=r"energy 0.001 .* together with 6 measurements .*: they ask for at least"):
        sensors(3, truth) & energy("velocity", BOX, 0.001)
    with pytest.raises(Infeasible, match=r"bounds .* together with 24 measurements"):
        sensors(12, truth) & Bounded(leaf="velocity", shape=SHAPE, low=-0.1, high=0.1)
    with pytest.raises(Infeasible, match=r"energy 1 .* together with enstrophy 0.1 "):
        energy("velocity", BOX, 1.0, of="vorticity") & enstrophy("velocity", BOX, 0.1, of="vorticity")
    with pytest.raises(Infeasible, match=r"energy 9 .* together with bounds"):
        energy("velocity", BOX, 9.0) & Bounded(leaf="velocity", shape=SHAPE, low=-1, high=1)
    with pytest.raises(ValueError, match="one kind of divergence"):
        free & Solenoidal(leaf="velocity", box=Box(shape=BOX.shape, lengths=BOX.lengths, difference="centred"))
    assert len(joined(free & sensors(3, truth), energy("velocity", BOX, 1.0)).parts) == 3
