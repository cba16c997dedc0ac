"""Molecules of a file, each with its number, its name, and what the network is told of it; or why it is refused."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from rdkit import Chem, rdBase

from scidiff.errors import UserError
from scidiff.molecules.readers import decoded, kind_of, structures
from scidiff.molecules.three_d.graphs import Graph, graph_of
from scidiff.molecules.three_d.model import ConformerConfig
from scidiff.molecules.three_d.oracle import connected
from scidiff.molecules.three_d.rule_oracle import measured, within
from scidiff.molecules.three_d.rules import PLACED, Rule, impossible

LEAST_FIXED = 3  # atoms without which a molecule can turn
LONGEST = 1000  # characters of a SMILES
_SUFFIXES = (".smi", ".txt", ".sdf")


@dataclass(frozen=True, kw_only=True)
class Record:
    """One molecule of a file.

    Attributes:
        number: its place in the file, from 1: the line of a text file, the structure of an SDF.
        name: as the file has it.
        mol: with explicit hydrogens; the atoms of an SDF keep their order.
        graph: what the network is told.
        fixed: atoms that keep the positions that the molecule has.
        rules: on its shape.
    """

    number: int
    name: str
    mol: Chem.Mol
    graph: Graph
    fixed: tuple[int, ...] = ()
    rules: tuple[Rule, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Refused:
    """A record that is no molecule the model knows.

    Attributes:
        number, name: as of `Record`.
        text: what was read: the line, or the name.
        reason: what was expected, what came.
    """

    number: int
    name: str
    text: str
    reason: str


def read(path: Path, config: ConformerConfig) -> list[Record | Refused]:
    """The records of a .smi, .txt or .sdf file, with or without .gz, in their order.

    Raises:
        UserError: the file is missing, of another kind, or empty.
    """
    rows = _sdf(path) if kind_of(path, _SUFFIXES) == ".sdf" else _smi(path)
    found = [record(mol, config, number, name, text) for mol, number, name, text in rows]
    if not found:
        raise UserError(f"expected molecules in {path}, found none")
    return found


def record(mol: Chem.Mol | str, config: ConformerConfig, number: int, name: str, text: str = "") -> Record | Refused:
    """The record of a molecule, or of the reason why there is none."""
    if isinstance(mol, str):
        return Refused(number=number, name=name, text=text, reason=mol)
    reason = unsupported(mol, config)
    if reason:
        return Refused(number=number, name=name, text=text or Chem.MolToSmiles(mol), reason=reason)
    full = Chem.AddHs(mol)
    return Record(number=number, name=name, mol=full, graph=graph_of(full))


def fix(records: Sequence[Record | Refused], smarts: str) -> list[Record | Refused]:
    """The records with the atoms that match a SMARTS fixed; those without one match or without geometry are refused.

    Raises:
        UserError: no SMARTS.
    """
    with rdBase.BlockLogs():
        pattern = Chem.MolFromSmarts(smarts)
    if pattern is None or pattern.GetNumAtoms() == 0:
        raise UserError(f"--fix: expected a SMARTS, got {smarts!r}")
    return [_fixed(one, pattern) if isinstance(one, Record) else one for one in records]


def _fixed(one: Record, pattern: Chem.Mol) -> Record | Refused:
    matches = one.mol.GetSubstructMatches(pattern, useChirality=True, maxMatches=2)
    reason = ""
    if one.mol.GetNumConformers() == 0 or not one.mol.GetConformer().Is3D():
        reason = "expected 3-D coordinates of the atoms that are fixed, got none"
    elif len(matches) != 1:
        reason = f"expected one match of --fix, got {'none' if not matches else 'several'}"
    elif len(matches[0]) == one.mol.GetNumAtoms():
        reason = "expected an atom that is not fixed, got none"
    else:
        atoms = list(matches[0])
        number = np.array([atom.GetAtomicNum() for atom in one.mol.GetAtoms()])[atoms]
        bonds = Chem.GetAdjacencyMatrix(one.mol).astype(bool)[np.ix_(atoms, atoms)]
        if not connected(number, one.mol.GetConformer().GetPositions()[atoms], bonds):
            reason = "expected fixed atoms as far apart as their bonds allow"
    if reason:
        return Refused(number=one.number, name=one.name, text=one.name, reason=reason)
    return replace(one, fixed=matches[0])


def keep(records: Sequence[Record | Refused], rules: Sequence[Rule]) -> list[Record | Refused]:
    """The records under rules of shape, each with those that have a match in it.

    Refused are those in which bonds, or the places of fixed atoms, forbid a rule; and, where a rule speaks of places in
    space, those with fewer than three fixed atoms, which say where the molecule is.
    """
    return [_kept(one, rules) if isinstance(one, Record) else one for one in records]


def held(records: Sequence[Record | Refused], smarts: str | None, rules: Sequence[Rule]) -> list[Record | Refused]:
    """The records under all that a user wants held: `fix`, if there is a SMARTS, then `keep`.

    Raises:
        UserError: no SMARTS, or a rule has a match in no record: it would say nothing.
    """
    found = list(records) if smarts is None else fix(records, smarts)
    read = [one for one in found if isinstance(one, Record)]
    for rule in rules:
        if read and not any(rule.places(one.mol) for one in read):
            raise UserError(f"--keep: expected a molecule with a match of {rule.text!r}, found none")
    return keep(found, rules) if rules else found


def _kept(one: Record, rules: Sequence[Rule]) -> Record | Refused:
    reason = impossible(rules, one.mol) or _settled(one, rules)
    if reason:
        return Refused(number=one.number, name=one.name, text=one.name, reason=reason)
    return replace(one, rules=tuple(rule for rule in rules if rule.places(one.mol)))


def _settled(one: Record, rules: Sequence[Rule]) -> str:
    """Why the places of fixed atoms rule a rule out, or empty."""
    for rule in rules:
        if rule.kind in PLACED and len(one.fixed) < LEAST_FIXED:
            return f"{rule.text}: expected --fix of {LEAST_FIXED} atoms or more, for it speaks of places in space"
        if not one.fixed:
            continue
        values = zip(rule.places(one.mol), measured(rule, one.mol), strict=True)
        if not all(within(rule, value) for place, value in values if set(place) <= set(one.fixed)):
            return f"{rule.text}: expected fixed atoms that keep it"
    return ""


def unsupported(mol: Chem.Mol, config: ConformerConfig) -> str:
    """Why the network cannot be told of a molecule, or empty."""
    parts = len(Chem.GetMolFrags(mol))
    if parts != 1:
        return f"expected one connected molecule, got {parts} parts"
    table = Chem.GetPeriodicTable()
    strange = {atom.GetSymbol() for atom in mol.GetAtoms()} - {table.GetElementSymbol(z) for z in config.elements}
    if strange:
        known = ", ".join(table.GetElementSymbol(z) for z in config.elements)
        return f"expected the elements {known}, got {', '.join(sorted(strange))}"
    if any(atom.GetNumRadicalElectrons() for atom in mol.GetAtoms()):
        return "expected no radicals"
    bonds = {bond.GetBondType() for bond in mol.GetBonds()} - set(_BONDS)
    if bonds:
        return f"expected covalent bonds, got {', '.join(map(str, sorted(bonds)))}"
    size = Chem.AddHs(mol).GetNumAtoms()
    return "" if 3 <= size <= config.largest else f"expected 3 to {config.largest} atoms with hydrogens, got {size}"


_BONDS = (Chem.BondType.SINGLE, Chem.BondType.DOUBLE, Chem.BondType.TRIPLE, Chem.BondType.AROMATIC)


def _smi(path: Path) -> Iterator[tuple[Chem.Mol | str, int, str, str]]:
    for number, line in enumerate(decoded(path).splitlines(), 1):
        smiles, *name = line.split(maxsplit=1)[:2] or [""]
        if not smiles:
            continue
        label = name[0].strip() if name else str(number)
        if len(smiles) > LONGEST:
            yield f"expected at most {LONGEST} characters, got {len(smiles)}", number, label, smiles[:40] + "..."
            continue
        with rdBase.BlockLogs():
            mol = Chem.MolFromSmiles(smiles)
        yield (mol if mol is not None else "not a valid SMILES"), number, label, line.strip()


def _sdf(path: Path) -> Iterator[tuple[Chem.Mol | str, int, str, str]]:
    for number, mol in structures(path, hydrogens=True):
        if mol is None or mol.GetNumAtoms() == 0:
            yield "not a valid structure" if mol is None else "no atoms", number, str(number), f"structure {number}"
            continue
        name = (mol.GetProp("_Name") if mol.HasProp("_Name") else "").strip()
        yield mol, number, name or str(number), name or f"structure {number}"
