"""How often a panel was measured: found out, never repaired; and the times and calendars that follow from it."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from scidiff.errors import UserError
from scidiff.timeseries.clock import Clock
from scidiff.timeseries.panel import Floats, Panel

WEEKLY = 11  # first features of `calendar`, which tell nothing of the time of year
_WAVES = 10  # of the year: sharp enough for a holiday
FEATURES = WEEKLY + 2 * _WAVES
_DAY, _WEEK = 86_400.0, 604_800.0
_LONGEST = 700  # steps of a season that is looked for
_CALENDAR = ((26, 33, 12), (80, 100, 4))  # steps of so many days have so many a year


@dataclass(frozen=True, kw_only=True)
class Frequency:
    """The steps of a panel, the same for all its series.

    Attributes:
        step: in the unit of the times; None for months and other steps that differ in length.
        offset: pandas' name of such steps; None for steps of one length.
        seasons: lengths in steps of the day, the week or the year, ascending; (1,) if there are none.
    """

    step: float | None
    offset: str | None
    seasons: tuple[int, ...]

    @property
    def name(self) -> str:
        """As a user reads it: `30min`, `MS`, or a number of the unit of the times."""
        return self.offset or f"{self.step:g}"

    def after(self, clock: Clock, last: float, count: int) -> Floats:
        """The `count` times that follow a time: [count]."""
        if self.step is not None:
            return np.asarray(last + self.step * np.arange(1, count + 1))
        stamps = pd.date_range(clock.dates([last])[0], periods=count + 1, freq=self.offset)[1:]
        return seconds_of(stamps)


def seconds_of(stamps: pd.DatetimeIndex) -> Floats:
    """Seconds since 1970 of dates, those with a zone in UTC: [N]."""
    plain = stamps if stamps.tz is None else stamps.tz_convert("UTC").tz_localize(None)
    return plain.to_numpy().astype("datetime64[us]").astype("int64") / 1e6


def infer(panel: Panel) -> Frequency:
    """The frequency of a panel.

    Raises:
        UserError: times with gaps between them, of no known frequency, or of other steps in other series.
    """
    gaps = np.diff(panel.time)
    inner = np.diff(panel.series) == 0
    steps = gaps[inner]
    if not len(steps):
        raise UserError("expected series of at least two times, to tell their frequency, got one time in each")
    step = float(np.median(steps))
    if np.allclose(steps, step, rtol=1e-9, atol=0):
        if (count := _in_a_year(panel, step)) is not None:
            return Frequency(step=1 / count, offset=None, seasons=(count,))
        whole = round(step) if abs(step - round(step)) < 1e-6 else step
        name = pd.tseries.frequencies.to_offset(pd.Timedelta(whole, unit="s")).freqstr if panel.clock.unit else None
        return Frequency(step=step, offset=name, seasons=_seasons(panel.clock, step))
    if panel.clock.kind == "date":
        found = {_named(panel.clock.dates(time)) for time in panel.times}
        (offset, *others) = found
        if offset is not None and not others:
            seasons = (5,) if offset == "B" else _seasons(panel.clock, step)
            return Frequency(step=None, offset=offset, seasons=seasons)
    _refuse(panel, np.flatnonzero(inner & ~np.isclose(gaps, step, rtol=1e-9, atol=0)), step)
    raise AssertionError


def _in_a_year(panel: Panel, step: float) -> int | None:
    """How many steps a year has, if times are years with a fraction, as R writes monthly and quarterly series."""
    years = panel.clock.kind == "number" and panel.time.min() >= 1000 and panel.time.max() < 3000
    if not years or not 2 <= round(1 / step) <= 366 or abs(1 / step - round(1 / step)) > 1e-3:
        return None
    return round(1 / step)


def _named(stamps: pd.DatetimeIndex) -> str | None:
    """pandas' name of the frequency of dates; None if they have none, or are too few to tell."""
    if len(stamps) < 3:
        return None
    with warnings.catch_warnings():  # pandas 4 returns the offset itself
        warnings.simplefilter("ignore")
        found: Any = pd.infer_freq(stamps)
    return None if found is None else str(getattr(found, "freqstr", found))


def _refuse(panel: Panel, odd: np.ndarray, step: float) -> None:
    """Say where the steps are not what most of them are."""
    row = int(odd[0])
    gap = float(panel.time[row + 1] - panel.time[row])
    first, second = (str(stamp) for stamp in panel.clock.back(panel.time[row : row + 2]))
    where = f"series {panel.ids[panel.series[row]]}: " if len(panel) > 1 else ""
    multiple = gap / step
    if multiple > 1.5 and abs(multiple - round(multiple)) < 1e-6:
        missing = round(multiple) - 1
        raise UserError(
            f"{where}expected a row every {step:g}{panel.clock.unit}, got {missing} missing between {first} and "
            f"{second}: add the rows (their cells may be empty){_perhaps(panel.clock, panel.time[row], gap, step)}"
        )
    raise UserError(
        f"{where}expected times of one frequency, got a step of {gap:g}{panel.clock.unit} between {first} and {second} "
        f"where most are {step:g}{panel.clock.unit}"
    )


def _perhaps(clock: Clock, time: float, gap: float, step: float) -> str:
    """What a gap after a time may be instead, and how to mend that."""
    if clock.kind == "number" and 1e7 < time < 3e7:
        return "; if these are dates, write them with hyphens: 2020-01-31"
    if clock.kind == "date" and clock.zone is None and abs(gap - step - 3600) < 1:
        return "; if the clock was put forward there, write the offset from UTC behind every time: +01:00"
    return ""


def _seasons(clock: Clock, step: float) -> tuple[int, ...]:
    """Lengths of the seasons that steps of such a length have; numbers without a unit have none."""
    found: list[int] = []
    if clock.kind == "date":
        for period, least in ((3600.0, 12), (_DAY, 2), (_WEEK, 2), (52 * _WEEK, 52)):
            count = period / step
            yearly = period > _WEEK  # of weeks alone
            if least <= count <= (least if yearly else _LONGEST) and abs(count - round(count)) < 1e-6:
                found.append(round(count))
        found += [count for low, high, count in _CALENDAR if low * _DAY <= step <= high * _DAY]
    return tuple(found) or (1,)


def calendar(clock: Clock, time: Floats) -> Floats:
    """Features of times [N]: [N, FEATURES], of hour (two waves), weekday (one of seven) and year (ten waves).

    Zeros for times that are no dates.
    """
    if clock.kind != "date":
        return np.zeros((len(time), FEATURES))
    distinct, which = np.unique(time, return_inverse=True)  # series of a panel have the same times, mostly
    out = np.zeros((len(distinct), FEATURES))
    dates = clock.dates(distinct)
    hour = (dates.hour + dates.minute / 60 + dates.second / 3600).to_numpy() / 24
    year = ((dates.day_of_year - 1) / 365.25).to_numpy() + hour / 365.25
    for place, phase, waves in ((0, hour, 2), (WEEKLY, year, _WAVES)):
        angle = 2 * np.pi * phase[:, None] * np.arange(1, waves + 1)
        out[:, place : place + 2 * waves] = np.stack([np.sin(angle), np.cos(angle)], axis=2).reshape(len(out), -1)
    out[np.arange(len(out)), 4 + dates.day_of_week.to_numpy()] = 1
    return out[which]
