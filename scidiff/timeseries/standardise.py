"""Panels on the scale and in the order that a model knows, and back.

z = (x - mean) / std,      t = (time - first time of the window) / step
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from scidiff.timeseries.aliases import match
from scidiff.timeseries.batches import Standardised
from scidiff.timeseries.grid import Grid
from scidiff.timeseries.model import ImputerConfig, ImputerModel
from scidiff.timeseries.panel import Floats, Ints, Panel
from scidiff.timeseries.recorded import Levels, levels, nearest

_CONSTANT = 1e-9  # a spread so much smaller than the values is rounding
_OTHER_UNIT = 6.0  # standard deviations between two means, or the ratio of two spreads: then units differ
_SECONDS = {
    **dict.fromkeys(("second", "seconds", "sec", "s"), 1.0),
    **dict.fromkeys(("minute", "minutes", "min"), 60.0),
    **dict.fromkeys(("hour", "hours", "hr", "h"), 3600.0),
    **dict.fromkeys(("day", "days", "d"), 86400.0),
}


def scale(values: npt.NDArray[Any]) -> tuple[Floats, Floats]:
    """Mean and standard deviation of each variable over what is observed: [V], [V] of values [..., V].

    A constant variable has the standard deviation 1, and one without values also the mean 0.
    """
    flat = np.asarray(values, dtype=np.float64).reshape(math.prod(values.shape[:-1]), values.shape[-1])
    seen = ~np.isnan(flat)
    count = np.maximum(seen.sum(0), 1)
    mean = np.where(seen, flat, 0).sum(0) / count
    std = np.sqrt(np.where(seen, (flat - mean) ** 2, 0).sum(0) / count)
    return mean, np.where(std > _CONSTANT * np.maximum(np.abs(mean), 1e-30), std, 1.0)


def typical_step(panel: Panel) -> float:
    """The median time between neighbouring rows of a series, in the panel's unit; 1 if no series has two rows."""
    gaps = np.diff(panel.time)[np.diff(panel.series) == 0]
    return float(np.median(gaps)) if len(gaps) else 1.0


def seconds_per_unit(panel: Panel) -> float | None:
    """How long the panel's unit of time is: 1 for dates and durations, else by the name of the column of times.

    None if that name tells nothing.
    """
    if panel.clock.kind != "number":
        return 1.0
    name = "" if panel.source is None else str(panel.source.time).casefold()
    return _SECONDS.get(name)


def covariates(panel: Panel, names: tuple[str, ...]) -> Floats:
    """Static covariates by name: [S, F], NaN where unknown. `NAME=k` is 1 where the column NAME is k, else 0."""
    table = np.full((len(panel), len(names)), np.nan)
    if panel.static is None:
        return table
    columns = {str(name): panel.static[name].to_numpy(dtype=np.float64) for name in panel.static.columns}
    matched = match(columns, [name.partition("=")[0] for name in names])
    found = {known: columns[name] for name, known in matched.items()}
    for f, name in enumerate(names):
        base, _, level = name.partition("=")
        if base in found:
            column = found[base]
            table[:, f] = np.where(np.isnan(column), np.nan, column == float(level)) if level else column
    return table


@dataclass(frozen=True, kw_only=True, eq=False)
class Translation:
    """How a panel of V variables is put before a model of its own U variables, and its answers back.

    Attributes:
        here, there: [M] which variables of the panel and of the model are the same.
        mean, std: [U] the scale of the model's variables, in the panel's units.
        step: the model's step of time, in the panel's unit.
        static: [S, F, 2] covariates: value (0 if unknown) and whether it is known.
        rescaled: variables of the panel whose units are not those of the model: their own scale stands in.
        levels: the values that each variable of the panel takes; () of continuous ones and those of another unit.
    """

    here: Ints
    there: Ints
    mean: Floats
    std: Floats
    step: float
    static: Tensor
    rescaled: tuple[str, ...] = ()
    levels: Levels = ()

    @classmethod
    def of(cls, model: ImputerModel, panel: Panel, *, step: float | None = None) -> Translation:
        """Match by name (`aliases.match`); values that cannot be in the model's units are put on their own scale.

        `step` is that of the grid, in the panel's unit.
        """
        config = model.config
        found = match(panel.variables, config.variables)
        here = np.array([v for v, name in enumerate(panel.variables) if name in found], dtype=np.int64)
        there = np.array([config.variables.index(found[panel.variables[v]]) for v in here], dtype=np.int64)
        mean, std = np.array(config.means, dtype=np.float64), np.array(config.stds, dtype=np.float64)
        own_mean, own_std = scale(panel.value)
        seen = panel.observed.sum(0) >= 20  # fewer do not tell a unit
        ratio = own_std[here] / std[there]
        far = np.abs(own_mean[here] - mean[there]) > _OTHER_UNIT * std[there]
        other = seen[here] & (far | (ratio > _OTHER_UNIT))
        mean[there[other]], std[there[other]] = own_mean[here[other]], own_std[here[other]]
        taken: list[tuple[float, ...]] = [()] * len(panel.variables)
        for v, u in zip(here[~other], there[~other], strict=True):
            taken[v] = config.levels[u] if config.levels else ()
        return cls(
            here=here,
            there=there,
            mean=mean,
            std=std,
            step=model_step(model, panel, step),
            static=_static(config, panel),
            rescaled=tuple(panel.variables[v] for v in here[other]),
            levels=tuple(taken),
        )

    def alike(self, model: ImputerModel, panel: Panel) -> Translation:
        """For other series of the same variables, on the same scale."""
        return replace(self, static=_static(model.config, panel))

    def across(self, x: npt.NDArray[Any], empty: float | bool) -> npt.NDArray[Any]:
        """From the panel's variables to the model's: [..., V] -> [..., U]."""
        out = np.full((*x.shape[:-1], len(self.mean)), empty, dtype=x.dtype)
        out[..., self.there] = x[..., self.here]
        return out

    def standardised(self, grid: Grid, window: int | slice = slice(None)) -> Standardised:
        """Windows of a grid of this panel as the model reads them: all, or one without its padding."""
        if isinstance(window, int):
            chosen, length = slice(window, window + 1), int(grid.length[window])
        else:
            chosen, length = window, grid.values.shape[1]
        z = (self.across(grid.values[chosen, :length].astype(np.float64), np.nan) - self.mean) / self.std
        time = grid.time[chosen, :length]
        return Standardised(
            values=torch.from_numpy(np.nan_to_num(z).astype(np.float32)),
            observed=torch.from_numpy(~np.isnan(z)),
            times=torch.from_numpy(((time - time[:, :1]) / self.step).astype(np.float32)),
            rows=torch.from_numpy(np.ascontiguousarray(grid.real[chosen, :length])),
            static=self.static[torch.from_numpy(grid.series[chosen])],
        )

    def units(self, z: npt.NDArray[Any], variables: int) -> Floats:
        """Standardised values of the model's variables in the panel's units: [..., U] -> [..., V], NaN for others."""
        out = np.full((*z.shape[:-1], variables), np.nan)
        out[..., self.here] = (self.mean + self.std * z)[..., self.there]
        return out

    def recorded(self, x: npt.NDArray[Any], variable: Ints) -> Floats:
        """Values [..., N] of variables [N] of the panel as it records them (`recorded.nearest`)."""
        return nearest(x, variable, self.levels)


def model_step(model: ImputerModel, panel: Panel, step: float | None) -> float:
    """The model's step of time in the panel's unit: by the clock if both tell one, else the model's own number.

    A model that tells its clock meets a table in an unknown unit: that counts in steps of the grid, or in its own rows.
    """
    length, unit = model.card.get("step_seconds"), seconds_per_unit(panel)
    if length is not None and unit is not None:
        return float(length) / unit
    return (step or typical_step(panel)) if length is not None else model.config.step


def config_of(panel: Panel, values: npt.NDArray[Any], *, step: float, sizes: dict[str, Any]) -> ImputerConfig:
    """What a new model of a panel's variables and covariates is; variables without a value are left out.

    Args:
        panel: the training series, and no others.
        values: [..., V] what is learned from.
        step: of time, in the panel's unit.
        sizes: of the network.
    """
    mean, std = scale(values)
    kept = ~np.isnan(values.reshape(-1, values.shape[-1])).all(0)
    names = () if panel.static is None else static_names(panel)
    static_mean, static_std = scale(covariates(panel, names)) if names else (np.empty(0), np.empty(0))
    return ImputerConfig(
        variables=tuple(name for name, keep in zip(panel.variables, kept, strict=True) if keep),
        means=tuple(mean[kept].tolist()),
        stds=tuple(std[kept].tolist()),
        static=names,
        static_means=tuple(static_mean.tolist()),
        static_stds=tuple(static_std.tolist()),
        step=step,
        levels=tuple(own for own, keep in zip(levels(values), kept, strict=True) if keep),
        **sizes,
    )


def static_names(panel: Panel) -> tuple[str, ...]:
    """Covariates of a panel: its columns; of whole numbers with 3 to 8 values, which are codes, one for each value."""
    names: list[str] = []
    for name in [] if panel.static is None else panel.static.columns:
        column = panel.static[name].to_numpy(dtype=np.float64)  # type: ignore[index]
        levels = np.unique(column[~np.isnan(column)])
        coded = 3 <= len(levels) <= 8 and bool(np.all(levels == np.rint(levels))) and len(levels) < len(panel) / 4
        names += [f"{name}={level:g}" for level in levels] if coded else [str(name)]
    return tuple(names)


def _static(config: ImputerConfig, panel: Panel) -> Tensor:
    if not config.static:
        return torch.zeros(len(panel), 0, 2)
    z = (covariates(panel, config.static) - np.array(config.static_means)) / np.array(config.static_stds)
    return torch.from_numpy(np.stack([np.nan_to_num(z), ~np.isnan(z)], axis=-1).astype(np.float32))
