"""Gaussian data whose denoiser and posterior are known, for the tests of guidance."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from scidiff.denoiser import Denoiser
from scidiff.guidance import Measurement
from scidiff.noise import Noise
from scidiff.processes.gaussian import GaussianProcess
from scidiff.processes.parametrisations import Data
from scidiff.schedules import VE, Cosine, Karras, RectifiedFlow, Schedule, SubVP, VPLinear
from scidiff.state import Layout, State

F64 = torch.float64
SCHEDULES: list[Schedule] = [VPLinear(), Cosine(), SubVP(), VE(), Karras(), RectifiedFlow()]
D, M, B = 5, 3, 6


def numbers(name: str, *shape: int) -> Tensor:
    """Fixed standard normal numbers."""
    layout = Layout.dense(1, {"x": shape})
    return Noise(seed=11, index=torch.zeros(1, dtype=torch.long)).at(name, 0, layout.rows("x")).normal(dtype=F64)[0]


def gaussian(schedule: Schedule) -> GaussianProcess:
    return GaussianProcess(schedule=schedule, parametrisation=Data(), dtype=F64)


class Exact(Denoiser):
    """E[x_0 | x_t] of data N(mean, cov) over the leaves, laid side by side, each with its own schedule."""

    def __init__(self, mean: Tensor, cov: Tensor, schedules: dict[str, Schedule]) -> None:
        super().__init__()
        self.mean, self.cov, self.schedules = mean, cov, schedules

    def forward(self, x_t: State, t: Tensor, layout: Layout, condition: Any = None) -> State:
        widths = [x_t[leaf].shape[-1] for leaf in self.schedules]
        levels = [schedule(t) for schedule in self.schedules.values()]
        alpha, sigma = (
            torch.cat([level[i][:, None].expand(-1, w) for level, w in zip(levels, widths, strict=True)], -1)
            for i in (0, 1)
        )
        x = torch.cat([x_t[leaf] for leaf in self.schedules], -1)
        # m + S a (a S a + s^2)^{-1} (x - a m)
        marginal = alpha[:, :, None] * self.cov * alpha[:, None, :] + torch.diag_embed(sigma**2)
        whitened = torch.linalg.solve(marginal, x - alpha * self.mean)
        clean = self.mean + (self.cov @ (alpha * whitened)[..., None]).squeeze(-1)
        return dict(zip(self.schedules, clean.split(widths, -1), strict=True))


def posterior(mean: Tensor, cov: Tensor, a: Tensor, y: Tensor, r: Tensor) -> tuple[Tensor, Tensor]:
    """Mean [B, D] and covariance of x given y = a x + N(0, diag r)."""
    gain = cov @ a.T @ torch.linalg.inv(a @ cov @ a.T + torch.diag(r))
    return mean + (y - mean @ a.T) @ gain.T, cov - gain @ a @ cov


ROOT = numbers("root", D, D) / 2
MEAN, COV = numbers("mean", D), ROOT @ ROOT.T + 0.05 * torch.eye(D, dtype=F64)
A, Y, R = numbers("a", M, D), 2 * numbers("y", B, M), torch.tensor([0.3, 0.01, 1.7], dtype=F64)
LAYOUT = Layout.dense(B, {"x": (D,)})
TIMES = torch.tensor([0.999, 0.8, 0.5, 0.3, 0.1, 0.01], dtype=F64)


def linear(leaf: str = "x") -> Measurement:
    return Measurement(operator=lambda state: state[leaf] @ A.T, value=Y, variance=R)


def noisy(schedule: Schedule, t: Tensor, width: int = D) -> Tensor:
    """States as they occur at these times, and further out."""
    alpha, sigma = schedule(t)
    return alpha[:, None] * 2 * numbers("x_0", len(t), width) + sigma[:, None] * 2 * numbers("noise", len(t), width)


class Bent(Denoiser):
    """A nonlinear denoiser whose leaves look at each other, and which gives a learned variance besides."""

    def forward(self, x_t: State, t: Tensor, layout: Layout, condition: Any = None) -> State:
        x = x_t["x"]
        clean = torch.tanh(x @ COV) + t[:, None] * x.roll(1, -1) ** 2 / 5
        outputs = {"x": clean, "x.variance": x * 0.5}
        if "c" in x_t:
            logits = (x.sum(-1)[:, None, None] * torch.arange(3) / 4).expand(-1, 2, 3) + x_t["c"][..., None] * 0.1
            outputs["c"] = torch.log_softmax(logits + torch.arange(6).reshape(2, 3), -1)
        return outputs


def slope(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """The gradient of [B, D] -> [B] by central differences."""
    step = 1e-5
    columns = []
    for i in range(x.shape[-1]):
        shift = torch.zeros_like(x)
        shift[:, i] = step
        columns.append((function(x + shift) - function(x - shift)) / (2 * step))
    return torch.stack(columns, -1)
