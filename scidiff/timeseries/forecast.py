"""Draws of the future, and what is written of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from scidiff.timeseries.panel import Floats, Panel
from scidiff.timeseries.verdicts import Verdict


@dataclass(frozen=True, kw_only=True, eq=False)
class Forecast:
    """Draws of what follows the last row of each series.

    Attributes:
        panel: S series of V variables.
        time: [S, H] in the unit of the panel.
        draws: [S, K, H, V] in its units.
        verdicts: on the rules that they had to keep, by rule.
    """

    panel: Panel
    time: Floats
    draws: Floats
    verdicts: Mapping[str, Verdict] = field(default_factory=dict)

    def dataset(self, attributes: Mapping[str, Any]) -> xr.Dataset:
        """`value` over (series, sample, time, variable); `stamp` has the times if series end at different ones."""
        series = self.panel.ids
        shared = bool((self.time == self.time[:1]).all())
        coords: dict[str, Any] = {
            "series": np.asarray(series.astype(str) if series.dtype != np.int64 else series),
            "sample": np.arange(self.draws.shape[1]),
            "variable": list(self.panel.variables),
            "units": ("variable", [self.panel.units.get(name, "") for name in self.panel.variables]),
            "time": self._stamps(self.time[0]) if shared else np.arange(1, self.time.shape[1] + 1),
        }
        if not shared:
            coords["stamp"] = (("series", "time"), self._stamps(self.time.ravel()).reshape(self.time.shape))
        zone = {} if self.panel.clock.zone is None else {"time_zone": "UTC"}
        data = {"value": (("series", "sample", "time", "variable"), self.draws)}
        return xr.Dataset(data, coords=coords, attrs={"Conventions": "CF-1.11", **attributes, **zone})

    def table(self, quantiles: Sequence[float]) -> pd.DataFrame:
        """One row a series and time: identity, time, and of each variable the median `NAME` and `NAME_p5`, ..."""
        source = self.panel.source
        horizon = self.time.shape[1]
        columns: dict[str, Any] = {}
        if source is None or source.id is not None:
            columns["id" if source is None else str(source.id)] = self.panel.ids.repeat(horizon).to_numpy()
        columns["time" if source is None or source.time is None else source.time] = self.panel.clock.back(
            self.time.ravel()
        )
        for v, name in enumerate(self.panel.variables):
            columns[name] = np.median(self.draws[..., v], axis=1).ravel()
            found = np.quantile(self.draws[..., v], list(quantiles), axis=1)
            columns |= {f"{name}_p{100 * a:g}": q.ravel() for a, q in zip(quantiles, found, strict=True)}
        return pd.DataFrame(columns)

    def _stamps(self, time: Floats) -> Any:
        if self.panel.clock.kind != "date":
            return time
        return np.round(time * 1e6).astype("int64").astype("datetime64[us]").astype("datetime64[ns]")
