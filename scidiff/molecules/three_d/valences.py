"""Two published rules of stability that count the bonds as written, by element and formal charge.

MiDi (Vignac et al. 2023), as its code counts: an aromatic bond is one, and neutral carbon may have three bonds,
neutral nitrogen two. "GEOM-Drugs revisited" (Nikitin et al. 2025) holds that against it, and tells pairs apart: how
many aromatic bonds there are, and what the orders of the others add up to.
"""

from __future__ import annotations

import numpy as np
from rdkit import Chem

_MIDI: dict[int, dict[int, tuple[int, ...]]] = {
    1: {0: (1,), 1: (0,), -1: (0,)},
    6: {0: (3, 4), 1: (3,), -1: (3,)},
    7: {0: (2, 3), 1: (2, 3, 4), -1: (2,)},
    8: {0: (2,), 1: (3,), -1: (1,)},
    9: {0: (1,), -1: (0,)},
}
_REVISITED: dict[int, dict[int, tuple[tuple[int, int], ...]]] = {
    1: {0: ((0, 1),)},
    6: {0: ((0, 4), (2, 1), (2, 2), (3, 0)), 1: ((0, 3), (2, 1), (3, 0)), -1: ((0, 3), (2, 1), (3, 0))},
    7: {
        0: ((0, 3), (2, 0), (2, 1), (3, 0)),
        1: ((0, 4), (2, 0), (2, 1), (2, 2), (3, 0)),
        -1: ((0, 2), (2, 0)),
        -2: ((0, 1),),
    },
    8: {0: ((0, 2), (2, 0)), 1: ((0, 3),), -1: ((0, 1),)},
    9: {0: ((0, 1),)},
}


def stable_by_midi(mol: Chem.Mol) -> np.ndarray:
    """Which atoms (H, C, N, O, F) MiDi finds stable: bool [n]; a charge that it does not know counts as none."""
    found = []
    for atom, (aromatic, others) in _counted(mol):
        allowed = _MIDI[atom.GetAtomicNum()]
        found.append(aromatic + others in allowed.get(atom.GetFormalCharge(), allowed[0]))
    return np.array(found)


def stable_as_revisited(mol: Chem.Mol) -> np.ndarray:
    """Which atoms (H, C, N, O, F) have aromatic bonds and others as molecules have them: bool [n]."""
    return np.array(
        [pair in _REVISITED[atom.GetAtomicNum()].get(atom.GetFormalCharge(), ()) for atom, pair in _counted(mol)]
    )


def _counted(mol: Chem.Mol) -> list[tuple[Chem.Atom, tuple[int, int]]]:
    """Every atom with the number of its aromatic bonds and the sum of the orders of the others."""
    found = []
    for atom in mol.GetAtoms():
        bonds = atom.GetBonds()
        aromatic = sum(bond.GetIsAromatic() for bond in bonds)
        orders = sum(bond.GetBondTypeAsDouble() for bond in bonds if not bond.GetIsAromatic())
        found.append((atom, (aromatic, round(orders) + atom.GetNumExplicitHs())))
    return found
