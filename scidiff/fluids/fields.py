"""Ensembles as netCDF by the CF conventions: vorticity, u and v over realization, time, y, x."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

import scidiff
from scidiff import atomic
from scidiff.errors import UserError, one_line
from scidiff.fluids.ensemble import Ensemble
from scidiff.fluids.model import FlowConfig
from scidiff.fluids.spectral import Box

if TYPE_CHECKING:
    import xarray as xr

DIMS = ("realization", "time", "y", "x")
_NAMES = {"vorticity": "vorticity dv/dx - du/dy", "u": "velocity along x", "v": "velocity along y"}


def dataset(ensemble: Ensemble, config: FlowConfig, attributes: Mapping[str, Any]) -> xr.Dataset:
    """The ensemble over (realization, time, y, x), float64, one time."""
    title = "Ensemble of two-dimensional incompressible flow"
    flow = {"reynolds_number": round(1 / config.viscosity, 6), "forcing_waves": config.waves}
    told = {"title": title, **flow, **attributes}
    return in_time(ensemble.vorticity[:, None], ensemble.velocity[:, None], torch.zeros(1), config.box, told)


def in_time(vorticity: Tensor, velocity: Tensor, times: Tensor, box: Box, attributes: Mapping[str, Any]) -> xr.Dataset:
    """Flows over (realization, time, y, x), float64.

    Args:
        vorticity: [S, T, H, W].
        velocity: [S, T, 2, H, W].
        times: [T].
        box: where they are.
        attributes: of the data set, a title among them.
    """
    import xarray as xr

    y, x = (axis.numpy() for axis in box.coordinates())
    coordinates = {
        "realization": ("realization", np.arange(len(vorticity), dtype=np.int32), {"standard_name": "realization"}),
        "time": ("time", times.double().numpy(), {"long_name": "time", "units": "1", "axis": "T"}),
        "y": ("y", y, {"long_name": "y, periodic", "units": "1", "axis": "Y"}),
        "x": ("x", x, {"long_name": "x, periodic", "units": "1", "axis": "X"}),
    }
    values = {"vorticity": vorticity, "u": velocity[:, :, 0], "v": velocity[:, :, 1]}
    variables = {
        name: (DIMS, values[name].cpu().numpy(), {"long_name": told, "units": "1"}) for name, told in _NAMES.items()
    }
    fixed = {
        "Conventions": "CF-1.11",
        "source": f"scidiff {scidiff.__version__}",
        "comment": f"dimensionless; periodic over {box.lengths[0]:.10g} in y and {box.lengths[1]:.10g} in x",
    }
    return xr.Dataset(variables, coordinates, {**fixed, **attributes})


def write(found: xr.Dataset, path: Path) -> None:
    """Write netCDF, whole or not at all, without values that stand for missing ones: coordinates may have none (CF 5).

    It is made in memory first: where a disk is full when HDF5 closes a file, the process crashes later.

    Raises:
        UserError: it cannot be written.
    """
    encoding = {str(name): {"_FillValue": None} for name in found.variables}
    try:
        content = found.to_netcdf(encoding=encoding, engine="h5netcdf")
        atomic.write(path, lambda temporary: temporary.write_bytes(content))
    except (OSError, RuntimeError, ValueError) as error:
        raise UserError(f"cannot write {path}: {one_line(error)}") from error
