"""Plans whose samples are as wide as they should be, however few calls they make.

A multistep method on the reverse SDE continues the estimates it has, and with them the noise in them: with few calls
its samples of Gaussian data are too wide by up to a fifth. A network's errors act as noise too, and widen what is drawn
under constraints. Both are undone by drawing less noise: its factor is told by Gaussian data, for which the width of
the samples is known exactly (`moments`), and nearly the same for data of any size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from scidiff.schedules import Schedule
from scidiff.solvers.check import Gaussian, moments
from scidiff.solvers.plan import Plan

SIZES = tuple(np.logspace(-1, 0.5, 7).tolist())
"""Standard deviations of what a model of data of unit variance has to tell."""

_MOST = 1.5
_HALVINGS = 24


def calibrated(
    solver: Callable[[float], Plan], schedule: Schedule, *, width: float = 1.0, sizes: Sequence[float] = SIZES
) -> Plan:
    """The plan of a factor of the noise in [0, 1.5] whose samples of Gaussian data are `width` times as wide as these.

    In the geometric mean over several sizes. Where no factor does it, the nearest end.

    Args:
        solver: from the factor to a plan that is the wider, the larger the factor is.
        schedule: the process's.
        width: of the samples over that of the data; less than 1 for a denoiser whose errors widen them.
        sizes: standard deviations of the data.
    """
    data, (low, high) = [Gaussian(mean=0.0, std=size) for size in sizes], (0.0, _MOST)
    for _ in range(_HALVINGS):
        factor = (low + high) / 2
        plan = solver(factor)
        found = sum(math.log(moments(plan, schedule, each)[1] / each.std) for each in data) / len(data)
        low, high = (low, factor) if found > math.log(width) else (factor, high)
    return solver((low + high) / 2)
