"""`scidiff fluids invert` of pressures: permeabilities, certified by an oracle, and one line for a mistake."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from typer.testing import CliRunner

from scidiff.cli.main import app
from scidiff.fluids import oracle
from scidiff.fluids.darcy import pressure, two_phase
from scidiff.fluids.pairs import PairConfig, PairModel, statistics
from scidiff.fluids.wells import Well, given

N = 16
NOISE = 2e-5


def _permeabilities(count: int, seed: int) -> torch.Tensor:
    """Two phases, of large waves: float64 [count, N, N]."""
    white = torch.randn(count, N, N, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    kernel = torch.exp(-((torch.arange(N).double() - N / 2) ** 2) / 18)
    smooth = torch.fft.irfft2(torch.fft.rfft2(white) * torch.fft.rfft2(kernel[:, None] * kernel), s=(N, N))
    return two_phase(smooth)


@pytest.fixture(scope="module")
def darcy(tmp_path_factory) -> Path:
    """Weights of a Gaussian pair: the network answers 0."""
    a = _permeabilities(300, 0)
    mean, scale, known = statistics(torch.stack([a, pressure(a)], 1).float(), periodic=False)
    folder = tmp_path_factory.mktemp("weights") / "darcy"
    sizes = PairConfig(equation="darcy", shape=(N, N), scale=scale, widths=(8,), blocks=1)
    PairModel.create(sizes, mean, known).save(folder)
    return folder


@pytest.fixture(scope="module")
def truth() -> tuple[np.ndarray, np.ndarray]:
    a = _permeabilities(1, 7)
    return a[0].numpy(), pressure(a)[0].numpy()


def _table(path: Path, places: np.ndarray, values: np.ndarray) -> Path:
    lines = [f"{x:.12g},{y:.12g},{p:.12g}" for (y, x), p in zip(places, values, strict=True)]
    path.write_text("\n".join(["x,y,pressure", *lines]) + "\n")
    return path


def _places(count: int) -> np.ndarray:
    return np.random.default_rng(3).uniform(0.005, 0.995, (count, 2))


def run(*arguments: object, code: int = 0) -> str:
    result = CliRunner().invoke(app, ["fluids", "invert", *map(str, arguments)])
    assert result.exit_code == code, result.output
    if code == 2:
        assert len(result.stderr.strip().splitlines()) == 1
    return result.stdout if code == 0 else result.stderr.strip()


def test_wells_are_read_as_the_oracle_reads_them(truth):
    _, p = truth
    places = np.concatenate([_places(40), [[0.5 / N, 0.5], [0.01, 0.99], [0.5, 1.5 / N]]])
    wells = [Well(place=(y, x), value=0.0, name="") for y, x in places]
    rows = given(wells, PairConfig(equation="darcy", shape=(N, N), scale=(1, 1)), 1.0).rows[1]
    read = (rows.flatten(1) @ torch.from_numpy(p).flatten()).numpy()
    np.testing.assert_allclose(read, oracle.in_square(p[None], places)[0], atol=1e-15)


def test_the_oracle_sees_what_a_cell_gains(truth):
    a, p = truth
    assert np.abs(oracle.imbalance(a[None], p[None])).max() < 1e-10
    wrong = p.copy()
    wrong[3, 0] *= 1.001
    off = np.abs(oracle.imbalance(a[None], wrong[None]))[0] > 1e-6
    assert {tuple(at) for at in np.argwhere(off)} == {(2, 0), (3, 0), (4, 0), (3, 1)}


def test_permeabilities_lead_to_what_was_measured(tmp_path, darcy, truth):
    a, p = truth
    places, out = _places(60), tmp_path / "a.nc"
    noise = NOISE * np.random.default_rng(4).standard_normal(60)
    table = _table(tmp_path / "wells.csv", places, oracle.in_square(p[None], places)[0] + noise)
    common = [table, "--model", darcy, "--noise", NOISE, "--calls", 4]
    report = tmp_path / "r.html"
    told = json.loads(run(*common, "--samples", 3, "--out", out, "--report", report, "--json"))
    assert (told["samples"], told["certified"], told["measured"]) == (3, 3, 60)
    page = report.read_text()
    assert "http" not in page
    assert re.findall("<h2>(.*)</h2>", page) == ["Certificate", "Permeability and pressure", "Misfit of each member"]
    assert page.count("3 of 3") == 3
    with xr.open_dataset(out) as found:
        assert found["permeability"].dims == ("realization", "y", "x")
        drawn, led = found["permeability"].values, found["pressure"].values
        assert found.attrs["Conventions"].startswith("CF-")
    assert drawn.min() >= 3
    assert drawn.max() <= 12
    np.testing.assert_allclose(led, pressure(torch.from_numpy(drawn)).numpy(), atol=1e-12)
    wrong = ((drawn.mean(0) > 7.5) != (a > 7.5)).mean()
    assert wrong < 0.6 * min((a > 7.5).mean(), (a <= 7.5).mean())
    few = tmp_path / "few.nc"
    run(*common, "--samples", 1, "--out", few)
    with xr.open_dataset(few) as found:
        np.testing.assert_allclose(found["permeability"].values, drawn[:1], rtol=1e-6)


def test_pressures_that_no_permeability_has_are_not_certified(tmp_path, darcy):
    table = _table(tmp_path / "wells.csv", np.array([[0.5, 0.5]]), np.array([0.08]))
    said = run(table, "--model", darcy, "--noise", NOISE, "--calls", 3, "--samples", 1, "--json", code=3)
    assert "not certified: permeabilities 0" in said


def test_what_is_wrong_is_one_line(tmp_path, darcy):
    table, out = tmp_path / "wells.csv", tmp_path / "a.nc"
    for text, message in (
        ("x,y,pressure\n0.5,1.5,0.1\n", "line 2: expected y inside the walls, in (0, 1), got 1.5"),
        ("x,y,pressure\n0.5,0.5,high\n", "expected a finite number for pressure, got 'high'"),
        ("x,y,pressure\n0.5,0.5,0.01\n0.5,0.5,0.02\n", "contradicts"),
        ("x,y,pressure\n0.5,0.5,101325\n", "got 101325: is it in another unit?"),
        ("x,y,pressure\n", "expected 1 to 2000 wells, got 0"),
        ("x,y,head\n0.5,0.5,1\n", "expected columns out of x, y, pressure, got 'head'"),
    ):
        table.write_text(text)
        assert message in run(table, "--model", darcy, "--noise", 1e-5, "--out", out, code=2)
    assert "cannot read" in run(tmp_path, "--model", darcy, "--noise", 1e-5, "--out", out, code=2)
    _table(table, np.array([[0.5, 0.5]]), np.array([0.01]))
    common = [table, "--model", darcy, "--out", out]
    assert "--time: expected none" in run(*common, "--noise", 1e-5, "--time", 1, code=2)
    assert "--noise: expected a number > 0" in run(*common, "--noise", 0, code=2)
    assert "for what is measured, got 1e-300" in run(*common, "--noise", 1e-300, code=2)
    assert "--animation: expected none" in run(*common, "--noise", 1e-5, "--animation", tmp_path / "a.gif", code=2)
    assert not out.exists()
    result = CliRunner().invoke(app, ["fluids", "generate", "--model", str(darcy), "--out", str(out)])
    assert result.exit_code == 2
    assert "expected weights of a flow or of winds" in result.stderr
