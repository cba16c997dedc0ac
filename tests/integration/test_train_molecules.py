"""`scidiff molecules train`: your own data learned, refused with reasons, resumed after a kill, and bad input."""

from __future__ import annotations

import csv
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import small_model
from rdkit import Chem
from typer.testing import CliRunner, Result

from scidiff import atomic
from scidiff.cli.main import app
from scidiff.errors import UserError
from scidiff.molecules import generate
from scidiff.molecules.fit import Best
from scidiff.molecules.model import FragmentModel
from scidiff.molecules.own_data import read, split

Run = Callable[..., Result]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_model.make(tmp_path_factory.mktemp("model"))


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: CliRunner().invoke(app, ["molecules", "train", *map(str, arguments)])


def write_data(path: Path, count: int = 120) -> None:
    odd = ["", "C1CC", "CCO.[Na+].[Cl-]", "C[C@H](N)C(=O)O", "nonsense", "name here"]
    path.write_text("\n".join([*small_model.sample_smiles(count), *odd, small_model.sample_smiles(1)[0]]) + "\n")


def test_the_folder_is_a_model_with_its_papers(run: Run, model: Path, tmp_path: Path) -> None:
    write_data(tmp_path / "mine.smi")
    done = run("mine.smi", "--init", model, "--minutes", 0.03, "--out", "mine", "--json")
    assert done.exit_code == 0, done.output
    card = json.loads(done.stdout[: done.stdout.rindex("}") + 1])
    assert card["data"] == {"file": "mine.smi", "sha256": atomic.sha256(tmp_path / "mine.smi"), "rows": 126}
    assert card["held_out_bound_nats"] <= card["held_out_bound_before_nats"]
    with (tmp_path / "mine" / "refused.csv").open() as stream:
        refused = {int(row["line"]): row["reason"] for row in csv.DictReader(stream)}
    assert refused[122] == "not a valid SMILES"
    assert refused[123] == "several components"
    assert "stereochemistry" in refused[124]
    assert "duplicate of 1" in refused[127]
    assert card["molecules"] + card["held_out"] + len(refused) == 126
    assert card["data"]["sha256"] in (tmp_path / "mine" / "README.md").read_text()
    assert "stereochemistry" in (tmp_path / "mine" / "report.html").read_text()
    drawn = generate(num=5, model=tmp_path / "mine")
    assert all(Chem.MolFromSmiles(one.smiles) is not None for one in drawn.molecules)
    again = run("mine.smi", "--init", model, "--minutes", 0.03, "--out", "mine")
    assert again.exit_code == 2
    assert "--resume goes on" in again.output


def test_fresh_weights_have_the_vocabulary_of_what_is_learned(model: Path, tmp_path: Path) -> None:
    write_data(tmp_path / "mine.smi")
    data = read(tmp_path / "mine.smi")
    parts = split(data, None, seed=0)
    assert len(parts.held_out.classes) in range(1, 13)
    learned = {Chem.CanonSmiles(one) for one in parts.smiles}
    assert len(learned) == len(parts.smiles)
    held = {tuple(row) for row in parts.held_out.classes.tolist()}
    assert not held & {tuple(row) for row in parts.data.classes.tolist()}
    assert read(tmp_path / "mine.smi", flatten=True).taken[-1][1] == "CC(N)C(=O)O"
    known = split(data, FragmentModel.load(model).vocabulary, seed=0)
    assert any("not in the vocabulary" in row.reason for row in known.refused) or len(known.refused) >= 5


def test_the_best_weights_are_kept_and_patience_ends(model: Path, tmp_path: Path) -> None:
    """Bounds 5, 4, 6, 6, 3, 7, 7, 7: the weights of 3 are kept, and three in a row without a lower one are enough."""
    held = FragmentModel.load(model)
    bounds = iter([5.0, 4.0, 6.0, 6.0, 3.0, 7.0, 7.0, 7.0])
    parameter = next(held.denoiser.parameters())
    best = Best(tmp_path / "best", held, lambda denoiser: next(bounds), 3)
    enough = []
    for number in range(7):
        parameter.data.fill_(float(number))
        best(held.denoiser)
        enough.append(best.enough)
    assert enough == [False] * 6 + [True]
    name = next(iter(held.denoiser.state_dict()))
    assert best.bound == 3.0
    named = dict(held.denoiser.named_parameters())
    changed = next(key for key, value in named.items() if value is parameter)
    assert float(best.weights()[changed].flatten()[0]) == 3.0
    assert name in best.weights()
    assert Best(tmp_path / "best", held, lambda denoiser: 9.0, 3).bound == 3.0


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_killed_and_resumed(run: Run, model: Path, tmp_path: Path, number: signal.Signals) -> None:
    write_data(tmp_path / "mine.smi", 5000)
    arguments = ["mine.smi", "--init", str(model), "--minutes", "0.2", "--out", "mine"]
    command = [sys.executable, "-m", "scidiff.cli.main", "molecules", "train", *arguments]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    while not list((tmp_path / "mine").glob("run/checkpoints/step-*/state.json")):
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(number)
    errors = process.communicate(timeout=60)[1]
    assert "Traceback" not in errors
    if number == signal.SIGINT:
        assert process.returncode == 130
        assert "--resume goes on" in errors
    assert not (tmp_path / "mine" / "weights.json").exists()
    done = run(*arguments, "--resume")
    assert done.exit_code == 0, done.output
    assert generate(num=3, model=tmp_path / "mine").complete


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("", "expected molecules in mine.smi, found none"),
        ("C1CC\nnonsense\n", "got 0 in 2 rows; line 1: not a valid SMILES"),
        ("CCO\nCCN\n", "expected at least 50 different molecules"),
    ],
)
def test_data_that_teach_nothing_are_named(run: Run, tmp_path: Path, content: str, expected: str) -> None:
    (tmp_path / "mine.smi").write_text(content)
    done = run("mine.smi", "--out", "mine", "--init", "none")
    assert done.exit_code == 2
    assert expected in done.output
    assert not list(tmp_path.glob("mine/*"))


def test_places_that_cannot_be_written_are_named_first(run: Run, tmp_path: Path) -> None:
    write_data(tmp_path / "mine.smi")
    (tmp_path / "file").write_text("x")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("x")
    for out, expected in (("file", "file"), ("file/mine", "cannot write"), ("full", "empty folder")):
        done = run("mine.smi", "--out", out, "--init", "none")
        assert done.exit_code == 2
        assert expected in done.output
    assert run("mine.smi", "--out", "new", "--minutes", "-1").exit_code == 2
    assert run("mine.smi", "--out", "new", "--init", "nowhere").exit_code == 2
    with pytest.raises(UserError, match="cannot read"):
        read(tmp_path / "missing.smi")
