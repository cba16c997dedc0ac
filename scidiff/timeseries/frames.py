"""Panels from DataFrames in memory, whose index may hold times and identities."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd

from scidiff.timeseries.columns import Options
from scidiff.timeseries.panel import Panel
from scidiff.timeseries.parse import Where
from scidiff.timeseries.tables import read_table


def read_frame(frame: pd.DataFrame, options: Options | None = None, *, name: str = "table") -> Panel:
    """The panel of a DataFrame, long or wide.

    An index of dates, of several levels, or of the name that the options give to identity or time is read like columns
    and comes back as the index. Any other index is left alone.

    Args:
        frame: never changed.
        options: what the user says about it.
        name: what messages call it.

    Raises:
        UserError: anything in the table that a user must mend, with row (from 0) and column.
    """
    options = options or Options()
    index = frame.index
    meant = {options.id, options.time} & set(index.names) - {None}
    if not (isinstance(index, pd.DatetimeIndex | pd.TimedeltaIndex | pd.MultiIndex) or meant):
        return read_table(frame, options, Where(name=name))
    taken = set(map(str, frame.columns))
    levels = [_free(str(level) if level is not None else "time", taken) for level in index.names]
    table = frame.reset_index(names=levels)
    dated = [level for level in levels if table[level].dtype.kind in "mM"]
    if options.time is None and len(dated) == 1:
        options = replace(options, time=dated[0])
    return read_table(table, options, Where(name=name), levels=tuple(levels), index=index)


def _free(name: str, taken: set[str]) -> str:
    while name in taken:
        name += "_"
    taken.add(name)
    return name
