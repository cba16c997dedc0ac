"""Grids: the times at which a solver calls the denoiser.

Each grid is a float64 tensor of n + 1 times, falling strictly from 1 to its end. With an end above 0 the finished
sample still carries noise sigma_end; `to_data` adds the last step, which removes it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from scidiff.schedules import Schedule


def uniform(n: int, *, end: float = 0.0) -> Tensor:
    """Equal steps in t, n of them from 1 to `end`."""
    _check_end(end)
    return _checked(1 - (1 - end) * _fraction(n), end)


def quadratic(n: int, *, end: float = 0.0) -> Tensor:
    """Equal steps in sqrt(t): steps shrink towards the data (Song et al., DDIM, 2021, appendix D.2)."""
    _check_end(end)
    return _checked((1 - (1 - math.sqrt(end)) * _fraction(n)) ** 2, end)


def cosine(n: int, *, end: float = 0.0) -> Tensor:
    """t = end + (1 - end) cos(pi u / 2), u = k / n: steps shrink towards the noise, the first is of size 1 / n^2.

    The short first steps start multistep methods of order three without a loss of order.
    """
    _check_end(end)
    # cos(pi u / 2) as a sine of the remainder, exactly 0 at u = 1.
    return _checked(end + (1 - end) * torch.sin(math.pi / 2 * (1 - _fraction(n))), end)


def log_snr_uniform(schedule: Schedule, n: int, *, end: float = 1e-3, floor: float = -10.0) -> Tensor:
    """Equal steps in log-SNR, n of them from 1 to `end` (Lu et al., DPM-Solver, 2022, section 3.4).

    Args:
        schedule: its log-SNR must be finite at `end`.
        n: number of steps.
        end: the last time.
        floor: the log-SNR that t = 1 is counted as where the schedule's own is lower (-inf for a schedule that destroys
            all signal): the first step then covers everything below the first inner node.
    """
    _check_end(end)
    ends = schedule.log_snr(torch.tensor([1.0, end], dtype=torch.float64))
    if not bool(ends[1].isfinite()):
        raise ValueError(f"expected an end with finite log-SNR, got log-SNR {float(ends[1])} at end={end}")
    first = ends[0].clamp_min(floor)
    return _between(schedule.time(first + (ends[1] - first) * _fraction(n)), end)


def karras(
    schedule: Schedule, n: int, *, rho: float = 7.0, sigma_min: float = 0.002, sigma_max: float = 80.0
) -> Tensor:
    """Equal steps in (sigma / alpha)^(1 / rho), n of them (Karras et al., EDM, 2022, eq. 5).

    `to_data(karras(schedule, n - 1))` is the paper's grid of n calls.

    Args:
        schedule: any; its noise level is measured as sigma_t / alpha_t.
        n: number of steps.
        rho: exponent; the larger, the shorter the steps near the data.
        sigma_min: noise level of the last time.
        sigma_max: noise level that t = 1 is counted as where the schedule's own is higher.
    """
    if not 0 < sigma_min < sigma_max:
        raise ValueError(f"expected 0 < sigma_min < sigma_max, got {sigma_min} and {sigma_max}")
    own = float(torch.exp(-schedule.log_snr(torch.ones((), dtype=torch.float64)) / 2))
    high, low = min(own, sigma_max) ** (1 / rho), sigma_min ** (1 / rho)
    levels = (high + (low - high) * _fraction(n)) ** rho
    times = schedule.time(-2 * torch.log(levels))
    return _between(times, float(times[-1]))


def to_data(grid: Tensor) -> Tensor:
    """The grid with one more step, to t = 0."""
    if float(grid[-1]) <= 0:
        raise ValueError(f"expected a grid that ends above 0, got its last time {float(grid[-1])}")
    return torch.cat([grid, grid.new_zeros(1)])


def _fraction(n: int) -> Tensor:
    """k / n for k = 0 .. n."""
    if n < 1:
        raise ValueError(f"expected at least one step, got {n}")
    return torch.arange(n + 1, dtype=torch.float64) / n


def _check_end(end: float) -> None:
    if not 0 <= end < 1:
        raise ValueError(f"expected an end in [0, 1), got {end}")


def _between(times: Tensor, end: float) -> Tensor:
    """Put the two ends exactly where they belong: an inverse is exact to rounding only."""
    times = times.detach().to("cpu", torch.float64).clone()
    times[0], times[-1] = 1.0, end
    return _checked(times, end)


def _checked(times: Tensor, end: float) -> Tensor:
    times[-1] = end
    if bool((times.diff() >= 0).any()):
        raise ValueError(f"expected times that fall strictly, got {times.tolist()}")
    return times
