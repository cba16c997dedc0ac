"""Objectives: arithmetic over the numeric quantities of a molecule, such as `qed - 0.1*sa`.

    numbers, quantities of the language of constraints (qed, n_atoms[N], count(SMARTS), similarity(SMILES), ...),
    + - * /, unary -, min(a, b, ...), max(a, b, ...), parentheses

Unary minus binds closest, then * and /, then + and -; equals are taken from the left. An objective prints in a normal
spelling that reads back as itself.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from scidiff.errors import UserError
from scidiff.molecules.language import Facts
from scidiff.molecules.parsing import MAX_DEPTH
from scidiff.molecules.reading import Reader
from scidiff.molecules.where import NAME, read_quantity

_NUMBER = re.compile(r"(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_APPLY: dict[str, Callable[[float, float], float]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
}
_SUM, _PRODUCT, _UNARY = 1, 2, 3  # how closely an operator binds


@dataclass(frozen=True, kw_only=True)
class Number:
    """A constant, not negative."""

    value: float

    @property
    def text(self) -> str:
        """The normal spelling."""
        return repr(int(self.value)) if self.value.is_integer() and self.value < 1e15 else repr(self.value)


@dataclass(frozen=True, kw_only=True)
class Quantity:
    """A numeric quantity of a molecule, by its spelling."""

    name: str

    @property
    def text(self) -> str:
        """The normal spelling."""
        return self.name


@dataclass(frozen=True, kw_only=True)
class Negative:
    """The negative of something."""

    of: Objective

    @property
    def text(self) -> str:
        """The normal spelling."""
        return f"-{_within(self.of, _UNARY)}"


@dataclass(frozen=True, kw_only=True)
class Binary:
    """Two things joined by + - * /."""

    operator: Literal["+", "-", "*", "/"]
    left: Objective
    right: Objective

    @property
    def text(self) -> str:
        """The normal spelling."""
        binds = _binds(self)
        joint = f" {self.operator} " if binds == _SUM else self.operator
        return f"{_within(self.left, binds)}{joint}{_within(self.right, binds + 1)}"


@dataclass(frozen=True, kw_only=True)
class Extreme:
    """The least or the greatest of one or more."""

    name: Literal["min", "max"]
    of: tuple[Objective, ...]

    @property
    def text(self) -> str:
        """The normal spelling."""
        return f"{self.name}({', '.join(part.text for part in self.of)})"


Objective = Number | Quantity | Negative | Binary | Extreme


def _binds(objective: Objective) -> int:
    if isinstance(objective, Binary):
        return _SUM if objective.operator in "+-" else _PRODUCT
    return _UNARY


def _within(part: Objective, binds: int) -> str:
    return f"({part.text})" if _binds(part) < binds else part.text


def value(objective: Objective, facts: Facts) -> float:
    """The objective of a molecule; NaN where it divides by zero, infinite beyond the range of floats."""
    if isinstance(objective, Number):
        return objective.value
    if isinstance(objective, Quantity):
        return float(facts[objective.name])
    if isinstance(objective, Negative):
        return -value(objective.of, facts)
    if isinstance(objective, Extreme):
        found = [value(part, facts) for part in objective.of]
        if any(math.isnan(number) for number in found):
            return math.nan
        return min(found) if objective.name == "min" else max(found)
    left, right = value(objective.left, facts), value(objective.right, facts)
    if objective.operator == "/" and right == 0:
        return math.nan
    return _APPLY[objective.operator](left, right)


def quantities(objective: Objective) -> Iterator[str]:
    """The names of what it is about, from left to right."""
    if isinstance(objective, Quantity):
        yield objective.name
    elif isinstance(objective, Negative):
        yield from quantities(objective.of)
    elif isinstance(objective, Binary):
        yield from quantities(objective.left)
        yield from quantities(objective.right)
    elif isinstance(objective, Extreme):
        for part in objective.of:
            yield from quantities(part)


def parse(text: str, *, source: str = "--maximise") -> Objective:
    """Read an objective.

    Args:
        text: the expression.
        source: what errors begin with.

    Raises:
        UserError: it cannot be read, or is about no quantity. The message gives the text, the position (from 1), what
            was expected and what came.
    """
    reader = Reader(text, source)
    objective = _sum(reader, 0)
    reader.skip()
    if reader.place < len(text):
        raise reader.fail("the end, +, -, *, /")
    if not any(quantities(objective)):
        raise UserError(f"{source} {text!r}: expected at least one property of molecules, got a constant")
    return objective


def _sum(reader: Reader, depth: int) -> Objective:
    found = _product(reader, depth)
    while (joint := reader.literal("+", "-")) is not None:
        found = Binary(operator=joint, left=found, right=_product(reader, depth))  # type: ignore[arg-type]
    return found


def _product(reader: Reader, depth: int) -> Objective:
    found = _unary(reader, depth)
    while (joint := reader.literal("*", "/")) is not None:
        found = Binary(operator=joint, left=found, right=_unary(reader, depth))  # type: ignore[arg-type]
    return found


def _unary(reader: Reader, depth: int) -> Objective:
    if depth > MAX_DEPTH:
        raise reader.fail(f"at most {MAX_DEPTH} parentheses within each other")
    if reader.literal("-") is not None:
        return Negative(of=_unary(reader, depth + 1))
    if reader.literal("(") is not None:
        inside = _sum(reader, depth + 1)
        if reader.literal(")") is None:
            raise reader.fail("), +, -, *, /")
        return inside
    reader.skip()
    start = reader.place
    digits = reader.take(_NUMBER)
    if digits is not None:
        if not math.isfinite(float(digits)):
            raise reader.fail("a finite number", at=start, got=digits)
        return Number(value=float(digits))
    name = reader.take(NAME)
    if name is None:
        raise reader.fail("a number, a property, min, max, - or (")
    if name in ("min", "max"):
        return _extreme(reader, name, depth)
    item = read_quantity(reader, name, start)
    if item.kind == "formula":
        raise reader.fail("a numeric property", at=start, got=name)
    return Quantity(name=item.name)


def _extreme(reader: Reader, name: str, depth: int) -> Objective:
    if reader.literal("(") is None:
        raise reader.fail(f"( after {name}")
    parts = [_sum(reader, depth + 1)]
    while reader.literal(",") is not None:
        parts.append(_sum(reader, depth + 1))
    if reader.literal(")") is None:
        raise reader.fail("), a comma, +, -, *, /")
    return Extreme(name=name, of=tuple(parts))  # type: ignore[arg-type]
