"""Molecules as torch-geometric `Data` and `Batch`, in and out.

    z [n] atomic numbers, charge [n], edge_index [2, 2E] of both directions, bond [2E] of BONDS, pos [n, 3] in angstrom

Stereochemistry is what the positions have; without `pos` nothing is said of it.
"""

from __future__ import annotations

import numpy as np
import torch
from rdkit import Chem, rdBase
from torch_geometric.data import Batch, Data

from scidiff.molecules.three_d.conformers import ConformerRun
from scidiff.molecules.three_d.model import ConformerConfig
from scidiff.molecules.three_d.oracle import with_positions
from scidiff.molecules.three_d.records import Record, Refused, record

BONDS = (Chem.BondType.SINGLE, Chem.BondType.DOUBLE, Chem.BondType.TRIPLE, Chem.BondType.AROMATIC)
"""Bonds by number, from 1."""


def record_of(data: Data, config: ConformerConfig, *, number: int, name: str = "") -> Record | Refused:
    """A molecule to draw conformers of; all hydrogens must be there."""
    editable = Chem.RWMol()
    for z, charge in zip(data.z.tolist(), data.charge.tolist(), strict=True):
        atom = Chem.Atom(z)
        atom.SetFormalCharge(charge)
        atom.SetNoImplicit(True)
        editable.AddAtom(atom)
    for (i, j), bond in zip(data.edge_index.T.tolist(), data.bond.tolist(), strict=True):
        if i < j:
            editable.AddBond(i, j, BONDS[bond - 1])
    mol: Chem.Mol = editable.GetMol()
    try:
        with rdBase.BlockLogs():
            Chem.SanitizeMol(mol)
    except (Chem.MolSanitizeException, ValueError) as error:
        return Refused(number=number, name=name, text=name, reason=" ".join(str(error).split()))
    if data.pos is not None:
        mol = with_positions(mol, data.pos.double().cpu().numpy())
        Chem.AssignStereochemistryFrom3D(mol)
    return record(mol, config, number, name, name)


def data_of(mol: Chem.Mol, position: np.ndarray | None = None, **items: object) -> Data:
    """A molecule with explicit hydrogens, with positions if there are any; `items` become attributes of the data."""
    ends, kinds = [], []
    for bond in mol.GetBonds():
        i, j = bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()
        ends += [(i, j), (j, i)]
        kinds += [BONDS.index(bond.GetBondType()) + 1] * 2
    return Data(
        z=torch.tensor([atom.GetAtomicNum() for atom in mol.GetAtoms()]),
        charge=torch.tensor([atom.GetFormalCharge() for atom in mol.GetAtoms()]),
        edge_index=torch.tensor(ends, dtype=torch.int64).reshape(-1, 2).T.contiguous(),
        bond=torch.tensor(kinds, dtype=torch.int64),
        pos=None if position is None else torch.as_tensor(position, dtype=torch.float32),
        **items,
    )


def batch_of(run: ConformerRun) -> Batch:
    """All conformers of a run, with `record` and `draw` of each."""
    found = [
        data_of(one.record.mol, conformer.position, record=one.record.number, draw=conformer.draw)
        for one in run.ensembles
        for conformer in one.conformers
    ]
    return Batch.from_data_list(found)
