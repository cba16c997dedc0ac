"""Geometries judged: EDM's rule on known molecules, and each measure moved by what it is about."""

import json

import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import AllChem
from typer.testing import CliRunner

from scidiff.cli.main import app
from scidiff.errors import UserError
from scidiff.molecules.three_d import busting
from scidiff.molecules.three_d.evaluation import FLAT, STRANGE, evaluate
from scidiff.molecules.three_d.measures import bond_error, relaxed, rmsd
from scidiff.molecules.three_d.oracle import with_positions
from scidiff.molecules.three_d.shapes import FEWEST, NAMES, distances, shapes
from scidiff.molecules.three_d.stability import bond_orders, read_by_distance, stable_atoms
from scidiff.molecules.three_d.valences import stable_as_revisited, stable_by_midi


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


@pytest.mark.parametrize("smiles", ["c1ccoc1", "c1cc[nH]c1", "CC(=O)[O-]", "C[N+](C)(C)C", "N#CC1CC1", "C[N+](=O)[O-]"])
def test_every_rule_finds_molecules_stable(smiles):
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    assert stable_by_midi(mol).all()
    assert stable_as_revisited(mol).all()


def test_rules_differ_where_one_was_corrected():
    radical = Chem.AddHs(Chem.MolFromSmiles("C[CH2]"))  # neutral carbon with three bonds
    assert stable_by_midi(radical).all()
    assert stable_as_revisited(radical).tolist() == [True, False, *[True] * 5]
    five = Chem.MolFromSmiles("[H][C]([H])([H])([H])[H]", sanitize=False)
    assert not stable_by_midi(five)[1]
    assert not stable_as_revisited(five)[1]


def test_what_distances_say_is_read():
    mol = relaxed_mol("C=CC#N")
    number, x = arrays(mol)
    assert (
        Chem.CanonSmiles(Chem.MolToSmiles(Chem.RemoveHs(Chem.MolFromSmiles(read_by_distance(number, x))))) == "C=CC#N"
    )
    assert read_by_distance(number, 0.8 * x) == ""  # too many bonds
    far = x.copy()
    far[3] += 5.0
    assert "N" not in read_by_distance(number, far)  # the largest part


def test_shapes_of_known_molecules():
    bonds, angles, torsions = shapes([relaxed_mol("C#C"), relaxed_mol("C/C=C/C"), relaxed_mol("C/C=C\\C")])
    assert angles[(1, 6, 6, "SP")] == pytest.approx([180, 180], abs=0.5)
    assert sorted(torsions[(6, 6, "DOUBLE", False)]) == pytest.approx([0, 180], abs=1)
    assert np.concatenate([bonds[(1, 6, "SINGLE")]]) == pytest.approx(1.09, abs=0.03)


def test_distances_of_shapes_are_those_of_what_was_changed():
    mols = [relaxed_mol(smiles) for smiles in ("CCCCCCC", "CC(C)CO", "CCCCCCCN")]
    known = shapes(mols)
    assert distances(known, known) == dict.fromkeys(NAMES, 0.0)
    mirrored = shapes([with_positions(mol, -arrays(mol)[1]) for mol in mols])
    assert distances(mirrored, known) == pytest.approx(dict.fromkeys(NAMES, 0.0), abs=1e-9)
    wide = distances(shapes([with_positions(mol, 1.02 * arrays(mol)[1]) for mol in mols]), known)
    kept = [values for values in known[0].values() if len(values) >= FEWEST]
    assert wide[NAMES[0]] == pytest.approx(0.02 * np.concatenate(kept).mean(), rel=1e-6)
    assert (wide[NAMES[1]], wide[NAMES[2]]) == pytest.approx((0, 0), abs=1e-6)
    assert np.isnan(distances(shapes([relaxed_mol("C")]), known)[NAMES[2]])


def test_the_command_measures_shapes_against_a_file(tmp_path):
    path = sdf(tmp_path / "a.sdf", [relaxed_mol("CCCCC"), relaxed_mol("CC(C)CO")])
    arguments = ["molecules", "evaluate", str(path), "--three-d", "--json"]
    done = CliRunner().invoke(app, [*arguments, "--reference", str(path)])
    assert done.exit_code == 0, done.output
    account = json.loads(done.stdout)
    assert account["bond_lengths"] == account["bond_angles"] == 0
    assert account["midi_molecules"] == account["revisited_molecules"] == account["valid_by_distance"] == 1
    assert (account["posebusters"] is None) == (not busting.available())
    assert "cannot read" in CliRunner().invoke(app, [*arguments, "--reference", "none.sdf"]).output
