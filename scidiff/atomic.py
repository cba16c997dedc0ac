"""Files that are there whole or not at all: written under another name, flushed to the disk, then renamed."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from scidiff.errors import UserError, one_line


def sha256(path: Path) -> str:
    """The SHA-256 of a file, as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def flush(path: Path) -> None:
    """Have the disk hold a file, or the entries of a folder, before going on."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write(path: Path, save: Callable[[Path], object]) -> None:
    """Replace one file: `save` writes it under another name in the same folder, then the name is changed."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        save(temporary)
        flush(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    flush(path.parent)


def check_writable(path: str | Path) -> None:
    """Try, before any work starts, whether a file can be made at this place. Leaves nothing behind.

    Raises:
        UserError: the folder is missing or cannot be written to, or the path is a folder.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        if path.is_dir():
            raise UserError(f"cannot write {path}: it is a folder")
        temporary.touch(exist_ok=False)
        temporary.unlink()
    except OSError as error:
        raise UserError(f"cannot write {path}: {one_line(error)}") from error


def check_folder(path: str | Path, mark: str) -> None:
    """Try, before any work starts, whether a folder can be made at this place, or one of the same kind replaced.

    Args:
        path: of the folder.
        mark: the file that every folder of this kind holds.

    Raises:
        UserError: a file is there, or a folder of something else, or it cannot be written.
    """
    path = Path(path)
    try:
        if path.exists() and not path.is_dir():
            raise UserError(f"cannot write {path}: expected a folder or nothing there, got a file")
        if path.is_dir() and any(path.iterdir()) and not (path / mark).exists():
            raise UserError(f"cannot write {path}: expected a new folder or one with {mark}, got one with other files")
        above = next(one for one in path.absolute().parents if one.exists())
        check_writable(above / path.name if not path.exists() else path / mark)
    except OSError as error:
        raise UserError(f"cannot write {path}: {one_line(error)}") from error


def write_text(path: Path, text: str) -> None:
    """Replace one file by UTF-8 text."""
    write(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


@contextmanager
def growing(path: Path) -> Iterator[TextIO]:
    """Replace one file by the UTF-8 text written in the block, if it ends without an error and any was written."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            yield file
        if temporary.stat().st_size:
            flush(temporary)
            temporary.replace(path)
            flush(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, record: Any) -> None:
    """Replace one file by a JSON document; floats keep every bit."""
    write_text(path, json.dumps(record, indent=1, sort_keys=False) + "\n")


@contextmanager
def folder(path: Path) -> Iterator[Path]:
    """Replace one folder: yields an empty one beside it, which takes its name if the block ends without an error.

    A process killed at any instant leaves the old folder or the new one under this name, or, between two renames, the
    old one under `.NAME.old`; never a mixture.
    """
    temporary, old = path.with_name(f".{path.name}.part"), path.with_name(f".{path.name}.old")
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
        for file in temporary.iterdir():
            flush(file)
        flush(temporary)
        shutil.rmtree(old, ignore_errors=True)
        if path.exists():
            path.rename(old)
        temporary.rename(path)
        flush(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)
