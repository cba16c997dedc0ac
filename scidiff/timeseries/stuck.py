"""Sensors that are stuck: runs of one value, longer than the variable and the series make believable.

    P(run of n values)  =  max( prod_{j < n}  max( P(|step_j| <= resolution / 2),  h_j ),  s_n )

The steps are those of joint draws of the run given its first value and all that is known outside of it. h_j is how
often runs of j values go on in the whole table, and s_n the share of the other series that have a run of n values of
the variable too, if it is no small one: variables that change little are not accused, nor are those that some series
have charted by copying, whose runs do not end by chance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from scidiff.timeseries.conditional import Conditional, Window
from scidiff.timeseries.metrics import Floats
from scidiff.timeseries.panel import Ints

LEAST = 3  # values a run worth asking the model about
_AT_RISK = 30  # runs that the rate of going on is estimated from
_HABIT, _SEVERAL = 0.05, 2  # a share of the other series, and their number, from which on long runs are no accident


@dataclass(frozen=True, kw_only=True, eq=False)
class Run:
    """A run of one value that is as long as can be.

    Attributes:
        window: place in the list of windows.
        variable: its number.
        rows: the window's rows that hold it.
        last: whether the series has no other value after it.
        p: probability of a run of at least this length.
    """

    window: int
    variable: int
    rows: Ints
    last: bool
    p: float = 1.0


def runs(windows: Sequence[Window]) -> list[Run]:
    """All runs of all windows, those of one value too; gaps between measurements do not end a run."""
    found = []
    for w, window in enumerate(windows):
        for v in range(window.values.shape[1]):
            rows = np.flatnonzero(window.observed[:, v])
            if not len(rows):
                continue
            parts = np.split(rows, np.flatnonzero(np.diff(window.values[rows, v]) != 0) + 1)
            found += [Run(window=w, variable=v, rows=part, last=part[-1] == rows[-1]) for part in parts]
    return found


def continuing(found: Sequence[Run]) -> Floats:
    """How often runs of 1, 2, ... values go on, of those that are followed by another value at all: [longest].

    Never less than of shorter runs, which alone tell where fewer than 30 do: a part of the series may be charted by
    copying, and the longer a run is, the likelier it is one of theirs.
    """
    length = np.array([len(run.rows) for run in found])
    last = np.array([run.last for run in found])
    sizes = np.arange(1, length.max() + 1)
    goes_on = (length[:, None] > sizes).sum(0)
    at_risk = goes_on + ((length[:, None] == sizes) & ~last[:, None]).sum(0)
    rate = goes_on / np.maximum(at_risk, 1)
    told = at_risk >= _AT_RISK
    told[0] = True
    return np.asarray(np.maximum.accumulate(np.where(told, rate, 0)))


def habit(found: Sequence[Run], windows: Sequence[Window]) -> Floats:
    """The share of the other series with a run as long, for runs of one variable: [N]; 0 if it is small."""
    longest: dict[int, int] = {}
    for run in found:
        series = windows[run.window].series
        longest[series] = max(longest.get(series, 0), len(run.rows))
    lengths = np.sort(list(longest.values()))
    as_long = len(lengths) - np.searchsorted(lengths, [len(run.rows) for run in found])
    others = as_long - 1  # every series has a run as long as its own
    share = others / max(len(lengths) - 1, 1)
    return np.asarray(np.where((share >= _HABIT) & (others >= _SEVERAL), share, 0.0))


def resolution(windows: Sequence[Window], variable: int) -> float:
    """The smallest distance of two different values of a variable; 0 if there are no two."""
    values = np.unique(np.concatenate([w.values[:, variable] for w in windows]))
    gaps = np.diff(values[np.isfinite(values)])
    return float(gaps.min()) if len(gaps) else 0.0


def step_probabilities(conditional: Conditional, window: Window, run: Run, *, width: float) -> Floats:
    """P(|step| <= width / 2) of each step of a run of n values under the model: [n - 1]."""
    v, rows = run.variable, run.rows
    asked = np.zeros(window.values.shape, dtype=bool)
    asked[rows[1:], v] = True
    draws = conditional.draw(window, visible=window.trusted & ~asked, asked=asked).draws[:, rows[1:], v]
    first = np.full((len(draws), 1), window.values[rows[0], v])
    step = np.diff(np.concatenate([first, draws], axis=1), axis=1)
    mean, std = step.mean(0), np.maximum(step.std(0, ddof=1), np.finfo(np.float64).tiny)
    return np.asarray(stats.norm.cdf((width / 2 - mean) / std) - stats.norm.cdf((-width / 2 - mean) / std))


def stuck(conditional: Conditional, windows: Sequence[Window]) -> list[Run]:
    """All runs with their probabilities; 1 for those too short, and of variables that the model does not know."""
    found = runs(windows)
    by_variable: dict[int, list[Run]] = {}
    for run in found:
        by_variable.setdefault(run.variable, []).append(run)
    out = []
    for v, some in by_variable.items():
        rate, width = continuing(some), resolution(windows, v)
        for run, share in zip(some, habit(some, windows), strict=True):
            p = 1.0
            held = rate[: len(run.rows) - 1]
            # the table's own rate bounds p from below: no need to ask the model if that is no accusation
            if len(run.rows) >= LEAST and max(np.prod(held), share) < 0.05:
                steps = step_probabilities(conditional, windows[run.window], run, width=width)
                p = max(float(np.prod(np.maximum(steps, held))), share) if np.isfinite(steps).all() else 1.0
            out.append(Run(window=run.window, variable=v, rows=run.rows, last=run.last, p=p))
    return out
