"""Molecules with geometries as joint states, cut into batches of one number of atoms."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from scidiff.molecules.three_d.batches import Encoded, MoleculeBatches, Rows, kept
from scidiff.molecules.three_d.joint.tokens import tokens_of
from scidiff.molecules.three_d.matching import match
from scidiff.state import Layout
from scidiff.training.batches import Batch

SCALE = 1.4
"""Angstrom in a unit of positions: about the standard deviation of coordinates in QM9."""


@dataclass(frozen=True, kw_only=True)
class Joint:
    """Molecules of one number of atoms n.

    Attributes:
        atom: uint8 [M, n], classes of atoms.
        bond: uint8 [M, n (n - 1) / 2], orders of the pairs i < j.
        position: float32 [M, n, 3], centred, in angstrom.
    """

    atom: np.ndarray
    bond: np.ndarray
    position: np.ndarray


def encode(rows: Rows) -> Encoded[Joint]:
    """Encode molecules; fewer than three atoms are refused."""
    found: dict[int, list[tuple[np.ndarray, ...]]] = {}
    refused: Counter[str] = Counter()
    for smiles, number, position in rows:
        mol, reason = match(smiles, number, position) if len(number) > 2 else (None, "fewer than three atoms")
        tokens = None if mol is None else tokens_of(mol)
        if mol is None or tokens is None:
            refused[reason or "an atom of no known class"] += 1
            continue
        x = mol.GetConformer().GetPositions()
        found.setdefault(len(x), []).append((*tokens, (x - x.mean(0)).astype(np.float32)))
    sizes = {}
    for n, held in sorted(found.items()):
        atom, bond, position = map(np.stack, zip(*held, strict=True))
        sizes[n] = Joint(atom=atom, bond=bond, position=position)
    return Encoded(sizes=sizes, refused=dict(refused))


def encode_cached(source: Path, folder: Path) -> Encoded[Joint]:
    """`encode` of a split written by `datasets/qm9.py`, kept in a folder under the digest of the split."""
    return kept(source, folder, encode, Joint)


def layout_of(n: int, batch: int, device: torch.device | None = None) -> Layout:
    """The rows of `batch` molecules of n atoms."""
    counts = {"pos": n, "atom": n, "bond": n * (n - 1) // 2}
    full = {leaf: torch.full((batch,), count, device=device) for leaf, count in counts.items()}
    return Layout.ragged(full, {"pos": (3,), "atom": (), "bond": ()})


def state_of(part: Joint) -> dict[str, Tensor]:
    """The state of molecules of one size."""
    return {
        "pos": torch.as_tensor(part.position).flatten(0, 1) / SCALE,
        "atom": torch.as_tensor(part.atom.astype(np.int64)).flatten(),
        "bond": torch.as_tensor(part.bond.astype(np.int64)).flatten(),
    }


class JointBatches(MoleculeBatches[Joint]):
    """Joint states, {"pos", "atom", "bond"} of `state_of`."""

    def batch(self, part: Joint, n: int, index: Tensor) -> Batch:
        return Batch(x_0=state_of(part), layout=layout_of(n, len(index)), index=index)
