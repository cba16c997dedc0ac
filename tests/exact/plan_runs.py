"""Plans in the one loop with a denoiser that is a function."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from scidiff import solvers
from scidiff.denoiser import Denoiser
from scidiff.noise import Draw, Noise
from scidiff.processes.gaussian import GaussianProcess
from scidiff.processes.parametrisations import Data
from scidiff.sampling import sample
from scidiff.schedules import Schedule
from scidiff.state import Layout, State

LAYOUT = Layout.dense(3, {"x": (4,)})
NOISE = Noise(seed=11, index=torch.tensor([5, 0, 9]))
Clean = Callable[[Tensor, Tensor], Tensor]


def draw(step: int) -> Draw:
    return NOISE.at("x", step, LAYOUT.rows("x"))


class Exact(Denoiser):
    """A denoiser from a function of x [N, ...] and t [B], which keeps what it was asked and what it said."""

    def __init__(self, clean: Clean) -> None:
        super().__init__()
        self.clean = clean
        self.calls: list[tuple[Tensor, Tensor, Tensor]] = []

    def forward(self, x_t: State, t: Tensor, layout: Layout, condition: Any = None) -> State:
        clean = self.clean(x_t["x"], t)
        self.calls.append((x_t["x"], t, clean))
        return {"x": clean}


def run(
    plan: solvers.Rule, schedule: Schedule, clean: Clean, *, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Exact]:
    """The finished samples of a plan in the one loop, and the denoiser with its record."""
    process = GaussianProcess(schedule=schedule, parametrisation=Data(), dtype=dtype)
    denoiser = Exact(clean)
    return sample(denoiser, {"x": process}, {"x": plan}, LAYOUT, NOISE).state["x"], denoiser


def bent(x: Tensor, t: Tensor) -> Tensor:
    """No posterior mean, but nonlinear in x and t."""
    return torch.sin(x) + t[:, None] * torch.tanh(x.flip(-1))


def same(one: solvers.Plan, other: solvers.Plan) -> None:
    assert one.times == pytest.approx(other.times, rel=1e-14)
    torch.testing.assert_close(one.table(), other.table(), rtol=1e-9, atol=1e-12)
