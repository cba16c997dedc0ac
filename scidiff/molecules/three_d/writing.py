"""Conformers as SDF, and refused records as a table."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

import rdkit

from scidiff import atomic
from scidiff.errors import UserError, one_line
from scidiff.molecules.three_d.conformers import ConformerRun, Ensemble
from scidiff.molecules.three_d.oracle import with_positions
from scidiff.molecules.three_d.records import Refused
from scidiff.molecules.writers import sdf_block

ORACLE = f"distances and rdkit {rdkit.__version__}"


def sdf(ensembles: Iterable[Ensemble], seed: int) -> str:
    """All conformers, molecule by molecule; data items are those that the molecule had, and where it comes from.

    The latter are record, draw, seed and what certified it.
    """
    blocks = []
    for one in ensembles:
        for conformer in one.conformers:
            mol = with_positions(one.record.mol, conformer.position)
            mol.SetProp("_Name", one.record.name)
            items = mol.GetPropsAsDict(autoConvertStrings=False)
            items |= {"record": one.record.number, "draw": conformer.draw, "seed": seed, "oracle": ORACLE}
            blocks.append(sdf_block(mol, items))
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
