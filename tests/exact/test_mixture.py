"""The denoiser of a Gaussian mixture is Tweedie's formula on the mixture's own density, by another implementation."""

from __future__ import annotations

import pytest
import torch
from gaussian_solvers import SCHEDULES
from torch import Tensor
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal

from scidiff.noise import Noise
from scidiff.solvers.mixture import GaussianMixture
from scidiff.state import Layout

F64 = torch.float64


def numbers(name: str, *shape: int) -> Tensor:
    noise = Noise(seed=4, index=torch.zeros(1, dtype=torch.long))
    return noise.at(name, 0, Layout.dense(1, {name: shape}).rows(name)).normal(dtype=F64)[0]


WEIGHTS = torch.tensor([0.2, 0.5, 0.3], dtype=F64)
MEANS, STDS = numbers("means", 3, 4), numbers("stds", 3, 4).exp()
AXES = torch.linalg.qr(numbers("axes", 3, 4, 4))[0]
X = 2 * numbers("x", 5, 4)
LAYOUT = Layout.dense(5, {"x": (4,)})


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("name", SCHEDULES)
def test_it_is_the_posterior_mean(name: str, turned: bool) -> None:
    """alpha clean = x + sigma^2 d log p_t(x) / dx"""
    schedule, axes = SCHEDULES[name], AXES if turned else torch.eye(4, dtype=F64).expand(3, 4, 4)
    for time in (0.05, 0.4, 0.9):
        t = torch.full((5,), time, dtype=F64)
        alpha, sigma = (level[0] for level in schedule(t))
        variance = alpha**2 * torch.einsum("kcd,kd,ked->kce", axes, STDS.square(), axes) + sigma**2 * torch.eye(
            4, dtype=F64
        )
        density = MixtureSameFamily(Categorical(WEIGHTS), MultivariateNormal(alpha * MEANS, variance))
        x = X.clone().requires_grad_()
        (score,) = torch.autograd.grad(density.log_prob(x).sum(), x)
        denoiser = GaussianMixture(schedule, weights=7 * WEIGHTS, means=MEANS, stds=STDS, axes=AXES if turned else None)
        clean = denoiser({"x": X}, t, LAYOUT)["x"]
        torch.testing.assert_close(alpha * clean, (x + sigma**2 * score).detach(), rtol=1e-8, atol=1e-8)


def test_every_sample_may_have_a_mixture_of_its_own() -> None:
    schedule, t = SCHEDULES["VPLinear"], torch.linspace(0.1, 0.9, 5, dtype=F64)
    scale = torch.arange(1, 6, dtype=F64)[:, None, None]
    many = GaussianMixture(schedule, weights=WEIGHTS.expand(5, 3), means=scale * MEANS, stds=scale * STDS)
    found = many({"x": X}, t, LAYOUT)["x"]
    for b in range(5):
        one = GaussianMixture(schedule, weights=WEIGHTS, means=scale[b] * MEANS, stds=scale[b] * STDS)
        torch.testing.assert_close(one({"x": X}, t, LAYOUT)["x"][b], found[b])


def test_wrong_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"expected weights \[K\] and means and stds \[K, C\]"):
        GaussianMixture(SCHEDULES["VE"], weights=WEIGHTS, means=MEANS, stds=STDS[:2])
    with pytest.raises(ValueError, match=r"expected axes \(3, 4, 4\), got \(2, 4, 4\)"):
        GaussianMixture(SCHEDULES["VE"], weights=WEIGHTS, means=MEANS, stds=STDS, axes=AXES[:2])
