"""The oracle: what it certifies holds exactly, and what it refuses it names."""

from __future__ import annotations

import math

import pytest
from rdkit import Chem
from rdkit.Chem.Crippen import MolLogP

from scidiff.molecules.oracle import Oracle, describe
from scidiff.molecules.parsing import parse_all
from scidiff.molecules.properties import hill, parse_formula

ASPIRIN = "CC(=O)Oc1ccccc1C(=O)O"
LOGP = MolLogP(Chem.MolFromSmiles(ASPIRIN))


def test_a_condition_is_met_to_the_last_bit_or_not_at_all() -> None:
    below = math.nextafter(LOGP, -math.inf)
    assert Oracle(parse_all([f"logp <= {LOGP!r}"])).certify(ASPIRIN).holds
    missed = Oracle(parse_all([f"logp <= {below!r}"])).certify(ASPIRIN)
    assert not missed.holds
    assert missed.reasons == (f"logp <= {below!r}",)
    assert missed.violations[f"logp <= {below!r}"] == LOGP - below > 0


def test_every_condition_that_fails_is_named_and_measured() -> None:
    found = Oracle(parse_all(["logp >= 3", "rings == 1", "hbd in {2, 5}", "formula == CH4"])).certify(ASPIRIN)
    assert found.reasons == ("logp >= 3", "hbd in {2, 5}", "formula == CH4")
    assert found.violations == {
        "logp >= 3": pytest.approx(3 - LOGP),
        "rings == 1": 0.0,
        "hbd in {2, 5}": 1.0,
        "formula == CH4": 1.0,
    }


def test_it_judges_the_text_whatever_its_order() -> None:
    other = "OC(=O)c1ccccc1OC(C)=O"
    a, b = (Oracle(parse_all(["qed >= 0.5"])).certify(text) for text in (ASPIRIN, other))
    assert a.canonical == b.canonical
    assert (a.smiles, b.smiles) == (ASPIRIN, other)
    assert describe(a, ["mw", "qed"]) == describe(b, ["mw", "qed"])


@pytest.mark.parametrize(
    "text", ["c1cccc1", "CC.O", "C[CH2]", "C*", "", " ", "CC x", "C(C)(C)(C)(C)C", "N" + "C" * 1001]
)
def test_what_is_no_molecule_holds_nothing(text: str) -> None:
    found = Oracle().certify(text)
    assert not found.holds
    assert found.problem
    assert found.mol is None
    with pytest.raises(ValueError, match="expected a molecule"):
        describe(found, ["mw"])


def test_formulas_in_hill_order() -> None:
    assert [hill(text) for text in ("H6C6", "O4C9H8", "ClH", "H4N+", "C2H3O2-1", "Ca+2", "BrC2H5")] == [
        *("C6H6", "C9H8O4", "ClH", "H4N+", "C2H3O2-", "Ca+2", "C2H5Br")
    ]
    assert parse_formula("C2H3O2-") == ({"C": 2, "H": 3, "O": 2}, -1)
    for text in ("", "Xx2", "6C", "c6", "C6+x", "C+-"):
        with pytest.raises(ValueError, match="expected"):
            parse_formula(text)
