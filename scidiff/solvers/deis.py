"""DEIS: exponential integration of the noise estimate, interpolated in time (Zhang & Chen 2023)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from scidiff.schedules import Schedule
from scidiff.solvers.adams import multistep_noise
from scidiff.solvers.levels import Level, lagrange, quadrature, slope
from scidiff.solvers.plan import Plan


def deis(schedule: Schedule, grid: Tensor, *, order: int = 3) -> Plan:
    """tAB-DEIS (eq. 14 and 15): the noise estimates are continued by a polynomial in t; the integral by quadrature.

    Order `order` under the conditions of `scidiff.solvers.adams`.
    """

    times = torch.as_tensor(grid, dtype=torch.float64, device="cpu").numpy()
    points, lengths = quadrature(times[:-1], times[1:])
    ratio_slope = slope(lambda t: torch.exp(-schedule.log_snr(t) / 2), torch.from_numpy(points.ravel()))
    measures = lengths * ratio_slope.numpy().reshape(points.shape)  # d(sigma / alpha)
    of_start = dict(zip(times.tolist(), zip(points, measures, strict=True), strict=False))

    def weights(t: Level, s: Level, nodes: Sequence[Level]) -> np.ndarray:
        at, measure = of_start[t.t]
        return s.alpha * (lagrange([node.t for node in nodes], at) * measure).sum(-1)

    return multistep_noise(schedule, grid, order=order, weights=weights)
