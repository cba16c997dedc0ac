"""Ensembles as netCDF by the CF conventions: vorticity, u and v over realization, time, y, x."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import scidiff
from scidiff import atomic
from scidiff.errors import UserError, one_line
from scidiff.fluids.ensemble import Ensemble
from scidiff.fluids.model import FlowConfig

if TYPE_CHECKING:
    import xarray as xr

DIMS = ("realization", "time", "y", "x")
_NAMES = {"vorticity": "vorticity dv/dx - du/dy", "u": "velocity along x", "v": "velocity along y"}


def dataset(ensemble: Ensemble, config: FlowConfig, attributes: Mapping[str, Any]) -> xr.Dataset:
    """The ensemble over (realization, time, y, x), float64, one time."""
    import xarray as xr

    y, x = (axis.numpy() for axis in config.box.coordinates())
    coordinates = {
        "realization": ("realization", np.arange(len(ensemble), dtype=np.int32), {"standard_name": "realization"}),
        "time": ("time", np.zeros(1), {"long_name": "time", "units": "1", "axis": "T"}),
        "y": ("y", y, {"long_name": "y, periodic", "units": "1", "axis": "Y"}),
        "x": ("x", x, {"long_name": "x, periodic", "units": "1", "axis": "X"}),
    }
    values = {"vorticity": ensemble.vorticity, "u": ensemble.velocity[:, 0], "v": ensemble.velocity[:, 1]}
    variables = {
        name: (DIMS, values[name].cpu().numpy()[:, None], {"long_name": told, "units": "1"})
        for name, told in _NAMES.items()
    }
    fixed = {
        "Conventions": "CF-1.11",
        "title": "Ensemble of two-dimensional incompressible flow",
        "source": f"scidiff {scidiff.__version__}",
        "comment": f"dimensionless; periodic over {config.lengths[0]:.10g} in y and {config.lengths[1]:.10g} in x",
    }
    return xr.Dataset(variables, coordinates, {**fixed, **attributes})


def write(found: xr.Dataset, path: Path) -> None:
    """Write netCDF, whole or not at all, with what xarray finds installed; SciPy's netCDF 3 needs nothing more.

    Raises:
        UserError: it cannot be written.
    """
    try:
        atomic.write(path, found.to_netcdf)
    except (OSError, RuntimeError, ValueError) as error:
        raise UserError(f"cannot write {path}: {one_line(error)}") from error
