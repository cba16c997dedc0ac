"""The script that obtains MOSES: checksums, offline reuse, and the vendored sample."""

from __future__ import annotations

import csv
import gzip
import hashlib
import importlib.util
import random
import subprocess
import sys
import zipfile
from collections import Counter
from pathlib import Path
from types import ModuleType

import pytest
from rdkit import Chem

ROOT = Path(__file__).parents[2]
VENDORED = ROOT / "datasets" / "moses"


def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("moses_script", ROOT / "datasets" / "moses.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def moses(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    module = script()

    def no_network(*arguments: object, **options: object) -> None:
        raise AssertionError("expected no process to be started")

    monkeypatch.setattr(subprocess, "run", no_network)
    return module


def published(folder: Path, moses: ModuleType, monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """A small data set in the published form, which the script then takes for the published one."""
    rows = {"train": ["C" * k for k in range(1, 41)], "test": ["N", "CN"], "test_scaffolds": ["O", "CO", "CCO"]}
    digests = {}
    for split, smiles in rows.items():
        path = folder / f"{split}.csv.gz"
        path.write_bytes(gzip.compress(("SMILES\n" + "\n".join(smiles) + "\n").encode()))
        digests[path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setattr(moses, "FILES_SHA256", digests)
    monkeypatch.setattr(moses, "ROWS", {split: len(smiles) for split, smiles in rows.items()})
    return rows


def test_the_vendored_sample_is_what_its_checksum_says() -> None:
    for line in (VENDORED / "SHA256SUMS").read_text().splitlines():
        digest, name = line.split()
        assert hashlib.sha256((VENDORED / name).read_bytes()).hexdigest() == digest
    with gzip.open(VENDORED / "sample.csv.gz", "rt") as stream:
        rows = list(csv.DictReader(stream))
    assert Counter(row["split"] for row in rows) == script().SAMPLE_ROWS
    assert len({row["smiles"] for row in rows}) == 5000
    assert all(Chem.MolFromSmiles(row["smiles"]) is not None for row in rows[::50])
    assert "Permission is hereby granted" in (VENDORED / "LICENSE").read_text()


def test_a_folder_is_checked_kept_and_used_again_without_it(
    moses: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, cache = tmp_path / "source", tmp_path / "cache"
    source.mkdir()
    rows = published(source, moses, monkeypatch)
    folder = moses.fetch(source, cache)
    assert {split: moses.read(split, folder) for split in rows} == rows
    for path in source.iterdir():
        path.unlink()
    assert moses.fetch(None, cache) == folder
    assert sorted(path.name for path in cache.iterdir()) == ["moses"]


def test_a_wheel_is_read_as_an_archive(moses: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "source"
    source.mkdir()
    rows = published(source, moses, monkeypatch)
    wheel = tmp_path / "molsets-0.3.1-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for path in source.iterdir():
            archive.write(path, f"moses/dataset/data/{path.name}")
    with pytest.raises(moses.DatasetError, match=r"expected SHA-256 7f4450e3.* of molsets-0.3.1"):
        moses.fetch(wheel, tmp_path / "cache")
    monkeypatch.setattr(moses, "WHEEL_SHA256", hashlib.sha256(wheel.read_bytes()).hexdigest())
    assert moses.read("test", moses.fetch(wheel, tmp_path / "cache")) == rows["test"]


@pytest.mark.parametrize("damage", ["changed", "missing"])
def test_damaged_data_is_refused_and_nothing_is_kept(
    moses: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    damage: str,
) -> None:
    source, cache = tmp_path / "source", tmp_path / "cache"
    source.mkdir()
    published(source, moses, monkeypatch)
    if damage == "missing":
        (source / "test.csv.gz").unlink()
    else:
        (source / "test.csv.gz").write_bytes(b"something else")
    assert moses.main(["--from", str(source), "--cache", str(cache)]) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert len(errors) == 1
    assert "test.csv.gz" in errors[0]
    assert list(cache.iterdir()) == []


def test_a_failed_download_says_what_to_do(
    moses: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    failed = subprocess.CompletedProcess(args=[], returncode=1)
    monkeypatch.setattr(subprocess, "run", lambda *arguments, **options: failed)
    monkeypatch.setattr(sys.stderr, "fileno", lambda: 2)
    assert moses.main(["--cache", str(tmp_path)]) == 2
    assert "--from WHEEL" in capsys.readouterr().err


def test_a_sample_is_the_same_bytes_every_time(
    moses: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = published(tmp_path, moses, monkeypatch)
    monkeypatch.setattr(moses, "SAMPLE_ROWS", {"train": 10, "test": 1})
    for name in ("a.csv.gz", "b.csv.gz"):
        random.seed(name)
        moses.write_sample(tmp_path, tmp_path / name)
    assert (tmp_path / "a.csv.gz").read_bytes() == (tmp_path / "b.csv.gz").read_bytes()
    with gzip.open(tmp_path / "a.csv.gz", "rt") as stream:
        found = [row["smiles"] for row in csv.DictReader(stream) if row["split"] == "train"]
    assert len(set(found)) == 10
    assert found == sorted(found, key=rows["train"].index)
