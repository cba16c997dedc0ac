"""The contract of a process: how one leaf of the state is corrupted, and how its network output is read."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor

from scidiff.noise import Draw
from scidiff.state import Rows


class Process(ABC):
    """How one leaf is corrupted from data (t=0) to noise (t=1).

    Times are tensors [B], one a sample. `x` tensors are [N, *rows.shape]. The *clean estimate* is the posterior mean of
    a continuous leaf (same shape as x) and the log-probabilities [N, *rows.shape, K] of a categorical one.
    """

    @abstractmethod
    def prior(self, rows: Rows, draw: Draw) -> Tensor:
        """A sample of the state at t=1: [N, *shape]."""

    @abstractmethod
    def corrupt(self, x_0: Tensor, t: Tensor, rows: Rows, draw: Draw) -> Tensor:
        """A sample of q(x_t | x_0): [N, *shape]."""

    @abstractmethod
    def renoise(self, x_s: Tensor, s: Tensor, t: Tensor, rows: Rows, draw: Draw) -> Tensor:
        """A sample of q(x_t | x_s) for s <= t: forward in time, as time travel and renoising need."""

    @abstractmethod
    def clean(self, output: Tensor, x_t: Tensor, t: Tensor, rows: Rows) -> Tensor:
        """The clean estimate that a network output stands for."""

    def network_input(self, x_t: Tensor, t: Tensor, rows: Rows) -> Tensor:
        """What the network is given for this leaf: x_t itself, unless a parametrisation scales it."""
        return x_t

    def observed(self, x_0: Tensor, t: Tensor, rows: Rows, draw: Draw) -> Tensor:
        """The state at time t of elements whose value x_0 is known; by default a sample of q(x_t | x_0)."""
        return self.corrupt(x_0, t, rows, draw)

    @abstractmethod
    def loss(self, clean: Tensor, x_0: Tensor, x_t: Tensor, t: Tensor, rows: Rows) -> Tensor:
        """The training loss of each sample: [B]."""
