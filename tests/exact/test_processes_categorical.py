"""Categorical processes against finite-state Markov chains: matrix exponentials, Bayes by enumeration, exact bounds."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from scidiff.noise import Noise
from scidiff.processes.categorical import LOG_ZERO, MaskedProcess, one_class
from scidiff.processes.mixing import MixingProcess
from scidiff.processes.survival import CosineSurvival, Geometric, Polynomial, Survival
from scidiff.state import Layout, Rows

K = 3
SURVIVALS = [Polynomial(), Polynomial(power=2.0), CosineSurvival(), Geometric(high=5.0)]
COUNTS = torch.tensor([5, 3, 1])


def build(name: str, survival: Survival) -> MaskedProcess | MixingProcess:
    if name == "masked":
        return MaskedProcess(classes=K, survival=survival)
    if name == "uniform":
        return MixingProcess.uniform(classes=K, survival=survival)
    return MixingProcess.marginal(COUNTS, survival=survival)


@pytest.fixture(params=itertools.product(["masked", "uniform", "marginal"], range(4)), ids=str)
def process(request: pytest.FixtureRequest) -> MaskedProcess | MixingProcess:
    name, number = request.param
    return build(name, SURVIVALS[number])


def noise_states(process: MaskedProcess | MixingProcess) -> int:
    return K + isinstance(process, MaskedProcess)


def generator(process: MaskedProcess | MixingProcess) -> Tensor:
    """Rates [from, to] of a chain that goes to noise at rate 1."""
    if isinstance(process, MaskedProcess):
        rates = torch.zeros(K + 1, K + 1, dtype=torch.float64)
        rates[:, K] = 1
    else:
        rates = process.stationary.expand(K, K).clone()
    return rates - torch.diag(rates.sum(1))


def transition(process: MaskedProcess | MixingProcess, s: float, t: float) -> Tensor:
    """exp(generator * int_s^t -alpha'/alpha): q(x_t | x_s), [from, to]."""
    alpha_s, alpha_t = (float(process.survival(torch.tensor(v, dtype=torch.float64))) for v in (s, t))
    return torch.linalg.matrix_exp(generator(process) * np.log(alpha_s / alpha_t))


def bayes(process: MaskedProcess | MixingProcess, s: float, t: float) -> Tensor:
    """q(x_s | x_t, x_0): [x_0, x_t, x_s], 0 where x_t is impossible."""
    first, then = transition(process, 0.0, s)[:K], transition(process, s, t)
    joint = first[:, None, :] * then.T[None]
    return torch.nan_to_num(joint / joint.sum(-1, keepdim=True))


def at(value: float, count: int) -> Tensor:
    return torch.full((count,), value, dtype=torch.float64)


def single(count: int) -> Rows:
    return Layout.dense(count, {"x": ()}).rows("x")


def drawing(count: int, step: int = 0) -> Any:
    return Noise(seed=1, index=torch.arange(count)).at("x", step, single(count))


def possible_pairs(process: MaskedProcess | MixingProcess) -> list[tuple[int, int]]:
    """(x_0, x_t) that occur."""
    if isinstance(process, MaskedProcess):
        return [(x, x) for x in range(K)] + [(x, K) for x in range(K)]
    return list(itertools.product(range(K), range(K)))


@pytest.mark.parametrize("survival", SURVIVALS, ids=str)
def test_survival_falls_from_one_and_knows_its_slope(survival: Survival) -> None:
    t = torch.linspace(0, 1, 101, dtype=torch.float64)
    alpha = survival(t)
    assert float(alpha[0]) == 1
    assert bool((alpha.diff() < 0).all())
    assert float(alpha[-1]) == pytest.approx(0, abs=0.01)
    moving = t[1:].requires_grad_()
    (slope,) = torch.autograd.grad(survival(moving).sum(), moving)
    torch.testing.assert_close(survival.slope(t[1:]), slope)


def test_corrupt_and_renoise_follow_the_matrix_exponential(process: Any, drawn_from: Any) -> None:
    n, s, t = 8000, 0.35, 0.6
    rows, states = single(n), noise_states(process)
    for x in range(K):
        start = torch.full((n,), x)
        x_t = process.corrupt(start, at(t, n), rows, drawing(n))
        drawn_from(torch.bincount(x_t, minlength=states), transition(process, 0.0, t)[x])
        again = process.renoise(start, at(s, n), at(t, n), rows, drawing(n, 1))
        drawn_from(torch.bincount(again, minlength=states), transition(process, s, t)[x])
    assert torch.equal(process.renoise(x_t, at(t, n), at(t, n), rows, drawing(n)), x_t)


def test_prior_is_the_stationary_distribution(process: Any, drawn_from: Any) -> None:
    x = process.prior(single(8000), drawing(8000))
    drawn_from(
        torch.bincount(x, minlength=noise_states(process)),
        generator(process)[0] + torch.eye(len(generator(process)))[0],
    )


@pytest.mark.parametrize(("s", "t"), [(0.0, 0.4), (0.2, 0.5), (0.5, 0.99)])
def test_posterior_is_bayes_rule(process: Any, s: float, t: float) -> None:
    expected = bayes(process, s, t)
    guess = torch.tensor([0.2, 0.7, 0.1], dtype=torch.float64)
    for x_0, x_t in possible_pairs(process):
        rows, state = single(1), torch.tensor([x_t])
        known = one_class(torch.tensor([x_0]), K, torch.float64)
        got = process.posterior(known, state, rows, s=at(s, 1), t=at(t, 1))[0]
        torch.testing.assert_close(got, expected[x_0, x_t], atol=1e-12, rtol=1e-9)
        if x_t < K and isinstance(process, MaskedProcess):
            continue  # a class that is seen is known
        mixed = process.posterior(guess.log()[None], state, rows, s=at(s, 1), t=at(t, 1))[0]
        torch.testing.assert_close(mixed, torch.einsum("i,ij->j", guess, expected[:, x_t]), atol=1e-12, rtol=1e-9)


@pytest.mark.parametrize(("s", "t"), [(0.0, 0.4), (0.2, 0.7)])
def test_jump_draws_from_the_posterior(process: Any, drawn_from: Any, s: float, t: float) -> None:
    n = 6000
    for x_0, x_t in possible_pairs(process):
        x_s = process.jump(torch.full((n,), x_0), torch.full((n,), x_t), single(n), drawing(n), s=at(s, n), t=at(t, n))
        drawn_from(torch.bincount(x_s, minlength=noise_states(process)), bayes(process, s, t)[x_0, x_t])


def test_rates_are_the_slope_of_the_posterior(process: Any) -> None:
    t, step = 0.6, 1e-7
    guess = torch.tensor([[0.2, 0.7, 0.1]], dtype=torch.float64)
    for x_t in range(noise_states(process)):
        clean = process.clean(guess.log(), torch.tensor([x_t]), at(t, 1), single(1))
        got = process.rates(clean, torch.tensor([x_t]), at(t, 1), single(1))[0]
        near = process.posterior(clean, torch.tensor([x_t]), single(1), s=at(t - step, 1), t=at(t, 1))[0, :K]
        expected = near / step
        if x_t < K:
            expected[x_t] = 0
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-9)


def some_clean(process: Any, x_t: Tensor, t: float) -> Tensor:
    logits = (
        Noise(seed=5, index=torch.arange(len(x_t))).at("x", 0, Layout.dense(len(x_t), {"x": (K,)}).rows("x")).normal()
    )
    return process.clean(logits.double(), x_t, at(t, len(x_t)), single(len(x_t)))  # type: ignore[no-any-return]


def test_bound_step_is_the_divergence_of_enumerated_posteriors(process: Any) -> None:
    s, t = 0.3, 0.55
    truth = bayes(process, s, t)
    for x_0, x_t in possible_pairs(process):
        state = torch.tensor([x_t])
        clean = some_clean(process, state, t)
        guess = torch.einsum("i,ij->j", clean[0].exp(), truth[:, x_t])
        if isinstance(process, MaskedProcess) and x_t < K:
            guess = truth[x_0, x_t]
        p = truth[x_0, x_t]
        expected = torch.xlogy(p, p).sum() - torch.where(p > 0, p * guess.log(), 0).sum()
        got = process.bound_step(clean, torch.tensor([x_0]), state, single(1), s=at(s, 1), t=at(t, 1))
        assert float(got) == pytest.approx(float(expected), abs=1e-10)


def test_bound_rate_is_the_limit_of_steps(process: Any) -> None:
    t, step = 0.55, 1e-6
    for x_0, x_t in possible_pairs(process):
        state, known = torch.tensor([x_t]), torch.tensor([x_0])
        clean = some_clean(process, state, t)
        limit = process.bound_step(clean, known, state, single(1), s=at(t - step, 1), t=at(t, 1)) / step
        got = process.bound_rate(clean, known, state, at(t, 1), single(1))
        assert float(got) == pytest.approx(float(limit), rel=1e-4, abs=1e-6)
        perfect = process.bound_rate(one_class(known, K, torch.float64), known, state, at(t, 1), single(1))
        assert float(perfect) == pytest.approx(0, abs=1e-12)


def test_bound_prior_is_the_divergence_at_the_end(process: Any) -> None:
    alpha = float(process.survival(torch.ones((), dtype=torch.float64)))
    got = process.bound_prior(torch.arange(K), single(K))
    if isinstance(process, MaskedProcess):
        assert got.tolist() == [0.0 if alpha == 0 else float("inf")] * K
        return
    for x_0 in range(K):
        q = alpha * torch.eye(K, dtype=torch.float64)[x_0] + (1 - alpha) * process.stationary
        expected = torch.xlogy(q, q / process.stationary).sum()
        assert float(got[x_0]) == pytest.approx(float(expected), abs=1e-12)


@pytest.mark.parametrize("survival", SURVIVALS, ids=str)
def test_masked_bound_is_the_score_entropy(survival: Survival) -> None:
    # SEDD (Lou et al. 2024, eq. 9 with the rates of the absorbing process): with s(y) = p_t(y) / p_t(x_t),
    #   rate * sum_{y != x_t} Q(x_t, y) [ s(y) - r(y) log s(y) + r(y) (log r(y) - 1) ],   r(y) = q(y|x_0) / q(x_t|x_0)
    process, t = MaskedProcess(classes=K, survival=survival), at(0.45, 1)
    alpha, slope = survival(t), survival.slope(t)
    state = torch.tensor([K])
    clean = some_clean(process, state, 0.45)
    score = alpha / (1 - alpha) * clean[0].exp()
    for x_0 in range(K):
        ratio = alpha / (1 - alpha) * torch.eye(K, dtype=torch.float64)[x_0]
        entropy = score - ratio * score.log() + torch.xlogy(ratio, ratio) - ratio
        expected = (-slope / alpha) * entropy.sum()
        got = process.loss(clean, torch.tensor([x_0]), state, t, single(1))
        torch.testing.assert_close(got, expected)


def test_masked_clean_copies_what_is_seen_and_never_says_mask() -> None:
    process = MaskedProcess(classes=K)
    x_t = torch.tensor([[0, K, 2, K]])
    logits = torch.arange(12.0).reshape(1, 4, K)
    rows = Layout.dense(1, {"x": (4,)}).rows("x")
    clean = process.clean(logits, x_t, at(0.5, 1), rows)
    assert clean.shape == (1, 4, K)
    assert clean[0, 0].tolist() == [0, LOG_ZERO, LOG_ZERO]
    assert clean[0, 2].tolist() == [LOG_ZERO, LOG_ZERO, 0]
    torch.testing.assert_close(clean[0, 1].exp(), torch.softmax(logits[0, 1], -1))
    torch.testing.assert_close(clean.exp().sum(-1), torch.ones(1, 4))
    assert torch.exp(torch.tensor(LOG_ZERO, dtype=torch.float64)) == 0
    with pytest.raises(ValueError, match="expected logits of 3 classes, got 4"):
        process.clean(torch.zeros(1, 4, K + 1), x_t, at(0.5, 1), rows)


def test_masked_loss_counts_masks_within_the_row_mask_alone() -> None:
    process = MaskedProcess(classes=K)
    mask = torch.tensor([[True, True, False]])
    rows = Layout.dense(1, {"x": (3,)}, masks={"x": mask}).rows("x")
    x_0, x_t = torch.tensor([[1, 2, 0]]), torch.tensor([[K, 2, K]])
    logits = torch.tensor([[[1.0, 2.0, 0.5]] * 3], dtype=torch.float64, requires_grad=True)
    loss = process.loss(process.clean(logits, x_t, at(0.25, 1), rows), x_0, x_t, at(0.25, 1), rows)
    # -alpha' / (1 - alpha) = 1 / t
    torch.testing.assert_close(loss, -torch.log_softmax(logits[0, 0], -1)[1:2] / 0.25)
    loss.sum().backward()
    assert logits.grad is not None
    assert bool((logits.grad[0, 1:] == 0).all())


@pytest.mark.parametrize("name", ["masked", "uniform", "marginal"])
@pytest.mark.parametrize("length", [1, 2])
def test_exact_denoiser_makes_the_bound_tight(enumerated: Any, name: str, length: int) -> None:
    # With exact rates the reverse process is the time reversal: int_0^1 E bound_rate dt = -log p(x_0).
    survival = Polynomial(power=1.5)
    process = build(name, survival)
    weights = torch.arange(1.0, K**length + 1).square().reshape([K] * length)
    exact = enumerated(process, weights)
    x_t = torch.tensor(list(itertools.product(range(noise_states(process)), repeat=length)))
    nodes, quadrature = np.polynomial.legendre.leggauss(60)
    # t = u^2 (3 - 2 u) flattens both ends, where the integrand has integrable singularities.
    u = torch.from_numpy((nodes + 1) / 2)
    times, weight = u**2 * (3 - 2 * u), torch.from_numpy(quadrature / 2) * 6 * u * (1 - u)
    total = torch.zeros(K**length, dtype=torch.float64)
    rows = Layout.dense(len(x_t), {"x": (length,)}).rows("x")
    for time, part in zip(times, weight, strict=True):
        t = time.expand(len(x_t))
        clean = process.clean(exact({"x": x_t}, t, Layout(batch=len(x_t), leaves={"x": rows}))["x"], x_t, t, rows)
        chance = exact.likelihood(x_t, t)  # [x_t, x_0]
        for place, x_0 in enumerate(exact.sequences):
            rate = process.bound_rate(clean, x_0.expand_as(x_t), x_t, t, rows)
            total[place] += part * torch.where(chance[:, place] > 0, chance[:, place] * rate, 0).sum()
    torch.testing.assert_close(total, -exact.probabilities.flatten().log(), atol=2e-4, rtol=0)


def test_mixing_loss_weighs_its_two_parts() -> None:
    pi = torch.full((K,), 1 / K, dtype=torch.float64)
    x_0, x_t = torch.tensor([0, 1, 2]), torch.tensor([1, 1, 0])
    rows, t = single(3), at(0.4, 3)
    hybrid = MixingProcess(stationary=pi, bound_weight=0.5, cross_entropy_weight=0.25)
    clean = some_clean(hybrid, x_t, 0.4)
    cross_entropy = -clean.gather(-1, x_0[:, None]).squeeze(-1)
    torch.testing.assert_close(hybrid.bound_data(clean, x_0, x_t, t, rows), cross_entropy)
    expected = 0.5 * hybrid.bound_rate(clean, x_0, x_t, t, rows) + 0.25 * cross_entropy
    torch.testing.assert_close(hybrid.loss(clean, x_0, x_t, t, rows), expected)
    digress = MixingProcess(stationary=pi, bound_weight=0.0, cross_entropy_weight=1.0)
    torch.testing.assert_close(digress.loss(clean, x_0, x_t, t, rows), cross_entropy)


def test_float32_rates_keep_their_digits_near_both_ends() -> None:
    process = MixingProcess.marginal(COUNTS)
    x_0, x_t = torch.tensor([0, 1, 2, 0]), torch.tensor([0, 0, 1, 2])
    for time in (1e-6, 1e-3, 0.999, 1 - 1e-6):
        clean = some_clean(process, x_t, time)
        exact = process.bound_rate(clean, x_0, x_t, at(time, 4), single(4))
        single_precision = process.bound_rate(clean.float(), x_0, x_t, at(time, 4), single(4))
        torch.testing.assert_close(single_precision.double(), exact, rtol=1e-3, atol=2e-6)


def test_settings_are_checked() -> None:
    with pytest.raises(ValueError, match="expected positive probabilities"):
        MixingProcess.marginal(torch.tensor([1, 0, 2]))
    with pytest.raises(ValueError, match="sum to 1"):
        MixingProcess(stationary=torch.tensor([0.5, 0.4]))
    with pytest.raises(ValueError, match="power > 0, got 0"):
        Polynomial(power=0.0)
    with pytest.raises(ValueError, match="0 < low < high"):
        Geometric(low=2.0, high=1.0)
