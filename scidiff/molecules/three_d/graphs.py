r"""Molecules as the network of coordinates reads them: classes of atoms and pairs, and the hand of stereocentres.

Hydrogens are atoms. Pairs carry how far apart they are in the graph, the ring they share, and on which sides of a
double bond they lie; a stereocentre carries three of its neighbours and the sign of the volume that they span:

    parity * det[x_a - x, x_b - x, x_c - x] > 0
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from rdkit import Chem

ELEMENTS = (1, 6, 7, 8, 9)
"""Atomic numbers, those of QM9."""

FARTHEST = 8  # bonds; what is farther counts as this far
LARGEST_RING = 7  # atoms; larger rings count as this large
_CHARGE, _DEGREE, _HYDROGENS, _RINGS = 2, 4, 4, 3  # the largest that are told apart
_HYBRID = {Chem.HybridizationType.SP: 1, Chem.HybridizationType.SP2: 2, Chem.HybridizationType.SP3: 3}
_BOND = {Chem.BondType.SINGLE: 1, Chem.BondType.DOUBLE: 2, Chem.BondType.TRIPLE: 3, Chem.BondType.AROMATIC: 4}
_CONJUGATED = 5  # a single bond that is

_RING_SIZES = LARGEST_RING - 1  # none, 3 .. 7
ATOM_CLASSES = (len(ELEMENTS) + 1, 2 * _CHARGE + 1, _DEGREE + 1, _HYDROGENS + 1, 4, 2, _RING_SIZES, _RINGS + 1)
"""Number of classes of each column of `Graph.atom`; class 0 of the first is padding."""
PAIR_CLASSES = (6, FARTHEST + 1, _RING_SIZES, 3)
"""Number of classes of what a pair code is made of: bond, distance in the graph, ring, side of a double bond."""
CIS, TRANS = 1, 2


@dataclass(frozen=True, kw_only=True)
class Graph:
    """A molecule of n atoms.

    Attributes:
        atom: uint8 [n, len(ATOM_CLASSES)]: element, charge, degree, hydrogens, hybridisation, aromaticity, smallest
            ring and number of rings.
        pair: int16 [n, n], codes below prod(PAIR_CLASSES), symmetric.
        centre: uint16 [n, 3], three neighbours of a stereocentre; 0 of others.
        parity: int8 [n], the sign of the volume they span; 0 where there is none.
        kind: uint16 [n]: hydrogens of one atom are of one kind, every other atom is its own.
    """

    atom: np.ndarray
    pair: np.ndarray
    centre: np.ndarray
    parity: np.ndarray
    kind: np.ndarray


def graph_of(mol: Chem.Mol) -> Graph:
    """The graph of a molecule with explicit hydrogens, sanitised, with its stereochemistry assigned.

    Raises:
        KeyError: an element that is not known.
    """
    atoms = list(mol.GetAtoms())
    rings = [np.array(ring) for ring in mol.GetRingInfo().AtomRings()]
    smallest = _smallest_rings(len(atoms), rings)
    element = {number: k + 1 for k, number in enumerate(ELEMENTS)}
    atom, kind = [], []
    for i, one in enumerate(atoms):
        neighbours = one.GetNeighbors()
        hydrogens = sum(other.GetAtomicNum() == 1 for other in neighbours)
        kind.append(neighbours[0].GetIdx() + len(atoms) if one.GetAtomicNum() == 1 and neighbours else i)
        atom.append(
            (
                element[one.GetAtomicNum()],
                min(max(one.GetFormalCharge(), -_CHARGE), _CHARGE) + _CHARGE,
                min(one.GetDegree(), _DEGREE),
                min(hydrogens, _HYDROGENS),
                _HYBRID.get(one.GetHybridization(), 0),
                int(one.GetIsAromatic()),
                smallest[i, i],
                min(mol.GetRingInfo().NumAtomRings(i), _RINGS),
            )
        )
    centre, parity = _stereocentres(mol)
    return Graph(
        atom=np.array(atom, dtype=np.uint8),
        pair=_pairs(mol, smallest),
        centre=centre,
        parity=parity,
        kind=np.array(kind, dtype=np.uint16),
    )


def bonded(pair: np.ndarray) -> np.ndarray:
    """Which pairs of a code are bonds: bool, of its shape."""
    found: np.ndarray = pair >= np.prod(PAIR_CLASSES[1:])
    return found


def _pairs(mol: Chem.Mol, rings: np.ndarray) -> np.ndarray:
    bond, side = (np.zeros(rings.shape, dtype=np.int16) for _ in range(2))
    for one in mol.GetBonds():
        i, j = one.GetBeginAtomIdx(), one.GetEndAtomIdx()
        conjugated = one.GetIsConjugated() and one.GetBondType() == Chem.BondType.SINGLE
        bond[i, j] = bond[j, i] = _CONJUGATED if conjugated else _BOND[one.GetBondType()]
        for a, b, where in _sides(one):
            side[a, b] = side[b, a] = where
    far = np.minimum(Chem.GetDistanceMatrix(mol), FARTHEST).astype(np.int16)
    codes: np.ndarray = ((bond * PAIR_CLASSES[1] + far) * PAIR_CLASSES[2] + rings) * PAIR_CLASSES[3] + side
    return codes


def _sides(bond: Chem.Bond) -> list[tuple[int, int, int]]:
    """Pairs of neighbours across a double bond whose stereochemistry is given, and their side."""
    stereo = bond.GetStereo()
    opposite = stereo in (Chem.BondStereo.STEREOE, Chem.BondStereo.STEREOTRANS)
    if not opposite and stereo not in (Chem.BondStereo.STEREOZ, Chem.BondStereo.STEREOCIS):
        return []
    begin, end = bond.GetStereoAtoms()
    ends = bond.GetBeginAtom(), bond.GetEndAtom()
    others = [
        [n.GetIdx() for n in here.GetNeighbors() if n.GetIdx() != there.GetIdx()] for here, there in (ends, ends[::-1])
    ]
    return [(a, b, TRANS if ((a == begin) == (b == end)) == opposite else CIS) for a in others[0] for b in others[1]]


def _smallest_rings(n: int, rings: list[np.ndarray]) -> np.ndarray:
    """The class of the smallest ring that two atoms share: [n, n], 0 none, 1 of three atoms and so on."""
    smallest = np.zeros((n, n), dtype=np.int16)
    for ring in sorted(rings, key=len, reverse=True):
        smallest[np.ix_(ring, ring)] = min(len(ring), LARGEST_RING) - 2
    return smallest


def _stereocentres(mol: Chem.Mol) -> tuple[np.ndarray, np.ndarray]:
    """Seen from the first neighbour, the others turn counter-clockwise under the tag CCW: their volume is negative."""
    centre = np.zeros((mol.GetNumAtoms(), 3), dtype=np.uint16)
    parity = np.zeros(mol.GetNumAtoms(), dtype=np.int8)
    signs = {Chem.ChiralType.CHI_TETRAHEDRAL_CCW: -1, Chem.ChiralType.CHI_TETRAHEDRAL_CW: 1}
    for atom in mol.GetAtoms():
        sign = signs.get(atom.GetChiralTag(), 0)
        if sign and atom.GetDegree() == 4:
            i = atom.GetIdx()
            centre[i] = [bond.GetOtherAtomIdx(i) for bond in atom.GetBonds()][1:]
            parity[i] = sign
    return centre, parity
