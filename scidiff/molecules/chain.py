r"""Chains of unmasking as decisions, with the exact logarithm of their probability and its gradient.

A step draws a completion x_0 from the network's product given the grammar, prod_l p_l(x_0^l) / Z with Z its probability
of acceptance, and lifts the masks at places S that are drawn without looking at it. Summed over all completions that
agree with the classes kept, the probability of the next state is

    log pi(x_s | x_t, S) = sum_{l in S} log p_l(x_s^l) + log Z(x_s) - log Z(x_t)

where Z(x_s) is the probability of acceptance with the classes kept in their places: two passes of the automaton's
filter, through which the gradient goes. It is the gradient of Black et al., "Training diffusion models with
reinforcement learning" (2023), eq. 5, with less variance than that of the whole completion, which it is the mean of.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from scidiff.constraints.automaton import Automaton
from scidiff.denoiser import Denoiser
from scidiff.grids import uniform
from scidiff.molecules.model import LEAF
from scidiff.noise import Noise
from scidiff.processes.categorical import MaskedProcess
from scidiff.sampling import sample
from scidiff.solvers.categorical import CountedUnmasking
from scidiff.state import Layout, State


@dataclass(frozen=True, kw_only=True)
class Chains:
    """B chains of n steps over sequences of one length L.

    Attributes:
        index: [B] int64, their numbers in the run.
        states: [B, n + 1, L] int64, from n masks to a sequence.
        times: [n] float64, of each call.
    """

    index: Tensor
    states: Tensor
    times: Tensor

    @property
    def sequences(self) -> Tensor:
        """The finished sequences: [B, L]."""
        return self.states[:, -1]


class _Recorded(Denoiser):
    """A denoiser that keeps the states it is shown."""

    def __init__(self, denoiser: Denoiser) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.states: list[Tensor] = []

    def forward(self, x_t: State, t: Tensor, layout: Layout, condition: Any = None) -> State:
        self.states.append(x_t[LEAF])
        return self.denoiser(x_t, t, layout, condition)


def draw(
    denoiser: Denoiser, process: MaskedProcess, automaton: Automaton, *, start: Tensor, index: Tensor, seed: int
) -> Chains:
    """Chains that lift one mask a step, in random order, each a function of (seed, index) and its start.

    Args:
        denoiser: gives the log-probabilities.
        process: of the sequences.
        automaton: what a sequence must be accepted by.
        start: [B, L] int64, as many masks in each row; all of a row, or what leaves something to be accepted.
        index: [B] int64.
        seed: of the noise.
    """
    length = start.shape[1]
    masks = int((start[0] == process.mask).sum())
    layout = Layout.dense(len(index), {LEAF: (length,)}, device=index.device)
    recorded = _Recorded(denoiser)
    rule = CountedUnmasking.on(uniform(masks) * (masks / length), joint=automaton)  # t is the share of masks
    noise = Noise(seed=seed, index=index)
    done = sample(recorded, {LEAF: process}, {LEAF: rule}, layout, noise, initial={LEAF: start})
    states = torch.stack([*recorded.states, done.state[LEAF]], dim=1)
    times = torch.tensor(rule.times[:-1], dtype=torch.float64, device=index.device)
    return Chains(index=index, states=states, times=times)


def log_prob(
    denoiser: nn.Module, process: MaskedProcess, automaton: Automaton, *, x_t: Tensor, x_s: Tensor, t: Tensor
) -> Tensor:
    """log pi(x_s | x_t, S) of steps, with S the places that x_s lifts: [P, L], [P, L], [P] -> float64 [P]."""
    layout = Layout.dense(len(x_t), {LEAF: (x_t.shape[1],)}, device=x_t.device)
    log_p = denoiser({LEAF: x_t}, t, layout)[LEAF]
    lifted = (x_t == process.mask) & (x_s != process.mask)
    kept = torch.where(lifted, x_s, 0)
    own = torch.where(lifted, log_p.gather(-1, kept[..., None]).squeeze(-1), 0).double().sum(-1)
    free = automaton.by_kind(log_p.exp())
    fixed = nn.functional.one_hot(automaton.kind[kept], free.shape[-1]).to(free)
    given = torch.where(lifted[..., None], fixed, free)
    return own + automaton.log_total(given) - automaton.log_total(free)
