"""Bonds and stereochemistry of a molecule that is given as a SMILES and a geometry of atoms in the same order."""

from __future__ import annotations

import numpy as np
from rdkit import Chem, rdBase

from scidiff.molecules.three_d.oracle import connected, with_positions


def match(smiles: str, number: np.ndarray, position: np.ndarray) -> tuple[Chem.Mol | None, str]:
    """The molecule with hydrogens, its geometry and the stereochemistry that the geometry has; or None and why not.

    Heavy atoms stand in the order of the SMILES; each hydrogen goes to the heavy atom that it is nearest to. The
    distances must agree with the bonds (`connected`).

    Args:
        smiles: without stereochemistry.
        number: [n] atomic numbers.
        position: [n, 3] angstrom.
    """
    with rdBase.BlockLogs():
        mol = Chem.MolFromSmiles(smiles)
    if mol is None:
        return None, "not a valid SMILES"
    heavy = np.flatnonzero(number > 1)
    if [atom.GetAtomicNum() for atom in mol.GetAtoms()] != number[heavy].tolist():
        return None, "heavy atoms in another order"
    order = _order(mol, number, position, heavy)
    if order is None:
        return None, "hydrogens on other atoms"
    mol = with_positions(Chem.AddHs(mol), position[order])
    if not connected(number[order], position[order], Chem.GetAdjacencyMatrix(mol).astype(bool)):
        return None, "bonds of another molecule"
    with rdBase.BlockLogs():
        Chem.AssignStereochemistryFrom3D(mol)
    return (None, "an atom turned inside out") if _inverted(mol) else (mol, "")


def _inverted(mol: Chem.Mol) -> bool:
    """Whether all neighbours of a stereocentre lie on one side of it, as in propellanes: its hand is unclear."""
    position = mol.GetConformer().GetPositions()
    for atom in mol.GetAtoms():
        if atom.GetChiralTag() != Chem.ChiralType.CHI_UNSPECIFIED:
            beams = position[[n.GetIdx() for n in atom.GetNeighbors()]] - position[atom.GetIdx()]
            volumes = [np.linalg.det(np.delete(beams, k, axis=0)) * (-1) ** k for k in range(len(beams))]
            if len(beams) == 4 and abs(np.sign(volumes).sum()) != 4:
                return True
    return False


def _order(mol: Chem.Mol, number: np.ndarray, position: np.ndarray, heavy: np.ndarray) -> np.ndarray | None:
    """The atoms in the order of RDKit's `AddHs`: heavy ones, then the hydrogens of each in turn."""
    hydrogens = np.flatnonzero(number == 1)
    wanted = np.array([atom.GetTotalNumHs() for atom in mol.GetAtoms()])
    if len(heavy) == 0 or len(hydrogens) == 0:
        return heavy if len(heavy) and not wanted.any() else None
    apart = np.linalg.norm(position[hydrogens][:, None] - position[heavy][None], axis=-1)
    parent = apart.argmin(1)
    if (np.bincount(parent, minlength=len(heavy)) != wanted).any():
        return None
    return np.concatenate([heavy, hydrogens[np.argsort(parent, kind="stable")]])
