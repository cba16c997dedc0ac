"""What the tests share: settings, and problems whose answer is known."""

from __future__ import annotations

import itertools
import os
import signal
from typing import Any

# Two workers with two threads each wait for one another: five times as long on two cores. Before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import hypothesis
import pytest
import torch
from torch import Tensor

from scidiff.denoiser import Denoiser
from scidiff.processes.categorical import MaskedProcess
from scidiff.processes.mixing import MixingProcess
from scidiff.schedules import Schedule
from scidiff.state import Layout, State

hypothesis.settings.register_profile("repeatable", deadline=None, derandomize=True, max_examples=25)
hypothesis.settings.load_profile("repeatable")

# A shell starts what runs in its background with Ctrl-C ignored, and every process below inherits that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


class GaussianData(Denoiser):
    """The exact denoiser of leaf "x" whose elements are independent N(mean, std^2).

    clean = mean + gain (x_t - alpha_t mean),   gain = alpha_t std^2 / (alpha_t^2 std^2 + sigma_t^2)
    """

    def __init__(self, schedule: Schedule, *, mean: float = 0.7, std: float = 0.6, leaf: str = "x") -> None:
        super().__init__()
        self.schedule, self.mean, self.std, self.leaf = schedule, mean, std, leaf

    def forward(self, x_t: State, t: Tensor, layout: Layout, condition: Any = None) -> State:
        rows, x = layout.rows(self.leaf), x_t[self.leaf]
        alpha, sigma = (rows.per_row(v).to(x.dtype) for v in self.schedule(t))
        gain = alpha * self.std**2 / (alpha**2 * self.std**2 + sigma**2)
        return {self.leaf: self.mean + gain * (x - alpha * self.mean)}


class Enumerated(Denoiser):
    """The exact denoiser of leaf "x", sequences [B, L] of K classes with known probabilities.

    Args:
        process: masked or mixing.
        probabilities: [K, ..., K], one axis a position.
    """

    def __init__(self, process: MaskedProcess | MixingProcess, probabilities: Tensor) -> None:
        super().__init__()
        self.process = process
        self.probabilities = probabilities.double() / probabilities.double().sum()
        self.length, self.classes = probabilities.ndim, probabilities.shape[0]
        self.sequences = torch.tensor(list(itertools.product(range(self.classes), repeat=self.length)))

    def likelihood(self, x_t: Tensor, t: Tensor) -> Tensor:
        """q(x_t | x_0) of every sequence x_0: [B, K^L]."""
        alpha = self.process.survival(t)[:, None, None]
        same = (x_t[:, None] == self.sequences).double()
        if isinstance(self.process, MaskedProcess):
            each = torch.where(x_t[:, None] == self.process.mask, 1 - alpha, alpha * same)
        else:
            each = alpha * same + (1 - alpha) * self.process.stationary[x_t][:, None]
        return each.prod(-1)

    def forward(self, x_t: State, t: Tensor, layout: Layout, condition: Any = None) -> State:
        joint = self.likelihood(x_t["x"], t) * self.probabilities.flatten()
        posterior = joint / joint.sum(-1, keepdim=True)
        each = torch.nn.functional.one_hot(self.sequences, self.classes).double()  # [K^L, L, K]
        return {"x": torch.einsum("bs,slk->blk", posterior, each).clamp_min(1e-300).log()}

    def histogram(self, x: Tensor) -> Tensor:
        """Counts of each sequence: [K^L]."""
        place = torch.zeros(len(x), dtype=torch.int64)
        for position in range(self.length):
            place = place * self.classes + x[:, position]
        return torch.bincount(place, minlength=self.classes**self.length)

    def marginals(self) -> list[Tensor]:
        """p(x^l), [K] for each position."""
        axes = range(self.length)
        return [self.probabilities.sum([a for a in axes if a != axis]) for axis in axes]


@pytest.fixture(scope="session")
def gaussian_data() -> type[GaussianData]:
    return GaussianData


@pytest.fixture(scope="session")
def enumerated() -> type[Enumerated]:
    return Enumerated


def assert_drawn_from(counts: Tensor, probabilities: Tensor) -> None:
    """Fail if counts [S] are unlikely as draws from probabilities [S]: any |z| above 5, or a count where p = 0."""
    n = counts.sum()
    p = probabilities.double().flatten()
    assert not bool(counts[p < 1e-12].any()), f"expected nothing where p = 0, got {counts[p < 1e-12]}"
    possible = p >= 1e-12
    spread = (n * p * (1 - p)).sqrt()[possible].clamp_min(1e-6)
    z = (counts[possible] - n * p[possible]) / spread
    assert float(z.abs().max()) < 5, f"expected {p * n}, got {counts}: z = {z}"


@pytest.fixture(scope="session")
def drawn_from() -> Any:
    return assert_drawn_from
