"""Trajectories from observations in time, where all is known: shear flows, whose equation is linear."""

from __future__ import annotations

import math

import pytest
import torch

from scidiff.fluids import functionals
from scidiff.fluids.assimilation import TILE, Assimilated, draw
from scidiff.fluids.covariance import Covariance
from scidiff.fluids.model import LEAF, FlowConfig, FlowModel
from scidiff.fluids.spectral import Box
from scidiff.fluids.trajectory import DRAG, VISCOSITY, Observed, equation_of, trajectory
from scidiff.noise import Noise
from scidiff.processes.stationary import Stationary
from scidiff.sampling import sample
from scidiff.solvers import recommended
from scidiff.state import Layout

BOX = Box(shape=(12, 8))
SIZE = 12 * 8
SHAPE = (1, 12, 8)
STEPS, STEP = (0, 2, 4), 0.25
SCALE = 2.0


def shear() -> tuple[FlowModel, Covariance]:
    """A Gaussian model, whose network answers 0, of flows along x that vary along y: nothing carries anything."""
    waves = torch.fft.fftfreq(12, 1 / 12).abs().double()
    variance = torch.zeros(12, 5, dtype=torch.float64)
    variance[1:, 0] = 8.0 / (1 + waves[1:]) ** 2
    variance[6] = 0  # the highest has no derivative
    y, _ = BOX.coordinates()
    mean = torch.cos(2 * y)[:, None].expand(BOX.shape)
    sizes = FlowConfig(shape=BOX.shape, lengths=BOX.lengths, scale=SCALE, waves=2, widths=(8,), blocks=1)
    model = FlowModel.create(sizes, Stationary(mean=mean[None].contiguous(), variance=variance[None]))
    return model, Covariance.stationary(variance, 8)


def observed(model: FlowModel, covariance: Covariance, *, noise: float) -> tuple[Observed, torch.Tensor]:
    """Three points at each of three times, and the truth."""
    white = Noise(seed=4, index=torch.arange(1)).at("truth", 0, Layout.dense(1, {"truth": SHAPE}).rows("truth"))
    truth = model.prior.mean.double() + covariance.root(white.normal(dtype=torch.float64))
    places = torch.tensor([[[0.5, 0.7], [3.0, 2.2], [4.4, 5.1]], [[1.1, 0], [2, 2], [5, 5]], [[0, 0], [1.6, 3], [6, 1]]])
    rows = tuple(functionals.points(BOX, at.double()).flatten(1) for at in places)
    made = {"equation": equation_of(model.config), "shape": BOX.shape, "scale": SCALE, "steps": STEPS, "rows": rows,
            "step": STEP}  # fmt: skip
    blank = Observed(**made, values=torch.zeros(9), noise=noise)
    errors = torch.linspace(-1, 1, 9, dtype=torch.float64) * noise
    return Observed(**made, values=blank.seen(truth)[0] + errors, noise=noise), truth


def decay(steps: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The closed form of a shear flow: x(t) = keep x(0) + add, [N, N] and [N]."""
    y, _ = BOX.coordinates()
    t, identity = STEP * steps, torch.eye(SIZE, dtype=torch.float64).reshape(SIZE, *BOX.shape)
    k_y, _ = BOX.wavenumbers()
    rate = VISCOSITY * k_y**2 + DRAG
    keep = BOX.multiply(identity, torch.exp(-rate * t).expand(12, 5)).flatten(1).T
    forced = VISCOSITY * 4 + DRAG
    add = -2 * torch.cos(2 * y)[:, None].expand(BOX.shape) * (1 - math.exp(-forced * t)) / forced / SCALE
    return keep, add.flatten()


def test_a_shear_flow_decays_as_it_should() -> None:
    model, covariance = shear()
    _, truth = observed(model, covariance, noise=0.1)
    fields = trajectory(equation_of(model.config), SCALE * truth[:, 0], STEPS, step=STEP)
    for steps, field in zip(STEPS, fields, strict=True):
        keep, add = decay(steps)
        torch.testing.assert_close(field.flatten() / SCALE, keep @ truth.flatten() + add, rtol=1e-9, atol=1e-9)


def test_draws_of_a_linear_flow_are_those_of_the_posterior() -> None:
    """The sample is an affine function of its noise, whose mean and covariance are found without sampling."""
    model, covariance = shear()
    told, _ = observed(model, covariance, noise=0.2)
    process = model.processes[LEAF]
    start = torch.cat([torch.zeros(1, SIZE), torch.eye(SIZE)]).double().reshape(-1, *SHAPE)
    layout = Layout.dense(SIZE + 1, {LEAF: SHAPE})
    rule = recommended(process.schedule, 20, std=float(model.prior.variance.mean().sqrt()))
    guided = Assimilated(model.denoiser.double(), process, told, covariance, rounds=9, turns=math.inf)
    noise = Noise(seed=0, index=torch.arange(SIZE + 1))
    done = sample(guided, model.processes, {LEAF: rule}, layout, noise, initial={LEAF: start})
    answers = done.state[LEAF].flatten(1)
    mean, root = answers[0], answers[1:] - answers[0]

    prior = covariance.spread(torch.eye(SIZE, dtype=torch.float64).reshape(-1, *BOX.shape)).flatten(1)
    keep, add = zip(*(decay(steps) for steps in STEPS), strict=True)
    seen = torch.cat([rows @ one for rows, one in zip(told.rows, keep, strict=True)])
    plain = torch.cat([rows @ one for rows, one in zip(told.rows, add, strict=True)])
    centre = model.prior.mean.double().flatten()
    gain = prior @ seen.T @ torch.linalg.inv(seen @ prior @ seen.T + told.noise**2 * torch.eye(9, dtype=torch.float64))
    posterior = centre + gain @ (told.values - plain - seen @ centre)
    expected = prior - gain @ seen @ prior
    assert (mean - posterior).norm() < 0.02 * (posterior - centre).norm()
    assert (root.T @ root - expected).norm() < 0.02 * expected.norm()


def test_what_is_bent_is_trusted_as_errors_shrink() -> None:
    """Late values weigh nothing where the field is unknown, and all where it is known."""
    model, covariance = shear()
    told, _ = observed(model, covariance, noise=0.01)
    process = model.processes[LEAF]
    guided = Assimilated(model.denoiser.double(), process, told, covariance, rounds=9, turns=1.0)
    late = torch.zeros(9, dtype=torch.float64)
    late[6:] = 1.0
    other = Observed(**{**vars(told), "values": told.values + late})
    moved = Assimilated(model.denoiser, process, other, covariance, rounds=9, turns=1.0)
    layout = Layout.dense(1, {LEAF: SHAPE})
    x_t = {LEAF: Noise(seed=2, index=torch.arange(1)).at(LEAF, 0, layout.rows(LEAF)).normal(dtype=torch.float64)}
    free = Assimilated(model.denoiser, process, other, covariance, rounds=9, turns=math.inf)
    plain = Assimilated(model.denoiser, process, told, covariance, rounds=9, turns=math.inf)
    early = torch.ones(1, dtype=torch.float64)
    by_late = (moved(x_t, early, layout)[LEAF] - guided(x_t, early, layout)[LEAF]).norm()
    without = (free(x_t, early, layout)[LEAF] - plain(x_t, early, layout)[LEAF]).norm()
    assert by_late < 0.5 * without


def test_a_draw_does_not_depend_on_its_company() -> None:
    model, covariance = shear()
    told, _ = observed(model, covariance, noise=0.2)
    few, many = (draw(model, told, samples=count, steps=(0, 3), seed=3, calls=3) for count in (2, TILE + 1))
    assert few.vorticity.shape == (2, 2, *BOX.shape)
    assert torch.equal(few.vorticity, many.vorticity[:2])


def test_impossible_observations_are_refused() -> None:
    model, covariance = shear()
    told, _ = observed(model, covariance, noise=0.2)
    with pytest.raises(ValueError, match="noise > 0"):
        Observed(**{**vars(told), "noise": 0.0})
    with pytest.raises(ValueError, match="ascending"):
        Observed(**{**vars(told), "steps": (0, 5, 5)})
