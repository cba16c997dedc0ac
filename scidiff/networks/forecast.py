r"""A network that forecasts a whole horizon at once: a guess step by step, and a denoiser of patches of steps.

    outlook = encode(known)                        what is known of each step: once a series
    output  = forward(noisy horizon, t, outlook)   once a draw and call, among the few patches of the horizon

The first half moves and scales a base forecast, from which it starts. It reads every step by itself with the same
weights, so that a single series has as many examples as steps. The second half works in the coordinates that the first
makes (`coordinates`), and tells what steps have in common. The patches are as in PatchTST (Nie et al. 2023).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from scidiff.networks.coordinates import Coordinates
from scidiff.networks.transformer import Block, rotary, time_features
from scidiff.state import Layout, State

PATCH = 8  # steps, at most
_BOUND = 2.0  # on the logarithm of what a scale is multiplied by

Known = Mapping[str, Tensor]
"""What is known of S series of V variables, and of the H steps that follow:

    recent [S, R]        of the last steps before the origin
    ahead [S, H, F]      of each step: its calendar, covariates, what stood seasons before
    base [S, H, V]       the base forecast
    spread [S, H, V]     how far it is usually off, > 0
"""


@dataclass(frozen=True, kw_only=True)
class Outlook(Coordinates):
    """What the denoiser is told about S series, beside location and scale.

    Attributes:
        about: [S, patches, width], what is known of each patch of the horizon.
    """

    about: Tensor


def patched(x: Tensor, size: int) -> Tensor:
    """Runs of `size` steps as one token, zeros before the first step: [S, T, C] -> [S, ceil(T / size), size C]."""
    return F.pad(x, (0, 0, -x.shape[1] % size, 0)).unflatten(1, (-1, size)).flatten(2)


def unpatched(x: Tensor, size: int, length: int) -> Tensor:
    """The inverse of `patched`: [S, patches, size C] -> [S, length, C]."""
    return x.unflatten(2, (size, -1)).flatten(1, 2)[:, x.shape[1] * size - length :]


class ForecastNetwork(nn.Module):
    """Encoder and denoiser.

    Args:
        leaf: the leaf that is denoised, [S * draws, H, V].
        variables: V.
        recent: R, of what came last.
        features: F, of a step.
        horizon: H.
        hidden: width of the encoder.
        width: features of a token of the denoiser.
        depth: its blocks.
        heads: its attention heads.
    """

    def __init__(
        self,
        *,
        leaf: str,
        variables: int,
        recent: int,
        features: int,
        horizon: int,
        hidden: int = 128,
        width: int = 64,
        depth: int = 2,
        heads: int = 4,
    ):
        super().__init__()
        self.leaf, self.width, self.heads, self.horizon = leaf, width, heads, horizon
        self.size = -(-horizon // -(-horizon // PATCH))  # of a patch: as equal as can be
        self.recent = nn.Linear(recent, hidden)
        self.ahead = nn.Linear(2 * variables + features, hidden, bias=False)
        self.mix = nn.Linear(hidden, hidden)
        self.guess = nn.Linear(hidden, 2 * variables)
        self.project = nn.Linear(hidden * self.size, width)
        self.noisy = nn.Linear(variables * self.size, width)
        self.condition = nn.Sequential(nn.Linear(64, width), nn.SiLU())
        self.modulate = nn.Linear(width, 6 * width)
        self.denoiser = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.out = nn.Linear(width, variables * self.size)
        for layer in (self.guess, self.modulate, self.out):  # the first output is 0, the first guess the base
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def encode(self, known: Known) -> Outlook:
        """What the denoiser is told: once a series."""
        base, spread = known["base"], known["spread"]
        ahead = torch.cat([base.asinh(), spread.log(), known["ahead"]], dim=-1)
        x = F.silu(self.ahead(ahead) + self.recent(known["recent"]).unsqueeze(1))
        x = F.silu(self.mix(x))
        shift, wider = self.guess(x).chunk(2, dim=-1)
        scale = spread * torch.exp(_BOUND * torch.tanh(wider / _BOUND))
        return Outlook(location=base + spread * shift, scale=scale, about=self.project(patched(x, self.size)))

    def forward(self, inputs: State, t: Tensor, layout: Layout, condition: Outlook) -> State:
        """Raw output [S * draws, H, V] of a noisy horizon of this shape at times t [S * draws]."""
        x = self.noisy(patched(inputs[self.leaf], self.size)) + condition.about.repeat_interleave(condition.draws, 0)
        modulation = self.modulate(self.condition(time_features(t, 64))).unflatten(-1, (6, -1))
        cos, sin = rotary(x.shape[1], self.width // self.heads, device=x.device)
        for block in self.denoiser:
            x = block(x, modulation, cos, sin)
        return {self.leaf: unpatched(self.out(F.rms_norm(x, x.shape[-1:])), self.size, self.horizon).float()}
