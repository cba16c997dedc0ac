"""Draws of many molecules side by side, in tiles of one number of atoms.

A product of matrices may round differently with its shape, but not with what stands in its other rows. So every tile
has as many molecules, filled up with copies, and a draw is the same to the bit whatever else is drawn.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from scidiff.molecules.three_d.batches import condition_of, harmonic_of
from scidiff.molecules.three_d.draws import Halved, Held, positions
from scidiff.molecules.three_d.fixed import RigidPart
from scidiff.molecules.three_d.model import ConformerModel
from scidiff.molecules.three_d.records import Record
from scidiff.molecules.three_d.ruled import Ruled
from scidiff.side_by_side import side_by_side

TILE, TILE_HELD = 16, 4  # draws in a tile, and in one of a molecule that is held, which has none to fill it up
STRIDE = 4096  # draws of a molecule, at most; draw k of record number r is sample r * STRIDE + k of the run
LATE = 0.9  # the time from which on rules of shape are met: early estimates are averages of many shapes


@dataclass(frozen=True, kw_only=True)
class Asked:
    """One draw that is asked for.

    Attributes:
        record: the molecule.
        draw: its number among the draws of the molecule.
    """

    record: Record
    draw: int


def draw(asked: Sequence[Asked], *, model: ConformerModel, seed: int, steps: int) -> Iterator[tuple[int, np.ndarray]]:
    """Draws tile by tile: the place of each in `asked`, and positions [n, 3] in angstrom, float64.

    Args:
        asked: draws of any molecules.
        model: on the device to draw on.
        seed: of the noise.
        steps: network calls.
    """
    alike: dict[Hashable, list[int]] = {}
    for place, one in enumerate(asked):
        alike.setdefault(_kind(one.record), []).append(place)
    tiles: list[list[int]] = []
    for places in alike.values():
        size = _size(asked[places[0]].record)
        tiles += [places[first : first + size] for first in range(0, len(places), size)]
    drawn = partial(_tile, model=model, seed=seed, steps=steps)
    with side_by_side(next(model.denoiser.parameters()).device) as pool:
        for tile, found in zip(tiles, pool.map(drawn, ([asked[k] for k in tile] for tile in tiles)), strict=True):
            yield from zip(tile, found, strict=False)


def _kind(record: Record) -> Hashable:
    """What the molecules of a tile have in common: their size, or one graph with a constraint on it."""
    return ("held", record.number) if record.fixed or record.rules else record.mol.GetNumAtoms()


def _size(record: Record) -> int:
    """Draws in a tile."""
    return TILE_HELD if record.fixed or record.rules else TILE


def _tile(asked: Sequence[Asked], *, model: ConformerModel, seed: int, steps: int) -> np.ndarray:
    """Positions of a whole tile, [B, n, 3]; those beyond the ones asked for are copies."""
    device = next(model.denoiser.parameters()).device
    filled = [*asked, *[asked[-1]] * (_size(asked[0].record) - len(asked))]
    condition = {name: x.to(device) for name, x in condition_of([one.record.graph for one in filled]).items()}
    index = torch.tensor([one.record.number * STRIDE + one.draw for one in filled], device=device)
    held, start = _held(asked[0].record, device)
    x = positions(
        Halved(model.denoiser), model.processes, condition, seed=seed, index=index, steps=steps, held=held, start=start
    )
    found: np.ndarray = x.double().cpu().numpy()
    return found


def _held(record: Record, device: torch.device) -> tuple[Held | None, float]:
    """The constraint on a molecule, and the time from which on it is met."""
    if not record.fixed and not record.rules:
        return None, 1.0
    root = torch.as_tensor(harmonic_of(record.graph)[0], device=device)
    part = RigidPart.of(record.fixed, record.mol.GetConformer().GetPositions(), root) if record.fixed else None
    if not record.rules:
        return part, 1.0
    return Ruled.of(record.rules, record.mol, root, part), LATE
