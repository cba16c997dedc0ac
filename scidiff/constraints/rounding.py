"""Where rounding ends and a violation begins."""

from __future__ import annotations

import torch
from torch import Tensor

from scidiff.constraints.base import ROUNDING, RowConstraint


def worst(amount: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """The violations of a row as one, for `excess`, without one entry's size hiding the violation of another.

    Args:
        amount: violation of each entry, [N, K] >= 0.
        scale: size of the terms that each is the difference of, [N, K] >= 0.

    Returns:
        The greatest amount, [N], and the scale, [N], at which it counts as rounding just if every entry does; 0 where
        an amount is infinite, which is never rounding.
    """
    tiny = torch.finfo(amount.dtype).tiny
    most = amount.amax(-1)
    ratio = (amount / scale.clamp_min(tiny)).amax(-1)
    return most, torch.where(ratio > 0, most / ratio.clamp_min(tiny), 0)


def kept(constraint: RowConstraint, x: Tensor, found: Tensor) -> Tensor:
    """`found`, except for those rows x that hold already: they stay bit for bit, which makes a projection idempotent.

    Args:
        constraint: what holds or not.
        x: the rows, float64 [N, D].
        found: their projections, float64 [N, D].
    """
    amount, scale = constraint.excess(x)
    return torch.where((amount <= ROUNDING * torch.finfo(x.dtype).eps * scale)[:, None], x, found)
