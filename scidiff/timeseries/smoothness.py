"""How well each variable follows the line between its neighbours: the unit of what a model adds to that line."""

from __future__ import annotations

import torch

from scidiff.networks.neighbours import neighbours
from scidiff.timeseries.aliases import match
from scidiff.timeseries.batches import Standardised
from scidiff.timeseries.model import ImputerModel

_UNIT = 4.0  # mean absolute errors: the scale of an untrained network is then about that of the line's errors
_LEAST = 1e-2


def sharpened(model: ImputerModel, data: Standardised, *, trained: ImputerModel | None = None) -> ImputerModel:
    """The model with the units of its first guess set by training windows.

    Args:
        model: of the network "panel"; others come back as they are.
        data: training windows.
        trained: what it was warm-started from: variables of its names keep their units.
    """
    if model.config.network != "panel":
        return model
    units = errors_of_the_line(data)
    if trained is not None:
        names = trained.config.variables
        known = dict(zip(names, trained.config.units or (1.0,) * len(names), strict=True))
        found = match(model.config.variables, names)
        own = zip(model.config.variables, units, strict=True)
        units = tuple(known[found[name]] if name in found else unit for name, unit in own)
    return model.with_units(units)


def errors_of_the_line(data: Standardised) -> tuple[float, ...]:
    """`_UNIT` mean absolute errors of each variable, every observed value left out in turn; 1 where there are none."""
    around = neighbours(data.values, data.observed, data.times)
    judged = data.observed & (around.fresh > 0)
    error = torch.where(judged, (data.values - around.between).abs(), 0).double().sum((0, 1))
    mean = _UNIT * error / judged.sum((0, 1)).clamp_min(1)
    return tuple(torch.where(judged.any(0).any(0), mean.clamp(_LEAST, _UNIT), 1.0).tolist())
