r"""The symmetries of a flow that is driven by a force cos(n y): what turns one solution into another.

    omega(x, y) -> omega(x + s, y)                 any shift along x
    omega(x, y) -> omega(-x, -y)                   half a turn
    omega(x, y) -> -omega(-x, y + pi / n)          a shift by half a wave of the force, and a reflection

On H points the last needs H / (2 n) to be whole. There are 4 n of them besides the shifts along x.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from functools import lru_cache
from typing import ClassVar

import torch
from torch import Tensor

from scidiff.noise import Noise
from scidiff.state import Layout
from scidiff.training.batches import Batch, Condition, permutation


def moved(omega: Tensor, *, shift: Tensor, turned: Tensor, half_waves: Tensor, points: Tensor | int) -> Tensor:
    """Vorticities [B, H, W], each moved by its own symmetry.

    Args:
        omega: vorticities.
        shift: int64 [B], points along x.
        turned: bool [B], half a turn.
        half_waves: int64 [B], how often a shift by `points` along y with a reflection.
        points: of half a wave of the force along y, int64 [B] or the same of all.
    """
    height, width = omega.shape[-2:]
    y, x = torch.arange(height, device=omega.device), torch.arange(width, device=omega.device)
    odd = half_waves % 2 == 1
    row = y + (half_waves * points)[:, None]
    column = torch.where(odd[:, None], -x, x)
    row, column = torch.where(turned[:, None], -row, row), torch.where(turned[:, None], -column, column)
    column = column + shift[:, None]
    picked = torch.arange(len(omega), device=omega.device)[:, None, None]
    found = omega[picked, (row % height)[:, :, None], (column % width)[:, None, :]]
    return torch.where(odd[:, None, None], -found, found)


def images(omega: Tensor, *, waves: int) -> Tensor:
    """Vorticities [S, H, W] under all these symmetries but shifts along x: [4 n S, H, W]."""
    points, still = omega.shape[-2] // (2 * waves), torch.zeros(len(omega), dtype=torch.int64, device=omega.device)
    return torch.cat(
        [
            moved(omega, shift=still, turned=still == int(not turned), half_waves=still + half, points=points)
            for turned in (False, True)
            for half in range(2 * waves)
        ]
    )


def symmetrised(matrices: Tensor, *, waves: int) -> Tensor:
    """The mean of covariances over y of waves along x, [W // 2 + 1, H, H] complex, over all these symmetries."""
    height = matrices.shape[-1]
    points = height // (2 * waves)
    y = torch.arange(height, device=matrices.device)
    total = torch.zeros_like(matrices)
    for half_waves in range(2 * waves):
        for turned in (False, True):
            row = ((-y if turned else y) + half_waves * points) % height
            found = matrices[:, row[:, None], row]
            total += found.conj() if turned != (half_waves % 2 == 1) else found  # each reverses x
    return total / (4 * waves)


class FieldBatches(ABC):
    """Fields in batches of `size`, shuffled every epoch, each moved as drawn anew for every visit.

    Args:
        fields: [S, *shape].
        leaf: name of the leaf.
        size: fields a batch.
        seed: of the order and of the moves.
        told: what else decides a batch, for the fingerprint.
    """

    key: ClassVar[str]
    """Of the noise."""
    draws: ClassVar[int]
    """Uniform numbers of a move."""

    def __init__(self, fields: Tensor, *, leaf: str, size: int, seed: int, told: str) -> None:
        if len(fields) < size:
            raise ValueError(f"expected at least {size} fields, got {len(fields)}")
        self._fields, self._leaf, self._size, self._seed = fields, leaf, size, seed
        self.batches_per_epoch, self.samples_per_batch = len(fields) // size, float(size)
        digest = hashlib.sha256(told.encode())
        digest.update(fields.contiguous().view(torch.uint8).numpy().tobytes())
        self.fingerprint = digest.hexdigest()
        self._order = lru_cache(maxsize=2)(self._epoch)

    @abstractmethod
    def move(self, chosen: Tensor, u: Tensor) -> Tensor:
        """The fields of the numbers `chosen` [B] as they are shown, [B, 1, H, W], by uniform numbers u [B, draws]."""

    def _epoch(self, epoch: int) -> Tensor:
        return permutation(len(self._fields), seed=self._seed, epoch=epoch, kind="samples")

    def at(self, position: int) -> Batch:
        """The batch at a position."""
        epoch, place = divmod(position, self.batches_per_epoch)
        chosen = self._order(epoch)[place * self._size : (place + 1) * self._size]
        visit = (epoch * len(self._fields) + place * self._size + torch.arange(len(chosen))) % 2**32
        rows = Layout.dense(len(chosen), {self.key: (self.draws,)}).rows(self.key)
        shown = self.move(chosen, Noise(seed=self._seed, index=visit).at(self.key, 0, rows).uniform())
        layout = Layout.dense(len(chosen), {self._leaf: tuple(shown.shape[1:])})
        return Batch(x_0={self._leaf: shown}, layout=layout, index=visit, condition=self.condition(chosen, visit))

    def condition(self, chosen: Tensor, visit: Tensor) -> Condition:
        """What the denoiser is told of the chosen fields [B] on these visits [B]: nothing."""
        return None


class FlowBatches(FieldBatches):
    """Vorticities under the symmetries of a flow that is forced by n waves along y; those of one row move together.

    Args:
        fields: [S, H, W], or [S, C, H, W] for C vorticities a row.
        leaf: name of the leaf, [B, C, H, W], C = 1 if there is one.
        waves: n, of all rows or of each, int64 [S].
        size: fields a batch.
        seed: of the order and of the symmetries.
    """

    key, draws = "symmetry", 3

    def __init__(self, fields: Tensor, *, leaf: str, waves: Tensor | int, size: int, seed: int = 0) -> None:
        self._waves = torch.as_tensor(waves).expand(len(fields))
        for n in self._waves.unique().tolist():
            if fields.shape[-2] % (2 * n):
                raise ValueError(f"expected fields of a multiple of {2 * n} rows, got {fields.shape}")
        named = waves.tolist() if isinstance(waves, Tensor) else waves
        super().__init__(fields, leaf=leaf, size=size, seed=seed, told=f"{leaf} {named} {size} {seed}")

    def move(self, chosen: Tensor, u: Tensor) -> Tensor:
        """Shifted, turned and reflected: [B, C, H, W], C = 1 if the fields have no channels."""
        fields = self._fields[chosen]
        channels = fields if fields.ndim == 4 else fields[:, None]
        u, waves = (part.repeat_interleave(channels.shape[1], 0) for part in (u, self._waves[chosen]))
        found = moved(
            channels.flatten(0, 1),
            shift=(u[:, 0] * fields.shape[-1]).long(),
            turned=u[:, 1] < 0.5,
            half_waves=(u[:, 2] * 2 * waves).long(),
            points=fields.shape[-2] // (2 * waves),
        )
        return found.view_as(channels)
