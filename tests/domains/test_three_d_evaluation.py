"""Geometries judged: EDM's rule on known molecules, and each measure moved by what it is about."""

import json

import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import AllChem
from typer.testing import CliRunner

from scidiff.cli.main import app
from scidiff.errors import UserError
from scidiff.molecules.three_d.evaluation import FLAT, STRANGE, evaluate
from scidiff.molecules.three_d.measures import bond_error, relaxed, rmsd
from scidiff.molecules.three_d.oracle import with_positions
from scidiff.molecules.three_d.stability import bond_orders, stable_atoms


def relaxed_mol(smiles: str) -> Chem.Mol:
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    assert AllChem.EmbedMolecule(mol, randomSeed=7) == 0
    AllChem.MMFFOptimizeMolecule(mol)
    return mol


def arrays(mol: Chem.Mol) -> tuple[np.ndarray, np.ndarray]:
    return np.array([atom.GetAtomicNum() for atom in mol.GetAtoms()]), mol.GetConformer().GetPositions()


def sdf(path, mols):
    path.write_text("".join(Chem.MolToMolBlock(mol) + "$$$$\n" for mol in mols))
    return path


@pytest.mark.parametrize(("smiles", "order"), [("CC", 1), ("C=C", 2), ("C#C", 3), ("C#N", 3), ("C=O", 2)])
def test_orders_by_distance(smiles, order):
    number, x = arrays(relaxed_mol(smiles))
    orders = bond_orders(number, x)
    assert orders[0, 1] == orders[1, 0] == order
    assert stable_atoms(number, x).all()


def test_orders_need_every_shorter_bound():
    # fluorine to carbon: single bonds alone, however near
    assert bond_orders(np.array([6, 9]), np.array([[0.0, 0, 0], [1.0, 0, 0]]))[0, 1] == 1
    assert bond_orders(np.array([6, 9]), np.array([[0.0, 0, 0], [1.5, 0, 0]]))[0, 1] == 0


def test_a_stretched_bond_leaves_unstable_atoms():
    number, x = arrays(relaxed_mol("CC"))
    x[1] += 0.5 * (x[1] - x[0])
    assert not stable_atoms(number, x)[0]


def test_distances_forget_orientation_and_equal_atoms():
    mol = relaxed_mol("CCCO")
    _, x = arrays(mol)
    turned = x @ np.array([[0.0, 1, 0], [-1, 0, 0], [0, 0, 1]]) + 3
    assert rmsd(mol, turned, x) < 1e-4
    ring = relaxed_mol("C1CCC1")
    _, y = arrays(ring)
    assert rmsd(ring, np.roll(y[:4], 1, 0).tolist() + y[4:].tolist(), y) < 0.05
    assert bond_error(mol, 1.1 * x, x) == pytest.approx(0.1 * np.mean(lengths(mol, x)))


def lengths(mol: Chem.Mol, x: np.ndarray) -> list[float]:
    return [float(np.linalg.norm(x[b.GetBeginAtomIdx()] - x[b.GetEndAtomIdx()])) for b in mol.GetBonds()]


def test_relaxing_frees_what_stretching_cost():
    mol = relaxed_mol("CCO")
    _, x = arrays(mol)
    assert relaxed(mol, x)[1] == pytest.approx(0, abs=0.05)
    assert relaxed(mol, 1.1 * x)[1] > 10


def test_a_file_is_judged(tmp_path):
    good, other = relaxed_mol("C[C@H](O)C#N"), relaxed_mol("CC=O")
    _, x = arrays(other)
    broken = with_positions(other, 1.4 * x)
    flat = Chem.MolFromSmiles("CCO")
    strange = relaxed_mol("CCS")
    path = sdf(tmp_path / "a.sdf", [good, good, broken, flat, strange])
    found = evaluate(path, training=["CC=O"])
    assert found.refused == ((4, FLAT), (5, STRANGE))
    assert found.records == 5
    assert found.valid == 3 / 5
    assert found.stable_molecules == found.bonds == found.perceived == 2 / 5
    assert found.unclashed == 3 / 5
    assert found.unique == 2 / 3
    assert found.novel == 1 / 2
    done = CliRunner().invoke(app, ["molecules", "evaluate", str(path), "--three-d", "--json"])
    assert done.exit_code == 0, done.output
    account = json.loads(done.stdout)
    assert account["stable_molecules"] == 2 / 5
    assert account["novel"] is None
    assert account["refused"][0] == {"record": 4, "reason": FLAT}


def test_files_without_geometries(tmp_path):
    path = sdf(tmp_path / "a.sdf", [Chem.MolFromSmiles("CCO")])
    with pytest.raises(UserError, match=f"record 1: {FLAT}"):
        evaluate(path)
    done = CliRunner().invoke(app, ["molecules", "evaluate", str(tmp_path / "a.smi"), "--three-d"])
    assert done.exit_code == 2
    assert "ending in .sdf" in done.output
