"""Rules on the shape of molecules, as a user writes them: what is measured, of which atoms, and in which range.

    distance(SMARTS of two atoms) in [2.6, 3.2]        angstrom
    angle(SMARTS of three atoms) <= 115                degrees, at the second atom
    planar(SMARTS) <= 0.05                             angstrom, the atom farthest from their plane
    planar(aromatic) <= 0.05                           of every aromatic ring
    clash >= 0.7                                       distances in van der Waals radii, of atoms four or more bonds off
    outside(pocket.pdb) >= 0.8                         distances to atoms of a file, in van der Waals radii
    inside([0, 12], [-3, 8], [2, 14])                  a box of x, y and z, angstrom

The last two hold of every atom, hydrogens too, and need fixed atoms, which say where in space the molecule is. Where
atoms have map numbers ([N:1]CC[O:2]) only these count, in the order of the numbers. A rule holds of all matches.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from rdkit import Chem, rdBase
from rdkit.Chem import rdDistGeom

from scidiff.errors import UserError
from scidiff.molecules.three_d.surroundings import box, read

FAR = 4  # bonds; from here on atoms can clash
_ATOMS = {"distance": (2, 2), "angle": (3, 3), "planar": (4, 30)}
_MOST = {"distance": 100.0, "angle": 180.0, "planar": 1.0, "clash": 1.0, "outside": 2.0}
_RULE = re.compile(r"\s*(?:(distance|angle|planar|outside)\((.+)\)|(clash))\s*(in|<=|>=|==)\s*(.+?)\s*")
_INSIDE = re.compile(r"\s*inside\((.+)\)\s*")
PLACED = ("outside", "inside")
"""The kinds of rules that speak of places in space."""
_RANGE = re.compile(r"\[\s*([^,\s]+)\s*,\s*([^,\s]+)\s*\]")


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One rule.

    Attributes:
        kind: distance, angle, planar, clash, outside or inside.
        smarts: of the atoms; "aromatic" for aromatic rings, empty for clashes. Of `outside` the file, of `inside` the
            ranges.
        low, high: the range, ends included; one of them may be infinite. `inside` measures how far an atom is out.
        text: as it was written.
    """

    kind: str
    smarts: str
    low: float
    high: float
    text: str

    def places(self, mol: Chem.Mol) -> list[tuple[int, ...]]:
        """The atoms of every match in a molecule with explicit hydrogens."""
        if self.kind == "clash":
            far = np.triu(Chem.GetDistanceMatrix(mol) >= FAR)
            return [(int(i), int(j)) for i, j in np.argwhere(far)]
        if self.kind in PLACED:
            return [(k,) for k in range(mol.GetNumAtoms())]
        if self.smarts == "aromatic":
            rings = mol.GetRingInfo().AtomRings()
            return [ring for ring in rings if all(mol.GetAtomWithIdx(k).GetIsAromatic() for k in ring)]
        pattern = Chem.MolFromSmarts(self.smarts)
        chosen = _chosen(pattern)
        found = mol.GetSubstructMatches(pattern, uniquify=False, useChirality=True, maxMatches=10_000)
        places = [tuple(match[k] for k in chosen) for match in found]
        if self.kind == "planar":
            return sorted({tuple(sorted(place)) for place in places})
        return sorted({min(place, place[::-1]) for place in places})


def parse(texts: Sequence[str]) -> tuple[Rule, ...]:
    """Rules from what a user wrote; UserError says of the first that is none what was expected."""
    return tuple(_parsed(text) for text in texts)


def _parsed(text: str) -> Rule:
    within = _INSIDE.fullmatch(text)
    if within is not None:
        if box(within[1]) is None:
            raise UserError(f"--keep: expected inside([x, x], [y, y], [z, z]) with ascending ranges, got {text!r}")
        return Rule(kind="inside", smarts=within[1], low=-math.inf, high=0.0, text=text.strip())
    found = _RULE.fullmatch(text)
    if found is None:
        raise UserError(
            "--keep: expected distance(SMARTS), angle(SMARTS), planar(SMARTS), clash or outside(FILE) with in [a, b], "
            f"<=, >= or ==, or inside([x, x], [y, y], [z, z]), got {text!r}"
        )
    kind, smarts = found[1] or found[3], (found[2] or "").strip()
    low, high = _bounds(found[4], found[5], text)
    if low > high or not all(0 <= end <= _MOST[kind] for end in (low, high) if math.isfinite(end)):
        raise UserError(f"--keep: expected a range within [0, {_MOST[kind]:g}], got {text!r}")
    if (kind == "planar" and low > 0) or (kind in ("clash", "outside") and high < math.inf):
        raise UserError(f"--keep: expected {kind} with {'<=' if kind == 'planar' else '>='}, got {text!r}")
    if kind == "outside":
        read(smarts)
    elif kind != "clash" and smarts != "aromatic":
        _check_pattern(kind, smarts, text)
    if kind in ("distance", "angle") and smarts == "aromatic":
        raise UserError(f"--keep: expected a SMARTS, got {text!r}")
    return Rule(kind=kind, smarts=smarts, low=low, high=high, text=text.strip())


def _bounds(sign: str, told: str, text: str) -> tuple[float, float]:
    pair = _RANGE.fullmatch(told)
    try:
        if sign == "in" and pair:
            return float(pair[1]), float(pair[2])
        value = float(told) if sign != "in" else math.nan
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise UserError(f"--keep: expected {'[a, b]' if sign == 'in' else 'a number'} after {sign}, got {text!r}")
    return (value if sign != "<=" else -math.inf), (value if sign != ">=" else math.inf)


def _check_pattern(kind: str, smarts: str, text: str) -> None:
    with rdBase.BlockLogs():
        pattern = Chem.MolFromSmarts(smarts)
    if pattern is None or pattern.GetNumAtoms() == 0:
        raise UserError(f"--keep: expected a SMARTS, got {smarts!r} in {text!r}")
    least, most = _ATOMS[kind]
    if not least <= len(_chosen(pattern)) <= most:
        wanted = f"{least}" if least == most else f"{least} to {most}"
        raise UserError(f"--keep: expected {wanted} atoms, got {len(_chosen(pattern))} in {text!r}")


def _chosen(pattern: Chem.Mol) -> list[int]:
    """Those with map numbers in their order; all if none has one."""
    mapped = sorted((atom.GetAtomMapNum(), atom.GetIdx()) for atom in pattern.GetAtoms() if atom.GetAtomMapNum())
    return [k for _, k in mapped] or list(range(pattern.GetNumAtoms()))


def impossible(rules: Sequence[Rule], mol: Chem.Mol) -> str:
    """Why bonds and angles alone rule a distance out, or empty: by RDKit's bounds, a quarter wider."""
    distances = [rule for rule in rules if rule.kind == "distance"]
    if not distances:
        return ""
    bounds = rdDistGeom.GetMoleculeBoundsMatrix(mol)
    for rule in distances:
        for i, j in rule.places(mol):
            near, far = 0.75 * bounds[max(i, j), min(i, j)], 1.25 * bounds[min(i, j), max(i, j)]
            if rule.low > far or rule.high < near:
                return f"{rule.text}: expected a distance that bonds allow, {near:.2f} to {far:.2f} angstrom"
    return ""
