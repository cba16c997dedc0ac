r"""Guided proposals with exact weights: the twisted diffusion sampler (Wu et al. 2023, algorithm 1).

Particles move as a guided denoiser says, which takes them to where the target is, and are weighed by what the unguided
sampler would have made of the same move. A step of a plan with one noise term,

    x_{k+1} = (terms of x_k) + b_k D_k + c_k noise,

moves a particle by b_k shift_k further if guided, with shift_k the guided less the plain clean estimate, so

    log p(x_{k+1} | x_k) / q(x_{k+1} | x_k) = -(b_k / c_k) <shift_k, noise> - (b_k / c_k)^2 |shift_k|^2 / 2.

The noise is a function of its key, so the ratio is known as soon as the ancestors are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from scidiff.denoiser import Denoiser
from scidiff.guidance.measurement import gaussian_leaves
from scidiff.noise import Noise
from scidiff.processes.base import Process
from scidiff.state import Layout, State


class Symbol(Protocol):
    """An atom of a plan: of which kind ("x", "clean", "noise") and which number."""

    @property
    def kind(self) -> str: ...
    @property
    def number(self) -> int: ...


class Table(Protocol):
    """What is read of a solver's plan: its times, its rows of (atom, coefficient), the (step, kind) of each noise."""

    @property
    def times(self) -> Sequence[float]: ...
    @property
    def rows(self) -> Sequence[Sequence[tuple[Symbol, float]]]: ...
    @property
    def noises(self) -> Sequence[tuple[int, str]]: ...


class Twisted(Denoiser):
    """A guided denoiser that keeps account of its guidance, for `Steering(correction=twisted.correction(layout))`.

    The Gaussian leaves that have a plan are guided, at the calls whose step adds noise; all else is the plain estimate.
    The potential of the steering is asked about the plain estimates, which it sees as "leaf.plain".

    Args:
        guided: proposes, e.g. `MMPS(plain, ...)`. Each call makes one of it and one of `plain`.
        plain: whose samples are to be weighed.
        processes: of every leaf.
        plans: of the leaves to be guided, as the sampler uses them. Beside states, a row may hold the present clean
            estimate and one noise: DDPM, DDIM with eta > 0, Euler-Maruyama. A plan with too little noise for its step
            makes the weights unequal: at few steps prefer `ddpm(..., spread=1.0)` for data that are spread out.

    Raises:
        ValueError: for any other plan, and for leaves that are not Gaussian.
    """

    def __init__(
        self, guided: Denoiser, plain: Denoiser, processes: Mapping[str, Process], plans: Mapping[str, Table]
    ) -> None:
        super().__init__()
        self.guided, self.plain, self.plans = guided, plain, dict(plans)
        leaves = gaussian_leaves(processes)
        if not plans or not plans.keys() <= leaves.keys():
            raise ValueError(f"expected plans of Gaussian leaves, of {sorted(leaves)}, got {sorted(plans)}")
        self.leaves = {leaf: leaves[leaf] for leaf in plans}
        self.moves = {leaf: [_move(plan, k) for k in range(len(plan.rows))] for leaf, plan in plans.items()}

    def forward(self, x_t: State, t: Tensor, layout: Layout, condition: Any = None) -> State:
        plain = self.plain(x_t, t, layout, condition)
        guided = self.guided(x_t, t, layout, condition)
        outputs = dict(plain)
        for leaf, moves in self.moves.items():
            # Without noise p and q would be two points: from the first such step on nothing is guided.
            silent = [time for time, move in zip(self.plans[leaf].times, moves, strict=False) if move is None]
            noisy = layout.rows(leaf).per_row(t > max(silent, default=-math.inf))
            outputs[leaf] = torch.where(noisy, guided[leaf], plain[leaf])
            outputs[f"{leaf}.plain"] = plain[leaf]
        return outputs

    def correction(self, layout: Layout) -> Callable[[int, State, Tensor, Noise], Tensor]:
        """log p / q of the step after call k, for `Steering`: (k, clean, ancestors, noise) -> [B] float64."""

        def log_ratio(k: int, clean: State, ancestors: Tensor, noise: Noise) -> Tensor:
            total = torch.zeros(layout.batch, dtype=torch.float64, device=ancestors.device)
            for leaf, process in self.leaves.items():
                move, rows = self.moves[leaf][k], layout.rows(leaf)
                if move is not None:
                    shift = move.ratio * rows.inherit(clean[leaf] - clean[f"{leaf}.plain"], ancestors=ancestors)
                    draw = noise.at(leaf, move.step, rows)
                    fresh = process.unit_noise(rows, draw, dtype=shift.dtype, kind=move.kind)
                    total = total - rows.sum(shift.double() * (fresh + shift / 2).double())
            return total

        return log_ratio


class Move(NamedTuple):
    """A step that adds noise: b_k / c_k, and the key of its noise."""

    ratio: float
    step: int
    kind: str


def _move(plan: Table, k: int) -> Move | None:
    """The step after call k; None if it adds no noise."""
    weight = sum(coefficient for atom, coefficient in plan.rows[k] if atom.kind == "clean")
    noises = [(coefficient, *plan.noises[atom.number]) for atom, coefficient in plan.rows[k] if atom.kind == "noise"]
    earlier = [atom.number for atom, _ in plan.rows[k] if atom.kind == "clean" and atom.number != k]
    if earlier or len(noises) > 1 or any(step != k + 1 for _, step, _ in noises):
        raise ValueError(f"expected one clean estimate and at most one fresh noise a step, got more in step {k}")
    return Move(weight / noises[0][0], *noises[0][1:]) if noises else None
