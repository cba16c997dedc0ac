"""A small periodic U-Net for fields: circular convolutions, so that a shifted field gives the shifted answer.

Two by two points become one cell of the first level (and at the end again points); each level halves the cells. The
time sets a scale and a shift of each block (FiLM, Perez et al. 2018), the last convolution of a block starts at zero,
and so does the answer. Static maps (a forcing, a mask, terrain) are read beside the field, and any size that the levels
divide is. So is a context, fields of each sample that it is told: the state a step ago, a guess, another variable.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from scidiff.networks.transformer import time_features
from scidiff.state import Layout, State

_TIMES = 64  # sines and cosines of a time


class Convolution(nn.Conv2d):
    """3 x 3 points, around the box."""

    def __init__(self, inputs: int, outputs: int, *, zero: bool = False) -> None:
        super().__init__(inputs, outputs, 3, padding=1, padding_mode="circular")
        if zero:
            for parameter in self.parameters():
                nn.init.zeros_(parameter)


class WalledConvolution(Convolution):
    """3 x 3 points, zeros beyond the walls, by which a network sees where they are."""

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight, self.bias, padding=1)


class Block(nn.Module):
    """x + conv(act(film(norm(conv(act(norm(x)))))))."""

    def __init__(self, inputs: int, outputs: int, level: int, convolution: type[Convolution] = Convolution) -> None:
        super().__init__()
        self.norm_in, self.norm_out = nn.GroupNorm(8, inputs), nn.GroupNorm(8, outputs, affine=False)
        self.first, self.second = convolution(inputs, outputs), convolution(outputs, outputs, zero=True)
        self.condition = nn.Linear(level, 2 * outputs)
        self.skip = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        scale, shift = self.condition(level)[:, :, None, None].chunk(2, dim=1)
        h = self.first(F.silu(self.norm_in(x)))
        h = self.norm_out(h) * (1 + scale) + shift
        return self.skip(x) + self.second(F.silu(h))


class UNet(nn.Module):
    """The U-Net.

    Args:
        leaf: the leaf that is denoised, read as [B, inputs, H, W]; H and W are multiples of 2^levels.
        inputs: channels read of the leaf.
        outputs: channels of the answer.
        context: channels of the context, which is the condition, [B, context, H, W].
        facts: in place of a context, numbers told of each field in `condition["facts"]`, [B, facts]; all 0 without it.
        maps: static maps [M, H, W], kept with the weights; None: none.
        widths: channels of each level, multiples of 8.
        blocks: of each level, on the way down.
        convolution: of 3 x 3 points, which says how the grid ends.
    """

    maps: Tensor

    def __init__(
        self,
        *,
        leaf: str,
        inputs: int,
        outputs: int,
        context: int = 0,
        facts: int = 0,
        maps: Tensor | None = None,
        widths: tuple[int, ...] = (64, 128, 128),
        blocks: int = 2,
        convolution: type[Convolution] = Convolution,
    ) -> None:
        super().__init__()
        if context and facts:
            raise ValueError(f"expected a context or facts, got {context} channels and {facts} numbers")
        self.leaf, self.context, self.facts = leaf, context, facts
        self.register_buffer("maps", torch.zeros(0, 1, 1) if maps is None else maps.float())
        level, block = 4 * widths[0], partial(Block, level=4 * widths[0], convolution=convolution)
        self.embed = nn.Sequential(nn.Linear(_TIMES + facts, level), nn.SiLU(), nn.Linear(level, level), nn.SiLU())
        self.enter = convolution(4 * (inputs + context + len(self.maps)), widths[0])
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        self.narrow, self.widen = nn.ModuleList(), nn.ModuleList()
        for k, width in enumerate(widths):
            self.narrow.append(nn.Conv2d(widths[k - 1], width, 2, stride=2) if k else nn.Identity())
            self.down.append(nn.ModuleList(block(width, width) for _ in range(blocks)))
            self.up.append(nn.ModuleList(block((1 if j else 2) * width, width) for j in range(blocks)))
            self.widen.append(nn.Conv2d(width, widths[k - 1], 1) if k else nn.Identity())
        self.middle = block(widths[-1], widths[-1])
        self.norm = nn.GroupNorm(8, widths[0])
        self.head = convolution(widths[0], 4 * outputs, zero=True)

    def forward(self, inputs: State, t: Tensor, layout: Layout, condition: object = None) -> State:
        """The raw output of the leaf, [B, outputs, H, W]."""
        x = inputs[self.leaf]
        if self.context:
            x = torch.cat([x, cast(Tensor, condition).to(x.dtype)], 1)
        maps = self.maps.to(x.dtype).expand(len(x), *self.maps.shape) if len(self.maps) else x[:, :0]
        level = self.embed(self._about(t, condition).to(x.dtype))
        x = self.enter(F.pixel_unshuffle(torch.cat([x, maps], 1), 2).contiguous(memory_format=torch.channels_last))
        kept = []
        for narrow, blocks in zip(self.narrow, self.down, strict=True):
            x = narrow(x)
            for block in cast(nn.ModuleList, blocks):
                x = block(x, level)
            kept.append(x)
        x = self.middle(x, level)
        for k in reversed(range(len(kept))):
            x = torch.cat([x, kept[k]], 1)
            for block in cast(nn.ModuleList, self.up[k]):
                x = block(x, level)
            x = F.interpolate(self.widen[k](x), scale_factor=2.0, mode="nearest") if k else x
        return {self.leaf: F.pixel_shuffle(self.head(F.silu(self.norm(x))), 2)}

    def _about(self, t: Tensor, condition: object) -> Tensor:
        """The time, and what is told of each field."""
        about = time_features(t, _TIMES)
        if not self.facts:
            return about
        told = about.new_zeros(len(t), self.facts)
        if condition is not None:
            told = cast(Mapping[str, Tensor], condition)["facts"].to(about)
        return torch.cat([about, told], -1)
