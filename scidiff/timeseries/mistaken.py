"""Whole columns of a series that stand under a wrong name or in a wrong unit.

Columns a and b of a series are hidden whole, and drawn. The values x_a, x_b fit better when exchanged if

    gain = sum log f_b(x_a) + sum log f_a(x_b) - sum log f_a(x_a) - sum log f_b(x_b)  >  0,

and values in a wrong unit, x = c * truth, if  sum log f_a(x / c) - n log c - sum log f_a(x) > 0.  Values of one series
depend on each other, so that the gain's size says little: the same gain of each joint draw, taken for the data, tells
how large it is when nothing is wrong. And what is read otherwise has to fit as well as draws do, not
just less badly, and either column has to gain by a factor e a value.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from scidiff.timeseries.conditional import Conditional, Drawn, Window
from scidiff.timeseries.metrics import Bools, Floats, keyed_uniform
from scidiff.timeseries.panel import Ints
from scidiff.timeseries.tails import log_density, student

FACTORS = (0.001, 0.01, 0.1, 10.0, 100.0, 1000.0)
LEAST = 3  # values a column
LEAST_GAIN = 1.0  # of log likelihood, by each value of either column: columns that are much alike are not accused
GROUPS = 4  # of columns that are hidden together
_POOR = 1e-3  # of a right reading so few fit worse
_WORTH = 0.01  # a mistake less likely than this is taken for one while others are judged


@dataclass(frozen=True, kw_only=True)
class Mistake:
    """One thing that may be wrong with one or two columns of a window.

    Attributes:
        window: place in the list of windows.
        variable: the column.
        other: the column that it is exchanged with; None if it is in a wrong unit.
        factor: of the wrong unit; 1 if it is exchanged.
        p: probability of such a gain if nothing is wrong.
        gain: in log likelihood.
    """

    window: int
    variable: int
    other: int | None
    factor: float
    p: float
    gain: float

    @property
    def columns(self) -> frozenset[int]:
        """The columns that it accuses."""
        return frozenset((self.variable,) if self.other is None else (self.variable, self.other))


class Columns:
    """Columns of one window, drawn with all of themselves hidden.

    Args:
        conditional: the model.
        window: of the panel.
        groups: disjoint columns; those of a group are hidden together and drawn jointly.
        suspect: columns that no other is judged by.
    """

    def __init__(
        self, conditional: Conditional, window: Window, groups: Sequence[Ints], *, suspect: frozenset[int] = frozenset()
    ):
        self.window = window
        observed = window.observed
        self._drawn: dict[int, Drawn] = {}
        self._normal_draws: dict[int, Floats] = {}
        for group in groups:
            hidden = np.zeros_like(observed)
            hidden[:, group] = True
            visible = window.trusted & ~hidden
            visible[:, sorted(suspect)] = False
            drawn = conditional.draw(window, visible=visible, asked=hidden)
            self._drawn |= {int(v): drawn for v in group if np.isfinite(drawn.draws[:, :, v]).all()}
        self.variables = sorted(self._drawn)

    def draws(self, v: int) -> Floats:
        """[K, L] of a column."""
        return self._drawn[v].draws[:, :, v]

    def fit(self, v: int, x: Floats, at: Bools) -> Floats:
        """sum over the rows `at` of log f_v(x): x [..., L], at [..., L] -> [...]."""
        drawn, draws = self._drawn[v], self.draws(v)
        if v not in self._normal_draws:
            self._normal_draws[v] = self._normal(drawn, v, draws)
        step = 1e-4 * np.maximum(draws.std(0), 1e-12)
        middle, above, below = (self._normal(drawn, v, x + h) for h in (np.zeros_like(step), step, -step))
        density = log_density(self._normal_draws[v], middle) + np.log((above - below) / (2 * step))
        return np.asarray(np.where(at, density, 0).sum(-1))

    def _normal(self, drawn: Drawn, v: int, x: Floats) -> Floats:
        wide = np.broadcast_to(x[..., None], (*x.shape, self.window.values.shape[1]))
        return drawn.normal(wide)[..., v]


def mistaken(
    conditional: Conditional,
    windows: Sequence[Window],
    *,
    factors: Sequence[float] = FACTORS,
    groups: int = GROUPS,
    seed: int = 0,
) -> tuple[list[Mistake], int]:
    """What may be wrong with whole columns, where the wrong reading fits better; and how many readings were tried.

    Columns of fewer than three values are not tried.

    Args:
        conditional: the model.
        windows: of the panel.
        factors: of units, > 0.
        groups: a column is drawn with a part 1 / groups of the others hidden too.
        seed: of these parts.
    """
    found: list[Mistake] = []
    tried = 0
    for w, window in enumerate(windows):
        present = np.flatnonzero(window.observed.sum(0) >= LEAST)
        if not len(present):
            continue
        order = np.argsort(keyed_uniform(len(present), seed=seed + window.number, name="columns"))
        columns = Columns(conditional, window, np.array_split(present[order], min(groups, len(present))))
        count = len(columns.variables)
        tried += count * len(factors) + count * (count - 1) // 2
        possible = [_exchange(conditional, window, w, pair) for pair in _better_exchanged(columns)]
        possible += [_rescale(columns, w, v, factor) for v in columns.variables for factor in factors]
        found += _explained(conditional, window, [mistake for mistake in possible if mistake.gain > 0])
    return found, tried


def _better_exchanged(columns: Columns) -> list[tuple[int, int]]:
    """Pairs that seem to fit better when exchanged: a glance, as one of them may have been seen by the other."""
    observed, names = columns.window.observed, columns.variables
    if len(names) < 2:
        return []
    x, at = columns.window.values[:, names].T, observed[:, names].T
    fits = np.stack([columns.fit(v, x, at) for v in names], axis=1)  # [of which values, by which column]
    own = np.diag(fits)
    gain = fits + fits.T - own[:, None] - own
    return [(names[i], names[j]) for i, j in np.argwhere(np.triu(gain > 0, 1))]


def _explained(conditional: Conditional, window: Window, possible: list[Mistake]) -> list[Mistake]:
    """The mistake that explains most, then those of other columns, judged again without the columns it accuses."""
    found: list[Mistake] = []
    suspect: frozenset[int] = frozenset()
    while possible:
        first = max(possible, key=lambda mistake: (mistake.p <= _WORTH, mistake.gain))
        found.append(first)
        if first.p > _WORTH:
            return [*found, *(mistake for mistake in possible if mistake is not first)]
        suspect |= first.columns
        rest = [mistake for mistake in possible if not mistake.columns & suspect]
        again = [_again(conditional, window, mistake, suspect) for mistake in rest]
        possible = [mistake for mistake in again if mistake.gain > 0]
    return found


def _again(conditional: Conditional, window: Window, mistake: Mistake, suspect: frozenset[int]) -> Mistake:
    if mistake.other is not None:
        return _exchange(conditional, window, mistake.window, (mistake.variable, mistake.other), suspect=suspect)
    columns = Columns(conditional, window, [np.array([mistake.variable])], suspect=suspect)
    return _rescale(columns, mistake.window, mistake.variable, mistake.factor)


def _exchange(
    conditional: Conditional, window: Window, w: int, pair: tuple[int, int], *, suspect: frozenset[int] = frozenset()
) -> Mistake:
    """The exchange of two columns; its probability is exact by ranks, as both are hidden and drawn jointly."""
    a, b = pair
    columns = Columns(conditional, window, [np.array(pair)], suspect=suspect)

    at_a, at_b = window.observed[:, a], window.observed[:, b]

    def gains(x_a: Floats, x_b: Floats) -> tuple[Floats, Floats]:
        of_a = columns.fit(b, x_a, at_a) - columns.fit(a, x_a, at_a)
        of_b = columns.fit(a, x_b, at_b) - columns.fit(b, x_b, at_b)
        return of_a, of_b

    def right(x_a: Floats, x_b: Floats) -> Floats:
        return columns.fit(a, x_a, at_b) + columns.fit(b, x_b, at_a)

    x_a, x_b = window.values[:, a], window.values[:, b]
    of_a, of_b = map(float, gains(x_a, x_b))
    found, p = of_a + of_b, 1.0
    draws = columns.draws(a), columns.draws(b)
    worth = of_a >= LEAST_GAIN * at_a.sum() and of_b >= LEAST_GAIN * at_b.sum()
    if worth and _plausible(right(*draws), float(right(x_b, x_a))):
        p = upper_tail(sum(gains(*draws), start=np.zeros(())), found)
    else:
        found = 0.0
    return Mistake(window=w, variable=a, other=b, factor=1.0, p=p, gain=found)


def _rescale(columns: Columns, w: int, v: int, factor: float) -> Mistake:
    """A column in another unit."""
    at = columns.window.observed[:, v]

    def gain(x: Floats) -> Floats:
        return np.asarray(columns.fit(v, x / factor, at) - at.sum() * np.log(factor) - columns.fit(v, x, at))

    x, draws = columns.window.values[:, v], columns.draws(v)
    found, p = float(gain(x)), 1.0
    worth = found >= LEAST_GAIN * at.sum()
    if worth and _plausible(columns.fit(v, draws, at), float(columns.fit(v, x / factor, at))):
        p = upper_tail(gain(draws), found)
    else:
        found = 0.0
    return Mistake(window=w, variable=v, other=None, factor=factor, p=p, gain=found)


def _plausible(draws: Floats, fit: float) -> bool:
    """Whether values, put right, fit about as well as draws do: fitting less badly is no explanation."""
    return upper_tail(-draws, -fit) > _POOR


def upper_tail(draws: Floats, x: float) -> float:
    """Probability of at least x by K draws: (1 + number of them >= x) / (K + 1); beyond all, or by Student's t."""
    above = int((draws >= x).sum())
    p = (1 + above) / (len(draws) + 1)
    if above == 0:
        place, _ = student(draws, np.asarray(x))
        p = min(p, float(stats.t.sf(place, len(draws) - 1)))
    return max(p, float(np.finfo(np.float64).tiny))
