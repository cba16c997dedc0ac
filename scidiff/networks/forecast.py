r"""A network that forecasts a whole horizon at once: a guess step by step, and a denoiser of patches of steps.

    outlook = encode(known)                        what is known of each step: once a series
    output  = forward(noisy horizon, t, outlook)   once a draw and call, among the few patches of the horizon

The first half moves and scales a base forecast, from which it starts. It reads every step of every variable by itself
with the same weights, so that a single series has as many examples as steps; several variables are told apart by a
learned embedding. The second half works in the coordinates that the first makes (`coordinates`), and tells what steps
and variables have in common: a token is a patch of one variable, as in PatchTST (Nie et al. 2023), and all tokens
attend to each other. So the order of the variables says nothing.
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

    recent [S, V, R]     of the last steps before the origin
    ahead [S, V, H, F]   of each step: its calendar, covariates, what stood seasons before
    base [S, H, V]       the base forecast
    spread [S, H, V]     how far it is usually off, > 0
    others [S, V, K, O]  of each of the K series that are attended to, if there are any
"""


@dataclass(frozen=True, kw_only=True)
class Outlook(Coordinates):
    """What the denoiser is told about S series, beside location and scale.

    Attributes:
        about: [S, V patches, width], what is known of each patch of the horizon, variable by variable.
    """

    about: Tensor


def patched(x: Tensor, size: int) -> Tensor:
    """Runs of `size` steps as one token, zeros before the first step: [..., T, C] -> [..., ceil(T / size), size C]."""
    return F.pad(x, (0, 0, -x.shape[-2] % size, 0)).unflatten(-2, (-1, size)).flatten(-2)


class Others(nn.Module):
    """What other series add to what is known of a series: attention to one token of each, none at first.

    Args:
        references: K, told apart by a learned embedding.
        other: O, features of one.
        hidden: width of a token.
        heads: of the attention.
    """

    def __init__(self, references: int, other: int, hidden: int, heads: int):
        super().__init__()
        self.heads = heads
        self.read = nn.Linear(other, hidden)
        self.which = nn.Parameter(0.5 * torch.randn(references, hidden))
        self.ask, self.tell = nn.Linear(hidden, hidden), nn.Linear(hidden, 2 * hidden)
        self.add = nn.Linear(hidden, hidden, bias=False)
        nn.init.zeros_(self.add.weight)

    def forward(self, x: Tensor, others: Tensor) -> Tensor:
        """[S, V, hidden] for series that are known as x [S, V, hidden], beside others [S, V, K, O]."""
        tokens = F.silu(self.read(others) + self.which)
        q = self.ask(F.silu(x)).unflatten(-1, (self.heads, 1, -1))  # [S, V, heads, 1, C]
        k, v = self.tell(tokens).unflatten(-1, (2, self.heads, -1)).permute(3, 0, 1, 4, 2, 5)  # [S, V, heads, K, C]
        return self.add(F.scaled_dot_product_attention(q, k, v).flatten(2))


class ForecastNetwork(nn.Module):
    """Encoder and denoiser.

    Args:
        leaf: the leaf that is denoised, [S * draws, H, V].
        variables: V.
        recent: R, of what came last of a variable.
        features: F, of a step of a variable.
        horizon: H.
        references: K, of other series.
        other: O, of one of them.
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
        references: int = 0,
        other: int = 0,
        hidden: int = 128,
        width: int = 64,
        depth: int = 2,
        heads: int = 4,
    ):
        super().__init__()
        self.leaf, self.variables, self.width, self.heads, self.horizon = leaf, variables, width, heads, horizon
        self.references = references
        self.size = -(-horizon // -(-horizon // PATCH))  # of a patch: as equal as can be
        self.recent = nn.Linear(recent, hidden)
        self.ahead = nn.Linear(2 + features, hidden, bias=False)
        self.mix = nn.Linear(hidden, hidden)
        self.guess = nn.Linear(hidden, 2)
        self.project = nn.Linear(hidden * self.size, width)
        self.noisy = nn.Linear(self.size, width)
        self.condition = nn.Sequential(nn.Linear(64, width), nn.SiLU())
        self.modulate = nn.Linear(width, 6 * width)
        self.denoiser = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.out = nn.Linear(width, self.size)
        for layer in (self.guess, self.modulate, self.out):  # the first output is 0, the first guess the base
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        if references:
            self.others = Others(references, other, hidden, heads)
        if variables > 1:
            self.variable = nn.Parameter(0.5 * torch.randn(variables, hidden))

    def encode(self, known: Known) -> Outlook:
        """What the denoiser is told: once a series."""
        base, spread = known["base"].transpose(1, 2), known["spread"].transpose(1, 2)
        ahead = torch.cat([base.asinh().unsqueeze(3), spread.log().unsqueeze(3), known["ahead"]], dim=3)
        recent = self.recent(known["recent"])
        if self.variables > 1:
            recent = recent + self.variable
        if self.references:
            recent = recent + self.others(recent, known["others"])
        x = F.silu(self.ahead(ahead) + recent.unsqueeze(2))
        x = F.silu(self.mix(x))
        shift, wider = self.guess(x).unbind(-1)
        scale = spread * torch.exp(_BOUND * torch.tanh(wider / _BOUND))
        return Outlook(
            location=(base + spread * shift).transpose(1, 2),
            scale=scale.transpose(1, 2),
            about=self.project(patched(x.detach(), self.size)).flatten(1, 2),
        )

    def forward(self, inputs: State, t: Tensor, layout: Layout, condition: Outlook) -> State:
        """Raw output [S * draws, H, V] of a noisy horizon of this shape at times t [S * draws]."""
        noisy = patched(inputs[self.leaf].transpose(1, 2).unsqueeze(3), self.size)
        x = self.noisy(noisy).flatten(1, 2) + condition.about.repeat_interleave(condition.draws, 0)
        modulation = self.modulate(self.condition(time_features(t, 64))).unflatten(-1, (6, -1))
        angles = rotary(noisy.shape[2], self.width // self.heads, device=x.device)
        cos, sin = (one.repeat(self.variables, 1) for one in angles)
        for block in self.denoiser:
            x = block(x, modulation, cos, sin)
        out = self.out(F.rms_norm(x, x.shape[-1:])).unflatten(1, (self.variables, -1)).flatten(2)
        return {self.leaf: out[:, :, -self.horizon :].transpose(1, 2).float()}
