"""Pictures of flows in time for a report: maps at a few times, what moves, spread and misfit over time, spectra."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from scidiff.fluids.animation import animated, brightest
from scidiff.fluids.oracle import Instrument
from scidiff.fluids.pictures import draw_map, draw_sensors, maps_of, of_spectrum, shades_of
from scidiff.fluids.report import Picture, png
from scidiff.fluids.spectral import Box

_TIMES = 5  # that maps are drawn of
_MEMBERS = 2
_FRAMES = 120  # of what moves, at most
_SAME = 1e-6  # by which times of one instant may differ


@dataclass(frozen=True, kw_only=True)
class Flows:
    """Trajectories that were drawn.

    Attributes:
        vorticity: [S, T, H, W].
        times: [T].
        box: where they are.
        sensors: what was measured of them.
        misses: by the time of what was measured, the mean square of what is off, in units of the noise: [S]. Empty
            where nothing was, or without noise.
        usual: mean square of the training data by number of waves, [K], or None.
    """

    vorticity: Tensor
    times: Tensor
    box: Box
    sensors: Sequence[Instrument] = ()
    misses: Mapping[float, np.ndarray] | None = None
    usual: np.ndarray | None = None


def of_flows(flows: Flows) -> tuple[Picture, ...]:
    """All pictures of trajectories; what moves and what changes, of more than two times."""
    omega, times = flows.vorticity.cpu().numpy(), flows.times.tolist()
    ends = {f"time {times[n]:.4g}": flows.vorticity[:, n] for n in (0, -1)}
    moving = [_moving(omega, times), _over_time(flows, omega, times)] if len(times) > 2 else []
    return (_maps(flows, omega, times), *moving, of_spectrum(ends, flows.box, usual=flows.usual))


def _maps(flows: Flows, omega: np.ndarray, times: Sequence[float]) -> Picture:
    """Mean, spread and members, each a row, at a few times."""
    from matplotlib.figure import Figure

    shown = sorted({round(n) for n in np.linspace(0, len(times) - 1, _TIMES)})
    rows, most = maps_of(omega[:, shown], _MEMBERS), float(np.abs(omega[:, shown]).max())
    figure = Figure(figsize=(2.5 * len(shown) + 1, 2.5 * len(rows)), layout="compressed")
    axes = figure.subplots(len(rows), len(shown), squeeze=False, sharex=True, sharey=True)
    for row, (title, fields) in zip(axes, rows.items(), strict=True):
        shades = shades_of(title, fields, most)
        images = [draw_map(axis, field, flows.box, shades) for axis, field in zip(row, fields, strict=True)]
        figure.colorbar(images[0], ax=row, shrink=0.85)
        row[0].set_ylabel(title, fontsize=9)
    for axis, n in zip(axes[0], shown, strict=True):
        axis.set_title(f"time {times[n]:.4g}", fontsize=10)
        draw_sensors(axis, [tool for tool in flows.sensors if abs(tool.time - times[n]) < _SAME])
    note = "Dots, lines and frames in the first row: what was measured at that time." if flows.sensors else ""
    alt = "Ensemble mean, spread and members, each a row, at a few times"
    return Picture(title="Vorticity", alt=alt, data=png(figure), note=note, broad=True)


def _moving(omega: np.ndarray, times: Sequence[float]) -> Picture:
    """Members and mean side by side, in time."""
    every = -(-len(times) // _FRAMES)
    data = base64.b64encode(animated(omega[:, ::every], "webp")).decode("ascii")
    count = min(len(omega), 3)
    panels = "Member 0" if len(omega) == 1 else f"Members 0 to {count - 1} and the mean of all {len(omega)}"
    most = brightest(omega)
    note = f"{panels}, time {times[0]:.4g} to {times[-1]:.4g}; blue to red is {-most:.3g} to {most:.3g}."
    return Picture(title="In time", alt=panels, data=data, kind="webp", note=note)


def _over_time(flows: Flows, omega: np.ndarray, times: Sequence[float]) -> Picture:
    """Spread beside the size of the flow, and the misfit at each time that was measured."""
    from matplotlib.figure import Figure

    misses = flows.misses or {}
    figure = Figure(figsize=(6 * (1 + bool(misses)), 3.4), layout="constrained")
    axes = figure.subplots(1, 1 + bool(misses), squeeze=False)[0]
    axes[0].plot(times, np.sqrt((omega**2).mean((0, 2, 3))), "k--", linewidth=1, label="vorticity")
    if len(omega) > 1:
        axes[0].plot(times, np.sqrt(omega.var(0, ddof=1).mean((1, 2))), label="spread of the members")
    for time in sorted({tool.time for tool in flows.sensors}):
        axes[0].axvline(time, color="0.75", linewidth=0.8, zorder=0)
    axes[0].set(xlabel="time", ylabel="root mean square", ylim=(0, None))
    axes[0].legend(fontsize=8)
    if misses:
        off = np.sqrt(np.stack(list(misses.values()), 1))
        axes[1].vlines(list(misses), off.min(0), off.max(0), alpha=0.4, label="range of the members")
        axes[1].plot(list(misses), off.mean(0), "o", markersize=4, label="mean of the members")
        axes[1].axhline(1, color="k", linestyle="--", linewidth=1, label="the noise")
        axes[1].set(xlabel="time", ylabel="root mean square misfit / noise", ylim=(0, None), xlim=axes[0].get_xlim())
        axes[1].legend(fontsize=8)
    note = "Thin lines: times at which something was measured." if flows.sensors else ""
    return Picture(
        title="Over time", alt="Spread and misfit over time", data=png(figure), note=note, broad=bool(misses)
    )
