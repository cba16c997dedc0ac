"""A bidirectional transformer over sequences of classes.

Pre-normalised blocks whose shift, scale and gate are set by one vector a sample (adaptive layer norm, Peebles & Xie
2023), with the projection shared by all blocks and a learned offset each (adaLN-single, Chen et al. 2023); rotary
positions (Su et al. 2021); normalised queries and keys (Henry et al. 2020); squared-ReLU feed-forward (So et al. 2021).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from scidiff.state import Layout, State


def time_features(t: Tensor, width: int) -> Tensor:
    """Sines and cosines of a time in [0, 1]: [B] -> [B, width], periods from 1/1000 to 10, geometric."""
    periods = torch.exp(
        torch.linspace(math.log(1e-3), math.log(10.0), width // 2, device=t.device, dtype=torch.float32)
    )
    angle = 2 * math.pi * t.float()[:, None] / periods
    return torch.cat([angle.sin(), angle.cos()], dim=-1)


def rotary(length: int, width: int, *, device: torch.device) -> tuple[Tensor, Tensor]:
    """Cosines and sines of rotary positions, [length, width / 2] each."""
    rates = 1000.0 ** (-torch.arange(0, width, 2, device=device, dtype=torch.float32) / width)
    angle = torch.arange(length, device=device, dtype=torch.float32)[:, None] * rates
    return angle.cos(), angle.sin()


def rotary_at(times: Tensor, width: int, periods: tuple[float, float]) -> tuple[Tensor, Tensor]:
    """Cosines and sines of rotary times [..., L]: [..., L, width / 2] each, periods geometric between two."""
    first, last = (math.log(period) for period in periods)
    spread = torch.linspace(first, last, width // 2, device=times.device, dtype=torch.float32)
    rates = 2 * math.pi * torch.exp(-spread)
    angle = times.float()[..., None] * rates
    return angle.cos(), angle.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the two halves of the last axis of x [..., L, width] into each other by the position's angles."""
    a, b = x.chunk(2, dim=-1)
    cos, sin = cos.to(x.dtype), sin.to(x.dtype)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1)


class Block(nn.Module):
    """Attention and feed-forward with modulated norms: [B, L, width] -> [B, L, width]."""

    def __init__(self, width: int, heads: int, *, ratio: int = 4):
        super().__init__()
        self.heads = heads
        self.attend_in = nn.Linear(width, 3 * width, bias=False)
        self.attend_out = nn.Linear(width, width, bias=False)
        self.feed_in = nn.Linear(width, ratio * width, bias=False)
        self.feed_out = nn.Linear(ratio * width, width, bias=False)
        self.offset = nn.Parameter(torch.zeros(6, width))
        for layer in (self.attend_out, self.feed_out):
            nn.init.zeros_(layer.weight)

    def attention(self, h: Tensor, cos: Tensor, sin: Tensor, mask: Tensor | None) -> Tensor:
        q, k, v = self.attend_in(h).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        q = rotate(F.rms_norm(q, q.shape[-1:]), cos, sin)
        k = rotate(F.rms_norm(k, k.shape[-1:]), cos, sin)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.attend_out(mixed.transpose(1, 2).flatten(2))

    def feed(self, h: Tensor) -> Tensor:
        return self.feed_out(F.relu(self.feed_in(h)).square())

    def forward(self, x: Tensor, modulation: Tensor, cos: Tensor, sin: Tensor, mask: Tensor | None = None) -> Tensor:
        """`mask` bool, broadcastable to [B, heads, L, L]: which positions each one looks at."""
        shift_a, scale_a, gate_a, shift_f, scale_f, gate_f = (modulation + self.offset).unsqueeze(2).unbind(1)
        h = F.rms_norm(x, x.shape[-1:]) * (1 + scale_a) + shift_a
        x = x + (1 + gate_a) * self.attention(h, cos, sin, mask)
        h = F.rms_norm(x, x.shape[-1:]) * (1 + scale_f) + shift_f
        return x + (1 + gate_f) * self.feed(h)


class SequenceTransformer(nn.Module):
    """Class logits of every position of a sequence; the length is an input as well.

    Args:
        leaf: the leaf read and predicted.
        classes: K, the number of classes predicted; inputs may hold one class more, the mask.
        width: features of a position, a multiple of 2 * heads.
        depth: number of blocks.
        heads: attention heads.
        longest: the greatest length L.
        told: F, how many numbers a condition has; one of zeros is the same as none.
    """

    def __init__(
        self,
        *,
        leaf: str,
        classes: int,
        width: int = 256,
        depth: int = 6,
        heads: int = 4,
        longest: int = 32,
        told: int = 0,
    ):
        super().__init__()
        self.leaf, self.classes, self.width, self.heads = leaf, classes, width, heads
        self.embed = nn.Embedding(classes + 1, width)
        self.length = nn.Embedding(longest + 1, width)
        self.condition = nn.Sequential(nn.Linear(64, width), nn.SiLU(), nn.Linear(width, width))
        self.modulate = nn.Linear(width, 6 * width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.bias = nn.Parameter(torch.zeros(classes))
        nn.init.normal_(self.embed.weight, std=width**-0.5)
        nn.init.zeros_(self.length.weight)
        nn.init.zeros_(self.modulate.weight)
        nn.init.zeros_(self.modulate.bias)
        if told:
            hidden, out = nn.Linear(told, width, bias=False), nn.Linear(width, width, bias=False)
            nn.init.zeros_(out.weight)
            self.told = nn.Sequential(hidden, nn.SiLU(), out)

    def forward(self, inputs: State, t: Tensor, layout: Layout, condition: Tensor | None = None) -> State:
        """Logits [B, L, K] from classes [B, L] in [0, K], times [B] and maybe a condition [B, F]."""
        classes = inputs[self.leaf]
        length = classes.shape[1]
        cos, sin = rotary(length, self.width // self.heads, device=classes.device)
        x = F.rms_norm(self.embed(classes), (self.width,))
        about = self.condition(time_features(t, 64)) + self.length.weight[length]
        if condition is not None:
            about = about + self.told(condition)
        modulation = self.modulate(F.silu(about)).unflatten(-1, (6, self.width))
        for block in self.blocks:
            x = block(x, modulation, cos, sin)
        x = F.rms_norm(x, (self.width,))
        return {self.leaf: F.linear(x, self.embed.weight[:-1], self.bias)}
