"""Random expressions: they print and read back as themselves, and are certified as a naive evaluation finds them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rdkit import Chem

from scidiff.errors import UserError
from scidiff.molecules import training
from scidiff.molecules.contradictions import alternatives, clash
from scidiff.molecules.language import Expression
from scidiff.molecules.oracle import Oracle
from scidiff.molecules.parsing import parse
from tests.property.expressions import POOL, expressions, naive


@pytest.fixture(scope="module", autouse=True)
def known_molecules() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "training_molecules", lambda: frozenset({Chem.CanonSmiles(POOL[0])}))
        yield


@given(expressions)
def test_an_expression_reads_back_as_itself(expression: Expression) -> None:
    assert parse(str(expression)) == expression


@settings(max_examples=150, deadline=None)
@given(expressions, st.sampled_from(POOL))
def test_certification_is_the_naive_evaluation(expression: Expression, smiles: str) -> None:
    found = Oracle([expression]).certify(smiles)
    assert found.holds == naive(expression, Chem.MolFromSmiles(smiles)), str(expression)


@settings(max_examples=150, deadline=None)
@given(expressions, st.sampled_from(POOL))
def test_the_normal_form_is_the_expression_and_what_holds_is_no_contradiction(
    expression: Expression, smiles: str
) -> None:
    mol = Chem.MolFromSmiles(smiles)
    found = alternatives([expression])
    if found is None:
        return
    met = [all(naive(x.leaf, mol) == x.holds for x in alternative) for alternative in found]
    assert any(met) == naive(expression, mol)
    assert not any(clash(alternative) for alternative, holds in zip(found, met, strict=True) if holds)


@given(st.text(alphabet="()[]{}<>=!anotrcNO1. '\"", max_size=30))
def test_any_text_is_read_or_refused_in_one_line(text: str) -> None:
    try:
        expression = parse(text)
    except UserError as error:
        assert len(str(error).splitlines()) == 1  # noqa: PT017
    else:
        assert parse(str(expression)) == expression
