"""The stability rule of EDM (Hoogeboom et al. 2022, appendix C): bonds looked up from distances, valences counted.

A pair is a bond where it is nearer than the typical length and a margin, a double or triple one where it is near enough
for that; an atom is stable if its bonds add up to its valence. Lengths in picometres.
"""

from __future__ import annotations

import numpy as np
from rdkit import Chem, rdBase

VALENCE = {1: 1, 6: 4, 7: 3, 8: 2, 9: 1}
_LENGTHS = (
    {
        (1, 1): 74, (1, 6): 109, (1, 7): 101, (1, 8): 96, (1, 9): 92, (6, 6): 154, (6, 7): 147, (6, 8): 143,
        (6, 9): 135, (7, 7): 145, (7, 8): 140, (7, 9): 136, (8, 8): 148, (8, 9): 142, (9, 9): 142,
    },
    {(6, 6): 134, (6, 7): 129, (6, 8): 120, (7, 7): 125, (7, 8): 121, (8, 8): 121},
    {(6, 6): 120, (6, 7): 116, (6, 8): 113, (7, 7): 110},
)  # fmt: skip
_MARGINS = (10, 5, 3)


def _table() -> np.ndarray:
    """The longest distance of each order, angstrom: [3, 10, 10]; below 0 where there is none."""
    found = np.full((3, 10, 10), -1.0)
    for order, (lengths, margin) in enumerate(zip(_LENGTHS, _MARGINS, strict=True)):
        for (a, b), length in lengths.items():
            found[order, a, b] = found[order, b, a] = (length + margin) / 100
    return found


_LONGEST = _table()


def bond_orders(number: np.ndarray, position: np.ndarray) -> np.ndarray:
    """The order of each pair by distance, 0 for none: [n, n]. Atomic numbers [n] (H, C, N, O, F), positions [n, 3]."""
    apart = np.linalg.norm(position[:, None] - position[None], axis=-1)
    np.fill_diagonal(apart, np.inf)
    near = apart < _LONGEST[:, number[:, None], number[None]]
    orders: np.ndarray = near.sum(0)  # what is near enough for a double bond is so for a single one
    return orders


def stable_atoms(number: np.ndarray, position: np.ndarray) -> np.ndarray:
    """Which atoms have the valence of their element: bool [n]. Charged atoms count as unstable, as in the rule."""
    wanted = np.array([VALENCE[int(one)] for one in number])
    found: np.ndarray = bond_orders(number, position).sum(-1) == wanted
    return found


def read_by_distance(number: np.ndarray, position: np.ndarray) -> str:
    """The SMILES of the largest part of the molecule that the rule's bonds make, hydrogens written out.

    Empty where RDKit takes it for none: EDM's validity. No atom is charged.
    """
    bare = Chem.RWMol()
    for one in number.tolist():
        bare.AddAtom(Chem.Atom(one))
    orders = bond_orders(number, position)
    for i, j in zip(*np.nonzero(np.tril(orders)), strict=True):
        bare.AddBond(int(i), int(j), _TYPES[int(orders[i, j])])
    with rdBase.BlockLogs():
        if Chem.SanitizeMol(bare, catchErrors=True):
            return ""
        return Chem.MolToSmiles(max(Chem.GetMolFrags(bare, asMols=True), key=Chem.Mol.GetNumAtoms))


_TYPES = {1: Chem.BondType.SINGLE, 2: Chem.BondType.DOUBLE, 3: Chem.BondType.TRIPLE}
