"""Log-likelihood by the probability flow, against densities in closed form."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from scidiff.denoiser import Denoiser
from scidiff.likelihood import Exact, Hutchinson, log_prob
from scidiff.noise import Noise
from scidiff.processes.categorical import MaskedProcess
from scidiff.processes.gaussian import GaussianProcess, ZeroMeanGaussianProcess, centred
from scidiff.processes.manifold import ManifoldProcess, ScaledScore
from scidiff.processes.parametrisations import Data
from scidiff.processes.so3 import SO3, rotation_exp
from scidiff.processes.torus import Torus
from scidiff.schedules import VE, Cosine, Karras, RectifiedFlow, Schedule, SubVP, VPLinear
from scidiff.solvers.adaptive import Control
from scidiff.state import Layout, State

START = 1e-5


class Leaves(Denoiser):
    """A denoiser that is one function a leaf, (x_t, t) -> clean."""

    def __init__(self, **functions: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.functions = functions

    def forward(self, x_t: State, t: Tensor, layout: Layout, condition: Any = None) -> State:
        return {leaf: function(x_t[leaf], t) for leaf, function in self.functions.items()}


def gaussian(schedule: Schedule) -> GaussianProcess:
    return GaussianProcess(schedule=schedule, parametrisation=Data(), dtype=torch.float64)


def denoise_normal(schedule: Schedule, mean: Tensor, covariance: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    """E[x_0 | x_t] for rows of N(mean, covariance), each sample at its own time."""

    def clean(x: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = (level[:, None, None] for level in schedule(t))
        gain = alpha * covariance @ torch.linalg.inv(alpha**2 * covariance + sigma**2 * torch.eye(3, dtype=x.dtype))
        return mean + (gain @ (x - alpha[..., 0] * mean)[..., None])[..., 0]

    return clean


def denoise_each(schedule: Schedule, mean: float, std: float) -> Callable[[Tensor, Tensor], Tensor]:
    """E[x_0 | x_t] for independent N(mean, std^2) elements of [B, L]."""

    def clean(x: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = (level[:, None] for level in schedule(t))
        return mean + alpha * std**2 / (alpha**2 * std**2 + sigma**2) * (x - alpha * mean)

    return clean


@pytest.mark.parametrize("schedule", [RectifiedFlow(), Cosine()])
def test_gaussian_data_have_the_normal_density(schedule: Schedule) -> None:
    # These schedules leave no signal at t = 1, so that the prior is exact.
    x_0 = torch.linspace(-2, 3, 15, dtype=torch.float64).reshape(5, 3)
    found = log_prob(
        Leaves(x=denoise_each(schedule, 0.7, 0.6)),
        {"x": gaussian(schedule)},
        {"x": x_0},
        Layout.dense(5, {"x": (3,)}),
        start=1e-7,
    )
    expected = torch.distributions.Normal(0.7, 0.6).log_prob(x_0).sum(1)
    assert bool(found.arrived.all())
    torch.testing.assert_close(found.log_prob, expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(found.latent["x"], (x_0 - 0.7) / 0.6, atol=1e-4, rtol=0)


@pytest.mark.parametrize("schedule", [VPLinear(), SubVP(), VE(sigma_max=20.0), Karras(sigma_max=20.0)])
def test_density_is_that_of_what_the_model_generates(schedule: Schedule) -> None:
    # Where signal is left at t = 1 the model starts from N(0, sigma_1^2) all the same, and generates its image under
    # the flow, the affine map that takes N(alpha_1 m, alpha_1^2 s^2 + sigma_1^2) to the data.
    mean, std, start = 0.7, 0.6, 0.02
    x_0 = torch.linspace(-1, 2, 6, dtype=torch.float64).reshape(3, 2)
    found = log_prob(
        Leaves(x=denoise_each(schedule, mean, std)),
        {"x": gaussian(schedule)},
        {"x": x_0},
        Layout.dense(3, {"x": (2,)}),
        start=start,
    )
    (alpha_0, sigma_0), (alpha_1, sigma_1) = (schedule(torch.tensor(t, dtype=torch.float64)) for t in (start, 1.0))
    stretch = torch.hypot(alpha_1 * std, sigma_1) / torch.hypot(alpha_0 * std, sigma_0)
    x_1 = alpha_1 * mean + stretch * alpha_0 * (x_0 - mean)
    expected = torch.distributions.Normal(0.0, sigma_1).log_prob(x_1) + (stretch * alpha_0).log()
    assert bool(found.arrived.all())
    torch.testing.assert_close(found.log_prob, expected.sum(1), atol=1e-5, rtol=0)


def correlated() -> tuple[torch.distributions.MultivariateNormal, Leaves]:
    mean = torch.tensor([0.5, -1.0, 0.2], dtype=torch.float64)
    factor = torch.tensor([[0.8, 0.0, 0.0], [0.5, 0.6, 0.0], [-0.4, 0.3, 0.5]], dtype=torch.float64)
    data = torch.distributions.MultivariateNormal(mean, factor @ factor.T)
    return data, Leaves(x=denoise_normal(RectifiedFlow(), mean, factor @ factor.T))


def test_exact_divergence_of_correlated_data() -> None:
    data, denoiser = correlated()
    x_0 = torch.tensor([[0.5, -1.0, 0.2], [1.0, 0.0, -0.5], [-1.0, -2.0, 1.0]], dtype=torch.float64)
    layout = Layout.dense(3, {"x": (3,)})
    found = log_prob(denoiser, {"x": gaussian(RectifiedFlow())}, {"x": x_0}, layout, divergence=Exact())
    torch.testing.assert_close(found.log_prob, data.log_prob(x_0), atol=1e-5, rtol=0)


@pytest.mark.parametrize("probes", [1, 4])
def test_hutchinson_is_unbiased(probes: int) -> None:
    data, denoiser = correlated()
    count = 600
    x_0 = torch.tensor([[1.0, 0.0, -0.5]], dtype=torch.float64).expand(count, 3)
    estimate = Hutchinson(noise=Noise(seed=11, index=torch.arange(count)), probes_per_sample=probes)
    control = Control(relative=1e-4, absolute=1e-4, look_every=5)
    layout = Layout.dense(count, {"x": (3,)})
    found = log_prob(
        denoiser, {"x": gaussian(RectifiedFlow())}, {"x": x_0}, layout, divergence=estimate, control=control
    )
    assert bool(found.arrived.all())
    spread = float(found.log_prob.std())
    assert float(found.log_prob.mean()) == pytest.approx(float(data.log_prob(x_0[0])), abs=4 * spread / count**0.5)
    # The integral of the Jacobian is B = -(log covariance) / 2; of v^T B v the variance is 4 sum_{i<j} B_ij^2.
    values, vectors = torch.linalg.eigh(data.covariance_matrix)
    integral = -0.5 * vectors @ values.log().diag() @ vectors.T
    variance = 4 * float(integral.triu(1).square().sum())
    assert spread**2 == pytest.approx(variance / probes, rel=0.25)


def test_hutchinson_is_exact_where_coordinates_do_not_mix() -> None:
    # Only signs have squares that are all 1: normal probes would not do.
    x_0 = torch.linspace(-2, 3, 8, dtype=torch.float64).reshape(4, 2)
    estimate = Hutchinson(noise=Noise(seed=1, index=torch.arange(4)))
    found = log_prob(
        Leaves(x=denoise_each(RectifiedFlow(), 0.7, 0.6)),
        {"x": gaussian(RectifiedFlow())},
        {"x": x_0},
        Layout.dense(4, {"x": (2,)}),
        divergence=estimate,
    )
    expected = torch.distributions.Normal(0.7, 0.6).log_prob(x_0).sum(1)
    torch.testing.assert_close(found.log_prob, expected, atol=1e-5, rtol=0)


def test_mixture_of_two_normals() -> None:
    # A flow that is not affine. p_t is the mixture of the two corrupted normals.
    schedule = RectifiedFlow()
    means, stds, shares = (torch.tensor(v, dtype=torch.float64) for v in ([-1.0, 1.2], [0.4, 0.3], [0.35, 0.65]))

    def clean(x: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = (level[:, None, None] for level in schedule(t))
        variance = alpha**2 * stds**2 + sigma**2
        away = x[..., None] - alpha * means
        share = (shares.log() - 0.5 * variance.log() - 0.5 * away**2 / variance).softmax(-1)
        return (share * (means + alpha * stds**2 / variance * away)).sum(-1)

    x_0 = torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None]
    found = log_prob(Leaves(x=clean), {"x": gaussian(schedule)}, {"x": x_0}, Layout.dense(9, {"x": (1,)}))
    normals = torch.distributions.Normal(means, stds)
    mixture = torch.distributions.MixtureSameFamily(torch.distributions.Categorical(shares), normals)
    torch.testing.assert_close(found.log_prob, mixture.log_prob(x_0)[:, 0], atol=1e-5, rtol=0)


def test_zero_mean_leaves_have_three_degrees_of_freedom_less() -> None:
    # Data N(0, s^2) on the subspace of zero mean: log p = -|x|^2 / 2 s^2 - (n - 1) 3/2 log(2 pi s^2)
    counts, std, schedule = torch.tensor([4, 1, 2]), 0.8, RectifiedFlow()
    layout = Layout.ragged({"x": counts}, {"x": (3,)})
    rows = layout.rows("x")
    process = ZeroMeanGaussianProcess(schedule=schedule, parametrisation=Data(), dtype=torch.float64)
    x_0 = centred(torch.linspace(-1, 2, 21, dtype=torch.float64).sin().reshape(7, 3), rows)

    def clean(x: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = (rows.per_row(level) for level in schedule(t))
        return centred(alpha * std**2 / (alpha**2 * std**2 + sigma**2) * x, rows)

    found = log_prob(Leaves(x=clean), {"x": process}, {"x": x_0}, layout)
    freedom = 3 * (counts - 1).double()
    expected = -rows.sum(x_0**2) / (2 * std**2) - freedom / 2 * math.log(2 * math.pi * std**2)
    torch.testing.assert_close(found.log_prob, expected, atol=1e-5, rtol=0)
    assert float(found.log_prob[1]) == 0.0


def test_elements_outside_the_mask_count_for_nothing() -> None:
    mask = torch.tensor([[True, True, False], [True, False, False]])
    layout = Layout.dense(2, {"x": (3,)}, masks={"x": mask})
    x_0 = torch.tensor([[0.1, -0.3, 9.0], [1.0, 9.0, 9.0]], dtype=torch.float64)
    process = gaussian(RectifiedFlow())
    expected = (torch.distributions.Normal(0.7, 0.6).log_prob(x_0) * mask).sum(1)
    for divergence in (Exact(), Hutchinson(noise=Noise(seed=1, index=torch.arange(2)))):
        found = log_prob(
            Leaves(x=denoise_each(RectifiedFlow(), 0.7, 0.6)), {"x": process}, {"x": x_0}, layout, divergence=divergence
        )
        torch.testing.assert_close(found.log_prob, expected, atol=1e-5, rtol=0)


def kernel_denoiser(process: ManifoldProcess, centre: Tensor, layout: Layout, leaf: str) -> Callable[..., Tensor]:
    """The Tweedie point for data that are a heat kernel of variance 0.3 about one centre."""
    rows = layout.rows(leaf)

    def clean(x: Tensor, t: Tensor) -> Tensor:
        variance = process.variance(t)
        score = process.manifold.score(x, centre.expand_as(x), variance + 0.3, rows)
        return process.manifold.exp(x, process.manifold.per_vector(variance, rows) * score)

    return clean


def test_heat_kernel_on_the_torus_beside_a_gaussian() -> None:
    layout = Layout.dense(4, {"angle": (), "x": (1,)})
    schedule = VE(sigma_min=0.05, sigma_max=5.5)
    angle = ManifoldProcess(manifold=Torus(), schedule=schedule, parametrisation=ScaledScore())
    middle = torch.tensor(0.4, dtype=torch.float64)
    denoiser = Leaves(angle=kernel_denoiser(angle, middle, layout, "angle"), x=denoise_each(RectifiedFlow(), 0.7, 0.6))
    x_0 = {
        "angle": torch.linspace(-2.5, 2.5, 4, dtype=torch.float64),
        "x": torch.linspace(0, 1, 4, dtype=torch.float64)[:, None],
    }
    processes = {"angle": angle, "x": gaussian(RectifiedFlow())}
    control = Control(relative=2e-7, absolute=2e-7, attempts=200, look_every=5)
    found = log_prob(denoiser, processes, x_0, layout, start=START, control=control)
    width = 0.3 + angle.variance(torch.full((4,), START, dtype=torch.float64))
    expected = angle.manifold.log_kernel(x_0["angle"], middle.expand(4), width, layout.rows("angle"))
    expected = expected + torch.distributions.Normal(0.7, 0.6).log_prob(x_0["x"])[:, 0]
    assert bool(found.arrived.all())
    torch.testing.assert_close(found.log_prob, expected, atol=1e-5, rtol=0)


def test_heat_kernel_on_the_rotation_group() -> None:
    layout = Layout.dense(3, {"turn": (3, 3)})
    turn = ManifoldProcess(manifold=SO3(), schedule=VE(sigma_min=0.05, sigma_max=4.0), parametrisation=ScaledScore())
    frame = rotation_exp(torch.tensor([0.5, -1.2, 0.8], dtype=torch.float64))
    axis = torch.tensor([[0.6, 0.0, -0.8], [0, 1, 0], [0, 0, 1]], dtype=torch.float64)
    x_0 = frame @ rotation_exp(torch.tensor([[0.0], [0.5], [1.2]], dtype=torch.float64) * axis)
    denoiser = Leaves(turn=kernel_denoiser(turn, frame, layout, "turn"))
    found = log_prob(denoiser, {"turn": turn}, {"turn": x_0}, layout, start=1e-2)
    width = 0.3 + turn.variance(torch.full((3,), 1e-2, dtype=torch.float64))
    expected = turn.manifold.log_kernel(x_0, frame.expand(3, 3, 3), width, layout.rows("turn"))
    assert bool(found.arrived.all())
    torch.testing.assert_close(found.log_prob, expected, atol=1e-5, rtol=0)


def test_each_sample_is_the_same_bit_for_bit_whatever_its_batch() -> None:
    denoiser, process = Leaves(x=denoise_each(RectifiedFlow(), 0.7, 0.6)), gaussian(RectifiedFlow())
    x_0 = torch.linspace(-2, 3, 15, dtype=torch.float64).reshape(5, 3)
    index = torch.tensor([4, 9, 2, 7, 1])

    def run(members: list[int]) -> Tensor:
        estimate = Hutchinson(noise=Noise(seed=1, index=index[members]))
        layout = Layout.dense(len(members), {"x": (3,)})
        return log_prob(denoiser, {"x": process}, {"x": x_0[members]}, layout, divergence=estimate).log_prob

    together = run([0, 1, 2, 3, 4])
    assert torch.equal(run([3, 0]), together[[3, 0]])
    assert torch.equal(run([2]), together[[2]])


def test_what_has_no_density_is_refused() -> None:
    layout = Layout.dense(1, {"x": (2,)})
    with pytest.raises(TypeError, match="expected a process with a probability flow for 'x', got MaskedProcess"):
        log_prob(Leaves(), {"x": MaskedProcess(classes=3)}, {"x": torch.zeros(1, 2)}, layout)
    with pytest.raises(ValueError, match=r"expected a start in \(0, 1\), got 0"):
        log_prob(Leaves(), {"x": gaussian(VE())}, {"x": torch.zeros(1, 2)}, layout, start=0)
