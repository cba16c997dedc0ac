r"""A network that forecasts a whole horizon at once: steps in patches, patches as tokens.

    context = encode(series)                       what came before and the calendar: once a series
    output  = forward(noisy horizon, t, context)   once a draw and call, among the few patches of the horizon

The first half moves and scales a base forecast, from which it starts, and the second works in the coordinates that they
make (`coordinates`). The patches are as in PatchTST (Nie et al. 2023).
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

PATCHES = (16, 8)  # of the context and of the horizon, at most
_BOUND = 2.0  # on the logarithm of what a scale is multiplied by

Known = Mapping[str, Tensor]
"""What is known of S series of V variables, L steps before the origin and H after it:

    values [S, L, V]      standardised, 0 where missing
    visible [S, L, V]     1 where not missing, else 0
    calendar [S, H, F]    features of the horizon's times
    base [S, H, V]        the base forecast
    spread [S, H, V]      how far it is usually off, > 0
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
        features: F, of the calendar.
        context: L.
        horizon: H.
        width: features of a token.
        depth: blocks of each half.
        heads: attention heads.
    """

    def __init__(
        self,
        *,
        leaf: str,
        variables: int,
        features: int,
        context: int,
        horizon: int,
        width: int = 64,
        depth: int = 2,
        heads: int = 4,
    ):
        super().__init__()
        self.leaf, self.width, self.heads, self.horizon = leaf, width, heads, horizon
        self.before, self.after = (-(-length // most) for length, most in zip((context, horizon), PATCHES, strict=True))
        self.read = nn.Linear(2 * variables * self.before, width)
        self.ahead = nn.Linear((2 * variables + features) * self.after, width)
        self.encoder = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.guess = nn.Linear(width, 2 * variables * self.after)
        self.project = nn.Linear(width, width)
        self.noisy = nn.Linear(variables * self.after, width)
        self.condition = nn.Sequential(nn.Linear(64, width), nn.SiLU())
        self.modulate = nn.Linear(width, 6 * width)
        self.denoiser = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.out = nn.Linear(width, variables * self.after)
        for layer in (self.guess, self.modulate, self.out):  # the first output is 0, the first guess the base
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def encode(self, known: Known) -> Outlook:
        """What the denoiser is told: once a series."""
        base, spread = known["base"], known["spread"]
        before = torch.cat([known["values"].asinh(), known["visible"]], dim=-1)
        ahead = torch.cat([base.asinh(), spread.log(), known["calendar"]], dim=-1)
        seen = self.read(patched(before, self.before))
        first = seen.shape[1]
        x = torch.cat([seen, self.ahead(patched(ahead, self.after))], dim=1)
        cos, sin = rotary(x.shape[1], self.width // self.heads, device=x.device)
        still = x.new_zeros(len(x), 6, self.width)
        for block in self.encoder:
            x = block(x, still, cos, sin)
        x = F.rms_norm(x, x.shape[-1:])[:, first:]
        shift, wider = unpatched(self.guess(x), self.after, self.horizon).chunk(2, dim=-1)
        scale = spread * torch.exp(_BOUND * torch.tanh(wider / _BOUND))
        return Outlook(location=base + spread * shift, scale=scale, about=self.project(x))

    def forward(self, inputs: State, t: Tensor, layout: Layout, condition: Outlook) -> State:
        """Raw output [S * draws, H, V] of a noisy horizon of this shape at times t [S * draws]."""
        x = self.noisy(patched(inputs[self.leaf], self.after)) + condition.about.repeat_interleave(condition.draws, 0)
        modulation = self.modulate(self.condition(time_features(t, 64))).unflatten(-1, (6, -1))
        cos, sin = rotary(x.shape[1], self.width // self.heads, device=x.device)
        for block in self.denoiser:
            x = block(x, modulation, cos, sin)
        return {self.leaf: unpatched(self.out(F.rms_norm(x, x.shape[-1:])), self.after, self.horizon).float()}
