"""A leaf that is no data: what a denoiser hands on to its next call."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from scidiff.noise import Draw
from scidiff.processes.base import Process
from scidiff.state import Rows


@dataclass(frozen=True, kw_only=True)
class CarriedProcess(Process):
    """Zeros at t=1, then whatever the denoiser answers. It has no noise and no loss.

    Attributes:
        dtype: of the leaf.
    """

    dtype: torch.dtype = torch.float32

    def prior(self, rows: Rows, draw: Draw) -> Tensor:
        """Zeros."""
        return torch.zeros(len(rows.owner), *rows.shape, dtype=self.dtype, device=rows.owner.device)

    def corrupt(self, x_0: Tensor, t: Tensor, rows: Rows, draw: Draw) -> Tensor:
        """x_0."""
        return x_0

    def renoise(self, x_s: Tensor, s: Tensor, t: Tensor, rows: Rows, draw: Draw) -> Tensor:
        """x_s."""
        return x_s

    def clean(self, output: Tensor, x_t: Tensor, t: Tensor, rows: Rows) -> Tensor:
        """The output."""
        return output

    def loss(self, clean: Tensor, x_0: Tensor, x_t: Tensor, t: Tensor, rows: Rows) -> Tensor:
        """0."""
        return torch.zeros(rows.batch, device=x_t.device)
