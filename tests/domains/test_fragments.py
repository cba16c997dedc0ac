"""Fragment sequences: the round trip, the grammar against the decoder, and what is refused."""

from __future__ import annotations

import gzip
from itertools import product
from pathlib import Path

import pytest
import torch
from rdkit import Chem

from scidiff.molecules.fragments import RING_LABELS, EncodeError, decode, encode, encode_smallest
from scidiff.molecules.grammar import grammar
from scidiff.molecules.vocabulary import Vocabulary, encode_many

SAMPLE = Path(__file__).parents[2] / "datasets" / "moses" / "sample.csv.gz"


def moses(count: int) -> list[str]:
    """Molecules of the vendored sample."""
    with gzip.open(SAMPLE, "rt") as lines:
        rows = [line.strip().split(",")[0] for line in lines][1:]
    return rows[:: max(1, len(rows) // count)][:count]


def same(a: Chem.Mol, b: Chem.Mol) -> bool:
    return Chem.MolToSmiles(a) == Chem.MolToSmiles(b)


@pytest.mark.parametrize("write", [encode, encode_smallest], ids=["units", "smallest pieces"])
def test_round_trip_of_drug_like_molecules(write) -> None:
    for smiles in moses(400):
        mol = Chem.MolFromSmiles(smiles)
        assert same(decode(write(mol)), mol), smiles


@pytest.mark.parametrize(
    "smiles",
    [
        "C",
        "c1ccccc1",
        "Cn1cnc2c1c(=O)n(C)c(=O)n2C",
        "C1CC2(C1)CCC2",
        "C1C2CC3CC1CC(C2)C3",
        "[NH3+]CC([O-])=O",
        "O=[N+]([O-])c1ccccc1",
        "c1ccc2c(c1)[nH]c1ccccc12",
        "C1CC1C#CC=C=C",
        "CS(=O)(=O)N",
        "c1cc[n+]([O-])cc1",
        "C12C3C4C1C5C2C3C45",
    ],
)
def test_round_trip_of_hard_cases(smiles: str) -> None:
    mol = Chem.MolFromSmiles(smiles)
    assert same(decode(encode(mol)), mol)


def test_a_rare_unit_is_broken_where_the_vocabulary_lacks_it() -> None:
    vocabulary = Vocabulary.build(moses(300), 10_000)
    mol = Chem.MolFromSmiles("Cc1ccc2c(c1)OC1(CCC1)N2C")
    without = Vocabulary(tokens=tuple(t for t in vocabulary.tokens if t not in set(encode(mol)) or "c" not in t))
    classes = without.encode(mol)
    assert any(without.tokens[k] in RING_LABELS for k in classes)
    assert same(without.decode(classes), mol)


def test_writing_does_not_depend_on_the_order_of_atoms() -> None:
    for smiles in moses(60):
        mol = Chem.MolFromSmiles(smiles)
        turned = Chem.RenumberAtoms(mol, list(range(mol.GetNumAtoms()))[::-1])
        assert encode(turned) == encode(mol), smiles


@pytest.mark.parametrize(
    ("smiles", "reason"),
    [
        ("C[C@H](N)O", "chiral"),
        ("C/C=C/C", "double bond"),
        ("CC.O", "one connected molecule"),
        ("[CH3]", "radical"),
        ("[13CH4]", "isotope"),
        ("", "no atoms"),
    ],
)
def test_what_cannot_be_written_is_refused_with_a_reason(smiles: str, reason: str) -> None:
    with pytest.raises(EncodeError, match=reason):
        encode(Chem.MolFromSmiles(smiles))


def test_encoding_many_keeps_order_and_gives_reasons() -> None:
    vocabulary = Vocabulary.build(moses(50), 4096)
    rows = list(encode_many(vocabulary, ["CCC", "nonsense", "C[C@H](N)O", "CC"]))
    assert [classes is not None for classes, _ in rows] == [True, False, False, True]
    assert "nonsense" in rows[1][1]
    assert "chiral" in rows[2][1]


def test_grammar_accepts_exactly_what_decodes() -> None:
    """Every sequence up to five tokens of a small vocabulary: accepted if and only if it is a molecule."""
    tokens = (*RING_LABELS[:2], "C*", "[1*]C", "*C[1*]", "*C(*)[1*]", "C")
    vocabulary = Vocabulary(tokens=tokens)
    automaton = grammar(vocabulary)
    accepted = 0
    for length in range(1, 6):
        sequences = list(product(range(len(tokens)), repeat=length))
        verdicts = automaton.accepts(torch.tensor(sequences)).tolist()
        for sequence, verdict in zip(sequences, verdicts, strict=True):
            try:
                Chem.SanitizeMol(vocabulary.decode(sequence))
                decodes = True
            except ValueError:
                decodes = False
            assert decodes == verdict, [tokens[k] for k in sequence]
            accepted += verdict
    assert accepted > 10


def test_ring_labels_that_would_make_no_ring_are_capped() -> None:
    two_on_one_atom = decode(["C*", "*C(*)[1*]", RING_LABELS[0], RING_LABELS[0]])
    assert same(two_on_one_atom, Chem.MolFromSmiles("CC"))
