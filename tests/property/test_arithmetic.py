"""Objectives: printed and read back, computed by another road, and refused with a position."""

from __future__ import annotations

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rdkit import Chem

from scidiff.errors import UserError
from scidiff.molecules.arithmetic import (
    Binary,
    Extreme,
    Negative,
    Number,
    Objective,
    Quantity,
    parse,
    quantities,
    value,
)
from scidiff.molecules.language import Facts

NAMES = ("qed", "logp", "sa", "n_atoms[N]", "count(c1ccncc1)", "alerts", "similarity(c1ccccc1)")
MOL = Chem.MolFromSmiles("CC(=O)Nc1ccc(-c2ccncc2)cc1")


def joined(parts: st.SearchStrategy[Objective]) -> st.SearchStrategy[Objective]:
    return st.one_of(
        st.builds(lambda of: Negative(of=of), parts),
        st.builds(lambda o, a, b: Binary(operator=o, left=a, right=b), st.sampled_from("+-*/"), parts, parts),
        st.builds(
            lambda name, of: Extreme(name=name, of=tuple(of)),
            st.sampled_from(("min", "max")),
            st.lists(parts, min_size=1, max_size=3),
        ),
    )


numbers = st.floats(min_value=0, max_value=1e20, allow_nan=False).map(lambda x: Number(value=abs(x)))
objectives = st.recursive(
    st.one_of(numbers, st.sampled_from(NAMES).map(lambda name: Quantity(name=name))), joined, max_leaves=12
)


@given(objectives)
def test_what_is_printed_reads_back_as_itself(objective: Objective) -> None:
    if any(quantities(objective)) and len(objective.text) <= 1000:
        assert parse(objective.text) == objective
    elif len(objective.text) <= 1000:
        with pytest.raises(UserError, match="at least one property"):
            parse(objective.text)


def by_python(text: str, facts: Facts) -> float:
    """Python's own reading of the text, with the values of the quantities in place of their names."""
    for k, name in enumerate(NAMES):
        text = text.replace(name, f"v{k}")
    held = {f"v{k}": float(facts[name]) for k, name in enumerate(NAMES)}
    return float(eval(text, {"__builtins__": {}, "min": _least, "max": _greatest}, held))


def _least(*numbers: float) -> float:
    return min(numbers)


def _greatest(*numbers: float) -> float:
    return max(numbers)


@given(objectives)
def test_the_value_is_that_of_arithmetic(objective: Objective) -> None:
    facts = Facts(MOL)
    found = value(objective, facts)
    try:
        expected = by_python(objective.text, facts)
    except ZeroDivisionError:
        assert math.isnan(found)
        return
    if math.isnan(expected) or math.isnan(found):
        return  # inf - inf, or hidden by min and max
    assert found == expected


@given(st.text(alphabet="qedsalogp+-*/(),. 0123456789minxe[]", max_size=30))
def test_any_text_is_an_objective_or_one_line_that_says_why_not(text: str) -> None:
    said = ""
    try:
        assert parse(text).text
    except UserError as error:
        said = str(error)
    assert "\n" not in said
    assert not said or re.search(r"position \d+|at least one property", said)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "position 1, got the end"),
        ("qed - ", "position 7, got the end"),
        ("qed +* sa", "position 6, got '*'"),
        ("(qed - sa", "position 10, got the end"),
        ("qed sa", "position 5, got 'sa'"),
        ("min qed", "( after min at position 5"),
        ("max(qed, sa", "position 12, got the end"),
        ("qed * formula", "a numeric property at position 7"),
        ("2 * qedd", "did you mean 'qed'? (position 5)"),
        ("qed + 1e999", "a finite number at position 7"),
        ("count(c1cc) - qed", "a SMARTS that RDKit reads at position"),
        ("n_atoms[Xx]", "an element at position 9"),
        ("__import__('os')", "position 1"),
        ("qed ** 2", "position 6, got '*'"),
        ("3 + 4", "at least one property"),
    ],
)
def test_errors_name_the_place(text: str, expected: str) -> None:
    with pytest.raises(UserError) as caught:
        parse(text)
    assert expected in str(caught.value)


def test_depth_is_bounded() -> None:
    with pytest.raises(UserError, match="at most 50"):
        parse("(" * 200 + "qed" + ")" * 200)
