"""Molecules with coordinates judged as they are, before any relaxation."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np
from rdkit import Chem, rdBase

from scidiff.errors import UserError
from scidiff.molecules.readers import structures
from scidiff.molecules.three_d import busting
from scidiff.molecules.three_d.judging import Judged, judged
from scidiff.molecules.three_d.shapes import distances, shapes
from scidiff.molecules.three_d.stability import VALENCE

UNREADABLE, FLAT = "not a valid structure", "no 3-D coordinates"
STRANGE = "elements other than H, C, N, O, F: no rule of stability"


@dataclass(frozen=True, kw_only=True)
class Evaluation3D:
    """Shares over all records, those that are refused included as failures, unless said otherwise.

    Attributes:
        records: structures in the file.
        refused: number and reason of those without a geometry that the rules know.
        stable_atoms, stable_molecules: by EDM's rule (`stability`); of atoms, over the records read.
        midi_atoms, midi_molecules, revisited_atoms, revisited_molecules: by two rules that count the bonds as written
            (`valences`).
        valid: the bonds as written are a molecule for RDKit, in one part.
        valid_by_distance: what EDM's rule reads from distances is a molecule for RDKit, its largest part taken.
        bonds: distances agree with the bonds as written, and no others.
        perceived: RDKit finds the written molecule from elements, coordinates and charge alone (xyz2mol).
        unclashed: no two atoms four or more bonds apart touch.
        unique: distinct canonical SMILES, with the stereochemistry of the coordinates, among the valid.
        novel: of the distinct ones without stereochemistry, those not in the training set; NaN without one.
        strain: median energy that relaxing by MMFF94 frees, kcal/mol.
        posebusters: all checks of PoseBusters for single molecules pass; NaN without the package.
        bond_lengths, bond_angles, torsions: distances to a reference, in angstrom and degrees (`shapes`); NaN without.
    """

    records: int
    refused: tuple[tuple[int, str], ...] = field(default=())
    stable_atoms: float
    stable_molecules: float
    midi_atoms: float
    midi_molecules: float
    revisited_atoms: float
    revisited_molecules: float
    valid: float
    valid_by_distance: float
    bonds: float
    perceived: float
    unclashed: float
    unique: float
    novel: float
    strain: float
    posebusters: float = math.nan
    bond_lengths: float = math.nan
    bond_angles: float = math.nan
    torsions: float = math.nan

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
    reference: Path | None = None,
    limit: int | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> Evaluation3D:
    """Judge an SDF file with coordinates and explicit hydrogens.

    Args:
        path: the file, .sdf or .sdf.gz.
        training: SMILES of what was learned from, for novelty.
        reference: an SDF of molecules whose shapes are those wanted.
        limit: judge only the first so many records.
        progress: told of records done.

    Raises:
        UserError: a file cannot be read, or no record of it can be judged.
    """
    mols, refused = _read(path, limit)
    known = None if reference is None else shapes(_read(reference, None)[0])
    results = []
    for done, mol in enumerate(mols, 1):
        results.append(judged(mol))
        progress(done)
    apart = {} if known is None else distances(shapes(mols), known)
    records = len(mols) + len(refused)
    busted = sum(busting.passed(mols)) / records if busting.available() else math.nan
    return Evaluation3D(
        records=records,
        refused=tuple(refused),
        **shares(results, records, training),
        posebusters=busted,
        **{name.replace(" ", "_"): value for name, value in apart.items()},
    )


def _read(path: Path, limit: int | None) -> tuple[list[Chem.Mol], list[tuple[int, str]]]:
    """The molecules that can be judged, and number and reason of the others."""
    mols = [mol for _, mol in islice(structures(path, hydrogens=True), limit)]
    reasons = [_unjudged(mol) for mol in mols]
    refused = [(number, reason) for number, reason in enumerate(reasons, 1) if reason]
    if len(refused) == len(mols):
        first = f"record 1: {refused[0][1]}" if refused else "no records"
        raise UserError(f"expected structures with coordinates in {path}, found none ({first})")
    return [mol for mol, reason in zip(mols, reasons, strict=True) if mol is not None and not reason], refused


def _unjudged(mol: Chem.Mol | None) -> str:
    """Why a structure has no geometry to judge, or empty."""
    if mol is None or mol.GetNumAtoms() == 0:
        return UNREADABLE
    if not mol.GetConformer().Is3D() or not mol.GetConformer().GetPositions().any():
        return FLAT
    return STRANGE if any(atom.GetAtomicNum() not in VALENCE for atom in mol.GetAtoms()) else ""


def shares(results: Sequence[Judged], records: int, training: Iterable[str] | None = None) -> dict[str, float]:
    """The measures of `Evaluation3D` that need no more than single molecules, of so many records."""
    valid = [one for one in results if one.valid]
    distinct = {one.flat for one in valid}
    strains = np.array([one.strain for one in results])
    found = {}
    for rule in ("stable", "midi", "revisited"):
        atoms = [getattr(one, rule) for one in results]
        found[f"{rule}_atoms"] = float(np.concatenate(atoms).mean())
        found[f"{rule}_molecules"] = sum(bool(one.all()) for one in atoms) / records
    return found | {
        "valid": len(valid) / records,
        "valid_by_distance": sum(bool(one.by_distance) for one in results) / records,
        "bonds": sum(one.bonds for one in results) / records,
        "perceived": sum(one.perceived for one in results) / records,
        "unclashed": sum(one.unclashed for one in results) / records,
        "unique": len({one.smiles for one in valid}) / max(len(valid), 1),
        "novel": math.nan if training is None else _share_new(distinct, training),
        "strain": float(np.nanmedian(strains)) if np.isfinite(strains).any() else math.nan,
    }


def _share_new(distinct: set[str], training: Iterable[str]) -> float:
    with rdBase.BlockLogs():
        read = (Chem.MolFromSmiles(smiles) for smiles in training)
        known = {Chem.MolToSmiles(mol, isomericSmiles=False) for mol in read if mol is not None}
    return len(distinct - known) / max(len(distinct), 1)
