"""The scripts that obtain PhysioNet 2012: layouts, checksums, offline reuse; and the sample in the package."""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
import io
import tarfile
import urllib.request
import zipfile
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from scidiff.timeseries.grid import regular
from scidiff.timeseries.readers import read_panel
from scidiff.timeseries.sample import sample, sample_path
from scidiff.timeseries.static import with_static

ROOT = Path(__file__).parents[2]
STAY = """Time,Parameter,Value
00:00,RecordID,{id}
00:00,Age,54
00:00,Gender,0
00:00,Weight,-1
00:07,HR,73
47:59,HR,5.10
"""
LONG = """RecordID,minute,variable,value
7,0,Weight,-1
7,7,HR,73
7,2879,HR,5.10
12,0,Weight,-1
12,7,HR,73
12,2879,HR,5.10
"""
STATIC = "RecordID,Age,Gender,Height,ICUType\n7,54,0,-1,-1\n12,54,0,-1,-1\n"


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"{name}_script", ROOT / "datasets" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def physionet(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    def no_network(*arguments: object, **options: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr(urllib.request, "urlopen", no_network)
    return script("physionet2012")


def records(folder: Path, *, texts: dict[str, str] | None = None) -> Path:
    """A folder in the official layout, made up."""
    (folder / "set-a").mkdir(parents=True)
    for name, text in (texts or {"7": STAY.format(id=7), "12": STAY.format(id=12)}).items():
        (folder / "set-a" / f"{name}.txt").write_text(text)
    return folder


def text(path: Path) -> str:
    return gzip.decompress(path.read_bytes()).decode()


def test_a_folder_of_records(physionet: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, cache = records(tmp_path / "in"), tmp_path / "cache"
    assert physionet.main(["--folder", str(folder), "--cache", str(cache)]) == 0
    out = Path(capsys.readouterr().out.strip())
    assert sorted(text(out / "set-a-long.csv.gz").split()) == sorted(LONG.split())
    assert sorted(text(out / "set-a-static.csv.gz").split()) == sorted(STATIC.split())
    panel = with_static(read_panel(out / "set-a-long.csv.gz"), out / "set-a-static.csv.gz")
    assert panel.variables == ("Weight", "HR")
    assert panel.static is not None
    assert panel.static["Age"].tolist() == [54, 54]


@pytest.mark.parametrize("kind", ["tar.gz", "zip"])
def test_archives_are_checked_and_read(
    physionet: ModuleType, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    path = folder / f"set-a.{kind}"
    if kind == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            for k in (7, 12):
                archive.writestr(f"set-a/{k}.txt", STAY.format(id=k))
    else:
        with tarfile.open(path, "w:gz") as packed:
            for k in (12, 7):
                member = tarfile.TarInfo(f"./set-a/{k}.txt")
                member.size = len(STAY.format(id=k))
                packed.addfile(member, io.BytesIO(STAY.format(id=k).encode()))
        with pytest.raises(physionet.DatasetError, match="expected SHA-256 8cb250"):
            physionet.fetch(folder, tmp_path / "cache")
        assert not (tmp_path / "cache" / "physionet2012" / "set-a-long.csv.gz").exists()
        monkeypatch.setitem(physionet.SHA256, path.name, hashlib.sha256(path.read_bytes()).hexdigest())
    out = physionet.fetch(folder, tmp_path / "cache")
    assert sorted(text(out / "set-a-long.csv.gz").split()) == sorted(LONG.split())


def test_tables_are_taken_as_they_are(physionet: ModuleType, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "set-b-long.csv.gz").write_bytes(gzip.compress(LONG.encode()))
    (folder / "set-b-static.csv.gz").write_bytes(gzip.compress(STATIC.encode()))
    out = physionet.fetch(folder, tmp_path / "cache")
    assert text(out / "set-b-long.csv.gz") == LONG
    # a second call needs neither folder nor network
    assert physionet.fetch(None, tmp_path / "cache", ["b"]) == out
    # a set that is not there yet is added, and the first one stays
    physionet.fetch(records(tmp_path / "more"), tmp_path / "cache")
    assert text(out / "set-b-long.csv.gz") == LONG
    assert (out / "set-a-long.csv.gz").exists()
    assert physionet.fetch(None, tmp_path / "cache", ["a", "b"]) == out
    (folder / "set-b-long.csv.gz").write_bytes(gzip.compress(b"a,b\n"))
    with pytest.raises(physionet.DatasetError, match="expected the header"):
        physionet.fetch(folder, tmp_path / "other")


def test_what_cannot_be_had_is_told_in_one_line(
    physionet: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def told(*arguments: str) -> str:
        assert physionet.main([*arguments, "--cache", str(tmp_path / "cache")]) == 2
        return capsys.readouterr().err.splitlines()[-1]

    assert "with the files at hand, pass their folder" in told()
    assert "expected a folder" in told("--folder", str(tmp_path / "nowhere"))
    (tmp_path / "empty").mkdir()
    assert "expected set-a.tar.gz" in told("--folder", str(tmp_path / "empty"))
    folder = records(tmp_path / "bad", texts={"7": "Time,Parameter,Value\n00:00,HR,x\n"})
    assert "set a, 7.txt, line 2: expected Time,Parameter,Value, got ['00:00', 'HR', 'x']" in told(
        "--folder", str(folder)
    )
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "set-a.zip").write_bytes(b"PK no archive")
    assert "error: File is not a zip file" in told("--folder", str(tmp_path / "torn"))


def test_the_sample_is_what_its_checksum_says() -> None:
    folder = sample_path().parent
    digest, name = (folder / "SHA256SUMS").read_text().split()
    assert name == sample_path().name
    assert hashlib.sha256(sample_path().read_bytes()).hexdigest() == digest
    assert sample_path().stat().st_size < 300_000


def test_the_sample_is_as_described() -> None:
    panel = sample()
    grid = regular(panel, step=60.0, start=0.0, end=2880.0)
    assert grid.values.shape == (163, 48, 37)
    assert (panel.ids[0], panel.ids[-1]) == ("142129", "142673")
    assert round(1 - grid.mask.mean(), 3) == 0.797
    heart = grid.values[:, :, panel.variables.index("HR")]
    assert 80 < np.nanmean(heart) < 95
    assert set(panel.variables) == set(script("physionet_sample").VARIABLES)


def test_the_sample_is_made_from_its_table(tmp_path: Path) -> None:
    module = script("physionet_sample")
    lines = []
    for stay in (142129, 142130):
        for hour in range(48):
            cells = ["NaN"] * 38
            cells[27] = f"{stay}.000"
            if hour == 3:
                cells[0], cells[28], cells[37] = "007.500", "-01.000", "007.240"
            lines.append(" ".join(cells))
    rows = module.long_rows("\n".join(lines) + "\n")
    assert rows[:4] == [
        "RecordID,minute,variable,value",
        "142129,180,ALP,7.5",
        "142129,180,RespRate,-1",
        "142129,180,pH,7.24",
    ]
    assert len(rows) == 7
    with pytest.raises(module.DatasetError, match=r"line 48: expected hour 47 of stay 142129"):
        module.long_rows("\n".join(lines[1:]))
    wheel = tmp_path / "imputegap.whl"
    wheel.write_bytes(b"other")
    with pytest.raises(module.DatasetError, match="expected SHA-256"):
        module.table(wheel)
