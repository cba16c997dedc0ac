"""What the tests beside this file run of ours, for other libraries to replay."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from scidiff.denoiser import Denoiser
from scidiff.noise import Noise
from scidiff.processes.gaussian import GaussianProcess
from scidiff.processes.parametrisations import Data
from scidiff.sampling import sample
from scidiff.schedules import Karras, Schedule, VPLinear
from scidiff.solvers.levels import Level, first_order, is_open, log_ratio, steps
from scidiff.solvers.plan import Linear, Plan, Tape
from scidiff.state import Layout, State

LAYOUT = Layout.dense(3, {"x": (4,)})
NOISE = Noise(seed=3, index=torch.tensor([2, 7, 5]))
VP = VPLinear()
NOISE_LEVELS = Karras(sigma_max=20.0, rho=3.0)  # alpha = 1: the state as k-diffusion has it
same = partial(torch.testing.assert_close, rtol=1e-8, atol=1e-8)


def bent(scaled: Tensor, ratio: Tensor) -> Tensor:
    """A clean estimate that is nonlinear in the state x / alpha and in the noise level sigma / alpha."""
    return torch.sin(scaled / (1 + ratio)) + torch.tanh(scaled.flip(-1)) / (1 + ratio)


class Bent(Denoiser):
    """`bent` on a schedule. It keeps the first state it sees."""

    def __init__(self, schedule: Schedule) -> None:
        super().__init__()
        self.schedule = schedule
        self.start: Tensor | None = None

    def forward(self, x_t: State, t: Tensor, layout: Layout, condition: Any = None) -> State:
        self.start = x_t["x"] if self.start is None else self.start
        alpha, sigma = (level[:, None] for level in self.schedule(t))
        return {"x": bent(x_t["x"] / alpha, sigma / alpha)}


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run of ours to be replayed: the first state, the noise numbers in their order, the finished samples."""

    start: Tensor
    noises: list[Tensor]
    end: Tensor


def ours(plan: Plan, schedule: Schedule) -> Run:
    denoiser = Bent(schedule)
    process = GaussianProcess(schedule=schedule, parametrisation=Data(), dtype=torch.float64)
    end = sample(denoiser, {"x": process}, {"x": plan}, LAYOUT, NOISE).state["x"]
    rows = LAYOUT.rows("x")
    noises = [NOISE.at("x", step, rows).normal(dtype=torch.float64, kind=kind) for step, kind in plan.noises]
    assert denoiser.start is not None
    return Run(start=denoiser.start, noises=noises, end=end)


@dataclass(frozen=True, kw_only=True)
class EvenLogSNR:
    """A variance-preserving schedule whose log-SNR is linear in t: what is interpolated in t is so in lambda."""

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return torch.sigmoid(self.log_snr(t)).sqrt(), torch.sigmoid(-self.log_snr(t)).sqrt()

    def log_snr(self, t: Tensor) -> Tensor:
        return 8 - 16 * t

    def time(self, log_snr: Tensor) -> Tensor:
        return (8 - log_snr) / 16


def shipped_3m(schedule: Schedule, grid: Tensor, *, start: str = "exact", half: bool = True) -> Plan:
    """DPM-Solver++(3M) with the divided difference for h^2 clean'' (`half`), or with twice that, which is right.

    Its second step is the exact integral of a line ("exact", k-diffusion) or the midpoint form ("midpoint", diffusers).
    """
    tape = Tape()
    x = tape.start
    past: list[tuple[Level, Linear]] = []
    for t, s in steps(schedule, grid):
        x, clean = tape.denoise(x, t.t)
        past = [(t, clean), *past][:3]
        if len(past) == 1 or is_open(t, s):
            x = first_order(tape, x, clean, t, s)
            continue
        h = log_ratio(t, s)
        phi_1 = -math.expm1(-h)
        phi_2 = 1 - phi_1 / h
        slopes = [h * (d - e) / log_ratio(e_at, d_at) for (d_at, d), (e_at, e) in itertools.pairwise(past)]
        if len(past) == 2:
            change = phi_1 * clean + (phi_2 if start == "exact" else phi_1 / 2) * slopes[0]
        else:
            r_0, r_1 = log_ratio(past[1][0], t) / h, log_ratio(past[2][0], past[1][0]) / h
            bend = (slopes[0] - slopes[1]) / (r_0 + r_1)
            change = phi_1 * clean + phi_2 * (slopes[0] + r_0 * bend)
            change = change + (0.5 - phi_2 / h) * (1.0 if half else 2.0) * bend
        x = (s.sigma / t.sigma) * x + s.alpha * change
    return tape.plan(x, s.t)
