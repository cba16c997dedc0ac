"""Parts that must be there: the automaton against the oracle on every sequence, the distribution, the language."""

from __future__ import annotations

import csv
import functools
import gzip
import itertools
from collections import Counter
from pathlib import Path

import pytest
import torch
from rdkit import Chem

from scidiff.errors import UserError
from scidiff.molecules.enforcement import spelled_out
from scidiff.molecules.generator import TILE, Generator
from scidiff.molecules.grammar import grammar
from scidiff.molecules.language import Facts, Holds, violation
from scidiff.molecules.motifs import _HOLE, _MOST_SPELLINGS, motifs_of, with_parts
from scidiff.molecules.oracle import Oracle
from scidiff.molecules.parsing import parse, parse_all
from scidiff.molecules.parts import holds, parts_of
from scidiff.molecules.quantities import scaffold
from scidiff.molecules.vocabulary import Vocabulary
from scidiff.noise import Noise
from scidiff.state import Layout
from tests.domains.test_enforcement import model

SAMPLE = Path(__file__).parents[2] / "datasets" / "moses" / "sample.csv.gz"
TINY = ("*C", "*O*", "[1*]C", "[1*]F", "*C[1*]", "*C(*)[1*]", "*c1ccc([1*])cc1", "[1*]c1ccccc1", "*c1ccccc1", "[1*]C=O")
WANTED = (
    "decorates(*c1ccc(*)cc1)",
    "decorates(*CC*)",
    "decorates(*CO*)",
    "decorates(*C(*)CF)",
    "decorates(*C(C)c1ccc(*)cc1)",
    "decorates(*C(*)C*)",
    "extends(CC)",
    "extends(COC)",
    "extends(Cc1ccccc1)",
    "links(*c1ccccc1, *C=O)",
    "links(*C, *C)",
    "links(*CC, *CF)",
)


def terms(text: str) -> tuple[Holds, ...]:
    found = parse_all([text])
    return tuple(term for term in found if isinstance(term, Holds))


@functools.cache
def sequences() -> tuple[Vocabulary, list[tuple[int, ...]], list[Chem.Mol]]:
    """All sequences of up to five tokens that are molecules."""
    vocabulary = Vocabulary(tokens=TINY)
    accepted = [
        s
        for length in range(1, 6)
        for s in itertools.product(range(len(TINY)), repeat=length)
        if vocabulary.kinds[s[0]][0] == "root" and all(vocabulary.kinds[k][0] == "child" for k in s[1:])
    ]
    whole = grammar(vocabulary)
    by_length = [[s for s in accepted if len(s) == length] for length in range(1, 6)]
    kept = [
        s
        for group in by_length
        if group
        for s, ok in zip(group, whole.accepts(torch.tensor(group)).tolist(), strict=True)
        if ok
    ]
    return vocabulary, kept, [vocabulary.decode(s) for s in kept]


def automaton(text: str, vocabulary: Vocabulary):  # type: ignore[no-untyped-def]
    groups = motifs_of([parts_of(t.name, t.argument) for t in terms(text)], vocabulary)
    return with_parts(groups, vocabulary, grammar(vocabulary))


@pytest.mark.parametrize("text", WANTED)
def test_exactly_the_sequences_that_meet_the_oracle_are_accepted(text: str) -> None:
    vocabulary, kept, molecules = sequences()
    found, (wanted,) = automaton(text, vocabulary), terms(text)
    met = 0
    for length in range(1, 6):
        here = [(s, m) for s, m in zip(kept, molecules, strict=True) if len(s) == length]
        verdicts = found.accepts(torch.tensor([s for s, _ in here])).tolist() if here else []
        for (s, mol), verdict in zip(here, verdicts, strict=True):
            assert verdict == holds(mol, wanted.name, wanted.argument), (Chem.MolToSmiles(mol), s)
            met += verdict
    assert 0 < met < len(kept)


SPELLING = ("*F", "*C*", "[1*]F", "*C[1*]", "*C(*)[1*]", "<ring:1>", "<ring:2>")


@pytest.mark.parametrize("text", ["decorates(*C1CC1)", "decorates(*C1CC1*)", "extends(C1CC1)", "links(*C1CC1, *F)"])
def test_all_molecules_with_a_part_whose_units_are_no_tokens_are_drawn_and_no_others(text: str) -> None:
    vocabulary = Vocabulary(tokens=SPELLING)
    found, (wanted,), whole = automaton(text, vocabulary), terms(text), grammar(vocabulary)
    accepted, holding = set(), set()
    for length in range(2, 8):
        tokens = torch.tensor([(r, *s) for r in (0, 1) for s in itertools.product(range(2, 7), repeat=length - 1)])
        tokens = tokens[whole.accepts(tokens)]
        for sequence, verdict in zip(tokens.tolist(), found.accepts(tokens).tolist(), strict=True):
            mol = vocabulary.decode(sequence)
            if verdict:
                assert holds(mol, wanted.name, wanted.argument), Chem.MolToSmiles(mol)
                accepted.add(Chem.MolToSmiles(mol))
            if holds(mol, wanted.name, wanted.argument):
                holding.add(Chem.MolToSmiles(mol))
    assert accepted == holding
    assert accepted


def test_spelled_units_share_no_ring_labels() -> None:
    vocabulary = Vocabulary(tokens=SPELLING)
    first, second = motifs_of([parts_of("links", "*C1CC1, *C1CC1")], vocabulary)[0]
    assert (first.labels, second.labels) == (1, 2)
    assert "<ring:1>" in first.tokens
    assert "<ring:1>" not in second.tokens


@pytest.mark.parametrize(("ring", "most"), [("C1CC1", 2), ("C1CCCCCCCCC1", 1), ("C1CCCCCCCCCCCCCCCCCCC1", 0)])
def test_the_larger_a_unit_that_is_no_token_the_fewer_substituents_it_may_bear(ring: str, most: int) -> None:
    """Each spelling is a run of its own; with two substituents anywhere a large ring system has thousands."""
    ((motif,),) = motifs_of([parts_of("extends", ring)], Vocabulary(tokens=SPELLING))
    spelled = [items for ways in (motif.roots, motif.entries) for found in ways.values() for items in found]
    assert max(items.count(_HOLE) for items in spelled) == most
    assert len(spelled) <= _MOST_SPELLINGS


def test_leaning_elsewhere_keeps_the_automata() -> None:
    given = Generator(model=model(TINY, (0, 0, 1, 3, 4))).given(parse_all(["n_atoms[N] <= 1"]))
    assert given.but(thin=True).pair is given.pair
    assert given.but(thin=True).automaton is given.automaton


@pytest.mark.slow
@pytest.mark.parametrize("text", ["decorates(*CC*)", "extends(CC)", "links(*C, *C)"])
def test_draws_weighed_by_their_runs_have_the_conditional_distribution(text: str) -> None:
    vocabulary, kept, molecules = sequences()
    found, (wanted,) = automaton(text, vocabulary), terms(text)
    torch.manual_seed(0)
    length, count = 4, 40_000
    log_probs = torch.randn(length, len(TINY), dtype=torch.float64).log_softmax(-1)
    mass = {
        s: float(sum(log_probs[place, k] for place, k in enumerate(s)).exp())  # type: ignore[union-attr]
        for s, mol in zip(kept, molecules, strict=True)
        if len(s) == length and holds(mol, wanted.name, wanted.argument)
    }
    rows = Layout.dense(count, {"x": (length,)}).rows("x")
    draw = Noise(seed=1, index=torch.arange(count)).at("x", 0, rows)
    drawn = found(log_probs.expand(count, -1, -1), draw, rows)
    runs = found.log_runs(drawn)
    assert bool((runs > -torch.inf).all())
    assert float(runs.max()) > 0.5  # some sequences have several
    weight = (-runs).exp()
    total = sum(mass.values())
    shares: dict[tuple[int, ...], float] = {}
    for s, w in zip(map(tuple, drawn.tolist()), (weight / weight.sum()).tolist(), strict=True):
        shares[s] = shares.get(s, 0.0) + w
    assert set(shares) <= set(mass)
    assert sum(abs(shares.get(s, 0.0) - p / total) for s, p in mass.items()) / 2 < 0.02
    # The expected number of runs, in closed form.
    number = found.log_runs(torch.tensor(list(mass))).exp()
    expected = float((number * torch.tensor(list(mass.values()), dtype=torch.float64)).sum())
    whole = sum(
        float(sum(log_probs[place, k] for place, k in enumerate(s)).exp())  # type: ignore[union-attr]
        for s in kept
        if len(s) == length
    )
    share = found.log_share(found.by_pair(log_probs.exp()[None]))
    assert float(share.exp()) == pytest.approx(expected / whole)


def test_every_draw_of_a_generator_holds_also_beside_counters() -> None:
    generator = Generator(model=model(TINY, (0, 0, 1, 3, 4, 5, 3)))
    for text in (
        "extends(Cc1ccccc1) and n_atoms[F] == 1",
        "links(*C, *C=O) and heavy_atoms <= 7",
        "scaffold == c1ccccc1 and n_atoms[O] <= 1",
        "scaffold == c1ccc(Cc2ccccc2)cc1",
    ):
        found = generator.given(parse_all([text]))
        oracle = Oracle(parse_all([text]))
        tile = found.tile(0, seed=2)
        assert len(tile) == TILE
        assert all(oracle.certify(drawn.smiles).holds for drawn in tile), text


def test_a_scaffold_is_a_part_that_substituents_extend_and_no_more_rings() -> None:
    """Of molecules and scaffolds of each other; enforcement rests on it."""
    with gzip.open(SAMPLE, "rt") as stream:
        molecules = [Chem.MolFromSmiles(row["smiles"]) for row in itertools.islice(csv.DictReader(stream), 400)]
    molecules += [
        Chem.MolFromSmiles(text) for text in ("O/N=C1/CCCC1", "CC(C)=C1CCCC1", "[O-][n+]1ccccc1", "c1cc[nH]c1")
    ]
    scaffolds = [scaffold(mol) for mol in molecules]
    often = [text for text, _ in Counter(scaffolds).most_common(12) if text] + scaffolds[-4:]
    for own in often:
        said = spelled_out([parse(f"scaffold == {own}")])
        assert said[0].text.startswith("extends(")
        for mol, other in zip(molecules, scaffolds, strict=True):
            assert all(violation(one, Facts(mol)) == 0 for one in said) == (own == other), (own, other)
    for mol, own in zip(molecules, scaffolds, strict=True):
        if own:
            assert all(violation(one, Facts(mol)) == 0 for one in spelled_out([parse(f"scaffold == {own}")])), own


def test_substituents_elsewhere_and_rings_through_the_points_do_not_count() -> None:
    for smiles, text, met in (
        ("Cc1ccc(O)cc1", "decorates(*c1ccc(*)cc1)", True),
        ("Cc1ccc(O)c(F)c1", "decorates(*c1ccc(*)cc1)", False),
        ("Cc1ccc(O)c(F)c1", "extends(c1ccccc1)", True),
        ("c1ccc2ccccc2c1", "extends(c1ccccc1)", False),
        ("C1CCCCCOc2ccc(cc2)C1", "decorates(*c1ccc(*)cc1)", False),
        ("Cc1ccccc1", "decorates(*c1ccc(*)cc1)", False),
        ("CC", "links(*C, *C)", True),
        ("c1ccccc1CCN1CCCC1", "links(*c1ccccc1, *N1CCCC1)", True),
    ):
        (wanted,) = terms(text)
        assert holds(Chem.MolFromSmiles(smiles), wanted.name, wanted.argument) == met, (smiles, text)


def test_the_spelling_reads_back() -> None:
    for text in ("decorates([*:1]c1ccc([*:2])cc1)", "links([*]C=O,'[*:3]c1ccccc1')", "not extends(C1=CC=CC=C1)"):
        read = parse(text)
        assert parse(read.text) == read
    assert parse("decorates([*:1]c1ccc([*:2])cc1)").text == "decorates(*c1ccc(*)cc1)"
    assert parse("links(*c1ccccc1, *C=O)") == parse("links(*C=O, *c1ccccc1)")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("decorates([*:1]c1ccc(cc1)", "position"),
        ("decorates(c1ccccc1)", "expected an attachment point"),
        ("extends(*c1ccccc1)", "expected no attachment point"),
        ("links(*C*, *N)", "expected one attachment point"),
        ("links(*C)", "expected a comma"),
        ("decorates(*C.N)", "expected one connected part"),
        ("decorates(*=C)", "on one single bond"),
        ("decorates(*[C@H](N)O)", "stereochemistry"),
        ("decorates *C", "expected ( and a SMILES"),
    ],
)
def test_bad_parts_are_named_in_one_line(text: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        parse(text)
    assert message in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_what_cannot_be_written_or_held_is_named() -> None:
    generator = Generator(model=model(TINY, (0, 0, 1, 3, 4)))
    with pytest.raises(UserError, match=r"cannot write \*c1ccncc1"):
        generator.given(parse_all(["decorates(*Cc1ccncc1)"]))
    with pytest.raises(UserError, match=r"cannot write c1ccncc1"):
        generator.given(parse_all(["scaffold == c1ccncc1"]))
    with pytest.raises(UserError, match="no molecule that this model can draw meets it"):
        generator.given(parse_all(["decorates(*c1ccc(*)cc1) and formula == C3H8"]))
