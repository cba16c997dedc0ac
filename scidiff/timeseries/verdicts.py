"""Whether finished draws keep the rules of a table: an oracle that knows nothing of how they were made.

It reads the numbers as they are handed out, rule by rule, over whole series: also where two windows meet. What observed
values break among themselves is counted apart, since no draw can mend it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np

from scidiff.timeseries.grid import Grid
from scidiff.timeseries.metrics import Bools, Floats
from scidiff.timeseries.panel import Ints, Panel
from scidiff.timeseries.rules import Rules

ROUNDING = 128 * np.finfo(np.float64).eps
_NAMED = 3  # series that are told of


@dataclass(kw_only=True)
class Verdict:
    """What became of one rule.

    Attributes:
        places: that it speaks of, with a drawn value among them, in all series.
        draws: of a series, that break it somewhere.
        worst: the greatest violation by a draw, in the units of the table.
        series: the first that have such draws.
        observed: places where observed values break it among themselves.
        observed_at: the first such places, `SERIES at TIME`.
    """

    places: int = 0
    draws: int = 0
    worst: float = 0.0
    series: list[str] = field(default_factory=list)
    observed: int = 0
    observed_at: list[str] = field(default_factory=list)

    def __add__(self, later: Verdict) -> Verdict:
        """On the same rule in some series and in later ones."""
        return Verdict(
            places=self.places + later.places,
            draws=self.draws + later.draws,
            worst=max(self.worst, later.worst),
            series=[*self.series, *later.series][:_NAMED],
            observed=self.observed + later.observed,
            observed_at=[*self.observed_at, *later.observed_at][:_NAMED],
        )


Excess = tuple[str, Ints, Floats, Bools, Floats]
"""A rule; P cells that it speaks of, the later one of a step; how far they are beyond it [K, P]; which hold a drawn
value [P]; the size of the numbers there [K, P]."""


class Certifier:
    """Collects the draws of windows and judges each series when its last window is there.

    Args:
        rules: checked against the panel's variables.
        panel, grid: what is imputed.
    """

    def __init__(self, rules: Rules, panel: Panel, grid: Grid) -> None:
        self.rules, self.panel, self.grid = rules, panel, grid
        self.verdicts: dict[str, Verdict] = {}
        self.series = 0
        self.draws = 0
        self._windows: list[Floats] = []

    def add(self, number: int, draws: Floats) -> None:
        """Take the draws [K, L, V] of the next window of L cells; NaN where nothing was asked."""
        self._windows.append(draws)
        series = int(self.grid.series[number])
        if number + 1 == len(self.grid) or int(self.grid.series[number + 1]) != series:
            self._judge(series, number + 1 - len(self._windows))
            self._windows = []

    def add_earlier(self, other: Certifier) -> None:
        """Take the verdicts on earlier series of the same table over."""
        names = dict.fromkeys((*other.verdicts, *self.verdicts))
        self.verdicts = {
            rule: other.verdicts.get(rule, Verdict()) + self.verdicts.get(rule, Verdict()) for rule in names
        }
        self.series += other.series
        self.draws += other.draws

    def as_dict(self) -> dict[str, dict[str, object]]:
        """The verdicts as plain values."""
        return {rule: dict(vars(verdict)) for rule, verdict in self.verdicts.items()}

    def summary(self) -> str:
        """What came of it, on one line."""
        broken = {rule: one for rule, one in self.verdicts.items() if one.draws}
        text = f"{len(self.verdicts)} rules checked on {self.draws:,} draws of {self.series:,} series: "
        if not broken:
            text += "all hold"
        else:
            text += "; ".join(
                f"{rule} broken by {one.draws:,} draws, by at most {one.worst:.3g} (series {', '.join(one.series)})"
                for rule, one in broken.items()
            )
        observed = [
            f"{rule} {one.observed:,} times (series {', '.join(one.observed_at)}{', ...' * (one.observed > _NAMED)})"
            for rule, one in self.verdicts.items()
            if one.observed
        ]
        return text + ("; observed values themselves break " + ", ".join(observed) if observed else "")

    def _judge(self, series: int, first: int) -> None:
        grid = self.grid
        cells = slice(int(grid.cell_offsets[series]), int(grid.cell_offsets[series + 1]))
        window, place = np.divmod(grid.owner[cells], grid.values.shape[1])
        drawn = np.stack([self._windows[w - first][:, p] for w, p in zip(window, place, strict=True)], axis=1)
        seen = grid.mask[window, place]
        values = np.where(seen, grid.values[window, place].astype(np.float64), drawn)
        self.series += 1
        self.draws += len(values)
        time = grid.cell_time[cells]
        for rule, at, excess, made, size in excesses(self.rules, self.panel.variables, time, values, seen):
            verdict = self.verdicts.setdefault(rule, Verdict())
            over = np.where(excess > ROUNDING * size, excess, 0.0)
            verdict.places += int(made.sum())
            contradicted = at[~made & (over[0] > 0)]
            verdict.observed += len(contradicted)
            for stamp in self.panel.clock.back(time[contradicted[: _NAMED - len(verdict.observed_at)]]):
                verdict.observed_at.append(f"{self.panel.ids[series]} at {stamp}")
            broken = (over[:, made] > 0).any(1)
            if broken.any():
                verdict.draws += int(broken.sum())
                verdict.worst = max(verdict.worst, float(over[:, made].max()))
                if len(verdict.series) < _NAMED:
                    verdict.series.append(str(self.panel.ids[series]))


def excesses(rules: Rules, variables: Sequence[str], time: Floats, values: Floats, seen: Bools) -> Iterator[Excess]:
    """Of one series: values [K, C, V] at times [C], NaN where there is none, of which `seen` [C, V] were observed."""
    column = {name: v for v, name in enumerate(variables)}
    there = ~np.isnan(values[0])

    def at(rows: Ints, *names: str) -> tuple[list[Floats], Bools]:
        """The values of variables in some rows, and whether one of them was drawn."""
        places = [column[name] for name in names]
        return [values[:, rows, v] for v in places], np.any(~seen[rows][:, places], axis=1)

    for name, (low, high) in rules.bounds.items():
        rows = np.flatnonzero(there[:, column[name]])
        (x,), made = at(rows, name)
        if low is not None:
            yield f"{name} >= {low:g}", rows, low - x, made, np.zeros_like(x)
        if high is not None:
            yield f"{name} <= {high:g}", rows, x - high, made, np.zeros_like(x)
    for chain in rules.order:
        for first, second in combinations(chain, 2):
            rows = np.flatnonzero(there[:, column[first]] & there[:, column[second]])
            (a, b), made = at(rows, first, second)
            yield f"{first} <= {second}", rows, a - b, made, np.abs(a) + np.abs(b)
    for one in rules.sums:
        names = (one.total, *one.parts)
        rows = np.flatnonzero(there[:, [column[name] for name in names]].all(1))
        (total, *parts), made = at(rows, *names)
        size = np.abs(total) + sum(np.abs(part) for part in parts)
        yield f"{one.total} == {' + '.join(one.parts)}", rows, np.abs(total - sum(parts)), made, size
    yield from _excesses_of_steps(rules, column, time, values, seen)


def _excesses_of_steps(
    rules: Rules, column: dict[str, int], time: Floats, values: Floats, seen: Bools
) -> Iterator[Excess]:
    """Of the rules from row to row."""
    for name in dict.fromkeys((*rules.rates, *rules.monotone)):
        v = column[name]
        rows = np.flatnonzero(~np.isnan(values[0, :, v]))
        before, after = values[:, rows[:-1], v], values[:, rows[1:], v]
        made, size = ~(seen[rows[:-1], v] & seen[rows[1:], v]), np.abs(before) + np.abs(after)
        if name in rules.rates:
            rate = rules.rates[name]
            most = rate.change * np.diff(time[rows]) / rate.per
            text = f"{name} changes by at most {rate.change:g} in {rate.per:g}"
            yield text, rows[1:], np.abs(after - before) - most, made, size + most
        if name in rules.monotone:
            fall = before - after if rules.monotone[name] == "increasing" else after - before
            yield f"{name} {rules.monotone[name]}", rows[1:], fall, made, size
