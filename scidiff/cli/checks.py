"""What commands check before any work starts."""

from __future__ import annotations

from pathlib import Path

from scidiff.atomic import check_writable
from scidiff.errors import UserError

PAGES = (".html", ".htm")


def check_file(option: str, path: Path | None, endings: tuple[str, ...]) -> None:
    """UserError if a file is asked for by an option that has another ending or cannot be written."""
    if path is None:
        return
    if not path.name.lower().endswith(endings):
        raise UserError(f"{option}: expected a file name ending in {' or '.join(endings)}, got {str(path)!r}")
    check_writable(path)
