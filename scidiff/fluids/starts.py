"""Whole fields from netCDF: where a rollout starts, or what a flow came to."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from scidiff.errors import UserError
from scidiff.fluids.measured_rows import refuse_size
from scidiff.fluids.sensors import ROUNDING, opened, refuse_other_places
from scidiff.fluids.spectral import Box
from scidiff.fluids.transition import TransitionConfig

_DIMS = ("realization", "time", "y", "x")
_DIVERGENCE = 1e-3  # relative, that float32 and centred output stay below


def read_fields(path: Path, config: TransitionConfig) -> Tensor:
    """The vorticity of a field or an ensemble: float64 [R, H, W].

    NetCDF with `vorticity`, or `u` and `v`, over (y, x) on the grid of the weights, with `time` before, of which the
    last is taken, and `realization` before that, if there are any. A mean of no more than `ROUNDING` times the greatest
    value is taken off.

    Raises:
        UserError: what is wrong with it, in one line.
    """
    (held, names), box = opened(path), config.box
    names = ["vorticity"] if "vorticity" in names else names
    if names not in (["vorticity"], ["u", "v"]):
        raise UserError(f"{path}: expected vorticity, or both u and v, got {names[0]} alone")
    refuse_other_places(path, held, dict(zip("yx", box.coordinates(), strict=True)), "points")
    found = []
    for name in names:
        dims = held[name].dims
        if dims not in [tuple(d for d in _DIMS[k:] if d != left) for k in range(3) for left in ("", "time")]:
            raise UserError(f"{path}: expected {name} over {_DIMS}, the first two if there are any, got {dims}")
        if not held[name].size:
            raise UserError(f"{path}: expected at least one field of {name}, got none")
        field = held[name].isel(time=-1) if "time" in dims else held[name]
        values = np.asarray(field.values, dtype=np.float64)
        if values.shape[-2:] != box.shape:
            got = " x ".join(map(str, values.shape[-2:]))
            raise UserError(f"{path}: expected {name} on {box.shape[0]} x {box.shape[1]} points, got {got}")
        found.append(_whole(path, name, values.reshape(-1, *box.shape)))
    vorticity = found[0] if len(found) == 1 else _curl(path, found, box)
    refuse_size(str(path), float(vorticity.abs().amax()), config.scale)
    return vorticity


def _curl(path: Path, found: list[Tensor], box: Box) -> Tensor:
    """Of u and v, [R, H, W] each."""
    if found[0].shape != found[1].shape:
        raise UserError(f"{path}: expected as many fields of v as of u, {len(found[0])}, got {len(found[1])}")
    velocity = torch.stack(found, 1)
    size = box.vorticity(velocity).abs().amax()
    if bool(box.divergence(velocity).abs().amax() > _DIVERGENCE * size):
        raise UserError(f"{path}: expected a velocity without divergence, got {_DIVERGENCE:g} of its curl or more")
    return box.vorticity(velocity)


def _whole(path: Path, name: str, values: np.ndarray) -> Tensor:
    """Fields [R, H, W] without gaps and without mean."""
    bad = np.argwhere(~np.isfinite(values))
    if len(bad):
        _, j, i = bad[0]
        raise UserError(
            f"{path}: expected {name} at every point, got none at y={j} x={i}: fill the gaps by `fluids reconstruct`"
        )
    mean, most = np.abs(values.mean((1, 2))).max(), np.abs(values).max()
    if mean > ROUNDING * most:
        raise UserError(f"{path}: expected {name} without a mean over the box, got one of {mean:.3g}")
    return torch.from_numpy(values - values.mean((1, 2), keepdims=True))
