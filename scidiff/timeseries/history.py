"""Tables that grow: new rows after those that are known, or in their place."""

from __future__ import annotations

import pandas as pd

from scidiff.timeseries.panel import Panel


def joined(known: pd.DataFrame, new: pd.DataFrame, panel: Panel) -> pd.DataFrame:
    """What is known, and new rows, in the order of series and time; of two rows for the same, the new one counts.

    Args:
        known, new: tables of the same layout.
        panel: of the new one.
    """
    rows = pd.concat([known, new])
    source = panel.source
    names = () if source is None else (source.id, source.time, source.variable)
    keys = [name for name in names if name is not None and name in rows.columns]
    if not keys:
        return rows[~rows.index.duplicated(keep="last")].sort_index()
    return rows[~rows.duplicated(keys, keep="last")].sort_values(keys, kind="stable", ignore_index=True)
