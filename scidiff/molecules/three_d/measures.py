"""Measures of geometries: distance to a reference, and the energy that relaxing would free."""

from __future__ import annotations

import math

import numpy as np
from rdkit import Chem, rdBase
from rdkit.Chem import rdForceFieldHelpers, rdMolAlign

from scidiff.molecules.three_d.oracle import with_positions

MATCHES = 100_000  # symmetric ways to lay one molecule on itself that are tried
RELAXATION = 2000  # steps


def rmsd(mol: Chem.Mol, position: np.ndarray, reference: np.ndarray) -> float:
    """Root mean square distance of heavy atoms, angstrom, after the best superposition and reordering of equal ones."""
    probe, other = (Chem.RemoveHs(with_positions(mol, x), sanitize=False) for x in (position, reference))
    return float(rdMolAlign.GetBestRMS(probe, other, maxMatches=MATCHES))


def relaxed(mol: Chem.Mol, position: np.ndarray) -> tuple[np.ndarray, float]:
    """Positions relaxed by MMFF94, and the energy in kcal/mol that it freed; NaN where MMFF has no parameters."""
    copy = with_positions(mol, position)
    with rdBase.BlockLogs():
        properties = rdForceFieldHelpers.MMFFGetMoleculeProperties(copy)
        if properties is None:
            return position, math.nan
        field = rdForceFieldHelpers.MMFFGetMoleculeForceField(copy, properties)
    before = field.CalcEnergy()
    field.Minimize(maxIts=RELAXATION)
    return copy.GetConformer().GetPositions(), before - field.CalcEnergy()


def bond_error(mol: Chem.Mol, position: np.ndarray, reference: np.ndarray) -> float:
    """Mean absolute difference of bond lengths, angstrom."""
    ends = np.array([(bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()) for bond in mol.GetBonds()])
    lengths = [np.linalg.norm(x[ends[:, 0]] - x[ends[:, 1]], axis=-1) for x in (position, reference)]
    return float(np.abs(lengths[0] - lengths[1]).mean())
