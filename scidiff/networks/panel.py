r"""A network over panels: rows that share a time, columns that are variables, most cells empty.

Two halves, so that what is known is read once a series and not once a draw and step:

    context = encode(series)                       attention among known cells; those that are asked for look at them
    output  = forward(noisy cells, t, context)     attention among rows, which the noisy cells of a row are summed into;
                                                   each cell looks at the noisy ones of its own variable nearby

The first half also gives a first guess of every cell, a location and a scale, and the second half works in the
coordinates that they make.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from scidiff.networks.coordinates import Coordinates
from scidiff.networks.neighbours import FEATURES, neighbours
from scidiff.networks.transformer import Block, rotary_at, rotate, time_features
from scidiff.state import Layout, State

PERIODS = (2.0, 400.0)  # of the rotary times, in steps
MESSAGES = 2  # numbers that a row tells each of its cells
REACH = 3  # rows before and after it in which a cell sees the noisy values of its own variable

Series = Mapping[str, Tensor]
"""S series of L rows and V variables, as the encoder reads them:

    values [S, L, V]       standardised; read where visible
    visible [S, L, V]      bool, what is known
    times [S, L]           in steps, ascending
    rows [S, L]            bool, which rows there are
    static [S, F, 2]       value (0 if unknown) and whether it is known
    cells [S, N]           int64 l V + v: first those that are visible, then those that are asked for, then padding
    known [S, M]           bool, which of the first M cells are visible
    asked [S, N]           bool, which cells are asked for
"""


@dataclass(frozen=True, kw_only=True)
class Context(Coordinates):
    """What the denoiser is told about S series, beside the first guess of their cells.

    Attributes:
        send: [S, L, V, W], how a cell's noisy value adds to its row.
        receive: [S, L, V, MESSAGES, W], what a cell reads off its row.
        hidden, out: [S, L, V, H], the cell's own offset and read-out.
        asked: [S, L, V], 1 for the cells that are asked for, else 0: what is noisy elsewhere is nobody's business.
        about: [S, L, W], what the cells of a row have in common.
        times: [S, L], in steps.
        rows: [S, L] bool, which rows there are.
    """

    send: Tensor
    receive: Tensor
    hidden: Tensor
    out: Tensor
    asked: Tensor
    about: Tensor
    times: Tensor
    rows: Tensor


class LookUp(nn.Module):
    """Attention of all tokens to the first M of them, and a feed-forward layer: [S, N, width] -> [S, N, width]."""

    def __init__(self, width: int, heads: int, *, ratio: int = 3):
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width, bias=False)
        self.memory = nn.Linear(width, 2 * width, bias=False)
        self.attend_out = nn.Linear(width, width, bias=False)
        self.feed_in = nn.Linear(width, ratio * width, bias=False)
        self.feed_out = nn.Linear(ratio * width, width, bias=False)
        for layer in (self.attend_out, self.feed_out):
            nn.init.zeros_(layer.weight)

    def forward(self, x: Tensor, known: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """`known` [S, M] bool: which of the first M tokens are looked at."""
        count = known.shape[1]
        h = F.rms_norm(x, x.shape[-1:])
        q = self.query(h).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        k, v = self.memory(h[:, :count]).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        q = rotate(F.rms_norm(q, q.shape[-1:]), cos, sin)
        k = rotate(F.rms_norm(k, k.shape[-1:]), cos[:, :, :count], sin[:, :, :count])
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=known[:, None, None, :])
        x = x + self.attend_out(mixed.transpose(1, 2).flatten(2))
        h = F.rms_norm(x, x.shape[-1:])
        return x + self.feed_out(F.relu(self.feed_in(h)).square())


class RowBlock(Block):
    """A block that adds normalised branches, each times a learned gate that begins at 0: rows keep their scale.

    Nothing else would hold the branches small, since what reads the rows normalises them.
    """

    def __init__(self, width: int, heads: int):
        super().__init__(width, heads)
        for layer in (self.attend_out, self.feed_out):
            layer.reset_parameters()

    def forward(self, x: Tensor, modulation: Tensor, cos: Tensor, sin: Tensor, mask: Tensor | None = None) -> Tensor:
        shift_a, scale_a, gate_a, shift_f, scale_f, gate_f = (modulation + self.offset).unsqueeze(2).unbind(1)
        h = self.attention(F.rms_norm(x, x.shape[-1:]) * (1 + scale_a) + shift_a, cos, sin, mask)
        x = x + gate_a * F.rms_norm(h, h.shape[-1:])
        h = self.feed(F.rms_norm(x, x.shape[-1:]) * (1 + scale_f) + shift_f)
        return x + gate_f * F.rms_norm(h, h.shape[-1:])


class PanelEncoder(nn.Module):
    """Features of cells, and a first guess of them, by what is known of others.

    Args:
        variables: V.
        static: F, the number of static covariates.
        width: features of a token.
        depth: number of layers.
        heads: attention heads.
        units: of each variable's guess: of smooth ones the line between known neighbours says more than little trained
            weights do.
    """

    def __init__(
        self,
        *,
        variables: int,
        static: int,
        width: int,
        depth: int,
        heads: int,
        units: Sequence[float] = (),
    ):
        super().__init__()
        self.width, self.heads = width, heads
        self.variable = nn.Embedding(variables, width)
        self.value = nn.Linear(2 + FEATURES, width)
        self.row = nn.Linear(2 * variables, width, bias=False)
        self.static = nn.Linear(2 * static, width)
        self.layers = nn.ModuleList(LookUp(width, heads) for _ in range(depth))
        self.guess = nn.Linear(width, 2)
        self.unit: Tensor
        self.register_buffer("unit", torch.tensor(units or (1.0,) * variables), persistent=False)
        nn.init.normal_(self.variable.weight, std=0.5)
        nn.init.zeros_(self.guess.weight)
        nn.init.zeros_(self.guess.bias)

    def forward(self, series: Series) -> tuple[Tensor, Tensor, Tensor]:
        """Features [S, N, width], locations [S, N] and scales [S, N] of the cells."""
        values, visible, times, cells = (series[name] for name in ("values", "visible", "times", "cells"))
        around = neighbours(values, visible, times)
        seen = torch.where(visible, values, 0)
        inputs = torch.cat([seen.asinh()[..., None], visible[..., None].to(values.dtype), around.features], dim=-1)
        x = self.value(_pick(inputs, cells)) + self.variable(cells % values.shape[2])
        line = torch.where(visible, seen, around.between).asinh()
        row = self.row(torch.cat([line, torch.where(visible, 1, around.fresh)], dim=-1))
        x = x + row.gather(1, (cells // values.shape[2])[..., None].expand(-1, -1, self.width))
        x = torch.cat([self.static(series["static"].flatten(1))[:, None], x], dim=1)
        middle = (times * series["rows"]).sum(1, keepdim=True) / series["rows"].sum(1, keepdim=True)
        when = torch.cat([middle, times.gather(1, cells // values.shape[2])], dim=1)
        cos, sin = rotary_at(when[:, None], self.width // self.heads, PERIODS)
        known = F.pad(series["known"], (1, 0), value=True)  # the first token is the series itself
        for layer in self.layers:
            x = layer(x, known, cos, sin)
        x = F.rms_norm(x[:, 1:], x.shape[-1:])
        shift, spread = self.guess(x).float().unbind(-1)
        between = _pick(around.between[..., None], cells)[..., 0]
        unit = self.unit[cells % values.shape[2]]
        return x, between + unit * shift, unit * (1e-3 + F.softplus(spread - 1))


class PanelNetwork(nn.Module):
    """Encoder and denoiser.

    Args:
        leaf: the leaf that is denoised, [S * draws, L, V].
        variables: V.
        static: F.
        width: of the encoder.
        depth: of the encoder.
        heads: attention heads, of both halves.
        row_width: features of a row in the denoiser.
        row_depth: its blocks.
        exchange: W, the size of what a cell and its row tell each other.
        hidden: H, of the read-out of each cell.
        units: of the encoder.
    """

    def __init__(
        self,
        *,
        leaf: str,
        variables: int,
        static: int = 0,
        width: int = 128,
        depth: int = 5,
        heads: int = 4,
        row_width: int = 128,
        row_depth: int = 2,
        exchange: int = 64,
        hidden: int = 32,
        units: Sequence[float] = (),
    ):
        super().__init__()
        self.leaf, self.heads, self.row_width = leaf, heads, row_width
        self.encoder = PanelEncoder(
            variables=variables, static=static, width=width, depth=depth, heads=heads, units=units
        )
        self.sizes = [exchange, MESSAGES * exchange, hidden, hidden, exchange]
        self.project = nn.Linear(width, sum(self.sizes))
        self.into_row, self.out_of_row = nn.Linear(exchange, row_width), nn.Linear(row_width, exchange)
        self.condition = nn.Sequential(nn.Linear(64, row_width), nn.SiLU())
        self.modulate = nn.Linear(row_width, 6 * row_width)
        self.blocks = nn.ModuleList(RowBlock(row_width, heads) for _ in range(row_depth))
        self.mix = nn.Linear(1 + 2 * REACH + MESSAGES, hidden)
        self.level = nn.Linear(row_width, 2 * hidden)
        for layer in (self.modulate, self.level):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        with torch.no_grad():  # the first output is 0
            _, _, _, out, _ = self.project.weight.split(self.sizes)
            out.zero_()
            self.project.bias.zero_()

    def encode(self, series: Series) -> Context:
        """What the denoiser is told: once a series."""
        features, location, scale = self.encoder(series)
        here, cells, grid = series["asked"], series["cells"], series["visible"].shape
        parts = self.project(features) * here[..., None]
        spread = _place(parts, cells, here, grid)
        send, receive, hidden, out, about = spread.split(self.sizes, dim=-1)
        wanted = _place(here[..., None].to(parts.dtype), cells, here, grid)
        return Context(
            location=_place((location * here)[..., None], cells, here, grid)[..., 0],
            scale=1 + _place(((scale - 1) * here)[..., None], cells, here, grid)[..., 0],
            send=send,
            receive=receive.unflatten(-1, (MESSAGES, -1)),
            hidden=hidden,
            out=out,
            asked=wanted[..., 0],
            about=about.sum(2) / wanted.sum(2).clamp_min(1).sqrt(),
            times=series["times"],
            rows=series["rows"],
        )

    def forward(self, inputs: State, t: Tensor, layout: Layout, condition: Context) -> State:
        """Raw output [S * draws, L, V] of the noisy cells [S * draws, L, V] at times t [S * draws]."""
        context = condition
        x = inputs[self.leaf].unflatten(0, (-1, context.draws)) * context.asked[:, None]
        level = self.condition(time_features(t, 64))
        told = torch.einsum("sklv,slvw->sklw", x, context.send.to(x.dtype))
        told = told / (context.send.shape[2] ** 0.5) + context.about[:, None].to(x.dtype)
        rows = self.into_row(told).flatten(0, 1)
        modulation = self.modulate(level).unflatten(-1, (6, -1))
        times = context.times.repeat_interleave(context.draws, 0)
        cos, sin = rotary_at(times[:, None], self.row_width // self.heads, PERIODS)
        mask = context.rows.repeat_interleave(context.draws, 0)[:, None, None, :]
        for block in self.blocks:
            rows = block(rows, modulation, cos, sin, mask)
        back = self.out_of_row(F.rms_norm(rows, rows.shape[-1:])).unflatten(0, (-1, context.draws))
        heard = torch.einsum("sklw,slvmw->sklvm", back, context.receive.to(back.dtype))
        mixed = self.mix(torch.cat([_around(x).to(heard.dtype), heard], dim=-1))
        shift, gain = self.level(level).unflatten(0, (-1, context.draws))[:, :, None, None].chunk(2, dim=-1)
        hidden = F.silu(mixed * (1 + gain) + shift + context.hidden[:, None])
        return {self.leaf: (hidden * context.out[:, None]).sum(-1).float().flatten(0, 1)}


def _around(x: Tensor) -> Tensor:
    """Each cell and `REACH` rows before and after it, 0 beyond the ends: [..., L, V] -> [..., L, V, 1 + 2 REACH]."""
    return F.pad(x, (0, 0, REACH, REACH)).unfold(-2, 1 + 2 * REACH, 1)


def _pick(x: Tensor, cells: Tensor) -> Tensor:
    """The features of some cells: x [S, L, V, C], cells [S, N] -> [S, N, C]."""
    return x.flatten(1, 2).gather(1, cells[..., None].expand(-1, -1, x.shape[-1]))


def _place(x: Tensor, cells: Tensor, here: Tensor, grid: torch.Size) -> Tensor:
    """Features of some cells put where they belong, 0 elsewhere: x [S, N, C] -> [S, L, V, C]."""
    size = grid[1] * grid[2]
    placed = x.new_zeros(x.shape[0], size + 1, x.shape[-1])  # the last entry takes what is not meant
    where = torch.where(here, cells, size)[..., None].expand_as(x)
    return placed.scatter(1, where, x)[:, :-1].unflatten(1, (grid[1], grid[2]))
