"""What must hold of futures: the rules of a table, and what only a future can be told.

    bounds, order, sums, rates, monotone               as in `rules`; rates and monotone go on from the last known row
    integers:   [sales]
    hierarchy:  {Total: [A, B], A: [AA, AB]}           series, or variables: each the sum of its parts at every step
    totals:     [{variable: load, amount: 1200, first: 1, last: 24}]       over steps, 1 the first of the future
    totals:     [{variable: load, factor: 1.1, first: 1, last: 24}]        of what is expected without rules
    known:      [{variable: load, values: [31.0, 30.2, null, 29.8]}]       from the first step on, null where unknown

A total or known values may name a `series`; else they are meant of each.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from scidiff.errors import UserError
from scidiff.timeseries.panel import Floats, Ints
from scidiff.timeseries.rules import Rules, Term, terms

_STRICT = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Total(BaseModel):
    """The sum of a variable over steps: an amount, or a factor of the expected one."""

    model_config = _STRICT
    variable: str
    amount: float | None = None
    factor: float | None = None
    first: int = Field(default=1, ge=1)
    last: int | None = Field(default=None, ge=1)
    series: str | int | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.amount is None) == (self.factor is None):
            raise ValueError("expected either an amount or a factor")
        if self.last is not None and self.last < self.first:
            raise ValueError(f"expected first <= last, got {self.first} and {self.last}")
        return self


class Given(BaseModel):
    """Values of a variable from the first step on; None where they are not known."""

    model_config = _STRICT
    variable: str
    values: tuple[float | None, ...] = Field(min_length=1)
    series: str | int | None = None


class ForecastRules(Rules):
    """What must hold of every future.

    Attributes:
        integers: variables of whole numbers.
        hierarchy: totals and their parts, all series or all variables.
        totals: over steps.
        known: what has been told of the future.
    """

    integers: tuple[str, ...] = ()
    hierarchy: dict[str, tuple[str, ...]] = Field(default={})
    totals: tuple[Total, ...] = ()
    known: tuple[Given, ...] = ()

    @model_validator(mode="after")
    def _tree(self) -> Self:
        parts = [part for several in self.hierarchy.values() for part in several]
        if len(set(parts)) < len(parts) or any(not several for several in self.hierarchy.values()):
            raise ValueError("hierarchy: expected parts that each belong to one total")
        for top in self.hierarchy:
            if top in self.below(top):
                raise ValueError(f"hierarchy: expected a tree, got {top} as a part of itself")
        return self

    def below(self, top: str) -> list[str]:
        """All parts of a total, and theirs."""
        found: list[str] = []
        waiting = list(self.hierarchy.get(top, ()))
        while waiting:
            part = waiting.pop(0)
            if part not in found:
                found.append(part)
                waiting += self.hierarchy.get(part, ())
        return found

    def __and__(self, other: ForecastRules) -> ForecastRules:
        """Both; bounds and limits of the second take the place of those of the same variable."""
        mine, theirs = self.model_dump(), other.model_dump()
        both = {k: v | theirs[k] if isinstance(v, dict) else (*v, *theirs[k]) for k, v in mine.items()}
        return ForecastRules.model_validate(both)

    def stated(self) -> bool:
        """Whether there is any rule."""
        return any(bool(part) for part in self.model_dump().values())

    def variables(self) -> set[str]:
        """Every variable that is named."""
        told = {one.variable for one in self.totals} | {one.variable for one in self.known}
        return super().variables() | {*self.integers} | told

    def check_future(self, variables: Sequence[str], series: Sequence[str], horizon: int) -> None:
        """UserError for a rule about what is not there."""
        self.check(variables)
        nodes = [*self.hierarchy, *(part for parts in self.hierarchy.values() for part in parts)]
        missing = min((set(nodes) - set(among) for among in (series, variables)), key=len)
        if missing:
            raise UserError(f"hierarchy: expected names of series or of variables, got {', '.join(sorted(missing))}")
        meant = [*(one.series for one in self.totals), *(one.series for one in self.known)]
        for name in meant:
            if name is not None and str(name) not in series:
                raise UserError(f"expected one of the series {', '.join(series[:5])}, got {name!r}")
        for total in self.totals:
            if (total.last or total.first) > horizon:
                raise UserError(f"totals: expected steps of 1 to {horizon}, got {total.last or total.first}")
        for given in self.known:
            if len(given.values) > horizon:
                raise UserError(f"known: expected at most {horizon} values (the horizon), got {len(given.values)}")

    def over_series(self, series: Sequence[str]) -> bool:
        """Whether the hierarchy is one of series."""
        return bool(self.hierarchy) and set(self.hierarchy) <= set(series)


@dataclass(frozen=True, kw_only=True, eq=False)
class Future:
    """S series of V variables that are told of together; row 0 is the last known one, rows 1 to H the future.

    Attributes:
        series, variables: names.
        times: [S, 1 + H].
        last: [S, V] the last known row, NaN where nothing was measured.
        expected: [S, H, V], the mean of futures without rules.
    """

    series: tuple[str, ...]
    variables: tuple[str, ...]
    times: Floats
    last: Floats
    expected: Floats

    @property
    def horizon(self) -> int:
        """H."""
        return self.expected.shape[1]

    def __getitem__(self, chosen: Ints) -> Future:
        """Some of the series."""
        names = tuple(self.series[s] for s in chosen)
        return replace(
            self, series=names, times=self.times[chosen], last=self.last[chosen], expected=self.expected[chosen]
        )

    def cell(self, step: int, series: int, variable: int) -> int:
        """The number of a cell of [1 + H, S V]."""
        width = len(self.variables)
        return step * len(self.series) * width + series * width + variable


def whole(rules: ForecastRules) -> ForecastRules:
    """With bounds of whole variables moved inward to whole numbers."""
    bounds = dict(rules.bounds)
    for name in rules.integers:
        low, high = bounds.get(name, (None, None))
        bounds[name] = (None if low is None else float(np.ceil(low)), None if high is None else float(np.floor(high)))
    return ForecastRules.parse({**rules.model_dump(), "bounds": bounds}, "integers")


def amount(total: Total, rules: ForecastRules, future: Future, s: int) -> tuple[float, slice]:
    """What a total of series s comes to, and its steps.

    A factor that is meant of each series comes, of a series with parts, to what theirs add up to, since the expected
    values of series that are drawn apart do not; of a whole variable to the nearest whole number.
    """
    steps = slice(total.first - 1, total.last or future.horizon)
    if total.amount is not None:
        return total.amount, steps
    parts = rules.hierarchy.get(future.series[s], ()) if total.series is None else ()
    if parts and rules.over_series(future.series):
        return sum(amount(total, rules, future, future.series.index(part))[0] for part in parts), steps
    v = future.variables.index(total.variable)
    value = float(total.factor or 0.0) * float(future.expected[s, steps, v].sum())
    return float(round(value)) if total.variable in rules.integers else value, steps


def named(total: Total, value: float, steps: slice) -> str:
    """A total in words."""
    return f"{total.variable} of steps {steps.start + 1} to {steps.stop} == {value:g}"


def about(one: Total | Given, future: Future) -> list[int]:
    """The series that are meant."""
    return [s for s, name in enumerate(future.series) if one.series is None or str(one.series) == name]


def all_terms(rules: ForecastRules, future: Future) -> Iterator[Term]:
    """Every rule but that of whole numbers, over the cells of [1 + H, S V]."""
    width, count = len(future.variables), len(future.series)
    for s in range(count):
        present = np.ones((1 + future.horizon, width), dtype=bool)
        present[0] = ~np.isnan(future.last[s])
        for term in terms(rules, future.variables, future.times[s], present):
            places = [divmod(cell, width) for cell in term.cells]
            if any(step > 0 for step, _ in places):
                yield _moved(term, tuple(future.cell(step, s, v) for step, v in places), future, s)
    for given in rules.known:
        v = future.variables.index(given.variable)
        for s in about(given, future):
            for step, value in enumerate(given.values, 1):
                if value is not None:
                    rule = f"{given.variable} == {value:g} at step {step}"
                    cell = [future.cell(step, s, v)]
                    yield _moved(_equal(cell, [1.0], value, rule), cell, future, s)
    for total in rules.totals:
        v = future.variables.index(total.variable)
        for s in about(total, future):
            value, steps = amount(total, rules, future, s)
            cells = [future.cell(step + 1, s, v) for step in range(steps.start, steps.stop)]
            yield _moved(_equal(cells, [1.0] * len(cells), value, named(total, value, steps)), cells, future, s)
    for top, parts, columns in nodes(rules, future):
        rule = f"{top} == {' + '.join(parts)}"
        for step in range(1, 1 + future.horizon):
            cells = [step * count * width + column for column in columns]
            yield _equal(cells, [1.0, *[-1.0] * len(parts)], 0.0, rule)


def nodes(rules: ForecastRules, future: Future) -> Iterator[tuple[str, tuple[str, ...], list[int]]]:
    """Each total of the hierarchy, its parts, and the columns of both in [S V]."""
    width, count = len(future.variables), len(future.series)
    for top, parts in rules.hierarchy.items():
        if rules.over_series(future.series):
            places = [future.series.index(name) for name in (top, *parts)]
            for v in range(width):
                yield top, parts, [place * width + v for place in places]
        elif top in future.variables:
            places = [future.variables.index(name) for name in (top, *parts)]
            for s in range(count):
                yield top, parts, [s * width + place for place in places]


def _moved(term: Term, cells: Sequence[int], future: Future, s: int) -> Term:
    rule = term.rule if len(future.series) == 1 else f"{future.series[s]}: {term.rule}"
    return replace(term, cells=tuple(cells), rule=rule)


def _equal(cells: Sequence[int], coefficients: Sequence[float], bound: float, rule: str) -> Term:
    return Term(cells=tuple(cells), coefficients=tuple(coefficients), bound=bound, equality=True, rule=rule)
