"""The constraint language: what it means, what it refuses and where, what it finds contradictory."""

from __future__ import annotations

from pathlib import Path

import pytest

from scidiff.errors import UserError
from scidiff.molecules.language import And, Holds, Not, Or
from scidiff.molecules.oracle import Oracle
from scidiff.molecules.parsing import parse, parse_all, read_file

ASPIRIN = "CC(=O)Oc1ccccc1C(=O)O"
NITRO = "O=[N+]([O-])c1ccccc1"


@pytest.mark.parametrize(
    ("text", "smiles", "holds"),
    [
        ("contains C(=O)O", ASPIRIN, True),
        ("lacks C(=O)O", ASPIRIN, False),
        ("count(C(=O)[O;H1]) == 1", ASPIRIN, True),
        ("count('c1ccccc1') == 1", ASPIRIN, True),
        ("n_atoms[O] == 4 and n_atoms[H] == 8", ASPIRIN, True),
        ("n_atoms[N] >= 1", ASPIRIN, False),
        ("scaffold == C1=CC=CC=C1", ASPIRIN, True),
        ("scaffold == C1CCCCC1", ASPIRIN, False),
        (f"similarity({ASPIRIN}) >= 1.0", ASPIRIN, True),
        (f"similarity({NITRO}) >= 0.9", ASPIRIN, False),
        ("alerts == none", NITRO, False),
        ("alerts >= 1", NITRO, True),
        ("alerts == none", "CCO", True),
        ("lipinski and veber", ASPIRIN, True),
        ("lipinski", "C" * 40, False),
        ("veber", "C" * 14, False),
        ("mw <= 180.2 Da and tpsa in [60, 70] A^2", ASPIRIN, True),
        ("not rings == 1 or n_atoms[N] == 0", ASPIRIN, True),
        ("rings == 1 and (n_atoms[N] == 1 or n_atoms[S] == 1)", ASPIRIN, False),
        ("rings == 0 and n_atoms[N] == 1 or n_atoms[O] == 4", ASPIRIN, True),
        ("rings == 0 and (n_atoms[N] == 1 or n_atoms[O] == 4)", ASPIRIN, False),
        ("NOT rings == 0 AND formula == C9O4H8", ASPIRIN, True),
    ],
)
def test_meaning(text: str, smiles: str, holds: bool) -> None:
    assert Oracle([parse(text)]).certify(smiles).holds == holds
    assert Oracle([Not(of=parse(text))]).certify(smiles).holds != holds


def test_every_term_has_its_own_violation() -> None:
    terms = parse_all(["rings >= 3 and lacks [OX2H] and (n_atoms[N] >= 2 or mw <= 100)", "lipinski"])
    found = Oracle(terms).certify(ASPIRIN)
    assert found.violations == {
        "rings >= 3": 2.0,
        "lacks [OX2H]": 1.0,
        "n_atoms[N] >= 2 or mw <= 100": 2.0,  # the nearest of the alternatives
        "lipinski": 0.0,
    }
    assert [term.column for term in terms] == [
        *("rings_ge_3", "lacks_[OX2H]", "n_atoms[N]_ge_2_or_mw_le_100", "lipinski")
    ]


def test_structure_and_precedence() -> None:
    a, b, c = parse("qed >= 0.5"), parse("rings == 1"), Holds(name="contains", argument="N")
    assert parse("qed >= 0.5 or rings == 1 and contains N") == Or(of=(a, And(of=(b, c))))
    assert parse("not rings == 1 and contains N") == And(of=(Not(of=b), c))
    assert parse("lacks N") == parse("not contains N") == parse("lacks(N)") == Not(of=c)
    assert parse("(contains N)") == parse("contains(N)") == c
    assert parse_all(["rings == 1 and (qed >= 0.5 and contains N)", "rings == 1"]) == (b, a, c)


@pytest.mark.parametrize(
    ("text", "position", "words"),
    [
        ("rings == 1 and", 15, "got the end"),
        ("rings == 1 contains N", 12, "expected no unit"),
        ("(rings == 1", 12, "expected ), and, or"),
        ("rings == 1)", 11, "expected the end, and, or"),
        ("contains", 9, "expected a SMARTS"),
        ("rings == 1 and contains c1cc(cc", 29, "expected a SMARTS that RDKit reads"),
        ("contains([#6;X5$) and novel", 16, "SMARTS"),
        ("contains(c1ccccc1", 18, "expected )"),
        ("count(C[) == 1", 9, "SMARTS"),
        ("contains(C[C@H](O)N)", 10, "a SMARTS without stereochemistry"),
        ("count(F/C=C/F) == 1", 7, "a SMARTS without stereochemistry"),
        ("count C == 1", 7, "( and a SMARTS"),
        ("n_atoms[Xx] == 1", 9, "an element"),
        ("n_atoms == 1", 9, "[ and an element"),
        ("similarity(C(C)(C)(C)(C)C) >= 0.4", 12, "SMILES that RDKit reads"),
        ("scaffold >= c1ccccc1", 10, "expected =="),
        ("scaffold == Cc1ccccc1", 13, "its own is c1ccccc1"),
        ("scaffold == CCO", 13, "it has no ring"),
        ("scaffold == C1C[C@@H]2CC[C@H]1C2", 13, "its own is C1CC2CCC1C2"),
        ("mw <= 350 A^2", 11, "the unit of mw, g/mol or Da"),
        ("rings <= 3 Da", 12, "rings has none"),
        ("alert == none", 1, "did you mean"),
        ("not " * 60 + "novel", 205, "at most 50"),
    ],
)
def test_errors_name_the_place(text: str, position: int, words: str) -> None:
    with pytest.raises(UserError) as caught:
        parse(text)
    message = str(caught.value)
    assert f"position {position}" in message or words == "did you mean"
    assert words in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("rings >= 3 and qed >= 0.5 and not rings >= 2", ["'rings >= 3'", "'not rings >= 2'"]),
        ("contains N and lacks N", ["'contains N'", "'lacks N'"]),
        ("scaffold == c1ccccc1 and scaffold == c1ccncc1", ["one scaffold"]),
        ("(rings == 1 or rings == 2) and rings == 3", ["no alternative", "'rings == 1'", "'rings == 2'"]),
        ("lipinski and mw >= 501", ["'lipinski' and 'mw >= 501'"]),
        ("not lipinski and mw < 400 and logp < 1 and hbd == 0 and hba == 0", ["'not lipinski'"]),
        ("n_atoms[N] >= 4 and n_atoms[O] >= 3 and heavy_atoms <= 6", ["at least 7 heavy atoms", "at most 6"]),
        ("formula == C6H6 and n_atoms[N] >= 1", ["'formula == C6H6' and 'n_atoms[N] >= 1'"]),
        ("formula == C6H7", ["an odd number"]),
        ("formula == C3H10", ["10 hydrogens", "at most 8"]),
        ("rings in {1, 2} and not rings in {1, 2, 3}", ["no value of rings"]),
        ("logp == 2 and not logp in {2, 3}", ["no value of logp"]),
        ("mw in [100, 200] and not mw <= 300", ["no value of mw"]),
    ],
)
def test_contradictions_are_named(text: str, named: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        parse_all([text])
    assert all(name in str(caught.value) for name in named), str(caught.value)
    assert "qed" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "(rings == 1 or rings == 2) and not rings == 2",
        "formula == C9H8O4 and n_atoms[O] == 4 and heavy_atoms == 13",
        "formula in {C6H7, C6H6}",
        "formula == C3H8",
        "formula == H4N+",
        "formula == C6H5NO2",
        "not formula == C6H6 and n_atoms[C] == 6",
        "n_atoms[N] >= 4 and n_atoms[O] >= 3 and heavy_atoms <= 7",
        "not lipinski and mw < 400",
        "logp in [2, 3] and not logp in {2, 3}",
        " and ".join(f"(rings == {k} or n_atoms[N] <= {k})" for k in range(12)),  # more alternatives than are looked at
    ],
)
def test_what_can_be_met_is_not_refused(text: str) -> None:
    assert parse_all([text])


def test_files_hold_expressions(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    for content in ("rings == 1 or mw < 300\n", "- rings == 1 or mw < 300\n", "where:\n  - rings == 1 or mw < 300\n"):
        path.write_text(content)
        assert read_file(path) == ["rings == 1 or mw < 300"]
    for content in ("", "a: 1\n", "- 3\n", "where: {}\n", "[\n"):
        path.write_text(content)
        with pytest.raises(UserError, match=r"--constraints: .*c\.yaml"):
            read_file(path)
