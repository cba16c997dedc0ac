r"""TimeGrad (Rasul et al. 2021): a recurrent state that has read all steps so far, and a denoiser of the next one.

    h_k = GRU(h_(k-1), x_(k-1)),   outlook_k = look(h_k, what is known of step k),   x_k ~ denoiser(., outlook_k)

In training all states come from the values that came, so that steps are denoised side by side like any other horizon;
draws go step by step (`unroll` in the domain). As in `networks.forecast` the denoiser works in the coordinates of a
first guess, here of one step.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from scidiff.networks.forecast import Known, Outlook
from scidiff.networks.transformer import time_features
from scidiff.state import Layout, State

_BOUND = 2.0  # on the logarithm of what a scale is multiplied by


class RecurrentNetwork(nn.Module):
    """Recurrent encoder and denoiser of one step.

    Args:
        leaf: the leaf that is denoised, [S * draws, steps, V].
        variables: V.
        told: other features of a row before the origin.
        features: F, of a step to come.
        hidden: width of the state and of the denoiser.
    """

    def __init__(self, *, leaf: str, variables: int, told: int, features: int, hidden: int = 64):
        super().__init__()
        self.leaf, self.variables, self.row = leaf, variables, 2 * variables + told
        self.read = nn.GRU(2 * variables, hidden, batch_first=True)
        self.ahead = nn.Linear(2 * variables + features, hidden, bias=False)
        self.state = nn.Linear(hidden, hidden)
        self.guess = nn.Linear(hidden, 2 * variables)
        self.noisy = nn.Linear(variables, hidden)
        self.condition = nn.Linear(64, hidden)
        self.mix = nn.ModuleList(nn.Linear(hidden, hidden) for _ in range(2))
        self.out = nn.Linear(hidden, variables)
        for layer in (self.guess, self.out):  # the first output is 0, the first guess the base
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def start(self, known: Known) -> Tensor:
        """The state before the first step, from the last rows before the origin: [S, hidden]."""
        rows = known["recent"].unflatten(1, (-1, self.row))[:, :, : 2 * self.variables]
        return self.read(rows)[1][0]

    def advance(self, state: Tensor, x: Tensor) -> Tensor:
        """The state [B, hidden] after a step whose values were x [B, V], in units of the context."""
        row = torch.cat([x.asinh(), torch.ones_like(x)], dim=-1)
        return self.read(row.unsqueeze(1), state.unsqueeze(0))[1][0]

    def look(self, state: Tensor, base: Tensor, spread: Tensor, ahead: Tensor) -> Outlook:
        """What is told of steps [B, K] by their states [B, K, hidden], base forecasts and features [B, K, ...]."""
        x = self.ahead(torch.cat([base.asinh(), spread.log(), ahead], dim=-1)) + self.state(state)
        x = F.silu(x)
        shift, wider = self.guess(x).chunk(2, dim=-1)
        return Outlook(
            location=base + spread * shift, scale=spread * torch.exp(_BOUND * torch.tanh(wider / _BOUND)), about=x
        )

    def encode(self, known: Known) -> Outlook:
        """All steps of a horizon at once, from the values that came: `came` and `seen` [S, H, V] beside the rest."""
        rows = torch.cat([known["came"].asinh(), known["seen"]], dim=-1)[:, :-1]
        first = self.start(known)
        later = self.read(rows, first.unsqueeze(0))[0]
        states = torch.cat([first.unsqueeze(1), later], dim=1)
        return self.look(states, known["base"], known["spread"], known["ahead"])

    def forward(self, inputs: State, t: Tensor, layout: Layout, condition: Outlook) -> State:
        """Raw output [S * draws, steps, V] of noisy steps at times t [S * draws]."""
        about = condition.about.repeat_interleave(condition.draws, 0)
        x = self.noisy(inputs[self.leaf]) + about + self.condition(time_features(t, 64)).unsqueeze(1)
        for layer in self.mix:
            x = x + layer(F.silu(x))
        return {self.leaf: self.out(F.silu(x)).float()}
