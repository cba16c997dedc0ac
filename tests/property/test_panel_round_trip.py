"""Whatever the table, what was observed comes back to the bit and to the letter, and every gap is filled."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

from scidiff.timeseries.arrays import draws_dataset, imputed_dataset, read_dataset
from scidiff.timeseries.columns import Options
from scidiff.timeseries.frames import read_frame
from scidiff.timeseries.grid import Grid, irregular, regular
from scidiff.timeseries.imputed import imputed_table
from scidiff.timeseries.panel import Panel
from scidiff.timeseries.readers import read_panel
from scidiff.timeseries.writers import write_dataset, write_table

NAMES = ("HR", "Temp", "pH,art", 'quo"ted')
finite = st.floats(-1e6, 1e6).filter(lambda x: x == 0 or abs(x) > 1e-2)
cells = st.one_of(st.none(), finite)
texts = st.one_of(
    st.sampled_from(["", "NA", "36.60", "-0.0", "1e2", "+5", "007", " 7", "1E-1", "120"]), finite.map(repr), st.just("")
)


@st.composite
def wide_tables(draw: Any, cell: Any = cells) -> pd.DataFrame:
    """Ragged series (one cell to a few rows each) of 1 to 4 variables, any of them all missing."""
    width = draw(st.integers(1, 4))
    lengths = draw(st.lists(st.integers(1, 6), min_size=1, max_size=4))
    times = [sorted(draw(st.sets(st.integers(0, 40), min_size=n, max_size=n))) for n in lengths]
    rows = [(f"p{s}", t) for s, ts in enumerate(times) for t in ts]
    table = pd.DataFrame(rows, columns=["id", "time"])
    for name in NAMES[:width]:
        empty = draw(st.booleans())
        column = [None if empty and cell is cells else "" if empty else draw(cell) for _ in rows]
        table[name] = np.array(column, dtype=np.float64 if cell is cells else object)
    return table


def estimates(grid: Grid) -> tuple[np.ndarray[Any, Any], dict[float, np.ndarray[Any, Any]]]:
    """A number of its own for every place of the grid, and quantiles around it."""
    median = 0.5 + np.arange(grid.values.size, dtype=np.float64).reshape(grid.values.shape)
    return median, {0.05: median - 0.25, 0.95: median + 0.25}


def bits(values: pd.Series[Any]) -> list[str]:
    return [float(x).hex() for x in values]


def check_wide(panel: Panel, grid: Grid, came: pd.DataFrame, out: pd.DataFrame, *, names: tuple[str, ...]) -> None:
    """`out` begins with every row of `came`, observed cells to the bit, gaps filled by the estimate of their cell."""
    median, _ = estimates(grid)
    at_row = grid.rows(median)
    keys = ["id", "time"]
    back = came[keys].merge(out.astype({"time": "float64"}), on=keys, how="left", validate="one_to_one")
    assert len(back) == len(came)
    for v, name in enumerate(names):
        gap = came[name].isna().to_numpy()
        assert bits(back[name][~gap]) == bits(came[name][~gap])
        np.testing.assert_array_equal(back[name][gap], at_row[gap, v])
        np.testing.assert_array_equal(back[f"{name}_p5"][gap], at_row[gap, v] - 0.25)
        assert back[f"{name}_p95"][~gap].isna().all()
        assert not out[name].isna().any()


@given(table=wide_tables(), step=st.sampled_from([1.0, 5.0, 7.5, None]), window=st.sampled_from([None, 3]))
def test_wide_frames(table: pd.DataFrame, step: float | None, window: int | None) -> None:
    panel = read_frame(table)
    grid = irregular(panel, window=window) if step is None else regular(panel, step=step, window=window)
    before = table.copy()
    out = imputed_table(panel, grid, *estimates(grid))
    pd.testing.assert_frame_equal(table, before)
    assert list(out.columns[: table.shape[1]]) == list(table.columns)
    check_wide(panel, grid, table, out, names=panel.variables)
    same = list(table.columns) if step != 7.5 else list(panel.variables)  # half minutes are no whole numbers
    assert (out.dtypes[same] == table.dtypes[same]).all()
    kept = imputed_table(panel, grid, *estimates(grid), complete=False)
    pd.testing.assert_index_equal(kept.index, table.index)
    # every step of the grid from the first row to the last is there
    assert len(out) == len(table) + len(grid.owner) - len(np.unique(grid.row_cell))


@given(table=wide_tables(), step=st.sampled_from([4.0, None]))
def test_long_and_wide_tables_are_the_same_panel(table: pd.DataFrame, step: float | None) -> None:
    long = table.melt(id_vars=["id", "time"]).dropna(subset=["value"]).reset_index(drop=True)
    if not len(long):
        return
    panel = read_frame(long)
    wide = read_frame(table)
    held = panel.observed
    assert held.sum() == wide.observed.sum()
    grid = irregular(panel) if step is None else regular(panel, step=step)
    median, quantiles = estimates(grid)
    out = imputed_table(panel, grid, median, quantiles)
    came = out[out["value_p5"].isna()]
    expected = long.sort_values(["id", "time", "variable"]).reset_index(drop=True)
    found = came[list(long.columns)].sort_values(["id", "time", "variable"]).reset_index(drop=True)
    pd.testing.assert_frame_equal(found, expected, check_exact=True)
    assert bits(found["value"]) == bits(expected["value"])
    # each cell and variable that nothing was observed in has one new row, with its own estimate
    new = out[out["value_p5"].notna()]
    observed = grid.cells(grid.mask)
    assert len(new) == (~observed).sum()
    assert sorted(new["value"]) == sorted(grid.cells(median)[~observed])


@given(table=wide_tables(cell=texts), newline=st.sampled_from(["\n", "\r\n"]), sign=st.sampled_from([",", ";", "\t"]))
def test_text_comes_back_to_the_letter(table: pd.DataFrame, newline: str, sign: str) -> None:
    names = tuple(table.columns[2:])
    with tempfile.TemporaryDirectory() as folder:
        path, back = Path(folder) / "in.csv", Path(folder) / "out.csv"
        text = table.to_csv(None, index=False, sep=sign, lineterminator=newline)
        path.write_bytes(text.encode())
        panel = read_panel(path, Options(variables=names))
        grid = irregular(panel)
        nothing = np.full(grid.values.shape, np.nan)
        assert panel.source is not None
        write_table(imputed_table(panel, grid, nothing, text=True), back, panel.source.text)
        assert back.read_bytes() == path.read_bytes()

        median, _ = estimates(grid)
        write_table(imputed_table(panel, grid, median, text=True), back, panel.source.text)
        found = pd.read_csv(back, sep=sign, dtype=str, keep_default_na=False)
    for v, name in enumerate(names):
        gap = np.isnan(panel.value[panel.source.row, v])
        assert list(found[name][~gap]) == list(table[name][~gap])
        assert [float(x) for x in found[name][gap]] == list(grid.rows(median)[panel.source.row][gap, v])


@given(table=wide_tables(), kind=st.sampled_from(["float32", "Float64", "Int64", "double[pyarrow]", "object"]))
def test_dtypes_stay(table: pd.DataFrame, kind: str) -> None:
    name = "HR"
    column = table[name].round() if kind == "Int64" else table[name]
    table = table.assign(HR=pd.Series(column.astype(object).where(column.notna(), None)).astype(kind))
    if kind == "object" and table[name].isna().all():
        return
    panel = read_frame(table, Options(variables=(name,)))
    grid = irregular(panel)
    out = imputed_table(panel, grid, *estimates(grid))
    assert out[name].dtype == table[name].dtype
    gap = table[name].isna()
    assert list(out[name][~gap]) == list(table[name][~gap])
    assert not out[name].isna().any()


@given(table=wide_tables(), single=st.booleans())
def test_parquet_and_indices(table: pd.DataFrame, single: bool) -> None:
    if single:
        table = table[table["id"] == "p0"].drop(columns="id").set_index("time")
        table.index = pd.to_datetime("2020-03-29") + pd.to_timedelta(table.index, unit="h")
        table.index = table.index.tz_localize("UTC").tz_convert("Europe/Berlin").rename("when")
    else:
        table = table.set_index(["id", "time"])
    with tempfile.TemporaryDirectory() as folder:
        path, back = Path(folder) / "in.parquet", Path(folder) / "out.parquet"
        write_table(table, path)
        panel = read_panel(path)
        grid = irregular(panel)
        nothing = np.full(grid.values.shape, np.nan)
        write_table(imputed_table(panel, grid, nothing), back)
        pd.testing.assert_frame_equal(pd.read_parquet(back), table, check_exact=True, check_freq=False)
        grid = regular(panel, step=1800.0 if single else 0.5)
        more = imputed_table(panel, grid, *estimates(grid))
        assert more.index.names == table.index.names
        found = more.loc[table.index, list(table.columns)]
        assert len(found) == len(table)
        assert not found.isna().any(axis=None)


@given(data=st.data(), kind=st.sampled_from(["float32", "float64"]))
def test_datasets(data: st.DataObject, kind: str) -> None:
    shape = (data.draw(st.integers(1, 3)), data.draw(st.integers(1, 5)))
    values = np.array(
        data.draw(st.lists(cells, min_size=shape[0] * shape[1], max_size=shape[0] * shape[1])), dtype=kind
    )
    came = xr.Dataset(
        {
            "HR": (("series", "time"), values.reshape(shape), {"units": "1/min"}),
            "ward": ("series", np.arange(shape[0])),
        },
        coords={
            "series": [f"s{k}" for k in range(shape[0])],
            "time": pd.date_range("2020", periods=shape[1], freq="h"),
        },
        attrs={"title": "made up"},
    )
    panel = read_dataset(came)
    grid = regular(panel, step=3600.0)
    assert panel.units == {"HR": "1/min"}
    median, quantiles = estimates(grid)
    out = imputed_dataset(panel, grid, median, quantiles)
    gap = np.isnan(values.reshape(shape))
    assert out["HR"].dtype == kind
    assert out.attrs == came.attrs
    assert out["HR"].attrs == came["HR"].attrs
    assert out["HR"].to_numpy()[~gap].tobytes() == values.reshape(shape)[~gap].tobytes()
    np.testing.assert_array_equal(out["HR"].to_numpy()[gap], grid.rows(median)[:, 0].reshape(shape)[gap])
    assert np.isnan(out["HR_quantile"].to_numpy()[:, ~gap]).all()

    draws = np.stack([median + k for k in range(3)], axis=1)
    found = draws_dataset(panel, grid, draws)
    assert found["value"].dims == ("series", "sample", "time", "variable")
    np.testing.assert_array_equal(found["time"], came["time"])
    for k in range(3):
        one = found["value"].to_numpy()[:, k, :, 0]
        assert one[~gap].tobytes() == values.reshape(shape)[~gap].astype(np.float64).tobytes()
        np.testing.assert_array_equal(one[gap], (grid.rows(median)[:, 0] + k).reshape(shape)[gap])
    with tempfile.TemporaryDirectory() as folder:
        write_dataset(found, Path(folder) / "draws.nc")
        xr.testing.assert_identical(xr.load_dataset(Path(folder) / "draws.nc"), found)
        write_dataset(came, Path(folder) / "in.nc")
        again = read_panel(Path(folder) / "in.nc")
    np.testing.assert_array_equal(again.value, panel.value)


@given(table=wide_tables(), step=st.sampled_from([5.0, None]))
def test_draws_of_ragged_series(table: pd.DataFrame, step: float | None) -> None:
    panel = read_frame(table)
    grid = irregular(panel, window=2) if step is None else regular(panel, step=step, window=2)
    median, _ = estimates(grid)
    found = draws_dataset(panel, grid, np.stack([median, -median], axis=1))
    value, observed = found["value"].to_numpy(), found["observed"].to_numpy()
    lengths = np.diff(grid.cell_offsets)
    for s, n in enumerate(lengths):
        own = grid.cell_series == s
        expected = np.where(grid.cells(grid.mask)[own], grid.cells(grid.values)[own], -grid.cells(median)[own])
        np.testing.assert_array_equal(value[s, 1, :n], expected)
        assert np.isnan(value[s, :, n:]).all()
        assert not observed[s, n:].any()


def test_a_column_in_the_place_of_a_quantile_is_refused() -> None:
    panel = read_frame(pd.DataFrame({"time": [0, 1], "x": [1.0, np.nan], "x_p5": [0.0, 1.0]}))
    grid = irregular(panel)
    with pytest.raises(Exception, match="expected no column 'x_p5'"):
        imputed_table(panel, grid, *estimates(grid))
