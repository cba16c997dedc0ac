"""Certified molecules as files: `.smi`, `.csv`, `.parquet` and `.sdf`.

A file is written whole under a temporary name beside its place, forced to disk, and then renamed: it is there complete
or not at all. Every row carries the sample's index and seed and its certificate: one column a condition with the
violation (0: it holds), and the oracle that found it.
"""

from __future__ import annotations

import csv
import io
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import rdkit
from rdkit import Chem
from rdkit.Chem import rdDepictor

from scidiff import atomic
from scidiff.errors import UserError, one_line
from scidiff.molecules.certified import Generation, Molecule
from scidiff.molecules.properties import PROPERTIES, Value

FORMATS = ("smi", "csv", "parquet", "sdf")
TEXT_FORMATS = ("smi", "csv")
ORACLE = f"rdkit {rdkit.__version__}"


def format_of(path: str | Path) -> str:
    """The format that a file name asks for. UserError if it is none of those that are written."""
    suffix = Path(path).suffix.lower().lstrip(".")
    if suffix not in FORMATS:
        known = ", ".join(f".{name}" for name in FORMATS)
        raise UserError(f"expected a file name ending in {known}, got {str(path)!r}")
    return suffix


def check_writable(path: str | Path) -> None:
    """Try, before any work starts, whether a file can be made at this place. Leaves nothing behind.

    Raises:
        UserError: the folder is missing or cannot be written to, or the path is a folder.
    """
    path = Path(path)
    if path.is_dir():
        raise UserError(f"cannot write {path}: it is a folder")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        temporary.touch(exist_ok=False)
        temporary.unlink()
    except OSError as error:
        raise UserError(f"cannot write {path}: {one_line(error)}") from error


def replace_file(path: str | Path, fill: Callable[[BinaryIO], object]) -> None:
    """Replace one file by what `fill` writes to the stream it is given; nothing changes if that fails.

    Raises:
        UserError: the disk is full or the place cannot be written.
    """

    def save(temporary: Path) -> None:
        with temporary.open("wb") as stream:
            fill(stream)

    try:
        atomic.write(Path(path), save)
    except OSError as error:
        raise UserError(f"cannot write {path}: {one_line(error)}") from error


def columns(generation: Generation) -> dict[str, str]:
    """The columns of a table with their Arrow types: index, seed, smiles, properties, certificate."""
    types = {"real": "float64", "count": "int64", "formula": "string"}
    return {
        "index": "int64",
        "seed": "uint64",
        "smiles": "string",
        **{name: types[PROPERTIES[name].kind] for name in generation.properties},
        "certified": "bool",
        **{f"violation_{condition.column}": "float64" for condition in generation.conditions},
        "oracle": "string",
    }


def row(molecule: Molecule) -> list[Value | bool]:
    """The values of one molecule, in the order of `columns`."""
    certified = all(violation == 0.0 for violation in molecule.violations.values())
    return [
        molecule.index,
        molecule.seed,
        molecule.smiles,
        *molecule.values.values(),
        certified,
        *molecule.violations.values(),
        ORACLE,
    ]


def write(generation: Generation, path: str | Path) -> None:
    """Write the molecules in the format of the file name (.smi, .csv, .parquet, .sdf), whole or not at all.

    Raises:
        UserError: unknown format, or the file cannot be written.
    """
    kind = format_of(path)
    replace_file(path, lambda stream: _WRITE[kind](generation, stream))


def write_stdout(generation: Generation, kind: str) -> None:
    """Write the molecules to standard output as `smi` or `csv`.

    Raises:
        UserError: another format, or standard output cannot be written (a full disk, say).
    """
    if kind not in TEXT_FORMATS:
        raise UserError(f"--format: expected smi or csv on standard output, got {kind!r}")
    try:
        _WRITE[kind](generation, sys.stdout.buffer)
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        # The reader has all it wants (`| head`). Python must not complain again when it closes the stream.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise UserError(f"cannot write standard output: {one_line(error)}") from error


def _write_smi(generation: Generation, stream: BinaryIO) -> None:
    """One molecule a line: SMILES, tab, name `seed-index`."""
    for molecule in generation.molecules:
        stream.write(f"{molecule.smiles}\t{name_of(molecule)}\n".encode())


def _write_csv(generation: Generation, stream: BinaryIO) -> None:
    text = io.TextIOWrapper(stream, encoding="utf-8", newline="", write_through=True)
    table = csv.writer(text, lineterminator="\n")
    table.writerow(columns(generation))
    table.writerows(map(row, generation.molecules))
    text.flush()
    text.detach()


def _write_parquet(generation: Generation, stream: BinaryIO) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    rows = [row(molecule) for molecule in generation.molecules]
    schema = pa.schema([(name, pa.type_for_alias(kind)) for name, kind in columns(generation).items()])
    arrays = [pa.array([r[k] for r in rows], type=kind) for k, kind in enumerate(schema.types)]
    parquet.write_table(pa.Table.from_arrays(arrays, schema=schema), stream)


def _write_sdf(generation: Generation, stream: BinaryIO) -> None:
    """Kekule structures with 2-D coordinates; index, seed, properties and certificate as data items."""
    names = columns(generation)
    for molecule in generation.molecules:
        mol = Chem.MolFromSmiles(molecule.smiles)
        if mol is None:
            raise ValueError(f"expected a certified molecule, got {molecule.smiles!r}")
        rdDepictor.Compute2DCoords(mol)
        mol.SetProp("_Name", name_of(molecule))
        items = "".join(
            f">  <{name}>\n{value!r}\n\n" if isinstance(value, float) else f">  <{name}>\n{value}\n\n"
            for name, value in zip(names, row(molecule), strict=True)
        )
        stream.write(f"{Chem.MolToMolBlock(mol)}{items}$$$$\n".encode())


def name_of(molecule: Molecule) -> str:
    """`seed-index`: enough to draw the molecule again."""
    return f"{molecule.seed}-{molecule.index}"


_WRITE: dict[str, Callable[[Generation, BinaryIO], None]] = {
    "smi": _write_smi,
    "csv": _write_csv,
    "parquet": _write_parquet,
    "sdf": _write_sdf,
}
