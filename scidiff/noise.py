"""Keyed noise: every random number is a pure function of where it is used.

A draw is named by (seed, sample index, leaf, kind, step, element) and computed by the counter-based generator
Philox-4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011). No generator has a state, so the
same sample comes out whatever the batch size, order, shard or worker, and after a resume.

The integers are identical on every device; the floats made from them agree to rounding. Philox is some hundred small
integer operations: under `torch.compile` they become one and cost what `torch.randn` does, one by one eight times that.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from scidiff.state import Rows

_WORD = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10


def _crc_table() -> list[int]:
    """Remainders of all bytes by the polynomial of CRC-32, bits reversed."""
    table = list(range(256))
    for _ in range(8):
        table = [(code >> 1) ^ (0xEDB88320 if code & 1 else 0) for code in table]
    return table


_CRC = _crc_table()


Word = Tensor | int
"""A 32-bit word in an int64 tensor, or one for all in a Python integer."""


def philox(counter: tuple[Word, Word, Word, Word], key: tuple[int, int]) -> tuple[Tensor, ...]:
    """Philox-4x32-10 in plain int64 operations.

    Args:
        counter: four words, tensors of broadcastable shapes or integers; at least one is a tensor.
        key: two 32-bit words.

    Returns:
        Four int64 tensors of uniform words, of the shape that the counters broadcast to.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(_ROUNDS):
        p0, p1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        # The words c1 and c3 carry their product's upper half along: the mask of the sum below removes it.
        c0, c2 = ((p1 >> 32) ^ c1 ^ k0) & _WORD, ((p0 >> 32) ^ c3 ^ k1) & _WORD
        c1, c3 = p1, p0
        k0, k1 = (k0 + _KEY_STEPS[0]) & _WORD, (k1 + _KEY_STEPS[1]) & _WORD
    return cast(tuple[Tensor, ...], (c0, c1 & _WORD, c2, c3 & _WORD))


def _crc32(name: str) -> int:
    """`zlib.crc32` of a name, in Python that `torch.compile` can follow."""
    code = _WORD
    for byte in name.encode():
        code = _CRC[(code ^ byte) & 0xFF] ^ (code >> 8)
    return code ^ _WORD


def _unit(words: Tensor, dtype: torch.dtype = torch.float64) -> Tensor:
    """Words as numbers in (0, 1), open at both ends in float64; float32 may round to 1."""
    return (words.to(dtype) + 0.5) * 2.0**-32


@dataclass(frozen=True, kw_only=True)
class Draw:
    """The random numbers of one leaf at one step. Build it with `Noise.at`.

    Each method may be called once a step and kind: a second call gives the same numbers again.
    """

    seed: int
    index: Tensor  # [N] int64, sample index of each row
    leaf: str
    step: int
    rows: Rows

    def words(self, kind: str, width: int) -> Tensor:
        """Uniform 32-bit words, int64 of shape [N, width], keyed by the row's number within its sample."""
        return self._arranged(torch.stack(self._blocks(kind, width), dim=-1), width)

    def uniform(self, *, shape: tuple[int, ...] | None = None, kind: str = "uniform") -> Tensor:
        """Uniform numbers in the open interval (0, 1), float64 [N, *shape]; shape defaults to the leaf's own."""
        shape = self.rows.shape if shape is None else shape
        return _unit(self.words(kind, math.prod(shape))).reshape(-1, *shape)

    def normal(self, *, dtype: torch.dtype = torch.float32, kind: str = "normal") -> Tensor:
        """Standard normal numbers [N, *shape], in pairs by Box & Muller (1958); largest magnitude 6.8.

        Computed in float64 for float64, else in float32.
        """
        width = math.prod(self.rows.shape)
        exact = torch.float64 if dtype == torch.float64 else torch.float32
        w0, w1, w2, w3 = self._blocks(kind, width)
        radius = torch.sqrt(-2 * torch.log(_unit(torch.stack((w0, w2), dim=-1), exact)))
        angle = 2 * math.pi * _unit(torch.stack((w1, w3), dim=-1), exact)
        pairs = torch.stack((radius * torch.cos(angle), radius * torch.sin(angle)), dim=-1).to(dtype)
        return self._arranged(pairs.flatten(2), width).reshape(-1, *self.rows.shape)

    def _blocks(self, kind: str, width: int) -> tuple[Tensor, ...]:
        """The blocks of four words that hold each row's elements: four tensors [N, blocks].

        Element j of row l of a sample is element l * width + j of the sample, whichever way the rows are cut.
        """
        aligned = self.rows.single or width % 4 == 0
        count = -(-width // 4) if aligned else (width + 6) // 4
        first = (self.rows.local * width >> 2)[:, None]
        block = first + torch.arange(count, device=self.index.device)
        name = _crc32(f"{self.leaf}/{kind}")
        return philox(
            (block, self.step & _WORD, name, self.index[:, None] & _WORD),
            (self.seed & _WORD, (self.seed >> 32) & _WORD),
        )

    def _arranged(self, blocks: Tensor, width: int) -> Tensor:
        """The row's own elements out of its blocks: [N, blocks, 4] -> [N, width]."""
        values = blocks.flatten(1)
        if self.rows.single or width % 4 == 0:
            return values[:, :width]
        start = (self.rows.local * width & 3)[:, None]
        return values.gather(1, start + torch.arange(width, device=values.device))

    def gumbel(self, *, shape: tuple[int, ...] | None = None) -> Tensor:
        """Standard Gumbel numbers, float64 [N, *shape]."""
        return -torch.log(-torch.log(self.uniform(shape=shape, kind="gumbel")))

    def categorical(self, probabilities: Tensor, *, kind: str = "categorical") -> Tensor:
        """One class per element by inversion of the cumulative distribution: one uniform number each.

        Args:
            probabilities: [N, *shape, K], non-negative, not necessarily normalised, not all zero.

        Returns:
            int64 [N, *shape]; never a class of probability zero.
        """
        cumulative = probabilities.cumsum(-1, dtype=torch.float64)
        threshold = self.uniform(shape=tuple(probabilities.shape[1:-1]), kind=kind)[..., None] * cumulative[..., -1:]
        chosen = torch.searchsorted(cumulative, threshold, right=True).clamp_max(probabilities.shape[-1] - 1)
        # A parallel scan may round a class of probability zero into existence: the likeliest takes its place.
        possible = probabilities.gather(-1, chosen) > 0
        return torch.where(possible, chosen, probabilities.argmax(-1, keepdim=True)).squeeze(-1)


@dataclass(frozen=True, kw_only=True)
class Noise:
    """The source of all randomness of a run.

    Attributes:
        seed: 64-bit seed of the run.
        index: [B] int64, the number of each sample in the run (not its place in the batch), in [0, 2^32).
    """

    seed: int
    index: Tensor

    def at(self, leaf: str, step: int, rows: Rows) -> Draw:
        """The random numbers of `leaf` at `step`, one row of them per row of the leaf."""
        return Draw(seed=self.seed, index=self.index[rows.owner], leaf=leaf, step=step, rows=rows)
