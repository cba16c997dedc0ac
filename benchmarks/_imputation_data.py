"""PhysioNet 2012 as CSDI has it: 48 hours of 35 variables, observed values hidden at random."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from scidiff.errors import UserError
from scidiff.timeseries.sample import sample_path

ROOT = Path(__file__).parents[1]
HOURS = 48
NOT_USED = ("MechVent", "Weight")  # constant, and nearly so, as in CSDI
STATIC = ("Age", "Gender", "Height", "ICUType")
SAMPLE_TEST = 43  # of the 163 stays that travel with the package

Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Stays:
    """S series of L hours and V variables.

    Attributes:
        ids: [S].
        values: [S, L, V]; NaN where nothing was measured.
        static: [S, F]; NaN where unknown.
        variables, covariates: names.
    """

    ids: npt.NDArray[np.int64]
    values: Floats
    static: Floats
    variables: tuple[str, ...]
    covariates: tuple[str, ...] = STATIC

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def observed(self) -> Mask:
        """[S, L, V]."""
        return np.isfinite(self.values)

    def __getitem__(self, chosen: npt.NDArray[np.int64] | slice) -> Stays:
        return Stays(
            ids=self.ids[chosen],
            values=self.values[chosen],
            static=self.static[chosen],
            variables=self.variables,
            covariates=self.covariates,
        )

    def replace(self, values: Floats) -> Stays:
        """The same stays with other values."""
        return Stays(
            ids=self.ids, values=values, static=self.static, variables=self.variables, covariates=self.covariates
        )


@dataclass(frozen=True, kw_only=True)
class Units:
    """Mean and standard deviation of each variable over what was observed in training: [V]."""

    mean: Floats
    std: Floats

    @classmethod
    def of(cls, stays: Stays) -> Units:
        std = np.nanstd(stays.values, (0, 1))
        return cls(mean=np.nanmean(stays.values, (0, 1)), std=np.where(std > 0, std, 1.0))

    def z(self, values: Floats) -> Floats:
        """Standardised values."""
        return (values - self.mean) / self.std

    def own(self, z: Floats) -> Floats:
        """Values in the variables' own units."""
        return z * self.std + self.mean


def folder_of(data: Path | None) -> Path:
    """The folder with the tables of set a and b: `data` if it holds them, else the data script's cache."""
    if data is not None and (data / "set-a-long.csv.gz").exists() and (data / "set-b-long.csv.gz").exists():
        return data
    command = [sys.executable, str(ROOT / "datasets" / "physionet2012.py"), "--sets", "a", "b"]
    command += [] if data is None else ["--folder", str(data)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise UserError("expected set-a and set-b of PhysioNet 2012: fetch them or pass their folder with --data")
    return Path(done.stdout.strip())


def read_set(folder: Path, name: str, *, left_out: Sequence[str] = NOT_USED) -> Stays:
    """All stays of one set without the variables left out; of several values within an hour the last."""
    long = pd.read_csv(folder / f"set-{name}-long.csv.gz")
    static = pd.read_csv(folder / f"set-{name}-static.csv.gz", index_col="RecordID").sort_index()
    return _dense(long[~long.variable.isin(left_out)], static[list(STATIC)].replace(-1, np.nan))


def read_sample() -> tuple[Stays, Stays]:
    """The stays that travel with the package, to train and to test on; hourly means, no covariates."""
    long = pd.read_csv(sample_path())
    long = long[~long.variable.isin(NOT_USED)]
    static = pd.DataFrame(index=np.unique(long.RecordID), columns=list(STATIC), dtype=float)
    stays = _dense(long, static)
    order = np.random.default_rng(0).permutation(len(stays))
    return stays[order[SAMPLE_TEST:]], stays[order[:SAMPLE_TEST]]


def _dense(long: pd.DataFrame, static: pd.DataFrame) -> Stays:
    hour = long.minute // 60
    long = long[hour < HOURS].sort_values(["RecordID", "minute"], kind="stable")
    ids, variables = static.index.to_numpy(), np.array(sorted(long.variable.unique()))
    values = np.full((len(ids), HOURS, len(variables)), np.nan)
    place = np.searchsorted(ids, long.RecordID), long.minute // 60, np.searchsorted(variables, long.variable)
    values[place] = long.value  # of several, the last stays
    return Stays(ids=ids, values=values, static=static.to_numpy(float), variables=tuple(variables.tolist()))


def hide(observed: Mask, ratio: float, seed: int) -> Mask:
    """A share of the observed cells of every series, at random: bool [S, L, V]."""
    source = np.random.default_rng((seed, round(1000 * ratio)))
    order = np.where(observed, source.random(observed.shape), 2.0).reshape(len(observed), -1)
    rank = order.argsort(1).argsort(1).reshape(observed.shape)
    count = np.round(ratio * observed.sum((1, 2))).astype(int)
    return observed & (rank < count[:, None, None])


@dataclass(frozen=True, kw_only=True)
class Neighbourhood:
    """What stands around each cell [S, L, V] in its own column, the cell itself left out; NaN where there is nothing.

    Attributes:
        left, right: the nearest value before and after.
        left_gap, right_gap: hours to them.
        line: the line through both, the nearest where there is one alone.
        mean: of the column without the cell.
    """

    left: Floats
    right: Floats
    left_gap: Floats
    right_gap: Floats
    line: Floats
    mean: Floats


def around(values: Floats) -> Neighbourhood:
    """The neighbourhood of every cell of [S, L, V] with NaN for what is not known."""
    left, left_gap = _before(values)
    right, right_gap = (x[:, ::-1] for x in _before(values[:, ::-1]))
    line = (left * right_gap + right * left_gap) / (left_gap + right_gap)
    line = np.where(np.isnan(right), left, np.where(np.isnan(left), right, line))
    known = np.isfinite(values)
    others = known.sum(1, keepdims=True) - known
    total = np.nansum(values, 1, keepdims=True) - np.where(known, values, 0)
    mean = np.where(others > 0, total / np.maximum(others, 1), np.nan)
    return Neighbourhood(left=left, right=right, left_gap=left_gap, right_gap=right_gap, line=line, mean=mean)


def _before(values: Floats) -> tuple[Floats, Floats]:
    """The last known value strictly before each row, and how many rows off it is; NaN where there is none."""
    rows = np.arange(values.shape[1])[None, :, None]
    last = np.maximum.accumulate(np.where(np.isfinite(values), rows, -1), axis=1)
    last = np.concatenate([np.full_like(last[:, :1], -1), last[:, :-1]], axis=1)
    found = np.take_along_axis(values, np.maximum(last, 0), axis=1)
    return np.where(last < 0, np.nan, found), np.where(last < 0, np.nan, rows - last)
