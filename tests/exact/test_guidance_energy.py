"""Guidance by an energy or a classifier, against closed forms, enumeration and finite differences."""

from __future__ import annotations

import math
from typing import Any

import torch
from gaussian_data import (
    COV,
    F64,
    LAYOUT,
    MEAN,
    TIMES,
    A,
    B,
    Bent,
    D,
    Exact,
    R,
    Y,
    gaussian,
    linear,
    noisy,
    numbers,
    posterior,
    slope,
)
from torch import Tensor

from scidiff.denoiser import Denoiser
from scidiff.guidance import ClassifierGuidance, EnergyGuidance
from scidiff.processes.categorical import LOG_ZERO, MaskedProcess
from scidiff.schedules import Cosine, VPLinear
from scidiff.state import Layout, State


def test_classifier_guidance_with_the_true_likelihood_is_the_posterior_mean() -> None:
    # y | x_t ~ N(A E[x_0 | x_t], A Cov[x_0 | x_t] A^T + R): written out here, differentiated there.
    schedule = Cosine()
    denoiser = Exact(MEAN, COV, {"x": schedule})

    def log_likelihood(x_t: State, t: Tensor, layout: Layout) -> Tensor:
        clean = denoiser(x_t, t, layout)["x"]
        alpha, sigma = (level[:, None, None] for level in schedule(t))
        v = torch.linalg.inv(torch.linalg.inv(COV) + (alpha / sigma) ** 2 * torch.eye(D, dtype=F64))
        residual = (Y - clean @ A.T)[..., None]
        return -(residual * torch.linalg.solve(A @ v @ A.T + torch.diag(R), residual)).sum((1, 2)) / 2

    x_t = {"x": noisy(schedule, TIMES)}
    guided = ClassifierGuidance(denoiser, {"x": gaussian(schedule)}, log_likelihood)(x_t, TIMES, LAYOUT)["x"]
    expected = Exact(*posterior(MEAN, COV, A, Y, R), {"x": schedule})(x_t, TIMES, LAYOUT)["x"]
    torch.testing.assert_close(guided, expected, rtol=0, atol=1e-9)
    doubled = ClassifierGuidance(denoiser, {"x": gaussian(schedule)}, log_likelihood, scale=2.0)(x_t, TIMES, LAYOUT)
    clean = denoiser(x_t, TIMES, LAYOUT)["x"]
    torch.testing.assert_close(doubled["x"] - clean, 2 * (guided - clean), rtol=1e-10, atol=1e-12)


def test_energy_guidance_is_the_score_of_the_tilted_density() -> None:
    # clean = (x_t + sigma^2 score) / alpha for the density p(x_t) exp(-2 E(clean(x_t))), p in closed form.
    schedule = VPLinear()
    denoiser = Exact(MEAN, COV, {"x": schedule})
    alpha, sigma = schedule(TIMES)
    x = noisy(schedule, TIMES)
    marginal = alpha[:, None, None] ** 2 * COV + (sigma**2)[:, None, None] * torch.eye(D, dtype=F64)
    energy = linear().energy

    def log_density(x: Tensor) -> Tensor:
        p = torch.distributions.MultivariateNormal(alpha[:, None] * MEAN, marginal)
        return p.log_prob(x) - 2 * energy(denoiser({"x": x}, TIMES, LAYOUT))

    start = x.clone().requires_grad_()
    (score,) = torch.autograd.grad(log_density(start).sum(), start)
    expected = (x + (sigma**2)[:, None] * score) / alpha[:, None]
    guided = EnergyGuidance(denoiser, {"x": gaussian(schedule)}, energy, scale=2.0)({"x": x}, TIMES, LAYOUT)["x"]
    torch.testing.assert_close(guided, expected, rtol=1e-9, atol=1e-8)


def test_energy_of_a_measurement_is_its_negative_log_likelihood() -> None:
    x = noisy(VPLinear(), TIMES)
    p = torch.distributions.Normal(x @ A.T, R.sqrt())
    constant = torch.log(2 * math.pi * R).sum() / 2
    torch.testing.assert_close(linear().energy({"x": x}), -p.log_prob(Y).sum(-1) - constant, rtol=1e-12, atol=0)


def test_energy_guidance_of_classes_is_exact_for_a_sum_over_elements() -> None:
    # prod_i p_i(c_i) exp(-sum_i e_i(c_i)), enumerated.
    log_probs = torch.log_softmax(numbers("logits", 1, 2, 3), -1)
    log_probs[0, 1, 2] = LOG_ZERO
    log_probs = torch.log_softmax(log_probs, -1)
    costs = 3 * numbers("costs", 2, 3)

    class Fixed(Denoiser):
        def forward(self, x_t: State, t: Tensor, layout: Layout, condition: Any = None) -> State:
            return {"c": log_probs}

    guided = EnergyGuidance(
        Fixed(), {"c": MaskedProcess(classes=3)}, lambda mean: (mean["c"] * costs).sum((1, 2)), scale=0.5
    )
    layout = Layout.dense(1, {"c": (2,)})
    got = guided({"c": torch.zeros(1, 2, dtype=torch.long)}, torch.tensor([0.5]), layout)["c"].exp()
    joint = (log_probs[0, 0] - 0.5 * costs[0]).exp()[:, None] * (log_probs[0, 1] - 0.5 * costs[1]).exp()
    joint = joint / joint.sum()
    torch.testing.assert_close(got[0], torch.stack([joint.sum(1), joint.sum(0)]), rtol=0, atol=1e-14)
    assert got[0, 1, 2] == 0


def test_energy_guidance_of_a_mixed_state() -> None:
    # The gradient by x_t passes through both leaves; the tilt of the classes is dE/dp at the unguided estimate.
    schedule = VPLinear()
    t = TIMES.clamp_max(0.6)
    layout = Layout.dense(B, {"x": (D,), "c": (2,)})
    x, c = noisy(schedule, t), torch.arange(2 * B).reshape(B, 2) % 3

    def energy(mean: State) -> Tensor:
        return mean["x"].square().sum(-1) / 2 + (mean["c"] ** 2 * torch.tensor([1.0, -2.0, 0.5])).sum((1, 2))

    def of_x(x: Tensor) -> Tensor:
        outputs = Bent()({"x": x, "c": c}, t, layout)
        return energy({"x": outputs["x"], "c": outputs["c"].exp()})

    processes = {"x": gaussian(schedule), "c": MaskedProcess(classes=3)}
    guided = EnergyGuidance(Bent(), processes, energy, scale=0.5)({"x": x, "c": c}, t, layout)
    alpha, sigma = schedule(t)
    unguided = Bent()({"x": x, "c": c}, t, layout)
    expected = unguided["x"] - 0.5 * (sigma**2 / alpha)[:, None] * slope(of_x, x)
    torch.testing.assert_close(guided["x"], expected, rtol=1e-6, atol=1e-7)
    tilted = unguided["c"] - 0.5 * 2 * unguided["c"].exp() * torch.tensor([1.0, -2.0, 0.5])
    torch.testing.assert_close(guided["c"], torch.log_softmax(tilted, -1), rtol=0, atol=1e-12)
    assert torch.equal(guided["x.variance"], unguided["x.variance"])
