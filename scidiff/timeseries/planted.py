"""Errors planted into a table on purpose, and how many of them are found."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from scidiff.timeseries.metrics import Bools, Floats, keyed_uniform
from scidiff.timeseries.panel import Ints, Panel

KINDS = ("unit", "exchanged", "stuck")
FACTORS = (0.01, 0.1, 10.0, 100.0)


@dataclass(frozen=True, kw_only=True, eq=False)
class Planted:
    """A panel with errors in it.

    Attributes:
        panel: as it came, but for the errors; it cannot be written back.
        kind: by kind of error, [R, V] where a value was changed by it.
    """

    panel: Panel
    kind: dict[str, Bools]


def plant(panel: Panel, *, unit: int = 50, exchanged: int = 5, stuck: int = 5, run: int = 8, seed: int = 0) -> Planted:
    """Put errors into a panel, at most one kind in a column of a series.

    Args:
        panel: R rows of V variables.
        unit: single values that are multiplied by 0.01, 0.1, 10 or 100; none that are 0.
        exchanged: pairs of columns of a series, of at least three values each, that change places.
        stuck: columns of a series whose sensor sticks: a random value stays for the next `run - 1`.
        run: values of one sticking, >= 2.
        seed: of what goes where.

    Raises:
        ValueError: the panel has not so many places for them.
    """
    value = panel.value.copy()
    kind = {name: np.zeros(value.shape, dtype=bool) for name in KINDS}
    count = np.add.reduceat(panel.observed.astype(np.int64), panel.offsets[:-1])  # [S, V]
    free = np.ones(count.shape, dtype=bool)
    order = _shuffled(np.argwhere(count >= run), seed, "stuck")
    taken = 0
    for s, v in order:
        if taken == stuck:
            break
        rows = _rows(panel, s, v)
        first = int(_coin(seed, "start", s * count.shape[1] + v) * (len(rows) - run + 1))
        some = rows[first : first + run]
        changed = value[some, v] != value[some[0], v]
        if not changed.any():
            continue
        value[some, v] = value[some[0], v]
        kind["stuck"][some, v] = True
        free[s, v] = False
        taken += 1
    _enough(taken, stuck, "columns to stick in")
    _exchange(panel, value=value, here=kind["exchanged"], free=free, count=count, wanted=exchanged, seed=seed)
    cells = np.argwhere(panel.observed & free[panel.series] & (value != 0))
    cells = _shuffled(cells, seed, "unit")[:unit]
    _enough(len(cells), unit, "values to put into another unit")
    which = np.array([int(_coin(seed, "factor", k) * len(FACTORS)) for k in range(len(cells))], dtype=np.int64)
    if unit:
        value[cells[:, 0], cells[:, 1]] *= np.array(FACTORS)[which]
        kind["unit"][cells[:, 0], cells[:, 1]] = True
    return Planted(panel=replace(panel, value=value, source=None), kind=kind)


def _exchange(panel: Panel, *, value: Floats, here: Bools, free: Bools, count: Ints, wanted: int, seed: int) -> None:
    """Exchange columns of some series, in place, and mark what was changed."""
    taken = 0
    for (s,) in _shuffled(np.arange(len(panel))[:, None], seed, "exchanged"):
        if taken == wanted:
            return
        columns = _shuffled(np.flatnonzero((count[s] >= 3) & free[s])[:, None], seed + int(s), "pair")[:2, 0]
        if len(columns) < 2:
            continue
        rows = slice(panel.offsets[s], panel.offsets[s + 1])
        value[rows, columns] = value[rows, columns[::-1]]
        here[rows, columns] = ~np.isnan(value[rows, columns])
        free[s, columns] = False
        taken += 1
    _enough(taken, wanted, "pairs of columns to exchange")


def recall(table: pd.DataFrame, planted: Planted) -> pd.DataFrame:
    """How many planted values are flagged, and how many flagged values were planted.

    Args:
        table: of `detect`, for the panel with the errors in it.
        planted: what was put there.

    Returns:
        Indexed by kind and `all`: `planted` and `found` values, `recall`; and for `all` also `flagged` values and
        `precision`. A table's own errors, if there are any, count against precision.

    Raises:
        ValueError: the table is of another panel.
    """
    row, variable = np.nonzero(planted.panel.observed)
    if len(table) != len(row) or not np.array_equal(table["value"], planted.panel.value[row, variable]):
        raise ValueError("expected the table of `detect` of the panel with the planted errors, got another")
    flagged = table["flagged"].to_numpy(dtype=bool)
    where = {name: here[row, variable] for name, here in planted.kind.items()}
    where["all"] = np.any(list(where.values()), axis=0)
    found = pd.DataFrame(
        {name: (int(here.sum()), int((here & flagged).sum())) for name, here in where.items()},
        index=["planted", "found"],
    ).T
    found["recall"] = found["found"] / found["planted"].where(found["planted"] > 0)
    found["flagged"] = np.where(found.index == "all", flagged.sum(), np.nan)
    found["precision"] = found["found"] / found["flagged"].where(found["flagged"] > 0)
    return found


def _rows(panel: Panel, s: int, v: int) -> Ints:
    rows = np.arange(panel.offsets[s], panel.offsets[s + 1])
    return rows[panel.observed[rows, v]]


def _coin(seed: int, name: str, place: int) -> float:
    return float(keyed_uniform(1, seed=(seed << 32) + int(place), name=name)[0])


def _shuffled(items: Ints, seed: int, name: str) -> Ints:
    return items[np.argsort(keyed_uniform(len(items), seed=seed, name=name), kind="stable")]


def _enough(got: int, wanted: int, what: str) -> None:
    if got < wanted:
        raise ValueError(f"expected at least {wanted} {what}, got {got}")
