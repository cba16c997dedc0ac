"""Conditions on the properties of a molecule, as written in `--where`.

    qed >= 0.8        logp in [1, 3]        rings in {1, 2, 3}        formula == C9H8O4

One expression is `name operator value` with `<`, `<=`, `==`, `>=`, `>` or `in`. Several expressions hold together. What
is allowed of a value is a closed interval or a finite set: among floating-point numbers `x > a` is the closed interval
from the next number above `a`, and a count above 2 is a count of at least 3, so strict and non-strict conditions need
no separate cases and an empty intersection is found exactly.
"""

from __future__ import annotations

import functools
import itertools
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rdkit import Chem

from scidiff.errors import UserError
from scidiff.molecules.properties import PROPERTIES, Property, Value, hill, lookup, parse_formula

OPERATORS = ("<=", ">=", "==", "<", ">", "in")

_OPERATOR_NAMES = {"<": "lt", "<=": "le", "==": "eq", ">=": "ge", ">": "gt", "in": "in"}
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_WORD = re.compile(r"[A-Za-z0-9+-]+")
_MAX_TEXT = 1000


@dataclass(frozen=True, kw_only=True)
class Interval:
    """The numbers from `low` to `high`, ends included."""

    low: float = -math.inf
    high: float = math.inf

    def distance(self, value: Value) -> float:
        """How far a number lies outside: exactly 0 inside, infinite for a value that is no finite number."""
        if isinstance(value, str) or not math.isfinite(value):
            return math.inf
        return max(self.low - value, value - self.high, 0.0)


@dataclass(frozen=True, kw_only=True)
class Members:
    """A finite set of values."""

    values: frozenset[Value]

    def distance(self, value: Value) -> float:
        """Distance to the nearest member: exactly 0 for a member; of texts, 1 for any other."""
        if value in self.values:
            return 0.0
        if isinstance(value, str):
            return 1.0
        return min((abs(value - other) for other in self.values if not isinstance(other, str)), default=math.inf)


Region = Interval | Members


@dataclass(frozen=True, kw_only=True)
class Condition:
    """One parsed expression.

    Attributes:
        text: the expression in its normal spelling, `qed >= 0.8`.
        property: name of the property it is about.
        allowed: the values for which it holds.
    """

    text: str
    property: str
    allowed: Region

    @functools.cached_property
    def column(self) -> str:
        """A name for files, without characters that tables or SDF give a meaning: `qed_ge_0.8`, `logp_in_1_to_3`."""
        name, operator, value = self.text.split(maxsplit=2)
        joint = "_to_" if value.startswith("[") else "_or_"
        return f"{name}_{_OPERATOR_NAMES[operator]}_{value.strip('[]{}').replace(', ', joint)}"

    def violation(self, value: Value) -> float:
        """How far the value is from the allowed ones, in the property's unit; exactly 0 when the condition holds."""
        return self.allowed.distance(value)


class _Reader:
    """The text of one expression and how far it has been read."""

    def __init__(self, text: str):
        self.text = text
        self.place = 0

    def skip(self) -> None:
        while self.place < len(self.text) and self.text[self.place].isspace():
            self.place += 1

    def take(self, pattern: re.Pattern[str]) -> str | None:
        self.skip()
        found = pattern.match(self.text, self.place)
        if found is None or not found.group():
            return None
        self.place = found.end()
        return found.group()

    def literal(self, *choices: str) -> str | None:
        self.skip()
        for choice in choices:
            if self.text.startswith(choice, self.place):
                self.place += len(choice)
                return choice
        return None

    def fail(self, expected: str, *, at: int | None = None, got: str | None = None) -> UserError:
        self.skip()
        place = self.place if at is None else at
        rest = self.text[place:].split()
        seen = got if got is not None else (rest[0] if rest else "")
        what = repr(seen) if seen else "the end"
        return UserError(f"--where {self.text!r}: expected {expected} at position {place + 1}, got {what}")


def parse(text: str) -> Condition:
    """Read one expression.

    Raises:
        UserError: it cannot be read, the property is unknown (the message names the nearest), or it can never hold. The
            message gives the text, the position (from 1), what was expected and what came.
    """
    if len(text) > _MAX_TEXT:
        raise UserError(f"--where: expected at most {_MAX_TEXT} characters, got {len(text)}")
    reader = _Reader(text)
    reader.skip()
    start = reader.place
    name = reader.take(_NAME)
    if name is None:
        raise reader.fail("the name of a property")
    try:
        item = lookup(name)
    except UserError as error:
        raise UserError(f"--where {text!r}: {error} (position {start + 1})") from None
    operator = _operator(reader, item)
    allowed, spelled = _collection(reader, item) if operator == "in" else _comparison(reader, item, operator)
    reader.skip()
    if reader.place < len(text):
        raise reader.fail("the end")
    condition = Condition(text=f"{name} {operator} {spelled}", property=name, allowed=allowed)
    if empty(meet(allowed, whole(item))):
        raise UserError(f"--where {text!r}: no molecule can meet it; {_range_text(item)}")
    return condition


def _operator(reader: _Reader, item: Property) -> str:
    reader.skip()
    place = reader.place
    operator = reader.literal(*OPERATORS)
    after = reader.text[reader.place : reader.place + 1]
    if operator is None or (operator == "in" and (after.isalnum() or after == "_")):
        raise reader.fail(f"one of {' '.join(OPERATORS)}", at=place)
    if item.kind == "formula" and operator not in ("==", "in"):
        raise reader.fail(f"== or in, for {item.name} is text,", at=place)
    return operator


def _comparison(reader: _Reader, item: Property, operator: str) -> tuple[Region, str]:
    value, spelled = _value(reader, item)
    if isinstance(value, str):
        return Members(values=frozenset({value})), spelled
    low: float = value
    high: float = value
    above, below = math.nextafter(value, math.inf), math.nextafter(value, -math.inf)
    if item.kind == "count":
        low, high = math.ceil(value), math.floor(value)
        above, below = high + 1, low - 1
    region = {
        "<": Interval(high=below),
        "<=": Interval(high=high),
        "==": Interval(low=low, high=high),
        ">=": Interval(low=low),
        ">": Interval(low=above),
    }[operator]
    return region, spelled


def _collection(reader: _Reader, item: Property) -> tuple[Region, str]:
    """`[a, b]`, the closed interval, or `{a, b, c}`, the set."""
    choices = ("{",) if item.kind == "formula" else ("[", "{")
    reader.skip()
    place = reader.place
    opening = reader.literal(*choices)
    if opening is None:
        raise reader.fail("{a, b, ...}" if item.kind == "formula" else "[low, high] or {a, b, ...}")
    values: list[Value] = []
    spelled: list[str] = []
    closing = "]" if opening == "[" else "}"
    while True:
        value, text = _value(reader, item)
        values.append(value)
        spelled.append(text)
        if reader.literal(closing):
            break
        if reader.literal(",") is None:
            raise reader.fail(f"a comma or {closing}")
    inside = ", ".join(spelled)
    if opening == "{":
        return Members(values=frozenset(values)), "{" + inside + "}"
    numbers = [value for value in values if not isinstance(value, str)]
    if len(numbers) != 2:
        raise reader.fail("[low, high]: two numbers", at=place, got=f"{len(numbers)} in [{inside}]")
    low, high = numbers
    if low > high:
        raise reader.fail("[low, high] with low <= high", at=place, got=f"[{inside}]")
    return Interval(low=low, high=high), f"[{inside}]"


def _value(reader: _Reader, item: Property) -> tuple[Value, str]:
    reader.skip()
    place = reader.place
    if item.kind == "formula":
        quote = reader.literal('"', "'")
        word = reader.take(_WORD)
        if word is None or (quote and not reader.literal(quote)):
            raise reader.fail("a molecular formula such as C9H8O4", at=place)
        try:
            formula = hill(word)
        except ValueError as error:
            raise UserError(f"--where {reader.text!r}: {error} at position {place + 1}") from None
        return formula, formula
    text = reader.take(_NUMBER)
    if text is None:
        raise reader.fail("a number", at=place)
    value = float(text)
    if not math.isfinite(value):
        raise reader.fail("a finite number", at=place)
    if item.kind == "count" and value.is_integer():
        return int(value), str(int(value))
    return value, text


def whole(item: Property) -> Interval:
    """The range of a property; of a formula, which has none, the whole line."""
    return Interval(low=item.low, high=item.high)


def _range_text(item: Property) -> str:
    unit = f" {item.unit}" if item.unit else ""
    parts = ["a whole number"] if item.kind == "count" else []
    if math.isfinite(item.low) and math.isfinite(item.high):
        parts.append(f"in [{item.low:g}, {item.high:g}]{unit}")
    elif math.isfinite(item.low):
        parts.append(f"at least {item.low:g}{unit}")
    return f"{item.name} is {', '.join(parts) or 'any number'}"


def meet(a: Region, b: Region) -> Region:
    """The values in both regions. A set of texts meets the whole line in itself."""
    if isinstance(a, Interval) and isinstance(b, Interval):
        return Interval(low=max(a.low, b.low), high=min(a.high, b.high))
    if isinstance(a, Members) and isinstance(b, Members):
        return Members(values=a.values & b.values)
    members, interval = (a, b) if isinstance(a, Members) else (b, a)
    if not (isinstance(members, Members) and isinstance(interval, Interval)):
        raise TypeError(f"expected regions, got {type(a).__name__} and {type(b).__name__}")
    return Members(values=frozenset(v for v in members.values if isinstance(v, str) or interval.distance(v) == 0.0))


def empty(region: Region, *, kind: str = "real") -> bool:
    """Whether no value of the kind (`real`, `count`, `formula`) is in the region."""
    if isinstance(region, Interval):
        low, high = (region.low, region.high)
        if kind == "count":
            low, high = (low if math.isinf(low) else math.ceil(low), high if math.isinf(high) else math.floor(high))
        return low > high
    if kind == "count":
        return not any(not isinstance(value, str) and float(value).is_integer() for value in region.values)
    return not region.values


def parse_all(texts: Iterable[str]) -> tuple[Condition, ...]:
    """Read expressions that are to hold together.

    Raises:
        UserError: one cannot be read, can never hold, or some contradict each other; the message names those.
    """
    conditions = tuple(dict.fromkeys(parse(text) for text in texts))
    for name in dict.fromkeys(c.property for c in conditions):
        same = [c for c in conditions if c.property == name]
        if not satisfiable(same):
            raise UserError(_contradiction(_smallest_contradiction(same)))
    _check_formula(conditions)
    return conditions


def _smallest_contradiction(conditions: Sequence[Condition]) -> Sequence[Condition]:
    """A smallest part of contradictory conditions that is contradictory itself.

    Intervals on a line that meet in pairs meet all together (Helly), so more than a few are named only with sets.
    """
    for size in range(1, min(len(conditions), 4)):
        for some in itertools.combinations(conditions, size):
            if not satisfiable(some):
                return some
    return conditions


def satisfiable(conditions: Sequence[Condition]) -> bool:
    """Whether some value meets all conditions, which are about one property."""
    item = PROPERTIES[conditions[0].property]
    region: Region = whole(item)
    for condition in conditions:
        region = meet(region, condition.allowed)
    return not empty(region, kind=item.kind)


def _contradiction(some: Sequence[Condition]) -> str:
    item = PROPERTIES[some[0].property]
    if len(some) == 1:
        return f"--where {some[0].text!r}: no molecule can meet it; {_range_text(item)}"
    named = " and ".join(repr(c.text) for c in some)
    every = "both" if len(some) == 2 else "all of them"
    return f"--where {named} contradict each other: no value of {item.name} meets {every}"


def _check_formula(conditions: Sequence[Condition]) -> None:
    """A formula fixes heavy atoms, charge and weight: conditions on those must allow at least one of the formulas."""
    formulas = [c for c in conditions if c.property == "formula"]
    derived = [c for c in conditions if c.property in ("heavy_atoms", "charge", "mw")]
    if not formulas or not derived:
        return
    region: Region = formulas[0].allowed
    for condition in formulas[1:]:
        region = meet(region, condition.allowed)
    if not isinstance(region, Members):
        raise TypeError("expected a set of formulas")
    for condition in derived:
        if not any(condition.violation(_of_formula(condition.property, str(f))) < 1e-3 for f in region.values):
            text = formulas[0].text
            raise UserError(f"--where {text!r} and {condition.text!r} contradict each other: no molecule meets both")


def _of_formula(name: str, formula: str) -> float:
    counts, charge = parse_formula(formula)
    if name == "charge":
        return charge
    if name == "heavy_atoms":
        return sum(n for symbol, n in counts.items() if symbol != "H")
    table = Chem.GetPeriodicTable()
    return sum(n * table.GetAtomicWeight(symbol) for symbol, n in counts.items())
