"""Inline drawings (SVG): a variable of a series with its median and bands, bars, and shares against each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from scidiff.timeseries.metrics import Floats

WIDTH, HEIGHT = 520, 190
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 8, 8, 22


@dataclass(frozen=True, kw_only=True)
class Chart:
    """Texts of an SVG, `WIDTH` by `HEIGHT`.

    Attributes:
        bands: outlines, paths, the widest first.
        line: the median, a path.
        points: [x, y] of the values that are marked.
        ticks: [y, label] of the values' axis.
        times: [x, anchor, label] of the axis of times.
    """

    bands: tuple[str, ...]
    line: str
    points: tuple[tuple[str, str], ...]
    ticks: tuple[tuple[str, str], ...]
    times: tuple[tuple[str, str, str], ...]


def chart(
    time: Floats,
    median: Floats,
    bands: Sequence[tuple[Floats, Floats]],
    points: Floats,
    *,
    labels: tuple[str, str],
) -> Chart:
    """Draw L cells of one variable.

    Args:
        time: [L], ascending.
        median: [L], where observed the value itself; NaN for cells without an estimate.
        bands: low and high [L], the widest first.
        points: [L] values to mark; NaN for none.
        labels: of the first and the last time.
    """
    every = np.concatenate([points, *(end for band in bands for end in band)])
    bottom, top = (float(f) for f in (np.nanmin(every), np.nanmax(every)))
    margin = 0.05 * (top - bottom) or 1.0
    bottom, top = bottom - margin, top + margin
    span = max(float(time[-1] - time[0]), 1e-12)
    x = _LEFT + (time - time[0]) / span * (WIDTH - _LEFT - _RIGHT)

    def y(value: Floats) -> Floats:
        return np.asarray(_TOP + (top - value) / (top - bottom) * (HEIGHT - _TOP - _BOTTOM))

    def along(value: Floats) -> list[tuple[float, float]]:
        known = ~np.isnan(value)
        return list(zip(x[known], y(value[known]), strict=True))

    marks = np.linspace(bottom + margin, top - margin, 4)
    digits = max(0, 2 - int(np.floor(np.log10(max(abs(top - bottom), 1e-12)))))
    return Chart(
        bands=tuple(_path([*along(high), *along(low)[::-1]]) + "Z" for low, high in bands),
        line=_path(along(median)),
        points=tuple((f"{a:.1f}", f"{b:.1f}") for a, b in along(points)),
        ticks=tuple((f"{y(np.array(mark)):.1f}", f"{mark:.{min(digits, 6)}f}") for mark in marks),
        times=((f"{_LEFT}", "start", labels[0]), (f"{WIDTH - _RIGHT}", "end", labels[1])),
    )


def bars(share: Floats) -> tuple[tuple[str, str, str, str], ...]:
    """[x, y, width, height] of bars of heights >= 0, the highest as high as a chart: [B]."""
    width = (WIDTH - _LEFT - _RIGHT) / len(share)
    high = _heights(share, share)
    return tuple(
        (f"{_LEFT + k * width + 1:.1f}", f"{HEIGHT - _BOTTOM - h:.1f}", f"{width - 2:.1f}", f"{h:.1f}")
        for k, h in enumerate(high)
    )


def even(share: Floats) -> str:
    """How high bars would end that were all alike: y."""
    return f"{HEIGHT - _BOTTOM - float(_heights(share.mean(), share)):.1f}"


def _heights(share: Floats, among: Floats) -> Floats:
    return np.asarray(share / max(float(among.max()), 1e-12) * (HEIGHT - _TOP - _BOTTOM))


def on_diagonal(x: Floats, y: Floats) -> tuple[tuple[str, str], ...]:
    """[x, y] of shares in [0, 1] against each other: [N], all on the diagonal of a chart if they agree."""
    right, up = WIDTH - _LEFT - _RIGHT, HEIGHT - _TOP - _BOTTOM
    return tuple((f"{_LEFT + a * right:.1f}", f"{HEIGHT - _BOTTOM - b * up:.1f}") for a, b in zip(x, y, strict=True))


def _path(points: list[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{a:.1f} {b:.1f}" for a, b in points)
