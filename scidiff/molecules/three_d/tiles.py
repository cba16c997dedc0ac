"""Draws of many molecules side by side, in tiles of one number of atoms.

A product of matrices may round differently with its shape, but not with what stands in its other rows. So every tile
has as many molecules, filled up with copies, and a draw is the same to the bit whatever else is drawn.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from scidiff.molecules.three_d.batches import condition_of, harmonic_of
from scidiff.molecules.three_d.draws import positions
from scidiff.molecules.three_d.fixed import RigidPart
from scidiff.molecules.three_d.model import ConformerModel
from scidiff.molecules.three_d.records import Record

TILE = 16  # draws in a tile
STRIDE = 4096  # draws of a molecule, at most; draw k of record number r is sample r * STRIDE + k of the run


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
    for places in alike.values():
        for first in range(0, len(places), TILE):
            tile = places[first : first + TILE]
            found = _tile([asked[place] for place in tile], model=model, seed=seed, steps=steps)
            yield from zip(tile, found, strict=False)


def _kind(record: Record) -> Hashable:
    """What the molecules of a tile have in common: their size, or a part that keeps its place."""
    return ("fixed", record.number) if record.fixed else record.mol.GetNumAtoms()


def _tile(asked: Sequence[Asked], *, model: ConformerModel, seed: int, steps: int) -> np.ndarray:
    """Positions [TILE, n, 3]; those beyond the ones asked for are copies."""
    device = next(model.denoiser.parameters()).device
    filled = [*asked, *[asked[-1]] * (TILE - len(asked))]
    condition = {name: x.to(device) for name, x in condition_of([one.record.graph for one in filled]).items()}
    index = torch.tensor([one.record.number * STRIDE + one.draw for one in filled], device=device)
    first, part = asked[0].record, None
    if first.fixed:
        root = torch.as_tensor(harmonic_of(first.graph)[0], device=device)
        part = RigidPart.of(first.fixed, first.mol.GetConformer().GetPositions(), root)
    x = positions(model.denoiser, model.processes, condition, seed=seed, index=index, steps=steps, part=part)
    found: np.ndarray = x.double().cpu().numpy()
    return found
