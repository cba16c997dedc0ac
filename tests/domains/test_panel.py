"""Panels and grids: which measurement stands in which cell, and where each cell and row is read from."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from scidiff.errors import UserError
from scidiff.timeseries.columns import Options
from scidiff.timeseries.frames import read_frame
from scidiff.timeseries.grid import irregular, regular
from scidiff.timeseries.panel import Panel


def panel(rows: list[tuple[str, float, str, float]], **options: object) -> Panel:
    table = pd.DataFrame(rows, columns=["id", "time", "variable", "value"])
    return read_frame(table, Options(**options))  # type: ignore[arg-type]


TWO = [
    ("b", 0.0, "HR", 70.0),
    ("b", 10.0, "Temp", 37.5),
    ("b", 59.9, "HR", 80.0),
    ("b", 60.0, "HR", 90.0),
    ("b", 185.0, "HR", -0.0),
    ("a", 130.0, "HR", 60.0),
]


def test_series_stand_in_order_of_appearance_and_rows_in_order_of_time() -> None:
    found = panel(TWO)
    assert list(found.ids) == ["b", "a"]
    assert found.variables == ("HR", "Temp")
    assert found.offsets.tolist() == [0, 5, 6]
    np.testing.assert_array_equal(found.times[0], [0, 10, 59.9, 60, 185])
    np.testing.assert_array_equal(found.values[0][:, 0], [70, np.nan, 80, 90, 0])
    np.testing.assert_array_equal(found.values[0][:, 1], [np.nan, 37.5, np.nan, np.nan, np.nan])
    np.testing.assert_array_equal(found.values[1], [[60, np.nan]])


def test_cells_hold_the_mean_or_the_last_of_their_measurements() -> None:
    found = panel(TWO)
    mean, last = regular(found, step=60.0), regular(found, step=60.0, how="last")
    assert mean.values.shape == (2, 4, 2)
    np.testing.assert_array_equal(mean.values[0, :, 0], [75, 90, np.nan, 0])
    np.testing.assert_array_equal(last.values[0, :, 0], [80, 90, np.nan, 0])
    assert np.signbit(mean.values[0, 3, 0])  # a value alone in its cell keeps every bit
    np.testing.assert_array_equal(mean.time[:, 0], [0, 120])  # a series begins with its first cell
    assert mean.length.tolist() == [4, 1]
    assert mean.row_cell.tolist() == [0, 0, 0, 1, 3, 4]
    assert not mean.mask[1, 1:].any()
    assert mean.real.sum() == 5


def test_a_common_grid_leaves_out_what_is_outside_of_it() -> None:
    grid = regular(panel(TWO), step=60.0, start=0.0, end=180.0)
    assert grid.values.shape == (2, 3, 2)
    assert grid.row_cell.tolist() == [0, 0, 0, 1, -1, 5]
    at_rows = grid.rows(np.arange(12.0).reshape(2, 3, 2))
    np.testing.assert_array_equal(at_rows[3], [2, 3])
    assert np.isnan(at_rows[4]).all()
    np.testing.assert_array_equal(at_rows[5], [10, 11])


def test_times_of_one_phase_are_the_times_of_the_cells() -> None:
    grid = regular(panel([("a", 30.0, "HR", 1.0), ("a", 150.0, "HR", 2.0)]), step=60.0)
    np.testing.assert_array_equal(grid.time, [[30, 90, 150]])


def test_a_time_that_rounding_puts_below_the_edge_belongs_above_it() -> None:
    rows = [("a", k / 10, "HR", float(k)) for k in range(31)] + [("a", 3.05, "HR", 31.0)]
    grid = regular(panel(rows), step=0.1, how="last")
    np.testing.assert_array_equal(grid.values[0, :30, 0], np.arange(30))


def test_irregular_times_are_kept() -> None:
    found = panel(TWO)
    grid = irregular(found)
    np.testing.assert_array_equal(grid.time[0], found.times[0])
    np.testing.assert_array_equal(grid.time[1], [130] * 5)
    np.testing.assert_array_equal(grid.rows(grid.values), found.value)
    assert grid.step is None


@pytest.mark.parametrize(("window", "overlap"), [(1, 0), (7, 0), (7, 3), (10, 9), (500, 2)])
def test_windows_cover_every_cell_and_are_read_where_it_is_farthest_from_an_edge(window: int, overlap: int) -> None:
    rows = [(str(s), float(k), "HR", 1000.0 * s + k) for s, n in enumerate((23, 7, 1, 8, 100)) for k in range(n)]
    found = panel(rows)
    grid = regular(found, step=1.0, window=window, overlap=overlap)
    np.testing.assert_array_equal(grid.rows(grid.values), found.value)
    np.testing.assert_array_equal(grid.rows(grid.time), found.time)
    assert len(set(grid.owner)) == len(grid.owner) == len(rows)
    assert grid.real.ravel()[grid.owner].all()
    # no window shows the cell farther from its edges than the owner does
    width = grid.values.shape[1]
    owner, place = np.divmod(grid.owner, width)
    distance = np.minimum(place, grid.length[owner] - 1 - place)
    for w in range(len(grid)):
        cells = grid.cell_offsets[grid.series[w]] + grid.start[w] + np.arange(grid.length[w])
        other = np.minimum(np.arange(grid.length[w]), grid.length[w] - 1 - np.arange(grid.length[w]))
        inner = (grid.start[w] > 0) & (grid.start[w] + grid.length[w] < np.diff(grid.cell_offsets)[grid.series[w]])
        if inner:  # at the ends of a series a window's edge is no edge
            assert (distance[cells] >= other - 1).all()


def test_a_step_in_the_wrong_unit_is_refused() -> None:
    table = pd.DataFrame({"time": pd.to_datetime(["2020-01-01", "2024-01-01"]), "x": [1.0, 2.0]})
    found = read_frame(table)
    with pytest.raises(UserError, match=r"step of 1e-06 over 1\.26.* give the step in s"):
        regular(found, step=1e-6)
    with pytest.raises(UserError, match="expected a number > 0, got -1"):
        regular(found, step=-1)


def test_dates_are_cut_at_local_midnight() -> None:
    stamps = pd.to_datetime(["2020-03-01 23:10", "2020-03-02 00:20"]).tz_localize("Asia/Kolkata")
    grid = regular(read_frame(pd.DataFrame({"time": stamps, "x": [1.0, 2.0]})), step=86400.0)
    np.testing.assert_array_equal(grid.values[0, :, 0], [1, 2])


def test_seconds_of_dates() -> None:
    stamps = pd.date_range("2020-03-29 00:00", periods=5, freq="h", tz="Europe/Berlin")  # through the change of clocks
    found = read_frame(pd.DataFrame({"time": stamps, "x": range(5)}))
    np.testing.assert_array_equal(np.diff(found.time), 3600)
    assert found.time[0] == pd.Timestamp("2020-03-28 23:00").timestamp()
    assert list(found.clock.back(found.time)) == list(stamps)


def test_selected_series_are_whole() -> None:
    found = panel(TWO)
    chosen = found.select([1, 0, 1])
    assert list(chosen.ids) == ["a", "b", "a"]
    np.testing.assert_array_equal(chosen.values[1], found.values[0])
    np.testing.assert_array_equal(chosen.times[2], found.times[1])


def test_duplicates_become_their_mean_or_the_last() -> None:
    rows = [("a", 0.0, "HR", 70.0), ("a", 0.0, "HR", 80.0), ("a", 0.0, "Temp", 37.0), ("a", 1.0, "HR", 5.0)]
    assert panel(rows, duplicates="mean").value[0].tolist() == [75, 37]
    assert panel(rows, duplicates="last").value[0].tolist() == [80, 37]
    wide = pd.DataFrame({"time": [0, 0, 1], "HR": [70.0, np.nan, 5.0], "Temp": [36.0, 38.0, np.nan]})
    assert read_frame(wide, Options(duplicates="last")).value[0].tolist() == [70, 38]
    assert read_frame(wide, Options(duplicates="mean")).value[0].tolist() == [70, 37]
    with pytest.raises(UserError, match=r"row 1, column 'time': expected one value at a time, .*the first: row 0"):
        read_frame(wide)
