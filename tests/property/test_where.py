"""Conditions against the plain comparison they stand for, on arbitrary numbers."""

from __future__ import annotations

import math
import operator

from hypothesis import given
from hypothesis import strategies as st

from scidiff.errors import UserError
from scidiff.molecules.parsing import parse_all
from scidiff.molecules.where import parse

COMPARE = {"<": operator.lt, "<=": operator.le, "==": operator.eq, ">=": operator.ge, ">": operator.gt}
reals = st.floats(-1e6, 1e6, allow_nan=False)
counts = st.integers(-20, 20)


@given(st.sampled_from(sorted(COMPARE)), reals, st.data())
def test_a_real_condition_is_the_comparison(op: str, bound: float, data: st.DataObject) -> None:
    near = [bound, math.nextafter(bound, math.inf), math.nextafter(bound, -math.inf)]
    value = data.draw(st.one_of(st.sampled_from(near), reals))
    condition = parse(f"logp {op} {bound!r}")
    assert (condition.violation(value) == 0.0) == COMPARE[op](value, bound)


@given(st.sampled_from(sorted(COMPARE)), st.one_of(counts, st.floats(-20, 20)), counts)
def test_a_count_condition_is_the_comparison(op: str, bound: float, value: int) -> None:
    try:
        condition = parse(f"charge {op} {bound!r}")
    except UserError:
        assert op == "=="
        assert not float(bound).is_integer()
        return
    assert (condition.violation(value) == 0.0) == COMPARE[op](value, bound)


@st.composite
def charge_condition(draw: st.DrawFn) -> str:
    kind = draw(st.sampled_from([*COMPARE, "interval", "set"]))
    if kind == "set":
        return "charge in {" + ", ".join(map(str, draw(st.lists(counts, min_size=1, max_size=4)))) + "}"
    if kind == "interval":
        low, high = sorted((draw(counts), draw(counts)))
        return f"charge in [{low}, {high}]"
    return f"charge {kind} {draw(counts)}"


@given(st.lists(charge_condition(), min_size=1, max_size=5))
def test_a_contradiction_is_found_exactly_when_no_count_meets_all(texts: list[str]) -> None:
    conditions = [parse(text) for text in texts]
    some = any(all(c.violation(v) == 0.0 for c in conditions) for v in range(-25, 26))
    try:
        parse_all(texts)
        accepted = True
    except UserError:
        accepted = False
    assert accepted == some


@given(st.text(max_size=40))
def test_any_text_is_read_or_refused_in_one_line(text: str) -> None:
    try:
        condition = parse(text)
    except UserError as error:
        assert len(str(error).splitlines()) == 1  # noqa: PT017
    else:
        assert parse(condition.text) == condition
