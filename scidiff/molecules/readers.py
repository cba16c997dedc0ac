"""SMILES from files: `.smi`, `.txt`, `.csv`, `.csv.gz`, `.parquet` and `.sdf`."""

from __future__ import annotations

import csv
import gzip
import io
from collections.abc import Iterable
from pathlib import Path

from rdkit import Chem, rdBase

from scidiff.errors import UserError, one_line

_SUFFIXES = (".smi", ".txt", ".csv", ".csv.gz", ".parquet", ".sdf")


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
    name = path.name.lower()
    try:
        if name.endswith((".smi", ".txt")):
            lines = enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
            found = [(number, line.split()[0]) for number, line in lines if line.strip()]
        elif name.endswith(".csv"):
            found = _from_csv(path, path.read_bytes())
        elif name.endswith(".csv.gz"):
            found = _from_csv(path, gzip.decompress(path.read_bytes()))
        elif name.endswith(".parquet"):
            found = list(enumerate(_from_parquet(path), 1))
        elif name.endswith(".sdf"):
            found = list(enumerate(_from_sdf(path), 1))
        else:
            raise UserError(f"expected a file ending in {', '.join(_SUFFIXES)}, got {str(path)!r}")
    except (OSError, UnicodeDecodeError, EOFError) as error:
        raise UserError(f"cannot read {path}: {one_line(error)}") from error
    if not found:
        raise UserError(f"expected molecules in {path}, found none")
    return found


def _column(path: Path, names: Iterable[str]) -> str:
    names = list(names)
    for name in names:
        if name.lower() == "smiles":
            return name
    raise UserError(f"expected a column 'smiles' in {path}, got {', '.join(names) or 'no columns'}")


def _from_csv(path: Path, content: bytes) -> list[tuple[int, str]]:
    rows = csv.DictReader(io.StringIO(content.decode("utf-8")))
    column = _column(path, rows.fieldnames or [])
    return [(rows.line_num, row[column] or "") for row in rows]


def _from_parquet(path: Path) -> list[str]:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        column = _column(path, parquet.read_schema(path).names)
        values = parquet.read_table(path, columns=[column])[column].to_pylist()
    except pa.ArrowInvalid as error:
        raise UserError(f"cannot read {path}: {one_line(error)}") from error
    return [value or "" for value in values]


def _from_sdf(path: Path) -> list[str]:
    with path.open("rb") as stream, rdBase.BlockLogs():
        return ["" if mol is None else Chem.MolToSmiles(mol) for mol in Chem.ForwardSDMolSupplier(stream)]
