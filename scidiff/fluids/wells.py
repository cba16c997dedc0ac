"""Wells: pressures measured in a porous square, as a table tells them, and what must hold of a permeability.

Pressures between the centres of cells are interpolated (bilinear), down to 0 at the walls.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

import scidiff
from scidiff.errors import UserError
from scidiff.fluids import oracle
from scidiff.fluids.measured_rows import csv_rows, number, refuse_size, refuse_twins
from scidiff.fluids.pair_inversion import Given
from scidiff.fluids.pairs import PairConfig

if TYPE_CHECKING:
    import xarray as xr

IMBALANCE = 1e-9
"""Most that a cell may gain, as a share of what feeds it."""
_MOST = 2000


@dataclass(frozen=True, kw_only=True)
class Well:
    """A pressure at a place of the unit square.

    Attributes:
        place: (y, x).
        value: the pressure.
        name: for messages.
    """

    place: tuple[float, float]
    value: float
    name: str


def read_wells(path: Path, config: PairConfig) -> tuple[Well, ...]:
    """The wells of a CSV table with columns x, y and pressure, as the weights know it.

    Raises:
        UserError: what is wrong with it, in one line.
    """
    wells = []
    for where, row in csv_rows(path, places=("x", "y"), quantities=("pressure",)):
        y, x = (number(where, name, row[name]) for name in ("y", "x"))
        for name, at in (("y", y), ("x", x)):
            if not 0 < at < 1:
                raise UserError(f"{where}: expected {name} inside the walls, in (0, 1), got {at:g}")
        value, name = number(where, "pressure", row["pressure"]), f"the pressure of {where}"
        refuse_size(name, value, config.scale[1])
        wells.append(Well(place=(y, x), value=value, name=name))
    if not 0 < len(wells) <= _MOST:
        raise UserError(f"{path}: expected 1 to {_MOST} wells, got {len(wells)}")
    refuse_twins((well.place, well) for well in wells)
    return tuple(wells)


def given(wells: Sequence[Well], config: PairConfig, noise: float) -> Given:
    """What the wells tell of coefficient (nothing) and solution."""
    y, x = (_hats([well.place[axis] for well in wells], config.shape[0]) for axis in (0, 1))
    rows, nothing = y[:, :, None] * x[:, None], torch.zeros(0, *config.shape, dtype=torch.float64)
    values = torch.tensor([well.value for well in wells], dtype=torch.float64)
    return Given(rows=(nothing, rows), values=(values[:0], values), noise=(1.0, noise))


def _hats(at: Sequence[float], cells: int) -> Tensor:
    """Weights of the cells along one axis [M, cells] in what lies at some places, 0 at the walls."""
    place = torch.tensor(at, dtype=torch.float64)[:, None] * cells
    left = torch.cat([torch.zeros(1), torch.arange(cells) + 0.5]).double()
    right = torch.cat([torch.arange(cells) + 0.5, torch.full((1,), float(cells))]).double()
    share = (place - left) / (right - left)  # of each gap between neighbouring places with a value
    within = (place >= left) & (place < right)
    rising, falling = torch.where(within, share, 0)[:, :-1], torch.where(within, 1 - share, 0)[:, 1:]
    return rising + falling


def certificate(
    pairs: Tensor, wells: Sequence[Well], told: Given, bounds: tuple[float, float]
) -> dict[str, tuple[np.ndarray, float]]:
    """How far permeabilities and pressures [S, 2, N, N] are from each thing that must hold, [S], and the most allowed.

    By the oracle: the misfit at the wells over their number, the mass that a cell gains, and by how much bounds are
    exceeded, relative.
    """
    a, p = pairs.cpu().numpy().swapaxes(0, 1)
    places, values = np.array([well.place for well in wells]), np.array([well.value for well in wells])
    off = (oracle.in_square(p, places) - values) / told.noise[1]
    low, high = bounds
    beyond = np.maximum(np.maximum(low - a, a - high), 0).max((1, 2)) / high
    return {
        "misfit": ((off**2).mean(1), told.bound() / len(wells)),
        "mass balance": (np.abs(oracle.imbalance(a, p)).max((1, 2)), IMBALANCE),
        f"permeability in [{low:g}, {high:g}]": (beyond, 0.0),
    }


def dataset(pairs: Tensor, attributes: Mapping[str, Any]) -> xr.Dataset:
    """Permeabilities and pressures [S, 2, N, N] over (realization, y, x), float64, by the CF conventions."""
    import xarray as xr

    at = (np.arange(pairs.shape[-1]) + 0.5) / pairs.shape[-1]
    coordinates = {
        "realization": ("realization", np.arange(len(pairs), dtype=np.int32), {"standard_name": "realization"}),
        "y": ("y", at, {"long_name": "y", "units": "1", "axis": "Y"}),
        "x": ("x", at, {"long_name": "x", "units": "1", "axis": "X"}),
    }
    values = dict(zip(("permeability", "pressure"), pairs.cpu().numpy().swapaxes(0, 1), strict=True))
    variables = {
        name: (("realization", "y", "x"), value, {"long_name": name, "units": "1"}) for name, value in values.items()
    }
    fixed = {
        "Conventions": "CF-1.11",
        "title": "Ensemble of permeabilities of a porous square, and the pressures that they lead to",
        "source": f"scidiff {scidiff.__version__}",
        "comment": "dimensionless; -div(permeability grad pressure) = 1 on the unit square, pressure 0 around it",
    }
    return xr.Dataset(variables, coordinates, {**fixed, **attributes})
