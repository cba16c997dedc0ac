"""`scidiff fluids`: fields that meet sensors, the same in any company, and one line for what is wrong."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from typer.testing import CliRunner

from scidiff.cli.main import app
from scidiff.fluids import oracle
from scidiff.fluids.asked import usual
from scidiff.fluids.constraints import energy, enstrophy
from scidiff.fluids.model import FlowConfig, FlowModel
from scidiff.fluids.spectral import Box
from scidiff.processes.stationary import Stationary

BOX = Box(shape=(16, 16))


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    """Of a Gaussian field: the network answers 0."""
    variance = 6.0 / (1 + BOX.shells().double()) ** 3
    variance[0, 0] = 0
    prior = Stationary(mean=torch.zeros(1, 16, 16), variance=variance[None])
    sizes = FlowConfig(shape=(16, 16), lengths=BOX.lengths, scale=4.0, waves=2, widths=(8,), blocks=1)
    folder = tmp_path_factory.mktemp("weights") / "model"
    FlowModel.create(sizes, prior).save(folder)
    return folder


SENSORS = """x,y,vorticity,u,v,x_end,y_end,kind
0.5,1.0,3.0,,,,,
4.0,2.5,,0.4,-0.2,,,
1.0,1.0,,0.1,,3.0,2.0,line
2.0,3.0,-1.0,,,4.0,6.0,area
"""


def run(*arguments: object, code: int = 0) -> str:
    result = CliRunner().invoke(app, ["fluids", *map(str, arguments)])
    assert result.exit_code == code, result.output
    return result.stdout if code == 0 else result.stderr.strip()


def test_fields_meet_their_sensors_whatever_is_drawn_beside_them(tmp_path, weights) -> None:
    table, out, report = (tmp_path / name for name in ("sensors.csv", "field.nc", "report.html"))
    table.write_text(SENSORS)
    told = json.loads(
        run(
            "reconstruct", table, "--model", weights, "--constraint", "divergence-free", "--constraint", "energy=0.9",
            "--samples", 18, "--calls", 4, "--out", out, "--report", report, "--json", "--seed", 5,
        )
    )  # fmt: skip
    assert (told["samples"], told["certified"], told["refused"], told["sensors"]) == (18, 18, [], 5)
    assert max(told["worst"].values()) < 1e-11
    with xr.open_dataset(out) as found:
        assert found["vorticity"].dims == ("realization", "time", "y", "x")
        assert found.attrs["Conventions"].startswith("CF-")
        assert found.attrs["seed"] == 5
        assert all("_FillValue" not in variable.encoding for variable in found.variables.values())  # CF, section 5
        u, v, omega = (found[name].values[:, 0] for name in ("u", "v", "vorticity"))
    place = {"start": (2.5, 4.0), "end": (2.5, 4.0), "name": ""}
    point = oracle.Instrument(kind="point", quantity="u", value=0.4, **place)
    np.testing.assert_allclose(oracle.measured(u, point, BOX.lengths), 0.4, atol=1e-12)
    np.testing.assert_allclose((u**2 + v**2).mean((1, 2)) / 2, 0.9, rtol=1e-12)
    assert omega.std(0).max() > 0.1
    page = report.read_text()
    assert "18 of 18" in page
    assert "http" not in page
    few = tmp_path / "few.nc"
    run(
        "reconstruct", table, "--model", weights, "--constraint", "energy=0.9", "--samples", 3, "--calls", 4,
        "--out", few, "--seed", 5,
    )  # fmt: skip
    with xr.open_dataset(few) as found:
        np.testing.assert_array_equal(found["u"].values[:, 0], u[:3])


@pytest.mark.parametrize("digits", ["%.6f", "%.8f", "%.10f", "%.17g"])
def test_places_near_grid_points_are_taken_as_they_are_written(tmp_path, weights, digits) -> None:
    table = tmp_path / "sensors.csv"
    places = ",".join([digits % (3 * BOX.spacings[1]), digits % (7 * BOX.spacings[0])])
    table.write_text(f"x,y,vorticity\n{places},3\n1,1,-2\n")
    told = json.loads(run("reconstruct", table, "--model", weights, "--samples", 1, "--calls", 3, "--json"))
    assert told["certified"] == 1


def test_masked_fields_and_sensors_of_netcdf(tmp_path, weights) -> None:
    y, x = (axis.numpy() for axis in BOX.coordinates())
    field = np.full((16, 16), np.nan)
    field[3, 5], field[9, 12] = 2.0, -1.0
    path, out = tmp_path / "seen.nc", tmp_path / "out.nc"
    xr.Dataset({"vorticity": (("y", "x"), field)}, {"y": y, "x": x}).to_netcdf(path)
    run("reconstruct", path, "--model", weights, "--samples", 2, "--calls", 3, "--out", out)
    with xr.open_dataset(out) as found:
        omega = found["vorticity"].values[:, 0]
    np.testing.assert_allclose(omega[:, [3, 9], [5, 12]], [[2, -1], [2, -1]], atol=1e-12)
    listed = {"x": x[[5, 12]], "y": y[[3, 9]], "vorticity": [2.0, -1.0]}
    xr.Dataset({name: ("sensor", value) for name, value in listed.items()}).to_netcdf(path)
    run("reconstruct", path, "--model", weights, "--samples", 2, "--calls", 3, "--out", out)
    with xr.open_dataset(out) as found:
        np.testing.assert_allclose(found["vorticity"].values[:, 0], omega, atol=1e-9)


def test_refined_fields_have_the_means_of_the_coarse_one(tmp_path, weights) -> None:
    path, out = tmp_path / "coarse.nc", tmp_path / "fine.nc"
    cells = np.array([[1.0, -2.0, 0.5, 0.5], [0.0, 3.0, -1.0, -2.0]])
    xr.Dataset({"vorticity": (("y", "x"), (cells + 1e-6).astype("float32"))}).to_netcdf(path)
    told = json.loads(
        run("superresolve", path, "--model", weights, "--samples", 2, "--calls", 4, "--out", out, "--json")
    )
    assert (told["certified"], told["sensors"]) == (2, 8)
    with xr.open_dataset(out) as found:
        omega = found["vorticity"].values[:, 0]
    side = 2 * math.pi / np.array([2, 4])
    place = {"start": (side[0], side[1]), "end": (2 * side[0], 2 * side[1]), "name": ""}
    cell = oracle.Instrument(kind="area", quantity="vorticity", value=3.0, **place)
    np.testing.assert_allclose(oracle.measured(omega, cell, BOX.lengths), 3.0, atol=1e-6)
    xr.Dataset({"vorticity": (("y", "x"), np.ones((2, 2)))}).to_netcdf(path)
    said = run("superresolve", path, "--model", weights, "--out", out, code=2)
    assert "expected vorticity without a mean over the box, got one of 1" in said  # a curl has none
    xr.Dataset({"vorticity": (("y", "x"), np.array([[1, -1], [np.inf, 0]]))}).to_netcdf(path)
    said = run("superresolve", path, "--model", weights, "--out", out, code=2)
    assert "point y=1 x=0: expected a finite number for vorticity, got 'inf'" in said
    xr.Dataset({"vorticity": (("y", "x"), np.ones((32, 16)))}).to_netcdf(path)
    assert "got 32 x 16" in run("superresolve", path, "--model", weights, "--out", out, code=2)


def test_generated_fields_hold_what_is_asked(tmp_path, weights) -> None:
    asked = ["--constraint", "enstrophy=4", "--constraint", "vorticity=-9:9", "--constraint", "divergence-free"]
    told = json.loads(run("generate", "--model", weights, *asked, "--samples", 3, "--calls", 4, "--json"))
    assert told["certified"] == 3
    assert set(told["worst"]) >= {"enstrophy=4", "vorticity=-9:9", "divergence-free"}


def test_usual_integrals_are_the_means_over_fields_of_the_prior(weights) -> None:
    prior = FlowModel.load(weights).prior
    mean = torch.sin(BOX.coordinates()[0])[None, :, None].expand(1, 16, 16)
    prior = Stationary(mean=mean.float(), variance=prior.variance)
    white = torch.randn(4000, 16, 16, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    omega = mean[0] + BOX.multiply(white, prior.variance[0].double().sqrt())
    flow = BOX.velocity(omega)
    for made, drawn in ((energy, flow.square().sum(1)), (enstrophy, omega.square())):
        found = usual(made("vorticity", BOX, 1.0, of="vorticity"), prior)
        assert found == pytest.approx(float(drawn.mean()) / 2, rel=0.02)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x,y,vorticity\n7.0,1,3\n", r"line 2: expected x in the domain \[0, 6.28318531\], got 7"),
        ("x,y,vorticity\n1,1,3\n2,1,nan\n", "line 3: expected a finite number for vorticity, got 'nan'"),
        ("x,y,vorticity\n1,1,3\n1,1,4\n", "line 3 .4. contradicts vorticity of .*line 2 .3."),
        ("x,y,u\n1,1,3\n1,1,3\n", "line 3 .3. repeats u of .*line 2 .3."),
        ("x,y,speed\n1,1,3\n", "expected columns out of x, y, .*, got 'speed'"),
        ("x,vorticity\n1,3\n", "expected the columns x, y and one of"),
        ("x,y,vorticity\n", "expected at least one measured value"),
        ("x,y,vorticity\n1,1,3e6\n", "line 2: expected at most .* got 3e.06: is it in another unit"),
        ("x;y;vorticity\n1;1;3\n", "got 'x;y;vorticity'; commas stand between columns"),
        ("x,y,vorticity\n1,,3\n", "line 2: expected a finite number for y, got an empty cell"),
        ("x,y,vorticity\n1,1,3,4,5\n", "line 2: expected 3 cells, got 5"),
        ("x,y,vorticity\n\n1,1\n", "line 3: expected 3 cells, got 2"),
        ("x,y,u,u\n1,1,3,3\n", "expected every column once, got x, y, u, u"),
        ('x,y,u\n"1,1,3\n', "expected a CSV table, got one that cannot be read"),
        ("\n", "expected a CSV table with a line of column names, got an empty file"),
        (f"x,y,u\n0,1,3\n{2 * math.pi},1,3\n", "line 3 .3. repeats u of .*line 2 .3."),
        ("x,y,vorticity,x_end,y_end\n1,1,3,2,2\n", "line 2: expected kind point, line or area, got 'none'"),
        ("x,y,vorticity,x_end,y_end,kind\n1,1,3,0.5,2,area\n", "line 2: expected an area from a low corner"),
        ("x,y,u\n1,2,3\n1,1,3\n1.0000001,1,3\n", "line 4 .3. repeats u of .*line 3 .3."),
        (f"x,y,u\n0,1,3\n{2 * math.pi - 1e-7},1,4\n", "line 3 .4. contradicts u of .*line 2 .3."),
        ("x,y,vorticity,x_end,y_end,kind\n1,1,3,1,1,line\n", "line 2: expected a line from one place to another"),
        ("x,y,vorticity\n6.28319,1,3\n", r"expected x in the domain \[0, 6.28318531\], got 6.28319"),
        (f"x,y,vorticity,x_end,y_end,kind\n0,0,3,{2 * math.pi},{2 * math.pi},area\n", "infeasible: .* is 0 in all"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_table_is_one_line(tmp_path, weights, text, message) -> None:
    table, out = tmp_path / "sensors.csv", tmp_path / "out.nc"
    table.write_text(text)
    said = run("reconstruct", table, "--model", weights, "--out", out, code=2)
    assert len(said.splitlines()) == 1
    assert re.search(message, said), said
    assert not out.exists()


def test_what_is_wrong_with_netcdf_and_requests_is_one_line(tmp_path, weights) -> None:
    table, path, out = tmp_path / "sensors.csv", tmp_path / "seen.nc", tmp_path / "out.nc"
    table.write_text(SENSORS)

    def refused(dataset: xr.Dataset) -> str:
        dataset.to_netcdf(path)
        return run("reconstruct", path, "--model", weights, "--out", out, code=2)

    assert "16 x 16 points, which the weights know, got 8 x 16" in refused(
        xr.Dataset({"vorticity": (("y", "x"), np.ones((8, 16)))})
    )
    assert "expected vorticity without a unit ('1')" in refused(
        xr.Dataset({"vorticity": (("y", "x"), np.ones((16, 16)), {"units": "s-1"})})
    )
    assert "expected y of points to be uniform, 16 from 0 in steps of 0.392699, got 1 for 0.392699" in refused(
        xr.Dataset({"vorticity": (("y", "x"), np.ones((16, 16)))}, {"y": np.arange(16.0) ** 2})
    )
    gap = np.where(np.arange(16) == 3, np.nan, BOX.coordinates()[0].numpy())
    assert "got nan for 1.1781" in refused(xr.Dataset({"vorticity": (("y", "x"), np.ones((16, 16)))}, {"y": gap}))
    assert "over one dimension, or over (y, x), got" in refused(xr.Dataset({"u": (("a", "b"), np.ones((2, 2)))}))
    whole = np.ones((16, 16))
    assert "expected numbers for vorticity, got" in refused(
        xr.Dataset({"vorticity": (("y", "x"), np.full((16, 16), "calm"))})
    )
    days = np.arange(16).astype("datetime64[ns]")
    assert "expected numbers for y, got" in refused(xr.Dataset({"vorticity": (("y", "x"), whole)}, {"y": days}))
    assert "expected u over (y, x), got ('a',)" in refused(
        xr.Dataset({"vorticity": (("y", "x"), whole), "u": ("a", whole[0])})
    )
    xr.Dataset({"vorticity": (("y", "x"), np.full((4, 4), np.nan))}).to_netcdf(path)
    said = run("superresolve", path, "--model", weights, "--out", out, code=2)
    assert said == f"error: {path}: expected at least one cell with a value, got none"
    for wrong, message in {
        "curl-free": "expected one of divergence-free, energy=VALUE",
        "energy=much": "expected a number after =, got 'much'",
        "energy=0.001": "infeasible: no field satisfies energy 0.001 of 'vorticity' together with",
        "energy=-1": "infeasible: expected a positive energy of 'vorticity', got -1",
        "vorticity=-0.1:0.1": "infeasible: no field satisfies bounds",
    }.items():
        said = run("reconstruct", table, "--model", weights, "--constraint", wrong, "--out", out, code=2)
        assert message in said
        assert len(said.splitlines()) == 1
    for wrong, message in {
        "enstrophy=1e9": r"enstrophy=1e\+09: expected [\d.]+ to [\d.]+, a tenth to ten times the mean",
        "energy=1e-9": r"energy=1e-09: expected [\d.]+ to [\d.]+, a tenth",
        "vorticity=-0.01:0.01": "expected bounds that leave an enstrophy of .*, got at most 5e-05",
        "vorticity=0:inf": "expected bounds that leave an enstrophy of .*, got at most 0",
    }.items():
        said = run("generate", "--model", weights, "--constraint", wrong, "--out", out, code=2)
        assert re.fullmatch(f"error: --constraint {re.escape(wrong.split('=')[0])}=.*", said)
        assert re.search(message, said), said
    xr.Dataset({"vorticity": (("y", "x"), np.ones((16, 16)))}).to_netcdf(path, engine="scipy")
    path.write_bytes(path.read_bytes()[:1000])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        said = run("reconstruct", path, "--model", weights, "--out", out, code=2)
    assert "expected netCDF that can be read, got an error" in said
    path.write_text("x,y,vorticity\n1,1,3\n")
    said = run("reconstruct", path, "--model", weights, "--out", out, code=2)
    assert said == f"error: {path}: expected netCDF, got a file of another format"
    assert "Invalid value for '--seed'" in run("generate", "--model", weights, "--seed", -1, "--json", code=2)
    assert "expected at least one of --out" in run("generate", "--model", weights, code=2)
    assert "ending in .nc" in run("generate", "--model", weights, "--out", tmp_path / "a.txt", code=2)
    assert "cannot read" in run("reconstruct", tmp_path / "none.csv", "--model", weights, "--out", out, code=2)
    assert "cannot read" in run("reconstruct", tmp_path, "--model", weights, "--out", out, code=2)
    assert not out.exists()
    assert "expected cpu or an" in run("generate", "--model", weights, "--device", "abacus", "--json", code=2)
    assert "Examples:" in run("reconstruct", "--help")


def test_a_name_that_is_not_utf_8_may_stand_in_history_and_report(tmp_path, weights, monkeypatch) -> None:
    out, report = tmp_path / "a.nc", tmp_path / "r.html"
    monkeypatch.setattr(sys, "argv", ["scidiff", "caf\udce9.csv"])
    run("generate", "--model", weights, "--samples", 1, "--calls", 2, "--out", out, "--report", report)
    assert r"scidiff &#39;caf\udce9.csv&#39;" in report.read_text()
    with xr.open_dataset(out) as found:
        assert found.attrs["history"] == r"scidiff 'caf\udce9.csv'"


FULL = """
import resource, sys
from pathlib import Path
import torch
from scidiff.errors import UserError
from scidiff.fluids import fields
from scidiff.fluids.spectral import Box

resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))
box, omega = Box(shape=(16, 16)), torch.zeros(40, 1, 16, 16, dtype=torch.float64)
found = fields.in_time(omega, box.velocity(omega), torch.zeros(1), box, {})
try:
    fields.write(found, Path(sys.argv[1]))
except UserError as error:
    print(error)
"""


def test_where_a_disk_is_full_nothing_is_left_and_the_process_ends_in_order(tmp_path) -> None:
    """HDF5 crashes at its end where it could not close a file."""
    command = [sys.executable, "-c", FULL, str(tmp_path / "a.nc")]
    said = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (said.returncode, said.stdout) == (0, f"cannot write {tmp_path / 'a.nc'}: File too large\n")
    assert not list(tmp_path.iterdir())
