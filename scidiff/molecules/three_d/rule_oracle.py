"""What certifies rules of shape: RDKit's measurements of the finished positions, nothing that the sampler uses."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from rdkit import Chem
from rdkit.Chem import rdMolTransforms
from scipy.spatial.distance import cdist

from scidiff.molecules.three_d.oracle import with_positions
from scidiff.molecules.three_d.rules import PLACED, Rule
from scidiff.molecules.three_d.surroundings import box, read

ALLOWED = 1e-4  # angstrom or degrees, beyond the ends of a range


def broken(rules: Sequence[Rule], mol: Chem.Mol, position: np.ndarray) -> tuple[str, ...]:
    """The rules that positions [n, 3] break, as written."""
    if not rules:
        return ()
    drawn = with_positions(mol, position)
    return tuple(rule.text for rule in rules if not all(within(rule, value) for value in measured(rule, drawn)))


def measured(rule: Rule, mol: Chem.Mol) -> Iterator[float]:
    """What a rule speaks of, of every match in a molecule with one conformer."""
    conformer, table = mol.GetConformer(), Chem.GetPeriodicTable()
    if rule.kind in PLACED:
        yield from _nearest(rule, mol) if rule.kind == "outside" else _beyond(rule, mol)
        return
    for place in rule.places(mol):
        if rule.kind == "planar":
            yield _thickness(conformer.GetPositions()[list(place)])
        elif rule.kind == "angle":
            yield rdMolTransforms.GetAngleDeg(conformer, *place)
        else:
            apart = (conformer.GetAtomPosition(place[0]) - conformer.GetAtomPosition(place[1])).Length()
            radii = sum(table.GetRvdw(mol.GetAtomWithIdx(k).GetAtomicNum()) for k in place)
            yield apart / radii if rule.kind == "clash" else apart


def _nearest(rule: Rule, mol: Chem.Mol) -> list[float]:
    """Of each atom, the least distance to an atom of the surroundings, in van der Waals radii of both."""
    around, table = read(rule.smarts), Chem.GetPeriodicTable()
    radii = np.array([table.GetRvdw(atom.GetAtomicNum()) for atom in mol.GetAtoms()])
    apart = cdist(mol.GetConformer().GetPositions(), around.position)
    found: list[float] = (apart / (radii[:, None] + around.radius)).min(1).tolist()
    return found


def _beyond(rule: Rule, mol: Chem.Mol) -> list[float]:
    """Of each atom, how far it is out of the box, 0 within."""
    low, high = np.asarray(box(rule.smarts)).T
    x = mol.GetConformer().GetPositions()
    found: list[float] = np.maximum(low - x, x - high).clip(0).max(1).tolist()
    return found


def within(rule: Rule, value: float) -> bool:
    """Whether a value that was measured is in the range of the rule."""
    return rule.low - ALLOWED <= value <= rule.high + ALLOWED


def _thickness(x: np.ndarray) -> float:
    """The distance of the farthest point from the plane of least squares."""
    centred = x - x.mean(0)
    normal = np.linalg.svd(centred)[2][-1]
    return float(np.abs(centred @ normal).max())
