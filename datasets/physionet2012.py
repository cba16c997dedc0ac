#!/usr/bin/env python3
"""PhysioNet/CinC Challenge 2012: 12,000 stays in intensive care, 37 variables over 48 hours (Silva et al. 2012).

Source: https://physionet.org/content/challenge-2012/1.0.0/, licence ODC-By 1.0. Three sets of 4,000 stays (a, b, c).

    python datasets/physionet2012.py                   fetch into the cache (20 MB) and print the folder
    python datasets/physionet2012.py --folder FOLDER   from a folder instead: set-a.tar.gz (or .zip), or set-a/*.txt,
                                                       or set-a-long.csv.gz; and the same for b and c, as far as there
    python datasets/physionet2012.py --sets a b        only some of the sets

The cache holds for each set, with the values as recorded (-1 means unknown):

    set-a-long.csv.gz      RecordID,minute,variable,value    one row a measurement, minute 0 to 2880
    set-a-static.csv.gz    RecordID,Age,Gender,Height,ICUType
    set-a-outcomes.csv     RecordID,SAPS-I,SOFA,Length_of_stay,Survival,In-hospital_death

and manifest.json with the SHA-256 of each. A second call finds them and touches no network. The cache is
`$SCIDIFF_CACHE`, else `$XDG_CACHE_HOME/scidiff`, else `~/.cache/scidiff`.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import io
import json
import re
import shutil
import sys
import tarfile
import tempfile
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from _fetching import DatasetError, cache_folder, finished, say, sha256

SETS = ("a", "b", "c")
URL = "https://physionet.org/files/challenge-2012/1.0.0/"
SHA256 = {
    "set-a.tar.gz": "8cb250f179cd0952b4b9ebcf8954b63d70383131670fac1cfee13deaa13ca920",
    "set-b.tar.gz": "b1637a2a423a8e76f8f087896cfc5fdf28f88519e1f4e874fbda69b2a64dac30",
    "set-c.tar.gz": "a4a56b95bcee4d50a3874fe298bf2998f2ed0dd98a676579573dc10419329ee1",
    "Outcomes-a.txt": "2613ea60ccda29f87571a7d6b09ad130858a8ccd66325bd073365925026883c2",
    "Outcomes-b.txt": "1305f29734da374a809483229a99f33a9230aa8d4fa74b1a2d6ad788136423d5",
    "Outcomes-c.txt": "0b32dcb7753c0f18f2f5fde498a28618b8879c5e527ce0dae8ad120dd7e205c9",
}
STATIC = ("Age", "Gender", "Height", "ICUType")
LONG_HEADER = "RecordID,minute,variable,value"
_RECORD = re.compile(r"(?:^|/)(\d+)\.txt$")
Record = tuple[str, str]  # identity and text of one stay


def fetch(folder: Path | None = None, cache: Path | None = None, sets: Iterable[str] = SETS) -> Path:
    """The folder with the tables of the sets; from the cache if they are there, else from `folder`, else by download.

    Args:
        folder: holds archives, records, or tables (see above); sets that it lacks are left out, but not all.
        cache: default `cache_folder()`.
        sets: which of a, b, c.

    Raises:
        DatasetError: nothing is there, the SHA-256 of an archive is not the published one, a record cannot be read, or
            the download fails.
    """
    kept = (cache_folder() if cache is None else cache) / "physionet2012"
    manifest = json.loads((kept / "manifest.json").read_text()) if (kept / "manifest.json").exists() else {}
    wanted = [name for name in sets if f"set-{name}-long.csv.gz" not in manifest.get("sha256", {})]
    if not wanted:
        return kept
    kept.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=kept.parent, prefix=".physionet2012-") as temporary:
        new = Path(temporary) / "tables"
        new.mkdir()
        if folder is None:
            folder = _download(wanted, Path(temporary))
        elif not folder.is_dir():
            raise DatasetError(f"expected a folder, got {folder}")
        made = [name for name in wanted if _make(name, folder, new)]
        if not made:
            raise DatasetError(
                f"expected set-{wanted[0]}.tar.gz, set-{wanted[0]}/*.txt or set-{wanted[0]}-long.csv.gz in {folder}, "
                f"got {', '.join(sorted(p.name for p in folder.iterdir())[:8]) or 'nothing'}"
            )
        digests = manifest.get("sha256", {}) | {path.name: sha256(path) for path in sorted(new.iterdir())}
        for path in new.iterdir():
            path.replace(kept / path.name)
        record = {"source": URL, "licence": "ODC-By 1.0", "sha256": digests}
        (new / "manifest.json").write_text(json.dumps(record, indent=1) + "\n")
        (new / "manifest.json").replace(kept / "manifest.json")
    return kept


def _download(sets: Iterable[str], folder: Path) -> Path:
    out = folder / "download"
    out.mkdir()
    for name in (f for s in sets for f in (f"set-{s}.tar.gz", f"Outcomes-{s}.txt")):
        say(f"downloading {name}; only this once")
        try:
            with urllib.request.urlopen(URL + name, timeout=60) as here, (out / name).open("wb") as there:
                _copy(here.read, there.write, name, int(here.headers.get("Content-Length") or 0))
        except (OSError, urllib.error.URLError) as error:
            raise DatasetError(
                f"could not download {URL}{name} ({error}); with the files at hand, pass their folder: --folder FOLDER"
            ) from None
    return out


def _copy(read: Callable[[int], bytes], write: Callable[[bytes], object], name: str, total: int) -> None:
    """Copy in pieces; on a terminal tells how far it is."""
    done = 0
    while piece := read(1 << 18):
        write(piece)
        done += len(piece)
        if sys.stderr.isatty() and total:
            sys.stderr.write(f"\r{name} {done / total:.0%}" + ("\n" if done >= total else ""))


def _check(path: Path) -> None:
    found, expected = sha256(path), SHA256.get(path.name)
    if expected is not None and found != expected:
        raise DatasetError(f"expected SHA-256 {expected} of {path.name}, got {found}")


def _make(name: str, folder: Path, out: Path) -> bool:
    """Make the tables of one set from what the folder holds; False if it holds nothing of it."""
    long = folder / f"set-{name}-long.csv.gz"
    if long.exists():
        say(f"copying set {name}")
        with gzip.open(long, "rt", encoding="ascii") as stream:
            header = stream.readline().strip()
        if header != LONG_HEADER:
            raise DatasetError(f"expected the header {LONG_HEADER} in {long}, got {header!r}")
        for kind in ("long.csv.gz", "static.csv.gz", "outcomes.csv"):
            if (folder / f"set-{name}-{kind}").exists():
                shutil.copyfile(folder / f"set-{name}-{kind}", out / f"set-{name}-{kind}")
    else:
        records = _records(name, folder)
        if records is None:
            return False
        say(f"reading set {name}")
        _write(name, records, out)
    outcomes = folder / f"Outcomes-{name}.txt"
    if outcomes.exists():
        _check(outcomes)
        shutil.copyfile(outcomes, out / f"set-{name}-outcomes.csv")
    return True


def _records(name: str, folder: Path) -> Iterator[Record] | None:
    """The stays of a set in order of their number, from an archive or a folder."""
    for suffix, read in ((".tar.gz", _from_tar), (".zip", _from_zip)):
        archive = folder / f"set-{name}{suffix}"
        if archive.exists():
            _check(archive)
            return iter(sorted(read(archive)))
    texts = sorted((folder / f"set-{name}").glob("*.txt"))
    return ((path.stem, path.read_text(encoding="ascii")) for path in texts) if texts else None


def _from_tar(path: Path) -> Iterator[Record]:
    with tarfile.open(path) as archive:
        for member in archive:
            found = _RECORD.search(member.name)
            stream = archive.extractfile(member) if found and member.isfile() else None
            if found and stream is not None:
                yield found[1], stream.read().decode("ascii")


def _from_zip(path: Path) -> Iterator[Record]:
    with zipfile.ZipFile(path) as archive:
        for member in archive.namelist():
            found = _RECORD.search(member)
            if found:
                yield found[1], archive.read(member).decode("ascii")


def _write(name: str, records: Iterable[Record], out: Path) -> None:
    """One row a measurement, in the order of the records, the values as they stand there."""
    rows, static = [LONG_HEADER], [",".join(("RecordID", *STATIC))]
    for number, (identity, text) in enumerate(records, start=1):
        facts: dict[str, str] = {}
        for line, row in enumerate(csv.DictReader(io.StringIO(text)), start=2):
            try:
                hours, minutes = row["Time"].split(":")
                minute, variable, value = 60 * int(hours) + int(minutes), row["Parameter"], row["Value"]
                float(value)
            except (KeyError, ValueError, TypeError, AttributeError):
                raise DatasetError(
                    f"set {name}, {identity}.txt, line {line}: expected Time,Parameter,Value, got {list(row.values())}"
                ) from None
            if variable in STATIC:
                facts[variable] = value
            elif variable and variable != "RecordID":
                rows.append(f"{identity},{minute},{variable},{value}")
        static.append(",".join((identity, *(facts.get(fact, "-1") for fact in STATIC))))
        if sys.stderr.isatty() and number % 100 == 0:
            sys.stderr.write(f"\r{number} stays")
    _write_gzip(out / f"set-{name}-long.csv.gz", rows)
    _write_gzip(out / f"set-{name}-static.csv.gz", static)


def _write_gzip(path: Path, lines: list[str]) -> None:
    # mtime=0: the same bytes whenever it is made
    with path.open("wb") as raw, gzip.GzipFile(fileobj=raw, mode="wb", filename="", mtime=0) as stream:
        stream.write(("\n".join(lines) + "\n").encode("ascii"))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="a folder instead of the download")
    parser.add_argument("--cache", type=Path, help="cache folder")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    chosen = parser.parse_args(arguments)
    return finished(lambda: fetch(chosen.folder, chosen.cache, chosen.sets))


if __name__ == "__main__":
    sys.exit(main())
