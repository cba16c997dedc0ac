"""Certified molecules as files: `.smi`, `.csv`, `.parquet` and `.sdf`.

A file is written whole under a temporary name beside its place, forced to disk, and then renamed: it is there complete
or not at all. When the disk fills up, the molecules that fit are kept in a file of another name. Every row carries the
sample's index and seed and its certificate: one column a condition with the violation (0: it holds), and the oracle
that found it. Steered ones carry `log_weight` too, log p / q of the model over the sampler.
"""

from __future__ import annotations

import bisect
import csv
import io
import itertools
import os
import sys
from collections.abc import Callable, Iterator, Mapping
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
        **({"log_weight": "float64"} if generation.weighted else {}),
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
        *([] if molecule.log_weight is None else [molecule.log_weight]),
        certified,
        *molecule.violations.values(),
        ORACLE,
    ]


def write(generation: Generation, path: str | Path) -> None:
    """Write the molecules in the format of the file name (.smi, .csv, .parquet, .sdf), whole or not at all.

    If the disk fills up, the molecules that fit are kept in `NAME.partial.SUFFIX` beside it (not of .parquet, which
    cannot be read without its end), and the error says how many.

    Raises:
        UserError: unknown format, or the file cannot be written.
    """
    kind, path = format_of(path), Path(path)
    if kind == "parquet":
        replace_file(path, lambda stream: _write_parquet(generation, stream))
        return
    try:
        atomic.write(path, lambda temporary: _write_records(generation, kind, path, temporary))
    except OSError as error:
        raise UserError(f"cannot write {path}: {one_line(error)}") from error


def _write_records(generation: Generation, kind: str, path: Path, temporary: Path) -> None:
    """Write record after record; if there is no room for all, keep the whole ones under another name."""
    ends = [0]  # bytes after each record
    try:
        with temporary.open("wb", buffering=0) as stream:
            for record in _RECORDS[kind](generation):
                rest = memoryview(record)
                while rest:  # a full disk may take a part before it refuses the next
                    rest = rest[stream.write(rest) :]
                ends.append(ends[-1] + len(record))
            os.fsync(stream.fileno())
    except OSError as error:
        whole = bisect.bisect_right(ends, temporary.stat().st_size) - 1
        heads = 1 if kind == "csv" else 0
        if whole <= heads:
            raise
        partial = path.with_name(f"{path.stem}.partial{path.suffix}")
        os.truncate(temporary, ends[whole])
        temporary.replace(partial)
        kept = f"the first {whole - heads} of {len(generation.molecules)} certified are in {partial}"
        raise UserError(f"cannot write {path}: {one_line(error)}; {kept}") from error


def write_stdout(generation: Generation, kind: str) -> None:
    """Write the molecules to standard output as `smi` or `csv`.

    Raises:
        UserError: another format, or standard output cannot be written (a full disk, say).
    """
    if kind not in TEXT_FORMATS:
        raise UserError(f"--format: expected smi or csv on standard output, got {kind!r}")
    try:
        for record in _RECORDS[kind](generation):
            sys.stdout.buffer.write(record)
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        # The reader has all it wants (`| head`). Python must not complain again when it closes the stream.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise UserError(f"cannot write standard output: {one_line(error)}") from error


def _smi(generation: Generation) -> Iterator[bytes]:
    """One molecule a line: SMILES, tab, name `seed-index`."""
    for molecule in generation.molecules:
        yield f"{molecule.smiles}\t{name_of(molecule)}\n".encode()


def _csv(generation: Generation) -> Iterator[bytes]:
    """The names of the columns, then one molecule a line."""
    line = io.StringIO()
    table = csv.writer(line, lineterminator="\n")
    for cells in itertools.chain([columns(generation)], map(row, generation.molecules)):
        line.seek(0)
        line.truncate()
        table.writerow(cells)
        yield line.getvalue().encode()


def _write_parquet(generation: Generation, stream: BinaryIO) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    rows = [row(molecule) for molecule in generation.molecules]
    schema = pa.schema([(name, pa.type_for_alias(kind)) for name, kind in columns(generation).items()])
    arrays = [pa.array([r[k] for r in rows], type=kind) for k, kind in enumerate(schema.types)]
    parquet.write_table(pa.Table.from_arrays(arrays, schema=schema), stream)


def _sdf(generation: Generation) -> Iterator[bytes]:
    """Kekule structures with 2-D coordinates; index, seed, properties and certificate as data items."""
    names = columns(generation)
    for molecule in generation.molecules:
        mol = Chem.MolFromSmiles(molecule.smiles)
        if mol is None:
            raise ValueError(f"expected a certified molecule, got {molecule.smiles!r}")
        rdDepictor.Compute2DCoords(mol)
        mol.SetProp("_Name", name_of(molecule))
        yield sdf_block(mol, dict(zip(names, row(molecule), strict=True))).encode()


def sdf_block(mol: Chem.Mol, items: Mapping[str, object]) -> str:
    """The record of a structure file: a molecule with one conformer, and its data items."""
    told = "".join(f">  <{name}>\n{value}\n\n" for name, value in items.items())
    return f"{Chem.MolToMolBlock(mol)}{told}$$$$\n"


def name_of(molecule: Molecule) -> str:
    """`seed-index`: enough to draw the molecule again."""
    return f"{molecule.seed}-{molecule.index}"


_RECORDS: dict[str, Callable[[Generation], Iterator[bytes]]] = {"smi": _smi, "csv": _csv, "sdf": _sdf}
