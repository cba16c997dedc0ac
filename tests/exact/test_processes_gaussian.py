"""Gaussian processes against their theory: transitions, parametrisations, losses, the terms of the bound."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from scidiff.noise import Noise
from scidiff.processes import loss_weights
from scidiff.processes.gaussian import (
    VARIANCE_STEPS,
    GaussianProcess,
    VariationalGaussianProcess,
    ZeroMeanGaussianProcess,
    centred,
)
from scidiff.processes.parametrisations import EDM, Data, Epsilon, Flow, Parametrisation, Score, Velocity
from scidiff.schedules import VE, Cosine, Karras, LearnedSchedule, RectifiedFlow, Schedule, SubVP, VPLinear
from scidiff.state import Layout

SCHEDULES = [VPLinear(), SubVP(), Cosine(), VE(), Karras(), RectifiedFlow()]
PARAMETRISATIONS = [Epsilon(), Data(), Velocity(), Score(), Flow(), EDM(sigma_data=0.4)]
BATCH = 6
ROWS = Layout.dense(BATCH, {"x": (3, 2)}).rows("x")
NOISE = Noise(seed=2, index=torch.arange(BATCH))
X_0 = NOISE.at("data", 0, ROWS).normal(dtype=torch.float64)
T = torch.tensor([0.02, 0.2, 0.4, 0.6, 0.8, 0.95], dtype=torch.float64)
S = T * torch.tensor([0.5, 0.9, 0.1, 0.7, 0.3, 0.99], dtype=torch.float64)


def names(values: list[object]) -> list[str]:
    return [type(value).__name__ for value in values]


def process(schedule: Schedule, parametrisation: Parametrisation | None = None, **settings: object) -> GaussianProcess:
    settings = {"schedule": schedule, "parametrisation": parametrisation or Data(), "dtype": torch.float64} | settings
    return GaussianProcess(**settings)  # type: ignore[arg-type]


def spread(values: Tensor) -> Tensor:
    return values[:, None, None]


@pytest.fixture(params=SCHEDULES, ids=names(SCHEDULES))
def schedule(request: pytest.FixtureRequest) -> Schedule:
    return request.param  # type: ignore[no-any-return]


def test_corrupt_is_alpha_data_plus_sigma_noise(schedule: Schedule) -> None:
    draw = NOISE.at("x", 3, ROWS)
    alpha, sigma = (spread(v) for v in schedule(T))
    noise = process(schedule).unit_noise(ROWS, draw, dtype=torch.float64)
    torch.testing.assert_close(process(schedule).corrupt(X_0, T, ROWS, draw), alpha * X_0 + sigma * noise)
    assert abs(float(noise.mean())) < 1
    assert process(schedule).corrupt(X_0.float(), T, ROWS, draw).dtype == torch.float32


def test_prior_is_the_noise_of_the_last_time(schedule: Schedule) -> None:
    rows = Layout.dense(20_000, {"x": (2,)}).rows("x")
    x = process(schedule).prior(rows, Noise(seed=0, index=torch.arange(20_000)).at("x", 0, rows))
    _, sigma = schedule(torch.ones((), dtype=torch.float64))
    assert float(x.std()) == pytest.approx(float(sigma), rel=0.02)
    assert abs(float(x.mean())) < 0.03 * float(sigma)


def test_renoising_composes_to_the_marginal(schedule: Schedule) -> None:
    # alpha_{t|s} alpha_s = alpha_t and alpha_{t|s}^2 sigma_s^2 + spread^2 = sigma_t^2
    one, draw = process(schedule), NOISE.at("x", 3, ROWS)
    noise = one.unit_noise(ROWS, draw, dtype=torch.float64)
    added = one.renoise(torch.zeros_like(X_0), S, T, ROWS, draw)
    kept = (one.renoise(X_0, S, T, ROWS, draw) - added) / X_0
    (alpha_s, sigma_s), (alpha_t, sigma_t) = schedule(S), schedule(T)
    torch.testing.assert_close(kept, spread(alpha_t / alpha_s).expand_as(kept))
    torch.testing.assert_close((kept * spread(sigma_s)) ** 2 + (added / noise) ** 2, spread(sigma_t**2).expand_as(kept))
    torch.testing.assert_close(one.renoise(X_0, T, T, ROWS, draw), X_0)
    ones = torch.ones_like(T)
    torch.testing.assert_close(one.renoise(X_0, ones, ones, ROWS, draw), X_0)


@pytest.mark.parametrize("parametrisation", PARAMETRISATIONS, ids=names(PARAMETRISATIONS))
def test_output_and_clean_are_inverse(schedule: Schedule, parametrisation: Parametrisation) -> None:
    one = process(schedule, parametrisation)
    x_t = one.corrupt(X_0, T, ROWS, NOISE.at("x", 0, ROWS))
    output = parametrisation.output(X_0, x_t, *one.levels(T, ROWS))
    torch.testing.assert_close(one.clean(output, x_t, T, ROWS), X_0, rtol=1e-8, atol=1e-8)


def targets(schedule: Schedule) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """alpha_t, sigma_t, noise and x_t."""
    one, draw = process(schedule), NOISE.at("x", 0, ROWS)
    alpha, sigma = one.levels(T, ROWS)
    return alpha, sigma, one.unit_noise(ROWS, draw, dtype=torch.float64), one.corrupt(X_0, T, ROWS, draw)


def test_outputs_are_what_their_names_say(schedule: Schedule) -> None:
    alpha, sigma, noise, x_t = targets(schedule)
    expected = {
        Epsilon(): noise,
        Data(): X_0,
        Velocity(): (alpha * noise - sigma * X_0) / (alpha**2 + sigma**2).sqrt(),
        Flow(): noise - X_0,
    }
    for parametrisation, target in expected.items():
        torch.testing.assert_close(parametrisation.output(X_0, x_t, alpha, sigma), target, rtol=1e-6, atol=1e-6)


def test_score_is_the_gradient_of_the_log_density(schedule: Schedule) -> None:
    alpha, sigma, _, x_t = targets(schedule)
    x = x_t.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(Normal(alpha * X_0, sigma.expand_as(x)).log_prob(x).sum(), x)
    torch.testing.assert_close(Score().output(X_0, x_t, alpha, sigma), gradient)


def test_flow_is_the_velocity_of_straight_paths() -> None:
    one, draw, step = process(RectifiedFlow()), NOISE.at("x", 0, ROWS), 1e-3
    velocity = (one.corrupt(X_0, T + step, ROWS, draw) - one.corrupt(X_0, T - step, ROWS, draw)) / (2 * step)
    x_t = one.corrupt(X_0, T, ROWS, draw)
    torch.testing.assert_close(Flow().output(X_0, x_t, *one.levels(T, ROWS)), velocity, rtol=1e-9, atol=1e-9)


def test_velocity_turns_with_the_angle_of_the_schedule() -> None:
    # With alpha = cos(phi) and sigma = sin(phi), v = dx/dphi.
    phi = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    noise = NOISE.at("x", 0, ROWS).normal(dtype=torch.float64)
    x = phi.cos() * X_0 + phi.sin() * noise
    output = Velocity().output(X_0, x, phi.cos(), phi.sin())
    for place in ((0, 0, 0), (5, 2, 1)):
        (slope,) = torch.autograd.grad(x[place], phi, retain_graph=True)
        torch.testing.assert_close(output[place], slope)


def test_edm_is_the_table_of_its_paper() -> None:
    sigma, sd = torch.tensor([0.002, 0.1, 0.4, 3.0, 80.0], dtype=torch.float64), 0.4
    one, output = torch.ones_like(sigma), torch.linspace(-1, 1, 5, dtype=torch.float64)
    y = torch.linspace(2, 5, 5, dtype=torch.float64)
    clean = sd**2 / (sigma**2 + sd**2) * y + sigma * sd / (sd**2 + sigma**2).sqrt() * output
    torch.testing.assert_close(EDM(sigma_data=sd).clean(output, y, one, sigma), clean)
    torch.testing.assert_close(EDM(sigma_data=sd).input_scale(one, sigma), 1 / (sigma**2 + sd**2).sqrt())
    # Any alpha: as if x_t / alpha_t had been given.
    alpha = torch.full_like(sigma, 0.3)
    torch.testing.assert_close(EDM(sigma_data=sd).clean(output, alpha * y, alpha, alpha * sigma), clean)


def test_edm_input_and_target_have_unit_variance(schedule: Schedule) -> None:
    sd = 0.4
    edm = EDM(sigma_data=sd)
    alpha, sigma = schedule(T)
    # The target is linear in (x_0, noise): its coefficients at unit data and at unit noise.
    zero, one = torch.zeros_like(T), torch.ones_like(T)
    by_data = edm.output(one, alpha, alpha, sigma)
    by_noise = edm.output(zero, sigma, alpha, sigma)
    torch.testing.assert_close((sd * by_data) ** 2 + by_noise**2, one)
    torch.testing.assert_close(edm.input_scale(alpha, sigma) ** 2 * ((alpha * sd) ** 2 + sigma**2), one)
    scaled = process(schedule, edm).network_input(spread(one), T, ROWS)
    torch.testing.assert_close(scaled, spread(edm.input_scale(alpha, sigma)))


def test_tweedie(gaussian_data, schedule: Schedule) -> None:  # type: ignore[no-untyped-def]
    # The exact denoiser's score is the gradient of log p_t, p_t = N(alpha m, alpha^2 s^2 + sigma^2).
    alpha, sigma, _, x_t = targets(schedule)
    clean = gaussian_data(schedule)({"x": x_t}, T, Layout(batch=BATCH, leaves={"x": ROWS}))["x"]
    x = x_t.clone().requires_grad_()
    density = Normal((alpha * 0.7).expand_as(x), (alpha**2 * 0.36 + sigma**2).sqrt().expand_as(x)).log_prob(x)
    (gradient,) = torch.autograd.grad(density.sum(), x)
    score = Score().output(clean, x_t, alpha, sigma)
    # All but the first time: there Karras' sigma is 1e-10, and 1 / sigma^2 leaves no digit of a float64.
    torch.testing.assert_close(score[1:], gradient[1:], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("parametrisation", PARAMETRISATIONS, ids=names(PARAMETRISATIONS))
def test_default_loss_is_the_squared_error_of_the_output(schedule: Schedule, parametrisation: Parametrisation) -> None:
    one = process(schedule, parametrisation)
    x_t = one.corrupt(X_0, T, ROWS, NOISE.at("x", 0, ROWS))
    guess = X_0 + 0.1 * NOISE.at("guess", 0, ROWS).normal(dtype=torch.float64)
    outputs = (parametrisation.output(x, x_t, *one.levels(T, ROWS)) for x in (guess, X_0))
    expected = (next(outputs) - next(outputs)).square().mean((1, 2))
    torch.testing.assert_close(one.loss(guess, X_0, x_t, T, ROWS), expected, rtol=1e-7, atol=0)


@pytest.mark.parametrize(
    ("weight", "parametrisation"),
    [
        (loss_weights.data_error, Data()),
        (loss_weights.noise_error, Epsilon()),
        (loss_weights.velocity_error, Velocity()),
        (loss_weights.flow_error, Flow()),
        (loss_weights.EDMError(sigma_data=0.4), EDM(sigma_data=0.4)),
    ],
    ids=["data", "noise", "velocity", "flow", "edm"],
)
def test_weights_by_log_snr_are_errors_of_outputs(
    schedule: Schedule, weight: loss_weights.LossWeight, parametrisation: Parametrisation
) -> None:
    # weight(log_snr) |clean - x_0|^2 = |output - target|^2, whatever the schedule; EDM's at alpha_t = 1.
    error = torch.ones_like(X_0)
    weighted = process(schedule, weight=weight).loss(X_0 + error, X_0, X_0, T, ROWS)
    torch.testing.assert_close(weighted, process(schedule, parametrisation).loss(X_0 + error, X_0, X_0, T, ROWS))


def test_clipped_weights() -> None:
    log_snr = torch.linspace(-10, 10, 41, dtype=torch.float64)
    snr = log_snr.exp()
    torch.testing.assert_close(loss_weights.MinSNR(gamma=5.0)(log_snr), torch.minimum(snr, torch.tensor(5.0).double()))
    # In terms of the noise's error, |x_0 error|^2 = |noise error|^2 / SNR, the weight is sigmoid(bias - log_snr).
    torch.testing.assert_close(loss_weights.Sigmoid(bias=2.0)(log_snr) / snr, 1 / (1 + snr * math.exp(-2.0)))


def test_bound_terms_are_divergences_of_normals(schedule: Schedule) -> None:
    one = process(schedule)
    guess = X_0 + 0.3 * NOISE.at("guess", 0, ROWS).normal(dtype=torch.float64)
    x_t = one.corrupt(X_0, T, ROWS, NOISE.at("x", 0, ROWS))
    (alpha_s, sigma_s), (alpha_t, sigma_t) = one.levels(S, ROWS), one.levels(T, ROWS)

    def posterior(x_0: Tensor) -> Normal:
        # Bayes: q(x_t | x_s) q(x_s | x_0), both normal in x_s
        kept = alpha_t / alpha_s
        added = sigma_t**2 - kept**2 * sigma_s**2
        precision = 1 / sigma_s**2 + kept**2 / added
        mean = (alpha_s * x_0 / sigma_s**2 + kept * x_t / added) / precision
        return Normal(mean, precision.rsqrt().expand_as(mean))

    expected = kl_divergence(posterior(X_0), posterior(guess)).sum((1, 2))
    torch.testing.assert_close(one.bound_step(guess, X_0, x_t, ROWS, s=S, t=T), expected, rtol=1e-5, atol=1e-9)

    (alpha, sigma) = schedule(torch.ones((), dtype=torch.float64))
    prior = kl_divergence(Normal(alpha * X_0, sigma), Normal(torch.zeros_like(X_0), sigma)).sum((1, 2))
    torch.testing.assert_close(one.bound_prior(X_0, ROWS), prior)

    data = -Normal(guess, (sigma_t / alpha_t).expand_as(guess)).log_prob(X_0).sum((1, 2))
    torch.testing.assert_close(one.bound_data(guess, X_0, x_t, T, ROWS), data)


@pytest.mark.parametrize("learned", [False, True])
def test_bound_rate_is_the_limit_of_steps(schedule: Schedule, learned: bool) -> None:
    one = process(LearnedSchedule().double() if learned else schedule)
    guess, step = X_0 + 0.3, 1e-6
    limit = one.bound_step(guess, X_0, X_0, ROWS, s=T - step, t=T) / step
    torch.testing.assert_close(one.bound_rate(guess, X_0, X_0, T, ROWS), limit, rtol=1e-3, atol=1e-6)


def test_expected_bound_rate_integrates_to_the_mutual_information(schedule: Schedule) -> None:
    # I-MMSE (Guo et al. 2005): int SNR' / 2 mmse = log(1 + SNR std^2) / 2, mmse = std^2 / (1 + SNR std^2).
    std, start, count = 0.6, 0.05, 4000
    u = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    t = start + (1 - start) * u
    rows = Layout.dense(count, {"x": ()}).rows("x")
    snr = schedule.log_snr(t).exp()
    error = (std**2 / (1 + snr * std**2)).sqrt()
    rate = process(schedule).bound_rate(error, torch.zeros_like(error), error, t, rows)
    ends = schedule.log_snr(torch.tensor([start, 1.0], dtype=torch.float64)).exp()
    high, low = torch.log1p(ends * std**2)
    assert float(rate.detach().mean() * (1 - start)) == pytest.approx(float(high - low) / 2, rel=1e-4)


def test_variational_loss_is_the_bound_of_gaussian_data() -> None:
    # E over data and noise of the bound with the exact denoiser: entropy of x_0 seen through the last noise.
    std, count = 0.6, 4000
    schedule = LearnedSchedule(start=6.0, end=-4.0).double()
    u = ((torch.arange(count, dtype=torch.float64) + 0.5) / count).requires_grad_()
    rows = Layout.dense(count, {"x": ()}).rows("x")
    snr = schedule.log_snr(u).exp()
    error = (std**2 / (1 + snr * std**2)).sqrt()
    one = VariationalGaussianProcess(schedule=schedule, parametrisation=Data())
    # bound_prior is quadratic in x_0: x_0 = std gives its mean over data.
    x_0 = torch.full((count,), std, dtype=torch.float64)
    loss = one.loss(x_0 + error, x_0, x_0, u.detach(), rows).mean()
    first, last = schedule.log_snr(torch.tensor([0.0, 1.0], dtype=torch.float64)).exp()
    diffusion = (torch.log1p(first * std**2) - torch.log1p(last * std**2)) / 2
    expected = last * std**2 / 2 + diffusion + (1 + torch.log(2 * torch.pi / first)) / 2
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=0)
    entropy = 0.5 * math.log(2 * math.pi * math.e * std**2)
    assert entropy < float(loss) < entropy + 0.01
    with pytest.raises(ValueError, match="noise left at t = 0, got log-SNR inf"):
        VariationalGaussianProcess(schedule=VPLinear(), parametrisation=Data())


def test_variational_loss_teaches_the_schedule_its_ends_alone() -> None:
    # What lies between the ends does not move the bound (VDM, eq. 18): no gradient but through start and end.
    schedule = LearnedSchedule(start=6.0, end=-4.0).double()
    one, count, std = VariationalGaussianProcess(schedule=schedule, parametrisation=Data()), 8000, 0.6
    t = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    rows = Layout.dense(count, {"x": ()}).rows("x")
    snr = schedule.log_snr(t).exp()
    error = (std**2 / (1 + snr * std**2)).sqrt()
    zero = torch.zeros_like(t)
    one.loss(error, zero, zero, t, rows).mean().backward()
    assert schedule.start.grad is not None
    assert schedule.centre.grad is not None
    assert abs(float(schedule.start.grad)) > 1e-5
    assert float(schedule.centre.grad.abs().max()) < 1e-3 * abs(float(schedule.log_drop.grad))  # type: ignore[arg-type]


def test_variance_loss_is_the_divergence_of_the_learned_step(schedule: Schedule) -> None:
    one = process(schedule)
    guess = (X_0 + 0.05).requires_grad_()
    variance = NOISE.at("variance", 0, ROWS).uniform() * 2 - 1
    t = torch.tensor([0.0005, 0.0015, 0.3, 0.5, 0.7, 0.999], dtype=torch.float64)
    s = t - 1 / VARIANCE_STEPS
    (alpha_s, sigma_s), (alpha_t, sigma_t) = one.levels(s.clamp_min(1e-9), ROWS), one.levels(t, ROWS)
    fresh = 1 - (alpha_t * sigma_s / (alpha_s * sigma_t)) ** 2
    truth = Normal((alpha_s * fresh * X_0), (sigma_s * fresh.sqrt()).expand_as(X_0))
    mix = (variance + 1) / 2
    wide = Normal(alpha_s * fresh * guess, sigma_s ** (1 - mix) * sigma_t**mix * fresh.sqrt())
    expected = kl_divergence(truth, wide).mean((1, 2))
    expected[0] = 0
    got = one.variance_loss(variance.requires_grad_(), guess, X_0, t, ROWS)
    torch.testing.assert_close(got, expected.detach(), rtol=1e-4, atol=1e-7)
    got.sum().backward()
    assert guess.grad is None
    assert variance.grad is not None
    assert bool(variance.grad.isfinite().all())
    assert bool((variance.grad[1:] != 0).any())


RAGGED = Layout.ragged({"x": torch.tensor([4, 0, 7, 2])}, {"x": (3,)}).rows("x")


def test_zero_mean_noise_is_the_projection_of_noise() -> None:
    settings = {"schedule": VPLinear(), "parametrisation": Epsilon(), "dtype": torch.float64}
    zero_mean = ZeroMeanGaussianProcess(**settings)  # type: ignore[arg-type]
    draw = Noise(seed=0, index=torch.arange(4)).at("x", 0, RAGGED)
    plain = GaussianProcess(**settings).unit_noise(RAGGED, draw, dtype=torch.float64)  # type: ignore[arg-type]
    got = zero_mean.unit_noise(RAGGED, draw, dtype=torch.float64)
    for part, noise in zip(got.split([4, 0, 7, 2]), plain.split([4, 0, 7, 2]), strict=True):
        n = len(noise)
        if n:
            projection = torch.eye(n, dtype=torch.float64) - torch.full((n, n), 1 / n, dtype=torch.float64)
            torch.testing.assert_close(part, projection @ noise)
    x_0 = centred(10 + plain, RAGGED)
    t = torch.full((4,), 0.5, dtype=torch.float64)
    for x in (
        zero_mean.prior(RAGGED, draw),
        zero_mean.corrupt(x_0, t, RAGGED, draw),
        zero_mean.renoise(x_0, t / 2, t, RAGGED, draw),
        zero_mean.clean(plain + 5, x_0, t, RAGGED),
    ):
        means = torch.stack([part.sum(0) for part in x.split([4, 0, 7, 2])])
        torch.testing.assert_close(means, torch.zeros_like(means), atol=1e-12, rtol=0)
        torch.testing.assert_close(centred(x, RAGGED), x)


def test_zero_mean_dimension() -> None:
    zero_mean = ZeroMeanGaussianProcess(schedule=VPLinear(), parametrisation=Epsilon())
    assert zero_mean.dimension(torch.zeros(13, 3), RAGGED).tolist() == [9, 0, 18, 3]


def test_centring_needs_rows() -> None:
    with pytest.raises(ValueError, match="got one row a sample"):
        centred(X_0, ROWS)


def test_settings_are_checked() -> None:
    with pytest.raises(ValueError, match="sigma_data > 0, got -1"):
        EDM(sigma_data=-1.0)
