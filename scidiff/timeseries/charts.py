"""One variable of one series as an inline drawing (SVG): what was observed, the median, and a band."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from scidiff.timeseries.metrics import Bools, Floats

WIDTH, HEIGHT = 520, 190
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 8, 8, 22


@dataclass(frozen=True, kw_only=True)
class Chart:
    """Texts of an SVG, `WIDTH` by `HEIGHT`.

    Attributes:
        band: outline of the band, a path.
        line: the median, a path.
        points: [x, y] of the observed values.
        ticks: [y, label] of the values' axis.
        times: [x, anchor, label] of the axis of times.
    """

    band: str
    line: str
    points: tuple[tuple[str, str], ...]
    ticks: tuple[tuple[str, str], ...]
    times: tuple[tuple[str, str, str], ...]


def chart(
    time: Floats, median: Floats, low: Floats, high: Floats, observed: Bools, *, labels: tuple[str, str]
) -> Chart:
    """Draw L cells of one variable.

    Args:
        time: [L], ascending.
        median, low, high: [L], where observed the value itself; NaN for cells without an estimate.
        observed: [L].
        labels: of the first and the last time.
    """
    known = ~np.isnan(median)
    bottom, top = (float(f) for f in (np.nanmin(low), np.nanmax(high)))
    margin = 0.05 * (top - bottom) or 1.0
    bottom, top = bottom - margin, top + margin
    span = max(float(time[-1] - time[0]), 1e-12)
    x = _LEFT + (time - time[0]) / span * (WIDTH - _LEFT - _RIGHT)

    def y(value: Floats) -> Floats:
        return np.asarray(_TOP + (top - value) / (top - bottom) * (HEIGHT - _TOP - _BOTTOM))

    outline = [*zip(x[known], y(high[known]), strict=True), *list(zip(x[known], y(low[known]), strict=True))[::-1]]
    marks = np.linspace(bottom + margin, top - margin, 4)
    digits = max(0, 2 - int(np.floor(np.log10(max(abs(top - bottom), 1e-12)))))
    return Chart(
        band=_path(outline) + "Z",
        line=_path(list(zip(x[known], y(median[known]), strict=True))),
        points=tuple((f"{a:.1f}", f"{b:.1f}") for a, b in zip(x[observed], y(median[observed]), strict=True)),
        ticks=tuple((f"{y(np.array(mark)):.1f}", f"{mark:.{min(digits, 6)}f}") for mark in marks),
        times=((f"{_LEFT}", "start", labels[0]), (f"{WIDTH - _RIGHT}", "end", labels[1])),
    )


def _path(points: list[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{a:.1f} {b:.1f}" for a, b in points)
