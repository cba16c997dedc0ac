"""Molecules with coordinates judged as they are, before any relaxation."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from rdkit import Chem, rdBase
from rdkit.Chem import rdDetermineBonds

from scidiff.errors import UserError, one_line
from scidiff.molecules.three_d.measures import relaxed
from scidiff.molecules.three_d.oracle import clashes, connected
from scidiff.molecules.three_d.stability import VALENCE, stable_atoms

UNREADABLE, FLAT = "not a valid structure", "no 3-D coordinates"
STRANGE = "elements other than H, C, N, O, F: no rule of stability"


@dataclass(frozen=True, kw_only=True)
class Evaluation3D:
    """Shares over all records, those that are refused included as failures, unless said otherwise.

    Attributes:
        records: structures in the file.
        refused: number and reason of those without a geometry that the rules know.
        stable_atoms, stable_molecules: by EDM's rule (`stability`); of atoms, over the records read.
        valid: the bonds as written are a molecule for RDKit, in one part.
        bonds: distances agree with the bonds as written, and no others.
        perceived: RDKit finds the written molecule from elements, coordinates and charge alone (xyz2mol).
        unclashed: no two atoms four or more bonds apart touch.
        unique: distinct canonical SMILES, with the stereochemistry of the coordinates, among the valid.
        novel: of the distinct ones without stereochemistry, those not in the training set; NaN without one.
        strain: median energy that relaxing by MMFF94 frees, kcal/mol.
    """

    records: int
    refused: tuple[tuple[int, str], ...] = field(default=())
    stable_atoms: float
    stable_molecules: float
    valid: float
    bonds: float
    perceived: float
    unclashed: float
    unique: float
    novel: float
    strain: float

    def as_dict(self) -> dict[str, object]:
        """The measures by name, for JSON; what is not known is None."""
        found: dict[str, object] = {
            name: None if isinstance(value, float) and math.isnan(value) else value
            for name, value in vars(self).items()
            if name != "refused"
        }
        return found | {"refused": [{"record": number, "reason": reason} for number, reason in self.refused]}


def evaluate(
    path: Path,
    *,
    training: Iterable[str] | None = None,
    limit: int | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> Evaluation3D:
    """Judge an SDF file with coordinates and explicit hydrogens.

    Args:
        path: the file.
        training: SMILES of what was learned from, for novelty.
        limit: judge only the first so many records.
        progress: told of records done.

    Raises:
        UserError: the file cannot be read, or no record of it can be judged.
    """
    try:
        with path.open("rb") as stream, rdBase.BlockLogs():
            mols = list(Chem.ForwardSDMolSupplier(stream, removeHs=False))[:limit]
    except OSError as error:
        raise UserError(f"cannot read {path}: {one_line(error)}") from error
    refused, judged = [], []
    for number, mol in enumerate(mols, 1):
        reason = _unjudged(mol)
        if reason:
            refused.append((number, reason))
        else:
            judged.append(_judged(mol))
        progress(number)
    if not judged:
        first = f"record 1: {refused[0][1]}" if refused else "no records"
        raise UserError(f"expected structures with coordinates in {path}, found none ({first})")
    return _account(judged, len(mols), tuple(refused), training)


@dataclass(frozen=True, kw_only=True)
class _Judged:
    atoms: np.ndarray
    valid: bool
    bonds: bool
    perceived: bool
    unclashed: bool
    smiles: str
    flat: str
    strain: float


def _unjudged(mol: Chem.Mol | None) -> str:
    """Why a structure has no geometry to judge, or empty."""
    if mol is None or mol.GetNumAtoms() == 0:
        return UNREADABLE
    if not mol.GetConformer().Is3D() or not mol.GetConformer().GetPositions().any():
        return FLAT
    return STRANGE if any(atom.GetAtomicNum() not in VALENCE for atom in mol.GetAtoms()) else ""


def _judged(mol: Chem.Mol) -> _Judged:
    number = np.array([atom.GetAtomicNum() for atom in mol.GetAtoms()])
    position = mol.GetConformer().GetPositions()
    with rdBase.BlockLogs():
        Chem.AssignStereochemistryFrom3D(mol)
        flat = Chem.RemoveHs(mol)
        smiles = Chem.MolToSmiles(flat)
        strain = relaxed(mol, position)[1]
    plain = Chem.MolToSmiles(flat, isomericSmiles=False)
    return _Judged(
        atoms=stable_atoms(number, position),
        valid=len(Chem.GetMolFrags(mol)) == 1,
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


def _account(
    judged: list[_Judged], records: int, refused: tuple[tuple[int, str], ...], training: Iterable[str] | None
) -> Evaluation3D:
    valid = [one for one in judged if one.valid]
    distinct = {one.flat for one in valid}
    strains = np.array([one.strain for one in judged])
    return Evaluation3D(
        records=records,
        refused=refused,
        stable_atoms=float(np.concatenate([one.atoms for one in judged]).mean()),
        stable_molecules=sum(bool(one.atoms.all()) for one in judged) / records,
        valid=len(valid) / records,
        bonds=sum(one.bonds for one in judged) / records,
        perceived=sum(one.perceived for one in judged) / records,
        unclashed=sum(one.unclashed for one in judged) / records,
        unique=len({one.smiles for one in valid}) / max(len(valid), 1),
        novel=math.nan if training is None else _share_new(distinct, training),
        strain=float(np.nanmedian(strains)) if np.isfinite(strains).any() else math.nan,
    )


def _share_new(distinct: set[str], training: Iterable[str]) -> float:
    with rdBase.BlockLogs():
        read = (Chem.MolFromSmiles(smiles) for smiles in training)
        known = {Chem.MolToSmiles(mol, isomericSmiles=False) for mol in read if mol is not None}
    return len(distinct - known) / max(len(distinct), 1)
