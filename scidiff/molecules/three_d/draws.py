"""Positions drawn for molecules of one number of atoms, by the one loop."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, cast

import torch
from torch import Tensor

from scidiff.denoiser import Denoiser
from scidiff.guidance.project import Project, Projection
from scidiff.molecules.three_d.batches import LEAF
from scidiff.noise import Noise
from scidiff.processes.base import Process
from scidiff.processes.gaussian import GaussianProcess
from scidiff.processes.parametrisations import EDM
from scidiff.sampling import sample
from scidiff.solvers import Plan, recommended
from scidiff.state import Layout, State

STEPS = 10


class Held(Projection, Protocol):
    """What shapes must be: see `fixed.RigidPart` and `ruled.Ruled`."""

    @property
    def root(self) -> Tensor:
        """From harmonic coordinates to positions, float64 [n, n]."""

    def placed(self, x: Tensor) -> Tensor:
        """Positions [B, n, 3] where they are wanted."""


class Halved(Denoiser):
    """A denoiser whose wide products are taken in bfloat16, as in training; positions and vectors keep their precision.

    Args:
        denoiser: of positions.
    """

    def __init__(self, denoiser: Denoiser) -> None:
        super().__init__()
        self.denoiser = denoiser

    def forward(self, x_t: State, t: Tensor, layout: Layout, condition: Any = None) -> State:
        with torch.autocast(t.device.type, dtype=torch.bfloat16):
            return self.denoiser(x_t, t, layout, condition)


def solver(process: GaussianProcess, steps: int) -> Plan:
    """The recommended solver for data of the spread that the process expects."""
    return recommended(process.schedule, steps, std=cast(EDM, process.parametrisation).sigma_data)


def positions(
    denoiser: Denoiser,
    processes: Mapping[str, Process],
    condition: Mapping[str, Tensor],
    *,
    seed: int,
    index: Tensor,
    steps: int = STEPS,
    held: Held | None = None,
    start: float = 1.0,
) -> Tensor:
    """Positions in angstrom, [B, n, 3]: centred, or where a constraint places them, which estimates are projected on.

    Args:
        denoiser: of harmonic coordinates.
        processes: of the leaf.
        condition: of B molecules of n atoms (`batches.condition_of`).
        seed: of the noise.
        index: [B], the number of each draw, which keys its noise.
        steps: network calls.
        held: of the B molecules, which then are of one graph; positions come in float64.
        start: the time from which on estimates are projected.
    """
    size = condition["atom"].shape[1]
    layout = Layout.ragged({LEAF: torch.full_like(index, size)}, {LEAF: (3,)})
    rules = {LEAF: solver(cast(GaussianProcess, processes[LEAF]), steps)}
    noise = Noise(seed=seed, index=index)
    if held is None:
        y = sample(denoiser, processes, rules, layout, noise, condition=condition).state[LEAF]
        return condition["root"].to(y.dtype) @ y.unflatten(0, (-1, size))
    state = sample(Project(denoiser, held, start=start), processes, rules, layout, noise, condition=condition).state
    y = held.project({LEAF: state[LEAF].double()}, layout)[LEAF]  # once more, without the rounding of float32
    return held.placed(held.root @ y.unflatten(0, (-1, size)))
