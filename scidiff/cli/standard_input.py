"""Standard input as a file that readers can open."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from scidiff.errors import UserError


@contextmanager
def input_file(file: str | Path) -> Iterator[Path]:
    """The path of a file; of a copy of standard input for `-`, which errors then speak of."""
    if str(file) != "-":
        yield Path(file)
        return
    with tempfile.TemporaryDirectory(prefix="scidiff-") as folder:
        path = _copied(Path(folder))
        try:
            yield path
        except UserError as error:
            raise UserError(str(error).replace(str(path), "standard input")) from None


def _copied(folder: Path) -> Path:
    """Standard input as a file, whose first bytes tell what it is."""
    held = folder / "standard-input"
    with held.open("wb") as file:
        shutil.copyfileobj(sys.stdin.buffer, file)
    with held.open("rb") as file:
        head = file.read(4)
    known = {b"PAR1": ".parquet", b"\x89HDF": ".nc", b"CDF\x01": ".nc", b"CDF\x02": ".nc", b"CDF\x05": ".nc"}
    suffix = ".csv.gz" if head[:2] == b"\x1f\x8b" else known.get(head, ".csv")
    return held.rename(held.with_suffix(suffix))
