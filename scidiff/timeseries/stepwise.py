"""Futures drawn step by step, each step given those before it in the same future."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor

from scidiff.denoiser import NetworkDenoiser
from scidiff.networks.forecast import Known
from scidiff.networks.timegrad import TimeGradNetwork
from scidiff.noise import Noise
from scidiff.processes.base import Process
from scidiff.sampling import sample
from scidiff.solvers import Plan
from scidiff.state import Layout
from scidiff.timeseries.batches import LEAF

TILE = 100  # futures of one series that are computed together, whatever is asked for


@torch.no_grad()
def step_by_step(
    denoiser: NetworkDenoiser, processes: Mapping[str, Process], rule: Plan, known: Known, *, draws: int, seed: int
) -> Tensor:
    """Futures of one series: [draws, H, V], in the units of the base forecast.

    Future k is a function of the network, the series, the seed and k. What of the state does not depend on the draws is
    computed once.

    Args:
        denoiser: with a `TimeGradNetwork`.
        processes: of its leaf.
        rule: from noise to a step.
        known: of one series (S = 1).
        draws: how many.
        seed: keys the noise; of the series.
    """
    network = cast(TimeGradNetwork, denoiser.network)
    device, (horizon, variables) = known["base"].device, known["base"].shape[1:]
    begun = network.begin(known["recent"]).expand(-1, TILE, -1).contiguous()
    layout = Layout.dense(TILE, {LEAF: (1, variables)}, device=device)
    steps = [{name: known[name][:, k : k + 1].expand(TILE, -1, -1) for name in ("ahead", "base", "spread")}
             for k in range(horizon)]  # fmt: skip
    parts = []
    for first in range(0, draws, TILE):
        state, before = begun, begun.new_zeros(TILE, 1, variables)
        seen, futures = torch.zeros_like(before), []
        for k, step in enumerate(steps):
            stage, state = network.advance(step, before, seen, state)
            noise = Noise(seed=seed, index=(first + torch.arange(TILE, device=device)) * horizon + k)
            done = sample(denoiser, processes, {LEAF: rule}, layout, noise, condition=stage)
            futures.append(stage.restore(done.state[LEAF]))
            before, seen = (futures[-1] - step["base"]) / step["spread"], torch.ones_like(before)
        parts.append(torch.cat(futures, dim=1))
    return torch.cat(parts)[:draws]
