"""What certifies a geometry: distances and RDKit, nothing that the sampler uses.

Bounds are in units of the sum of two atoms' radii and leave a little room around what the training molecules of QM9
have: bonds from 0.78 to 1.15 covalent radii (1.2 at the very longest), atoms that are not bonded from 1.16 (across
bicyclo[1.1.1]pentane), and atoms four or more bonds apart from 0.56 van der Waals radii.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from rdkit import Chem, rdBase
from rdkit.Geometry import Point3D

BROKEN = "a bond is broken, pressed or formed"
CLASHING = "atoms clash"
TURNED = "another stereoisomer"
MOVED = "a fixed atom has moved"

RADII = np.full(10, np.nan)
"""Covalent radii by atomic number, angstrom (Cordero et al. 2008)."""
RADII[[1, 6, 7, 8, 9]] = 0.31, 0.76, 0.71, 0.66, 0.57

_SHORTEST, _LONGEST, _NEAREST = 0.7, 1.25, 1.15  # of covalent radii: bonds, and what is not bonded
_STILL = 1e-6  # angstrom
_TOUCHING, _FAR = 0.55, 4  # of van der Waals radii, for atoms so many bonds apart


def refusals(mol: Chem.Mol, position: np.ndarray, fixed: Sequence[int] = ()) -> tuple[str, ...]:
    """Why positions [n, 3] in angstrom are no conformer of a molecule; empty if they are one.

    Args:
        mol: with all hydrogens and the stereochemistry that is asked for; where it says nothing, any will do.
        position: in the order of its atoms.
        fixed: atoms that must be within 1e-6 angstrom of where the molecule's own coordinates have them.
    """
    if not np.isfinite(position).all():
        return (BROKEN,)
    found = []
    number = np.array([atom.GetAtomicNum() for atom in mol.GetAtoms()])
    if not connected(number, position, Chem.GetAdjacencyMatrix(mol).astype(bool)):
        found.append(BROKEN)
    if clashes(number, position, Chem.GetDistanceMatrix(mol)):
        found.append(CLASHING)
    if not keeps_stereo(mol, position):
        found.append(TURNED)
    if len(fixed) and np.abs(position - mol.GetConformer().GetPositions())[list(fixed)].max() > _STILL:
        found.append(MOVED)
    return tuple(found)


def connected(number: np.ndarray, position: np.ndarray, bonds: np.ndarray) -> bool:
    """Whether atoms [n] at positions [n, 3] are as near as the bonds [n, n] say, and no other two are."""
    radius = RADII[number]
    apart = _distances(position) / (radius[:, None] + radius[None])
    return bool(
        (apart[bonds] < _LONGEST).all() and (apart[bonds] > _SHORTEST).all() and (apart[~bonds] > _NEAREST).all()
    )


def clashes(number: np.ndarray, position: np.ndarray, far: np.ndarray) -> bool:
    """Whether two atoms four or more bonds apart (far [n, n]) are nearer than 0.55 of their van der Waals radii."""
    table = Chem.GetPeriodicTable()
    radius = np.array([table.GetRvdw(int(one)) for one in number])
    return bool((_distances(position)[far >= _FAR] < _TOUCHING * (radius[:, None] + radius[None])[far >= _FAR]).any())


def keeps_stereo(mol: Chem.Mol, position: np.ndarray) -> bool:
    """Whether RDKit finds in the positions the stereochemistry that the molecule says, where it says anything."""
    drawn = with_positions(mol, position)
    with rdBase.BlockLogs():
        Chem.RemoveStereochemistry(drawn)
        Chem.AssignStereochemistryFrom3D(drawn)
        wanted, found = (Chem.RemoveHs(one) for one in (mol, drawn))
    return bool(found.HasSubstructMatch(wanted, useChirality=True))


def with_positions(mol: Chem.Mol, positions: np.ndarray) -> Chem.Mol:
    """A copy of a molecule with one conformer: positions [n, 3] in angstrom."""
    conformer = Chem.Conformer(mol.GetNumAtoms())
    for i, (x, y, z) in enumerate(np.asarray(positions, dtype=np.float64).tolist()):
        conformer.SetAtomPosition(i, Point3D(x, y, z))
    copy = Chem.Mol(mol)
    copy.RemoveAllConformers()
    copy.AddConformer(conformer, assignId=True)
    return copy


def _distances(position: np.ndarray) -> np.ndarray:
    """Distances of all pairs [n, n], infinite on the diagonal."""
    apart: np.ndarray = np.linalg.norm(position[:, None] - position[None], axis=-1)
    np.fill_diagonal(apart, np.inf)
    return apart
