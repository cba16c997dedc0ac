"""Series as the network reads them, and batches of them with a part hidden to learn from."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from scidiff.networks.panel import Series
from scidiff.noise import Noise
from scidiff.state import Layout
from scidiff.timeseries.masks import DEFAULT, hide
from scidiff.training.batches import Batch, permutation

LEAF = "value"
_ROUND = 32  # numbers of cells are padded to multiples, so that few shapes occur
_STATIC_SHOWN = 0.7  # how often static covariates are shown in training


@dataclass(frozen=True, kw_only=True)
class Standardised:
    """Series on the scale and in the order that the model knows.

    Attributes:
        values: [S, L, V] float32, standardised; 0 where not observed.
        observed: [S, L, V] bool.
        times: [S, L] float32, in steps, ascending.
        rows: [S, L] bool, which rows there are.
        static: [S, F, 2] float32: value (0 if unknown) and whether it is known.
    """

    values: Tensor
    observed: Tensor
    times: Tensor
    rows: Tensor
    static: Tensor

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, chosen: Tensor | slice) -> Standardised:
        return Standardised(**{name: value[chosen] for name, value in vars(self).items()})


def series(data: Standardised, *, visible: Tensor, asked: Tensor) -> Series:
    """What the encoder reads, when `visible` is known and `asked` is wanted: bool [S, L, V] each."""
    flat_visible, flat_asked = visible.flatten(1), asked.flatten(1)
    longest = _padded(flat_visible | flat_asked)
    # stable: visible cells first, then those asked for, then the rest, each in their order
    cells = torch.argsort((~flat_visible).byte() + (~(flat_visible | flat_asked)).byte(), dim=1, stable=True)[
        :, :longest
    ]
    return {
        "values": torch.where(visible, data.values, 0),
        "visible": visible,
        "times": data.times,
        "rows": data.rows,
        "static": data.static,
        "cells": cells,
        "known": flat_visible.gather(1, cells[:, : _padded(flat_visible)]),
        "asked": flat_asked.gather(1, cells) & ~flat_visible.gather(1, cells),
    }


def _padded(mask: Tensor) -> int:
    """The largest number of cells under a mask [S, L * V], rounded up."""
    return min(mask.shape[1], -(-int(mask.sum(1).max()) // _ROUND) * _ROUND)


class PanelBatches:
    """Series with a part of what was observed hidden, position-addressed.

    An epoch shuffles the series and sorts them by how many cells they have observed, roughly, so that little is padded;
    the order of the batches is random.

    Args:
        data: what to learn from; series with fewer than two observed cells are left out.
        size: series a batch.
        seed: of the order and of what is hidden.
        mixture: weight of each pattern of hiding.
    """

    def __init__(self, data: Standardised, *, size: int, seed: int = 0, mixture: Mapping[str, float] = DEFAULT) -> None:
        count = data.observed.flatten(1).sum(1)
        self._kept = torch.nonzero(count >= 2)[:, 0]
        if len(self._kept) == 0:
            raise ValueError("expected a series with at least two observed values, got none")
        self._data, self._size, self._seed, self._mixture = data, min(size, len(self._kept)), seed, mixture
        self._bucket = count[self._kept] // 64
        self.batches_per_epoch = len(self._kept) // self._size
        self.samples_per_batch = float(self._size)
        digest = hashlib.sha256(f"{size} {seed} {dict(mixture)}".encode())
        for value in vars(data).values():
            digest.update(value.contiguous().numpy().tobytes())
        self.fingerprint = digest.hexdigest()
        self._order = lru_cache(maxsize=2)(self._epoch)

    def at(self, position: int) -> Batch:
        """The batch at a position; a pure function of it."""
        epoch, place = divmod(position, self.batches_per_epoch)
        chosen = self._order(epoch)[place]
        data = self._data[chosen]
        index = position * self._size + torch.arange(self._size)
        hidden = hide(
            data.observed, data.observed.roll(1, 0), Noise(seed=self._seed, index=index), mixture=self._mixture
        )
        shape = tuple(data.values.shape[1:])
        coin = Noise(seed=self._seed, index=index).at(
            "static", 0, Layout.dense(self._size, {"static": ()}).rows("static")
        )
        shown = (coin.uniform() < _STATIC_SHOWN).float()[:, None, None]
        condition = dict(series(data, visible=data.observed & ~hidden, asked=hidden))
        condition["static"] = condition["static"] * shown
        layout = Layout.dense(self._size, {LEAF: shape}, masks={LEAF: hidden})
        return Batch(x_0={LEAF: data.values}, layout=layout, index=index, condition=condition)

    def _epoch(self, epoch: int) -> Tensor:
        """The series of each batch of an epoch: int64 [batches, size]."""
        order = permutation(len(self._kept), seed=self._seed, epoch=epoch, kind="series")
        order = order[self._bucket[order].argsort(stable=True)]
        used = order[: self.batches_per_epoch * self._size].reshape(-1, self._size)
        used = used[permutation(len(used), seed=self._seed, epoch=epoch, kind="batches")]
        return self._kept[used]
