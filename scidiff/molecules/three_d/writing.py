"""Conformers as SDF, and refused records as a table."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

import rdkit
from rdkit import Chem

from scidiff import atomic
from scidiff.errors import UserError, one_line
from scidiff.molecules.three_d.conformers import ConformerRun, Ensemble
from scidiff.molecules.three_d.oracle import with_positions
from scidiff.molecules.three_d.records import Refused

ORACLE = f"distances and rdkit {rdkit.__version__}"


def sdf(ensembles: Iterable[Ensemble], seed: int) -> str:
    """All conformers, molecule by molecule, with record, draw, seed and what certified them as data items."""
    blocks = []
    for one in ensembles:
        for conformer in one.conformers:
            mol = with_positions(one.record.mol, conformer.position)
            mol.SetProp("_Name", one.record.name)
            items = {"record": one.record.number, "draw": conformer.draw, "seed": seed, "oracle": ORACLE}
            told = "".join(f">  <{name}>\n{value}\n\n" for name, value in items.items())
            blocks.append(f"{Chem.MolToMolBlock(mol)}{told}$$$$\n")
    return "".join(blocks)


def write(run: ConformerRun, path: Path) -> None:
    """Write the conformers of a run, whole or not at all; UserError if they cannot be."""
    replace(path, sdf(run.ensembles, run.seed))


def write_refused(records: Iterable[Refused], path: Path) -> None:
    """Write refused records: record,name,text,reason."""
    table = io.StringIO()
    rows = csv.writer(table, lineterminator="\n")
    rows.writerow(["record", "name", "text", "reason"])
    rows.writerows([one.number, one.name, one.text, one.reason] for one in records)
    replace(path, table.getvalue())


@contextmanager
def growing(path: Path) -> Iterator[TextIO]:
    """As `atomic.growing`; UserError if the file cannot be written."""
    try:
        with atomic.growing(path) as file:
            yield file
    except OSError as error:
        raise UserError(f"cannot write {path}: {one_line(error)}") from error


def replace(path: Path, text: str) -> None:
    """Replace one file by text, whole or not at all; UserError if it cannot be."""
    try:
        atomic.write_text(path, text)
    except OSError as error:
        raise UserError(f"cannot write {path}: {one_line(error)}") from error
