"""Windows of a panel of one frequency: what came before an origin, and what followed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from scidiff.errors import UserError
from scidiff.timeseries.covariates import NONE, Covariates
from scidiff.timeseries.frequency import Frequency, calendar
from scidiff.timeseries.panel import Floats, Ints, Panel
from scidiff.timeseries.references import told as told_of

RECENT = 24  # steps before the origin that are told as they came, at most


@dataclass(frozen=True, kw_only=True, eq=False)
class Horizons:
    """N windows of V variables, in the units of the panel.

    Attributes:
        series: [N] number of the series.
        origin: [N] how many of its rows came before the origin.
        place: [N] in [0, 1], where the origin stands among those of its series.
        margin: [N] the length of a horizon on that scale.
        context: [N, L, V] the last rows before the origin, NaN where nothing was measured.
        target: [N, H, V] the rows from the origin on, NaN where nothing was measured or is known yet.
        told: [N, L, C] covariates of the context, NaN where empty (see `Covariates.features`).
        ahead: [N, H, FEATURES + A] float32, calendar and covariates known ahead from the origin on.
        facts: [N, K] static covariates.
        others: [N, V, R, F] float32, of R series that are attended to (see `references.told`).
    """

    series: Ints
    origin: Ints
    place: Floats
    margin: Floats
    context: Floats
    target: Floats
    told: Floats
    ahead: np.ndarray
    facts: Floats
    others: np.ndarray

    def __len__(self) -> int:
        return len(self.series)

    def __getitem__(self, chosen: Any) -> Horizons:
        return Horizons(**{name: value[chosen] for name, value in vars(self).items()})


def origins(panel: Panel, *, context: int, horizon: int, most: int) -> tuple[Ints, Ints]:
    """Series and origin of every window with a whole context and a whole horizon; evenly thinned out to about `most`.

    Raises:
        UserError: no series is long enough.
    """
    counts = np.diff(panel.offsets)
    able = np.maximum(counts - context - horizon + 1, 0)
    total = int(able.sum())
    if total == 0:
        raise UserError(
            f"expected a history of at least {context + horizon} rows to learn from (context {context}, horizon "
            f"{horizon}), got {int(counts.max())}"
        )
    chosen = np.unique(np.linspace(0, total - 1, min(total, most)).round().astype(np.int64))
    series = np.searchsorted(np.cumsum(able), chosen, side="right")
    return series, context + chosen - (np.cumsum(able) - able)[series]


def horizons(
    panel: Panel,
    frequency: Frequency,
    series: Ints,
    origin: Ints,
    *,
    context: int,
    horizon: int,
    covariates: Covariates = NONE,
    references: tuple[str, ...] = (),
) -> Horizons:
    """The windows of some origins; an origin may stand at the end of its series, where nothing is known of the target.

    Raises:
        UserError: an origin with fewer rows before it than a context has, or `references` that the panel lacks.
    """
    short = np.flatnonzero(origin < context)
    if len(short):
        which = f"series {panel.ids[series[short[0]]]}: " if len(panel) > 1 else ""
        raise UserError(
            f"{which}expected a history of at least {context} rows (the context), got {int(origin[short[0]])}"
        )
    ahead = np.full((horizon, len(panel.variables)), np.nan)
    values, times = [], []
    for value, time in zip(panel.values, panel.times, strict=True):
        values.append(np.concatenate([value, ahead]))
        times.append(np.concatenate([time, frequency.after(panel.clock, time[-1], horizon)]))
    offsets = np.concatenate([[0], np.cumsum([len(time) for time in times])])
    every, at = np.concatenate(values), np.concatenate(times)
    told = covariates.features(panel, every, at)
    every = every[:, covariates.forecast(panel)]
    rows = offsets[series] + origin
    past, future = rows[:, None] + np.arange(-context, 0), rows[:, None] + np.arange(horizon)
    span = np.maximum(np.diff(panel.offsets)[series] - context - horizon, 1)
    known = np.concatenate([calendar(panel.clock, at), told[:, : covariates.ahead]], axis=1).astype(np.float32)
    look, others = every[past], covariates.targets(panel)
    return Horizons(
        series=series,
        origin=origin,
        place=(origin - context) / span,
        margin=horizon / span,
        context=look,
        target=every[future],
        told=told[past],
        ahead=known[future],
        facts=covariates.facts(panel)[series],
        others=told_of(others, references, look, at[rows - 1], recent=min(context, RECENT)),
    )
