"""Where batches come from: sources addressed by position, so that a position is all there is to save and to resume.

A position counts batches from the start of the run and never ends; epochs follow one another. The order of an epoch is
drawn with keyed noise, so `at(position)` is a pure function.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise
from typing import Protocol

import torch
from torch import Tensor

from scidiff.noise import Noise
from scidiff.state import Layout, Rows, State

Condition = Tensor | Mapping[str, Tensor] | None


@dataclass(frozen=True, kw_only=True)
class Batch:
    """B samples to learn from.

    Attributes:
        x_0: the data, one tensor per leaf.
        layout: who owns which row.
        index: [B] int64 in [0, 2^32), the number of each sample's visit, which keys the noise of its loss. No two
            visits of a run share one.
        condition: what the denoiser is told: a tensor [B, ...], a mapping of such tensors, or None.
    """

    x_0: State
    layout: Layout
    index: Tensor
    condition: Condition = None

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on another device."""

        def move(x: Tensor) -> Tensor:
            return x.to(device, non_blocking=True)

        leaves = {
            name: replace(
                rows,
                owner=move(rows.owner),
                local=move(rows.local),
                mask=None if rows.mask is None else move(rows.mask),
            )
            for name, rows in self.layout.leaves.items()
        }
        return Batch(
            x_0={name: move(x) for name, x in self.x_0.items()},
            layout=Layout(batch=self.layout.batch, leaves=leaves),
            index=move(self.index),
            condition=_each(self.condition, move),
        )

    def shard(self, rank: int, world: int) -> Batch:
        """Every `world`-th sample, from number `rank` on: what one of several processes works on.

        Raises:
            ValueError: there are fewer samples than processes.
        """
        if self.layout.batch < world:
            raise ValueError(f"expected at least one sample for each of {world} processes, got {self.layout.batch}")
        if world == 1:
            return self
        kept = torch.arange(rank, self.layout.batch, world, device=self.index.device)
        place = torch.full((self.layout.batch,), -1, dtype=torch.int64, device=self.index.device)
        place[kept] = torch.arange(len(kept), device=kept.device)
        x_0, leaves = {}, {}
        for name, rows in self.layout.leaves.items():
            chosen = place[rows.owner] >= 0
            x_0[name] = self.x_0[name][chosen]
            leaves[name] = Rows(
                batch=len(kept),
                shape=rows.shape,
                owner=place[rows.owner[chosen]],
                local=rows.local[chosen],
                mask=None if rows.mask is None else rows.mask[chosen],
                single=rows.single,
            )
        return Batch(
            x_0=x_0,
            layout=Layout(batch=len(kept), leaves=leaves),
            index=self.index[kept],
            condition=_each(self.condition, lambda x: x[kept]),
        )


def _each(condition: Condition, change: Callable[[Tensor], Tensor]) -> Condition:
    if condition is None:
        return None
    if isinstance(condition, Tensor):
        return change(condition)
    return {name: change(value) for name, value in condition.items()}


class BatchSource(Protocol):
    """An endless, position-addressed source of batches.

    Attributes:
        samples_per_batch: mean number of samples of a batch. The loss of a step is the sum over its samples divided by
            this constant, so that its expectation is the mean over the *data*, however batches differ in size.
        batches_per_epoch: how many positions see every sample once.
        fingerprint: SHA-256 of the data and of what decides their order; a run is resumed only on the same.
    """

    samples_per_batch: float
    batches_per_epoch: int
    fingerprint: str

    def at(self, position: int) -> Batch:
        """The batch at a position >= 0; a pure function of it."""


def permutation(n: int, *, seed: int, epoch: int, kind: str) -> Tensor:
    """A uniform permutation of n, int64 [n], keyed by (seed, epoch, kind)."""
    rows = Layout.dense(n, {"order": ()}).rows("order")
    key = Noise(seed=seed, index=torch.arange(n)).at("order", epoch, rows).words(kind, 1)[:, 0]
    return torch.argsort(key, stable=True)


class SequenceBatches:
    """Integer sequences of many lengths, without padding: every batch [B, L] has one length, and about the same size.

    An epoch shuffles the sequences, sorts them by length (stably), cuts each length into near-equal batches of at most
    `tokens` elements, and shuffles the batches.

    Args:
        sequences: integer sequences, none empty.
        leaf: name of the leaf.
        tokens: elements of a batch; it has max(1, tokens // L) sequences at most.
        seed: of the order.
        condition: one row a sequence, [S, ...].
    """

    def __init__(
        self,
        sequences: Sequence[Sequence[int] | Tensor],
        *,
        leaf: str,
        tokens: int,
        seed: int = 0,
        condition: Tensor | None = None,
    ) -> None:
        lengths = torch.tensor([len(sequence) for sequence in sequences], dtype=torch.int64)
        if len(lengths) == 0 or int(lengths.min()) == 0:
            raise ValueError(f"expected sequences of at least one element, got {len(lengths)} with one of length 0")
        self._leaf, self._seed, self._lengths, self._condition = leaf, seed, lengths, condition
        self._first = torch.cumsum(lengths, 0) - lengths
        self._values = torch.cat([torch.as_tensor(sequence, dtype=torch.int32) for sequence in sequences])
        self._cuts = self._cut(tokens)
        self.batches_per_epoch = len(self._cuts)
        self.samples_per_batch = len(lengths) / len(self._cuts)
        digest = hashlib.sha256(f"{leaf} {tokens} {seed}".encode())
        digest.update(lengths.numpy().tobytes())
        digest.update(self._values.numpy().tobytes())
        if condition is not None:
            digest.update(condition.contiguous().numpy().tobytes())
        self.fingerprint = digest.hexdigest()
        self._order = lru_cache(maxsize=2)(self._epoch)

    def _cut(self, tokens: int) -> list[tuple[int, int]]:
        """First and last place of each batch in the sorted order, which has the same lengths in every epoch."""
        cuts, start = [], 0
        for length, count in zip(*(x.tolist() for x in torch.unique(self._lengths, return_counts=True)), strict=True):
            parts = -(-count // max(1, tokens // length))
            edges = [start + count * k // parts for k in range(parts + 1)]
            cuts += list(pairwise(edges))
            start += count
        return cuts

    def _epoch(self, epoch: int) -> tuple[Tensor, Tensor]:
        """The sorted order of the sequences, and the order of the batches."""
        shuffled = permutation(len(self._lengths), seed=self._seed, epoch=epoch, kind="sequences")
        order = shuffled[torch.argsort(self._lengths[shuffled], stable=True)]
        return order, permutation(len(self._cuts), seed=self._seed, epoch=epoch, kind="batches")

    def at(self, position: int) -> Batch:
        """The batch at a position: leaf int64 [B, L]."""
        epoch, place = divmod(position, self.batches_per_epoch)
        order, batches = self._order(epoch)
        start, end = self._cuts[int(batches[place])]
        chosen = order[start:end]
        length = int(self._lengths[chosen[0]])
        x_0 = self._values[self._first[chosen, None] + torch.arange(length)].long()
        visit = (epoch * len(self._lengths) + torch.arange(start, end)) % 2**32
        layout = Layout.dense(end - start, {self._leaf: (length,)})
        condition = _each(self._condition, lambda x: x[chosen])
        return Batch(x_0={self._leaf: x_0}, layout=layout, index=visit, condition=condition)


class DenseBatches:
    """Samples of one shape: leaves [S, ...] cut into batches of `size` samples, shuffled every epoch.

    The last batch of an epoch is smaller where `size` does not divide S.

    Args:
        data: one tensor [S, *shape] per leaf.
        size: samples per batch.
        condition: a tensor [S, ...] or a mapping of such.
        masks: which elements exist, bool [S, *shape] per leaf.
        seed: of the order.
    """

    def __init__(
        self,
        data: State,
        *,
        size: int,
        condition: Condition = None,
        masks: Mapping[str, Tensor] | None = None,
        seed: int = 0,
    ) -> None:
        counts = {name: len(x) for name, x in data.items()}
        if len(set(counts.values())) != 1 or min(counts.values()) == 0:
            raise ValueError(f"expected the same positive number of samples in every leaf, got {counts}")
        self._data, self._condition, self._masks, self._size, self._seed = data, condition, masks or {}, size, seed
        self._count = next(iter(counts.values()))
        self.batches_per_epoch = -(-self._count // size)
        self.samples_per_batch = self._count / self.batches_per_epoch
        digest = hashlib.sha256(f"{sorted(data)} {size} {seed}".encode())
        for name in sorted(data):
            digest.update(data[name].contiguous().flatten().view(torch.uint8).numpy().tobytes())
        self.fingerprint = digest.hexdigest()
        self._order = lru_cache(maxsize=2)(self._epoch)

    def at(self, position: int) -> Batch:
        """The batch at a position."""
        epoch, place = divmod(position, self.batches_per_epoch)
        start = place * self._size
        chosen = self._order(epoch)[start : start + self._size]
        visit = (epoch * self._count + start + torch.arange(len(chosen))) % 2**32
        shapes = {name: tuple(x.shape[1:]) for name, x in self._data.items()}
        masks = {name: mask[chosen] for name, mask in self._masks.items()}
        return Batch(
            x_0={name: x[chosen] for name, x in self._data.items()},
            layout=Layout.dense(len(chosen), shapes, masks=masks),
            index=visit,
            condition=_each(self._condition, lambda x: x[chosen]),
        )

    def _epoch(self, epoch: int) -> Tensor:
        return permutation(self._count, seed=self._seed, epoch=epoch, kind="samples")
