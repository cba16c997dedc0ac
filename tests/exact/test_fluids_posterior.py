"""A Gaussian field, where all is known: the loop with hard sensors draws from the posterior of kriging.

With a Gaussian denoiser and a deterministic solver the sample is an affine function of the noise it starts from,
x = b + M z, so that its mean b and covariance M M^T are found without sampling.
"""

from __future__ import annotations

import math

import pytest
import torch

from scidiff.denoiser import Denoiser
from scidiff.fluids import functionals
from scidiff.fluids.conditioned import Conditioned
from scidiff.fluids.constraints import Curl, Measured
from scidiff.fluids.covariance import Covariance
from scidiff.fluids.ensemble import CALLS, plan
from scidiff.fluids.joined import joined
from scidiff.fluids.model import LEAF, FlowConfig, FlowModel
from scidiff.fluids.spectral import Box
from scidiff.noise import Noise
from scidiff.processes.stationary import Stationary
from scidiff.sampling import sample
from scidiff.solvers import Gaussian, moments, recommended
from scidiff.state import Layout, State

BOX = Box(shape=(12, 16))
SIZE = 12 * 16
SHAPE = (1, 12, 16)


def gaussian() -> tuple[FlowModel, Covariance]:
    """A model of a Gaussian field: its network answers 0."""
    variance = 6.0 / (1 + BOX.shells().double()) ** 3
    variance[0, 0] = 0
    y, _ = BOX.coordinates()
    mean = torch.cos(2 * y)[:, None].expand(BOX.shape)
    sizes = FlowConfig(shape=BOX.shape, lengths=BOX.lengths, scale=1.0, waves=2, widths=(8,), blocks=1)
    model = FlowModel.create(sizes, Stationary(mean=mean[None].contiguous(), variance=variance[None]))
    return model, Covariance.stationary(variance, 16)


def facts(covariance: Covariance) -> Measured:
    """Points, a line and an area, of the field and of its velocity."""
    at = torch.tensor([[0.5, 0.7], [3.0, 2.2], [4.4, 5.1], [1.1, 3.6]])
    rows = torch.cat(
        [
            functionals.points(BOX, at),
            functionals.lines(BOX, at[:1], at[2:3]),
            functionals.areas(BOX, at[:1], at[1:2]),
            functionals.through_vorticity(BOX, torch.stack([functionals.points(BOX, at)] * 2, 1)),
        ]
    )[:, None]
    white = Noise(seed=1, index=torch.arange(1)).at("truth", 0, Layout.dense(1, {"truth": SHAPE}).rows("truth"))
    truth = covariance.root(white.normal(dtype=torch.float64))
    return Measured(leaf=LEAF, rows=rows, values=(rows * truth).sum((1, 2, 3)))


def test_the_loop_draws_from_the_posterior_of_a_gaussian_field() -> None:
    model, covariance = gaussian()
    told = facts(covariance)
    process = model.processes[LEAF]
    start = torch.cat([torch.zeros(1, SIZE), torch.eye(SIZE)]).double().reshape(-1, *SHAPE)
    layout = Layout.dense(SIZE + 1, {LEAF: SHAPE})
    rule = recommended(process.schedule, 20, std=float(model.prior.variance.mean().sqrt()))
    done = sample(
        Conditioned(model.denoiser.double(), process, told, covariance),
        model.processes,
        {LEAF: rule},
        layout,
        Noise(seed=0, index=torch.arange(SIZE + 1)),
        initial={LEAF: start},
        certify={"facts": told},
    )
    assert done.state[LEAF].dtype == torch.float64
    assert (done.certificate["facts"] == 0).all()
    mean, answers = done.state[LEAF][0].flatten(), done.state[LEAF].flatten(1)
    root = answers[1:] - mean
    found = root.T @ root

    prior = covariance.spread(torch.eye(SIZE, dtype=torch.float64).reshape(-1, *BOX.shape)).flatten(1)
    rows, centre = told.rows.flatten(1), model.prior.mean.double().flatten()
    gain = prior @ rows.T @ torch.linalg.inv(rows @ prior @ rows.T)
    expected = prior - gain @ rows @ prior
    kriged = centre + gain @ (told.values - rows @ centre)
    assert (mean - kriged).norm() < 0.02 * (kriged - centre).norm()
    assert (found - expected).norm() < 0.02 * expected.norm()
    spectra = []
    for covering, about in ((found, mean), (expected, kriged)):
        axes = torch.linalg.eigh(covering)
        fields = (axes.eigenvectors * axes.eigenvalues.clamp_min(0).sqrt()).T.reshape(-1, *BOX.shape)
        spectra.append(BOX.spectrum(fields).sum(0) + BOX.spectrum(about.reshape(BOX.shape)))
    assert ((spectra[0] - spectra[1]).abs() < 0.02 * spectra[1] + 1e-9).all()


class Still(Denoiser):
    """Takes what it is given for clean."""

    def forward(self, x_t: State, t: torch.Tensor, layout: Layout, condition: object = None) -> State:
        return x_t


@pytest.mark.parametrize("spaces", [(), (Curl(leaf=LEAF, box=BOX),)])
def test_sensors_are_met_without_asking_the_host(spaces) -> None:
    """One graph, no read-back, from the noisy fields to those that meet the sensors."""
    model, covariance = gaussian()
    seen = joined(*spaces, facts(covariance)) if spaces else facts(covariance)
    told, layout = Conditioned(Still(), model.processes[LEAF], seen, covariance), Layout.dense(2, {LEAF: SHAPE})
    x, t = torch.linspace(-1, 1, 2 * SIZE).double().reshape(2, *SHAPE), torch.full((2,), 0.4)
    compiled = torch.compile(lambda x: told({LEAF: x}, t, layout)[LEAF], fullgraph=True, backend="eager")(x)
    torch.testing.assert_close(compiled, told({LEAF: x}, t, layout)[LEAF])
    assert (seen.violation({LEAF: compiled}, layout) == 0).all()


def test_kriging_is_one_projection_of_draws_from_the_prior() -> None:
    """Conditional simulation (Journel 1974): a draw of the prior, moved onto the facts in the prior's metric."""
    model, covariance = gaussian()
    told, layout = facts(covariance), Layout.dense(4000, {LEAF: SHAPE})
    white = Noise(seed=5, index=torch.arange(4000)).at(LEAF, 0, layout.rows(LEAF)).normal(dtype=torch.float64)
    draws = joined(told).project({LEAF: model.prior.mean + covariance.root(white)}, layout, covariance)[LEAF].flatten(1)
    prior = covariance.spread(torch.eye(SIZE, dtype=torch.float64).reshape(-1, *BOX.shape)).flatten(1)
    rows = told.rows.flatten(1)
    expected = prior - prior @ rows.T @ torch.linalg.solve(rows @ prior @ rows.T, rows @ prior)
    standard = (draws.var(0) / expected.diagonal()).sqrt()
    assert (standard - 1).abs().max() < 5 / math.sqrt(2 * 4000)


@pytest.mark.parametrize(("std", "low", "high"), [(0.05, 0.89, 1), (0.2, 1, 1.14), (1.0, 1, 1.14), (4.0, 1, 1.14)])
def test_the_shipped_solver_is_known_to_be_wide(std, low, high) -> None:
    """What the docstring says of it, from the smallest waves of the data to the largest."""
    model, _ = gaussian()
    mean, found = moments(plan(model, CALLS), model.processes[LEAF].schedule, Gaussian(mean=0.5, std=std))
    assert low < found / std < high
    assert abs(mean - 0.5) < 0.03 * std + 0.02
