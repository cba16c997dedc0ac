"""DEIS: exponential integration of the noise estimate, interpolated in time (Zhang & Chen 2023)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from scidiff.schedules import Schedule
from scidiff.solvers.adams import multistep_noise
from scidiff.solvers.plan import Plan


def deis(schedule: Schedule, grid: Tensor, *, order: int = 3) -> Plan:
    """tAB-DEIS (eq. 14 and 15): the noise estimates are continued by a polynomial in t; the integral by quadrature.

    Order `order` under the conditions of `scidiff.solvers.adams`.
    """

    def time(lam: np.ndarray) -> np.ndarray:
        found: np.ndarray = schedule.time(2 * torch.as_tensor(lam)).detach().cpu().numpy()
        return found

    return multistep_noise(schedule, grid, order=order, variable=time)
