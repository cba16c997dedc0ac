"""Small runs of the training loop: a line fitted to numbers."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from scidiff.training import DenseBatches, TrainingConfig, train

F64 = torch.float64


class Line(nn.Module):
    """A denoiser of two weights, slope and offset, whose gradients are known."""

    def __init__(self) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.tensor([[0.3]], dtype=F64))
        self.offset = nn.Parameter(torch.tensor([-0.2], dtype=F64))

    def forward(self, x_t, t, layout, condition=None):
        return {"x": x_t["x"] * self.slope[0] + self.offset + t[:, None]}


def squares(denoiser, processes, x_0, layout, noise, *, condition=None):
    """(clean - x_0)^2 at a time and a noise keyed by the sample."""
    rows = layout.rows("x")
    draw = noise.at("x", 0, rows)
    t = draw.uniform(shape=(), kind="time")
    x_t = {"x": x_0["x"] + t[:, None] * draw.normal(dtype=F64)}
    return rows.sum((denoiser(x_t, t, layout, condition)["x"] - x_0["x"]) ** 2)


def numbers(count: int = 40, *, size: int = 8, seed: int = 0) -> DenseBatches:
    return DenseBatches({"x": torch.linspace(-1, 2, count, dtype=F64)[:, None]}, size=size, seed=seed)


def config(**changes) -> TrainingConfig:
    base = {"max_steps": 30, "warmup_steps": 5, "learning_rate": 0.05, "log_seconds": 1e6, "checkpoint_minutes": 1e6}
    return TrainingConfig(**(base | changes))


def run(out: Path, settings: TrainingConfig, *, batches=None, objective=squares, denoiser=None, **options):
    batches = numbers() if batches is None else batches
    return train(denoiser or Line(), {}, batches, settings, out=out, objective=objective, **options)


def weights(result) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in result.denoiser.parameters()])
