"""Text tables as text: every cell stays as it was written, so that it can be written again without a change."""

from __future__ import annotations

import csv
import gzip
import io
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

import pandas as pd
import pyarrow as pa
import pyarrow.csv as arrow_csv

from scidiff.errors import UserError, one_line

DELIMITERS = (",", ";", "\t", "|")
MISSING = ("", "NA", "N/A", "n/a", "#N/A", "NaN", "nan", "NAN", "null", "NULL", "None", "NaT", "<NA>", ".")
_SNIFFED = 1 << 16  # bytes
_BLOCK = 1 << 24  # bytes read at a time


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """How a text table was written.

    Attributes:
        delimiter: one character.
        encoding: Python's name of it.
        newline: what ends a line.
        decimal: the decimal sign.
        compressed: whether it was gzip.
    """

    delimiter: str = ","
    encoding: str = "utf-8"
    newline: str = "\n"
    decimal: str = "."
    compressed: bool = False


def open_bytes(path: Path) -> IO[bytes]:
    """The bytes of a file, uncompressed if its name ends in .gz."""
    return cast(IO[bytes], gzip.open(path, "rb")) if path.name.lower().endswith(".gz") else path.open("rb")


def sniff(path: Path, *, delimiter: str | None, encoding: str | None, decimal: str) -> Dialect:
    """Find out how a text table was written, from its first lines.

    Raises:
        UserError: the file is empty or no text of this encoding, or no delimiter explains its header.
    """
    try:
        with open_bytes(path) as stream:
            head = stream.read(_SNIFFED)
    except (OSError, EOFError) as error:
        raise UserError(f"cannot read {path}: {one_line(error)}") from None
    if not head.strip():
        raise UserError(f"expected a table in {path}, got an empty file")
    encoding = encoding or _encoding(head)
    try:
        # the last bytes may be half a character
        text = head.decode(encoding, errors="strict" if len(head) < _SNIFFED else "ignore")
    except (UnicodeDecodeError, LookupError) as error:
        raise UserError(_not_text(path, encoding, error)) from None
    if "\0" in text:
        raise UserError(f"expected text in {path}, got binary data or another encoding: give --encoding (utf-16, say)")
    header = next(line for line in text.lstrip("\ufeff").splitlines() if line.strip())
    if delimiter is None:
        delimiter = max(DELIMITERS, key=lambda sign: (header.count(sign), -DELIMITERS.index(sign)))
    if delimiter not in header:
        raise UserError(
            f"{path}, header: expected columns separated by {delimiter!r}, got {_short(header)}: "
            "give the right --delimiter"
        )
    return Dialect(
        delimiter=delimiter,
        encoding=encoding,
        newline="\r\n" if "\r\n" in text else "\n",
        decimal=decimal,
        compressed=path.name.lower().endswith(".gz"),
    )


def _encoding(head: bytes) -> str:
    if head.startswith(b"\xef\xbb\xbf"):
        return "utf-8-sig"
    return "utf-16" if head.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8"


def _not_text(path: Path, encoding: str, error: Exception) -> str:
    if isinstance(error, LookupError):
        return f"--encoding: expected the name of an encoding (utf-8, latin-1, ...), got {encoding!r}"
    place = f" at byte {error.start}" if isinstance(error, UnicodeDecodeError) else ""
    return f"expected {encoding} text in {path}, got other bytes{place}: give the right --encoding (latin-1, say)"


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")


def read_text(path: Path, dialect: Dialect) -> pd.DataFrame:
    """All cells as text.

    Raises:
        UserError: rows of different lengths, columns of the same name, bytes of another encoding, or no rows.
    """
    frames = list(stream_text(path, dialect))
    if not frames:
        raise UserError(f"expected rows in {path}, got a header only")
    return pd.concat(frames, ignore_index=True) if len(frames) > 1 else frames[0]


def stream_text(path: Path, dialect: Dialect, *, block: int | None = None) -> Iterator[pd.DataFrame]:
    """A table in pieces of about `block` bytes, all cells as text. Errors as for `read_text`."""
    names = header(path, dialect)
    try:
        with _arrow_stream(path, dialect) as stream:
            reader = arrow_csv.open_csv(
                stream,
                read_options=arrow_csv.ReadOptions(block_size=block or _BLOCK, column_names=names, skip_rows=1),
                parse_options=arrow_csv.ParseOptions(delimiter=dialect.delimiter, newlines_in_values=False),
                convert_options=arrow_csv.ConvertOptions(
                    column_types=dict.fromkeys(names, pa.large_string()), strings_can_be_null=False, check_utf8=True
                ),
            )
            for batch in reader:
                if batch.num_rows:
                    yield pa.Table.from_batches([batch]).to_pandas(types_mapper=_as_text)
    except (pa.ArrowInvalid, UnicodeError) as error:
        raise UserError(_malformed(path, dialect, error)) from None
    except (OSError, EOFError) as error:
        raise UserError(f"cannot read {path}: {one_line(error)}") from None


@contextmanager
def _arrow_stream(path: Path, dialect: Dialect) -> Iterator[pa.NativeFile]:
    """A text table in UTF-8, as a file of Arrow's own.

    Arrow's threads still read ahead while Python ends, after an error say; one that then needs Python aborts all.
    """
    if dialect.encoding in ("utf-8", "utf-8-sig"):
        with pa.input_stream(str(path), compression="gzip" if dialect.compressed else None) as stream:
            yield stream
        return
    with tempfile.TemporaryDirectory(prefix="scidiff-") as folder:
        held = Path(folder) / "table.csv"
        with (
            open_bytes(path) as came,
            io.TextIOWrapper(came, encoding=dialect.encoding, newline="") as text,
            held.open("w", encoding="utf-8", newline="") as file,
        ):
            shutil.copyfileobj(text, file)
        with pa.input_stream(str(held), compression=None) as stream:
            yield stream


def _as_text(kind: pa.DataType) -> pd.ArrowDtype:
    return pd.ArrowDtype(kind)


def header(path: Path, dialect: Dialect) -> list[str]:
    """Names of the columns. UserError if one stands there twice or has no name."""
    with open_bytes(path) as stream, io.TextIOWrapper(stream, encoding=dialect.encoding, newline="") as text:
        try:
            names = [name.strip() for name in next(csv.reader(text, delimiter=dialect.delimiter))]
        except UnicodeError as error:
            raise UserError(_not_text(path, dialect.encoding, error)) from None
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"{path}, header: expected names that differ, got {name!r} {names.count(name)} times")
    return names


def _malformed(path: Path, dialect: Dialect, error: Exception) -> str:
    message = one_line(error)
    if "UTF8" in message or isinstance(error, UnicodeError):
        return f"expected {dialect.encoding} text in {path}, got other bytes: give the right --encoding (latin-1, say)"
    return f"cannot read {path} as a table with the delimiter {dialect.delimiter!r}: {message}"


def line_of(path: Path, row: int) -> int:
    """The line of a file, from 1, in which a row of its table stands (rows from 0, empty lines do not count)."""
    with open_bytes(path) as stream:
        seen = -2
        for number, line in enumerate(stream, start=1):
            seen += bool(line.strip(b"\r\n"))
            if seen == row:
                return number
    return row + 2
