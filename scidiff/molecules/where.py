"""Conditions on one quantity of a molecule, as written in `--where`.

    qed >= 0.8        logp in [1, 3]        rings in {1, 2, 3}        formula == C9H8O4        mw <= 350 Da

A condition is `quantity operator value` with `<`, `<=`, `==`, `>=`, `>` or `in`. What is allowed of a value is a closed
interval or a finite set: among floating-point numbers `x > a` is the closed interval from the next number above `a`,
and a count above 2 is a count of at least 3, so strict and non-strict conditions need no separate cases and an empty
intersection is found exactly. `scidiff.molecules.language` joins conditions by `and`, `or` and `not`.
"""

from __future__ import annotations

import functools
import math
import re
from dataclasses import dataclass

from scidiff.errors import UserError
from scidiff.molecules.properties import Property, Value, hill
from scidiff.molecules.quantities import PatternError, element, quantity, smiles
from scidiff.molecules.reading import Reader

OPERATORS = ("<=", ">=", "==", "<", ">", "in")
UNITS = {"g/mol": ("g/mol", "Da"), "angstrom^2": ("angstrom^2", "A^2", "Å^2", "Å²"), "e": ("e",)}

_OPERATOR_NAMES = {"<": "lt", "<=": "le", "==": "eq", ">=": "ge", ">": "gt", "in": "in"}
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_WORD = re.compile(r"[A-Za-z0-9+-]+")
_UNIT = re.compile(r"[^\W\d_][\w/^²]*")
_JOINTS = frozenset({"and", "or", "not"})


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
    """One parsed condition.

    Attributes:
        text: the condition in its normal spelling, `qed >= 0.8`, without a unit.
        property: the quantity it is about, `qed` or `n_atoms[N]`.
        allowed: the values for which it holds.
    """

    text: str
    property: str
    allowed: Region

    def __str__(self) -> str:
        return self.text

    @functools.cached_property
    def column(self) -> str:
        """A name for files, without characters that tables or SDF give a meaning: `qed_ge_0.8`, `logp_in_1_to_3`."""
        name, operator, value = self.text.split(maxsplit=2)
        joint = "_to_" if value.startswith("[") else "_or_"
        return f"{name}_{_OPERATOR_NAMES[operator]}_{value.strip('[]{}').replace(', ', joint)}"

    def violation(self, value: Value) -> float:
        """How far the value is from the allowed ones, in the property's unit; exactly 0 when the condition holds."""
        return self.allowed.distance(value)


def parse(text: str) -> Condition:
    """Read one condition.

    Raises:
        UserError: it cannot be read, the property is unknown (the message names the nearest), or it can never hold. The
            message gives the text, the position (from 1), what was expected and what came.
    """
    reader = Reader(text)
    condition = read_condition(reader)
    reader.skip()
    if reader.place < len(text):
        raise reader.fail("the end")
    return condition


def read_condition(reader: Reader) -> Condition:
    """The condition that stands here; `UserError` as from `parse`."""
    reader.skip()
    start = reader.place
    name = reader.take(NAME)
    if name is None:
        raise reader.fail("the name of a property")
    item = read_quantity(reader, name, start)
    operator = _operator(reader, item)
    allowed, spelled = _collection(reader, item) if operator == "in" else _comparison(reader, item, operator)
    if empty(meet(allowed, whole(item)), kind=item.kind):
        raise UserError(f"{reader.source} {reader.text!r}: no molecule can meet it; {range_text(item)}")
    return Condition(text=f"{item.name} {operator} {spelled}", property=item.name, allowed=allowed)


def read_quantity(reader: Reader, name: str, start: int) -> Property:
    """The quantity of that name, with the argument that follows if it takes one."""
    if name == "n_atoms":
        return _of_element(reader)
    if name in ("count", "similarity"):
        if reader.literal("(") is None:
            raise reader.fail(f"( and a {'SMARTS' if name == 'count' else 'SMILES'}")
        text = read_pattern(reader, "SMARTS" if name == "count" else "SMILES")
        if reader.literal(")") is None:
            raise reader.fail(")")
        return quantity(f"{name}({text})")
    try:
        return quantity(name)
    except UserError as error:
        raise UserError(f"{reader.source} {reader.text!r}: {error} (position {start + 1})") from None


def _of_element(reader: Reader) -> Property:
    if reader.literal("[") is None:
        raise reader.fail("[ and an element")
    reader.skip()
    place = reader.place
    symbol = reader.take(NAME)
    try:
        element(symbol or "")
    except ValueError:
        raise reader.fail("an element", at=place) from None
    if reader.literal("]") is None:
        raise reader.fail("]")
    return quantity(f"n_atoms[{symbol}]")


def read_pattern(reader: Reader, kind: str, *, ends: str = "") -> str:
    """The SMARTS (as it is) or SMILES (canonical) that stands here.

    Raises:
        UserError: RDKit does not read it, or it is a SMARTS with stereochemistry; the message gives the position of the
            error within the expression.
    """
    from scidiff.molecules.quantities import smarts

    reader.skip()
    quoted = reader.text[reader.place : reader.place + 1] in ('"', "'")
    place = reader.place + quoted
    text = reader.pattern(ends)
    if not text:
        raise reader.fail(f"a {kind}", at=place)
    try:
        if kind == "SMILES":
            return smiles(text)
        smarts(text)
    except PatternError as error:
        raise reader.fail(error.expected, at=place + error.place, got=text) from None
    return text


def _operator(reader: Reader, item: Property) -> str:
    reader.skip()
    place = reader.place
    operator = reader.literal(*OPERATORS)
    after = reader.text[reader.place : reader.place + 1]
    if operator is None or (operator == "in" and (after.isalnum() or after == "_")):
        raise reader.fail(f"one of {' '.join(OPERATORS)}", at=place)
    if item.kind == "formula" and operator not in ("==", "in"):
        raise reader.fail(f"== or in, for {item.name} is text,", at=place)
    return operator


def _comparison(reader: Reader, item: Property, operator: str) -> tuple[Region, str]:
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


def _collection(reader: Reader, item: Property) -> tuple[Region, str]:
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
    _unit(reader, item)
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


def _value(reader: Reader, item: Property) -> tuple[Value, str]:
    reader.skip()
    place = reader.place
    if item.kind == "formula":
        return _formula(reader, place)
    if item.name == "alerts" and reader.literal("none"):
        return 0, "none"
    text = reader.take(_NUMBER)
    if text is None:
        raise reader.fail("a number", at=place)
    value = float(text)
    if not math.isfinite(value):
        raise reader.fail("a finite number", at=place)
    _unit(reader, item)
    if item.kind == "count" and value.is_integer():
        return int(value), str(int(value))
    return value, text


def _formula(reader: Reader, place: int) -> tuple[str, str]:
    quote = reader.literal('"', "'")
    word = reader.take(_WORD)
    if word is None or (quote and not reader.literal(quote)):
        raise reader.fail("a molecular formula such as C9H8O4", at=place)
    try:
        formula = hill(word)
    except ValueError as error:
        raise UserError(f"{reader.source} {reader.text!r}: {error} at position {place + 1}") from None
    return formula, formula


def _unit(reader: Reader, item: Property) -> None:
    """Past the unit of the property, if one stands here; another unit is an error."""
    reader.skip()
    place = reader.place
    word = reader.take(_UNIT)
    if word in UNITS.get(item.unit, ()):
        return
    if word is not None and word.lower() not in _JOINTS:
        units = UNITS.get(item.unit, ())
        if units:
            raise reader.fail(f"the unit of {item.name}, {' or '.join(units[:2])}, or none", at=place)
        raise reader.fail(f"no unit, for {item.name} has none; or the end, and, or", at=place)
    reader.place = place


def whole(item: Property) -> Interval:
    """The range of a property; of a formula, which has none, the whole line."""
    return Interval(low=item.low, high=item.high)


def range_text(item: Property) -> str:
    """`qed is in [0, 1]`."""
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


def empty(region: Region, *, kind: str = "real", without: frozenset[Value] = frozenset()) -> bool:
    """Whether no value of the kind (`real`, `count`, `formula`) is in the region, but for those in `without`."""
    if isinstance(region, Members):
        return not any(kind != "count" or float(v).is_integer() for v in region.values - without)
    low, high = region.low, region.high
    if kind == "count":
        low, high = (low if math.isinf(low) else math.ceil(low), high if math.isinf(high) else math.floor(high))
        if math.isfinite(high - low):
            return high - low + 1 <= sum(low <= float(v) <= high and float(v).is_integer() for v in without)
    return low > high or (low == high and low in without)
