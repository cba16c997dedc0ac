"""Pictures of fields for a report: maps with the sensors, spectra, and how far each draw is from what was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from scidiff.fluids.asked import Asked
from scidiff.fluids.ensemble import Ensemble
from scidiff.fluids.model import FlowModel
from scidiff.fluids.oracle import Instrument
from scidiff.fluids.report import Picture, png
from scidiff.fluids.sensors import Sizes
from scidiff.fluids.spectral import Box
from scidiff.processes.stationary import Stationary

SPREAD = "spread (standard deviation)"
_SHOWN = 4  # members that are drawn


def of_ensemble(ensemble: Ensemble, asked: Asked, model: FlowModel) -> tuple[Picture, ...]:
    """Of an ensemble of vorticities, with the sensors."""
    box = model.config.box
    usual = usual_spectrum(model.prior, model.config)
    return (
        Picture(
            title="Vorticity",
            alt="Ensemble mean with the sensors, spread, and members",
            data=_maps(ensemble.vorticity.cpu().numpy(), box, asked.sensors),
            broad=True,
        ),
        of_spectrum({"the members": ensemble.vorticity}, box, usual=usual),
    )


def _maps(fields: np.ndarray, box: Box, tools: Sequence[Instrument]) -> str:
    """Mean, spread and a few of some fields [S, H, W], with the sensors: a PNG in base 64."""
    from matplotlib.figure import Figure

    panels, most = maps_of(fields, _SHOWN), float(np.abs(fields).max())
    high = -(-len(panels) // 3)
    figure = Figure(figsize=(4 * min(len(panels), 3), 3.1 * high), layout="compressed")
    axes = figure.subplots(high, min(len(panels), 3), squeeze=False).flatten()
    for axis, (title, field) in zip(axes, panels.items(), strict=False):
        figure.colorbar(draw_map(axis, field, box, shades_of(title, field, most)), ax=axis)
        axis.set_title(title, fontsize=10)
    for axis in axes[len(panels) :]:
        axis.set_axis_off()
    draw_sensors(axes[0], tools)
    return png(figure)


def maps_of(fields: np.ndarray, members: int) -> dict[str, np.ndarray]:
    """Mean, spread and a few members of fields [S, ...], by name; of one field alone, itself."""
    few = {f"member {k}": fields[k] for k in range(min(members, len(fields)))}
    return few if len(fields) == 1 else {"ensemble mean": fields.mean(0), SPREAD: fields.std(0, ddof=1), **few}


def draw_map(axis: Any, field: np.ndarray, box: Box, shades: Mapping[str, Any]) -> Any:
    """A field [H, W] of a box, y up. Returns the image."""
    (high, wide), (up, right) = (spacing / 2 for spacing in box.spacings), box.lengths
    extent = (-wide, right - wide, -high, up - high)  # a grid point is the middle of its pixel
    image = axis.imshow(field, origin="lower", extent=extent, **shades)
    axis.autoscale(enable=False)
    return image


def shades_of(title: str, fields: np.ndarray, most: float) -> dict[str, Any]:
    """Colours of maps of a title: of a spread from 0 to its greatest, of other fields from -most to most."""
    if title == SPREAD:
        return {"vmin": 0, "vmax": float(fields.max()), "cmap": "viridis"}
    return {"vmin": -most, "vmax": most, "cmap": "RdBu_r"}


def draw_sensors(axis: Any, tools: Sequence[Instrument]) -> None:
    """Points, lines and the edges of areas."""
    from matplotlib.collections import LineCollection

    points = [tool.start[::-1] for tool in tools if tool.kind == "point"]
    outlines = []
    for tool in tools:
        (y_0, x_0), (y_1, x_1) = tool.start, tool.end
        if tool.kind == "line":
            outlines.append([(x_0, y_0), (x_1, y_1)])
        elif tool.kind == "area":
            outlines.append([(x_0, y_0), (x_1, y_0), (x_1, y_1), (x_0, y_1), (x_0, y_0)])
    if points:
        axis.plot(*zip(*points, strict=True), "k.", markersize=2, clip_on=False)
    if outlines:
        axis.add_collection(LineCollection(outlines, colors="k", linewidths=0.8))


def usual_spectrum(prior: Stationary, config: Sizes) -> np.ndarray:
    """Mean square of the vorticity of fields of a prior by number of waves: [K]."""
    box, scale = config.box, config.scale
    known = prior.variance[0].double().cpu() * scale**2 / box.shape[0] / box.shape[1]
    twice = np.full(known.shape[1], 2.0)
    twice[[0, -1]] = 1
    found = np.bincount(box.shells().flatten().numpy(), (known.numpy() * twice).flatten())
    return np.asarray(found + box.spectrum(scale * prior.mean[0].double().cpu()).numpy())


def of_spectrum(fields: Mapping[str, Tensor], box: Box, *, usual: np.ndarray | None = None) -> Picture:
    """Mean square of vorticities [S, H, W] by number of waves, beside that of the training data where it is known."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axis, waves = figure.subplots(), slice(1, min(box.shape) // 2)
    number = np.arange(int(box.shells().max()) + 1)[waves]
    for name, vorticity in fields.items():
        ours = box.spectrum(vorticity).cpu().numpy()[:, waves]
        (line,) = axis.plot(number, ours.mean(0), label=f"mean of {name}")
        if len(ours) > 1:
            colour = line.get_color()
            axis.fill_between(number, ours.min(0), ours.max(0), alpha=0.25, color=colour, label=f"range of {name}")
    if usual is not None:
        axis.plot(number, usual[waves], "k--", linewidth=1, label="training data")
    axis.set(xscale="log", yscale="log", xlabel="waves a box", ylabel="mean square of vorticity")
    axis.legend(fontsize=8)
    return Picture(title="Spectrum", alt="Mean square of vorticity by number of waves", data=png(figure))


def of_misfit(misfit: np.ndarray, most: float) -> Picture:
    """The misfit of each member, [S], and the most that it may be."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(6, 3.0), layout="constrained")
    axis, number = figure.subplots(), np.arange(len(misfit))
    held, top = misfit <= most, 1.1 * max(most, float(misfit.max()))
    axis.plot(number[held], misfit[held], "o", markersize=4, label="certified")
    if not held.all():
        axis.plot(number[~held], misfit[~held], "rx", markersize=6, label="not certified")
    axis.axhline(most, color="k", linestyle="--", linewidth=1, label="the most that it may be")
    axis.set(xlabel="member", ylabel="misfit", ylim=(0, top), xlim=(-0.5, len(misfit) - 0.5))
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.legend(fontsize=8)
    note = "Mean square of what is off at the measured values, in units of their noise: about 1 where all is well."
    return Picture(title="Misfit of each member", alt="Misfit by member, and its bound", data=png(figure), note=note)
