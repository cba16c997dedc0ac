"""Molecules drawn with their geometry in one pass: molecules whatever the weights, keyed by seed and index."""

import gzip
import json
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from rdkit import Chem
from rdkit.Chem.rdMolDescriptors import CalcMolFormula
from typer.testing import CliRunner

from scidiff.cli.main import app
from scidiff.errors import UserError
from scidiff.molecules.parsing import parse_all
from scidiff.molecules.three_d.batches import Encoded
from scidiff.molecules.three_d.joint import generator as generators
from scidiff.molecules.three_d.joint.batches import SCALE, Joint, JointBatches, encode
from scidiff.molecules.three_d.joint.draws import states
from scidiff.molecules.three_d.joint.generator import JointGenerator
from scidiff.molecules.three_d.joint.model import JointConfig, JointModel, joint_loss
from scidiff.molecules.three_d.joint.tokens import molecule_of, tokens_of
from scidiff.noise import Noise

SAMPLE = Path(__file__).parents[2] / "datasets/qm9/sample.sdf.gz"
SIZES = ((5, 1), (6, 3), (7, 2))


@pytest.fixture(scope="module")
def held() -> list[Chem.Mol]:
    with gzip.open(SAMPLE) as stream:
        return list(islice(Chem.ForwardSDMolSupplier(stream, removeHs=False), 60))


@pytest.fixture(scope="module")
def encoded(held) -> Encoded[Joint]:
    def row(mol: Chem.Mol) -> tuple[str, np.ndarray, np.ndarray]:
        flat = Chem.RemoveAllHs(mol)
        smiles = Chem.MolToSmiles(flat, isomericSmiles=False)
        heavy = list(map(int, flat.GetProp("_smilesAtomOutputOrder").strip("[],").split(",")))
        order = heavy + [a.GetIdx() for a in mol.GetAtoms() if a.GetAtomicNum() == 1]
        number = np.array([mol.GetAtomWithIdx(i).GetAtomicNum() for i in order])
        return smiles, number, mol.GetConformer().GetPositions()[order]

    return encode([row(mol) for mol in held] + [("O=O", np.array([8, 8]), np.eye(3)[:2])])


def small(seed: int = 0) -> JointModel:
    torch.manual_seed(seed)
    config = JointConfig(sizes=SIZES, width=16, depth=1, heads=2, channels=2, pair_width=4)
    model = JointModel.create(config)
    for name, parameter in model.denoiser.named_parameters():
        if "head" in name:
            torch.nn.init.normal_(parameter, std=0.5)
    return model


def test_classes_are_the_molecule(held):
    for mol in held:
        found = tokens_of(mol)
        assert found is not None
        again = molecule_of(*found)
        assert again is not None
        assert [a.GetAtomicNum() for a in again.GetAtoms()] == [a.GetAtomicNum() for a in mol.GetAtoms()]
        plain = [Chem.MolToSmiles(Chem.RemoveAllHs(one), isomericSmiles=False) for one in (mol, again)]
        assert plain[0] == plain[1]


def test_what_is_no_molecule_has_none():
    atom, bond = tokens_of(Chem.AddHs(Chem.MolFromSmiles("C")))
    assert molecule_of(atom, np.where(np.arange(10) == 0, 2, bond)) is None  # five bonds at C
    assert molecule_of(atom, np.where(np.arange(10) == 0, 0, bond)) is None  # a hydrogen alone
    assert tokens_of(Chem.MolFromSmiles("[CH3]")) is None  # a radical


def test_batches_hold_the_molecules_centred(encoded):
    assert len(encoded) == 60
    assert encoded.refused == {"fewer than three atoms": 1}
    batches = JointBatches(encoded, atoms=60, seed=1)
    count = 0
    for k in range(batches.batches_per_epoch):
        batch = batches.at(k)
        count += batch.layout.batch
        position = batch.x_0["pos"].unflatten(0, (batch.layout.batch, -1))
        assert float(position.mean(1).abs().max()) < 1e-5
        n = position.shape[1]
        assert len(batch.x_0["bond"]) == batch.layout.batch * n * (n - 1) // 2
        mol = molecule_of(batch.x_0["atom"][:n].numpy(), batch.x_0["bond"][: n * (n - 1) // 2].numpy())
        bond = mol.GetBondWithIdx(0)
        i, j = bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()
        assert 0.8 < SCALE * float((position[0, i] - position[0, j]).norm()) < 1.7
    assert count == 60
    assert torch.equal(batches.at(3).x_0["pos"], JointBatches(encoded, atoms=60, seed=1).at(3).x_0["pos"])


def test_the_loss_of_every_leaf_reaches_the_weights(encoded):
    model, batches = small(), JointBatches(encoded, atoms=200)
    for k in range(3):
        one = batches.at(k)
        loss = joint_loss(model.denoiser, model.processes, one.x_0, one.layout, Noise(seed=0, index=one.index))
        assert loss.shape == (one.layout.batch,)
        loss.sum().backward()
    moved = {name for name, p in model.denoiser.named_parameters() if p.grad is not None and bool((p.grad != 0).any())}
    for name in ("body.head.weight", "atom_head.weight", "bond_head.weight", "bond_geometry.weight"):
        assert f"network.{name}" in moved


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_any_weights_give_molecules_in_any_number_of_steps(steps):
    found = states(small(steps), 6, seed=steps, index=torch.arange(4), steps=steps)
    assert (found.faults == 0).all()
    assert np.abs(found.position.mean(1)).max() < 1e-5
    assert all(molecule_of(*pair) is not None for pair in zip(found.atom, found.bond, strict=True))


def test_a_draw_is_the_same_whatever_is_drawn_beside_it():
    generator = JointGenerator(model=small(), sizes=dict(SIZES))
    many = list(islice(generator.stream(seed=4, start=0, steps=2, batch_size=12), 12))
    few = list(islice(generator.stream(seed=4, start=7, steps=2, batch_size=3), 4))
    assert [one.index for one in many] == list(range(12))
    for one, other in zip(few, many[7:11], strict=True):
        assert (one.smiles, one.index) == (other.smiles, other.index)
        assert np.array_equal(*(mol.GetConformer().GetPositions() for mol in (one.mol, other.mol)))
    assert len({one.smiles for one in many}) > 5
    assert {one.mol.GetNumAtoms() for one in many} == {5, 6, 7}
    # untrained geometries are refused by the oracle, and say why
    assert set(generator.geometries) == {one.index for one in many + few if not one.refused}
    assert any(one.refused for one in many)


def test_formula_and_size_are_enforced():
    generator = JointGenerator(model=small(), sizes=dict(SIZES))
    for one in islice(
        generator.given(parse_all(["formula == CH4N2"])).stream(seed=0, start=0, steps=2, batch_size=4), 4
    ):
        assert CalcMolFormula(one.mol) == "CH4N2"
    for one in islice(generator.given(parse_all(["atoms >= 7"])).stream(seed=0, start=0, steps=2, batch_size=4), 4):
        assert one.mol.GetNumAtoms() == 7
    for text in ("atoms == 9", "formula == C20H42", "formula == H4N+"):
        with pytest.raises(UserError, match="--where: expected"):
            generator.given(parse_all([text]))


@pytest.fixture
def run(monkeypatch, tmp_path):
    small().save(tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    arguments = ["molecules", "generate", "--jointly", "--model", "model", "--steps", "2", "--batch-size", "8"]
    return lambda *more: CliRunner().invoke(app, [*arguments, *more])


def test_the_command_writes_what_is_certified(run, monkeypatch):
    monkeypatch.setattr(
        generators, "refusals", lambda mol, position: ("far too odd",) if mol.GetNumAtoms() == 5 else ()
    )
    done = run("--num", "6", "--out", "o.sdf", "--json", "--report", "o.html", "--where", "heavy_atoms >= 2")
    assert done.exit_code == 0, done.output
    account = json.loads(done.stdout)
    assert account["certified"] == 6
    assert account["reasons"].get("far too odd", 0) > 0
    written = list(Chem.SDMolSupplier("o.sdf", removeHs=False))
    assert len(written) == 6
    for mol in written:
        assert mol.GetNumAtoms() in (6, 7)
        assert mol.GetConformer().Is3D()
        assert Chem.MolToSmiles(Chem.RemoveHs(mol), isomericSmiles=False) == Chem.CanonSmiles(mol.GetProp("smiles"))
        assert float(mol.GetProp("violation_heavy_atoms_ge_2")) == 0
    page = Path("o.html").read_text(encoding="utf-8")
    assert written[0].GetProp("smiles") in page
    assert "far too odd" in page  # what was refused is accounted for there as well


def test_a_request_it_cannot_carry_out_is_one_line(run):
    for more in (
        ["--out", "o.smi"],
        ["--out", "o.sdf", "--keep", "clash >= 0.8"],
        ["--out", "o.sdf", "--method", "guide"],
        ["--out", "o.sdf", "--where", "atoms == 40"],
    ):
        done = run("--num", "2", *more)
        assert done.exit_code == 2
        assert isinstance(done.exception, (SystemExit, UserError))
        assert not Path("o.sdf").exists()
