"""Files of imputed tables and of draws: what is installed, full disks, and places that cannot be written."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from scidiff.atomic import check_writable
from scidiff.errors import UserError
from scidiff.timeseries import writers
from scidiff.timeseries.arrays import draws_dataset
from scidiff.timeseries.frames import read_frame
from scidiff.timeseries.grid import irregular
from scidiff.timeseries.writers import write_dataset, write_table


@pytest.mark.parametrize("engine", ["h5netcdf", "scipy"])
def test_draws_are_written_with_what_is_installed(tmp_path: Path, engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if engine == "h5netcdf":
        pytest.importorskip("h5netcdf")
    monkeypatch.setattr(writers, "netcdf_engine", lambda: engine)
    stamps = pd.date_range("2020", periods=3, freq="h", tz="Asia/Kolkata")
    frame = pd.DataFrame({"id": ["a", "a", "ä"], "time": stamps, "x": [1.0, np.nan, 3.0]})
    panel = read_frame(frame)
    grid = irregular(panel)
    draws = draws_dataset(panel, grid, np.arange(8.0).reshape(2, 2, 2, 1), attributes={"seed": 3})
    write_dataset(draws, tmp_path / "draws.nc")
    back = xr.load_dataset(tmp_path / "draws.nc")
    np.testing.assert_array_equal(back["value"], draws["value"])
    np.testing.assert_array_equal(back["observed"], draws["observed"])
    assert list(back["series"].to_numpy()) == ["a", "ä"]
    assert back["stamp"].to_numpy()[0, 0] == np.datetime64("2019-12-31T18:30")
    assert np.isnat(back["stamp"].to_numpy()[1, 1])
    assert back.attrs == {"seed": 3, "time_zone": "UTC"}


def test_what_cannot_be_written_is_told_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = pd.DataFrame({"t": [1], "x": [2.0]})
    for path in (tmp_path / "no" / "out.csv", tmp_path, tmp_path / ("a" * 300 + ".csv")):
        with pytest.raises(UserError, match="cannot write"):
            check_writable(path)
    with pytest.raises(UserError, match=r"expected a file name ending in \.csv"):
        write_table(table, tmp_path / "out.xlsx")
    old = tmp_path / "out.csv"
    old.write_text("old")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    for name in ("out.csv", "out.csv.gz", "out.parquet"):
        with pytest.raises(UserError, match=rf"cannot write .*{name}: No space left on device"):
            write_table(table, tmp_path / name)
    with pytest.raises(UserError, match=r"out\.nc: No space left on device"):
        write_dataset(xr.Dataset({"x": ("t", [1.0])}), tmp_path / "out.nc")
    assert old.read_text() == "old"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.csv"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("name", ["out.csv", "out.csv.gz", "out.parquet", "out.nc"])
def test_a_full_disk(tmp_path: Path, name: str) -> None:
    (tmp_path / f".{name}.{os.getpid()}.part").symlink_to("/dev/full")
    many = np.random.default_rng(0).normal(size=100_000)
    frame, dataset = pd.DataFrame({"t": many, "x": many}), xr.Dataset({"x": ("t", many)})
    with pytest.raises(UserError, match=rf"cannot write .*{name}"):
        write_dataset(dataset, tmp_path / name) if name == "out.nc" else write_table(frame, tmp_path / name)
    assert list(tmp_path.iterdir()) == []
