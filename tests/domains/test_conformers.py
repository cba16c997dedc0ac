"""Conformers: what certifies them, and that each is a function of seed, record and draw."""

import csv
import gzip
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from rdkit import Chem
from rdkit.Chem import AllChem
from typer.testing import CliRunner

from scidiff import molecules
from scidiff.cli.main import app
from scidiff.errors import UserError
from scidiff.molecules.three_d import conformers as module
from scidiff.molecules.three_d import embedding, tiles
from scidiff.molecules.three_d import model as models
from scidiff.molecules.three_d.conformers import LEAST, MOST, PATIENCE, conformers
from scidiff.molecules.three_d.model import ConformerConfig, ConformerModel
from scidiff.molecules.three_d.oracle import BROKEN, CLASHING, MOVED, TURNED, refusals
from scidiff.molecules.three_d.records import Record, Refused, fix, read, record
from scidiff.molecules.three_d.tiles import STRIDE

CONFIG = ConformerConfig(width=16, depth=1, heads=2, channels=2, pair_width=4)
STEREO = (
    "C[C@H](O)CN",
    "C[C@@H](F)[C@H](O)C=O",
    "C/C=C/C#N",
    "C/C=C\\C#N",
    "O[C@H]1C[C@@H](F)C1",
    "O[C@H]1C[C@H](F)C1",
)


def embedded(smiles: str) -> tuple[Chem.Mol, np.ndarray]:
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    assert AllChem.EmbedMolecule(mol, randomSeed=7) == 0
    return mol, mol.GetConformer().GetPositions()


@pytest.fixture(scope="module")
def small() -> ConformerModel:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return ConformerModel.create(CONFIG)


@pytest.mark.parametrize("smiles", [*STEREO, "c1ccoc1", "CC(=O)[O-]", "C1C2CC1C2", "CCCCCCCCC"])
def test_what_rdkit_embeds_is_certified(smiles):
    assert refusals(*embedded(smiles)) == ()


@pytest.mark.parametrize("smiles", STEREO)
def test_the_other_stereoisomer_is_refused(smiles):
    mol, x = embedded(smiles)
    if "@" in smiles and "1" not in smiles:
        assert refusals(mol, -x) == (TURNED,)
    for other in STEREO:
        if other != smiles and Chem.CanonSmiles(other, useChiral=0) == Chem.CanonSmiles(smiles, useChiral=0):
            assert refusals(Chem.AddHs(Chem.MolFromSmiles(other)), x) == (TURNED,)


def test_what_is_not_said_may_be_any():
    mol, x = embedded("CC(O)CN")
    assert refusals(mol, x) == refusals(mol, -x) == ()
    half, y = embedded("C[C@H](F)C(O)C=O")
    assert refusals(half, y) == ()
    assert refusals(half, -y) == (TURNED,)


@pytest.mark.parametrize("scale", [0.6, 1.3])
def test_bonds_out_of_range_are_refused(scale):
    mol, x = embedded("CCO")
    assert BROKEN in refusals(mol, scale * x)


def test_one_bond_pressed_and_one_angle_closed_are_refused():
    mol, x = embedded("CCO")
    carbon, (first, second) = 0, [3, 4]  # hydrogens of the methyl group
    pressed, closed = x.copy(), x.copy()
    pressed[first] = x[carbon] + 0.45 * (x[first] - x[carbon])
    assert refusals(mol, pressed) == (BROKEN,)
    beam = 0.8 * (x[first] - x[carbon]) + 0.2 * (x[second] - x[carbon])
    closed[second] = x[carbon] + 1.09 * beam / np.linalg.norm(beam)
    assert refusals(mol, closed) == (BROKEN,)


def test_a_flattened_centre_has_no_hand():
    mol, x = embedded("C[C@H](O)CN")
    centre, *others = [1, *(atom.GetIdx() for atom in mol.GetAtomWithIdx(1).GetNeighbors())]
    flat = x - x[centre]
    _, axes = np.linalg.eigh(flat[others].T @ flat[others])
    flat -= np.outer(flat @ axes[:, 0], axes[:, 0])
    assert TURNED in refusals(mol, flat)


def test_a_clash_is_refused():
    mol, x = embedded("CCCCCCC")
    table = Chem.GetDistanceMatrix(mol)
    i, j = np.argwhere(table >= 6)[0]
    x[j] = x[i] + [0.0, 0.0, 0.9]
    assert CLASHING in refusals(mol, x)


def test_what_is_not_a_number_is_refused():
    mol, x = embedded("CCO")
    x[0] = np.nan
    assert refusals(mol, x) == (BROKEN,)


@pytest.mark.parametrize(
    ("smiles", "said"),
    [
        ("CCS", "got S"),
        ("CC.O", "2 parts"),
        ("C" * 12, "3 to 29 atoms"),
        ("[CH3]", "radicals"),
        ("[H][H]", "3 to 29 atoms"),
        ("CN(C)(C)->O", "got DATIVE"),
    ],
)
def test_molecules_the_model_does_not_know(smiles, said):
    found = record(Chem.MolFromSmiles(smiles), CONFIG, 4, "name")
    assert isinstance(found, Refused)
    assert said in found.reason


def test_atoms_of_a_structure_keep_their_order(tmp_path):
    mol, _ = embedded("C[C@H](O)CN")
    order = np.random.default_rng(0).permutation(mol.GetNumAtoms()).tolist()
    mixed = Chem.RenumberAtoms(mol, order)
    (tmp_path / "a.sdf").write_text(Chem.MolToMolBlock(mixed) + "$$$$\nbroken\n\n\n  x\n$$$$\n")
    first, second = read(tmp_path / "a.sdf", CONFIG)
    assert isinstance(first, Record)
    assert [a.GetSymbol() for a in first.mol.GetAtoms()] == [a.GetSymbol() for a in mixed.GetAtoms()]
    assert Chem.MolToSmiles(Chem.RemoveHs(first.mol)) == Chem.CanonSmiles("C[C@H](O)CN")
    assert isinstance(second, Refused)
    assert second.number == 2


def test_draws_are_the_same_alone_and_among_others(small, monkeypatch):
    seen = {}

    def keep(mol, position, fixed):
        seen.setdefault(Chem.MolToSmiles(mol), []).append(position)
        return ("refused",)

    monkeypatch.setattr(module, "refusals", keep)
    mols = [record(Chem.MolFromSmiles(s), CONFIG, k, "") for k, s in enumerate(("CCO", "CCN", "CC=O"))]
    conformers(mols, num=1, model=small, steps=2)
    many = {name: np.stack(values) for name, values in seen.items()}
    seen.clear()
    conformers([Refused(number=0, name="", text="", reason="x"), mols[1]], num=4, model=small, steps=2)
    ((name, values),) = seen.items()
    assert np.array_equal(np.stack(values)[:LEAST], many[name])
    assert len(values) == 16
    assert len({value.tobytes() for value in values}) == 16
    seen.clear()
    conformers([record(Chem.MolFromSmiles("CCN"), CONFIG, 9, "")], num=1, model=small, steps=2)
    assert not np.array_equal(np.stack(seen[name]), many[name])  # another record: other noise


@pytest.mark.parametrize("place", [0, 7, tiles.TILE - 1])
def test_draws_are_the_same_to_the_bit_in_any_place_of_a_tile(small, place):
    smiles = ("CCO", "COC", "C1CN1C", "CC(=O)N")  # nine atoms each
    mine, *others = (record(Chem.MolFromSmiles(s), CONFIG, k, "") for k, s in enumerate(smiles))
    asked = [tiles.Asked(record=others[k % 2], draw=k) for k in range(tiles.TILE)]
    asked[place] = tiles.Asked(record=mine, draw=3)
    together = dict(tiles.draw(asked, model=small, seed=5, steps=2))
    ((_, alone),) = tiles.draw([asked[place]], model=small, seed=5, steps=2)
    assert np.array_equal(together[place], alone)
    assert len({x.tobytes() for x in together.values()}) == tiles.TILE


def test_draws_of_records_never_share_noise():
    assert PATIENCE * MOST <= STRIDE


def given_in_space(smiles: str) -> Record:
    found = record(embedded(smiles)[0], CONFIG, 1, "posed")
    assert isinstance(found, Record)
    return found


def test_fixed_atoms_stay_where_they_are(small, monkeypatch):
    (one,) = fix([given_in_space("CC(O)Cc1ccoc1")], "c1ccoc1")
    assert isinstance(one, Record)
    monkeypatch.setattr(module, "refusals", lambda mol, x, fixed: tuple({*refusals(mol, x, fixed)} & {MOVED}))
    (found,) = conformers([one], num=5, model=small, steps=3).ensembles
    given = one.mol.GetConformer().GetPositions()
    atoms, free = list(one.fixed), [k for k in range(len(given)) if k not in one.fixed]
    assert len(found.conformers) == 5
    for conformer in found.conformers:
        assert np.abs(conformer.position - given)[atoms].max() < 1e-6
        assert np.abs(conformer.position - given)[free].max() > 0.1
    assert MOVED in refusals(one.mol, given + 2e-6, one.fixed)
    assert refusals(one.mol, given + 2e-6) == ()


@pytest.mark.parametrize(
    ("smarts", "said"),
    [("S", "got none"), ("[#6]", "got several"), ("[#6]~[#8]([#1])~[#1]", "got none")],
)
def test_what_cannot_be_fixed_is_refused(smarts, said):
    (one,) = fix([given_in_space("CC(O)CN")], smarts)
    assert isinstance(one, Refused)
    assert said in one.reason


def test_fixed_atoms_need_a_geometry_that_can_be():
    flat = record(Chem.MolFromSmiles("CCO"), CONFIG, 1, "")
    (one,) = fix([flat], "[OX2]")
    assert "3-D coordinates" in one.reason
    posed = given_in_space("CCO")
    posed.mol.GetConformer().SetAtomPosition(1, [9.0, 9.0, 9.0])
    (one,) = fix([posed], "[CH3][CH2]")
    assert "bonds allow" in one.reason
    with pytest.raises(UserError, match="--fix: expected a SMARTS"):
        fix([], "not smarts")


@pytest.mark.parametrize("given", [{"num": 0}, {"num": MOST + 1}, {"num": 1, "seed": -1}, {"num": 1, "steps": 0}])
def test_arguments_out_of_range(small, given):
    with pytest.raises(UserError, match="expected"):
        conformers([], model=small, **given)


def test_python_takes_smiles_and_molecules(small, monkeypatch):
    monkeypatch.setattr(embedding, "load", lambda folder, device: small)
    monkeypatch.setattr(module, "refusals", lambda mol, x, fixed: ())
    mixed, _ = embedded("C[C@H](O)CN")
    run = molecules.conformers(["CCO", mixed, "xx", ""], num=3, steps=2)
    assert [one.mol.GetNumConformers() for one in run.ensembles] == [3, 3]
    assert Chem.MolToSmiles(run.ensembles[1].mol) == Chem.MolToSmiles(mixed)
    assert [one.number for one in run.refused] == [3, 4]
    again = molecules.conformers(["CCO"], num=1, steps=2).ensembles[0].mol
    assert np.array_equal(again.GetConformer().GetPositions(), run.ensembles[0].mol.GetConformer(0).GetPositions())


@pytest.fixture
def run(small, monkeypatch, tmp_path):
    """The command with a sampler that gives what RDKit embeds, every third draw mirrored."""

    def embed(denoiser, processes, condition, *, seed, index, steps, held, start):
        found = []
        for k in index.tolist():
            mol = Chem.Mol(smallest[k // STRIDE])
            assert AllChem.EmbedMolecule(mol, randomSeed=k + 1) == 0
            found.append(mol.GetConformer().GetPositions() * (-1 if k % STRIDE % 3 == 2 else 1))
        return torch.as_tensor(np.stack(found))

    smallest: dict[int, Chem.Mol] = {}

    def start(text: str, *arguments: str, name: str = "in.smi"):
        (tmp_path / name).write_text(text)
        for one in read(tmp_path / name, CONFIG) if text.strip() else []:
            if isinstance(one, Record):
                smallest[one.number] = one.mol
        return CliRunner().invoke(app, ["molecules", "conformers", name, "--out", "o.sdf", *arguments])

    monkeypatch.setattr(tiles, "positions", embed)
    monkeypatch.setattr(models, "load", lambda folder, device: small)
    monkeypatch.chdir(tmp_path)
    return start


def test_command_writes_what_is_certified(run, tmp_path):
    done = run("C[C@H](O)CN mine\nC/C=C/C#N\n", "--num", "4", "--json")
    assert done.exit_code == 0, done.output
    account = json.loads(done.stdout)
    assert (account["certified"], account["drawn"], account["reasons"]) == (8, 9, {TURNED: 1})
    written = list(Chem.SDMolSupplier(str(tmp_path / "o.sdf"), removeHs=False))
    assert [mol.GetProp("_Name") for mol in written] == ["mine"] * 4 + ["2"] * 4
    assert [mol.GetProp("draw") for mol in written[:4]] == ["0", "1", "3", "4"]
    for mol, smiles in zip(written, ["C[C@H](O)CN"] * 4 + ["C/C=C/C#N"] * 4, strict=True):
        Chem.AssignStereochemistryFrom3D(mol)
        assert Chem.MolToSmiles(Chem.RemoveHs(mol)) == Chem.CanonSmiles(smiles)
    assert not Path("o.refused.csv").exists()
    assert not Path("r.html").exists()
    assert run("CCO\n", "--num", "1", "--report", "r.html").exit_code == 0
    assert "certified 1 of 1" in Path("r.html").read_text()


def test_command_refuses_records_by_number_and_does_the_rest(run, tmp_path):
    done = run("CCO\nxx\n\nCCS name\n", "--num", "2")
    assert done.exit_code == 3
    with (tmp_path / "o.refused.csv").open() as stream:
        assert [(row["record"], row["name"]) for row in csv.DictReader(stream)] == [("2", "2"), ("4", "name")]
    assert "record 4 refused: expected the elements H, C, N, O, F, got S" in done.output
    assert len(list(Chem.SDMolSupplier(str(tmp_path / "o.sdf")))) == 2


def test_what_an_earlier_run_refused_is_not_left_beside_new_conformers(run):
    assert run("CCO\nxx\n", "--num", "1").exit_code == 3
    assert run("CCO\n", "--num", "1").exit_code == 0
    assert Path("o.refused.csv").read_text() == "record,name,text,reason\n"


def test_data_items_of_a_structure_come_back(run, tmp_path):
    mol = embedded("C[C@H](O)CN")[0]
    for name, value in {"id": "007", "note": "two\nlines", "draw": "old"}.items():
        mol.SetProp(name, value)
    with Chem.SDWriter(str(tmp_path / "source.sdf")) as source:
        source.write(mol)
    assert run((tmp_path / "source.sdf").read_text(), "--num", "1", name="in.sdf").exit_code == 0
    (written,) = Chem.SDMolSupplier("o.sdf")
    assert [written.GetProp(name) for name in ("id", "note", "draw")] == ["007", "two\nlines", "0"]


def test_packed_files_are_read(tmp_path):
    packed = bytearray(gzip.compress("\ufeffCCO \u00e9thanol\n".encode()))
    (tmp_path / "in.smi.gz").write_bytes(packed)
    with gzip.open(tmp_path / "in.sdf.gz", "wt") as stream:
        stream.write(f"{Chem.MolToMolBlock(embedded('CCO')[0])}$$$$\n")
    for name, called in (("in.smi.gz", "\u00e9thanol"), ("in.sdf.gz", "1")):
        (one,) = read(tmp_path / name, CONFIG)
        assert isinstance(one, Record)
        assert (one.name, Chem.MolToSmiles(Chem.RemoveHs(one.mol))) == (called, "CCO")
    packed[10] = 0xFF  # the kind of the first block, of which there is none
    (tmp_path / "in.smi.gz").write_bytes(packed)
    with pytest.raises(UserError, match="cannot read"):
        read(tmp_path / "in.smi.gz", CONFIG)


@pytest.mark.parametrize(
    ("text", "arguments", "said"),
    [
        ("xx\n", [], "record 1: not a valid SMILES"),
        ("", [], "found none"),
        ("CCO\n", ["--num", "0"], "--num: expected 1 to 1000"),
        ("CCO\n", ["--out", "o.mol"], "ending in .sdf"),
        ("CCO\n", ["--out", "nowhere/o.sdf"], "cannot write"),
        ("CCO\n", ["--report", "r.txt"], "ending in .html"),
    ],
)
def test_command_says_in_one_line_what_is_wrong(run, tmp_path, text, arguments, said):
    done = run(text, *arguments)
    assert done.exit_code == 2
    assert said in done.output
    assert "Traceback" not in done.output
    assert not (tmp_path / "o.sdf").exists()


def test_command_tells_what_falls_short(run, monkeypatch):
    monkeypatch.setattr(module, "refusals", lambda mol, position, fixed: (BROKEN,))
    done = run("CCO\n", "--num", "3")
    assert done.exit_code == 3
    assert "record 1: 0 of 3 certified in 12 draws" in done.output
