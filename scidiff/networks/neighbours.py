"""What stands before and after each cell of a panel in its own column: the features that interpolation lives on."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

FEATURES = 10
_REACH = (1.5, 8.0)  # time constants of the decays, in steps


@dataclass(frozen=True, kw_only=True)
class Neighbours:
    """Of every cell [S, L, V] of S series, L rows and V variables, the cell itself left out.

    Attributes:
        between: [S, L, V], the line through the nearest known values before and after; the nearest one where there is
            one alone; 0 where there is none.
        fresh: [S, L, V] in [0, 1), how near the nearest one is: 0 where there is none.
        features: [S, L, V, FEATURES], all within about [-3, 3].
    """

    between: Tensor
    fresh: Tensor
    features: Tensor


def neighbours(values: Tensor, visible: Tensor, times: Tensor) -> Neighbours:
    """The known neighbours of every cell.

    Args:
        values: [S, L, V], standardised; anything where not visible.
        visible: [S, L, V] bool, what is known.
        times: [S, L], ascending within a series, in steps.
    """
    values = torch.where(visible, values, 0)
    before, after = _last(visible), _last(visible.flip(1)).flip(1)
    after = torch.where(after >= 0, values.shape[1] - 1 - after, -1)
    left, left_gap = _at(before, values, times)
    right, right_gap = _at(after, values, times)
    has_left, has_right = before >= 0, after >= 0
    weight = right_gap / (left_gap + right_gap).clamp_min(1e-6)
    weight = torch.where(has_left & has_right, weight, has_left.to(values.dtype))
    between = weight * left + (1 - weight) * right * has_right
    count = visible.sum(1, keepdim=True)
    mean = values.sum(1, keepdim=True) / count.clamp_min(1)
    fresh = torch.maximum(torch.exp(-left_gap / _REACH[1]) * has_left, torch.exp(-right_gap / _REACH[1]) * has_right)
    features = [left.asinh(), right.asinh(), between.asinh(), mean.asinh().expand_as(values)]
    features += [torch.exp(-left_gap / reach) * has_left for reach in _REACH]
    features += [torch.exp(-right_gap / reach) * has_right for reach in _REACH]
    features += [torch.log1p(count.to(values.dtype)).expand_as(values) / 2, (has_left & has_right).to(values.dtype)]
    return Neighbours(between=between, fresh=fresh, features=torch.stack(features, dim=-1))


def _last(visible: Tensor) -> Tensor:
    """The number of the last visible row strictly before each row, -1 where there is none: int64 [S, L, V]."""
    rows = torch.arange(visible.shape[1], device=visible.device)[None, :, None]
    last = torch.where(visible, rows, -1).cummax(1).values
    return torch.cat([torch.full_like(last[:, :1], -1), last[:, :-1]], dim=1)


def _at(row: Tensor, values: Tensor, times: Tensor) -> tuple[Tensor, Tensor]:
    """Values of the rows named [S, L, V], and how far off they are; 0 where the row is -1."""
    found = row.clamp_min(0)
    when = times[:, :, None].expand_as(values)
    gap = (when - when.gather(1, found)).abs()
    return values.gather(1, found) * (row >= 0), gap * (row >= 0)
