"""A panel as dense arrays for a network: on a regular grid, or at its own irregular times, in windows.

    cell = floor((time - origin) / step)

A cell is one place of one series: a step of the grid, or one row of the panel if times are kept. Windows are runs of
cells, padded to one length; every cell is owned by one window, the one in which it stands farthest from an edge.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from scidiff.errors import UserError
from scidiff.timeseries.panel import Collapse, Floats, Ints, Panel, collapse

MOST_CELLS = 200_000_000  # cells times variables; beyond it the step is surely in the wrong unit
Array = npt.NDArray[Any]


@dataclass(frozen=True, kw_only=True, eq=False)
class Grid:
    """Windows of a panel: W windows of L cells of V variables.

    Attributes:
        values: [W, L, V] in the user's units; NaN where nothing was measured, and beyond a window's length.
        mask: [W, L, V] where something was measured.
        time: [W, L] time of each cell: when it begins on a grid, else when it was measured. Beyond a window's length
            the grid goes on; irregular times repeat the last.
        length: [W] cells of each window that are real.
        series: [W] the series that a window is of.
        start: [W] which of its series' cells a window begins with.
        step: width of a cell in the panel's unit of time; None if times are the panel's own.
        cell_offsets: [S + 1] series s has the cells cell_offsets[s] to cell_offsets[s + 1], of C in all.
        cell_time: [C].
        row_cell: [R] the cell that each row of the panel belongs to; -1 for rows outside the grid.
        owner: [C] the place of each cell in [W, L], flattened.
    """

    values: Array
    mask: npt.NDArray[np.bool_]
    time: Floats
    length: Ints
    series: Ints
    start: Ints
    step: float | None
    cell_offsets: Ints
    cell_time: Floats
    row_cell: Ints
    owner: Ints

    def __len__(self) -> int:
        return len(self.series)

    @property
    def real(self) -> npt.NDArray[np.bool_]:
        """[W, L] where a window has a cell, and not padding."""
        return np.arange(self.values.shape[1]) < self.length[:, None]

    @property
    def cell_series(self) -> Ints:
        """[C] the series of each cell."""
        return np.repeat(np.arange(len(self.cell_offsets) - 1), np.diff(self.cell_offsets))

    def cells(self, dense: Array) -> Array:
        """One number a cell from windows: [W, L, ...] -> [C, ...]; of overlapping windows the owner's."""
        if dense.shape[:2] != self.mask.shape[:2]:
            raise ValueError(f"expected windows {self.mask.shape[:2]}, got {dense.shape[:2]}")
        return dense.reshape(-1, *dense.shape[2:])[self.owner]

    def rows(self, dense: Array) -> Array:
        """One number a row of the panel from windows: [W, L, ...] -> [R, ...]; NaN for rows outside the grid."""
        found = self.cells(dense)[self.row_cell]
        outside = self.row_cell < 0
        if outside.any():
            found = np.where(outside.reshape(-1, *[1] * (found.ndim - 1)), np.nan, found)
        return found


def regular(
    panel: Panel,
    *,
    step: float,
    start: float | None = None,
    end: float | None = None,
    how: Collapse = "mean",
    window: int | None = None,
    overlap: int = 0,
    dtype: npt.DTypeLike = np.float64,
) -> Grid:
    """A panel on a regular grid.

    Args:
        panel: R rows.
        step: width of a cell, in the panel's unit of time (seconds for dates), > 0.
        start, end: the grid of every series is [start, end) and rows outside it are left out. Default: each series has
            its own, from its first row to its last; cells begin at multiples of the step after 0 or midnight, or at the
            rows' own times if those are regular.
        how: what several measurements in one cell become.
        window: most cells in a window, >= 1. Default: as many as the longest series has.
        overlap: cells that neighbouring windows of one series share, in 0 to window - 1.
        dtype: of the values.

    Raises:
        UserError: a step that is not positive, or so small that the grid is absurdly large.
    """
    if not (step > 0 and np.isfinite(step)):
        raise UserError(f"step: expected a number > 0, got {step:g}")
    origin = _origin(panel, step) if start is None else float(start)
    number = np.floor((panel.time - origin) / step + 1e-9)
    if start is None:
        first = number[panel.offsets[:-1]]
        last = number[panel.offsets[1:] - 1]
    else:
        first = np.zeros(len(panel))
        last = first - 1 + (number.max() + 1 if end is None else np.ceil((end - origin) / step - 1e-9))
    if end is not None:
        last = np.minimum(last, np.ceil((end - origin) / step - 1e-9) - 1)
    count = np.maximum(last - first + 1, 1)
    _check_size(float(count.sum()), panel, step)
    counts = count.astype(np.int64)
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    series = panel.series
    inside = (number >= first[series]) & (number <= last[series])
    row_cell = np.where(inside, offsets[:-1][series] + (number - first[series]).astype(np.int64), -1)
    place = np.repeat(first - offsets[:-1], counts) + np.arange(offsets[-1])
    return _windows(
        panel,
        offsets=offsets,
        cell_time=np.asarray(origin + place * step, dtype=np.float64),
        cell_value=_cell_values(panel, row_cell, int(offsets[-1]), how),
        row_cell=row_cell,
        step=float(step),
        window=window,
        overlap=overlap,
        dtype=dtype,
    )


def irregular(panel: Panel, *, window: int | None = None, overlap: int = 0, dtype: npt.DTypeLike = np.float64) -> Grid:
    """A panel at its own times: each row is a cell. Arguments as for `regular`."""
    return _windows(
        panel,
        offsets=panel.offsets,
        cell_time=panel.time,
        cell_value=panel.value,
        row_cell=np.arange(len(panel.time)),
        step=None,
        window=window,
        overlap=overlap,
        dtype=dtype,
    )


def _origin(panel: Panel, step: float) -> float:
    """Where cells are counted from: the rows' own phase if they share one, else 0 or midnight."""
    origin = panel.clock.origin(float(panel.time.min()))
    phase = np.mod(panel.time - origin, step)
    shared = float(phase[0])
    off = np.abs(phase - shared)
    return origin + shared if bool(np.all(np.minimum(off, step - off) < 1e-6 * step)) else origin


def _check_size(cells: float, panel: Panel, step: float) -> None:
    if cells * len(panel.variables) > MOST_CELLS:
        unit = panel.clock.unit or "the unit of the times"
        span = float(panel.time.max() - panel.time.min())
        raise UserError(
            f"step: expected a grid of at most {MOST_CELLS:,} values, got {cells:,.0f} cells of "
            f"{len(panel.variables)} variables from a step of {step:g} over {span:g}: give the step in {unit}"
        )


def _cell_values(panel: Panel, row_cell: Ints, cells: int, how: Collapse) -> Floats:
    """[C, V]: the measurements in each cell, collapsed."""
    width = len(panel.variables)
    row, variable = np.nonzero(panel.observed & (row_cell >= 0)[:, None])
    place = row_cell[row] * width + variable
    return collapse(place, panel.value[row, variable], cells * width, how).reshape(cells, width)


def _windows(
    panel: Panel,
    *,
    offsets: Ints,
    cell_time: Floats,
    cell_value: Floats,
    row_cell: Ints,
    step: float | None,
    window: int | None,
    overlap: int,
    dtype: npt.DTypeLike,
) -> Grid:
    """Cells [C, V] cut into padded windows [W, L, V]."""
    count = np.diff(offsets)
    size = int(count.max()) if window is None else min(window, int(count.max()))
    if window is not None and window < 1:
        raise UserError(f"window: expected a whole number >= 1, got {window}")
    if not 0 <= overlap < max(window or size, 1):
        raise UserError(f"overlap: expected 0 to {(window or size) - 1}, got {overlap}")
    stride = max(size - overlap, 1)
    beyond = np.maximum(count - size, 0)
    windows = 1 + -(-beyond // stride)
    series = np.repeat(np.arange(len(count)), windows)
    nth = np.arange(len(series)) - np.repeat(np.cumsum(windows) - windows, windows)
    start = np.minimum(nth * stride, beyond[series])
    length = np.minimum(count[series], size)
    owner = _owners(offsets=offsets, series=series, start=start, length=length, size=size)

    place = np.arange(size)
    real = place < length[:, None]
    cell = (offsets[:-1][series] + start)[:, None] + np.minimum(place, length[:, None] - 1)
    values = cell_value.astype(dtype, copy=False)[cell]
    values[~real] = np.nan
    time = cell_time[cell]
    if step is not None:
        time = time[:, :1] + step * place
    return Grid(
        values=values,
        mask=~np.isnan(values),
        time=time,
        length=length,
        series=series,
        start=start,
        step=step,
        cell_offsets=offsets,
        cell_time=cell_time,
        row_cell=row_cell,
        owner=owner,
    )


def _owners(*, offsets: Ints, series: Ints, start: Ints, length: Ints, size: int) -> Ints:
    """The place in [W, L], flattened, that each cell is read from: neighbours share their overlap half and half."""
    low = np.zeros(len(series), dtype=np.int64)
    same = series[1:] == series[:-1]
    low[1:] = np.where(same, (start[1:] + start[:-1] + length[:-1] + 1) // 2, 0)
    high = np.diff(offsets)[series]
    high[:-1] = np.where(same, low[1:], high[:-1])
    owned = high - low
    window = np.repeat(np.arange(len(series)), owned)
    in_series = np.arange(len(window)) - offsets[:-1][series[window]]
    return window * size + in_series - start[window]
