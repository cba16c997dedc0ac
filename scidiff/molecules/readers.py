"""SMILES from files: `.smi`, `.txt`, `.csv`, `.sdf`, each with or without `.gz`, and `.parquet`."""

from __future__ import annotations

import csv
import gzip
import io
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from rdkit import Chem, rdBase

from scidiff.errors import UserError, one_line

_SUFFIXES = (".smi", ".txt", ".csv", ".sdf", ".parquet")


def read_smiles(path: str | Path) -> list[str]:
    """The SMILES of a file, one a molecule, as they stand there; an empty text for a structure that cannot be read.

    Text files hold one SMILES a line, anything after white space is a name; tables have a column `smiles` (in any
    case).

    Raises:
        UserError: the file is missing, of an unknown kind, without a column `smiles`, or holds no molecules.
    """
    return [smiles for _, smiles in read_rows(path)]


def read_rows(path: str | Path) -> list[tuple[int, str]]:
    """As `read_smiles`, each with where it stands: the line of a text file, the number of a structure or row, from 1.

    Raises:
        UserError: as `read_smiles`.
    """
    path = Path(path)
    kind = kind_of(path, _SUFFIXES)
    if kind == ".parquet":
        found = list(enumerate(_from_parquet(path), 1))
    elif kind == ".sdf":
        found = [(number, "" if mol is None else Chem.MolToSmiles(mol)) for number, mol in structures(path)]
    elif kind == ".csv":
        found = _from_csv(path)
    else:
        lines = enumerate(decoded(path).splitlines(), 1)
        found = [(number, line.split()[0]) for number, line in lines if line.strip()]
    if not found:
        raise UserError(f"expected molecules in {path}, found none")
    return found


def kind_of(path: Path, endings: Iterable[str]) -> str:
    """The ending of a file name, `.gz` left out; UserError if it is none of these."""
    name = path.name.lower().removesuffix(".gz")
    for ending in endings:
        if name.endswith(ending):
            return ending
    raise UserError(f"expected a file ending in {', '.join(endings)} (.gz too), got {str(path)!r}")


def content(path: Path) -> bytes:
    """The bytes of a file, those that were packed by gzip unpacked; UserError if it cannot be read."""
    try:
        found = path.read_bytes()
        return gzip.decompress(found) if path.suffix.lower() == ".gz" else found
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"cannot read {path}: {one_line(error)}") from error


def decoded(path: Path) -> str:
    """The text of a file in UTF-8, without a byte-order mark; UserError if it cannot be read."""
    try:
        return content(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"cannot read {path}: {one_line(error)}") from error


def structures(path: Path, *, hydrogens: bool = False) -> Iterator[tuple[int, Chem.Mol | None]]:
    """The structures of an SDF, numbered from 1; None for one that RDKit does not read.

    Args:
        path: of the file.
        hydrogens: keep those that are written out.

    Raises:
        UserError: the file cannot be read.
    """
    stream = io.BytesIO(content(path))
    with rdBase.BlockLogs():
        yield from enumerate(Chem.ForwardSDMolSupplier(stream, removeHs=not hydrogens), 1)


def _column(path: Path, names: Iterable[str]) -> str:
    names = list(names)
    for name in names:
        if name.lower() == "smiles":
            return name
    raise UserError(f"expected a column 'smiles' in {path}, got {', '.join(names) or 'no columns'}")


def _from_csv(path: Path) -> list[tuple[int, str]]:
    rows = csv.DictReader(io.StringIO(decoded(path)))
    column = _column(path, rows.fieldnames or [])
    return [(rows.line_num, row[column] or "") for row in rows]


def _from_parquet(path: Path) -> list[str]:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        column = _column(path, parquet.read_schema(path).names)
        values = parquet.read_table(path, columns=[column])[column].to_pylist()
    except (OSError, pa.ArrowInvalid) as error:
        raise UserError(f"cannot read {path}: {one_line(error)}") from error
    return [value or "" for value in values]
