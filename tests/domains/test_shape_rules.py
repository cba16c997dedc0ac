"""Rules on shapes: read, projected on jointly, certified by other measurements."""

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rdkit import Chem
from rdkit.Chem import AllChem
from typer.testing import CliRunner

from scidiff import molecules
from scidiff.cli.main import app
from scidiff.errors import UserError
from scidiff.molecules.three_d.batches import LEAF, harmonic_of
from scidiff.molecules.three_d.graphs import graph_of
from scidiff.molecules.three_d.oracle import refusals, with_positions
from scidiff.molecules.three_d.rule_oracle import broken, measured
from scidiff.molecules.three_d.ruled import Ruled
from scidiff.molecules.three_d.rules import impossible, parse
from scidiff.state import Layout


def embedded(smiles: str, seed: int = 7) -> Chem.Mol:
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    assert AllChem.EmbedMolecule(mol, randomSeed=seed) == 0
    return mol


def projected(texts: list[str], mol: Chem.Mol, blur: float = 0.0, seed: int = 0) -> tuple[np.ndarray, float]:
    """Positions of a molecule, blurred in harmonic coordinates, on the rules; and the violation that is left."""
    root, inverse = map(torch.as_tensor, harmonic_of(graph_of(mol)))
    ruled = Ruled.of(parse(texts), mol, root)
    assert ruled is not None
    y = inverse @ torch.as_tensor(mol.GetConformer().GetPositions())
    y = y + blur * torch.as_tensor(np.random.default_rng(seed).normal(size=y.shape))
    layout = Layout.ragged({LEAF: torch.tensor([len(y)])}, {LEAF: (3,)})
    state = ruled.project({LEAF: y}, layout)
    again = ruled.project(state, layout)
    assert torch.allclose(again[LEAF], state[LEAF], atol=1e-6)
    return (root @ state[LEAF]).numpy(), float(ruled.violation(state, layout)[0])


@pytest.mark.parametrize(
    ("text", "kind", "low", "high"),
    [
        ("distance(NC) in [1.4, 1.5]", "distance", 1.4, 1.5),
        ("distance([N:1]CC[O:2]) <= 3", "distance", -math.inf, 3),
        ("angle(C(O)C) >= 100", "angle", 100, math.inf),
        ("planar(c1ccoc1) <= 0.1", "planar", -math.inf, 0.1),
        (" clash >= .7 ", "clash", 0.7, math.inf),
        ("distance(NC)==1.47", "distance", 1.47, 1.47),
    ],
)
def test_rules_are_read(text, kind, low, high):
    (rule,) = parse([text])
    assert (rule.kind, rule.low, rule.high) == (kind, low, high)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("length(NC) <= 1", "expected distance"),
        ("distance(NC) in 1.4", r"expected \[a, b\]"),
        ("distance(NC) <= near", "expected a number"),
        ("distance(NC) in [2, 1]", "expected a range"),
        ("angle(COC) <= 200", "expected a range"),
        ("distance(NCC) <= 1", "expected 2 atoms, got 3"),
        ("angle(C(C) <= 100", "expected a SMARTS"),
        ("planar(CCCC) >= 1", "expected planar with <="),
        ("clash <= 1", "expected clash with >="),
        ("distance(aromatic) <= 1", "expected a SMARTS"),
        ("distance(NC) <= nan", "expected a number"),
    ],
)
def test_what_is_no_rule_is_said_in_one_line(text, said):
    with pytest.raises(UserError, match=said):
        parse([text])


def test_places_are_all_matches_once():
    mol = embedded("OCCO")
    (near, ends, angle) = (
        rule.places(mol) for rule in parse(["distance(CO) <= 2", "distance([O:1]CC[O:2]) <= 9", "angle(OCC) <= 180"])
    )
    assert (near, ends, angle) == ([(0, 1), (2, 3)], [(0, 3)], [(0, 1, 2), (1, 2, 3)])
    (rings,) = (rule.places(embedded("c1ccoc1C1CC1")) for rule in parse(["planar(aromatic) <= 0.1"]))
    assert [sorted(ring) for ring in rings] == [[0, 1, 2, 3, 4]]


def test_a_match_has_the_stereochemistry_of_the_rule():
    (rule,) = parse(["distance([CH3:1][C@H:2](O)N) <= 3"])
    assert [len(rule.places(embedded(smiles))) for smiles in ("C[C@H](O)N", "C[C@@H](O)N")] == [1, 0]


def test_measures_are_what_they_say():
    mol = embedded("OCCO")
    x = mol.GetConformer().GetPositions()
    distance, angle, thick = (
        list(measured(r, mol)) for r in parse(["distance([O:1]CC[O:2]) <= 9", "angle(OCC) <= 180", "planar(OCCO) <= 1"])
    )
    assert distance == pytest.approx([np.linalg.norm(x[0] - x[3])])
    a, b = x[0] - x[1], x[2] - x[1]
    assert angle[0] == pytest.approx(np.degrees(np.arccos(a @ b / np.linalg.norm(a) / np.linalg.norm(b))))
    flat = with_positions(mol, x * [1, 1, 0])
    assert list(measured(parse(["planar(OCCO) <= 1"])[0], flat)) == pytest.approx([0.0], abs=1e-9)
    assert thick[0] > 0.01


RULES = (
    "angle([CX4][#6][#6]) in [60, 135]",
    "clash >= 0.75",
    "planar(aromatic) <= 0.01",
    "distance([#6][#6]) in [1.15, 1.56]",
)


@settings(max_examples=12)
@given(
    smiles=st.sampled_from(["NCCCO", "CC(C)CCO", "c1ccoc1CO", "OC1CCC1N", "C#CCCCF"]),
    rules=st.lists(st.sampled_from(RULES), min_size=1, unique=True),
    seed=st.integers(0, 5),
)
def test_what_is_projected_on_is_certified_by_the_oracle(smiles, rules, seed):
    mol = embedded(smiles)
    if smiles == "C#CCCCF":  # whose chain is straight
        rules = [rule for rule in rules if not rule.startswith("angle")]
    rules = [rule for rule in rules if parse([rule])[0].places(mol)]
    if rules:
        x, left = projected(rules, mol, blur=0.15, seed=seed)
        assert left == 0
        assert broken(parse(rules), mol, x) == ()


def test_a_rule_is_not_met_by_breaking_bonds():
    mol = embedded("NCCCO")
    x, left = projected(["distance([N:1]CCC[O:2]) == 3.5"], mol)
    assert left == 0
    assert refusals(mol, x) == ()
    assert np.linalg.norm(x[0] - x[4]) == pytest.approx(3.5, abs=1e-6)


def test_what_contradicts_itself_comes_back_as_it_was():
    mol = embedded("NCCCO")
    x, left = projected(["distance(CC) >= 1.9", "angle(CCC) >= 110"], mol)  # bonds do not stretch so far
    assert left > 0.1
    assert np.allclose(x, mol.GetConformer().GetPositions() - mol.GetConformer().GetPositions().mean(0), atol=1e-9)


def test_what_holds_is_left_alone():
    mol = embedded("NCCCO")
    AllChem.MMFFOptimizeMolecule(mol)
    before = mol.GetConformer().GetPositions()
    x, _ = projected(["clash >= 0.5"], mol)
    assert np.allclose(x, before - before.mean(0), atol=1e-9)


def test_the_oracle_sees_what_is_broken():
    mol = embedded("NCCCO")
    x = mol.GetConformer().GetPositions()
    rules = parse(["distance([N:1]CCC[O:2]) <= 1", "angle(CCC) >= 90", "clash >= 0.9"])
    assert broken(rules, mol, x)[0] == rules[0].text
    assert rules[1].text not in broken(rules, mol, x)


def test_impossible_distances_are_said_before_drawing():
    assert "expected a distance that bonds allow" in impossible(parse(["distance(NC) >= 3"]), embedded("NCCCO"))
    assert impossible(parse(["distance([N:1]CCC[O:2]) <= 3"]), embedded("NCCCO")) == ""
    (refused,) = molecules.conformers(["NCCCO", "CCO"], num=1, keep=["distance(NC) >= 3"]).refused
    assert "bonds allow" in refused.reason


def test_the_command_keeps_rules(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in.smi").write_text("NCCCO\nCCOC\n")
    arguments = ["molecules", "conformers", "in.smi", "--num", "2", "--out", "o.sdf", "--json"]
    rule = "distance([N:1]CCC[O:2]) in [3.4, 3.6]"
    done = CliRunner().invoke(app, [*arguments, "--keep", rule])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["certified"] == 4
    first, second, *_ = Chem.SDMolSupplier("o.sdf", removeHs=False)
    for mol in (first, second):
        assert 3.39 < next(measured(parse([rule])[0], mol)) < 3.61
    done = CliRunner().invoke(app, [*arguments, "--keep", "distance(NN) <= 2"])
    assert done.exit_code == 2
    assert "expected a molecule with a match of" in done.output
    done = CliRunner().invoke(app, ["molecules", "generate", "--num", "1", "--keep", "clash >= 0.7"])
    assert done.exit_code == 2
    assert "--three-d: expected --out FILE.sdf" in done.output  # which it asks for


def test_a_bent_ring_is_flattened_as_far_as_was_asked():
    mol = embedded("c1ccoc1CO")
    (rule,) = parse(["planar(aromatic) <= 0.005"])
    x = mol.GetConformer().GetPositions()
    mol.GetConformer().SetPositions(x + 0.06 * np.random.default_rng(1).normal(size=x.shape))
    assert next(measured(rule, mol)) > 0.01
    flat, left = projected([rule.text], mol)
    assert left == 0
    assert next(measured(rule, with_positions(mol, flat))) <= 0.005


def test_clashes_are_measured_in_radii():
    mol = embedded("CCCCCC")
    (rule,) = parse(["clash >= 0.5"])
    x, table = mol.GetConformer().GetPositions(), Chem.GetPeriodicTable()
    found = dict(zip(rule.places(mol), measured(rule, mol), strict=True))
    assert found[0, 5] == pytest.approx(np.linalg.norm(x[0] - x[5]) / (2 * table.GetRvdw(6)))
    assert (0, 3) not in found  # three bonds apart
