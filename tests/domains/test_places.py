"""Rules on places in space, and rules beside fixed atoms: read, refused, projected on jointly, certified."""

import json

import numpy as np
import pytest
import torch
from rdkit import Chem
from rdkit.Chem import AllChem
from typer.testing import CliRunner

from scidiff.cli.main import app
from scidiff.errors import UserError
from scidiff.molecules.three_d.batches import LEAF, harmonic_of
from scidiff.molecules.three_d.fixed import RigidPart
from scidiff.molecules.three_d.graphs import graph_of
from scidiff.molecules.three_d.model import ConformerConfig
from scidiff.molecules.three_d.oracle import refusals, with_positions
from scidiff.molecules.three_d.records import Refused, fix, keep, record
from scidiff.molecules.three_d.rule_oracle import broken, measured
from scidiff.molecules.three_d.ruled import Ruled
from scidiff.molecules.three_d.rules import parse
from scidiff.molecules.three_d.surroundings import read
from scidiff.state import Layout

FIXED = (0, 1, 2)  # of a chain


def embedded(smiles: str, seed: int = 7) -> Chem.Mol:
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    assert AllChem.EmbedMolecule(mol, randomSeed=seed) == 0
    AllChem.MMFFOptimizeMolecule(mol)
    return mol


def pocket(path, position, element="Ar") -> str:
    """A file of atoms on their own."""
    mol = Chem.RWMol()
    for _ in position:
        mol.AddAtom(Chem.Atom(element))
    path.write_text(Chem.MolToMolBlock(with_positions(mol.GetMol(), np.asarray(position))) + "$$$$\n")
    return str(path)


def projected(texts, mol, fixed=FIXED, blur=0.0, seed=0):
    """Positions in space of a blurred and turned molecule, on the rules; the violation that is left."""
    root, inverse = map(torch.as_tensor, harmonic_of(graph_of(mol)))
    part = RigidPart.of(fixed, mol.GetConformer().GetPositions(), root)
    ruled = Ruled.of(parse(texts), mol, root, part)
    assert ruled is not None
    generator = np.random.default_rng(seed)
    turn = np.linalg.qr(generator.normal(size=(3, 3)))[0]
    turn *= np.linalg.det(turn)
    y = inverse @ torch.as_tensor(mol.GetConformer().GetPositions() @ turn)
    y = y + blur * torch.as_tensor(generator.normal(size=y.shape))
    layout = Layout.ragged({LEAF: torch.tensor([len(y)])}, {LEAF: (3,)})
    state = ruled.project({LEAF: y}, layout)
    again = ruled.project(state, layout)
    assert torch.allclose(again[LEAF], state[LEAF], atol=1e-6)
    x = ruled.placed((root @ state[LEAF])[None])[0].numpy()
    return x, float(ruled.violation(state, layout)[0])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("inside([0, 1], [0, 1])", r"expected inside\(\[x, x\]"),
        ("inside([0, 1], [0, 1], [2, 1])", "ascending"),
        ("inside([0, 1], [0, 1], [0, nan])", "ascending"),
        ("inside(box)", "ascending"),
        ("outside(none.pdb) >= 0.8", "cannot read none.pdb"),
        ("outside(pocket.xyz) >= 0.8", r"ending in .pdb, .sdf, got 'pocket.xyz'"),
        ("outside(empty.pdb) >= 0.8", "empty.pdb: expected atoms"),
        ("outside(flat.sdf) >= 0.8", "flat.sdf: expected atoms with coordinates in space, got none"),
        ("outside(p.sdf) <= 0.8", "expected outside with >="),
        ("outside(p.sdf) >= 3", "expected a range within"),
    ],
)
def test_what_is_no_place_is_said_in_one_line(text, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.pdb").write_text("END\n")
    (tmp_path / "flat.sdf").write_text(Chem.MolToMolBlock(Chem.MolFromSmiles("CC")) + "$$$$\n")
    pocket(tmp_path / "p.sdf", [[0.0, 0.0, 1.0]])
    with pytest.raises(UserError, match=said):
        parse([text])


def test_surroundings_are_all_atoms_of_a_file(tmp_path):
    mols = [embedded("CCO"), embedded("c1ccoc1")]
    (tmp_path / "p.sdf").write_text("".join(Chem.MolToMolBlock(mol) + "$$$$\n" for mol in mols))
    found, expected = read(str(tmp_path / "p.sdf")), np.concatenate([m.GetConformer().GetPositions() for m in mols])
    assert np.allclose(found.position, expected, atol=1e-4)
    (tmp_path / "p.pdb").write_text(Chem.MolToPDBBlock(mols[0]))
    found = read(str(tmp_path / "p.pdb"))
    assert np.allclose(found.position, mols[0].GetConformer().GetPositions(), atol=1e-3)
    assert sorted(set(found.radius)) == sorted({Chem.GetPeriodicTable().GetRvdw(z) for z in (1, 6, 8)})


def test_the_oracle_measures_places(tmp_path):
    mol = embedded("CCCCCC")
    x = mol.GetConformer().GetPositions()
    where = np.array([[9.0, 9.0, 9.0], x[3] + [0, 0, 2.5]])
    rules = parse([f"outside({pocket(tmp_path / 'p.sdf', where)}) >= 1", "inside([-1, 1], [-50, 50], [-50, 50])"])
    near, out = (np.array(list(measured(rule, mol))) for rule in rules)
    radius = np.array([Chem.GetPeriodicTable().GetRvdw(atom.GetAtomicNum()) for atom in mol.GetAtoms()])
    argon = Chem.GetPeriodicTable().GetRvdw(18)
    for k, one in enumerate(x):
        assert near[k] == pytest.approx(min(np.linalg.norm(one - p) for p in where) / (radius[k] + argon), abs=1e-4)
        assert out[k] == pytest.approx(max(0.0, abs(one[0]) - 1), abs=1e-9)
    assert broken(rules, mol, x) == tuple(rule.text for rule in rules)


def test_loose_directions_leave_the_part_as_it_is():
    mol = embedded("CCCCO")
    root = torch.as_tensor(harmonic_of(graph_of(mol))[0])
    part = RigidPart.of(FIXED, mol.GetConformer().GetPositions(), root)
    loose = part.loose
    assert torch.allclose(loose @ loose, loose, atol=1e-10)
    assert float(torch.trace(loose)) == pytest.approx(mol.GetNumAtoms() - (len(FIXED) - 1))
    moved = (root @ loose @ torch.randn(mol.GetNumAtoms(), 3, dtype=torch.float64))[list(FIXED)]
    assert float((moved - moved[0]).abs().max()) < 1e-10


def test_what_is_projected_on_places_is_certified_and_the_part_stays(tmp_path):
    """Blurred and turned chains, an atom near a free one and a wall beyond: most find a way, and none is wrong."""
    holds = []
    for seed, smiles in enumerate(("CCCCCO", "CCCC(C)F", "CCCNCC")):
        mol = embedded(smiles)
        x = mol.GetConformer().GetPositions()
        beyond = x[4] + 2.2 * (x[4] - x[1]) / np.linalg.norm(x[4] - x[1])
        wall = round(float(x[:, 0].max()) + 0.1, 3)
        around = pocket(tmp_path / f"{seed}.sdf", [beyond])
        texts = [f"outside({around}) >= 0.7", f"inside([-30, {wall}], [-30, 30], [-30, 30])"]
        found, left = projected(texts, mol, blur=0.03, seed=seed)
        assert np.abs(found - x)[list(FIXED)].max() < 1e-9
        holds.append(left == 0)
        if left == 0:
            assert broken(parse(texts), mol, found) == ()
    assert sum(holds) >= 2, holds


def test_an_atom_in_the_way_is_avoided_and_nothing_is_broken(tmp_path):
    """A chain grows from its fixed end; an argon atom stands 2.5 angstrom beyond the other one."""
    mol = embedded("CCCCCO")
    x = mol.GetConformer().GetPositions()
    wall = x[5] + 2.5 * (x[5] - x[4]) / np.linalg.norm(x[5] - x[4])
    rules = [f"outside({pocket(tmp_path / 'p.sdf', [wall])}) >= 0.9"]
    assert broken(parse(rules), mol, x)
    found, left = projected(rules, mol)
    assert left == 0
    assert broken(parse(rules), mol, found) == ()
    assert set(refusals(mol, found, FIXED)) <= {"another stereoisomer"}
    assert np.linalg.norm(found[5] - wall) > np.linalg.norm(x[5] - wall) + 0.3


def test_a_wall_moves_what_is_free_to_it():
    mol = embedded("CCCCCO")
    x = mol.GetConformer().GetPositions()
    wall = round(float(x[:, 0].max() - 0.3), 3)
    assert wall > x[list(FIXED), 0].max()
    found, left = projected([f"inside([-40, {wall}], [-40, 40], [-40, 40])"], mol)
    assert left == 0
    assert found[:, 0].max() == pytest.approx(wall, abs=1e-4)


def test_a_distance_is_kept_beside_fixed_atoms():
    mol = embedded("NCCCO")
    rule = "distance([N:1]CCC[O:2]) == 3.6"
    found, left = projected([rule, "clash >= 0.5"], mol)
    assert left == 0
    assert np.linalg.norm(found[0] - found[4]) == pytest.approx(3.6, abs=1e-6)
    assert np.abs(found - mol.GetConformer().GetPositions())[list(FIXED)].max() < 1e-9
    assert refusals(mol, found, FIXED) == ()


def test_what_holds_is_left_alone():
    mol = embedded("NCCCO")
    found, left = projected(["inside([-40, 40], [-40, 40], [-40, 40])"], mol, seed=3)
    assert left == 0
    assert np.allclose(found, mol.GetConformer().GetPositions(), atol=1e-8)


def test_the_violation_tells_of_the_part_as_of_the_rules():
    mol = embedded("NCCCO")
    root, inverse = map(torch.as_tensor, harmonic_of(graph_of(mol)))
    x = mol.GetConformer().GetPositions()
    ruled = Ruled.of(parse(["clash >= 0.3"]), mol, root, RigidPart.of(FIXED, x, root))
    layout = Layout.ragged({LEAF: torch.tensor([len(x)])}, {LEAF: (3,)})
    moved = x.copy()
    moved[0] += 0.02
    first, second = (float(ruled.violation({LEAF: inverse @ torch.as_tensor(p)}, layout)[0]) for p in (x, moved))
    assert first == 0
    assert second > 0.005


@pytest.mark.parametrize(
    ("pattern", "rule", "said"),
    [
        ("NC", "inside([-9, 9], [-9, 9], [-9, 9])", "expected --fix of 3 atoms or more"),
        (None, "inside([-9, 9], [-9, 9], [-9, 9])", "expected --fix of 3 atoms or more"),
        ("CCC", "inside([90, 99], [-9, 9], [-9, 9])", "expected fixed atoms that keep it"),
        ("NCCC", "distance(NC) >= 1.6", "expected fixed atoms that keep it"),
    ],
)
def test_what_fixed_atoms_rule_out_is_refused_with_a_reason(pattern, rule, said):
    one = record(embedded("NCCCO"), ConformerConfig(), 1, "it")
    fixed = [one] if pattern is None else fix([one], pattern)
    (refused,) = keep(fixed, parse([rule]))
    assert isinstance(refused, Refused)
    assert said in refused.reason


def test_the_command_grows_a_molecule_in_a_pocket(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    mol = embedded("CCCCO")
    x = mol.GetConformer().GetPositions()
    wall = x[4] + 2.5 * (x[4] - x[3]) / np.linalg.norm(x[4] - x[3])
    (tmp_path / "in.sdf").write_text(Chem.MolToMolBlock(mol) + "$$$$\n")
    pocket(tmp_path / "p.sdf", [wall])
    rules = ["outside(p.sdf) >= 0.8", "clash >= 0.6"]
    arguments = ["molecules", "conformers", "in.sdf", "--num", "2", "--fix", "[CH3][CH2][CH2]", "--out", "o.sdf"]
    more = [part for rule in rules for part in ("--keep", rule)]
    done = CliRunner().invoke(app, [*arguments, *more, "--json", "--steps", "6"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["certified"] == 2
    for drawn in Chem.SDMolSupplier("o.sdf", removeHs=False):
        position = drawn.GetConformer().GetPositions()
        assert np.abs(position - x)[list(FIXED)].max() < 1e-3  # as the file rounds
        assert min(measured(parse(rules[:1])[0], drawn)) > 0.8 - 1e-3
    done = CliRunner().invoke(app, ["molecules", "generate", "--num", "1", "--out", "n.sdf", *more])
    assert done.exit_code == 2
    assert "expected no place in space of new molecules" in done.output
