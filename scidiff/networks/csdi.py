r"""The score network of CSDI (Tashiro et al. 2021): cells as tokens, attention along time, then along variables.

Differences from the paper: channels last; rotary times, so that irregular ones mean something; normalised queries and
keys; the level of noise modulates the norms; and what is known is projected once a series,

    context = encode(series)                     [S, L, V, layers + 1, width]
    output  = forward(noisy cells, t, context)

for all draws and steps. There is no first guess: the coordinates have location 0 and scale 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from scidiff.networks.coordinates import Coordinates
from scidiff.networks.panel import PERIODS, Series
from scidiff.networks.transformer import rotary_at, rotate, time_features
from scidiff.state import Layout, State

_TIMES = 32  # sines and cosines of a time


@dataclass(frozen=True, kw_only=True)
class Side(Coordinates):
    """What is known about S series (CSDI's side information), projected.

    Attributes:
        about: [S, L, V, layers + 1, width], what is added to each cell before the first layer and in each.
        asked: [S, L, V] bool, the cells that are denoised.
        times: [S, L], in steps.
        rows: [S, L] bool, which rows there are.
    """

    about: Tensor
    asked: Tensor
    times: Tensor
    rows: Tensor


class Along(nn.Module):
    """Attention along the third axis of [B, M, N, width], each of the M lines by itself."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.attend_in = nn.Linear(width, 3 * width, bias=False)
        self.attend_out = nn.Linear(width, width, bias=False)
        nn.init.zeros_(self.attend_out.weight)

    def forward(self, x: Tensor, turn: tuple[Tensor, Tensor] | None = None, mask: Tensor | None = None) -> Tensor:
        """`turn`: cosines and sines [B, 1, 1, N, width / heads / 2]; `mask` [B, N] bool, what is looked at."""
        batch, lines = x.shape[:2]
        q, k, v = self.attend_in(x).unflatten(-1, (3, self.heads, -1)).permute(3, 0, 1, 4, 2, 5)
        q, k = F.rms_norm(q, q.shape[-1:]), F.rms_norm(k, k.shape[-1:])
        if turn is not None:
            q, k = rotate(q, *turn), rotate(k, *turn)
        seen = None if mask is None else mask.repeat_interleave(lines, 0)[:, None, None, :]
        mixed = F.scaled_dot_product_attention(q.flatten(0, 1), k.flatten(0, 1), v.flatten(0, 1), attn_mask=seen)
        return self.attend_out(mixed.transpose(1, 2).flatten(2).unflatten(0, (batch, lines)))


class TwoWay(nn.Module):
    """One layer: attention along time, along variables, and a gated unit; the level of noise modulates the norms."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.time, self.variable = Along(width, heads), Along(width, heads)
        self.feed_in = nn.Linear(width, 4 * width, bias=False)
        self.feed_out = nn.Linear(2 * width, width, bias=False)
        self.offset = nn.Parameter(torch.zeros(6, width))
        nn.init.zeros_(self.feed_out.weight)

    def forward(self, x: Tensor, about: Tensor, level: Tensor, turn: tuple[Tensor, Tensor], mask: Tensor) -> Tensor:
        """x and about [B, L, V, width]; level [B, 6, width]; mask [B, L] bool."""
        a, b, c, d, e, f = (level + self.offset)[:, :, None, None].unbind(1)
        h = (F.rms_norm(x, x.shape[-1:]) * (1 + b) + a + about).transpose(1, 2)
        x = x + self.time(h, turn, mask).transpose(1, 2)
        x = x + self.variable(F.rms_norm(x, x.shape[-1:]) * (1 + d) + c)
        value, gate = self.feed_in(F.rms_norm(x, x.shape[-1:]) * (1 + f) + e).chunk(2, dim=-1)
        return x + self.feed_out(value * F.silu(gate))


class CSDINetwork(nn.Module):
    """The network of CSDI, channels last.

    Args:
        leaf: the leaf that is denoised, [S * draws, L, V].
        variables: V.
        static: F, the number of static covariates.
        width: features of a cell, a multiple of 2 * heads.
        depth: number of layers.
        heads: attention heads.
    """

    def __init__(self, *, leaf: str, variables: int, static: int = 0, width: int = 64, depth: int = 4, heads: int = 8):
        super().__init__()
        self.leaf, self.width, self.heads, self.depth = leaf, width, heads, depth
        self.embed_variable = nn.Embedding(variables, width)
        self.embed_time = nn.Linear(_TIMES, width)
        self.embed_known = nn.Linear(3, width)
        self.embed_static = nn.Linear(2 * static, width, bias=False)
        self.side_in = nn.Linear(width, 2 * width)
        self.side_out = nn.Linear(2 * width, (depth + 1) * width)
        self.embed_noisy = nn.Linear(1, width, bias=False)
        self.condition = nn.Sequential(nn.Linear(64, width), nn.SiLU())
        self.modulate = nn.Linear(width, 6 * width)
        self.layers = nn.ModuleList(TwoWay(width, heads) for _ in range(depth))
        self.head = nn.Linear(width, 1)
        nn.init.normal_(self.embed_variable.weight, std=0.5)
        for layer in (self.modulate, self.head):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def encode(self, series: Series) -> Side:
        """What the denoiser is told: once a series."""
        values, visible, times = (series[name] for name in ("values", "visible", "times"))
        asked = _dense(series["asked"], series["cells"], visible)
        known = torch.stack([torch.where(visible, values, 0).asinh(), visible.to(values.dtype), asked.to(values.dtype)])
        when = torch.cat(rotary_at(times - times[:, :1], _TIMES, PERIODS), dim=-1)
        x = self.embed_known(known.movedim(0, -1)) + self.embed_variable.weight
        x = x + self.embed_time(when)[:, :, None] + self.embed_static(series["static"].flatten(1))[:, None, None]
        about = self.side_out(F.silu(self.side_in(x))).unflatten(-1, (self.depth + 1, -1))
        return Side(
            location=torch.zeros_like(values),
            scale=torch.ones_like(values),
            about=about,
            asked=asked,
            times=times,
            rows=series["rows"],
        )

    def forward(self, inputs: State, t: Tensor, layout: Layout, condition: Side) -> State:
        """Raw output [S * draws, L, V] of the noisy cells [S * draws, L, V] at times t [S * draws]; 0 if not asked."""
        draws, asked = condition.draws, _each(condition.asked, condition.draws)
        noisy = torch.where(asked, inputs[self.leaf], 0)
        about = _each(condition.about, draws).unbind(3)
        level = self.modulate(self.condition(time_features(t, 64))).unflatten(-1, (6, -1))
        cos, sin = rotary_at(condition.times, self.width // self.heads, PERIODS)
        turn = (_each(cos, draws)[:, None, None], _each(sin, draws)[:, None, None])
        mask = _each(condition.rows, draws)
        x = self.embed_noisy(noisy[..., None]) + about[0]
        for layer, side in zip(self.layers, about[1:], strict=True):
            x = layer(x, side, level, turn, mask)
        output = self.head(F.rms_norm(x, x.shape[-1:]))[..., 0].float()
        return {self.leaf: torch.where(asked, output, 0)}


def _each(x: Tensor, draws: int) -> Tensor:
    """One row a sample: [S, ...] -> [S * draws, ...]."""
    return x.repeat_interleave(draws, 0) if draws > 1 else x


def _dense(asked: Tensor, cells: Tensor, visible: Tensor) -> Tensor:
    """Which cells are asked for, of their list [S, N]: bool [S, L, V]."""
    flat = torch.zeros_like(visible, dtype=torch.int64).flatten(1)
    return flat.scatter_add(1, cells, asked.long()).bool().view_as(visible)
