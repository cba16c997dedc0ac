"""Tables for the tests of imputation: waves of several series with holes, in a moment."""

from __future__ import annotations

import numpy as np
import pandas as pd


def waves(*, series: int = 8, rows: int = 16, gaps: float = 0.4, seed: int = 0, dated: bool = False) -> pd.DataFrame:
    """A wide table: id, time, a = sin + noise, b = 100 + 10 cos + noise, each cell missing with probability `gaps`."""
    rng = np.random.default_rng(seed)
    time = np.arange(rows) * 60
    stamps = pd.date_range("2024-03-30 20:00", periods=rows, freq="h", tz="Europe/Berlin")
    parts = []
    for k in range(series):
        phase = time / 180 + rng.uniform(0, 6)
        parts.append(
            pd.DataFrame(
                {
                    "id": f"p{k}",
                    "time": stamps if dated else time,
                    "a": np.sin(phase) + 0.1 * rng.normal(size=rows),
                    "b": 100 + 10 * np.cos(phase) + rng.normal(size=rows),
                }
            )
        )
    table = pd.concat(parts, ignore_index=True)
    table[["a", "b"]] = table[["a", "b"]].mask(rng.random((len(table), 2)) < gaps)
    return table
