"""The command line of molecules as a user meets it: files, exit codes, errors, Ctrl-C, full disks."""

from __future__ import annotations

import csv
import io
import itertools
import json
import re
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet
import pytest
import stand_in
from rdkit import Chem
from rdkit.Chem import rdMolDescriptors
from rdkit.Chem.QED import qed
from standing_in import start
from typer.testing import CliRunner, Result

from scidiff import molecules
from scidiff.cli.main import app
from scidiff.errors import UserError
from scidiff.molecules import certified, generate
from scidiff.molecules.oracle import read_molecule
from scidiff.molecules.planning import Choice

Run = Callable[..., Result]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    monkeypatch.setattr(certified, "load", lambda model, device: stand_in.Sample())
    monkeypatch.setenv("SCIDIFF_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: CliRunner().invoke(app, ["molecules", *map(str, arguments)])


def test_help_is_quick_and_imports_nothing_heavy() -> None:
    code = (
        "import sys, time; t = time.perf_counter(); from scidiff.cli.main import app\n"
        "try: app(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'rdkit', 'numpy', 'pandas', 'scipy', 'jinja2'} & set(sys.modules)\n"
        "print(f'\\n{time.process_time():.3f} {sorted(heavy)}')"
    )
    times = []
    for _ in range(3):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        seconds, heavy = done.stdout.splitlines()[-1].split(maxsplit=1)
        times.append(float(seconds))
        assert heavy == "[]"
        assert "molecules" in done.stdout
    assert min(times) < 0.3


def test_every_molecule_written_meets_every_condition(run: Run, tmp_path: Path) -> None:
    for kind in ("smi", "csv", "parquet", "sdf"):
        done = run("generate", "--num", 20, "--where", "qed >= 0.8", "--where", "rings in {2, 3}", "--out", f"o.{kind}")
        assert done.exit_code == 0, done.output
    from_smi = [line.split("\t")[0] for line in (tmp_path / "o.smi").read_text().splitlines()]
    with (tmp_path / "o.csv").open() as stream:
        table = list(csv.DictReader(stream))
    from_sdf = [Chem.MolToSmiles(mol) for mol in Chem.SDMolSupplier(str(tmp_path / "o.sdf"))]
    columns = pyarrow.parquet.read_table(tmp_path / "o.parquet").to_pydict()
    assert from_smi == [row["smiles"] for row in table] == columns["smiles"]
    assert from_sdf == [Chem.CanonSmiles(text) for text in from_smi]
    assert len(set(from_sdf)) == 20
    for text, row in zip(from_smi, table, strict=True):
        mol = Chem.MolFromSmiles(text)
        assert qed(mol) >= 0.8
        assert float(row["qed"]) == qed(mol)
        assert rdMolDescriptors.CalcNumRings(mol) in (2, 3)
        assert float(row["violation_qed_ge_0.8"]) == float(row["violation_rings_in_2_or_3"]) == 0.0
        assert (row["certified"], row["seed"]) == ("True", "0")
    assert [int(row["index"]) for row in table] == columns["index"] == sorted(columns["index"])


def test_sdf_carries_coordinates_properties_and_certificate(run: Run, tmp_path: Path) -> None:
    run("generate", "--num", 5, "--where", "logp <= 3", "--seed", 9, "--out", "o.sdf")
    for mol in Chem.SDMolSupplier(str(tmp_path / "o.sdf")):
        positions = mol.GetConformer().GetPositions()
        assert not mol.GetConformer().Is3D()
        assert abs(positions[:, :2]).max() > 0.5
        assert mol.GetProp("_Name") == f"9-{mol.GetProp('index')}"
        assert float(mol.GetProp("violation_logp_le_3")) == 0.0
        assert float(mol.GetProp("logp")) <= 3.0
        assert mol.GetProp("formula") == rdMolDescriptors.CalcMolFormula(mol)


def test_the_account_adds_up(run: Run) -> None:
    done = run("generate", "--num", 30, "--where", "qed >= 0.8", "--where", "logp <= 2", "--json")
    account = json.loads(done.stdout)
    assert account["certified"] == account["requested"] == 30
    assert account["drawn"] == account["certified"] + account["refused"] == account["next_index"]
    assert max(account["reasons"].values()) <= account["refused"] <= sum(account["reasons"].values())
    # The same account by hand, from the first draws of the same source.
    stream = stand_in.Sample().stream(seed=0, start=0, steps=None, batch_size=1)
    rows = [drawn.smiles for drawn in itertools.islice(stream, account["drawn"])]
    mols = [Chem.MolFromSmiles(text) for text in rows]
    assert account["reasons"]["qed >= 0.8"] == sum(qed(mol) < 0.8 for mol in mols)
    summary = done.stderr.splitlines()[0]
    assert summary.startswith(f"requested 30, certified 30, drawn {account['drawn']}, refused {account['refused']} (")


def test_a_run_goes_on_where_another_ended(run: Run) -> None:
    whole = run("generate", "--num", 30, "--where", "qed >= 0.8", "--format", "csv").stdout.splitlines()
    first = run("generate", "--num", 12, "--where", "qed >= 0.8", "--format", "csv").stdout.splitlines()
    reached = int(first[-1].split(",")[0]) + 1
    rest = run("generate", "--num", 18, "--where", "qed >= 0.8", "--format", "csv", "--start", reached)
    assert first + rest.stdout.splitlines()[1:] == whole


def test_the_python_call_is_the_command(run: Run) -> None:
    lines = run("generate", "--num", 10, "--where", "mw < 300", "--seed", 3).stdout.splitlines()
    called = generate(num=10, where=["mw < 300"], seed=3, source=stand_in.Sample())
    assert [line.split("\t")[0] for line in lines] == [molecule.smiles for molecule in called.molecules]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("C1CC", "not a valid SMILES"),
        ("c1cccc1", "not a valid SMILES"),
        ("CC.CC", "several components"),
        ("C[CH2]", "radical"),
        ("C*", "dummy atom"),
        ("", "empty"),
        ("CCO ethanol", "more than a SMILES"),
        ("C" * 5001, "longer than 5000 characters"),
    ],
)
def test_what_is_no_molecule_is_refused_by_name(
    run: Run, monkeypatch: pytest.MonkeyPatch, text: str, reason: str
) -> None:
    monkeypatch.setenv("STAND_IN_SMILES", text)
    done = run("generate", "--num", 6)
    assert done.exit_code == 0
    assert f"refused 2 ({reason}: 2)" in done.stderr or f"refused 3 ({reason}: 3)" in done.stderr
    assert all(read_molecule(line.split("\t")[0])[0] is not None for line in done.stdout.splitlines())


def test_duplicates_are_refused_and_counted_unless_wanted(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STAND_IN_SMILES", "OCC")
    once = run("generate", "--num", 20)
    assert once.stdout.count("OCC\t") == 1
    assert re.search(r"refused (\d+) \(duplicate: \1\)", once.stderr)
    every = run("generate", "--num", 20, "--no-unique")
    assert every.stdout.count("OCC\t") == 6
    assert "refused 0" in every.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--num", 0], "--num: expected at least 1, got 0"),
        (["--num", 3, "--steps", 0], "--steps: expected at least 1"),
        (["--num", 3, "--batch-size", -1], "--batch-size: expected at least 1"),
        (["--num", 3, "--seed", -1], "--seed: expected"),
        (["--num", 3, "--start", 2**32], "--start: expected"),
        (["--num", 3, "--where", "drug >= 1"], "unknown property 'drug'"),
        (["--num", 3, "--where", "qde >= 1"], "did you mean 'qed'?"),
        (["--num", 3, "--where", "qed >= 0.9", "--where", "qed <= 0.1"], "contradict each other"),
        (["--num", 3, "--where", "qed >= 1.5"], "no molecule can meet it"),
        (["--num", 3, "--properties", "qed,weight"], "unknown property 'weight'"),
        (["--num", 3, "--out", "no/such/folder/o.smi"], "No such file or directory"),
        (["--num", 3, "--out", "o.xyz"], "ending in .smi, .csv, .parquet, .sdf"),
        (["--num", 3, "--out", "folder.smi"], "it is a folder"),
        (["--num", 3, "--report", "no/such/folder/o.html"], "No such file or directory"),
        (["--num", 3, "--report", "o.pdf"], "ending in .html"),
        (["--num", 3, "--out", "-", "--json"], "expected one of them on standard output"),
        (["--num", 3, "--out", "o.smi", "--format", "csv"], "the name of a file gives its format"),
    ],
)
def test_bad_input_is_one_clear_line_and_leaves_nothing(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[object], words: str
) -> None:
    def never(model: object, device: object) -> None:
        raise AssertionError("work started before the request was checked")

    (tmp_path / "folder.smi").mkdir()
    monkeypatch.setattr(certified, "load", never)
    done = run("generate", *arguments)
    assert done.exit_code == 2
    assert len(done.stderr.splitlines()) == 1
    assert words in done.stderr
    assert done.stdout == ""
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder.smi"]


def test_weights_that_cannot_be_read_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        generate(num=1, model=tmp_path / "nothing")
    assert len(str(caught.value).splitlines()) == 1
    assert "nothing" in str(caught.value)


def test_a_hopeless_request_stops_early_says_why_and_writes_nothing(run: Run, tmp_path: Path) -> None:
    done = run("generate", "--num", 100, "--where", "mw > 900", "--max-draws", 5000, "--out", "o.sdf")
    assert done.exit_code == 3
    assert "drawn 256" in done.stderr
    assert "hopeless: 0 of 256 draws accepted" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_too_few_are_written_and_told_by_the_exit_code(run: Run, tmp_path: Path) -> None:
    done = run("generate", "--num", 100, "--max-draws", 40, "--where", "qed >= 0.5", "--out", "o.smi")
    assert done.exit_code == 3
    assert "--max-draws 40 reached" in done.stderr
    kept = (tmp_path / "o.smi").read_text().splitlines()
    assert f"certified {len(kept)}, drawn 40" in done.stderr
    assert "--start 40 goes on" in done.stderr


@pytest.mark.parametrize("kind", ["smi", "csv", "parquet", "sdf", "html"])
def test_a_disk_that_fills_up_leaves_the_old_file_and_no_other(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    (tmp_path / f"o.{kind}").write_text("as it was")

    class Full(io.BytesIO):
        def write(self, data: object) -> int:
            raise OSError(28, "No space left on device")

    opened = Path.open

    def full(path: Path, mode: str = "r", *rest: object, **options: object) -> object:
        if path.name.endswith(".part") and "w" in mode:
            opened(path, "wb").close()
            return Full()
        return opened(path, mode, *rest, **options)  # type: ignore[call-overload]

    monkeypatch.setattr(Path, "open", full)
    done = run("generate", "--num", 5, "--report" if kind == "html" else "--out", f"o.{kind}")
    assert done.exit_code == 2
    assert f"cannot write o.{kind}: No space left on device" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == [f"o.{kind}"]
    assert (tmp_path / f"o.{kind}").read_text() == "as it was"


@pytest.mark.parametrize("kind", ["smi", "csv", "sdf", "parquet"])
def test_molecules_that_fit_on_a_full_disk_are_kept(tmp_path: Path, kind: str) -> None:
    generation = generate(num=200, where=["mw < 400"], source=stand_in.Sample())
    room = 5000 if kind != "sdf" else 40_000
    (tmp_path / f"o.{kind}").write_text("as it was")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))  # like a disk with so many bytes left
    try:
        with pytest.raises(UserError, match=rf"cannot write .*o\.{kind}: File too large") as caught:
            molecules.write(generation, tmp_path / f"o.{kind}")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (tmp_path / f"o.{kind}").read_text() == "as it was"
    if kind == "parquet":
        assert [path.name for path in tmp_path.iterdir()] == ["o.parquet"]
        return
    assert {path.name for path in tmp_path.iterdir()} == {f"o.{kind}", f"o.partial.{kind}"}
    partial = (tmp_path / f"o.partial.{kind}").read_bytes()
    molecules.write(generation, tmp_path / f"o.{kind}")
    whole = (tmp_path / f"o.{kind}").read_bytes()
    assert whole.startswith(partial)
    records = partial.count(b"$$$$\n") if kind == "sdf" else partial.count(b"\n") - (kind == "csv")
    assert f"the first {records} of 200 certified are in " in str(caught.value)
    longest = max(map(len, whole.split(b"$$$$\n" if kind == "sdf" else b"\n"))) + 5
    assert room - longest < len(partial) <= room
    assert partial.endswith(b"$$$$\n" if kind == "sdf" else b"\n")


def test_a_device_that_is_not_there_is_one_line() -> None:
    for name in ("foo", "cuda:77"):
        with pytest.raises(UserError, match=f"--device: expected cpu or an accelerator .*got '{name}'"):
            generate(num=1, device=name)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_standard_output_on_a_full_disk(tmp_path: Path) -> None:
    with Path("/dev/full").open("w") as full:
        process = start("generate", "--num", "5", cwd=tmp_path, stdout=full)
        errors = process.communicate(timeout=60)[1]
    assert process.returncode == 2
    assert errors == "error: cannot write standard output: No space left on device\n"


def test_a_reader_that_has_enough_is_no_error(tmp_path: Path) -> None:
    process = start("generate", "--num", "3000", "--properties", "mw", cwd=tmp_path)
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(timeout=60) == 0


def test_evaluate_agrees_with_what_is_known_of_the_file(run: Run, tmp_path: Path) -> None:
    rows = stand_in.Sample().rows
    (tmp_path / "gen.smi").write_text("\n".join([*rows[:60], rows[0], "C1CC", "CC(=O)[O-]"]) + "\n")
    (tmp_path / "train.csv").write_text("id,SMILES\n" + "".join(f"{i},{s}\n" for i, s in enumerate(rows[50:90])))
    (tmp_path / "ref.smi").write_text("\n".join(rows[:60]) + "\n")
    arguments = ("evaluate", "gen.smi", "--reference", "ref.smi", "--train", "train.csv", "--no-fcd", "--json")
    found = json.loads(run(*arguments).stdout)
    assert found["samples"] == 63
    assert found["valid"] == pytest.approx(62 / 63)
    assert found["unique"] == pytest.approx(61 / 62)
    assert found["novelty"] == pytest.approx(51 / 61)
    assert found["filters"] == pytest.approx(61 / 62)
    assert found["SNN/ref.smi"] > 61 / 62
    assert 0.99 < found["Frag/ref.smi"] < 1.0
    # The second time the prepared reference comes from the cache, with the same result.
    assert list((tmp_path / "cache" / "reference").iterdir())
    assert json.loads(run(*arguments).stdout) == found


def test_fcd_and_its_floor_against_the_same_molecules(run: Run, tmp_path: Path) -> None:
    pytest.importorskip("fcd_torch")
    rows = stand_in.Sample().rows
    (tmp_path / "gen.smi").write_text("\n".join(rows[:40]) + "\n")
    found = json.loads(run("evaluate", "gen.smi", "--reference", "gen.smi", "--train", "gen.smi", "--json").stdout)
    # Samples, reference and training set are one: every distance is zero.
    assert found["FCD/gen.smi"] == pytest.approx(0.0, abs=1e-4)
    assert found["FCD floor/gen.smi"] == pytest.approx(0.0, abs=1e-4)


@pytest.mark.parametrize(
    ("content", "name", "words"),
    [
        (None, "x.smi", "No such file"),
        ("", "x.smi", "expected molecules"),
        ("a,b\n1,2\n", "x.csv", "expected a column 'smiles'"),
        ("PAR1", "x.parquet", "cannot read"),
        ("C\n", "x.mol2", "expected a file ending in"),
        ("C1CC\n", "x.smi", "none is valid"),
    ],
)
def test_evaluate_refuses_what_it_cannot_read(
    run: Run, tmp_path: Path, content: str | None, name: str, words: str
) -> None:
    (tmp_path / "ref.smi").write_text("CCO\nCCN\n")
    if content is not None:
        (tmp_path / name).write_text(content)
    done = run("evaluate", name, "--reference", "ref.smi", "--train", "ref.smi")
    assert done.exit_code == 2
    assert words in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_evaluate_says_how_to_get_moses(run: Run, tmp_path: Path) -> None:
    (tmp_path / "x.smi").write_text("CCO\n")
    done = run("evaluate", "x.smi")
    assert done.exit_code == 2
    assert "python datasets/moses.py" in done.stderr


def test_what_no_training_molecule_has_is_given_up_sooner(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a census 50 molecules are worth 50,000 draws, of which thousands are made before that is hopeless."""
    choice = Choice(method="exact", why="", share=0.0)
    monkeypatch.setattr(certified, "load", lambda model, device: stand_in.Sample())
    monkeypatch.setattr(certified, "_conditioned", lambda source, *_: (source, choice))
    generation = generate(num=50, where=["mw > 900"])
    assert "hopeless" in generation.stopped
    assert generation.drawn == 512
