"""What is being generated, and which sample owns which part of it.

A state is a dictionary of tensors, one per *leaf*. The first axis of a leaf counts *rows*: one row a sample in a dense
batch (`{"value": [B, C, L]}`), one row a node or an edge in a ragged batch of graphs (`{"pos": [N, 3], "bond": [E]}`).
`Rows` says which sample owns each row, so that dense and ragged leaves are handled by the same code.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

State = dict[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class Rows:
    """The rows of one leaf.

    Attributes:
        batch: number of samples B.
        shape: shape of one row, `()` for one class or number a row.
        owner: [N] int64, the sample (place in the batch) that owns each row, ascending.
        local: [N] int64, the number of each row within its sample.
        mask: [N, *shape] bool or None: which elements exist. Elements outside the mask count for nothing.
        single: exactly one row a sample (a dense batch).
    """

    batch: int
    shape: tuple[int, ...]
    owner: Tensor
    local: Tensor
    mask: Tensor | None = None
    single: bool = False

    def per_row(self, values: Tensor, *, ndim: int | None = None) -> Tensor:
        """Spread one value a sample over the rows: [B] -> [N, 1, ..., 1], with `ndim` axes (the leaf's by default)."""
        ndim = 1 + len(self.shape) if ndim is None else ndim
        spread = values if self.single else values[self.owner]
        return spread.reshape(-1, *([1] * (ndim - 1)))

    def sum(self, x: Tensor) -> Tensor:
        """Sum x [N, *shape] over the existing elements of each sample: [B]."""
        if self.mask is not None:
            x = torch.where(self.mask, x, 0)
        x = x.reshape(x.shape[0], -1).sum(-1)
        if self.single:
            return x
        return torch.zeros(self.batch, dtype=x.dtype, device=x.device).index_add(0, self.owner, x)

    def mean(self, x: Tensor) -> Tensor:
        """Mean of x [N, *shape] over the existing elements of each sample: [B]; 0 for a sample without any."""
        return self.sum(x) / self.sum(torch.ones_like(x)).clamp_min(1)

    def inherit(self, x: Tensor, *, ancestors: Tensor) -> Tensor:
        """Every sample's rows replaced by those of its ancestor, a sample with as many rows: [N, ...] -> [N, ...].

        Args:
            x: one tensor of the leaf.
            ancestors: [B] int64, places in the batch.

        Raises:
            RuntimeError: an ancestor has another number of rows (on accelerators, when the device gets there).
        """
        if self.single:
            return x[ancestors]
        places = torch.arange(self.batch, device=self.owner.device)
        first = torch.searchsorted(self.owner, places)
        count = torch.searchsorted(self.owner, places, right=True) - first
        torch._assert_async((count == count[ancestors]).all(), "expected ancestors with as many rows")
        return x[first[ancestors[self.owner]] + self.local]

    def rank(self, x: Tensor) -> Tensor:
        """Place of each element within its sample by ascending x, ties in the order they stand: int64 [N, *shape]."""
        if self.single:
            return x.flatten(1).argsort(dim=-1, stable=True).argsort(dim=-1).reshape(x.shape)
        owner = self.owner.repeat_interleave(math.prod(x.shape[1:]))
        order = x.flatten().argsort(stable=True)
        order = order[owner[order].argsort(stable=True)]
        places = torch.arange(len(order), device=x.device) - torch.searchsorted(owner, owner)
        return torch.empty_like(places).scatter(0, order, places).reshape(x.shape)


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The rows of every leaf of a batch of B samples."""

    batch: int
    leaves: Mapping[str, Rows]

    @classmethod
    def dense(
        cls,
        batch: int,
        shapes: Mapping[str, tuple[int, ...]],
        *,
        masks: Mapping[str, Tensor] | None = None,
        device: torch.device | str | None = None,
    ) -> Layout:
        """One row a sample: leaf `name` is [B, *shapes[name]]."""
        owner = torch.arange(batch, device=device)
        local = torch.zeros_like(owner)
        masks = masks or {}
        return cls(
            batch=batch,
            leaves={
                name: Rows(batch=batch, shape=tuple(shape), owner=owner, local=local, mask=masks.get(name), single=True)
                for name, shape in shapes.items()
            },
        )

    @classmethod
    def ragged(cls, counts: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]]) -> Layout:
        """`counts[name][b]` rows of shape `shapes[name]` for sample b: leaf `name` is [sum(counts[name]), *shape]."""
        leaves = {}
        for name, count in counts.items():
            owner = torch.repeat_interleave(torch.arange(len(count), device=count.device), count)
            first = torch.cumsum(count, 0) - count
            local = torch.arange(len(owner), device=count.device) - first[owner]
            leaves[name] = Rows(batch=len(count), shape=tuple(shapes[name]), owner=owner, local=local)
        sizes = {rows.batch for rows in leaves.values()}
        if len(sizes) != 1:
            raise ValueError(f"expected the same number of samples in every leaf, got {sorted(sizes)}")
        return cls(batch=sizes.pop(), leaves=leaves)

    def rows(self, leaf: str) -> Rows:
        """The rows of one leaf; KeyError names the leaves there are."""
        if leaf not in self.leaves:
            raise KeyError(f"expected one of the leaves {sorted(self.leaves)}, got {leaf!r}")
        return self.leaves[leaf]
