"""Pairs of coefficient and solution: symmetries, covariance, and a linear Gaussian problem with its exact posterior."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from scidiff.fluids.equations import EQUATIONS, Darcy, Decay, Poisson
from scidiff.fluids.pair_inversion import Given, alike, through
from scidiff.fluids.pairs import LEAF, PairConfig, PairModel, moved, statistics
from scidiff.fluids.principal import Filtered, Principal
from scidiff.state import Layout

N = 8
SIZE = 2 * N * N


def _white(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _waves() -> Tensor:
    """Of sources of covariance (9 - laplace)^-2 without flux through the walls: [N N, N N], a square root."""
    k, at = torch.arange(N).double(), (torch.arange(N).double() + 0.5) / N
    basis = torch.cos(math.pi * k[:, None] * at) * math.sqrt(2 / N)
    basis[0] /= math.sqrt(2)
    size = 30 / (9 + math.pi**2 * (k[:, None] ** 2 + k**2))
    return (size[:, :, None, None] * basis[:, None, :, None] * basis[None, :, None, :]).reshape(N * N, N * N)


def poisson() -> tuple[PairModel, Tensor]:
    """A model of Gaussian sources and their potentials, exact, and the covariance of the pairs: [SIZE, SIZE]."""
    sources = _waves().reshape(-1, N, N)
    factor = torch.stack([sources, Poisson().solve(sources)], 1)
    scale = factor.square().sum(0).mean((1, 2)).sqrt()
    joint = (factor / scale[:, None, None]).flatten(1)
    variance, mixing = torch.linalg.eigh(joint.T @ joint)
    axes = torch.eye(N * N, dtype=torch.float64).expand(2, -1, -1)
    known = Principal(
        axes=axes, mixing=mixing, variance=variance.clamp_min(0), floor=torch.full((2,), 1e-12, dtype=torch.float64)
    )
    sizes = PairConfig(
        equation="poisson", shape=(N, N), scale=(float(scale[0]), float(scale[1])), widths=(8,), blocks=1
    )
    model = PairModel.create(sizes, torch.zeros(2, N, N), known)
    return model, factor.flatten(1).T @ factor.flatten(1)


def test_functions_of_a_covariance_are_those_of_the_matrix():
    fields = _white(400, 2, N, N) * torch.linspace(0.3, 2, N, dtype=torch.float64)
    fields[:, 1] += 0.5 * fields[:, 0].flip(-1)
    known = Principal.of(fields, 10)
    matrix = known.spread(torch.eye(SIZE, dtype=torch.float64).reshape(SIZE, 2, N, N)).flatten(1)
    torch.testing.assert_close(matrix, matrix.T, rtol=0, atol=1e-6)
    assert float(matrix.trace()) == pytest.approx(float(fields.square().sum() / 400), rel=1e-5)
    x = _white(3, 2, N, N, seed=1)
    root = known.root(known.root(x)).flatten(1)
    torch.testing.assert_close(root, x.flatten(1) @ matrix)
    left = torch.linalg.inv(torch.linalg.inv(matrix) + torch.eye(SIZE, dtype=torch.float64) / 0.3)
    torch.testing.assert_close(known.posterior(torch.tensor(0.3)).spread(x).flatten(1), x.flatten(1) @ left)
    assert float(known.mean_of(lambda v: v)) == pytest.approx(float(matrix.trace()) / SIZE)


def test_the_filter_is_wieners_and_its_output_goes_back():
    known = Principal.of(_white(300, 2, N, N) * torch.tensor([1.0, 0.2])[:, None, None], 12)
    filtered = Filtered(covariance=known.single())
    alpha, sigma = torch.tensor([0.8, 0.6]).reshape(2, 1, 1, 1), torch.tensor([0.6, 0.8]).reshape(2, 1, 1, 1)
    x_t, x_0 = _white(2, 2, N, N, seed=2).float(), _white(2, 2, N, N, seed=3).float()
    matrix = known.spread(torch.eye(SIZE, dtype=torch.float64).reshape(SIZE, 2, N, N)).flatten(1)
    for row in range(2):
        a, s = float(alpha[row]), float(sigma[row])
        wiener = a * matrix @ torch.linalg.inv(a**2 * matrix + s**2 * torch.eye(SIZE, dtype=torch.float64))
        expected = (wiener @ x_t[row].flatten().double()).float().reshape(2, N, N)
        found = filtered.clean(torch.zeros_like(x_t), x_t, alpha, sigma)[row]
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
        left = matrix - a * wiener @ matrix
        _, gain = filtered.coefficients(alpha, sigma)
        assert float(gain[row]) ** 2 == pytest.approx(float(left.trace()) / SIZE, rel=1e-4)
    back = filtered.clean(filtered.output(x_0, x_t, alpha, sigma), x_t, alpha, sigma)
    torch.testing.assert_close(back, x_0, rtol=0, atol=1e-4)
    assert filtered.network_input(x_t, alpha, sigma).shape == (2, 4, N, N)


@pytest.mark.parametrize("name", EQUATIONS)
def test_a_moved_pair_is_a_pair_of_the_equation(name: str):
    """Every symmetry commutes with the solver."""
    equation, points = EQUATIONS[name], 48
    smooth = torch.fft.irfft2(torch.fft.rfft2(_white(6, points, points))[:, :, :6], s=(points, points))
    coefficient = 6 + smooth / smooth.std() if name == "darcy" else smooth / smooth.std()
    if name == "navier-stokes":
        waves = torch.fft.fftfreq(points, 1 / points).abs() < 6
        coefficient = torch.fft.ifft2(torch.fft.fft2(coefficient) * waves[:, None] * waves).real
        coefficient -= coefficient.mean((1, 2), keepdim=True)
    pairs = torch.stack([coefficient, equation.solve(coefficient)], 1)
    u = torch.rand(6, 5, generator=torch.Generator().manual_seed(4))
    found = moved(pairs, u, periodic=equation.periodic)
    assert (found - pairs).flatten(1).abs().amax(1).median() > 0.01
    torch.testing.assert_close(equation.solve(found[:, 0]), found[:, 1], rtol=0, atol=1e-7)


def test_statistics_know_the_symmetries():
    pairs = _white(64, 2, 16, 16).float() + torch.tensor([3.0, -1.0])[:, None, None]
    mean, scale, known = statistics(pairs, periodic=False)
    torch.testing.assert_close(mean, mean.mT)
    torch.testing.assert_close(mean, mean.flip(-1))
    assert scale == pytest.approx((1.0, 1.0), abs=0.05)
    assert float(known.mean_of(lambda v: v)) == pytest.approx(1.0, rel=1e-3)


def test_a_model_comes_back_from_its_folder(tmp_path):
    pairs = _white(200, 2, 16, 16).float().cumsum(-1)
    mean, scale, known = statistics(pairs, periodic=False)
    model = PairModel.create(
        PairConfig(equation="darcy", shape=(16, 16), scale=scale, widths=(8, 8), blocks=1),
        mean,
        known,
        card={"seed": 1},
    )
    with torch.no_grad():
        for parameter in model.denoiser.parameters():
            parameter.copy_((parameter + 0.1 * torch.sin(torch.arange(parameter.numel()).view_as(parameter))).half())
    model.save(tmp_path / "model")
    again = PairModel.load(tmp_path / "model")
    assert (again.config, again.card) == (model.config, {"seed": 1})
    torch.testing.assert_close(again.covariance.axes, known.axes, rtol=0, atol=1e-3)
    layout, t = Layout.dense(3, {LEAF: (2, 16, 16)}), torch.tensor([0.2, 0.5, 1.0], dtype=torch.float64)
    x = model.scaled(pairs[:3])
    torch.testing.assert_close(model.fields(x), pairs[:3], rtol=1e-4, atol=1e-4)
    clean, same = (m.denoiser({LEAF: x}, t, layout)[LEAF] for m in (model, again))
    torch.testing.assert_close(same, clean, rtol=1e-3, atol=1e-3)


def _posterior(covariance: Tensor, given: Given) -> tuple[Tensor, Tensor]:
    """Mean and covariance of the flattened pair, given noisy values."""
    rows = torch.zeros(len(given.known()), 2, N, N, dtype=torch.float64)
    count = len(given.values[0])
    rows[:count, 0], rows[count:, 1] = given.rows
    noise = torch.tensor([given.noise[0]] * count + [given.noise[1]] * len(given.values[1]), dtype=torch.float64)
    rows = rows.flatten(1)
    gain = covariance @ rows.T @ torch.linalg.inv(rows @ covariance @ rows.T + torch.diag(noise**2))
    return gain @ torch.cat(given.values), covariance - gain @ rows @ covariance


def _given(model: PairModel, noise: float) -> Given:
    source = _waves().T @ _white(N * N, seed=5)
    truth = torch.stack([source.reshape(N, N), Poisson().solve(source.reshape(1, N, N))[0]])
    places = torch.tensor([3, 27]), torch.tensor([10, 21, 36, 45, 54])
    sizes = noise * model.config.scale[0], noise * model.config.scale[1]
    return Given.at(places, truth, sizes)


@pytest.mark.slow
def test_draws_through_a_linear_equation_follow_the_posterior():
    model, covariance = poisson()
    given = _given(model, 0.1)
    draws = through(model, given, samples=60, calls=40).flatten(1)  # with 16 they are a fifth too wide
    mean, left = _posterior(covariance, given)
    for part in (slice(0, N * N), slice(N * N, SIZE)):
        error = (draws.mean(0) - mean)[part].norm() / mean[part].norm()
        spread = draws.var(0)[part].sum() / left.diagonal()[part].sum()
        assert float(error) < 0.12
        assert float(spread) == pytest.approx(1, abs=0.15)


def test_values_and_equation_hold():
    model, _ = poisson()
    given = _given(model, 0.02)
    plain = alike(model, given, samples=3, calls=4)
    assert given.misfit(plain).max() < 1e-12
    pairs = through(model, given, samples=3, calls=6)
    torch.testing.assert_close(Poisson().solve(pairs[:, 0]), pairs[:, 1])
    assert given.misfit(pairs).max() < given.bound()
    assert (pairs[0] - pairs[1]).abs().max() > 0.01 * pairs.abs().max()
    torch.testing.assert_close(through(model, given, samples=1, calls=6)[0], pairs[0], rtol=1e-6, atol=1e-9)


def test_a_permeability_stays_within_its_bounds():
    flow = Darcy(bounds=(3.0, 12.0))
    wild = 8 + 20 * _white(2, N, N)
    torch.testing.assert_close(flow.solve(wild), flow.solve(wild.clamp(3, 12)))


def test_decay_loses_energy_and_keeps_the_mean():
    waves = torch.arange(64).double() * (2 * math.pi / 64)
    start = (torch.cos(2 * waves)[:, None] * torch.cos(3 * waves))[None]
    end = Decay().solve(start)
    assert float(end.mean().abs()) < 1e-12
    assert 0.9 < float(end.norm() / start.norm()) < 1
