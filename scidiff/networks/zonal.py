"""A U-Net for vectors on a grid of latitudes and longitudes, which goes around along x and ends at both poles.

The leaf is read and answered with its components one above the other, [B, 1, C H, W], as one field of C H rows. Rows
at the poles are repeated beyond them.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from scidiff.networks.unet import Convolution, UNet
from scidiff.state import Layout, State


class ZonalConvolution(Convolution):
    """3 x 3 points, around along x, repeating the last row along y."""

    def forward(self, x: Tensor) -> Tensor:
        x = F.pad(F.pad(x, (1, 1, 0, 0), mode="circular"), (0, 0, 1, 1), mode="replicate")
        return F.conv2d(x, self.weight, self.bias)


class ZonalUNet(UNet):
    """The U-Net on whole rows of such fields; W is a multiple of 2^levels.

    Args:
        leaf: read as [B, kinds, components H, W].
        components: of the vector.
        kinds: how often the field is read (such as plain and filtered).
        maps: static maps [M, H, W].
        widths: channels of each level, multiples of 8.
        blocks: of each level, on the way down.
    """

    def __init__(
        self, *, leaf: str, components: int, kinds: int, maps: Tensor, widths: tuple[int, ...], blocks: int
    ) -> None:
        step = 2 ** len(widths)
        self.rows, self.components = maps.shape[-2], components
        self.spare = -self.rows % step
        super().__init__(
            leaf=leaf,
            inputs=components * kinds,
            outputs=components,
            maps=_extended(maps[None], self.spare)[0],
            widths=widths,
            blocks=blocks,
            convolution=ZonalConvolution,
        )

    def forward(self, inputs: State, t: Tensor, layout: Layout, condition: object = None) -> State:
        """The raw output of the leaf, [B, 1, components H, W]."""
        x = inputs[self.leaf]
        apart = _extended(x.unflatten(2, (self.components, self.rows)).flatten(1, 2), self.spare)
        found = super().forward({self.leaf: apart}, t, layout, condition)[self.leaf]
        return {self.leaf: found[:, :, : self.rows].flatten(1, 2)[:, None]}


def _extended(x: Tensor, rows: int) -> Tensor:
    """Fields [B, C, H, W] with the last row repeated."""
    return torch.cat([x, x[:, :, -1:].expand(-1, -1, rows, -1)], 2)
