r"""Noise schedules: how much of the data is left at time t, and how much noise was added.

    x_t = alpha_t * x_0 + sigma_t * noise,        t = 0 data, t = 1 noise.

A schedule is read three ways: the pair (alpha_t, sigma_t), the log signal-to-noise ratio log(alpha_t^2 / sigma_t^2),
which falls with t, and the inverse of the latter. Each is written in the form that keeps its digits at both ends:
sigma_t -> 0 at the data, and alpha_t -> 0 at the noise of schedules that destroy all signal (log-SNR +inf and -inf).

Every method maps a tensor of any shape to tensors of that shape and dtype.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn


class Schedule(Protocol):
    """What every schedule answers. Times lie in [0, 1]."""

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """alpha_t and sigma_t."""

    def log_snr(self, t: Tensor) -> Tensor:
        """log(alpha_t^2 / sigma_t^2), decreasing in t."""

    def time(self, log_snr: Tensor) -> Tensor:
        """The time at which the schedule has this log-SNR: the inverse of `log_snr`.

        Below the log-SNR of t = 1 the schedule is continued, where it can be, to times above 1.
        """


def _integrated_rate(t: Tensor, low: float, high: float) -> Tensor:
    """B(t), the integral over [0, t] of a noise rate that rises linearly from `low` to `high`."""
    return low * t + 0.5 * (high - low) * t**2


def _time_of_rate(integral: Tensor, low: float, high: float) -> Tensor:
    """The inverse of `_integrated_rate`, in the form of the quadratic's root without cancellation."""
    return 2 * integral / (low + (low**2 + 2 * (high - low) * integral).sqrt())


def _check_rates(beta_min: float, beta_max: float) -> None:
    if not 0 < beta_min <= beta_max:
        raise ValueError(f"expected 0 < beta_min <= beta_max, got {beta_min} and {beta_max}")


@dataclass(frozen=True, kw_only=True)
class VPLinear:
    r"""Variance-preserving schedule with a linear noise rate (Ho et al. 2020; Song et al. 2021, eq. 33).

    alpha_t^2 = exp(-B(t)),   sigma_t^2 = 1 - exp(-B(t)),   B(t) = beta_min t + (beta_max - beta_min) t^2 / 2
    """

    beta_min: float = 0.1
    beta_max: float = 20.0

    def __post_init__(self) -> None:
        _check_rates(self.beta_min, self.beta_max)

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        rate = _integrated_rate(t, self.beta_min, self.beta_max)
        return torch.exp(-rate / 2), torch.sqrt(-torch.expm1(-rate))

    def log_snr(self, t: Tensor) -> Tensor:
        return -torch.log(torch.expm1(_integrated_rate(t, self.beta_min, self.beta_max)))

    def time(self, log_snr: Tensor) -> Tensor:
        rate = torch.logaddexp(-log_snr, torch.zeros_like(log_snr))
        return _time_of_rate(rate, self.beta_min, self.beta_max)


@dataclass(frozen=True, kw_only=True)
class SubVP:
    r"""Sub-variance-preserving schedule (Song et al. 2021, eq. 35): less noise than `VPLinear` at the same signal.

    alpha_t = exp(-B(t) / 2),   sigma_t = 1 - exp(-B(t)),   hence   sigma_t / alpha_t = 2 sinh(B(t) / 2)
    """

    beta_min: float = 0.1
    beta_max: float = 20.0

    def __post_init__(self) -> None:
        _check_rates(self.beta_min, self.beta_max)

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        rate = _integrated_rate(t, self.beta_min, self.beta_max)
        return torch.exp(-rate / 2), -torch.expm1(-rate)

    def log_snr(self, t: Tensor) -> Tensor:
        return -2 * torch.log(2 * torch.sinh(_integrated_rate(t, self.beta_min, self.beta_max) / 2))

    def time(self, log_snr: Tensor) -> Tensor:
        rate = 2 * torch.asinh(torch.exp(-log_snr / 2) / 2)
        return _time_of_rate(rate, self.beta_min, self.beta_max)


@dataclass(frozen=True, kw_only=True)
class Cosine:
    r"""Cosine schedule (Nichol & Dhariwal 2021, eq. 17).

        alpha_t = cos(a) / cos(a_0),   a = (pi / 2) (t + offset) / (1 + offset),   a_0 = a at t = 0,
        sigma_t^2 = 1 - alpha_t^2 = sin(a - a_0) sin(a + a_0) / cos(a_0)^2

    All signal is gone at t = 1.
    """

    offset: float = 0.008

    def __post_init__(self) -> None:
        if not 0 <= self.offset < math.inf:
            raise ValueError(f"expected a finite offset >= 0, got {self.offset}")

    @property
    def _first(self) -> float:
        return math.pi / 2 * self.offset / (1 + self.offset)

    def _parts(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """alpha_t cos(a_0) and (sigma_t cos(a_0))^2."""
        quarter = math.pi / 2 / (1 + self.offset)
        # cos(a) as a sine of what is left to pi / 2, exactly 0 at t = 1.
        return torch.sin(quarter * (1 - t)), torch.sin(quarter * t) * torch.sin(quarter * t + 2 * self._first)

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        signal, noise = self._parts(t)
        return signal / math.cos(self._first), noise.sqrt() / math.cos(self._first)

    def log_snr(self, t: Tensor) -> Tensor:
        signal, noise = self._parts(t)
        return 2 * torch.log(signal) - torch.log(noise)

    def time(self, log_snr: Tensor) -> Tensor:
        sin, cos = math.sin(self._first), math.cos(self._first)
        noise = cos**2 * torch.sigmoid(-log_snr)
        angle = torch.atan2(torch.sqrt(sin**2 + noise), cos * torch.sqrt(torch.sigmoid(log_snr)))
        # sin(a - a_0) = cos(a_0)^2 sigma_t^2 / sin(a + a_0) has no cancellation near the data, where a is close to a_0;
        # near the noise its slope is infinite, and a itself is the better form.
        early = torch.asin((noise / torch.sin(angle + self._first).clamp_min(1e-30)).clamp_max(1))
        rise = torch.where(log_snr > 0, early, angle - self._first)
        return rise * (1 + self.offset) * 2 / math.pi


@dataclass(frozen=True, kw_only=True)
class VE:
    r"""Variance-exploding schedule (Song et al. 2021, eq. 31), with the exact variance of its transition kernel.

    alpha_t = 1,   sigma_t^2 = sigma_min^2 ((sigma_max / sigma_min)^(2 t) - 1)
    """

    sigma_min: float = 0.01
    sigma_max: float = 50.0

    def __post_init__(self) -> None:
        if not 0 < self.sigma_min < self.sigma_max < math.inf:
            raise ValueError(f"expected 0 < sigma_min < sigma_max, got {self.sigma_min} and {self.sigma_max}")

    @property
    def _rate(self) -> float:
        return 2 * math.log(self.sigma_max / self.sigma_min)

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return torch.ones_like(t), self.sigma_min * torch.sqrt(torch.expm1(self._rate * t))

    def log_snr(self, t: Tensor) -> Tensor:
        return -torch.log(torch.expm1(self._rate * t)) - 2 * math.log(self.sigma_min)

    def time(self, log_snr: Tensor) -> Tensor:
        variance = -log_snr - 2 * math.log(self.sigma_min)
        return torch.logaddexp(variance, torch.zeros_like(variance)) / self._rate


@dataclass(frozen=True, kw_only=True)
class Karras:
    r"""The noise levels of EDM (Karras et al. 2022), on a time in which their steps are uniform.

        alpha_t = 1,   sigma_t = sigma_max t^rho

    A uniform grid in t is the paper's eq. 5 with sigma_min = 0; `grids.karras` gives it with any sigma_min.
    """

    sigma_max: float = 80.0
    rho: float = 7.0

    def __post_init__(self) -> None:
        if not (0 < self.sigma_max < math.inf and 0 < self.rho < math.inf):
            raise ValueError(f"expected positive sigma_max and rho, got {self.sigma_max} and {self.rho}")

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return torch.ones_like(t), self.sigma_max * t**self.rho

    def log_snr(self, t: Tensor) -> Tensor:
        return -2 * (math.log(self.sigma_max) + self.rho * torch.log(t))

    def time(self, log_snr: Tensor) -> Tensor:
        return torch.exp((-log_snr / 2 - math.log(self.sigma_max)) / self.rho)


@dataclass(frozen=True, kw_only=True)
class RectifiedFlow:
    r"""Straight paths between data and noise (Liu et al. 2023; Lipman et al. 2023).

    alpha_t = 1 - t,   sigma_t = t
    """

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return 1 - t, t

    def log_snr(self, t: Tensor) -> Tensor:
        return 2 * (torch.log1p(-t) - torch.log(t))

    def time(self, log_snr: Tensor) -> Tensor:
        return torch.sigmoid(-log_snr / 2)


class LearnedSchedule(nn.Module):
    r"""A variance-preserving schedule that is trained with the model (Kingma et al. 2021, section 4.1 and appendix H).

        log_snr(t) = start + (end - start) (m(t) - m(0)) / (m(1) - m(0)),
        m(t) = a t + sum_i b_i sigmoid(c_i t + d_i),     a, b_i, c_i > 0

    m rises by construction, so log-SNR falls from `start` at t = 0 to `end` at t = 1 whatever the weights are. Both
    ends are learned; `end` stays below `start`. Some noise remains at t = 0: sigma_0^2 = sigmoid(-start).

    Args:
        start: log-SNR at t = 0 before training.
        end: log-SNR at t = 1 before training.
        width: number of sigmoids.
    """

    def __init__(self, *, start: float = 13.3, end: float = -5.0, width: int = 64) -> None:
        if not end < start:
            raise ValueError(f"expected end < start, got start={start} and end={end}")
        if width < 1:
            raise ValueError(f"expected at least one sigmoid, got width={width}")
        super().__init__()
        self.start = nn.Parameter(torch.tensor(float(start)))
        self.log_drop = nn.Parameter(torch.tensor(math.log(start - end)))
        self.log_linear = nn.Parameter(torch.zeros(()))
        self.log_height = nn.Parameter(torch.full((width,), -math.log(width)))
        self.log_slope = nn.Parameter(torch.full((width,), math.log(8.0)))
        self.centre = nn.Parameter(torch.linspace(0.0, 1.0, width))

    def _rise(self, t: Tensor) -> Tensor:
        """m(t)."""
        slope, centre = self.log_slope.to(t).exp(), self.centre.to(t)
        bends = torch.sigmoid(slope * (t[..., None] - centre))
        return self.log_linear.to(t).exp() * t + (bends * self.log_height.to(t).exp()).sum(-1)

    def forward(self, t: Tensor) -> tuple[Tensor, Tensor]:
        log_snr = self.log_snr(t)
        return torch.sigmoid(log_snr).sqrt(), torch.sigmoid(-log_snr).sqrt()

    def _ends(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """m(0) and m(1)."""
        return self._rise(like.new_zeros(())), self._rise(like.new_ones(()))

    def log_snr(self, t: Tensor) -> Tensor:
        first, last = self._ends(t)
        return self.start.to(t) - self.log_drop.to(t).exp() * (self._rise(t) - first) / (last - first)

    def time(self, log_snr: Tensor) -> Tensor:
        """The inverse by bisection, to the last bit of a float64. No gradient passes through it."""
        low, high = torch.zeros_like(log_snr), torch.ones_like(log_snr)
        with torch.no_grad():
            first, last = self._ends(log_snr)
            risen = first + (last - first) * (self.start.to(log_snr) - log_snr) / self.log_drop.to(log_snr).exp()
            for _ in range(60):
                middle = (low + high) / 2
                early = self._rise(middle) < risen
                low, high = torch.where(early, middle, low), torch.where(early, high, middle)
        return (low + high) / 2
