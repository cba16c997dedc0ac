"""Winds: a grid that ends at the poles and goes around, a denoiser that is Wiener's filter at first, and stations."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from typer.testing import CliRunner

from scidiff.cli.main import app
from scidiff.fluids.stations import Station, facts, misfit, read_stations
from scidiff.fluids.tasks import load
from scidiff.fluids.wind_fields import WindTask
from scidiff.fluids.winds import (
    LEAF,
    WindConfig,
    WindModel,
    climatology_of,
    covariance_of,
    eofs_of,
    inflation_of,
    seasons,
    stacked,
)
from scidiff.networks.zonal import ZonalConvolution, ZonalUNet
from scidiff.noise import Noise
from scidiff.state import Layout

DATASETS = Path(__file__).parents[2] / "datasets"
SIZES = WindConfig(shape=(9, 16), west=20.0, scale=2.0, widths=(8,), blocks=1)


def white(batch: int, shape: tuple[int, ...], step: int = 0) -> torch.Tensor:
    rows = Layout.dense(batch, {"x": shape}).rows("x")
    return Noise(seed=5, index=torch.arange(batch)).at("x", step, rows).normal(dtype=torch.float64)


def fields(count: int = 40) -> torch.Tensor:
    """Smooth anomalies whose u and v go together, stronger in the north: [S, 1, 18, 16]."""
    rough = torch.fft.rfft2(white(count, (9, 16)))
    smooth = torch.fft.irfft2(rough / (1 + torch.arange(9.0)) ** 2, s=(9, 16)) * torch.linspace(1, 3, 9)[:, None]
    winds = torch.stack([smooth, 0.5 * smooth + 0.3 * white(count, (9, 16), 1)], 1)
    return stacked(winds / winds.std())


@pytest.fixture(scope="module")
def model() -> WindModel:
    climatology = white(5, (2, 9, 16), 2) * torch.tensor([4, 2, 2, 0.5, 0.5])[:, None, None, None]
    return WindModel.create(SIZES, climatology, covariance_of(fields()), eofs_of(fields()), card={"seed": 0})


def test_a_climatology_is_a_mean_and_two_harmonics() -> None:
    months = torch.arange(36) % 12
    angle = 2 * np.pi * (months.double() + 0.5) / 12
    true = [3.0, -2.0, 0.7, 1.1, 0.4]
    waves = [torch.ones(36), angle.cos(), angle.sin(), (2 * angle).cos(), (2 * angle).sin()]
    winds = sum(c * w for c, w in zip(true, waves, strict=True))[:, None, None, None].expand(-1, 2, 3, 4)
    found = climatology_of(winds, months)
    torch.testing.assert_close(found[:, 1, 2, 3], torch.tensor(true).double())
    torch.testing.assert_close((seasons(months) @ found.flatten(1)).unflatten(1, (2, 3, 4)), winds.double())


def test_anomalies_of_years_that_the_climatology_has_not_seen_are_larger_by_what_it_took_for_climate() -> None:
    months, years = torch.arange(96) % 12, torch.arange(96) // 12
    rough = white(96, (2, 10, 100), 10)
    assert abs(inflation_of(rough, months) - math.sqrt((1 + 5 / 84) / (1 - 5 / 84))) < 0.01  # five numbers of 84 months
    common = white(8, (2, 10, 100), 11)[years]
    assert abs(inflation_of(common, months) - math.sqrt((1 + 1 / 7) / (1 - 1 / 7))) < 0.03  # a mean of seven years
    shifted = rough + 3 * seasons(months)[:, 1, None, None, None]
    assert inflation_of(shifted, months) == pytest.approx(inflation_of(rough, months), rel=1e-9)


def test_a_fresh_denoiser_is_wieners_filter_of_a_joint_covariance(model) -> None:
    x, t = white(3, (1, 18, 16), 3).float(), torch.full((3,), 0.4, dtype=torch.float64)
    process = model.processes[LEAF]
    alpha, sigma = (float(c) for c in process.schedule(t[0]))
    eye = torch.eye(288, dtype=torch.float64)
    dense = process.parametrisation.covariance.spread(eye.reshape(-1, 18, 16)).flatten(1)
    assert dense.reshape(2, 9, 16, 2, 9, 16)[0, 6, 3, 1, 6, 3] > 0.1  # u and v go together
    keep = alpha * torch.linalg.solve(alpha**2 * dense + sigma**2 * eye, dense)
    clean = model.denoiser({LEAF: x}, t, Layout.dense(3, {LEAF: (1, 18, 16)}))[LEAF]
    torch.testing.assert_close(clean.flatten(1).double(), x.flatten(1).double() @ keep, atol=1e-5, rtol=1e-4)
    rule = process.parametrisation
    skip, gain = rule.coefficients(*process.schedule(t[:1]))
    left = sigma**2 * torch.linalg.solve(alpha**2 * dense + sigma**2 * eye, dense).diagonal().mean()
    torch.testing.assert_close(skip[0], keep.diagonal().mean(), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(gain[0], left.sqrt(), atol=1e-5, rtol=1e-4)
    output, levels = white(3, (1, 18, 16), 4).float(), [c.reshape(-1, 1, 1, 1) for c in process.schedule(t)]
    torch.testing.assert_close(rule.output(rule.clean(output, x, *levels), x, *levels), output, atol=1e-3, rtol=1e-3)


def test_blended_covariances_are_of_one_form_and_tell_what_moves(model) -> None:
    eye, noise = torch.eye(288, dtype=torch.float64), 0.3
    blended = model.covariance
    dense, alike = (c.spread(eye.reshape(-1, 18, 16)).flatten(1) for c in (blended, blended.base))
    sample = fields().double().flatten(1)
    torch.testing.assert_close(dense - alike, 0.2 * sample.T @ sample / 40)
    left = dense - dense @ torch.linalg.solve(dense + noise * eye, dense)
    again = blended.posterior(torch.tensor(noise))
    torch.testing.assert_close(again.spread(eye.reshape(-1, 18, 16)).flatten(1), left)
    whole = blended.posterior(torch.tensor(torch.inf))
    torch.testing.assert_close(whole.spread(eye.reshape(-1, 18, 16)).flatten(1), dense)
    stations = tuple(
        Station(latitude=y, longitude=x, component=c, value=1.0 + c, name="")
        for y, x in ((0.0, 65.0), (41.0, 200.0))
        for c in range(2)
    )
    seen, x = facts(stations, SIZES, model.usual(0)), white(2, (1, 18, 16), 9)
    found = seen.project({LEAF: x}, Layout.dense(2, {LEAF: (1, 18, 16)}), again)[LEAF]
    r = seen.rows.flatten(1)
    moved = left @ r.T @ torch.linalg.solve(r @ left @ r.T, seen.values[:, None] - r @ x.flatten(1).T)
    torch.testing.assert_close(found.flatten(1), x.flatten(1) + moved.T, atol=1e-8, rtol=0)


def test_winds_go_around_and_end_at_the_poles() -> None:
    maps = white(2, (9, 16), 5).float()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = ZonalUNet(leaf=LEAF, components=2, kinds=1, maps=maps, widths=(8,), blocks=1)
        for parameter in network.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
    x, t, layout = white(1, (1, 18, 16), 6).float(), torch.tensor([0.3]), Layout.dense(1, {LEAF: (1, 18, 16)})

    def answer(x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return network({LEAF: x}, t, layout)[LEAF]

    plain = answer(x)
    network.maps = network.maps.roll(2, -1)
    torch.testing.assert_close(answer(x.roll(2, -1)), plain.roll(2, -1), atol=1e-5, rtol=1e-4)
    convolution = ZonalConvolution(1, 1)
    x, with_more = white(1, (1, 6, 8), 7).float(), white(1, (1, 6, 8), 7).float()
    with_more[0, 0, 0, 0] += 1
    with torch.no_grad():
        reached = ((convolution(with_more) - convolution(x)).abs()[0, 0] > 0).nonzero().tolist()
    assert reached == [[y, x] for y in (0, 1) for x in (0, 1, 7)]


def test_stations_are_met_between_points_and_across_the_first_meridian_of_the_grid(model) -> None:
    usual = model.usual(6)
    places = [(10.0, 100.0), (-90.0, 20.0), (90.0, 200.0), (33.0, 15.0), (33.0, -170.5), (-61.2, 375.0)]
    stations = tuple(
        Station(latitude=y, longitude=x, component=k % 2, value=3.0 - k, name=str(k)) for k, (y, x) in enumerate(places)
    )
    task = WindTask(model=model, stations=stations, month=6)
    found = task.draw(samples=18, seed=1, calls=4)
    assert task.certificate(found)["6 measured values"].max() < 1e-12
    assert misfit(found.wind.numpy() + 0.1, stations, SIZES).min() > 1e-3
    few = task.draw(samples=2, seed=1, calls=4)
    assert torch.equal(few.wind, found.wind[:2])
    assert found.wind.std(0).max() > 0.5
    kept = task.dataset(found, {})
    assert kept["u"].dims == ("realization", "time", "lat", "lon")
    assert kept["u"].attrs["units"] == "m s-1"
    np.testing.assert_allclose(kept["u"].sel(lat=-90, lon=20).values, found.wind[:, 0, 0, 0, None])
    np.testing.assert_allclose(float(kept["v"].sel(lat=-90, lon=20)[0, 0]), 2.0, atol=1e-9)
    around = facts(stations, SIZES, usual).rows[3, 0, 9:].abs().sum(0)  # at 15 E, between the last column and the first
    assert around.nonzero().flatten().tolist() == [0, 15]


def test_weights_come_back_and_are_told_apart(model, tmp_path) -> None:
    model.save(tmp_path / "model")
    again = load(str(tmp_path / "model"))
    assert isinstance(again, WindModel)
    assert (again.config, again.card) == (model.config, {"seed": 0})
    x = white(3, (1, 18, 16), 8)
    torch.testing.assert_close(again.covariance.spread(x), model.covariance.spread(x), atol=5e-3, rtol=5e-3)
    torch.testing.assert_close(again.climatology.double(), model.climatology.double(), atol=1e-6, rtol=1e-6)


def run(*arguments: object, code: int = 0) -> str:
    result = CliRunner().invoke(app, ["fluids", *map(str, arguments)])
    assert result.exit_code == code, result.output
    return result.stdout if code == 0 else result.stderr.strip()


def test_winds_from_a_table_and_from_a_map_with_gaps(model, tmp_path) -> None:
    weights, table, out, report = (tmp_path / name for name in ("model", "seen.csv", "wind.nc", "report.html"))
    model.save(weights)
    table.write_text("lat,lon,u,v\n10,100,3,\n-20,40.5,-1,2\n")
    common = ["--model", weights, "--samples", 2, "--calls", 3, "--out", out]
    told = json.loads(run("reconstruct", table, *common, "--month", 7, "--json", "--report", report))
    assert (told["certified"], told["sensors"]) == (2, 3)
    assert "2 of 2" in report.read_text()
    with xr.open_dataset(out) as found:
        assert float(found["time"][0]) == 7
        listed = {name: found[name].values[0, 0] for name in "uv"}
    gaps = {name: np.where(np.arange(144).reshape(9, 16) % 50 == 3, value, np.nan) for name, value in listed.items()}
    path = tmp_path / "gaps.nc"
    places = {"lat": SIZES.latitudes.numpy(), "lon": SIZES.longitudes.numpy()}
    xr.Dataset({name: (("lat", "lon"), value) for name, value in gaps.items()}, places).to_netcdf(path)
    assert json.loads(run("reconstruct", path, *common, "--month", 7, "--json"))["sensors"] == 6
    wrong = {
        "lat,lon,u\n95,10,3\n": "line 2: expected lat in [-90, 90] degrees, got 95",
        "lat,lon,u\n9,10,300\n": "line 2: expected u of a monthly mean wind, at most 100 m/s in size, got 300",
        "lat,lon,u\n5,10,3\n5,370,4\n": "line 3 (4) contradicts u of",
        "lat,lon,speed\n5,10,3\n": "got 'speed'",
        "lat,u\n5,3\n": "expected the columns lat, lon and one of u, v",
        "lat,lon,u\n5,10,fast\n": "line 2: expected a finite number for u, got 'fast'",
        "lat,lon,u\n5,10,\n": "expected at least one measured value",
    }
    for text, message in wrong.items():
        table.write_text(text)
        said = run("reconstruct", table, *common, "--month", 7, code=2)
        assert message in said
        assert len(said.splitlines()) == 1
    table.write_text("lat,lon,u\n5,10,3\n")
    assert "--month: expected 1 to 12" in run("reconstruct", table, *common, code=2)
    assert "--constraint" in run("reconstruct", table, *common, "--month", 7, "--constraint", "energy=1", code=2)
    assert "of winds" in run("generate", *common, code=2)
    wind, place, grid = ("k", [1.0]), ("k", [1.0]), (("lat", "lon"), np.zeros((1, 1)))
    two = ("k", [1.0, 2.0])
    for held, message in (
        ({"u": (*wind, {"units": "knots"}), "lat": place, "lon": place}, "expected u in m s-1, got 'knots'"),
        ({"u": wind, "lat": (*place, {"units": "radians"}), "lon": place}, "expected lat in degrees, got 'radians'"),
        ({"u": two, "lat": two, "lon": two, "time": two}, "expected values of one time, got 1.0 and 2.0"),
        ({"u": ("k", ["calm"]), "lat": place, "lon": place}, "expected numbers for u, got"),
        (
            {"u": grid, "v": wind, "lat": ("lat", [1.0]), "lon": ("lon", [1.0])},
            "u and v over (lat, lon), got lat over ('lat',)",
        ),
    ):
        xr.Dataset(held).to_netcdf(path)
        assert message in run("reconstruct", path, *common, "--month", 7, code=2)


def test_stations_of_netcdf_are_those_of_a_table(model, tmp_path) -> None:
    table, path = tmp_path / "stations.csv", tmp_path / "stations.nc"
    table.write_text("lat,lon,u,v\n10,20,3.5,\n-40,350,-1,2\n")
    held = {"lat": [10.0, -40.0], "lon": [20.0, 350.0], "u": [3.5, -1.0], "v": [np.nan, 2.0]}
    xr.Dataset({name: ("station", values) for name, values in held.items()}).to_netcdf(path)
    told = [(s.latitude, s.longitude, s.component, s.value) for s in read_stations(table, model.config)]
    assert told == [(10, 20, 0, 3.5), (-40, 350, 0, -1), (-40, 350, 1, 2)]
    assert told == [(s.latitude, s.longitude, s.component, s.value) for s in read_stations(path, model.config)]


def test_the_vendored_sample_and_a_file_that_is_not_the_published_one(tmp_path) -> None:
    with xr.open_dataset(DATASETS / "winds" / "sample.nc") as sample:
        assert dict(sample.sizes) == {"time": 6, "lat": 73, "lon": 144}
        assert 3 < float(sample["u"].std()) < 6
    other = tmp_path / "monthly_navy_winds.cdf"
    other.write_bytes(b"winds")
    command = [sys.executable, str(DATASETS / "winds.py"), "--from", str(other), "--cache", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "expected SHA-256 225a9e" in done.stderr
    assert not (tmp_path / "winds" / other.name).exists()
