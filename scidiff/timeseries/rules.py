"""Rules about the values of a table, as a user states them, and as linear terms over the cells of one series.

    bounds:    {HR: [0, 300], Urine: [0, null]}        low <= value <= high
    order:     [[DiasABP, MAP, SysABP]]                in every row, each at most the next
    sums:      [{total: Intake, parts: [Oral, IV]}]    in every row
    rates:     {Temp: {change: 1.0, per: 60}}          at most so much change in so much time, between rows that follow
    monotone:  {Dose: increasing}                      from row to row

Numbers are in the units of the table, times in its unit of time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Literal, Self

import numpy as np
import yaml
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, ValidationError, model_validator

from scidiff.errors import UserError, one_line

_STRICT = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Sum(BaseModel):
    """total = the sum of its parts."""

    model_config = _STRICT
    total: str
    parts: tuple[str, ...] = Field(min_length=1)


class Rate(BaseModel):
    """At most `change` in a time `per`."""

    model_config = _STRICT
    change: float = Field(ge=0)
    per: PositiveFloat


class Rules(BaseModel):
    """What must hold of every draw.

    Attributes:
        bounds: [low, high] of a variable, None where there is no bound.
        order: variables that stand in ascending order in every row.
        sums: totals and their parts.
        rates: how fast a variable may change.
        monotone: variables that only rise, or only fall.
    """

    model_config = _STRICT

    bounds: dict[str, tuple[float | None, float | None]] = {}
    order: tuple[tuple[str, ...], ...] = ()
    sums: tuple[Sum, ...] = ()
    rates: dict[str, Rate] = {}
    monotone: dict[str, Literal["increasing", "decreasing"]] = {}

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for name, (low, high) in self.bounds.items():
            if low is not None and high is not None and low > high:
                raise ValueError(f"bounds.{name}: expected low <= high, got [{low:g}, {high:g}]")
        for chain in self.order:
            if len(set(chain)) < len(chain) or len(chain) < 2:
                raise ValueError(f"order: expected two or more different variables, got {list(chain)}")
            self._chain_has_room(chain)
        return self

    def _chain_has_room(self, chain: Sequence[str]) -> None:
        """An order of variables whose bounds contradict it is empty: name the two."""
        least, below = -np.inf, ""
        for name in chain:
            low, high = self.bounds.get(name, (None, None))
            if high is not None and high < least:
                raise ValueError(f"order {list(chain)} and bounds contradict: {below} >= {least:g}, {name} <= {high:g}")
            if low is not None and low > least:
                least, below = low, name

    @classmethod
    def read(cls, path: Path) -> Self:
        """Rules from a YAML file; UserError lists everything that is wrong with it on one line."""
        try:
            return cls.parse(yaml.safe_load(path.read_text(encoding="utf-8")), str(path))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise UserError(f"{path}: expected a YAML file of rules: {one_line(error)}") from None

    @classmethod
    def parse(cls, content: object, where: str) -> Self:
        """Rules from what a YAML file holds."""
        try:
            return cls.model_validate(content or {})
        except ValidationError as error:
            told = [
                f"{'.'.join(map(str, one['loc'])) or 'rules'}: {one['msg']}, got {one['input']!r}"
                for one in error.errors()
            ]
            raise UserError(f"{where}: {'; '.join(' '.join(text.split()) for text in told)}") from None

    def with_bounds(self, stated: Sequence[str]) -> Rules:
        """With bounds as they are written on a command line, `HR=20:250` or `Urine=0:`; UserError for others."""
        bounds: dict[str, list[str | None]] = {}
        for text in stated:
            name, _, interval = text.rpartition("=")
            low, colon, high = interval.partition(":")
            if not (name and colon and (low or high)) or name in {*self.bounds, *bounds}:
                got = f"{text!r}" + (", the second of this variable" if name in {*self.bounds, *bounds} else "")
                raise UserError(f"--bounds: expected NAME=LOW:HIGH such as HR=20:250 or Urine=0:, got {got}")
            bounds[name] = [low or None, high or None]
        return Rules.parse({**self.model_dump(), "bounds": {**self.bounds, **bounds}}, "--bounds")

    def variables(self) -> set[str]:
        """Every variable that is named."""
        chains = [name for chain in self.order for name in chain]
        sums = [name for one in self.sums for name in (one.total, *one.parts)]
        return {*self.bounds, *chains, *sums, *self.rates, *self.monotone}

    def check(self, variables: Sequence[str]) -> None:
        """UserError if a rule speaks of a variable that is not there."""
        unknown = sorted(self.variables() - set(variables))
        if unknown:
            raise UserError(f"expected rules about {', '.join(variables)}, got one about {', '.join(unknown)}")


@dataclass(frozen=True, kw_only=True)
class Term:
    """sum_j coefficient_j x[cell_j] <= bound, or == bound.

    Attributes:
        cells: numbers l V + v of the cells.
        coefficients: one for each.
        bound: in the units of the table.
        equality: whether it is one.
        rule: what it comes from.
    """

    cells: tuple[int, ...]
    coefficients: tuple[float, ...]
    bound: float
    equality: bool
    rule: str


def terms(rules: Rules, variables: Sequence[str], times: np.ndarray, present: np.ndarray) -> Iterator[Term]:
    """The rules about one series, cell by cell.

    Args:
        rules: checked against the variables.
        variables: of the columns, V.
        times: of the rows, [L], ascending.
        present: bool [L, V], cells that are observed or drawn: no other is spoken of.
    """
    place = {name: v for v, name in enumerate(variables)}
    width = len(variables)

    def less(rule: str, parts: Sequence[tuple[int, float]], bound: float, *, equality: bool = False) -> Term:
        cells, coefficients = zip(*parts, strict=True)
        return Term(cells=cells, coefficients=coefficients, bound=bound, equality=equality, rule=rule)

    for name, (low, high) in rules.bounds.items():
        for row in np.flatnonzero(present[:, place[name]]).tolist():
            cell = row * width + place[name]
            if low is not None:
                yield less(f"{name} >= {low:g}", [(cell, -1.0)], -low)
            if high is not None:
                yield less(f"{name} <= {high:g}", [(cell, 1.0)], high)
    for chain in rules.order:
        for row in range(len(times)):
            there = [name for name in chain if present[row, place[name]]]
            for first, second in pairwise(there):
                a, b = (row * width + place[name] for name in (first, second))
                yield less(f"{first} <= {second}", [(a, 1.0), (b, -1.0)], 0.0)
    for one in rules.sums:
        columns = [place[name] for name in (one.total, *one.parts)]
        for row in np.flatnonzero(present[:, columns].all(1)).tolist():
            parts = [(row * width + column, -1.0 if k else 1.0) for k, column in enumerate(columns)]
            yield less(f"{one.total} == {' + '.join(one.parts)}", parts, 0.0, equality=True)
    for name, column, before, after in _steps(rules, place, present):
        a, b = before * width + column, after * width + column
        rate, way = rules.rates.get(name), rules.monotone.get(name)
        if rate is not None:
            most = rate.change * float(times[after] - times[before]) / rate.per
            text = f"{name} changes by at most {rate.change:g} in {rate.per:g}"
            yield less(text, [(b, 1.0), (a, -1.0)], most)
            yield less(text, [(a, 1.0), (b, -1.0)], most)
        if way is not None:
            sign = 1.0 if way == "increasing" else -1.0
            yield less(f"{name} {way}", [(a, sign), (b, -sign)], 0.0)


def _steps(rules: Rules, place: dict[str, int], present: np.ndarray) -> Iterator[tuple[str, int, int, int]]:
    """Rows that follow each other in the columns with a rule from row to row: name, column, row before, row after."""
    for name in dict.fromkeys((*rules.rates, *rules.monotone)):
        rows = np.flatnonzero(present[:, place[name]]).tolist()
        for before, after in pairwise(rows):
            yield name, place[name], before, after
