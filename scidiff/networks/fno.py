r"""A Fourier neural operator for periodic fields: a map of functions, whose weights know no grid.

    v <- v + MLP( sum over axes K_axis v + D v + v ),      (K v)^(k) = R_k v^(k) for |k| <= modes, 0 beyond,

in factorised form, one spectral convolution along each axis (Tran et al. 2023; Li et al. 2021 have one along both), and
with a local differential term (Liu-Schiaffini et al. 2024): a depthwise 3 x 3 kernel without mean over the spacing,
which is a derivative of first order as the grid gets finer. Coefficients are those of the Fourier series, so that a
smooth field gives the same function of it on every grid that holds its waves. Whatever shifts, the answer shifts with.
The time sets a scale and a shift of each block (FiLM), and the answer starts at zero, as in `scidiff.networks.unet`.
"""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from scidiff.networks.transformer import time_features
from scidiff.state import Layout, State

_TIMES = 64  # sines and cosines of a time


class SpectralConvolution(nn.Module):
    """R_k v^(k) along one axis of [B, C, H, W], for waves up to `modes`.

    A truncated transform is a small matrix, which is applied as such: on one core faster than an FFT of all waves.

    Args:
        width: channels.
        modes: waves that pass; a grid that holds fewer passes all but its highest.
        axis: -2 or -1.
    """

    def __init__(self, width: int, modes: int, *, axis: int) -> None:
        super().__init__()
        self.axis, self.modes = axis, modes
        self.weight = nn.Parameter(torch.randn(2, modes + 1, width, width) / (2 * width) ** 0.5)

    def forward(self, x: Tensor) -> Tensor:
        points = x.shape[self.axis]
        count = min(self.modes, (points - 1) // 2) + 1
        real, imaginary = self.weight[:, :count].to(x.dtype)
        rows = torch.cat([torch.cat([real, imaginary], -1), torch.cat([-imaginary, real], -1)], -2)  # [K, 2 C, 2 C]
        cosine, sine = _waves(points, count, like=x)
        x = x.movedim(1, -1) if self.axis == -1 else x.permute(0, 3, 2, 1)  # [B, R, points, C]
        there = torch.cat([cosine, -sine]) / points
        modes = (there @ x).unflatten(-2, (2, count)).permute(3, 0, 1, 2, 4)  # [K, B, R, 2, C]
        passed = (modes.flatten(3).flatten(1, 2) @ rows).unflatten(1, modes.shape[1:3]).unflatten(-1, (2, -1))
        twice = torch.full_like(cosine, 2.0)
        twice[0] = 1
        back = torch.cat([twice * cosine, -twice * sine]).T
        found = back @ passed.permute(1, 2, 3, 0, 4).flatten(2, 3)  # [B, R, points, C]
        return found.movedim(-1, 1) if self.axis == -1 else found.permute(0, 3, 2, 1)


def _waves(points: int, count: int, *, like: Tensor) -> tuple[Tensor, Tensor]:
    """cos and sin of 0 to count - 1 waves on a grid: [count, points] each."""
    turn = torch.outer(torch.arange(count), torch.arange(points)) % points
    angle = (2 * math.pi / points) * turn.to(like.device, torch.float64)
    return angle.cos().to(like.dtype), angle.sin().to(like.dtype)


class Differential(nn.Conv2d):
    """A depthwise 3 x 3 kernel without mean, over the spacing of square cells on a box 2 pi long."""

    def __init__(self, width: int) -> None:
        super().__init__(width, width, 3, groups=width, bias=False)
        nn.init.normal_(self.weight, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        kernel = (self.weight - self.weight.mean((-2, -1), keepdim=True)) * (x.shape[-1] / (2 * math.pi))
        return F.conv2d(F.pad(x, (1, 1, 1, 1), mode="circular"), kernel.to(x.dtype), groups=x.shape[1])


class Block(nn.Module):
    """x + MLP(K h + D h + h), h = film(norm(x))."""

    def __init__(self, width: int, modes: int, level: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(8, width, affine=False)
        self.condition = nn.Linear(level, 2 * width)
        self.along = nn.ModuleList(SpectralConvolution(width, modes, axis=axis) for axis in (-2, -1))
        self.local = Differential(width)
        self.first, self.second = nn.Conv2d(width, 2 * width, 1), nn.Conv2d(2 * width, width, 1)
        for parameter in self.second.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        scale, shift = self.condition(level)[:, :, None, None].chunk(2, dim=1)
        h = self.norm(x) * (1 + scale) + shift
        mixed = h + self.local(h) + sum(along(h) for along in self.along)
        return x + self.second(F.gelu(self.first(mixed)))


class FNO(nn.Module):
    """The operator.

    Args:
        leaf: the leaf that is denoised, read as [B, inputs, H, W].
        inputs: channels read of the leaf.
        outputs: channels of the answer.
        maps: static maps [M, H, W], kept with the weights, which tie them to that grid; None: none.
        width: channels, a multiple of 8.
        depth: blocks.
        modes: waves along an axis that a spectral convolution passes.
    """

    maps: Tensor

    def __init__(
        self,
        *,
        leaf: str,
        inputs: int,
        outputs: int,
        maps: Tensor | None = None,
        width: int = 32,
        depth: int = 6,
        modes: int = 20,
    ) -> None:
        super().__init__()
        self.leaf = leaf
        self.register_buffer("maps", torch.zeros(0, 1, 1) if maps is None else maps.float())
        level = 4 * width
        self.embed = nn.Sequential(nn.Linear(_TIMES, level), nn.SiLU(), nn.Linear(level, level), nn.SiLU())
        self.enter = nn.Conv2d(inputs + len(self.maps), width, 1)
        self.blocks = nn.ModuleList(Block(width, modes, level) for _ in range(depth))
        self.norm = nn.GroupNorm(8, width)
        self.head = nn.Conv2d(width, outputs, 1)
        for parameter in self.head.parameters():
            nn.init.zeros_(parameter)

    def forward(self, inputs: State, t: Tensor, layout: Layout, condition: object = None) -> State:
        """The raw output of the leaf, [B, outputs, H, W]."""
        x = inputs[self.leaf]
        maps = self.maps.to(x.dtype).expand(len(x), *self.maps.shape) if len(self.maps) else x[:, :0]
        level = self.embed(time_features(t, _TIMES).to(x.dtype))
        x = self.enter(torch.cat([x, maps], 1))
        for block in self.blocks:
            x = cast(Block, block)(x, level)
        return {self.leaf: self.head(F.gelu(self.norm(x)))}
