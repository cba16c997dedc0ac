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

from scidiff.noise import Noise
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

    def forward_training(self, x_t: State, t: Tensor, layout: Layout, noise: Noise, condition: Any = None) -> State:
        """What the loss calls: `forward`, unless training draws random numbers of its own, keyed by `noise`."""
        return self(x_t, t, layout, condition)


class NetworkDenoiser(Denoiser):
    """A network and the processes that say how to read it.

    Args:
        network: called as `network(inputs, t, layout, condition)`, it returns a raw output for every leaf. Outputs of
            other names (such as "leaf.variance") pass through untouched, and so do leaves of the state that have no
            process here. Times come in the precision of the state.
        processes: of every leaf that the network denoises.
    """

    def __init__(self, network: nn.Module, processes: Mapping[str, Process]) -> None:
        super().__init__()
        self.network = network
        self.processes = dict(processes)
        # Processes are plain records: what they hold to be learned (a schedule) is trained and saved with the network.
        held = {id(part): part for process in processes.values() for part in vars(process).values()}
        self.learned = nn.ModuleList(part for part in held.values() if isinstance(part, nn.Module))

    def forward(self, x_t: State, t: Tensor, layout: Layout, condition: Any = None) -> State:
        inputs = dict(x_t)
        for leaf, process in self.processes.items():
            inputs[leaf] = process.network_input(x_t[leaf], t, layout.rows(leaf))
        dtype = next((x.dtype for x in inputs.values() if x.is_floating_point()), torch.float32)
        outputs = dict(self.network(inputs, t.to(dtype), layout, condition))
        for leaf, process in self.processes.items():
            outputs[leaf] = process.clean(outputs[leaf], x_t[leaf], t, layout.rows(leaf))
        return outputs


class SelfConditioned(Denoiser):
    r"""Shows the network its own last estimate (Chen et al., Analog bits, 2023).

    The estimate of `leaf` travels in the state as a leaf of its own, "leaf.estimate": zeros at first, then each call's
    answer (probabilities, for a categorical leaf), carried by the process and rule that `solvers.carry.with_estimates`
    adds. So nothing is remembered outside the state.

    In training the network is called twice. It sees what it answered to a blank estimate, through which no gradient
    passes, for a part of the samples, and a blank for the others.

    Args:
        denoiser: reads the leaves "leaf.estimate" of the state beside the others.
        estimates: the leaves that are shown, and the axes that their estimate has beyond the leaf's own: () if
            continuous, (K,) if categorical.
        chance: the part of the samples that are shown an estimate in training.
    """

    def __init__(self, denoiser: Denoiser, estimates: Mapping[str, tuple[int, ...]], *, chance: float = 0.5) -> None:
        if not 0 <= chance <= 1:
            raise ValueError(f"expected a chance in [0, 1], got {chance}")
        super().__init__()
        self.denoiser = denoiser
        self.estimates, self.chance = dict(estimates), chance

    def forward(self, x_t: State, t: Tensor, layout: Layout, condition: Any = None) -> State:
        outputs = dict(self.denoiser(x_t, t, layout, condition))
        return {**outputs, **self._estimates(outputs, x_t)}

    def forward_training(self, x_t: State, t: Tensor, layout: Layout, noise: Noise, condition: Any = None) -> State:
        blank = {}
        for leaf, extra in self.estimates.items():
            dtype = x_t[leaf].dtype if x_t[leaf].is_floating_point() else torch.float32
            blank[f"{leaf}.estimate"] = torch.zeros(*x_t[leaf].shape, *extra, dtype=dtype, device=t.device)
        with torch.no_grad():
            shown = self._estimates(self.denoiser({**x_t, **blank}, t, layout, condition), x_t)
        coin = Layout.dense(layout.batch, {"coin": ()}, device=t.device).rows("coin")
        chosen = noise.at("self-conditioning", 0, coin).uniform() < self.chance
        for leaf in self.estimates:
            name = f"{leaf}.estimate"
            here = layout.rows(leaf).per_row(chosen, ndim=blank[name].ndim)
            shown[name] = torch.where(here, shown[name].to(blank[name].dtype), 0)
        return self.denoiser.forward_training({**x_t, **shown}, t, layout, noise, condition)

    def _estimates(self, outputs: State, x_t: State) -> State:
        """The estimates as the network is shown them."""
        return {
            f"{leaf}.estimate": outputs[leaf] if x_t[leaf].is_floating_point() else outputs[leaf].exp()
            for leaf in self.estimates
        }
