"""The report of an ensemble: one HTML file that holds all it shows and opens offline."""

from __future__ import annotations

import base64
import datetime
import io
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

import scidiff
from scidiff import atomic
from scidiff.errors import UserError, one_line
from scidiff.fluids.asked import TOLERANCE, Asked
from scidiff.fluids.ensemble import Ensemble
from scidiff.fluids.model import FlowModel

_SHOWN = 4  # members that are drawn


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """Of an ensemble, PNGs in base 64.

    Attributes:
        title: what is shown.
        fields: mean, spread and members.
        spectrum: of the members.
    """

    title: str
    fields: str
    spectrum: str


def write_report(
    pictures: Pictures,
    certificate: Mapping[str, np.ndarray],
    path: Path,
    *,
    sensors: int,
    facts: Mapping[str, str],
    card: Mapping[str, Any],
    command: str,
) -> None:
    """Write the report, whole or not at all.

    Args:
        pictures: of the ensemble.
        certificate: how far each field is from each thing asked for, [S].
        path: the HTML file.
        sensors: how many values were measured.
        facts: of the run, beside when and by what it was done.
        card: of the model.
        command: how the run was started.

    Raises:
        UserError: the file cannot be written.
    """
    source = resources.files("scidiff.fluids").joinpath("report.html.jinja").read_text(encoding="utf-8")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    page = environment.from_string(source).render(
        count=len(next(iter(certificate.values()))),
        sensors=sensors,
        facts={
            **facts,
            "Written": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
            "scidiff": scidiff.__version__,
            "Python": platform.python_version(),
        },
        command=command,
        certificate={name: (float(np.max(off)), int((off <= TOLERANCE).sum())) for name, off in certificate.items()},
        tolerance=TOLERANCE,
        pictures=pictures,
        card=card,
    )
    try:
        atomic.write_text(path, page)
    except OSError as error:
        raise UserError(f"cannot write {path}: {one_line(error)}") from error


def pictures_of(ensemble: Ensemble, asked: Asked, model: FlowModel) -> Pictures:
    """Of an ensemble of vorticities, with the sensors."""
    return Pictures(title="Vorticity", fields=_fields(ensemble, asked, model), spectrum=_spectrum(ensemble, model))


def _fields(ensemble: Ensemble, asked: Asked, model: FlowModel) -> str:
    """Mean, spread and a few members of the vorticity, with the sensors: a PNG in base 64."""
    from matplotlib.figure import Figure

    omega = ensemble.vorticity.cpu().numpy()
    shown = min(_SHOWN, len(omega))
    figure = Figure(figsize=(4 * 3, 3.1 * (1 + -(-shown // 3) if shown > 1 else 1)), layout="compressed")
    panels = [("ensemble mean", omega.mean(0)), ("spread (standard deviation)", omega.std(0))]
    panels += [(f"member {k}", omega[k]) for k in range(shown)]
    axes = figure.subplots(-(-len(panels) // 3), 3, squeeze=False).flatten()
    most = float(np.abs(omega).max())
    half = [length / points / 2 for length, points in zip(model.config.lengths, model.config.shape, strict=True)]
    (high, wide), (up, right) = half, model.config.lengths
    extent = (-wide, right - wide, -high, up - high)  # a point of the grid is the middle of its pixel
    for axis, (title, field) in zip(axes, panels, strict=False):
        limits = (0, None, "viridis") if title.startswith("spread") else (-most, most, "RdBu_r")
        image = axis.imshow(field, origin="lower", extent=extent, vmin=limits[0], vmax=limits[1], cmap=limits[2])
        figure.colorbar(image, ax=axis)
        axis.set_title(title, fontsize=10)
        axis.autoscale(enable=False)
    for axis in axes[len(panels) :]:
        axis.set_axis_off()
    for tool in asked.sensors:
        (y_0, x_0), (y_1, x_1) = tool.start, tool.end
        if tool.kind == "point":
            axes[0].plot(x_0, y_0, "k.", markersize=2, clip_on=False)
        elif tool.kind == "line":
            axes[0].plot((x_0, x_1), (y_0, y_1), "k-", linewidth=0.8)
        else:
            axes[0].plot((x_0, x_1, x_1, x_0, x_0), (y_0, y_0, y_1, y_1, y_0), "k-", linewidth=0.8)
    return png(figure)


def _spectrum(ensemble: Ensemble, model: FlowModel) -> str:
    """Mean square of the vorticity by number of waves, beside that of the training data: a PNG in base 64."""
    from matplotlib.figure import Figure

    box, scale = model.config.box, model.config.scale
    ours = box.spectrum(ensemble.vorticity).cpu().numpy()
    known = model.prior.variance[0].double().cpu() * scale**2 / box.shape[0] / box.shape[1]
    twice = np.full(known.shape[1], 2.0)
    twice[[0, -1]] = 1
    training = np.bincount(box.shells().flatten().numpy(), (known.numpy() * twice).flatten())
    training += box.spectrum(scale * model.prior.mean[0].double().cpu()).numpy()
    waves = slice(1, min(box.shape) // 2)
    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axis = figure.subplots()
    number = np.arange(len(training))
    axis.fill_between(number[waves], ours.min(0)[waves], ours.max(0)[waves], alpha=0.25, label="range of the members")
    axis.plot(number[waves], ours.mean(0)[waves], label="mean of the members")
    axis.plot(number[waves], training[waves], "k--", linewidth=1, label="training data")
    axis.set(xscale="log", yscale="log", xlabel="waves a box", ylabel="mean square of vorticity")
    axis.legend(fontsize=8)
    return png(figure)


def png(figure: object) -> str:
    """A figure of matplotlib's as PNG in base 64."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=110, bbox_inches="tight", metadata={"Software": None})  # type: ignore[attr-defined]
    return base64.b64encode(stream.getvalue()).decode("ascii")
