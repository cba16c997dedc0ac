r"""A solver by its numbers alone: DDIM on an extrapolated clean estimate.

    x_s = (sigma_s / sigma_t) x_t + (alpha_s - alpha_t sigma_s / sigma_t) guess,
    guess = clean + slope_k (clean - clean_1) + bend_k (clean_1 - clean_2)

with the clean estimates of call k, the last and the one before. Whatever the numbers, it is exact for data at one
point. DPM-Solver++ (2M, 3M) and the exponential methods on the clean estimate are of this form.

The first step has nothing to extrapolate from. It is the step that is exact for normal data N(mean, std^2):

    x_s - alpha_s mean = ratio (x_t - alpha_t mean),
    ratio^2 = (alpha_s^2 std^2 + sigma_s^2) / (alpha_t^2 std^2 + sigma_t^2)

where the clean estimate, mean + gain (x_t - alpha_t mean), tells the mean.

The numbers are float64 [n, 3], a row a call: the step's share of the way from noise to data as exp(.) up to a common
factor, slope_k and bend_k (not read where there is nothing to extrapolate from). The way is an angle,
arctan(sigma_t / (alpha_t std)), which is finite on every schedule: one set of numbers serves them all.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from scidiff.schedules import Schedule
from scidiff.solvers.levels import combine, slope
from scidiff.solvers.plan import Linear, Plan, Tape


def extrapolated(schedule: Schedule, numbers: Tensor, *, std: float = 1.0) -> Plan:
    """The plan of a solver's numbers.

    Args:
        schedule: the process's.
        numbers: float64 [n, 3], see above; n calls from t = 1 to t = 0.
        std: the data's standard deviation, in the mean over elements.
    """
    with torch.no_grad():
        times, rows = table(schedule, numbers, std=std)
    tape = Tape()
    x = tape.start
    past: list[Linear] = []
    for t, (kept, *weights) in zip(times.tolist(), rows.tolist(), strict=True):
        x, clean = tape.denoise(x, t)
        past = [clean, *past][:3]
        x = kept * x + combine(weights[: len(past)], past)
    return tape.plan(x, 0.0)


def table(schedule: Schedule, numbers: Tensor, *, std: float = 1.0) -> tuple[Tensor, Tensor]:
    """The plan as tensors that can be differentiated by the numbers.

    Returns:
        times: float64 [n], of the calls.
        rows: float64 [n, 4], the coefficients of x_t and of the clean estimates, the newest first, in x_s.
    """
    if numbers.ndim != 2 or numbers.shape[1] != 3 or len(numbers) < 1:
        raise ValueError(f"expected numbers [calls, 3], got shape {tuple(numbers.shape)}")
    times = _times(schedule, 1 - torch.softmax(numbers[:, 0], 0).cumsum(0)[:-1], std)
    alpha, sigma = schedule(torch.cat([times, times.new_zeros(1)]))
    alpha, sigma, alpha_s, sigma_s = alpha[:-1], sigma[:-1], alpha[1:], sigma[1:]
    kept = sigma_s / sigma
    weight = alpha_s - alpha * kept
    call = torch.arange(len(numbers))
    slopes = torch.where(call >= 1, numbers[:, 1], 0)
    bends = torch.where(call >= 2, numbers[:, 2], 0)
    rows = torch.stack([kept, weight * (1 + slopes), weight * (bends - slopes), -weight * bends], dim=-1)

    variance = alpha[0] ** 2 * std**2 + sigma[0] ** 2
    ratio = ((alpha_s[0] ** 2 * std**2 + sigma_s[0] ** 2) / variance).sqrt()
    gain = alpha[0] * std**2 / variance
    of_clean = (alpha_s[0] - alpha[0] * ratio) / (1 - gain * alpha[0])
    first = torch.stack([ratio - of_clean * gain, of_clean, 0 * ratio, 0 * ratio])
    return times, torch.cat([first[None], rows[1:]])


def _times(schedule: Schedule, places: Tensor, std: float) -> Tensor:
    """t = 1 and the times at the places, angles relative to that of t = 1: [n - 1] -> [n]."""
    start = places.new_ones(1)
    with torch.no_grad():
        alpha, sigma = schedule(start)
    log_snr = -2 * torch.log(std * torch.tan(torch.atan2(sigma, std * alpha) * places))
    # The gradient is that of an inverse function, whichever way the schedule finds the inverse.
    there = schedule.time(log_snr.detach()).detach()
    with torch.enable_grad():
        rate = slope(schedule.log_snr, there)
    return torch.cat([start, there + (log_snr - log_snr.detach()) / rate])


def stretched(numbers: Tensor, calls: int) -> Tensor:
    """The numbers for another number of calls, as functions of the part of the calls that is done: [calls, 3]."""
    if calls < 1:
        raise ValueError(f"expected at least one call, got {calls}")
    old, new = (np.arange(n + 1) / n for n in (len(numbers), calls))
    walked = np.append(0, torch.softmax(numbers[:, 0], 0).cumsum(0).numpy())
    steps = np.log(np.diff(np.interp(new, old, walked)))
    columns = [steps - steps.mean()]
    for first in (1, 2):  # a slope from the second call on, a bend from the third
        known = numbers[first:, first].numpy()
        columns.append(np.interp(new[:-1], old[first:-1], known) if len(known) else np.zeros(calls))
    return torch.from_numpy(np.stack(columns, axis=-1))
