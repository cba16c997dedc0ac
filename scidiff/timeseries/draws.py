"""Draws of the missing cells of a series, each a function of (seed, series, draw) alone.

Matrix products may round differently with the shape of a batch. A series is therefore always encoded by itself, and
drawn in tiles of `TILE` consecutive draws, whatever is asked for.
"""

from __future__ import annotations

from functools import cache
from typing import cast

import torch
from torch import Tensor

from scidiff.denoiser import Denoiser
from scidiff.networks.panel import Context
from scidiff.noise import Noise
from scidiff.processes.gaussian import GaussianProcess
from scidiff.processes.parametrisations import EDM
from scidiff.sampling import sample
from scidiff.solvers import Plan, recommended
from scidiff.state import Layout
from scidiff.timeseries.batches import LEAF, Standardised, series
from scidiff.timeseries.model import ImputerModel

TILE = 10
DRAWS = 4096  # at most for one series: the number of a draw is that of its series times this, plus its own
STEPS = 6


def encode(model: ImputerModel, data: Standardised, *, visible: Tensor, asked: Tensor) -> Context:
    """What the model makes of what is known of one series (S = 1), when the cells `asked` [1, L, V] are wanted."""
    if len(data) != 1:
        raise ValueError(f"expected one series, got {len(data)}")
    device = data.values.device
    with torch.no_grad(), torch.autocast(device.type, dtype=torch.bfloat16):
        return model.denoiser.network.encode(series(data, visible=visible, asked=asked))  # type: ignore[operator]


def draw(
    model: ImputerModel,
    context: Context,
    *,
    draws: int,
    seed: int,
    number: int,
    steps: int = STEPS,
    denoiser: Denoiser | None = None,
) -> Tensor:
    """Draws of the cells that the context asks for: standardised values [draws, L, V], float32.

    Args:
        model: the weights.
        context: of one series.
        draws: how many, at most `DRAWS`.
        seed: of the run.
        number: of the series, which keys its noise.
        steps: network calls a draw.
        denoiser: what to call in place of the model's own, such as a projection around it.
    """
    if not 1 <= draws <= DRAWS:
        raise ValueError(f"expected 1 to {DRAWS} draws, got {draws}")
    shape = tuple(context.location.shape[1:])
    device = context.location.device
    many = context.repeat(TILE)
    rule = _plan(cast(GaussianProcess, model.processes[LEAF]), steps)
    parts = []
    for first in range(0, draws, TILE):
        index = number * DRAWS + first + torch.arange(TILE, device=device)
        layout = Layout.dense(TILE, {LEAF: shape}, device=device)
        with torch.autocast(device.type, dtype=torch.bfloat16):
            done = sample(
                denoiser or model.denoiser,
                model.processes,
                {LEAF: rule},
                layout,
                Noise(seed=seed, index=index),
                condition=many,
            )
        parts.append(many.restore(done.state[LEAF]))
    return torch.cat(parts)[:draws]


@cache
def _plan(process: GaussianProcess, steps: int) -> Plan:
    """The recommended solver for data of the spread that the process expects."""
    return recommended(process.schedule, steps, std=cast(EDM, process.parametrisation).sigma_data)
