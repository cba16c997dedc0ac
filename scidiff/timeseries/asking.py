"""Observed values hidden, drawn, and kept beside what they were: what checks and calibration are made of.

Where a model was trained on the table, the series it was not trained on are asked; elsewhere some of all. Calibration
and its check ask different series.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from scidiff.timeseries.filling import Request
from scidiff.timeseries.impute import Imputation
from scidiff.timeseries.learn import Learned, make_grid
from scidiff.timeseries.metrics import Bools, Floats, keyed_uniform
from scidiff.timeseries.panel import Ints, Panel
from scidiff.timeseries.standardise import scale

WINDOWS = 24  # at most, that are asked
_LEAST = 8
_HIDDEN = 0.2

Half = Literal["first", "second"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Told:
    """N values that were hidden, in the user's units.

    Attributes:
        draws: [K, N].
        x: [N], what they were.
        line: [N], what linear interpolation of the visible ones makes of them.
        variable, series: [N], numbers in the panel.
        windows: that were asked.
    """

    draws: Floats
    x: Floats
    line: Floats
    variable: Ints
    series: Ints
    windows: int


def ask(
    panel: Panel,
    learned: Learned,
    request: Request,
    *,
    half: Half | None = None,
    most: int = WINDOWS,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Told | None:
    """Hide a part of what was observed and draw it; None if there is nothing to hide.

    Args:
        panel: the table.
        learned: its model.
        request: draws, seed, steps and rules.
        half: of the series, in a random order, to ask; None for all.
        most: windows.
        progress: told of windows that are done, and of their number.
    """
    grid = make_grid(panel, step=request.step, window=learned.window)
    job = Imputation(
        model=learned.model,
        panel=panel,
        grid=grid,
        translation=learned.translation,
        draws=request.draws,
        seed=request.seed,
        steps=request.steps,
        rules=request.rules,
    )
    asked = _asked(job, learned, request.seed, half, most)
    known = np.zeros(len(panel.variables), dtype=bool)
    known[learned.translation.here] = True
    parts: list[tuple[Floats, Floats, Floats, Ints, Ints]] = []
    for k, (number, hidden) in enumerate(asked):
        progress(k, len(asked))
        cell = hidden & known
        if not cell.any():
            continue
        values = grid.values[number, : len(hidden)].astype(np.float64)
        line = _interpolated(np.where(hidden, np.nan, values), grid.time[number, : len(hidden)], panel)
        drawn = job.window(number, hidden=hidden)
        series = np.full(int(cell.sum()), int(grid.series[number]))
        parts.append((drawn[:, cell], values[cell], line[cell], np.nonzero(cell)[1], series))
    progress(len(asked), len(asked))
    if not parts:
        return None
    draws, x, line, variable, series = (np.concatenate(part, axis=-1) for part in zip(*parts, strict=True))
    windows = len({number for number, hidden in asked if hidden.any()})
    return Told(draws=draws, x=x, line=line, variable=variable, series=series, windows=windows)


def _asked(job: Imputation, learned: Learned, seed: int, half: Half | None, most: int) -> list[tuple[int, Bools]]:
    """Windows, and which of their observed cells are hidden: [length, V] each. Few windows are asked several times."""
    grid, held = job.grid, learned.holdout
    if held is not None and held.unit == "values":
        if half is not None:
            return []
        asked = []
        for number, mask in zip(held.number.tolist()[:most], held.asked.numpy(), strict=False):
            cells = np.zeros(grid.mask.shape[1:], dtype=bool)
            cells[:, learned.translation.here] = mask[:, learned.translation.there]
            asked.append((number, (cells & grid.mask[number])[: grid.length[number]]))
        return asked
    usable = np.flatnonzero(grid.mask.sum((1, 2)) >= 2) if held is None else np.unique(held.number.numpy())
    if half is not None:
        rank = np.argsort(np.argsort(keyed_uniform(len(job.panel), seed=seed, name="halves"), kind="stable"))
        usable = usable[(rank[grid.series[usable]] % 2 == 0) == (half == "first")]
    order = np.argsort(keyed_uniform(len(usable), seed=seed, name="windows"), kind="stable")
    chosen = np.tile(np.sort(usable[order[:most]]), max(1, _LEAST // max(len(usable), 1)))
    coin = keyed_uniform(len(chosen), seed=seed, name="hidden", shape=grid.mask.shape[1:])
    return [(int(n), (grid.mask[n] & (coin[k] < _HIDDEN))[: grid.length[n]]) for k, n in enumerate(chosen)]


def _interpolated(values: Floats, time: Floats, panel: Panel) -> Floats:
    """Linear interpolation of what is visible, the mean of the table where nothing is: [L, V]."""
    mean = scale(panel.value)[0]
    out = np.tile(mean, (len(values), 1))
    for v in range(values.shape[1]):
        seen = ~np.isnan(values[:, v])
        if seen.any():
            out[:, v] = np.interp(time, time[seen], values[seen, v])
    return out
