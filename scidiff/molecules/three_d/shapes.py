r"""Bond lengths, bond angles and torsions by kind, and how far two sets of molecules are apart in them.

    W_1(kind) = integral of |F(x) - G(x)| dx,    distance = sum over kinds of share(kind) W_1(kind)

with the shares of the reference (Vignac et al., MiDi, 2023), over kinds of which both sets have some. A torsion is
taken without its sign, for a molecule and its mirror image have the same shape.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from rdkit import Chem
from scipy.stats import wasserstein_distance

FEWEST = 10  # values of a kind in either set
NAMES = ("bond lengths", "bond angles", "torsions")
"""In angstrom, degrees and degrees."""

Kinds = Mapping[tuple[object, ...], np.ndarray]
Shapes = tuple[Kinds, Kinds, Kinds]
"""Values of each kind of bond, angle and torsion."""


@dataclass(frozen=True, kw_only=True)
class _Places:
    """Atoms of bonds [k, 2], of angles [k, 3] with the middle second, or of torsions [k, 4], and their kinds."""

    atoms: list[tuple[int, ...]]
    kinds: list[tuple[object, ...]]


def shapes(mols: Iterable[Chem.Mol]) -> Shapes:
    """What molecules with one conformer and explicit hydrogens have."""
    found: tuple[dict[tuple[object, ...], list[float]], ...] = ({}, {}, {})
    for mol in mols:
        x = mol.GetConformer().GetPositions()
        for kept, places, measure in zip(found, _places(mol), (_lengths, _angles, _torsions), strict=True):
            if places.atoms:
                values = measure(x[np.array(places.atoms)].swapaxes(0, 1))
                for kind, value in zip(places.kinds, values.tolist(), strict=True):
                    kept.setdefault(kind, []).append(value)
    bonds, angles, torsions = ({kind: np.array(values) for kind, values in part.items()} for part in found)
    return bonds, angles, torsions


def distances(given: Shapes, reference: Shapes) -> dict[str, float]:
    """Distances by name of `NAMES`; NaN where no kind is in both sets."""
    return {name: _distance(a, b) for name, a, b in zip(NAMES, given, reference, strict=True)}


def _distance(given: Kinds, reference: Kinds) -> float:
    shared = [k for k, x in reference.items() if len(x) >= FEWEST and len(given.get(k, ())) >= FEWEST]
    if not shared:
        return float("nan")
    weights = np.array([len(reference[kind]) for kind in shared])
    apart = [wasserstein_distance(given[kind], reference[kind]) for kind in shared]
    return float(np.average(apart, weights=weights))


def _places(mol: Chem.Mol) -> tuple[_Places, _Places, _Places]:
    number = [atom.GetAtomicNum() for atom in mol.GetAtoms()]
    beside = [[other.GetIdx() for other in atom.GetNeighbors()] for atom in mol.GetAtoms()]
    bonds, angles, torsions = (_Places(atoms=[], kinds=[]) for _ in range(3))
    for bond in mol.GetBonds():
        i, j = bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()
        kind = (*sorted((number[i], number[j])), str(bond.GetBondType()))
        bonds.atoms.append((i, j))
        bonds.kinds.append(kind)
        for a in beside[i]:
            for b in beside[j]:
                if len({a, i, j, b}) == 4 and number[a] > 1 and number[b] > 1:
                    torsions.atoms.append((a, i, j, b))
                    torsions.kinds.append((*kind, bond.IsInRing()))
    for atom in mol.GetAtoms():
        j = atom.GetIdx()
        for a, b in combinations(beside[j], 2):
            angles.atoms.append((a, j, b))
            angles.kinds.append((*sorted((number[a], number[b])), number[j], str(atom.GetHybridization())))
    return bonds, angles, torsions


def _lengths(x: np.ndarray) -> np.ndarray:
    found: np.ndarray = np.linalg.norm(x[0] - x[1], axis=-1)
    return found


def _angles(x: np.ndarray) -> np.ndarray:
    a, b = x[0] - x[1], x[2] - x[1]
    sine = np.linalg.norm(np.cross(a, b), axis=-1)
    found: np.ndarray = np.degrees(np.arctan2(sine, (a * b).sum(-1)))
    return found


def _torsions(x: np.ndarray) -> np.ndarray:
    """Between 0 and 180 degrees, 0 where the ends are on one side."""
    axis = x[2] - x[1]
    first, second = np.cross(x[1] - x[0], axis), np.cross(axis, x[3] - x[2])
    sine = np.linalg.norm(np.cross(first, second), axis=-1)
    found: np.ndarray = np.degrees(np.arctan2(sine, (first * second).sum(-1)))
    return found
