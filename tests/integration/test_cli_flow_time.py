"""`scidiff fluids rollout`, `invert` and `assimilate`: flows in time, and one line for a mistake."""

from __future__ import annotations

import base64
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from PIL import Image
from typer.testing import CliRunner

from scidiff.cli.main import app
from scidiff.fluids.inversion import evolved
from scidiff.fluids.model import FlowConfig, FlowModel
from scidiff.fluids.spectral import Box
from scidiff.fluids.transition import Linear, TransitionConfig, TransitionModel
from scidiff.fluids.windows import WindowConfig, WindowModel
from scidiff.processes.stationary import Stationary

BOX = Box(shape=(16, 16))
SIZES = FlowConfig(shape=(16, 16), lengths=BOX.lengths, scale=2.0, waves=2, widths=(8,), blocks=1, viscosity=0.05)


def _spectrum() -> torch.Tensor:
    variance = 6.0 / (1 + BOX.shells().double()) ** 3
    variance[0, 0] = variance[8] = variance[:, 8] = 0
    return variance[None]


@pytest.fixture(scope="module")
def flows(tmp_path_factory) -> Path:
    """Weights of a Gaussian field: the network answers 0."""
    folder = tmp_path_factory.mktemp("weights") / "flow"
    FlowModel.create(SIZES, Stationary(mean=torch.zeros(1, 16, 16), variance=_spectrum())).save(folder)
    return folder


@pytest.fixture(scope="module")
def steps(tmp_path_factory) -> Path:
    """Weights of a step of a linear flow."""
    folder = tmp_path_factory.mktemp("weights") / "step"
    linear = Linear(carried=torch.full((16, 9), 0.9), mean=torch.zeros(1, 16, 16), spectrum=_spectrum(), change=0.3)
    sizes = TransitionConfig(
        shape=(16, 16), lengths=BOX.lengths, scale=2.0, waves=2, interval=0.5, change=0.3, error=0.1,
        widths=(8,), blocks=1,
    )  # fmt: skip
    TransitionModel.create(sizes, linear).save(folder)
    return folder


@pytest.fixture(scope="module")
def windows(tmp_path_factory) -> Path:
    """Weights of windows of three frames whose waves forget nothing that a memory of 0.8 keeps."""
    folder = tmp_path_factory.mktemp("weights") / "windows"
    sizes = WindowConfig(
        shape=(16, 16), lengths=BOX.lengths, scale=2.0, waves=2, interval=0.5, frames=3, error=0.1,
        widths=(8,), blocks=1,
    )  # fmt: skip
    memory = 0.8 ** torch.arange(3)[:, None, None].expand(-1, 16, 9)
    WindowModel.create(sizes, Stationary(mean=torch.zeros(1, 16, 16), variance=_spectrum()), memory).save(folder)
    return folder


def truth() -> torch.Tensor:
    """A start of the flow: float64 [16, 16]."""
    white = torch.randn(16, 16, generator=torch.Generator().manual_seed(8), dtype=torch.float64)
    return 2 * torch.fft.irfft2(torch.fft.rfft2(white) * _spectrum()[0].sqrt())


def run(*arguments: object, code: int = 0) -> str:
    result = CliRunner().invoke(app, ["fluids", *map(str, arguments)])
    assert result.exit_code == code, result.output
    if code:
        assert len(result.stderr.strip().splitlines()) == 1
    return result.stdout if code == 0 else result.stderr.strip()


def grid(values: dict[str, np.ndarray], dims: tuple[str, ...] = ("y", "x")) -> xr.Dataset:
    return xr.Dataset({name: (dims, value) for name, value in values.items()})


def pictures(report: Path) -> dict[str, tuple[str, Image.Image]]:
    """Of a report that needs nothing but itself: by title, their kind and themselves."""
    page = report.read_text()
    assert not re.search(r"https?:|<script|<link", page)
    found = re.findall(r"<h2>([^<]*)</h2>\s*<div[^>]*><img[^>]* src=\"data:image/(\w+);base64,([^\"]*)\"", page)
    return {title: (kind, Image.open(io.BytesIO(base64.b64decode(data)))) for title, kind, data in found}


def in_time(field: np.ndarray, times: object) -> xr.Dataset:
    """A field at three times."""
    return grid({"vorticity": np.stack([field] * 3)}, ("time", "y", "x")).assign_coords(time=np.array(times))


def test_a_rollout_starts_where_it_is_told_and_moves(tmp_path, steps) -> None:
    path, out, picture, report = (tmp_path / name for name in ("now.nc", "later.nc", "a.gif", "r.html"))
    first = np.stack([truth().numpy(), -truth().numpy()])
    velocity = BOX.velocity(torch.from_numpy(first)).numpy()
    four = ("realization", "time", "y", "x")
    grid({"u": velocity[:, None, 0], "v": velocity[:, None, 1]}, four).to_netcdf(path)
    told = json.loads(
        run(
            "rollout", path, "--model", steps, "--steps", 3, "--samples", 3, "--out", out, "--animation", picture,
            "--report", report, "--json", "--seed", 5,
        )
    )  # fmt: skip
    assert (told["samples"], told["certified"], told["steps"], told["interval"], told["calls"]) == (3, 3, 3, 0.5, 6)
    with xr.open_dataset(out) as found:
        assert found["vorticity"].dims == four
        assert found["time"].values.tolist() == [0, 0.5, 1, 1.5]
        assert found.attrs["Conventions"].startswith("CF-")
        omega = found["vorticity"].values
        np.testing.assert_allclose(omega[:, 0], first[[0, 1, 0]], atol=1e-5)
    assert np.abs(omega[0, 1:] - omega[2, 1:]).max(axis=(1, 2)).min() > 0.1
    with Image.open(picture) as moving:
        assert moving.n_frames == 4
    shown = pictures(report)
    assert list(shown) == ["Vorticity", "In time", "Over time", "Spectrum"]
    assert (shown["In time"][0], shown["In time"][1].n_frames) == ("webp", 4)
    assert "3 of 3" in report.read_text()
    few = tmp_path / "few.nc"
    run("rollout", path, "--model", steps, "--steps", 2, "--samples", 1, "--out", few, "--seed", 5)
    with xr.open_dataset(few) as found:
        np.testing.assert_array_equal(found["vorticity"].values, omega[:1, :3])


def test_what_is_wrong_with_a_start_is_one_line(tmp_path, steps, flows) -> None:
    path, out = tmp_path / "now.nc", tmp_path / "later.nc"
    field = truth().numpy()
    gap = field.copy()
    gap[2, 5] = np.nan
    for dataset, message in (
        (grid({"vorticity": gap}), "expected vorticity at every point, got none at y=2 x=5"),
        (grid({"vorticity": field + 1}), "expected vorticity without a mean over the box, got one of 1"),
        (grid({"vorticity": field[:8]}), "on 16 x 16 points, got 8 x 16"),
        (
            grid({"vorticity": field[:8]}).assign_coords(y=np.arange(8.0)),
            "expected y of points to be uniform, 16 from 0 in steps of 0.392699, got 8",
        ),
        (grid({"u": field}), "expected vorticity, or both u and v, got u alone"),
        (grid({"u": field, "v": field}), "expected a velocity without divergence"),
        (grid({"vorticity": field}, ("x", "y")), "expected vorticity over"),
        (grid({"vorticity": field * 1e6}), "standard deviations of the flow that the weights know, got"),
        (grid({"vorticity": field[None][:0]}, ("time", "y", "x")), "at least one field of vorticity, got none"),
        (grid({"speed": field}), "expected one of the variables vorticity, u, v"),
        (grid({"vorticity": np.where(field == field.max(), np.inf, field)}), "at every point, got inf at y="),
        (in_time(field, [2, 1, 0]), "expected ascending times, got 1.0 after 2.0"),
        (in_time(field, [0, 1, 1]), "expected ascending times, got 1.0 after 1.0"),
        (in_time(field, [0, 1, np.nan]), "expected ascending times, got nan after 1.0"),
        (in_time(field, ["a", "b", "c"]), "expected numbers for time, got"),
        (in_time(field, np.array([2, 1, 0]).astype("M8[ns]")), "expected ascending times, got 1970-"),
    ):
        dataset.to_netcdf(path)
        said = run("rollout", path, "--model", steps, "--out", out, code=2)
        assert message in said
    grid({"vorticity": field}).to_netcdf(path)
    assert "expected weights of a flow in time" in run("rollout", path, "--model", flows, "--out", out, code=2)
    assert "--animation: expected a file name ending in .gif" in run(
        "rollout", path, "--model", steps, "--animation", "a.mp4", code=2
    )
    assert "expected at least one of --out, --report, --animation and --json" in run(
        "rollout", path, "--model", steps, code=2
    )
    assert "cannot read" in run("rollout", tmp_path / "none.nc", "--model", steps, "--out", out, code=2)
    assert not out.exists()


def _table(times: list[float], noise: float, *, timed: bool) -> str:
    """Vorticity at 80 points of the flow at each time, with noise."""
    source = torch.Generator().manual_seed(9)
    lines = ["time,x,y,vorticity" if timed else "x,y,vorticity"]
    for time, field in zip(times, evolved(SIZES.equation, truth()[None], times), strict=True):
        at = torch.randperm(256, generator=source)[:80]
        seen = field.flatten()[at] + noise * torch.randn(80, generator=source, dtype=torch.float64)
        step = 2 * np.pi / 16
        for k, value in zip(at.tolist(), seen.tolist(), strict=True):
            place = f"{k % 16 * step:.12g},{k // 16 * step:.12g},{value:.9g}"
            lines.append(f"{time},{place}" if timed else place)
    return "\n".join(lines) + "\n"


def test_windows_go_on_from_the_frames_that_are_known(tmp_path, windows, steps) -> None:
    path, out = tmp_path / "past.nc", tmp_path / "later.nc"
    past = np.stack([truth().numpy() * share for share in (1.0, 0.5, 0.2)])
    grid({"vorticity": past}, ("time", "y", "x")).assign_coords(time=[1.0, 2.0, 2.5]).to_netcdf(path)
    arguments = ["rollout", path, "--model", windows, "--known", 2, "--samples", 2]
    told = json.loads(run(*arguments, "--steps", 3, "--out", out, "--json"))
    assert (told["certified"], told["steps"], told["interval"]) == (2, 3, 0.5)
    with xr.open_dataset(out) as found:
        assert found["time"].values.tolist() == [0, 0.5, 1, 1.5, 2]
        np.testing.assert_array_equal(found["vorticity"].values[:, :2], np.stack([past[1:]] * 2))
    said = run("rollout", path, "--model", windows, "--known", 3, "--out", out, code=2)
    assert "--known: expected at most 2" in said
    assert "--known: expected at most 1" in run("rollout", path, "--model", steps, "--known", 2, "--out", out, code=2)
    grid({"vorticity": past}, ("time", "y", "x")).assign_coords(time=[1.0, 2.0, 2.6]).to_netcdf(path)
    assert "the last 2 times 0.5 apart, got 0.6" in run(*arguments, "--out", out, code=2)
    for times, message in (
        ([0, 0.5, np.nan], "expected ascending times, got nan after 0.5"),
        (np.arange(3).astype("M8[ns]"), "expected numbers for time, got datetime64"),
    ):
        in_time(past[0], times).to_netcdf(path)
        assert message in run(*arguments, "--out", out, code=2)
    grid({"vorticity": past[0]}).to_netcdf(path)
    assert "expected vorticity at 2 times at least, got 0" in run(*arguments, "--out", out, code=2)


def test_windows_are_told_what_was_measured(tmp_path, windows) -> None:
    """Exactly, of four frames, so that windows overlap; or with noise, as far as it goes."""
    table, out = tmp_path / "seen.csv", tmp_path / "flow.nc"
    table.write_text("time,x,y,vorticity,u\n0,1,1,3,\n1.5,2,5,-1,0.5\n0.5,0.3,4,,0.2\n")
    arguments = ["assimilate", table, "--model", windows, "--samples", 2, "--calls", 3]
    told = json.loads(run(*arguments, "--noise", 0, "--out", out, "--json"))
    assert (told["certified"], told["measured"]) == (2, 4)
    assert told["worst"]["4 measured values"] < 1e-10
    with xr.open_dataset(out) as found:
        omega = found["vorticity"].values
        assert found["time"].values.tolist() == [0, 0.5, 1, 1.5]
    few = tmp_path / "few.nc"
    run("assimilate", table, "--model", windows, "--samples", 1, "--calls", 3, "--noise", 0, "--out", few)
    with xr.open_dataset(few) as found:
        np.testing.assert_array_equal(found["vorticity"].values, omega[:1])
    report = tmp_path / "r.html"
    told = json.loads(run(*arguments[:-1], 10, "--noise", 1, "--until", 2, "--json", "--report", report))
    assert list(pictures(report)) == ["Vorticity", "In time", "Over time", "Spectrum", "Misfit of each member"]
    assert (told["certified"], told["limit"]["misfit"]) == (2, pytest.approx(18.47 / 4, rel=1e-3))
    for more, message in (
        (["--noise", -1], "--noise: expected a number > 0"),
        (["--noise", 0, "--every", 0.5], "--every: expected none"),
        (["--noise", 0, "--until", 1.7], "--until: expected a time at a multiple of 0.5"),
    ):
        assert message in run(*arguments, *more, "--out", out, code=2)
    table.write_text("time,x,y,vorticity\n0.7,1,1,3\n")
    assert "line 2: expected a time at a multiple of 0.5" in run(*arguments, "--noise", 0, "--out", out, code=2)
    table.write_text("kind,x,y,x_end,y_end,time,u\nline,0,1,6,1,1,3\nline,6,1,0,1,1,2\n")
    assert "contradicts" in run(*arguments, "--noise", 0, "--out", out, code=2)


def test_a_start_is_found_from_what_it_led_to(tmp_path, flows) -> None:
    table, out, report = tmp_path / "later.csv", tmp_path / "start.nc", tmp_path / "r.html"
    table.write_text(_table([0.04], 0.05, timed=False))
    arguments = ["invert", table, "--time", 0.04, "--noise", 0.05, "--model", flows, "--calls", 2]
    told = json.loads(run(*arguments, "--samples", 3, "--out", out, "--report", report, "--json"))
    assert (told["samples"], told["certified"], told["measured"]) == (3, 3, 80)
    assert list(pictures(report)) == ["Vorticity", "Spectrum", "Misfit of each member"]
    with xr.open_dataset(out) as found:
        omega = found["vorticity"].values
        assert found["time"].values.tolist() == [0, 0.04]
    wanted = truth().numpy()
    assert np.linalg.norm(omega[:, 0].mean(0) - wanted) < 0.7 * np.linalg.norm(wanted)
    np.testing.assert_allclose(omega[1, 1], evolved(SIZES.equation, torch.from_numpy(omega[1:2, 0]), [0.04])[0][0])
    few = tmp_path / "few.nc"
    run(*arguments, "--samples", 1, "--out", few)
    with xr.open_dataset(few) as found:
        np.testing.assert_array_equal(found["vorticity"].values, omega[:1])


def test_trajectories_follow_their_observations(tmp_path, flows) -> None:
    table, out = tmp_path / "seen.csv", tmp_path / "flow.nc"
    table.write_text(_table([0.0, 0.04], 0.05, timed=True))
    arguments = ["assimilate", table, "--noise", 0.05, "--model", flows, "--calls", 2, "--samples", 2]
    told = json.loads(run(*arguments, "--until", 0.08, "--every", 0.04, "--out", out, "--json"))
    assert (told["certified"], told["measured"]) == (2, 160)
    with xr.open_dataset(out) as found:
        np.testing.assert_allclose(found["time"].values, [0, 0.04, 0.08])
        last = found["vorticity"].values[:, -1].mean(0)
    wanted = evolved(SIZES.equation, truth()[None], [0.08])[0][0].numpy()
    assert np.linalg.norm(last - wanted) < 0.4 * np.linalg.norm(wanted)
    table.write_text(_table([0.0, 0.04], 3.0, timed=True))  # far noisier than is said
    report = tmp_path / "r.html"
    said = CliRunner().invoke(app, ["fluids", *map(str, [*arguments, "--json", "--report", report])])
    assert said.exit_code == 3
    assert '<td class="bad">0 of 2</td>' in report.read_text()
    assert "not certified: trajectories 0, 1" in said.stderr


@pytest.mark.parametrize(
    "case",
    [
        ("invert", "x,y,vorticity\n1,1,3\n", ["--time", 0.3, "--noise", 0], "--noise: expected a number > 0, got 0"),
        ("invert", "x,y,vorticity\n1,1,3\n", ["--time", 20, "--noise", 1], r"--time: expected a time in \(0, 10\]"),
        ("invert", "time,x,y,u\n0,1,1,3\n", ["--time", 1, "--noise", 1], "expected columns out of x, y.*got 'time'"),
        ("assimilate", "x,y,vorticity\n1,1,3\n", ["--noise", 1], "expected the columns time, x, y and one of"),
        ("assimilate", "time,x,y,vorticity\n-1,1,1,3\n", ["--noise", 1], "line 2: expected a time >= 0"),
        ("assimilate", "time,x,y,vorticity\n0,1,1,3\n", ["--noise", 1], r"expected a last time in \(0, 10\]"),
        ("assimilate", "time,x,y,u\n1,1,1,3\n1,1,1,4\n", ["--noise", 1], "line 3 .4. contradicts u of .*line 2"),
        ("assimilate", "time,x,y,u\n1,1,1,3\n", ["--noise", 1, "--every", 0.3], "--every: expected a whole part of 1"),
        ("assimilate", "time,x,y,u\n1,1,1,3\n", ["--noise", 1, "--until", 0.5], "got 1 and 0.5"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_observations_is_one_line(tmp_path, flows, case) -> None:
    command, text, more, message = case
    table, out = tmp_path / "seen.csv", tmp_path / "out.nc"
    table.write_text(text)
    said = run(command, table, *more, "--model", flows, "--out", out, code=2)
    assert re.search(message, said), said
    assert not out.exists()


def test_times_of_netcdf_are_numbers_one_for_each_sensor(tmp_path, flows) -> None:
    path, out = tmp_path / "seen.nc", tmp_path / "out.nc"
    for time, message in (
        (("s", np.arange(2).astype("datetime64[ns]")), "expected numbers for time, got datetime64"),
        (("s", [0.5, 1.0], {"units": "hours"}), "expected time without a unit ('1')"),
        (((), 0.5), "expected time over one dimension, got ()"),
    ):
        xr.Dataset({"time": time, "x": ("s", [1.0, 2.0]), "y": ("s", [1.0, 2.0]), "u": ("s", [0.1, 0.2])}).to_netcdf(
            path
        )
        said = run("assimilate", path, "--noise", 1, "--model", flows, "--out", out, code=2)
        assert message in said
        assert not out.exists()
    listed = {"x": [1.0, 2.0], "y": [1.0, 2.0], "u": [0.1, 0.2], "time": [0.0, 1.0]}
    xr.Dataset({name: ("s", value) for name, value in listed.items()}).to_netcdf(path)
    said = run("invert", path, "--time", 1, "--noise", 1, "--model", flows, "--out", out, code=2)
    assert "expected values of one time, got 0.0 and 1.0" in said


def test_what_is_measured_may_come_by_standard_input(tmp_path, windows) -> None:
    out, text = tmp_path / "flow.nc", "time,x,y,vorticity\n0,1,1,3\n0.5,2,2,-1\n"
    arguments = ["fluids", "assimilate", "-", "--model", windows, "--calls", 2, "--samples", 1, "--noise", 0]
    command = [*map(str, arguments), "--out", str(out)]
    assert CliRunner().invoke(app, command, input=text).exit_code == 0
    with xr.open_dataset(out) as found:
        assert found.sizes["time"] == 2
    said = CliRunner().invoke(app, command, input=text + "0,1,1,4\n")
    assert said.exit_code == 2
    assert said.stderr.startswith("error: vorticity of standard input, line 4 (4) contradicts vorticity of standard")
