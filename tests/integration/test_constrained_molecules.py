"""Constraints on the command line with a small model: what is enforced, explained, refused, and the same each time."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rdkit import Chem
from typer.testing import CliRunner, Result

from scidiff.cli.main import app
from scidiff.molecules import generate
from scidiff.molecules.certified import THINNED
from scidiff.molecules.fragments import RING_LABELS
from scidiff.molecules.model import FragmentModel, ModelConfig
from scidiff.molecules.vocabulary import Vocabulary

TOKENS = (*RING_LABELS, "*C", "*N*", "*c1ccccc1", "[1*]C", "[1*]N", "[1*]F", "*C[1*]", "*O[1*]", "*C(*)[1*]", "[1*]Br")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    config = ModelConfig(width=32, depth=2, heads=2, lengths=(0, 0, 4, 5, 6, 3, 1))
    fresh = FragmentModel.create(Vocabulary(tokens=TOKENS), config)
    for parameter in fresh.denoiser.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    fresh.save(tmp_path_factory.mktemp("model") / "weights")
    return next(tmp_path_factory.getbasetemp().glob("model*/weights"))


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["molecules", *map(str, arguments)])


def nitrogens(smiles: str) -> int:
    return sum(atom.GetSymbol() == "N" for atom in Chem.MolFromSmiles(smiles).GetAtoms())


def test_enforced_molecules_need_no_rejection(folder: Path) -> None:
    where = ["n_atoms[N] == 2 and (n_atoms[F] >= 1 or lacks Br)"]
    free = generate(num=20, where=where, model=folder, method="reject", unique=False)
    assert free.refused > 5
    enforced = generate(num=200, where=["n_atoms[N] == 2"], model=folder, method="enforce", unique=False)
    assert (len(enforced.molecules), enforced.refused) == (200, 0)
    assert all(nitrogens(molecule.smiles) == 2 for molecule in enforced.molecules)
    exact = generate(num=50, where=["n_atoms[N] == 2"], model=folder, unique=False)
    assert set(exact.reasons) == {THINNED}
    kept = {molecule.index for molecule in exact.molecules}
    same = {m.index: m.smiles for m in enforced.molecules}
    assert all(same[m.index] == m.smiles for m in exact.molecules if m.index in same)
    assert len(kept) == 50


def test_a_thinned_run_goes_on_where_another_ended(folder: Path) -> None:
    whole = generate(num=60, where=["n_atoms[N] == 2"], model=folder, unique=False, seed=4)
    first = generate(num=45, where=["n_atoms[N] == 2"], model=folder, unique=False, seed=4)
    rest = generate(num=15, where=["n_atoms[N] == 2"], model=folder, unique=False, seed=4, start=first.next_index)
    assert [m.smiles for m in first.molecules + rest.molecules] == [m.smiles for m in whole.molecules]
    later = generate(num=3, where=["n_atoms[N] == 2"], model=folder, unique=False, seed=4, start=600)
    again = generate(num=3, where=["n_atoms[N] == 2"], model=folder, unique=False, seed=4, start=600, batch_size=1000)
    assert [m.index for m in later.molecules] == [m.index for m in again.molecules]


def test_constraints_come_from_a_file_too(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("where:\n  - n_atoms[N] == 2 or n_atoms[F] == 2\n  - lacks Br\n")
    options = ("--model", folder, "--json", "--out", tmp_path / "o.csv", "--where", "heavy_atoms <= 9")
    done = run("generate", "--num", 3, "--constraints", tmp_path / "c.yaml", *options)
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["where"] == ["heavy_atoms <= 9", "n_atoms[N] == 2 or n_atoms[F] == 2", "lacks Br"]
    head = (tmp_path / "o.csv").read_text().splitlines()[0]
    assert "violation_n_atoms[N]_eq_2_or_n_atoms[F]_eq_2,violation_lacks_Br" in head


def test_explain_says_how_each_term_is_enforced(folder: Path) -> None:
    text = "n_atoms[N] == 2 and (qed >= 0.1 or rings == 1) and rings <= 1 and logp <= 3"
    found = json.loads(run("explain", text, "--model", folder, "--json").stdout)
    assert [term["enforced"] for term in found["terms"]] == [
        *("exact", "certification only", "exact without ring labels", "certification only")
    ]
    assert found["counters"] == {"N": 3, "rings": 2, "labels": 1}
    assert 0 < found["feasible"] < 1
    assert found["terms"][3]["training"] is None
    assert found["method"] == "exact"
    shown = run("explain", text, "--model", folder).stdout
    assert "certification only" in shown
    assert "--method exact: this model has no census" in shown


@pytest.mark.parametrize(("text", "share"), [("qed >= 0.94", 0.017), ("logp <= 0", 0.013)])
def test_explain_says_how_many_training_molecules_meet_a_term_also_where_few_do(text: str, share: float) -> None:
    found = json.loads(run("explain", text, "--json").stdout)
    assert found["terms"][0]["training"] == pytest.approx(share, abs=0.003)
    assert f"about {found['terms'][0]['training']:.2g} of the training molecules" in found["why"]
    rare = json.loads(run("explain", "tpsa >= 125 and logp <= 0", "--json").stdout)
    assert rare["method"] == "steer"
    assert "0.0007" in rare["why"]
    assert {term["enforced"] for term in rare["terms"]} == {"certification, and draws lean towards it (steer)"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("rings == 1 and rings == 2", "contradict each other"),
        ("contains c1cc(", "SMARTS that RDKit reads at position 14"),
        ("n_atoms[P] >= 1", "no molecule that this model can draw meets it"),
        ("formula == C6H7", "an odd number"),
    ],
)
def test_what_cannot_be_met_is_one_line(folder: Path, text: str, words: str) -> None:
    for command in (("explain", text), ("generate", "--num", 3, "--where", text)):
        done = run(*command, "--model", folder)
        assert done.exit_code == 2
        assert words in done.stderr
        assert len(done.stderr.splitlines()) == 1


def test_who_cannot_be_told_is_one_line(folder: Path) -> None:
    done = run("generate", "--num", 3, "--where", "qed >= 0.5", "--method", "guide", "--model", folder)
    assert done.exit_code == 2
    assert "cannot be told of properties" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_guided_molecules_are_certified_weighed_and_counted(folder: Path, tmp_path: Path) -> None:
    plain = FragmentModel.load(folder)
    config = replace(plain.config, edges={"mw": (60.0, 90.0)})
    able = FragmentModel.create(plain.vocabulary, config)
    able.denoiser.load_state_dict({**able.denoiser.state_dict(), **plain.denoiser.state_dict()})
    able.save(tmp_path / "able")
    where = ("--where", "mw >= 90 and n_atoms[N] == 1", "--no-unique", "--model", tmp_path / "able")
    done = run("generate", "--num", 20, *where, "--method", "guide", "--out", tmp_path / "o.csv", "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["method"] == "guide"
    with (tmp_path / "o.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 20
    assert all(float(row["mw"]) >= 90 and nitrogens(row["smiles"]) == 1 for row in rows)
    assert all(math.isfinite(float(row["log_weight"])) for row in rows)
    assert found["oracle_calls_per_certified"] == found["drawn"] / 20
    assert found["network_calls_per_certified"] >= 2 * 2 * found["drawn"] / 20  # two a step, of two fragments at least
    again = run(
        "generate", "--num", 20, *where, "--method", "guide", "--batch-size", 1000, "--format", "csv", "--out", "-"
    )
    assert again.stdout == (tmp_path / "o.csv").read_text()
