"""What certifies rules of shape: RDKit's measurements of the finished positions, nothing that the sampler uses."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from rdkit import Chem
from rdkit.Chem import rdMolTransforms

from scidiff.molecules.three_d.oracle import with_positions
from scidiff.molecules.three_d.rules import Rule

ALLOWED = 1e-4  # angstrom or degrees, beyond the ends of a range


def broken(rules: Sequence[Rule], mol: Chem.Mol, position: np.ndarray) -> tuple[str, ...]:
    """The rules that positions [n, 3] break, as written."""
    if not rules:
        return ()
    drawn = with_positions(mol, position)
    return tuple(rule.text for rule in rules if not all(_within(rule, value) for value in measured(rule, drawn)))


def measured(rule: Rule, mol: Chem.Mol) -> Iterator[float]:
    """What a rule speaks of, of every match in a molecule with one conformer."""
    conformer, table = mol.GetConformer(), Chem.GetPeriodicTable()
    for place in rule.places(mol):
        if rule.kind == "planar":
            yield _thickness(conformer.GetPositions()[list(place)])
        elif rule.kind == "angle":
            yield rdMolTransforms.GetAngleDeg(conformer, *place)
        else:
            apart = (conformer.GetAtomPosition(place[0]) - conformer.GetAtomPosition(place[1])).Length()
            radii = sum(table.GetRvdw(mol.GetAtomWithIdx(k).GetAtomicNum()) for k in place)
            yield apart / radii if rule.kind == "clash" else apart


def _within(rule: Rule, value: float) -> bool:
    return rule.low - ALLOWED <= value <= rule.high + ALLOWED


def _thickness(x: np.ndarray) -> float:
    """The distance of the farthest point from the plane of least squares."""
    centred = x - x.mean(0)
    normal = np.linalg.svd(centred)[2][-1]
    return float(np.abs(centred @ normal).max())
