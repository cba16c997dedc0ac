"""The ways to write a molecule that the benchmark compares."""

from __future__ import annotations

import csv
import gzip
import importlib
import json
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from rdkit import Chem

from scidiff.molecules.oracle import read_molecule

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def benchmark() -> Iterator[ModuleType]:
    sys.path.insert(0, str(ROOT / "benchmarks"))
    yield importlib.import_module("molecules_representation")
    sys.path.remove(str(ROOT / "benchmarks"))


@pytest.fixture(scope="module")
def smiles() -> list[str]:
    with gzip.open(ROOT / "datasets" / "moses" / "sample.csv.gz", "rt") as stream:
        return [row["smiles"] for row in csv.DictReader(stream)][:400]


def merged_one_by_one(row: list[int], first: int, second: int, token: int) -> list[int]:
    done: list[int] = []
    place = 0
    while place < len(row):
        pair = row[place : place + 2] == [first, second]
        done.append(token if pair else row[place])
        place += 2 if pair else 1
    return done


def test_pairs_are_joined_from_the_left(benchmark: ModuleType) -> None:
    source = random.Random(0)
    for _ in range(300):
        row = [-1, *source.choices([0, 0, 0, 1, 2, -1], k=source.randint(1, 30))]
        for first, second in ((0, 0), (0, 1), (2, 0)):
            found = benchmark._merged(np.array(row), first, second, 9).tolist()
            assert found == merged_one_by_one(row, first, second, 9)


@pytest.mark.parametrize("size", [None, 120])
def test_selfies_pieces_come_back_and_whatever_is_drawn_is_a_molecule(
    benchmark: ModuleType, smiles: list[str], size: int | None
) -> None:
    pytest.importorskip("selfies")
    way = benchmark.Pieces(smiles[:300], size)
    assert way.classes == len(way.symbols) if size is None else way.classes == size
    rows = way.encode([smiles[0], "[Xe]", *smiles[300:]])
    assert rows[1] is None  # a symbol that was not seen
    for text, row in zip([smiles[0], *smiles[300:]], [rows[0], *rows[2:]], strict=True):
        if row is not None:
            assert way.decode(row) == Chem.CanonSmiles(text)
    known = [row for row in rows if row is not None]
    assert len(known) > 95
    per_molecule = np.mean([len(row) for row in known])
    assert per_molecule > 30 if size is None else per_molecule < 20
    source = random.Random(1)
    for _ in range(100):
        # Symbols with hydrogens of their own can leave an atom short of bonds: RDKit reads it, the oracle does not.
        problem = read_molecule(way.decode(source.choices(range(way.classes), k=12)))[1]
        assert problem in ("", "empty", "no atoms", "radical")


@pytest.mark.slow
def test_the_quick_benchmark_runs(tmp_path: Path) -> None:
    pytest.importorskip("selfies")
    script = ROOT / "benchmarks" / "molecules_representation.py"
    command = [sys.executable, str(script), "--quick", "--json", str(tmp_path / "r.json")]
    subprocess.run(command, check=True, timeout=280, capture_output=True)
    (table,) = json.loads((tmp_path / "r.json").read_text())["tables"]
    assert [row[0] for row in table["rows"]] == ["fragments", "SELFIES pieces", "SELFIES symbols"]
    assert all(len(row) == len(table["columns"]) for row in table["rows"])
