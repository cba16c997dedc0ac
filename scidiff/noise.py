"""Keyed noise: every random number is a pure function of where it is used.

A draw is named by (seed, sample index, leaf, kind, step, element) and computed by the counter-based generator
Philox-4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011). No generator has a state, so the
same sample comes out whatever the batch size, order, shard or worker, and after a resume.

The integers are identical on every device; the floats made from them agree to rounding.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import torch
from torch import Tensor

from scidiff.state import Rows

_WORD = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10


def philox(counter: tuple[Tensor, Tensor, Tensor, Tensor], key: tuple[int, int]) -> tuple[Tensor, ...]:
    """Philox-4x32-10 in plain int64 operations.

    Args:
        counter: four tensors of one shape (or broadcastable), each holding a 32-bit word in an int64.
        key: two 32-bit words.

    Returns:
        Four int64 tensors of uniform 32-bit words.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(_ROUNDS):
        p0, p1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1, c2, c3 = (
            ((p1 >> 32) & _WORD) ^ c1 ^ k0,
            p1 & _WORD,
            ((p0 >> 32) & _WORD) ^ c3 ^ k1,
            p0 & _WORD,
        )
        k0, k1 = (k0 + _KEY_STEPS[0]) & _WORD, (k1 + _KEY_STEPS[1]) & _WORD
    return c0, c1, c2, c3


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
        element = self.rows.local[:, None] * width + torch.arange(width, device=self.index.device)
        block, lane = element >> 2, element & 3
        name = zlib.crc32(f"{self.leaf}/{kind}".encode())
        if self.rows.single and width % 4 == 0:
            block = block[:, ::4]
            lane = None
        zero = torch.zeros_like(block)
        counter = (block, zero + (self.step & _WORD), zero + name, zero + (self.index[:, None] & _WORD))
        out = philox(counter, (self.seed & _WORD, (self.seed >> 32) & _WORD))
        if lane is None:
            return torch.stack(out, dim=-1).flatten(1)
        return torch.stack(out, dim=-1).gather(-1, lane[..., None]).squeeze(-1)

    def uniform(self, *, shape: tuple[int, ...] | None = None, kind: str = "uniform") -> Tensor:
        """Uniform numbers in the open interval (0, 1), float64 [N, *shape]; shape defaults to the leaf's own."""
        shape = self.rows.shape if shape is None else shape
        width = 1
        for size in shape:
            width *= size
        return ((self.words(kind, width).double() + 0.5) * 2.0**-32).reshape(-1, *shape)

    def normal(self, *, dtype: torch.dtype = torch.float32, kind: str = "normal") -> Tensor:
        """Standard normal numbers [N, *shape] by inversion; largest magnitude 6.3."""
        return torch.special.ndtri(self.uniform(kind=kind)).to(dtype)

    def gumbel(self, *, shape: tuple[int, ...] | None = None) -> Tensor:
        """Standard Gumbel numbers, float64 [N, *shape]."""
        return -torch.log(-torch.log(self.uniform(shape=shape, kind="gumbel")))

    def categorical(self, probabilities: Tensor, *, kind: str = "categorical") -> Tensor:
        """One class per element by inversion of the cumulative distribution.

        Args:
            probabilities: [N, *shape, K], non-negative, not necessarily normalised.

        Returns:
            int64 [N, *shape].
        """
        cumulative = probabilities.double().cumsum(-1)
        total = cumulative[..., -1:]
        threshold = self.uniform(shape=tuple(probabilities.shape[1:-1]), kind=kind)[..., None] * total
        chosen = torch.searchsorted(cumulative, threshold, right=True).squeeze(-1)
        # Rounding may leave the threshold at the total: fall back to the last class of positive probability.
        last = probabilities.shape[-1] - 1 - (probabilities > 0).flip(-1).to(torch.uint8).argmax(-1)
        return torch.minimum(chosen, last)


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
