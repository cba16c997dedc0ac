"""Schedules against their definitions in fifty digits, their inverses, and both of their ends."""

from __future__ import annotations

from collections.abc import Callable

import mpmath
import pytest
import torch
from torch import Tensor

from scidiff.schedules import VE, Cosine, Karras, LearnedSchedule, RectifiedFlow, Schedule, SubVP, VPLinear

Number = mpmath.mpf
Definition = Callable[[Number], tuple[Number, Number]]


def rate(t: Number, low: float = 0.1, high: float = 20.0) -> Number:
    return mpmath.quad(lambda u: low + u * (high - low), [0, t])


def cosine(t: Number, offset: Number) -> tuple[Number, Number]:
    alpha = mpmath.cos((t + offset) / (1 + offset) * mpmath.pi / 2) / mpmath.cos(offset / (1 + offset) * mpmath.pi / 2)
    return alpha, mpmath.sqrt(1 - alpha**2)


# Each as its paper has it, without a thought for rounding.
DEFINITIONS: dict[str, tuple[Schedule, Definition]] = {
    "VPLinear": (VPLinear(), lambda t: (mpmath.exp(-rate(t) / 2), mpmath.sqrt(1 - mpmath.exp(-rate(t))))),
    "VPLinear 1 5": (
        VPLinear(beta_min=1.0, beta_max=5.0),
        lambda t: (mpmath.exp(-rate(t, 1.0, 5.0) / 2), mpmath.sqrt(1 - mpmath.exp(-rate(t, 1.0, 5.0)))),
    ),
    "SubVP": (SubVP(), lambda t: (mpmath.exp(-rate(t) / 2), 1 - mpmath.exp(-rate(t)))),
    "Cosine": (Cosine(), lambda t: cosine(t, Number(0.008))),
    "Cosine 0": (Cosine(offset=0.0), lambda t: (mpmath.cos(mpmath.pi * t / 2), mpmath.sin(mpmath.pi * t / 2))),
    # sigma^2(t) is the integral of the rate g^2 = d(sigma_min (sigma_max / sigma_min)^u)^2 / du.
    "VE": (VE(), lambda t: (Number(1), mpmath.sqrt((Number(0.01) * Number(5000) ** t) ** 2 - Number(0.01) ** 2))),
    "Karras": (Karras(), lambda t: (Number(1), 80 * t**7)),
    "RectifiedFlow": (RectifiedFlow(), lambda t: (1 - t, t)),
}
FIXED = {name: schedule for name, (schedule, _) in DEFINITIONS.items()}


def wild() -> LearnedSchedule:
    """A learned schedule far from where it began."""
    schedule = LearnedSchedule(start=9.0, end=-7.0, width=8)
    with torch.no_grad():
        schedule.log_height.copy_(torch.tensor([3.0, -4.0, 0.0, 2.0, -1.0, 1.0, -6.0, 0.5]))
        schedule.log_slope.copy_(torch.tensor([4.0, 1.0, 3.0, -2.0, 5.0, 0.0, 2.0, 3.5]))
        schedule.centre.copy_(torch.tensor([0.1, 0.9, 1.4, 0.5, 0.55, -0.3, 0.0, 0.8]))
        schedule.log_linear.fill_(-3.0)
    return schedule


EVERY: dict[str, Schedule] = FIXED | {"LearnedSchedule": LearnedSchedule(), "LearnedSchedule wild": wild()}
ENDS = [1e-12, 1e-7, 1e-3, 0.02, 0.3, 0.5, 0.77, 0.98, 1 - 2.0**-10, 1 - 2.0**-24, 1 - 2.0**-40]


@pytest.mark.parametrize("name", DEFINITIONS)
def test_levels_keep_their_digits_at_both_ends(name: str) -> None:
    schedule, definition = DEFINITIONS[name]
    t = torch.tensor(ENDS, dtype=torch.float64)
    alpha, sigma = schedule(t)
    log_snr = schedule.log_snr(t)
    with mpmath.workdps(60):
        for k, time in enumerate(ENDS):
            true_alpha, true_sigma = definition(Number(time))
            assert float(alpha[k]) == pytest.approx(float(true_alpha), rel=2e-14, abs=0)
            assert float(sigma[k]) == pytest.approx(float(true_sigma), rel=2e-14, abs=0)
            assert float(log_snr[k]) == pytest.approx(float(2 * mpmath.log(true_alpha / true_sigma)), rel=0, abs=2e-13)


@pytest.mark.parametrize("name", DEFINITIONS)
def test_single_precision_keeps_its_digits_too(name: str) -> None:
    schedule, definition = DEFINITIONS[name]
    t = torch.tensor([1e-4, 0.03, 0.5, 0.97, 1 - 2.0**-12])
    alpha, sigma = schedule(t)
    assert (
        alpha.dtype == sigma.dtype == schedule.log_snr(t).dtype == schedule.time(schedule.log_snr(t)).dtype == t.dtype
    )
    with mpmath.workdps(40):
        for k, time in enumerate(t.tolist()):
            true_alpha, true_sigma = definition(Number(time))
            assert float(alpha[k]) == pytest.approx(float(true_alpha), rel=2e-5, abs=0)
            assert float(sigma[k]) == pytest.approx(float(true_sigma), rel=2e-5, abs=0)


@pytest.mark.parametrize("name", EVERY)
def test_log_snr_is_that_of_the_levels_and_falls(name: str) -> None:
    schedule = EVERY[name]
    t = torch.linspace(0, 1, 1001, dtype=torch.float64)[1:-1]
    alpha, sigma = schedule(t)
    log_snr = schedule.log_snr(t)
    torch.testing.assert_close(log_snr, 2 * torch.log(alpha / sigma), rtol=0, atol=1e-12)
    assert bool((log_snr.diff() < 0).all())


@pytest.mark.parametrize("name", EVERY)
def test_time_is_the_inverse_of_log_snr(name: str) -> None:
    schedule = EVERY[name]
    t = torch.tensor([*ENDS, *torch.linspace(0.01, 0.99, 60).tolist()], dtype=torch.float64)
    found = schedule.time(schedule.log_snr(t))
    if name.startswith("Learned"):
        torch.testing.assert_close(found, t, rtol=0, atol=2e-14)  # some noise is left at t = 0: its log-SNR is finite
    else:
        torch.testing.assert_close(found, t, rtol=1e-13, atol=0)
    log_snr = torch.linspace(float(schedule.log_snr(t.new_tensor(0.97)).detach()), 8, 50, dtype=torch.float64)
    torch.testing.assert_close(schedule.log_snr(schedule.time(log_snr)), log_snr, rtol=0, atol=1e-11)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", FIXED)
def test_the_two_ends_are_exact(name: str, dtype: torch.dtype) -> None:
    schedule = FIXED[name]
    ends = torch.tensor([0.0, 1.0], dtype=dtype)
    alpha, sigma = schedule(ends)
    assert (float(alpha[0]), float(sigma[0])) == (1.0, 0.0)
    assert float(schedule.log_snr(ends)[0]) == float("inf")
    assert float(schedule.time(ends.new_tensor(float("inf")))) == 0.0
    if name.startswith(("Cosine", "RectifiedFlow")):
        assert (float(alpha[1]), float(sigma[1])) == (0.0, pytest.approx(1.0, rel=2e-7))
        assert float(schedule.log_snr(ends)[1]) == -float("inf")
        assert float(schedule.time(ends.new_tensor(-float("inf")))) == pytest.approx(1.0, rel=2e-7)


def test_families_keep_their_identities() -> None:
    t = torch.linspace(0, 1, 101, dtype=torch.float64)
    one = torch.ones_like(t)
    for schedule in (VPLinear(), Cosine(), LearnedSchedule(), wild()):
        alpha, sigma = schedule(t)
        torch.testing.assert_close(alpha**2 + sigma**2, one, rtol=1e-14, atol=0)
    alpha, sigma = SubVP()(t)
    torch.testing.assert_close(sigma, 1 - alpha**2, rtol=0, atol=1e-15)
    torch.testing.assert_close(alpha, VPLinear()(t)[0], rtol=0, atol=0)
    assert torch.equal(sum(RectifiedFlow()(t)), one)
    for schedule in (VE(), Karras()):
        assert torch.equal(schedule(t)[0], one)
    assert float(VE(sigma_min=0.1, sigma_max=3.0)(one[:1])[1] ** 2) == pytest.approx(9 - 0.01, rel=1e-14)
    assert float(Karras(sigma_max=5.0)(one[:1])[1]) == 5.0


@pytest.mark.parametrize("name", EVERY)
def test_derivatives_are_finite_up_to_the_noise(name: str) -> None:
    """Solvers in t and velocities need alpha' and sigma' at t = 1 as well, where alpha may be 0."""
    t = torch.tensor([0.01, 0.2, 0.6, 0.99, 1.0], dtype=torch.float64, requires_grad=True)
    for part in (0, 1):
        (found,) = torch.autograd.grad((EVERY[name](t)[part] + 0 * t).sum(), t)
        ahead, behind = (EVERY[name](t.detach() + step)[part] for step in (-1e-6, -2e-6))
        expected = (3 * EVERY[name](t.detach())[part] - 4 * ahead + behind) / 2e-6  # one-sided, of second order
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_learned_schedule_is_trained_and_stays_monotone() -> None:
    schedule = LearnedSchedule(start=5.0, end=-5.0, width=16)
    aim = torch.linspace(0, 1, 64)
    target = 5 - 10 * aim**3
    optimiser = torch.optim.Adam(schedule.parameters(), lr=0.05)
    losses = []
    for _ in range(150):
        loss = (schedule.log_snr(aim) - target).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss))
    assert losses[-1] < 0.02 * losses[0]
    assert bool((schedule.log_snr(torch.linspace(0, 1, 1000, dtype=torch.float64)).diff() < 0).all())


def test_learned_schedule_starts_at_the_given_ends() -> None:
    ends = LearnedSchedule(start=11.0, end=-3.0).log_snr(torch.tensor([0.0, 1.0], dtype=torch.float64))
    assert ends.tolist() == pytest.approx([11.0, -3.0], abs=1e-5)


def bad_schedules() -> list[tuple[Callable[[], object], str]]:
    return [
        (lambda: VPLinear(beta_min=0.0), "0 < beta_min"),
        (lambda: VPLinear(beta_min=3.0, beta_max=2.0), "beta_min <= beta_max"),
        (lambda: SubVP(beta_min=-1.0), "0 < beta_min"),
        (lambda: Cosine(offset=-0.1), "offset >= 0"),
        (lambda: VE(sigma_min=2.0, sigma_max=1.0), "sigma_min < sigma_max"),
        (lambda: Karras(sigma_max=0.0), "positive sigma_max"),
        (lambda: LearnedSchedule(start=1.0, end=2.0), "end < start"),
        (lambda: LearnedSchedule(width=0), "at least one sigmoid"),
    ]


@pytest.mark.parametrize(("make", "message"), bad_schedules())
def test_bad_parameters_are_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_shapes_are_kept() -> None:
    t = torch.rand(2, 3, 1)
    for schedule in EVERY.values():
        alpha, sigma = schedule(t)
        shapes: list[Tensor] = [alpha, sigma, schedule.log_snr(t), schedule.time(schedule.log_snr(t))]
        assert {tuple(part.shape) for part in shapes} == {(2, 3, 1)}
