"""Denoisers: what turns a noisy state into the clean estimate of every leaf.

The clean estimate is the posterior mean of a continuous leaf and the log-probabilities of a categorical one. It is all
that losses, solvers, guidance and constraints speak. Guidance and projection wrap a denoiser and are denoisers.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from scidiff.processes.base import Process
from scidiff.state import Layout, State


class Denoiser(nn.Module, ABC):
    """Gives the clean estimate of every leaf."""

    @abstractmethod
    def forward(self, x_t: State, t: Tensor, layout: Layout, condition: Any = None) -> State:
        """The clean estimates.

        Args:
            x_t: the noisy state.
            t: [B] times in [0, 1].
            layout: who owns which row.
            condition: what the network is told besides; its form is the network's business.

        Returns:
            One clean estimate a leaf: [N, *shape] if continuous, log-probabilities [N, *shape, K] if categorical.
            A learned variance stands beside it as "leaf.variance".
        """


class NetworkDenoiser(Denoiser):
    """A network and the processes that say how to read it.

    Args:
        network: called as `network(inputs, t, layout, condition)`, it returns a raw output for every leaf. Outputs of
            other names (such as "leaf.variance") pass through untouched. Times come in the precision of the state.
        processes: of every leaf.
    """

    def __init__(self, network: nn.Module, processes: Mapping[str, Process]) -> None:
        super().__init__()
        self.network = network
        self.processes = dict(processes)
        # Processes are plain records: what they hold to be learned (a schedule) is trained and saved with the network.
        held = {id(part): part for process in processes.values() for part in vars(process).values()}
        self.learned = nn.ModuleList(part for part in held.values() if isinstance(part, nn.Module))

    def forward(self, x_t: State, t: Tensor, layout: Layout, condition: Any = None) -> State:
        inputs = {}
        for leaf, process in self.processes.items():
            inputs[leaf] = process.network_input(x_t[leaf], t, layout.rows(leaf))
        dtype = next((x.dtype for x in inputs.values() if x.is_floating_point()), torch.float32)
        outputs = dict(self.network(inputs, t.to(dtype), layout, condition))
        for leaf, process in self.processes.items():
            outputs[leaf] = process.clean(outputs[leaf], x_t[leaf], t, layout.rows(leaf))
        return outputs
