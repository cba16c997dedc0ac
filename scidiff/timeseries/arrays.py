"""xarray Datasets and netCDF: series by time, one data variable a variable; and draws as a Dataset."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from scidiff.errors import UserError, one_line
from scidiff.timeseries.columns import TIMES, Options, known
from scidiff.timeseries.grid import Array, Grid
from scidiff.timeseries.panel import Ints, Panel, Source, build
from scidiff.timeseries.parse import Where, check_finite, times
from scidiff.timeseries.tables import check_scale

_NONE: Ints = np.empty(0, dtype=np.int64)


def read_netcdf(path: Path, options: Options) -> Panel:
    """The panel of a netCDF file. UserError if it is none, or no engine that is installed reads it."""
    try:
        dataset = xr.load_dataset(path)
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"cannot read {path} as netCDF: {one_line(error)}") from None
    return read_dataset(dataset, options, name=str(path))


def read_dataset(dataset: xr.Dataset, options: Options | None = None, *, name: str = "dataset") -> Panel:
    """The panel of a Dataset with a dimension of time and perhaps one of series.

    Variables are the data variables of numbers over just these dimensions; others are carried along. Units come from
    the attribute `units`.

    Args:
        dataset: never changed.
        options: `id` and `time` name the dimensions, `variables` the variables.
        name: what messages call it.

    Raises:
        UserError: dimensions that cannot be told, times out of order, infinite values.
    """
    options = options or Options()
    id_, time_dim = _dimensions(dataset, options, name)
    names = _variables(dataset, options, {d for d in (id_, time_dim) if d is not None}, name)
    stamps, clock = times(_coordinate(dataset, time_dim), Where(name=name))
    back = np.flatnonzero(~(np.diff(stamps) > 0))
    if len(back) or np.isnan(stamps).any():
        raise UserError(f"{name}, coordinate {time_dim!r}: expected times that increase, got otherwise at {back[:1]}")
    ids = pd.Index([0]) if id_ is None else pd.Index(_coordinate(dataset, id_))
    if not ids.is_unique:
        raise UserError(
            f"{name}, coordinate {id_!r}: expected identities that differ, got {ids[ids.duplicated()][0]!r} twice"
        )
    count, length = len(ids), len(stamps)
    order = (time_dim,) if id_ is None else (id_, time_dim)
    value = np.stack([dataset[n].transpose(*order).to_numpy().reshape(-1).astype(np.float64) for n in names], axis=-1)

    def cell(row: int, v: int) -> str:
        return f"{name}, variable {names[v]!r}, series {ids[row // length]!r}, time {row % length}"

    for v in range(len(names)):
        check_finite(value[:, v], lambda row, v=v: cell(row, v))  # type: ignore[misc]
    check_scale(names, value, cell)
    return build(
        ids=ids,
        variables=tuple(names),
        series=np.repeat(np.arange(count), length),
        time=np.tile(stamps, count),
        value=value,
        clock=clock,
        units={n: str(dataset[n].attrs["units"]) for n in names if "units" in dataset[n].attrs},
        source=Source(
            layout="array",
            table=dataset,
            id=id_,
            time=time_dim,
            row=np.arange(count * length),
            series=_NONE,
            at=np.empty(0),
            code=_NONE,
        ),
    )


def _dimensions(dataset: xr.Dataset, options: Options, name: str) -> tuple[str | None, str]:
    dims = [str(d) for d in dataset.sizes]
    for role, wanted in (("--id", options.id), ("--time", options.time)):
        if wanted is not None:
            known(wanted, dims, what=role, where=name)
    dated = [d for d in dims if d in dataset.coords and dataset[d].dtype.kind == "M"]
    time = options.time or next((d for d in dims if d.lower() in TIMES), None) or (dated[0] if dated else None)
    if time is None:
        raise UserError(f"{name}: expected a dimension of time, got {', '.join(dims) or 'none'}: name it with --time")
    others = [d for d in dims if d != time and any({d, time} == set(a.dims) for a in dataset.data_vars.values())]
    if options.id is None and len(others) > 1:
        raise UserError(f"{name}: expected one dimension of series, got {', '.join(others)}: name it with --id")
    return options.id or (others[0] if others else None), time


def _variables(dataset: xr.Dataset, options: Options, dims: set[str], name: str) -> list[str]:
    able = [str(n) for n, array in dataset.data_vars.items() if set(array.dims) == dims and array.dtype.kind in "fiu"]
    for wanted in options.variables or ():
        known(wanted, able, what="variables", where=name)
    names = list(options.variables or able)
    if not names:
        raise UserError(f"{name}: expected data variables of numbers over {', '.join(sorted(dims))}, got none")
    return names


def _coordinate(dataset: xr.Dataset, dim: str) -> pd.Series[Any]:
    return pd.Series(dataset[dim].to_numpy(), name=dim)  # without a coordinate: 0, 1, 2, ...


def imputed_dataset(
    panel: Panel, grid: Grid, median: Array, quantiles: Mapping[float, Array] | None = None
) -> xr.Dataset:
    """The Dataset that came with its gaps filled, and `NAME_quantile` over (quantile, series, time) for each variable.

    Observed values, dtypes, attributes and coordinates are untouched; quantiles are NaN where something was observed.
    Arguments as for `imputed.imputed_table`.
    """
    source = panel.source
    if source is None or source.layout != "array":
        raise ValueError("expected a panel that was read from a Dataset, got one that was not")
    dataset: xr.Dataset = source.table.copy()
    order = tuple(d for d in (source.id, source.time) if d is not None)
    levels = dict(sorted((quantiles or {}).items()))
    for v, name in enumerate(panel.variables):
        came = dataset[name].transpose(*order)
        gap = np.isnan(panel.value[:, v]).reshape(came.shape)
        found = grid.rows(median[:, :, v]).reshape(came.shape)
        if came.dtype.kind == "f":
            filled = np.where(gap & ~np.isnan(found), found.astype(came.dtype), came.to_numpy())
            dataset[name] = came.copy(data=filled).transpose(*dataset[name].dims)
            # packed integers on the disk could not hold the new values
            dataset[name].encoding = {}
        if levels:
            each = np.stack([np.where(gap, grid.rows(q[:, :, v]).reshape(came.shape), np.nan) for q in levels.values()])
            dataset[f"{name}_quantile"] = (("quantile", *order), each, dict(came.attrs))
    if levels:
        dataset = dataset.assign_coords(quantile=list(levels))
    return dataset


def draws_dataset(panel: Panel, grid: Grid, draws: Array, *, attributes: Mapping[str, Any] | None = None) -> xr.Dataset:
    """All draws: `value` over (series, sample, time, variable), `observed` over (series, time, variable).

    Where something was observed, every draw holds what was observed in that cell, to the bit. Series that are shorter
    than the longest end in NaN.

    Args:
        panel: S series.
        grid: of this panel.
        draws: [W, K, L, V] of K samples.
        attributes: of the Dataset: seed, model, ...

    Returns:
        Coordinates: `series` (identities), `sample`, `variable` with `units`, `time`: the times of the cells if all
        series share them; else the number of the cell, and `stamp` over (series, time) has the times.
    """
    count = np.diff(grid.cell_offsets)
    size, width, samples = int(count.max()), len(panel.variables), draws.shape[1]
    mask, values = grid.cells(grid.mask), grid.cells(grid.values)
    found = grid.cells(np.moveaxis(draws, 1, 2))  # [C, K, V]
    found = np.where(mask[:, None], values[:, None].astype(found.dtype), found)
    series, place = grid.cell_series, np.arange(len(grid.cell_time)) - np.repeat(grid.cell_offsets[:-1], count)
    value = np.full((len(panel), samples, size, width), np.nan, dtype=found.dtype)
    value[series, :, place] = found
    observed = np.zeros((len(panel), size, width), dtype=bool)
    observed[series, place] = mask
    stamp = np.full((len(panel), size), np.nan)
    stamp[series, place] = grid.cell_time
    shared = bool((stamp == stamp[:1]).all())
    coords: dict[str, Any] = {
        "series": np.asarray(panel.ids.astype(str) if panel.ids.dtype != np.int64 else panel.ids),
        "sample": np.arange(samples),
        "variable": list(panel.variables),
        "units": ("variable", [panel.units.get(name, "") for name in panel.variables]),
        "time": _stamps(panel, stamp[0]) if shared else np.arange(size),
    }
    if not shared:
        coords["stamp"] = (("series", "time"), _stamps(panel, stamp))
    dataset = xr.Dataset(
        {
            "value": (("series", "sample", "time", "variable"), value),
            "observed": (("series", "time", "variable"), observed),
        },
        coords=coords,
        attrs=dict(attributes or {}),
    )
    if panel.clock.zone is not None:
        dataset.attrs["time_zone"] = "UTC"
    return dataset


def _stamps(panel: Panel, time: Array) -> Array:
    """Times as xarray holds them: numbers, or dates without a zone (UTC)."""
    if panel.clock.kind != "date":
        return time
    missing = np.isnan(time)
    stamps = np.round(np.where(missing, 0.0, time) * 1e6).astype("int64").astype("datetime64[us]")
    stamps[missing] = np.datetime64("NaT")
    return stamps.astype("datetime64[ns]")
