"""Sequences that never fall, or never rise."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass, field

import torch
from torch import Tensor

from scidiff.constraints.base import RowConstraint
from scidiff.constraints.dense import nearest_dense
from scidiff.constraints.polyhedron import Polyhedron
from scidiff.constraints.rounding import kept, worst


@dataclass(frozen=True, kw_only=True)
class Monotone(RowConstraint):
    """sign * (x_{l+1} - x_l) >= gap along one dimension of each row; made by `increasing` or `decreasing`.

    Attributes:
        leaf: the leaf.
        sign: 1 if the sequence rises, -1 if it falls.
        gap: the least step from one entry to the next, in the leaf's units, >= 0; at 0 equal neighbours are allowed.
        shape: shape of a row; None: the row, flattened, is one sequence.
        dim: the dimension of that shape to follow; all other dimensions hold sequences of their own.
    """

    leaf: str
    sign: int
    gap: float = 0.0
    shape: tuple[int, ...] | None = None
    dim: int = -1
    _coarse: float = field(init=False, repr=False, default=0.0)  # the gap in 24 bits

    def __post_init__(self) -> None:
        if self.sign not in (1, -1):
            raise ValueError(f"expected a sign of 1 or -1, got {self.sign}")
        if not (self.gap >= 0 and math.isfinite(self.gap)):
            raise ValueError(f"expected a finite gap >= 0, got {self.gap}")
        axes = 1 if self.shape is None else len(self.shape)
        if not -axes <= self.dim < axes:
            raise ValueError(f"expected a dim of the row's shape {self.shape}, got {self.dim}")
        object.__setattr__(self, "_coarse", struct.unpack("f", struct.pack("f", self.gap))[0])

    @classmethod
    def increasing(
        cls, leaf: str, *, gap: float = 0.0, shape: tuple[int, ...] | None = None, dim: int = -1
    ) -> Monotone:
        """x_{l+1} >= x_l + gap."""
        return cls(leaf=leaf, sign=1, gap=gap, shape=shape, dim=dim)

    @classmethod
    def decreasing(
        cls, leaf: str, *, gap: float = 0.0, shape: tuple[int, ...] | None = None, dim: int = -1
    ) -> Monotone:
        """x_{l+1} <= x_l - gap."""
        return cls(leaf=leaf, sign=-1, gap=gap, shape=shape, dim=dim)

    def _lines(self, x: Tensor) -> Tensor:
        """The sequences of rows [N, D]: [N, ..., L]."""
        shape = (x.shape[-1],) if self.shape is None else self.shape
        if math.prod(shape) != x.shape[-1]:
            raise ValueError(f"expected rows of shape {shape} in {self.leaf!r}, got {x.shape[-1]} numbers")
        return x.unflatten(-1, shape).movedim(self.dim - (self.dim >= 0) * len(shape), -1)

    def _rows(self, lines: Tensor) -> Tensor:
        """The inverse of `_lines`."""
        axes = lines.ndim - 1
        return lines.movedim(-1, self.dim - (self.dim >= 0) * axes).flatten(1)

    def nearest(self, x: Tensor, metric: Tensor | None) -> Tensor:
        if metric is not None and metric.ndim == 2:
            return kept(self, x, nearest_dense(self, x, metric))
        lines = self.sign * self._lines(x)
        weight = lines.new_ones(()) if metric is None else 1 / self._lines(metric[None])
        place = torch.arange(lines.shape[-1], dtype=x.dtype, device=x.device)
        # two parts that 53 bits hold without rounding, so that y + place * gap is off by the rounding of the sum only
        coarse, fine = place * self._coarse, place * (self.gap - self._coarse)
        y = isotonic(lines - coarse - fine, weight.expand_as(lines))
        return kept(self, x, self._rows(self.sign * (y + coarse + fine)))

    def excess(self, x: Tensor) -> tuple[Tensor, Tensor]:
        lines = self.sign * self._lines(x)
        before, after = lines[..., :-1], lines[..., 1:]
        # a first entry without any violation, for sequences of one
        amount = torch.nn.functional.pad((before + self.gap - after).clamp_min(0), (1, 0))
        scale = torch.nn.functional.pad(before.abs() + after.abs() + self.gap, (1, 0))
        return worst(amount.flatten(1) + 0 * x.sum(-1, keepdim=True), scale.flatten(1))

    def polyhedron(self, size: int) -> Polyhedron:
        place = self._lines(torch.arange(size)[None])
        one = torch.eye(size, dtype=torch.float64)
        below = self.sign * (one[place[..., :-1].flatten()] - one[place[..., 1:].flatten()])
        return Polyhedron.of(size, below=below, bound=below.new_full(below.shape[:1], -self.gap))


def isotonic(y: Tensor, weight: Tensor) -> Tensor:
    r"""The non-decreasing sequences nearest to y in sum_l weight_l (x_l - y_l)^2: [..., L] -> [..., L].

    Pooling adjacent violators (Ayer et al., "An empirical distribution function for sampling with incomplete
    information", 1955) gives the same answer in whatever order it pools, so halves are solved first and then joined,
    all pairs of a size at once: log2(L) joins of log2(L) steps each.
    """
    length = y.shape[-1]
    full = 1 << (length - 1).bit_length()
    top = y.amax(-1, keepdim=True).expand(*y.shape[:-1], full - length)  # of no weight, and never a violator
    y, weight = torch.cat([y, top], -1), torch.nn.functional.pad(weight, (0, full - length))
    size = 1
    while size < full:
        left, right = y.unflatten(-1, (-1, 2, size)).unbind(-2)
        weights = weight.unflatten(-1, (-1, 2, size)).unbind(-2)
        y = torch.stack(_join(left, right, *weights), -2).flatten(-3)
        size *= 2
    return y[..., :length]


def _join(left: Tensor, right: Tensor, weight_left: Tensor, weight_right: Tensor) -> tuple[Tensor, Tensor]:
    r"""The solution for two non-decreasing sequences, [..., m] each, one after the other.

    One block is pooled around the joint, from what lies above its level v on the left to what lies below on the right:

        sum_left weight (left - v)_+ = sum_right weight (v - right)_+

    The difference of the sides falls in v and is linear between entries; bisection finds between which two it is 0.
    """
    knots = torch.cat([left, right], -1).sort(-1).values
    first = torch.zeros_like(left[..., :1], dtype=torch.int64)
    last = first + knots.shape[-1] - 1
    for _ in range((knots.shape[-1] - 1).bit_length()):
        middle = (first + last) // 2
        v = knots.gather(-1, middle)
        surplus = weight_left * (left - v).clamp_min(0) - weight_right * (v - right).clamp_min(0)
        falls_later = surplus.sum(-1, keepdim=True) >= 0
        first, last = torch.where(falls_later, middle, first), torch.where(falls_later, last, middle)
    low, high = knots.gather(-1, first), knots.gather(-1, last)
    in_left, in_right = weight_left * (left >= high), weight_right * (right <= low)
    total = (in_left + in_right).sum(-1, keepdim=True).clamp_min(torch.finfo(left.dtype).tiny)
    mean = (in_left * left + in_right * right).sum(-1, keepdim=True) / total
    level = torch.minimum(torch.maximum(mean, low), high)
    level = torch.where(left[..., -1:] <= right[..., :1], left[..., -1:], level)
    return torch.minimum(left, level), torch.maximum(right, level)
