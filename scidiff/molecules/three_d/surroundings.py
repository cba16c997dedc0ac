"""What molecules must keep clear of, and the box they must stay in: atoms of a file, and three ranges, in angstrom."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from rdkit import Chem, rdBase

from scidiff.errors import UserError, one_line

SUFFIXES = (".pdb", ".sdf")


@dataclass(frozen=True, kw_only=True, eq=False)
class Surroundings:
    """S atoms in space.

    Attributes:
        position: float64 [S, 3], angstrom.
        radius: float64 [S], van der Waals, angstrom.
    """

    position: np.ndarray
    radius: np.ndarray


@lru_cache(maxsize=4)
def read(path: str) -> Surroundings:
    """All atoms of a file, the first model of a .pdb and every structure of an .sdf.

    Raises:
        UserError: it cannot be read, or has no atoms with coordinates in space.
    """
    kind = Path(path).suffix.lower()
    if kind not in SUFFIXES:
        raise UserError(f"--keep: expected surroundings in a file ending in {', '.join(SUFFIXES)}, got {path!r}")
    try:
        text = Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise UserError(f"cannot read {path}: {one_line(error)}") from error
    with rdBase.BlockLogs():
        if kind == ".pdb":
            mols = [Chem.MolFromPDBBlock(text, sanitize=False, removeHs=False, proximityBonding=False)]
        else:
            supplier = Chem.SDMolSupplier()
            supplier.SetData(text, sanitize=False, removeHs=False)
            mols = list(supplier)
    for number, mol in enumerate(mols, 1):
        if mol is None or not mol.GetNumAtoms() or not mol.GetConformer().Is3D():
            raise UserError(f"{path}: expected atoms with coordinates in space, got none (structure {number})")
    if not mols:
        raise UserError(f"{path}: expected atoms with coordinates in space, got none")
    table = Chem.GetPeriodicTable()
    radii = [table.GetRvdw(atom.GetAtomicNum()) for mol in mols for atom in mol.GetAtoms()]
    position = np.concatenate([mol.GetConformer().GetPositions() for mol in mols])
    return Surroundings(position=position, radius=np.array(radii))


def box(text: str) -> np.ndarray | None:
    """The ranges of x, y and z, [3, 2], of a text `[0, 12], [-3, 8], [2, 14]`; None if it is none."""
    try:
        numbers = [float(part) for part in text.replace("[", " ").replace("]", " ").replace(",", " ").split()]
    except ValueError:
        return None
    ranges = np.array(numbers)
    if ranges.shape != (6,) or not np.isfinite(ranges).all() or (np.diff(ranges.reshape(3, 2)) <= 0).any():
        return None
    return ranges.reshape(3, 2)
