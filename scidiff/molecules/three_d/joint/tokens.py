"""Molecules as classes of atoms and of pairs: elements with their formal charge and valence, and orders of bonds.

Hydrogens are atoms, and aromatic systems stand in one Kekulé form, so that a molecule is a molecule if and only if the
orders of the bonds at every atom add up to its valence and all atoms hang together.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from rdkit import Chem, rdBase


@dataclass(frozen=True, kw_only=True)
class AtomClass:
    """A kind of atom.

    Attributes:
        number: atomic number.
        charge: formal charge.
        valence: what the orders of its bonds add up to.
    """

    number: int
    charge: int
    valence: int


CLASSES = tuple(
    AtomClass(number=number, charge=charge, valence=valence)
    for number, charge, valence in (
        (1, 0, 1), (6, 0, 4), (7, 0, 3), (8, 0, 2), (9, 0, 1), (7, 1, 4), (8, -1, 1), (6, -1, 3), (7, -1, 2),
    )
)  # fmt: skip
"""Those of QM9."""

ORDERS = (Chem.BondType.ZERO, Chem.BondType.SINGLE, Chem.BondType.DOUBLE, Chem.BondType.TRIPLE)
"""Classes of pairs: the class is the order."""

_CLASS = {one: k for k, one in enumerate(CLASSES)}


def upper(n: int) -> tuple[np.ndarray, np.ndarray]:
    """The pairs i < j of n atoms, row by row: int64 [n (n - 1) / 2] each."""
    i, j = np.triu_indices(n, 1)
    return i, j


def tokens_of(mol: Chem.Mol) -> tuple[np.ndarray, np.ndarray] | None:
    """Classes of the atoms [n] and of the pairs [n (n - 1) / 2], uint8, of a molecule with all hydrogens.

    None where an atom is of no known class, a radical for one.
    """
    kekule = Chem.Mol(mol)
    Chem.Kekulize(kekule, clearAromaticFlags=True)
    order = np.zeros((mol.GetNumAtoms(),) * 2, dtype=np.uint8)
    for bond in kekule.GetBonds():
        i, j = bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()
        order[i, j] = order[j, i] = round(bond.GetBondTypeAsDouble())
    kinds = [
        AtomClass(number=atom.GetAtomicNum(), charge=atom.GetFormalCharge(), valence=int(valence))
        for atom, valence in zip(kekule.GetAtoms(), order.sum(0), strict=True)
    ]
    if not set(kinds) <= set(_CLASS):
        return None
    return np.array([_CLASS[one] for one in kinds], dtype=np.uint8), order[upper(len(order))]


def molecule_of(atom: np.ndarray, bond: np.ndarray) -> Chem.Mol | None:
    """The molecule of classes of atoms [n] and pairs [n (n - 1) / 2], sanitised; None where RDKit takes it for none.

    RDKit adds no hydrogen of its own: an atom that wants one makes a radical, and no molecule.
    """
    bare = Chem.RWMol()
    for one in atom.tolist():
        new = Chem.Atom(CLASSES[one].number)
        new.SetFormalCharge(CLASSES[one].charge)
        new.SetNoImplicit(True)
        bare.AddAtom(new)
    for i, j, order in zip(*upper(len(atom)), bond.tolist(), strict=True):
        if order:
            bare.AddBond(int(i), int(j), ORDERS[order])
    with rdBase.BlockLogs():
        if Chem.SanitizeMol(bare, catchErrors=True):
            return None
    whole = len(Chem.GetMolFrags(bare)) == 1
    radical = any(one.GetNumRadicalElectrons() for one in bare.GetAtoms())
    return bare.GetMol() if whole and not radical else None
