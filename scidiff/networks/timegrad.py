r"""A network that forecasts step by step: a recurrent state, and a denoiser of the next step given it (TimeGrad).

    state   = begin(recent)                                  once a series
    stage, state = advance(step, what came before it, state) once a step: what the denoiser is told of that step
    output  = forward(noisy step, t, stage)                  once a call

Rasul et al. 2021 (arXiv 2101.12072), in the coordinates of `coordinates`: the state gives each step a location and a
scale beside the base forecast, and the diffusion is of what is left. `encode` does all steps of known futures at once.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from scidiff.networks.coordinates import Coordinates
from scidiff.networks.forecast import Known
from scidiff.networks.transformer import time_features
from scidiff.state import Layout, State

_BOUND = 2.0  # on the logarithm of what a scale is multiplied by

Taught = Known
"""Of S futures that are known, besides `Known`:

    target [S, H, V]     in the units of the base forecast, 0 where unknown
    seen [S, H, V]       1 where it is known, else 0
"""


@dataclass(frozen=True, kw_only=True)
class Stage(Coordinates):
    """What the denoiser is told of some steps, beside location and scale.

    Attributes:
        about: [S, H, width], of the state at each step.
    """

    about: Tensor


class TimeGradNetwork(nn.Module):
    """Recurrent state and denoiser.

    Args:
        leaf: the leaf that is denoised, [S * draws, H, V]; every step by itself, given its state.
        variables: V.
        recent: R, of what came last.
        features: F, of a step.
        hidden: size of the state.
        width: of the denoiser.
    """

    def __init__(
        self, *, leaf: str, variables: int, recent: int, features: int, hidden: int = 128, width: int = 64
    ) -> None:
        super().__init__()
        self.leaf, self.variables = leaf, variables
        self.start = nn.Linear(recent, hidden)
        self.cell = nn.GRU(4 * variables + features, hidden, batch_first=True)
        self.guess = nn.Linear(hidden, 2 * variables)
        self.project = nn.Linear(hidden, width)
        self.noisy = nn.Linear(variables, width)
        self.condition = nn.Sequential(nn.Linear(64, width), nn.SiLU())
        self.modulate = nn.Linear(width, 2 * width)
        self.mix = nn.Linear(width, width)
        self.out = nn.Linear(width, variables)
        for layer in (self.guess, self.modulate, self.out):  # the first output is 0, the first guess the base
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def begin(self, recent: Tensor) -> Tensor:
        """The state before the first step: recent [S, R] -> [1, S, hidden]."""
        return torch.tanh(self.start(recent)).unsqueeze(0)

    def advance(self, known: Known, before: Tensor, seen: Tensor, state: Tensor) -> tuple[Stage, Tensor]:
        """Stages of some steps, and the state after them.

        Args:
            known: `ahead`, `base` and `spread` of these steps.
            before: [S, H, V] how far each step before was from its base, in spreads; 0 where unknown.
            seen: [S, H, V] 1 where that is known, else 0.
            state: [1, S, hidden].
        """
        base, spread = known["base"], known["spread"]
        told = torch.cat([base.asinh(), spread.log(), before.asinh(), seen, known["ahead"]], dim=-1)
        x, state = self.cell(told, state)
        shift, wider = self.guess(x).chunk(2, dim=-1)
        scale = spread * torch.exp(_BOUND * torch.tanh(wider / _BOUND))
        return Stage(location=base + spread * shift, scale=scale, about=self.project(x)), state

    def encode(self, known: Taught) -> Stage:
        """Stages of the steps of known futures, each of what came before it alone."""
        seen = known["seen"]
        error = (known["target"] - known["base"]) / known["spread"] * seen
        before, told = (F.pad(x[:, :-1], (0, 0, 1, 0)) for x in (error, seen))
        return self.advance(known, before, told, self.begin(known["recent"]))[0]

    def forward(self, inputs: State, t: Tensor, layout: Layout, condition: Stage) -> State:
        """Raw output [S * draws, H, V] of noisy steps of this shape at times t [S * draws]."""
        x = self.noisy(inputs[self.leaf]) + condition.about.repeat_interleave(condition.draws, 0)
        gain, shift = self.modulate(self.condition(time_features(t, 64))).unsqueeze(1).chunk(2, dim=-1)
        x = F.silu(x * (1 + gain) + shift)
        x = x + F.silu(self.mix(x))
        return {self.leaf: self.out(x).float()}
