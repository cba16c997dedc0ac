"""Values that cannot be believed: by themselves, in runs, or as whole columns.

Each observed value is hidden once and judged by what the model draws for it given the others (`tails.two_sided`). Three
checks, each with its own Benjamini-Hochberg threshold:

    value      far in the tail of its conditional distribution: typing and unit mistakes of single values
    stuck      runs of one value that are improbably long                                        (`stuck`)
    column     all values of a variable in a series under another's name, or in another unit      (`mistaken`)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch

from scidiff.errors import UserError
from scidiff.noise import Noise
from scidiff.state import Layout
from scidiff.timeseries.columns import Options
from scidiff.timeseries.conditional import Conditional, ImputerConditional, Window, windows
from scidiff.timeseries.frames import read_frame
from scidiff.timeseries.grid import Grid, irregular, regular
from scidiff.timeseries.metrics import Bools, Floats
from scidiff.timeseries.mistaken import FACTORS, Mistake, mistaken
from scidiff.timeseries.model import ImputerModel
from scidiff.timeseries.panel import Panel
from scidiff.timeseries.readers import read_panel
from scidiff.timeseries.stuck import Run, stuck
from scidiff.timeseries.tails import benjamini_hochberg, two_sided

Check = Literal["value", "stuck", "column"]
CHECKS: tuple[Check, ...] = ("value", "stuck", "column")
Progress = Callable[[str, int, int], None]
_WINDOW = 96  # rows that are judged together
_OVERLAP = 24


@dataclass(frozen=True, kw_only=True, eq=False)
class _Scores:
    """[W, L, V] each: tail probability, and median and 5-95 % of what was expected; NaN where nothing was observed."""

    p: Floats
    expected: Floats
    low: Floats
    high: Floats


def detect(
    model: ImputerModel | Conditional,
    table: Panel | pd.DataFrame | str | Path,
    *,
    options: Options | None = None,
    step: float | None = None,
    checks: Sequence[Check] = CHECKS,
    rate: float = 0.05,
    folds: int = 5,
    draws: int = 50,
    factors: Sequence[float] = FACTORS,
    seed: int = 0,
    progress: Progress = lambda what, done, total: None,
) -> pd.DataFrame:
    """Judge every observed value of a table.

    Args:
        model: an imputation model, or another conditional distribution of the table's variables.
        table: a panel, a DataFrame, or a file.
        options: what the user says about the table.
        step: width of a cell of a regular grid, in the panel's unit of time: measurements in one cell are judged by
            their mean. Default: the times as they are.
        checks: which to make.
        rate: of false discoveries that is allowed in each check, in (0, 1).
        folds: cells of a series are hidden in so many parts, >= 2.
        draws: of each value, >= 2. Ignored for a `Conditional`, which has its own.
        factors: of wrong units, for whole columns.
        seed: of folds and draws.
        progress: told what is being judged, how many windows are done, and their number.

    Returns:
        One row an observed value, in the panel's order: columns `series`, `time` (number, in the panel's unit),
        `variable`, `value`; `expected`, `low`, `high` (median and 5-95 % given the others); `p`, its tail probability,
        `q`, `q_stuck`, `q_column`, adjusted for the number of tests (1 where a check found nothing to accuse);
        `flagged`, whether one of these is <= rate; `reason`, in words. NaN in `p` where the model does not know.

    Raises:
        UserError: a table that cannot be read, or options out of range.
    """
    if not 0 < rate < 1 or folds < 2 or draws < 2 or not set(checks) <= set(CHECKS) or min(factors, default=1) <= 0:
        raise UserError(
            f"expected rate in (0, 1), folds and draws >= 2, factors > 0 and checks among {', '.join(CHECKS)}, "
            f"got rate {rate:g}, folds {folds}, draws {draws}, factors {list(factors)}, checks {list(checks)}"
        )
    panel = _panel(table, options)
    if step is None:
        grid = irregular(panel, window=_WINDOW, overlap=_OVERLAP)
    else:
        grid = regular(panel, step=step, window=_WINDOW, overlap=_OVERLAP)
    conditional = model
    if isinstance(conditional, ImputerModel):
        conditional = ImputerConditional(conditional, panel, draws=draws, seed=seed, step=step)
    if tuple(conditional.variables) != panel.variables:
        raise UserError(f"expected a model of {panel.variables}, got one of {tuple(conditional.variables)}")
    judge = _Judge(conditional=conditional, grid=grid, folds=folds, seed=seed, progress=progress)
    return _table(panel, grid, _flags(judge, panel, checks=checks, rate=rate, factors=factors), rate)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Judge:
    """Scores the values of all windows, each given others that are trusted."""

    conditional: Conditional
    grid: Grid
    folds: int
    seed: int
    progress: Progress

    def scores(self, found: Sequence[Window], what: str) -> _Scores:
        scores = _Scores(**{name: np.full(self.grid.mask.shape, np.nan) for name in ("p", "expected", "low", "high")})
        for k, window in enumerate(found):
            self.progress(what, k, len(found))
            _score(self.conditional, window, scores, folds=self.folds, seed=self.seed)
        return scores


def _flags(
    judge: _Judge, panel: Panel, *, checks: Sequence[Check], rate: float, factors: Sequence[float]
) -> dict[str, Any]:
    """What each check says of every cell; first who stands out, so that it leads nobody else astray."""
    grid, shape = judge.grid, judge.grid.mask.shape
    found = windows(grid)
    first = _adjusted(grid, judge.scores(found, "first look").p) <= rate
    found = _with_suspects(found, first)
    flags: dict[str, Any] = {}
    judge.progress("runs of one value", 0, 1)
    flags["stuck"] = _stuck(stuck(judge.conditional, found), shape) if "stuck" in checks else np.ones(shape)
    judge.progress("whole columns", 0, 1)
    wrong = mistaken(judge.conditional, found, factors=factors, seed=judge.seed) if "column" in checks else ([], 0)
    flags["column"], flags["words"] = _columns(wrong, panel, shape)
    found = _with_suspects(found, first | (np.minimum(flags["stuck"], flags["column"]) <= rate))
    scores = flags["scores"] = judge.scores(found, "every value")
    flags["value"] = _adjusted(grid, scores.p) if "value" in checks else np.ones(shape)
    return flags


def _panel(table: Panel | pd.DataFrame | str | Path, options: Options | None) -> Panel:
    if isinstance(table, Panel):
        return table
    return read_frame(table, options) if isinstance(table, pd.DataFrame) else read_panel(table, options)


def _with_suspects(found: Sequence[Window], suspect: Bools) -> list[Window]:
    """Windows in which the values under a mask [W, L, V] are suspect."""
    return [replace(window, suspect=suspect[_place(window)]) for window in found]


def _place(window: Window) -> tuple[int, slice]:
    """Where a window stands in [W, L, ...]."""
    return window.number, slice(len(window.time))


def _score(conditional: Conditional, window: Window, scores: _Scores, *, folds: int, seed: int) -> None:
    """Judge every value of a window while it is hidden, given those that are neither hidden nor suspect."""
    rows = Layout.dense(1, {"fold": window.values.shape}).rows("fold")
    coin = Noise(seed=seed, index=torch.tensor([window.number])).at("fold", 0, rows).uniform()[0].numpy()
    fold = (coin * folds).astype(np.int64)
    here = _place(window)
    for f in range(folds):
        hidden = window.observed & (fold == f)
        if not hidden.any():
            continue
        drawn = conditional.draw(window, visible=window.trusted & ~hidden, asked=hidden)
        known = hidden & np.isfinite(drawn.draws).all(0)
        low, middle, high = np.quantile(drawn.draws[:, known], [0.05, 0.5, 0.95], axis=0)
        p = two_sided(drawn.normal(drawn.draws)[:, known], drawn.normal(window.values)[known])
        for dense, each in ((scores.p, p), (scores.expected, middle), (scores.low, low), (scores.high, high)):
            dense[here][known] = each


def _adjusted(grid: Grid, p: Floats) -> Floats:
    """Benjamini-Hochberg over the cells of a grid, of overlapping windows the owner's: [W, L, V]."""
    owned = np.zeros(p.shape[0] * p.shape[1], dtype=bool)
    owned[grid.owner] = True
    owned = owned.reshape(p.shape[:2])
    q = np.full(p.shape, np.nan)
    q[owned] = benjamini_hochberg(p[owned].ravel()).reshape(-1, p.shape[2])
    return q


def _stuck(found: Sequence[Run], shape: tuple[int, ...]) -> Floats:
    """Adjusted p-values of the run that each value is in: [W, L, V]."""
    dense = np.ones(shape)
    for run, q in zip(found, benjamini_hochberg([run.p for run in found]), strict=True):
        dense[run.window, run.rows, run.variable] = q
    return dense


def _columns(possible: tuple[list[Mistake], int], panel: Panel, shape: tuple[int, ...]) -> tuple[Floats, Any]:
    """The smallest adjusted p-value of each column [W, L, V], and what it accuses the column of [W, V]."""
    dense, words = np.ones(shape), np.full((shape[0], shape[2]), "", dtype=object)
    found, tried = possible
    adjusted = benjamini_hochberg([mistake.p for mistake in found], tests=tried)
    for mistake, q in sorted(zip(found, adjusted, strict=True), key=lambda pair: (pair[1], -pair[0].gain)):
        if mistake.other is None:
            sides = [(mistake.variable, f"column in another unit, factor {mistake.factor:g}")]
        else:
            a, b = mistake.variable, mistake.other
            sides = [(v, f"column exchanged with {panel.variables[o]}") for v, o in ((a, b), (b, a))]
        if not any(words[mistake.window, v] for v, _ in sides):  # the best explanation of a column stands
            for v, text in sides:
                dense[mistake.window, :, v], words[mistake.window, v] = q, text
    return dense, words


def _table(panel: Panel, grid: Grid, flags: dict[str, Any], rate: float) -> pd.DataFrame:
    row, variable = np.nonzero(panel.observed)
    scores: _Scores = flags["scores"]

    def at(dense: Floats) -> Floats:
        return np.asarray(grid.rows(dense)[row, variable], dtype=np.float64)

    table = pd.DataFrame(
        {
            "series": np.asarray(panel.ids)[panel.series[row]],
            "time": panel.time[row],
            "variable": np.asarray(panel.variables, dtype=object)[variable],
            "value": panel.value[row, variable],
            "expected": at(scores.expected),
            "low": at(scores.low),
            "high": at(scores.high),
            "p": at(scores.p),
            "q": at(flags["value"]),
            "q_stuck": at(flags["stuck"]),
            "q_column": at(flags["column"]),
        }
    )
    words = np.repeat(flags["words"][:, None], grid.mask.shape[1], axis=1)
    said = words.reshape(-1, words.shape[2])[grid.owner][grid.row_cell[row], variable]
    reasons = np.array(
        [
            np.where(table["q"] <= rate, "far from what the others say", ""),
            np.where(table["q_stuck"] <= rate, "stuck", ""),
            np.where(table["q_column"] <= rate, said, ""),
        ],
        dtype=object,
    )
    table["flagged"] = (reasons != "").any(0)
    table["reason"] = ["; ".join(filter(None, three)) for three in reasons.T]
    return table
