"""Whole fields from netCDF: where a rollout starts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from torch import Tensor

from scidiff.errors import UserError
from scidiff.fluids.measured_rows import refuse_size, refuse_text
from scidiff.fluids.sensors import ROUNDING, opened, refuse_other_places
from scidiff.fluids.spectral import Box

if TYPE_CHECKING:
    import xarray as xr

_DIMS = ("realization", "time", "y", "x")
_DIVERGENCE = 1e-3  # relative, that float32 and centred output stay below
_APART = 1e-3  # of an interval, that times may be off


class Steps(Protocol):
    """Weights of a flow in time: how they see it."""

    @property
    def box(self) -> Box: ...

    @property
    def scale(self) -> float: ...

    @property
    def interval(self) -> float: ...


def read_fields(path: Path, config: Steps, *, frames: int = 1) -> Tensor:
    """The vorticity of a field or an ensemble at its last times: float64 [R, K, H, W].

    NetCDF with `vorticity`, or `u` and `v`, over (y, x) on the grid of the weights, with `time` before, and
    `realization` before that, if there are any. A mean of no more than `ROUNDING` times the greatest value is taken
    off.

    Args:
        path: the file.
        config: of the weights.
        frames: K; more than one are over `time`, an interval of the weights apart.

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
        _refuse_other_times(path, held, name, frames, config.interval)
        field = held[name].isel(time=slice(-frames, None)) if "time" in dims else held[name]
        values = np.asarray(field.values, dtype=np.float64)
        if values.shape[-2:] != box.shape:
            got = " x ".join(map(str, values.shape[-2:]))
            raise UserError(f"{path}: expected {name} on {box.shape[0]} x {box.shape[1]} points, got {got}")
        found.append(_whole(path, name, values.reshape(-1, *box.shape)).unflatten(0, (-1, frames)))
    vorticity = found[0] if len(found) == 1 else _curl(path, found, box)
    refuse_size(str(path), float(vorticity.abs().amax()), config.scale)
    return vorticity


def _curl(path: Path, found: list[Tensor], box: Box) -> Tensor:
    """Of u and v, [R, K, H, W] each."""
    if found[0].shape != found[1].shape:
        raise UserError(f"{path}: expected as many fields of v as of u, {len(found[0])}, got {len(found[1])}")
    velocity = torch.stack(found, -3)
    size = box.vorticity(velocity).abs().amax()
    if bool(box.divergence(velocity).abs().amax() > _DIVERGENCE * size):
        raise UserError(f"{path}: expected a velocity without divergence, got {_DIVERGENCE:g} of its curl or more")
    return box.vorticity(velocity)


def _refuse_other_times(path: Path, held: xr.Dataset, name: str, frames: int, interval: float) -> None:
    """UserError unless times ascend, and the last are as many as are asked for, an interval apart."""
    told = "time" in held[name].dims and "time" in held
    times = held["time"].values if told else np.empty(0)
    if frames > 1 or times.dtype.kind not in "mM":
        refuse_text(path, held, ("time",) * told)
        times = times.astype(np.float64)
    apart = np.diff(times)
    bad = np.flatnonzero(~(apart > 0 * apart))
    if len(bad):
        after, before = times[bad[0] + 1], times[bad[0]]
        raise UserError(f"{path}: expected ascending times, got {after} after {before}")
    if frames == 1:
        return
    if len(times) < frames:
        raise UserError(f"{path}: expected {name} at {frames} times at least, got {len(times)}")
    off = np.abs(apart[1 - frames :] - interval)
    if off.max() > _APART * interval:
        worst = apart[1 - frames :][off.argmax()]
        raise UserError(f"{path}: expected the last {frames} times {interval:g} apart, got {worst:g}")


def _whole(path: Path, name: str, values: np.ndarray) -> Tensor:
    """Fields [R, H, W] without gaps and without mean."""
    bad = np.argwhere(~np.isfinite(values))
    if len(bad):
        (_, j, i), first = bad[0], values[tuple(bad[0])]
        came = (
            f"none at y={j} x={i}: fill the gaps by `fluids reconstruct`"
            if np.isnan(first)
            else f"{first} at y={j} x={i}"
        )
        raise UserError(f"{path}: expected {name} at every point, got {came}")
    mean, most = np.abs(values.mean((1, 2))).max(), np.abs(values).max()
    if mean > ROUNDING * most:
        raise UserError(f"{path}: expected {name} without a mean over the box, got one of {mean:.3g}")
    return torch.from_numpy(values - values.mean((1, 2), keepdims=True))
