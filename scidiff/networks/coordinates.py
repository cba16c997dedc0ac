r"""Coordinates in which the unknown cells of every series are about alike: a few steps take noise to data.

    x = location + scale (y + y^3 / 6)

The cubic tail makes outliers tame.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Coordinates:
    """What a denoiser of panels is told about S series, each drawn `draws` times: sample b is of series b // draws.

    Attributes:
        location, scale: [S, L, V], the first guess of each cell asked for; 0 and 1 elsewhere.
        draws: samples a series.
    """

    location: Tensor
    scale: Tensor
    draws: int = 1

    def repeat(self, draws: int) -> Self:
        """The same for so many draws of each series; nothing is copied."""
        return replace(self, draws=draws)

    def standardise(self, x: Tensor) -> Tensor:
        """y, the one real root of y + y^3 / 6 = (x - location) / scale: [S * draws, L, V]."""
        r = (x - self._each(self.location)) / self._each(self.scale)
        return 8**0.5 * torch.sinh(torch.asinh(r * (3 / 8**0.5)) / 3)

    def restore(self, y: Tensor) -> Tensor:
        """x = location + scale (y + y^3 / 6): [S * draws, L, V]."""
        return self._each(self.location) + self._each(self.scale) * (y + y**3 / 6)

    def _each(self, x: Tensor) -> Tensor:
        return x.repeat_interleave(self.draws, 0) if self.draws > 1 else x
