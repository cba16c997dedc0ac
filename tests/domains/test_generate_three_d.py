"""Generated molecules with geometries: certified as text and as coordinates, keyed by seed and index; and chosen."""

import json
import math
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from statistics import NormalDist

import numpy as np
import pytest
import torch
from rdkit import Chem
from rdkit.Chem import AllChem
from typer.testing import CliRunner

from scidiff.cli.main import app
from scidiff.molecules import certified
from scidiff.molecules.quantum import QUANTUM
from scidiff.molecules.three_d import estimator, generated, tiles
from scidiff.molecules.three_d import model as models
from scidiff.molecules.three_d.among import misses
from scidiff.molecules.three_d.model import ConformerConfig, ConformerModel
from scidiff.molecules.three_d.tiles import STRIDE

SMILES = ("CC(O)C#N", "CCS", "C1CC1C=O", "CC(F)CO", "CCCCCCCCCCCC", "c1cc[nH]c1")


@dataclass(frozen=True)
class Drawn:
    index: int
    smiles: str


class Source:
    def stream(self, *, seed, start, steps, batch_size):
        return (Drawn(k, SMILES[k % len(SMILES)]) for k in count(start))


@pytest.fixture
def run(monkeypatch, tmp_path):
    def embed(denoiser, processes, condition, *, seed, index, steps, held, start):
        found = []
        for k in index.tolist():
            mol = Chem.AddHs(Chem.MolFromSmiles(SMILES[k // STRIDE % len(SMILES)]))
            assert AllChem.EmbedMolecule(mol, randomSeed=k + 1) == 0
            found.append(mol.GetConformer().GetPositions())
        return torch.as_tensor(np.stack(found))

    small = ConformerModel.create(ConformerConfig(width=16, depth=1, heads=2, channels=2, pair_width=4))
    monkeypatch.setattr(tiles, "positions", embed)
    monkeypatch.setattr(models, "load", lambda folder, device: small)
    monkeypatch.setattr(certified, "load", lambda model, device: Source())
    monkeypatch.chdir(tmp_path)
    arguments = ["molecules", "generate", "--three-d", "--model", str(tmp_path)]
    return lambda *more: CliRunner().invoke(app, [*arguments, *more])


def test_each_molecule_gets_a_geometry_or_a_reason(run):
    done = run("--num", "5", "--out", "o.sdf", "--json")
    assert done.exit_code == 3  # one molecule has an element that the model does not know
    account = json.loads(done.stdout)
    assert (account["certified"], account["geometries"]["certified"]) == (5, 4)
    assert account["reasons"] == {"atoms <= 29": 1}  # dodecane, in whose place another is drawn
    assert "CCS (index 1) has no geometry: expected the elements" in done.output
    written = list(Chem.SDMolSupplier("o.sdf", removeHs=False))
    assert [mol.GetProp("index") for mol in written] == ["0", "2", "3", "5"]
    for mol in written:
        assert Chem.MolToSmiles(Chem.RemoveHs(mol), isomericSmiles=False) == Chem.CanonSmiles(mol.GetProp("smiles"))
        assert mol.GetConformer().Is3D()
        assert mol.GetProp("certified") == "True"
        assert mol.GetProp("oracle_3d").startswith("distances and rdkit")


def test_what_the_model_is_told_is_reported_beside_an_estimate_and_never_certified(run, monkeypatch):
    told = []

    class Tellable(Source):
        def towards(self, asked):
            told.append(asked)
            return self

    class Reader:
        card = {"held out": {"gap": 0.25}}  # noqa: RUF012

        def values(self, mols):
            return np.array([[0.0, 5.0 + k, 0.0, 0.0, 0.0, 0.0] for k, _ in enumerate(mols)])

    monkeypatch.setattr(certified, "load", lambda model, device: Tellable())
    monkeypatch.setattr(estimator, "available", lambda: True)
    monkeypatch.setattr(estimator.Estimator, "load", Reader)
    done = run("--num", "5", "--towards", "gap=6.5 eV", "--out", "o.sdf", "--json")
    assert told == [{"gap": 6.5}]
    found = json.loads(done.stdout)["towards"]["gap"]
    assert found == {
        "asked": 6.5,
        "unit": "eV",
        "certified": False,
        "estimated_median": 6.5,
        "estimated_mean_distance": pytest.approx((1.5 + 0.5 + 0.5 + 1.5) / 4),
        "estimator_error": 0.25,
    }
    assert "gap = 6.5 eV was asked of the model and is not certified" in done.output
    items = [(mol.GetProp("asked_gap"), mol.GetProp("estimated_gap")) for mol in Chem.SDMolSupplier("o.sdf")]
    assert items == [("6.5 eV", f"{value} eV") for value in (5, 6, 7, 8)]
    monkeypatch.setattr(estimator, "available", lambda: False)
    done = run("--num", "1", "--towards", "gap=6.5", "--out", "o.sdf")
    assert "not certified\n" in done.output
    assert not next(iter(Chem.SDMolSupplier("o.sdf"))).HasProp("estimated_gap")


@dataclass(frozen=True)
class Tellable(Source):
    def towards(self, asked):
        return self


class Weigher:
    """Reads the number of atoms for a gap."""

    card = {"held out": dict.fromkeys(QUANTUM, 0.5)}  # noqa: RUF012

    def values(self, mols):
        return np.array([[0.0, mol.GetNumAtoms(), 0.0, 0.0, 0.0, 0.0] for mol in mols], dtype=float)


def test_of_each_k_the_nearest_is_kept_and_the_others_are_counted(run, monkeypatch):
    """Of acetaldehyde cyanohydrin (10 atoms), a thiol that has no geometry, an aldehyde (11) and an alcohol (12)."""
    monkeypatch.setattr(certified, "load", lambda model, device: Tellable())
    monkeypatch.setattr(estimator, "available", lambda *name: True)
    monkeypatch.setattr(estimator.Estimator, "load", lambda *folder: Weigher())
    for gap, kept in ((9, "0"), (11.4, "2"), (15, "3")):
        done = run("--num", "1", "--among", "4", "--towards", f"gap={gap}", "--out", "o.sdf", "--json")
        assert done.exit_code == 0, done.output
        assert [mol.GetProp("index") for mol in Chem.SDMolSupplier("o.sdf")] == [kept]
        account = json.loads(done.stdout)
        assert account["among"] == {"of_each": 4, "certified": 3, "kept": 1, "by": "a network"}
        assert (account["certified"], account["geometries"]["certified"]) == (4, 3)
        assert "kept 1 of 3 certified: of each 4" in done.output
    page = ("--report", "r.html")
    done = run("--num", "3", "--among", "2", "--towards", "gap=11", "--out", "o.sdf", "--no-unique", *page)
    assert [mol.GetProp("index") for mol in Chem.SDMolSupplier("o.sdf")] == ["0", "2", "5"]  # 0 | 2, 3 | 5
    done = run("--num", "1", "--start", "2", "--among", "2", "--towards", "gap=12", "--out", "o.sdf", *page)
    assert [mol.GetProp("index") for mol in Chem.SDMolSupplier("o.sdf")] == ["3"]
    text = Path("r.html").read_text(encoding="utf-8")
    shown = json.loads(text.partition('id="data">')[2].partition("</script>")[0])
    gap = shown["values"].index("estimated gap [eV]")
    assert [one["values"][gap] for one in shown["conformers"]] == [12.0]
    assert "gap = 12 eV was asked of the model and is not certified" in text
    assert text.count("conformers certified") == 1  # the account of geometries, once


@pytest.mark.parametrize("among", [1, 2])
def test_how_many_are_held_at_a_time_changes_nothing(run, monkeypatch, among):
    monkeypatch.setattr(certified, "load", lambda model, device: Tellable())
    monkeypatch.setattr(estimator, "available", lambda *name: True)
    monkeypatch.setattr(estimator.Estimator, "load", lambda *folder: Weigher())
    arguments = ("--among", str(among), "--towards", "gap=11", "--no-unique", "--json", "--report", "r.html")
    accounts, texts = [], []
    for together, most in ((512, 300), (2, 1)):
        monkeypatch.setattr(generated, "TOGETHER", together)
        monkeypatch.setattr(generated, "MOST_DRAWN", most)
        done = run("--num", str(6 // among), "--out", "o.sdf", *arguments)
        accounts.append(json.loads(done.stdout))
        texts.append(Path("o.sdf").read_text(encoding="utf-8"))
        for account in (accounts[-1], accounts[-1]["geometries"]):
            del account["seconds"]
    assert accounts[0] == accounts[1]
    assert accounts[0]["geometries"]["certified"] == 5
    assert texts[0] == texts[1]
    assert texts[0].count("$$$$") == (5 if among == 1 else 3)


def test_nothing_certified_leaves_the_file_as_it_was(run):
    Path("o.sdf").write_text("before", encoding="utf-8")
    done = run("--num", "1", "--start", "1", "--out", "o.sdf", "--report", "r.html", "--json")
    assert (json.loads(done.stdout)["out"], json.loads(done.stdout)["report"]) == (None, None)
    assert [path.name for path in Path().iterdir()] == ["o.sdf"]
    assert Path("o.sdf").read_text(encoding="utf-8") == "before"


def test_what_ended_a_run_is_said(run, monkeypatch):
    done = run("--num", "2", "--where", "n_atoms[S] == 2", "--max-draws", "9", "--out", "o.sdf")
    assert done.exit_code == 3
    assert "stopped: --max-draws 9 reached" in done.output
    assert "nothing was certified, so no file was written" in done.output
    done = run("--num", "2", "--where", "atoms >= 30", "--out", "o.sdf")
    assert done.exit_code == 2
    assert "'atoms <= 29'" in done.output
    embed, calls = tiles.positions, []

    def once(*given, **named):
        calls.append(1)
        if len(calls) > 1:
            raise KeyboardInterrupt
        return embed(*given, **named)

    monkeypatch.setattr(tiles, "positions", once)
    done = run("--num", "3", "--out", "o.sdf", "--where", "lacks S", "--json")
    assert done.exit_code == 130
    assert 1 <= len(list(Chem.SDMolSupplier("o.sdf"))) == json.loads(done.stdout)["geometries"]["certified"] < 3


def test_how_many_molecules_a_rule_speaks_of_is_said(run):
    rule = "distance([N:1]CC[O:2]) <= 9"
    done = run("--num", "3", "--where", "lacks S", "--keep", rule, "--keep", "clash >= 0.4", "--out", "o.sdf", "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["matched"] == {rule: 0, "clash >= 0.4": 3}
    assert f"{rule}: 0 of 3 molecules have a match" in done.output
    assert "clash >= 0.4: " not in done.output


def test_a_number_of_atoms_is_a_condition(run, monkeypatch):
    monkeypatch.setattr(certified, "load", lambda model, device: Tellable())
    done = run("--num", "1", "--towards", "atoms=11", "--out", "o.sdf", "--json")
    assert json.loads(done.stdout)["where"] == ["atoms == 11", "atoms <= 29"]
    mol = next(iter(Chem.SDMolSupplier("o.sdf", removeHs=False)))
    assert (mol.GetProp("index"), mol.GetNumAtoms()) == ("2", 11)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--among", "4"], "a value of alpha"),
        (["--among", "4", "--towards", "atoms=11"], "a value of alpha"),
        (["--among", "0", "--towards", "gap=6"], "expected 1 to 256, got 0"),
        (["--towards", "atoms=11.5"], "whole number of atoms"),
    ],
)
def test_what_nothing_can_be_chosen_by_is_said_first(run, more, said):
    arguments = ["--num", "1", "--out", "o.sdf", *more]
    done = run(*arguments)
    assert done.exit_code == 2
    assert said in done.output


def test_far_is_unlikely_under_the_error_of_the_network():
    errors, read = {"gap": 0.2, "mu": 3.0}, np.array([[0, 6.1, 0, 0, 4.0, 0], [0, 6.4, 0, 0, 1.0, 0]])
    normal = NormalDist()
    found = misses(read, {"gap": 6.0, "mu": 1.0}, errors)
    for row, value in zip(read, found, strict=True):
        density = normal.pdf((row[1] - 6.0) / 0.2) * normal.pdf((row[4] - 1.0) / 3.0)
        assert value == pytest.approx(-2 * math.log(density * 2 * math.pi))


def test_a_source_that_cannot_be_told_is_no_answer(run):
    done = run("--num", "1", "--towards", "gap=6.5", "--out", "o.sdf")
    assert done.exit_code == 2
    assert "--towards: expected a model that can be told" in done.output


def test_conditions_hold_of_what_gets_a_geometry(run):
    done = run("--num", "2", "--where", "rings == 1", "--out", "o.sdf")
    assert done.exit_code == 0, done.output
    assert [mol.GetProp("index") for mol in Chem.SDMolSupplier("o.sdf")] == ["2", "5"]


def test_what_cannot_be_had_ends_and_says_why(run):
    done = run("--num", "2", "--where", "mw > 900", "--max-draws", "40", "--out", "o.sdf")
    assert done.exit_code == 3
    assert "stopped: --max-draws 40 reached" in done.output
    assert "nothing was certified, so no file was written" in done.output
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--out", "o.smi"], "expected --out FILE.sdf"),
        ([], "expected --out"),
        (["--out", "o.sdf", "--report", "none/r.html"], "none"),
    ],
)
def test_what_cannot_be_written_is_said_first(run, arguments, said):
    done = run("--num", "1", *arguments)
    assert done.exit_code == 2
    assert said in done.output
