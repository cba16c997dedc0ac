"""Ensembles of winds: drawn from stations, certified, as netCDF by the CF conventions, and as maps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

import scidiff
from scidiff.errors import UserError
from scidiff.fluids import ensemble
from scidiff.fluids.report import Picture, png
from scidiff.fluids.stations import Station, facts, misfit
from scidiff.fluids.winds import WindConfig, WindModel

if TYPE_CHECKING:
    import xarray as xr

DIMS = ("realization", "time", "lat", "lon")
_SHOWN = 4  # members that are drawn


@dataclass(frozen=True, kw_only=True, eq=False)
class Winds:
    """Winds that were drawn.

    Attributes:
        wind: float64 [S, 2, H, W], u first, m/s.
        calls: of the network for each.
        seed: of the run.
    """

    wind: Tensor
    calls: int
    seed: int

    def __len__(self) -> int:
        return len(self.wind)


@dataclass(frozen=True, kw_only=True)
class WindTask:
    """Winds of one month from stations.

    Attributes:
        model: the weights.
        stations: what was measured.
        month: 0 to 11.
    """

    model: WindModel
    stations: tuple[Station, ...]
    month: int

    @property
    def card(self) -> Mapping[str, Any]:
        """Of the model."""
        return self.model.card

    @property
    def sensors(self) -> int:
        """How many values were measured."""
        return len(self.stations)

    def draw(
        self, *, samples: int, seed: int, calls: int | None, progress: Callable[[int, int], None] | None = None
    ) -> Winds:
        """The ensemble."""
        usual, calls = self.model.usual(self.month), calls or ensemble.CALLS
        constraint = facts(self.stations, self.model.config, usual)
        found = ensemble.drawn(self.model, constraint, samples=samples, seed=seed, calls=calls, progress=progress)
        return Winds(wind=unstacked(found, self.model.config, usual), calls=calls, seed=seed)

    def certificate(self, found: Winds) -> dict[str, np.ndarray]:
        """How far each field is from the stations, relative: name -> [S]."""
        off = misfit(found.wind.cpu().numpy(), self.stations, self.model.config)
        return {f"{len(self.stations)} measured values": off.max(1)}

    def dataset(self, found: Winds, attributes: Mapping[str, Any]) -> xr.Dataset:
        """The ensemble over (realization, time, lat, lon), float64, one time: the month."""
        import xarray as xr

        config = self.model.config
        coordinates = {
            "realization": ("realization", np.arange(len(found), dtype=np.int32), {"standard_name": "realization"}),
            "time": ("time", np.array([self.month + 1.0]), {"long_name": "month of the year", "units": "1"}),
            "lat": ("lat", config.latitudes.numpy(), {"standard_name": "latitude", "units": "degrees_north"}),
            "lon": ("lon", config.longitudes.numpy(), {"standard_name": "longitude", "units": "degrees_east"}),
        }
        values = found.wind.cpu().numpy()[:, :, None]
        variables = {
            name: (DIMS, values[:, c], {"standard_name": standard, "units": "m s-1"})
            for c, (name, standard) in enumerate({"u": "eastward_wind", "v": "northward_wind"}.items())
        }
        fixed = {
            "Conventions": "CF-1.11",
            "title": "Ensemble of monthly surface winds",
            "source": f"scidiff {scidiff.__version__}",
        }
        return xr.Dataset(variables, coordinates, {**fixed, **attributes})

    def pictures(self, found: Winds) -> tuple[Picture, ...]:
        """Maps of the speed of the mean wind, its spread and members, and the power by waves around the Earth."""
        return (
            Picture(
                title="Wind, m/s",
                alt="Ensemble mean, members, and spread with the stations",
                data=_maps(found, self.stations, self.model.config),
                broad=True,
            ),
            Picture(
                title="Spectrum",
                alt="Mean square of anomalies by waves around a parallel",
                data=_spectrum(found, self.model.usual(self.month)),
            ),
        )


def unstacked(x: Tensor, config: WindConfig, usual: Tensor) -> Tensor:
    """Winds in m/s of what the model draws: [S, 1, 2 H, W] -> [S, 2, H, W]."""
    return usual + config.scale * x[:, 0].unflatten(1, (2, config.shape[0]))


def month_of(month: int | None) -> int:
    """0 to 11 from 1 to 12; UserError for none."""
    if month is None:
        raise UserError("--month: expected 1 to 12 with weights of winds, whose climatology it is, got none")
    return month - 1


def _maps(found: Winds, stations: Sequence[Station], config: WindConfig) -> str:
    from matplotlib.figure import Figure

    wind = found.wind.cpu().numpy()
    panels = [("ensemble mean", wind.mean(0)), *((f"member {k}", wind[k]) for k in range(min(_SHOWN, len(wind))))]
    figure = Figure(figsize=(13, 2.6 * -(-(len(panels) + 1) // 2)), layout="constrained")
    axes = figure.subplots(-(-(len(panels) + 1) // 2), 2, squeeze=False).flatten()
    longitudes, latitudes = config.longitudes.numpy(), config.latitudes.numpy()
    extent = (longitudes[0], longitudes[-1], -90, 90)
    most = float(np.hypot(wind[:, 0], wind[:, 1]).max())
    for axis, (title, field) in zip(axes, panels, strict=False):
        image = axis.imshow(np.hypot(*field), origin="lower", extent=extent, vmin=0, vmax=most, aspect="auto")
        axis.quiver(longitudes[::6], latitudes[::4], *field[:, ::4, ::6], color="white", width=0.0015, scale=250)
        axis.set_title(title, fontsize=10)
        figure.colorbar(image, ax=axis, shrink=0.85, label="m/s")
    spread = axes[len(panels)]
    image = spread.imshow(
        np.hypot(*wind.std(0, ddof=min(1, len(wind) - 1))),
        origin="lower",
        extent=extent,
        vmin=0,
        aspect="auto",
        cmap="magma",
    )
    spread.set_title("spread (standard deviation), and the stations", fontsize=10)
    figure.colorbar(image, ax=spread, shrink=0.85, label="m/s")
    places = np.array([[config.west + (s.longitude - config.west) % 360, s.latitude] for s in stations])
    spread.plot(places[:, 0], places[:, 1], "c.", markersize=2)
    for axis in axes[len(panels) + 1 :]:
        axis.set_axis_off()
    return png(figure)


def _spectrum(found: Winds, usual: Tensor) -> str:
    """Mean square of what the climatology does not tell, by waves around the Earth."""
    from matplotlib.figure import Figure

    waves = torch.fft.rfft(found.wind - usual, norm="forward").abs().square().sum(1).mean(1).cpu().numpy()
    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axis, number = figure.subplots(), np.arange(1, waves.shape[1] - 1)
    axis.fill_between(number, waves.min(0)[1:-1], waves.max(0)[1:-1], alpha=0.25, label="range of the members")
    axis.plot(number, waves.mean(0)[1:-1], label="mean of the members")
    axis.set(xscale="log", yscale="log", xlabel="waves around a parallel", ylabel="mean square of anomalies, m2/s2")
    axis.legend(fontsize=8)
    return png(figure)
