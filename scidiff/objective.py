"""The one forward path: corrupt the data, denoise it, and compare."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from scidiff.denoiser import Denoiser
from scidiff.noise import Noise, philox
from scidiff.processes.base import Process
from scidiff.state import Layout, State

_GOLDEN = 0x9E3779B9  # 2^32 divided by the golden ratio, odd: i -> i * _GOLDEN runs through all words mod 2^32
_WORD = 0xFFFFFFFF


def stratified(noise: Noise) -> Tensor:
    """Times in (0, 1), float64 [B], spread evenly over any run of consecutive samples.

    t_i = (u + i / golden ratio) mod 1, a Kronecker sequence with an offset u drawn by the seed. Each t_i is uniform and
    a function of (seed, index) alone, whatever the batch.
    """
    zero = torch.zeros((), dtype=torch.int64, device=noise.index.device)
    offset = philox((zero, 0, 0, 0), (noise.seed & _WORD, (noise.seed >> 32) & _WORD))[0]
    return (((offset + noise.index * _GOLDEN) & _WORD).double() + 0.5) * 2.0**-32


def loss(
    denoiser: Denoiser,
    processes: Mapping[str, Process],
    x_0: State,
    layout: Layout,
    noise: Noise,
    *,
    weights: Mapping[str, float] | None = None,
    times: Callable[[Noise], Tensor] = stratified,
    condition: Any = None,
) -> Tensor:
    """The training loss of each sample: [B].

    Args:
        denoiser: gives the clean estimates.
        processes: of every leaf; each brings its own loss.
        x_0: the data.
        layout: who owns which row.
        noise: the index of a sample must differ from visit to visit.
        weights: factor of each leaf's loss, 1 where it is not named.
        times: the time of each sample.
        condition: passed to the denoiser.
    """
    weights = weights or {}
    t = times(noise)
    x_t = {}
    for leaf, process in processes.items():
        rows = layout.rows(leaf)
        x_t[leaf] = process.corrupt(x_0[leaf], t, rows, noise.at(leaf, 0, rows))
    clean = denoiser(x_t, t, layout, condition)
    total = torch.zeros(layout.batch, device=t.device)
    for leaf, process in processes.items():
        part = process.loss(clean[leaf], x_0[leaf], x_t[leaf], t, layout.rows(leaf))
        total = total + weights.get(leaf, 1.0) * part
    return total
