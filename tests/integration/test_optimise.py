"""`scidiff molecules optimise`: the budget, what is written, resuming after a kill, and bad input."""

from __future__ import annotations

import csv
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import small_model
from rdkit import Chem
from rdkit.Chem.QED import qed
from typer.testing import CliRunner, Result

from scidiff.cli.main import app
from scidiff.errors import UserError
from scidiff.molecules import Optimisation, optimise
from scidiff.molecules.optimising import Interrupted

Run = Callable[..., Result]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_model.make(tmp_path_factory.mktemp("model"))


@pytest.fixture
def run(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(tmp_path)
    common = ("molecules", "optimise", "--model", str(model), "--batch-size", "32")
    return lambda *arguments: CliRunner().invoke(app, [*common, *map(str, arguments)])


def test_the_best_are_written_in_order_with_their_certificates(run: Run, tmp_path: Path) -> None:
    done = run(
        *("--maximise", "qed - 0.1*sa", "--where", "rings <= 3", "--budget", 100, "--num", 20),
        *("--out", "best.csv", "--report", "best.html", "--json"),
    )
    assert done.exit_code == 0, done.output
    account = json.loads(done.stdout)
    assert account["calls"] == account["budget"] == 100
    with (tmp_path / "best.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    with (tmp_path / "best.csv.run" / "scores.csv").open() as stream:
        scored = list(csv.DictReader(stream))
    assert len(scored) == len({row["smiles"] for row in scored}) == 100
    scores = [float(row["score"]) for row in rows]
    assert scores == sorted((float(row["score"]) for row in scored), reverse=True)[:20]
    assert account["top_10"] == pytest.approx(sum(scores[:10]) / 10)
    for row in rows:
        mol = Chem.MolFromSmiles(row["smiles"])
        assert float(row["score"]) == pytest.approx(qed(mol) - 0.1 * float(row["sa"]))
        assert mol.GetRingInfo().NumRings() <= 3
        assert row["certified"] == "True"
        assert float(row["violation_rings_le_3"]) == 0.0
    page = (tmp_path / "best.html").read_text()
    assert "20 certified molecules" in page
    assert rows[0]["smiles"] in json.dumps(page) or rows[0]["smiles"] in page


@pytest.mark.slow
def test_scores_rise(model: Path) -> None:
    """A model that knows nothing learns to make heavy molecules from what they score alone."""
    found = optimise(objective="heavy_atoms", budget=640, batch=64, model=model, seed=1)
    first, last = found.scored[:64], found.scored[-64:]
    assert sum(one.score for one in last) / 64 > sum(one.score for one in first) / 64 + 3


def test_any_function_of_a_molecule_is_an_objective_and_is_asked_once_a_molecule(model: Path) -> None:
    asked: list[str] = []

    def score(mol: Chem.Mol) -> float:
        asked.append(Chem.MolToSmiles(mol))
        return math.nan if len(asked) % 2 else float(mol.GetNumAtoms())

    found = optimise(objective=score, budget=101, batch=32, model=model)
    assert len(asked) == len(set(asked)) == found.calls == 101
    assert len(found.best(101)) == 50


def test_a_run_that_was_stopped_goes_on_as_if_it_had_not_been(model: Path, tmp_path: Path) -> None:
    whole = optimise(objective="qed", budget=96, batch=16, model=model, folder=tmp_path / "whole")

    def stop(found: Optimisation) -> None:
        if found.rounds == 3:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Interrupted) as caught:
        optimise(objective="qed", budget=96, batch=16, model=model, folder=tmp_path / "cut", progress=stop)
    assert caught.value.optimisation.rounds == 3
    resumed = optimise(objective="qed", budget=96, batch=16, model=model, folder=tmp_path / "cut", resume=True)
    assert resumed.scored == whole.scored
    assert (resumed.rounds, resumed.refused, resumed.reasons) == (whole.rounds, whole.refused, whole.reasons)
    assert (tmp_path / "cut" / "scores.csv").read_bytes() == (tmp_path / "whole" / "scores.csv").read_bytes()


def test_killed_before_the_first_checkpoint_nothing_is_scored_twice(model: Path, tmp_path: Path) -> None:
    asked: list[str] = []

    def score(mol: Chem.Mol) -> float:
        asked.append(Chem.MolToSmiles(mol))
        if len(asked) == 80:
            raise RuntimeError("the oracle broke down")
        return float(mol.GetNumAtoms())

    with pytest.raises(RuntimeError):
        optimise(objective=score, budget=100, batch=32, model=model, folder=tmp_path / "run")
    found = optimise(objective=score, budget=100, batch=32, model=model, folder=tmp_path / "run", resume=True)
    assert found.calls == 100
    assert len(asked) == 101  # the call that broke down is made again, no other


@pytest.mark.slow
def test_kill_minus_9_and_resume(run: Run, model: Path, tmp_path: Path) -> None:
    arguments = ["--maximise", "qed", "--budget", "512", "--out", "best.smi"]
    command = [sys.executable, "-m", "scidiff.cli.main", "molecules", "optimise", "--model", str(model)]
    process = subprocess.Popen([*command, "--batch-size", "64", *arguments], cwd=tmp_path, stderr=subprocess.PIPE)
    scores = tmp_path / "best.smi.run" / "scores.csv"
    while not scores.exists() or scores.read_bytes().count(b"\n") < 150:
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.communicate()
    done = run(*arguments, "--resume")
    assert done.exit_code == 0, done.output
    assert run(*arguments[:-1], "other.smi").exit_code == 0
    assert (tmp_path / "best.smi").read_bytes() == (tmp_path / "other.smi").read_bytes()


def test_what_was_tampered_with_is_named(model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    optimise(objective="qed", budget=40, batch=32, model=model, folder=folder)
    again = {"batch": 32, "model": model, "folder": folder, "resume": True}
    with pytest.raises(UserError, match="expected a new folder"):
        optimise(objective="qed", budget=60, batch=32, model=model, folder=folder)
    with pytest.raises(UserError, match="expected objective = 'qed'"):
        optimise(objective="logp", budget=60, **again)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="at least the 40 calls"):
        optimise(objective="qed", budget=30, **again)  # type: ignore[arg-type]
    scores = folder / "scores.csv"
    honest = scores.read_text()
    scores.write_text(honest.replace("0.", "1.", 1))
    with pytest.raises(UserError, match="changed since written"):
        optimise(objective="qed", budget=60, **again)  # type: ignore[arg-type]
    scores.write_text(honest)
    for file in (folder / "checkpoints").glob("*/model.safetensors"):
        file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(UserError, match="sound checkpoint"):
        optimise(objective="qed", budget=60, **again)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--maximise", "qed -", "--out", "o.smi"), "position 6"),
        (("--maximise", "qed", "--out", "o.sdf"), "ending in .smi or .csv"),
        (("--maximise", "qed", "--out", "missing/o.smi"), "cannot write missing/o.smi"),
        (("--maximise", "qed", "--out", "o.smi", "--budget", 0), "--budget: expected at least 1"),
        (("--maximise", "qed", "--out", "o.smi", "--kl", -1), "--kl"),
        (("--maximise", "qed", "--out", "o.smi", "--where", "qed > 2"), "no molecule can meet it"),
        (("--maximise", "qed", "--out", "o.smi", "--resume"), "expected the folder of a run to resume"),
        (("--maximise", "qed", "--out", "o.smi", "--report", "o.pdf"), "ending in .html"),
    ],
)
def test_bad_input_is_one_line(run: Run, tmp_path: Path, arguments: tuple[object, ...], expected: str) -> None:
    done = run(*arguments)
    assert done.exit_code == 2
    assert expected in done.output
    assert "Traceback" not in done.output
    assert list(tmp_path.iterdir()) == []


def test_conditions_that_nothing_meets_end_the_run(run: Run) -> None:
    done = run("--maximise", "qed", "--where", "mw >= 2000", "--budget", 100, "--out", "o.smi", "--batch-size", 8)
    assert done.exit_code == 3
    assert "no new molecule in 30 rounds" in done.output
    assert "nothing was scored" in done.output
