"""The parser of `--where`: what is read, what is refused and with which words."""

from __future__ import annotations

import math

import pytest

from scidiff.errors import UserError
from scidiff.molecules.parsing import parse_all
from scidiff.molecules.where import Interval, Members, parse


@pytest.mark.parametrize(
    ("text", "inside", "outside"),
    [
        ("qed >= 0.8", [0.8, 0.9], [math.nextafter(0.8, 0), 0.1]),
        ("qed > 0.8", [math.nextafter(0.8, 1), 0.9], [0.8]),
        ("logp<=3", [3.0, -7.5], [math.nextafter(3.0, 4)]),
        ("logp <3", [math.nextafter(3.0, 2)], [3.0]),
        ("  mw==78.114 ", [78.114], [78.1140001]),
        ("logp in [-1.5, 2e0]", [-1.5, 0.0, 2.0], [-1.6, 2.1]),
        ("rings in {1,  3}", [1, 3], [2, 0, 4]),
        ("rings > 1", [2, 3], [1, 0]),
        ("rings < 2.5", [2, 0], [3]),
        ("rings >= 2.5", [3], [2]),
        ("charge == -1", [-1], [0, 1]),
        ("formula == O2C6H6", ["C6H6O2"], ["C6H6O"]),
        ('formula in {"C6H6", CH4}', ["CH4", "C6H6"], ["C2H6"]),
    ],
)
def test_meaning(text: str, inside: list, outside: list) -> None:
    condition = parse(text)
    assert [condition.violation(v) for v in inside] == [0.0] * len(inside)
    assert all(condition.violation(v) > 0 for v in outside)


def test_violation_is_the_distance_in_the_propertys_unit() -> None:
    assert parse("logp in [1, 3]").violation(5.5) == 2.5
    assert parse("logp in [1, 3]").violation(0.25) == 0.75
    assert parse("rings in {1, 5}").violation(4) == 1.0
    assert parse("rings > 2").violation(2) == 1.0


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_no_finite_number_never_holds(value: float) -> None:
    assert parse("logp >= -100").violation(value) > 0
    assert parse("logp in {1, 2}").violation(value) != 0


@pytest.mark.parametrize("text", ["qed >= 0.8", "logp in [1, 3]", "rings in {1, 2}", "formula == C9H8O4", "mw < 3e2"])
def test_the_normal_spelling_reads_back_as_itself(text: str) -> None:
    assert parse(text).text == text
    assert parse(parse(text).text) == parse(text)


@pytest.mark.parametrize(
    ("text", "position", "words"),
    [
        ("", 1, "expected the name of a property"),
        ("0.2 <= qed", 1, "got '0.2'"),
        ("qed = 3", 5, "expected one of"),
        ("qed inn [1, 2]", 5, "got 'inn'"),
        ("qed >=", 7, "expected a number"),
        ("qed >= abc", 8, "got 'abc'"),
        ("qed >= nan", 8, "got 'nan'"),
        ("mw <= 1e999", 7, "a finite number"),
        ("qed >= 0.8 0.9", 12, "expected the end"),
        ("logp in [1, 3", 14, "expected a comma or ]"),
        ("logp in [3, 1]", 9, "low <= high"),
        ("logp in [1]", 9, "two numbers"),
        ("logp in (1, 3)", 9, r"[low, high]"),
        ("hbd in {}", 9, "expected a number"),
        ("formula >= CH4", 9, "formula is text"),
        ("formula == Xx3", 12, "an element, got 'Xx'"),
        ("qeed > 1", 1, "did you mean 'qed'?"),
    ],
)
def test_errors_name_the_text_the_position_and_what_came(text: str, position: int, words: str) -> None:
    with pytest.raises(UserError) as caught:
        parse(text)
    message = str(caught.value)
    assert repr(text) in message
    assert f"position {position}" in message
    assert words in message
    assert "\n" not in message


@pytest.mark.parametrize(
    "text",
    [
        "qed >= 1.5",
        "qed >= 0.95",
        "qed < 0",
        "sa == 0.5",
        "rings == 1.5",
        "hba in [1.2, 1.8]",
        "tpsa < 0",
        "sa in {0, 11}",
    ],
)
def test_a_condition_outside_the_propertys_range_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="no molecule can meet it"):
        parse_all([text])


@pytest.mark.parametrize(
    ("texts", "named"),
    [
        (["qed >= 0.9", "logp <= 3", "qed <= 0.1"], ["'qed >= 0.9'", "'qed <= 0.1'"]),
        (["logp < 2", "logp >= 2"], ["'logp < 2'", "'logp >= 2'"]),
        (["rings > 1", "rings < 2"], ["'rings > 1'", "'rings < 2'"]),
        (["rings in {1, 5}", "rings >= 2", "rings <= 4"], ["{1, 5}", "rings >= 2", "rings <= 4"]),
        (["formula == CH4", "formula in {C2H6, C3H8}"], ["CH4", "C2H6"]),
        (["formula == C6H6", "heavy_atoms > 7"], ["C6H6", "heavy_atoms > 7"]),
        (["formula == C6H6", "charge == 1"], ["C6H6", "charge == 1"]),
        (["formula == C6H6", "mw < 70"], ["C6H6", "mw < 70"]),
    ],
)
def test_contradictions_name_the_conditions_that_clash_and_no_other(texts: list[str], named: list[str]) -> None:
    with pytest.raises(UserError, match="contradict each other") as caught:
        parse_all(texts)
    assert all(name in str(caught.value) for name in named)
    assert "logp <= 3" not in str(caught.value)


@pytest.mark.parametrize(
    "texts",
    [
        ["logp <= 2", "logp >= 2"],
        ["rings > 1", "rings < 3"],
        ["formula in {C6H6, CH4}", "heavy_atoms == 1"],
        ["formula == C6H6", "mw in [78.113, 78.115]"],
        ["qed >= 0.8", "qed >= 0.8"],
    ],
)
def test_what_can_be_met_is_not_refused(texts: list[str]) -> None:
    assert len(parse_all(texts)) == len(dict.fromkeys(texts))


def test_regions_are_closed_intervals_and_sets() -> None:
    assert parse("qed > 0.5").allowed == Interval(low=math.nextafter(0.5, 1))
    assert parse("rings in {1, 2}").allowed == Members(values=frozenset({1, 2}))
