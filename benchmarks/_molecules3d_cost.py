"""Processor time of one call of a network of EDM's size: nine equivariant layers of 256 features on all pairs.

Written from the equations of E(n)-equivariant graph networks (Satorras et al. 2021) with the sizes of Hoogeboom et al.
2022 for QM9; untrained, since a call takes as long.

    m_ij = phi_e(h_i, h_j, |x_i - x_j|^2),   x_i <- x_i + sum_j (x_i - x_j) phi_x(m_ij) / (|x_i - x_j| + 1)
    h_i <- h_i + phi_h(h_i, sum_j sigmoid(phi_a(m_ij)) m_ij)
"""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn

from scidiff.denoiser import Denoiser
from scidiff.molecules.three_d.batches import LEAF, condition_of
from scidiff.molecules.three_d.graphs import Graph
from scidiff.molecules.three_d.model import ConformerModel
from scidiff.noise import Noise
from scidiff.state import Layout

LAYERS, WIDTH, CALLS = 9, 256, 1000


def _mlp(*widths: int) -> nn.Sequential:
    parts: list[nn.Module] = []
    for a, b in pairwise(widths):
        parts += [nn.Linear(a, b), nn.SiLU()]
    return nn.Sequential(*parts[:-1])


class _Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.edge, self.gate = nn.Sequential(_mlp(2 * WIDTH + 1, WIDTH, WIDTH), nn.SiLU()), nn.Linear(WIDTH, 1)
        self.node, self.push = _mlp(2 * WIDTH, WIDTH, WIDTH), _mlp(2 * WIDTH + 1, WIDTH, WIDTH, 1)

    def forward(self, h: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        n = h.shape[1]
        beam = x[:, :, None] - x[:, None]
        square = beam.square().sum(-1, keepdim=True)
        ends = [h[:, :, None].expand(-1, -1, n, -1), h[:, None].expand(-1, n, -1, -1)]
        message = self.edge(torch.cat([*ends, square], -1))
        h = h + self.node(torch.cat([h, (torch.sigmoid(self.gate(message)) * message).sum(2)], -1))
        ends = [h[:, :, None].expand(-1, -1, n, -1), h[:, None].expand(-1, n, -1, -1)]
        return h, x + (beam / (square.sqrt() + 1) * self.push(torch.cat([*ends, square], -1))).sum(2)


def edm_call(n: int, batch: int) -> Callable[[], None]:
    """One call of a network of EDM's size for molecules of n atoms."""
    layers, h = nn.ModuleList(_Layer() for _ in range(LAYERS)), torch.zeros(batch, n, WIDTH)
    x = torch.arange(3.0 * batch * n).sin().view(batch, n, 3)

    def call() -> None:
        nodes, places = h, x
        for layer in layers:
            nodes, places = layer(nodes, places)

    return call


def model_call(model: ConformerModel, denoiser: Denoiser, graph: Graph, batch: int) -> Callable[[], None]:
    """One call of a denoiser of the model, for a batch of one molecule."""
    n = len(graph.kind)
    layout = Layout.ragged({LEAF: torch.full((batch,), n)}, {LEAF: (3,)})
    rows, index = layout.rows(LEAF), torch.arange(batch)
    x = {LEAF: model.processes[LEAF].prior(rows, Noise(seed=0, index=index).at(LEAF, 0, rows))}
    t, condition = torch.full((batch,), 0.5), condition_of([graph] * batch)
    return lambda: denoiser(x, t, layout, condition)  # type: ignore[func-returns-value]


def milliseconds(call: Callable[[], None], *, batch: int, repeats: int = 5) -> float:
    """Processor time of a call for each of a batch, the median of several after one that does not count."""
    times = []
    for _ in range(repeats + 1):
        began = time.process_time()
        with torch.no_grad():
            call()
        times.append(1000 * (time.process_time() - began) / batch)
    return float(np.median(times[1:]))
