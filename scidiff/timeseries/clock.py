"""Times as a user writes them, and as numbers: dates and durations become seconds, numbers stay."""

from __future__ import annotations

import datetime
import re
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

_ISO = re.compile(
    r"^\d{4}-?\d\d-?\d\d(?P<sep>[T ])?(?P<clock>\d\d:?\d\d(?P<seconds>:?\d\d(?P<fraction>\.\d+)?)?)?(?P<zone>.*)$"
)
_MONTH, _DAY, _COMPACT = (re.compile(text) for text in (r"^\d{4}-\d\d$", r"^\d{4}-\d\d-\d\d$", r"^\d{8}$"))


@dataclass(frozen=True, kw_only=True)
class Clock:
    """How the numbers of a panel's times become the user's times again.

    Attributes:
        kind: `number` (the user's own unit), `date` (seconds since 1970-01-01, UTC or the local clock of stamps without
            a zone) or `duration` (seconds).
        dtype: dtype of the column they came in; None if they came as text.
        zone: time zone of dates, where all stamps share one.
        example: the first stamp of a text column: new stamps are written like it.
        integer: whether all numbers are whole, so that new ones are written without a point.
    """

    kind: Literal["number", "date", "duration"] = "number"
    dtype: Any = None
    zone: datetime.tzinfo | None = None
    example: str | None = None
    integer: bool = False

    @property
    def unit(self) -> str:
        """`s` for dates and durations, nothing for the user's own numbers."""
        return "" if self.kind == "number" else "s"

    def origin(self, earliest: float) -> float:
        """A time that steps are counted from: 0 for numbers, local midnight before the earliest date."""
        if self.kind != "date":
            return 0.0
        stamp = pd.Timestamp(earliest, unit="s", tz="UTC").tz_convert(self.zone or datetime.UTC)
        return stamp.normalize().timestamp()

    def dates(self, seconds: npt.ArrayLike) -> pd.DatetimeIndex:
        """Dates of seconds: [N], with the zone, if the column has one."""
        whole = np.round(np.asarray(seconds, dtype=np.float64) * 1e6).astype("int64")
        stamps = pd.DatetimeIndex(whole.astype("datetime64[us]"))
        return stamps if self.zone is None else stamps.tz_localize("UTC").tz_convert(self.zone)

    def back(self, seconds: npt.ArrayLike) -> Any:
        """Times as the user's column holds them: an array [N] of its dtype, or texts like those that came.

        Floats for a column of whole numbers, and microseconds for one of coarser stamps, if those cannot hold them.
        """
        numbers = np.asarray(seconds, dtype=np.float64)
        if self.dtype is None:
            return self._text(numbers)
        if self.kind != "number":
            spans = pd.to_timedelta(np.round(numbers * 1e6).astype("int64"), unit="us")
            exact = self.dates(numbers) if self.kind == "date" else spans
            held = exact.astype(self.dtype)
            return (held if bool((held == exact).all()) else exact).array
        whole = self.integer and bool(np.all(numbers == np.rint(numbers)))
        return pd.array(numbers).astype(self.dtype if whole or not self.integer else "float64")

    def _text(self, numbers: npt.NDArray[np.float64]) -> Any:
        if self.kind == "number":
            if self.integer and bool(np.all(numbers == np.rint(numbers))):
                return numbers.astype("int64").astype(str).astype(object)
            return np.array([repr(float(n)) for n in numbers], dtype=object)
        dates = self.dates(numbers)
        pattern = _coarse(self.example or "", dates) or _pattern(self.example or "")
        texts = dates.strftime(pattern.replace("%:z", "%z")).to_series().astype(str)
        if pattern.endswith("%:z"):  # which Python 3.11 does not know
            texts = texts.str.slice(0, -2) + ":" + texts.str.slice(-2)
        return texts.to_numpy(dtype=object)


def _coarse(example: str, dates: pd.DatetimeIndex) -> str | None:
    """The strftime pattern of stamps like `2020-01-31` and `2020-01`; None if the example or a date says more."""
    for written, pattern, whole in (
        (_MONTH, "%Y-%m", dates.day == 1),
        (_DAY, "%Y-%m-%d", True),
        (_COMPACT, "%Y%m%d", True),
    ):
        if written.match(example) and bool(np.all(whole & (dates == dates.normalize()))):
            return pattern
    return None


def _pattern(example: str) -> str:
    """The strftime pattern of a stamp like `2020-01-31T08:00:00+01:00`."""
    found = _ISO.match(example)
    if found is None:
        return "%Y-%m-%d %H:%M:%S"
    pattern = "%Y-%m-%d" if "-" in example[:8] else "%Y%m%d"
    # a day alone cannot tell the hours of the new stamps
    pattern += found["sep"] or " "
    colon = ":" if found["clock"] is None or ":" in found["clock"] else ""
    pattern += f"%H{colon}%M"
    pattern += f"{colon}%S" if found["clock"] is None or found["seconds"] else ""
    pattern += ".%f" if found["fraction"] else ""
    zone = found["zone"].strip()
    if zone in ("Z", "z", "UTC"):
        return pattern + found["zone"]
    if zone:
        return pattern + ("%:z" if ":" in zone else "%z")
    return pattern
