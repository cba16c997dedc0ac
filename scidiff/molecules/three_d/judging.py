"""One molecule with coordinates, judged as it is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from rdkit import Chem, rdBase
from rdkit.Chem import rdDetermineBonds

from scidiff.molecules.three_d.measures import relaxed
from scidiff.molecules.three_d.oracle import clashes, connected
from scidiff.molecules.three_d.stability import read_by_distance, stable_atoms
from scidiff.molecules.three_d.valences import stable_as_revisited, stable_by_midi


@dataclass(frozen=True, kw_only=True)
class Judged:
    """What is found of one molecule, as of `evaluation.Evaluation3D`.

    Attributes:
        stable, midi, revisited: which atoms each rule finds stable, bool [n].
        valid: its bonds as written are a molecule for RDKit, in one part.
        by_distance: SMILES of what EDM reads from distances, its largest part; empty if RDKit does not take it.
        bonds, perceived, unclashed, smiles, flat, strain: see there; flat is without stereochemistry.
    """

    stable: np.ndarray
    midi: np.ndarray
    revisited: np.ndarray
    valid: bool
    by_distance: str
    bonds: bool
    perceived: bool
    unclashed: bool
    smiles: str
    flat: str
    strain: float


def judged(mol: Chem.Mol) -> Judged:
    """Judge a sanitised molecule of H, C, N, O, F with all hydrogens and one conformer."""
    mol = Chem.Mol(mol)
    number = np.array([atom.GetAtomicNum() for atom in mol.GetAtoms()])
    position = mol.GetConformer().GetPositions()
    with rdBase.BlockLogs():
        Chem.AssignStereochemistryFrom3D(mol)
        flat = Chem.RemoveHs(mol)
        smiles = Chem.MolToSmiles(flat)
        strain = relaxed(mol, position)[1]
    plain = Chem.MolToSmiles(flat, isomericSmiles=False)
    return Judged(
        stable=stable_atoms(number, position),
        midi=stable_by_midi(mol),
        revisited=stable_as_revisited(mol),
        valid=len(Chem.GetMolFrags(mol)) == 1,
        by_distance=read_by_distance(number, position),
        bonds=connected(number, position, Chem.GetAdjacencyMatrix(mol).astype(bool)),
        perceived=_perceived(mol) == plain,
        unclashed=not clashes(number, position, Chem.GetDistanceMatrix(mol)),
        smiles=smiles,
        flat=plain,
        strain=strain,
    )


def _perceived(mol: Chem.Mol) -> str:
    """The SMILES that RDKit gives to elements, coordinates and charge; empty if it finds no molecule."""
    bare = Chem.RWMol()
    for atom in mol.GetAtoms():
        bare.AddAtom(Chem.Atom(atom.GetAtomicNum()))
    bare.AddConformer(mol.GetConformer(), assignId=True)
    try:
        with rdBase.BlockLogs():
            rdDetermineBonds.DetermineBonds(bare, charge=Chem.GetFormalCharge(mol))
            return Chem.MolToSmiles(Chem.RemoveHs(bare), isomericSmiles=False)
    except (ValueError, RuntimeError):
        return ""
