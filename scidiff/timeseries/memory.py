"""Whether a file fits into memory."""

from __future__ import annotations

import os
from pathlib import Path

from scidiff.errors import UserError

_TIMES_TEXT = 6  # memory over text: the text itself, its numbers, the panel, and copies of a moment
_PACKED = 6  # text over compressed file


def available_memory() -> int | None:
    """Bytes of memory that are free to use; None where the system does not tell."""
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    return None


def needed_memory(path: str | Path) -> int:
    """Bytes that reading a file whole takes, roughly: its text, its numbers, and the panel."""
    path = Path(path)
    packed = _PACKED if path.name.lower().endswith((".gz", ".parquet", ".pq")) else 1
    return _TIMES_TEXT * packed * path.stat().st_size


def fits_in_memory(path: str | Path) -> bool:
    """Whether a file can be read whole; if not, read it with `stream_panels`."""
    free = available_memory()
    return free is None or needed_memory(path) < free


def check_fits(path: Path) -> None:
    """UserError if a file cannot be read whole."""
    if not fits_in_memory(path):
        gib = needed_memory(path) / 2**30
        free = (available_memory() or 0) / 2**30
        raise UserError(
            f"{path}: expected a file that fits into {free:.1f} GiB of free memory, got one that takes about "
            f"{gib:.1f} GiB: read it by patients (CSV or Parquet, rows of a patient together)"
        )
