"""`scidiff timeseries forecast` from the outside: files in, files out, exit codes."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from io import StringIO
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import typer.testing
import xarray as xr

from scidiff.cli.main import app
from scidiff.timeseries.backtest import backtest
from scidiff.timeseries.columns import Options
from scidiff.timeseries.forecaster import DiffusionForecaster
from scidiff.timeseries.frames import read_frame

Run = Callable[..., typer.testing.Result]


def table() -> pd.DataFrame:
    stamps = pd.date_range("2024-03-01", periods=150, freq="h").astype(str)
    noise = np.random.default_rng(0).normal(size=(2, 150))
    frames = [
        pd.DataFrame(
            {"shop": name, "timestamp": stamps, "load": 20 + 5 * np.sin(np.arange(150) * np.pi / 12) + noise[k]}
        )
        for k, name in enumerate("ab")
    ]
    return pd.concat(frames, ignore_index=True)


def sizes(samples: int) -> list[str]:
    """Options of a model that is quickly made."""
    return f"--max-steps 1 --members 1 --samples {samples} --steps 2 --context 30 --horizon 6".split()


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(tmp_path)
    table().to_csv("load.csv", index=False)
    runner = typer.testing.CliRunner()

    def call(*arguments: object, file: str = "load.csv", short: bool = True) -> typer.testing.Result:
        quick = sizes(5) if short else []
        named = ["--id", "shop", "--time", "timestamp", "--target", "load"]
        return runner.invoke(app, ["timeseries", "forecast", file, *map(str, [*named, *quick, *arguments])])

    return call


def test_futures_quantiles_and_the_python_call_agree(run: Run) -> None:
    done = run("--out", "f.nc", "--seed", 3, "--members", 2, "--json", "--save", "kept")
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout)
    assert (said["series"], said["frequency"], said["season"], said["horizon"]) == (2, "h", 24, 6)
    assert "2 series every h (season 24, context 30): 5 futures of 6 steps" in done.stderr
    settings = {"id": "shop", "time": "timestamp", "target": "load", "n_draws": 5, "steps": 2, "max_steps": 1}
    forecaster = DiffusionForecaster(horizon=6, context=30, **settings, members=2, seed=3)
    futures = forecaster.fit(table()).sample(table())
    with xr.open_dataset("f.nc") as held:
        assert held["value"].dims == ("series", "sample", "time", "variable")
        assert held.attrs["Conventions"] == "CF-1.11"
        assert str(held["time"].to_numpy()[0]) == "2024-03-07T06:00:00.000000000"
        np.testing.assert_array_equal(held["value"], futures["value"])
    again = run("--model", "kept", "--samples", 5, "--steps", 2, "--seed", 3, "--out", "f.csv", short=False)
    assert again.exit_code == 0, again.output
    found = pd.read_csv("f.csv")
    assert list(found.columns) == ["shop", "timestamp", "load", "load_p5", "load_p95"]
    assert found["timestamp"][0] == "2024-03-07 06:00:00"
    np.testing.assert_allclose(found["load"], np.median(futures["value"][..., 0], axis=1).ravel())
    assert (found["load_p5"] < found["load_p95"]).all()
    piped = run("--model", "kept", "--samples", 5, "--steps", 2, "--seed", 3, short=False)
    pd.testing.assert_frame_equal(pd.read_csv(StringIO(piped.stdout)), found)


@pytest.mark.parametrize(
    ("change", "options", "said"),
    [
        (lambda t: t.drop(index=[40, 41]), (), "series a: expected a row every 3600s, got 2 missing between"),
        (lambda t: pd.concat([t.iloc[:9], t.iloc[8:]]), (), "2024-03-01 08:00"),
        (lambda t: t.groupby("shop").head(33), (), "expected a history of at least 36 rows"),
        (lambda t: t.assign(timestamp=np.tile(np.cumsum(np.arange(150) % 7 + 1), 2)), (), "one frequency"),
        (lambda t: t, ("--target", "lod"), "expected one of"),
        (lambda t: t, ("--horizon", 0), "horizon: expected at least 1, got 0"),
        (lambda t: t, ("--samples", 0), "n_draws: expected at least 1"),
        (lambda t: t, ("--out", "f.xlsx"), "expected a file name ending in"),
        (lambda t: t, ("--time-budget", "soon"), "--time-budget: expected a time such as"),
        (lambda t: t, ("--model", "none", "--out", "f.csv"), "--horizon: expected it to be left out with --model"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(
    run: Run, change: Callable[[pd.DataFrame], pd.DataFrame], options: tuple[object, ...], said: str
) -> None:
    change(table()).to_csv("bad.csv", index=False)
    done = run(*options, file="bad.csv")
    assert done.exit_code == 2, done.output
    assert said in done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert sorted(path.name for path in Path().iterdir()) == ["bad.csv", "load.csv"]


def test_covariates_are_columns_that_go_on(run: Run) -> None:
    more = table().assign(price=1.0)
    stamps = pd.date_range("2024-03-07 06:00", periods=6, freq="h").astype(str)
    ahead = [pd.DataFrame({"shop": name, "timestamp": stamps, "price": [1.0, 1, 1, 2, 2, 2]}) for name in "ab"]
    longer = pd.concat([more, *ahead]).sort_values(["shop", "timestamp"], kind="stable")
    longer.to_csv("longer.csv", index=False)
    more.to_csv("short.csv", index=False)
    told = ("--future-covariates", "price", "--holidays", "DE", "--out", "f.csv")
    done = run(*told, "--save", "kept", file="longer.csv")
    assert done.exit_code == 0, done.output
    assert list(pd.read_csv("f.csv")["timestamp"][:6].str[:16]) == [stamp[:16] for stamp in stamps]
    again = run("--model", "kept", "--samples", 5, "--steps", 2, "--out", "g.csv", file="longer.csv", short=False)
    assert again.exit_code == 0, again.output
    pd.testing.assert_frame_equal(pd.read_csv("f.csv"), pd.read_csv("g.csv"))
    for options, said in (
        (told, "series a: expected rows with price for the 6 steps of the horizon, got 0"),
        (("--past-covariates", "load"), "expected targets and covariates that differ, got 'load' twice"),
        (("--holidays", "Atlantis"), "--holidays: expected a country such as DE or US-IL, got 'Atlantis'"),
    ):
        bad = run(*options, file="short.csv")
        assert (bad.exit_code, bad.stderr.count("\n")) == (2, 1), bad.output
        assert said in bad.stderr


def test_what_an_error_recommends_is_an_option(run: Run) -> None:
    twice = table()
    twice = pd.concat([twice, twice.iloc[[5]].assign(load=0.0)])
    twice.to_csv("twice.csv", index=False)
    for options, said in (((), "give --unsorted sort"), (("--unsorted", "sort"), "give --duplicates mean")):
        bad = run(*options, file="twice.csv")
        assert (bad.exit_code, said in bad.stderr) == (2, True), bad.output
    done = run("--unsorted", "sort", "--duplicates", "last", "--out", "f.csv", file="twice.csv")
    assert done.exit_code == 0, done.output


@pytest.mark.parametrize(
    ("frequency", "written", "last"), [("D", "%Y-%m-%d", "2024-07-30"), ("MS", "%Y-%m", "2036-10")]
)
def test_times_are_written_as_they_came(run: Run, frequency: str, written: str, last: str) -> None:
    stamps = pd.date_range("2024-03-01", periods=150, freq=frequency).strftime(written)
    pd.DataFrame({"timestamp": stamps, "shop": "a", "load": np.arange(150.0) % 7}).to_csv("days.csv", index=False)
    done = run("--horizon", 2, "--out", "f.csv", file="days.csv")
    assert done.exit_code == 0, done.output
    assert pd.read_csv("f.csv", dtype=str)["timestamp"].iloc[-1] == last


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--save", "load.csv"), "expected a folder or nothing there, got a file"),
        (("--save", "."), "expected a new folder or one with weights.json, got one with other files"),
        (("--save", "load.csv/model"), "Not a directory"),
        (("--out", "notes.zarr"), "expected a new folder or one with .zgroup, got one with other files"),
    ],
)
def test_nothing_of_the_users_is_replaced_by_a_folder(run: Run, options: tuple[str, ...], said: str) -> None:
    Path("notes.zarr").mkdir()
    Path("notes.zarr/mine.txt").write_text("mine")
    before = table().to_csv(index=False)
    bad = run(*options)
    assert (bad.exit_code, bad.stderr.count("\n")) == (2, 1), bad.output
    assert said in bad.stderr
    assert Path("load.csv").read_text() == before
    assert Path("notes.zarr/mine.txt").read_text() == "mine"


def test_the_horizon_is_needed_once(run: Run) -> None:
    done = run(short=False)
    assert done.exit_code == 2
    assert "--horizon: expected the number of steps" in done.stderr
    done = run("--model", "none", short=False)
    assert done.exit_code == 2
    assert "none/weights.json: expected the record of the weights" in done.stderr


def test_a_backtest_says_the_same_in_its_table_its_file_and_in_python(run: Run, tmp_path: Path) -> None:
    quick = sizes(9)
    named = ["--id", "shop", "--time", "timestamp", "--target", "load", "--origins", "3"]
    runner = typer.testing.CliRunner()
    done = runner.invoke(app, ["timeseries", "backtest", "load.csv", *named, *quick, "--json", "--out", "scores.csv"])
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout)
    assert said["origins"] == 3
    held = pd.read_csv("scores.csv", index_col=0)
    assert list(held.index) == list(said["scores"]) == ["diffusion", "seasonal naive", "seasonal naive + past errors"]
    assert held.loc["diffusion", "CRPS"] == pytest.approx(said["scores"]["diffusion"]["CRPS"])
    forecaster = DiffusionForecaster(
        horizon=6, context=30, id="shop", time="timestamp", target="load", n_draws=9, steps=2, members=1, max_steps=1
    )
    options = Options(id="shop", time="timestamp", variables=("load",))
    again = backtest(forecaster, read_frame(table(), options), count=3)
    assert again.table.loc["seasonal naive", "MASE"] == pytest.approx(said["scores"]["seasonal naive"]["MASE"])
    assert again.table.loc["diffusion", "CRPS"] == pytest.approx(said["scores"]["diffusion"]["CRPS"])
    assert said["diebold_mariano"]["seasonal naive"]["difference"] == pytest.approx(
        said["scores"]["diffusion"]["CRPS"] - said["scores"]["seasonal naive"]["CRPS"]
    )


def test_a_backtest_longer_than_the_history_is_refused(run: Run) -> None:
    runner = typer.testing.CliRunner()
    named = ["--id", "shop", "--time", "timestamp", "--target", "load", "--origins", "60", "--horizon", "6"]
    done = runner.invoke(app, ["timeseries", "backtest", "load.csv", *named])
    assert done.exit_code == 2
    assert "expected more than 360 rows a series to hold out, got 150" in done.output


def test_rules_and_a_scenario_are_kept_certified_and_told(run: Run) -> None:
    Path("rules.yaml").write_text("bounds: {load: [0, 30]}\nintegers: [load]\nrates: {load: {change: 8, per: 3600}}\n")
    Path("tomorrow.yaml").write_text(
        "totals: [{variable: load, amount: 130}]\nknown: [{variable: load, values: [22]}]\n"
    )
    done = run("--constraints", "rules.yaml", "--scenario", "tomorrow.yaml", "--out", "f.nc", "--json")
    assert done.exit_code == 0, done.output
    assert "7 rules checked on 10 futures of 2 series" in done.stderr
    assert json.loads(done.stdout)["constraints"]["load as known"]["draws"] == 0
    with xr.open_dataset("f.nc") as held:
        x = held["value"].to_numpy()
    np.testing.assert_array_equal(x.sum(2), 130)
    np.testing.assert_array_equal(x[:, :, 0], 22)
    np.testing.assert_array_equal(x, np.rint(x))


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        ("bounds: {lod: [0, 1]}", "expected rules about load, got one about lod"),
        ("hierarchy: {Total: [a, b]}", "hierarchy: expected names of series or of variables, got Total"),
        ("bounds: {load: [0, 20]}\nknown: [{variable: load, values: [25]}]", "load <= 20 and load == 25 at step 1"),
        ("totals: [{variable: load, amount: 3, last: 7}]", "totals: expected steps of 1 to 6, got 7"),
        ("totals: [{variable: load}]", "expected either an amount or a factor"),
        ("bound: {load: [0, 1]}", "bound: Extra inputs are not permitted"),
    ],
)
def test_rules_that_cannot_be_kept_are_said_in_one_line(run: Run, rules: str, said: str) -> None:
    Path("rules.yaml").write_text(rules)
    done = run("--constraints", "rules.yaml", "--out", "f.csv")
    assert done.exit_code == 2, done.output
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
    assert not Path("f.csv").exists()


def test_a_report_shows_every_fan_and_rule_in_one_file(run: Run) -> None:
    Path("rules.yaml").write_text("bounds: {load: [0, null]}")
    done = run("--report", "r.html", "--constraints", "rules.yaml", "--calibrate", "--json")
    assert done.exit_code == 0, done.output
    page = Path("r.html").read_text()
    assert page.count("<figure>") == page.count("<svg") == 2
    assert page.count('class="in"') == 4
    assert "<td>load &gt;= 0</td>" in page, page[page.find("<h2>Constraints") :][:800]
    assert "calibrated on" in page
    assert not re.search(r"(src|href)=.?(http|//)", page)


def test_a_report_of_a_backtest_has_scores_pit_and_what_came(run: Run) -> None:
    quick = sizes(9)
    named = ["--id", "shop", "--time", "timestamp", "--target", "load", "--origins", "2"]
    Path("rules.yaml").write_text("bounds: {load: [null, 30]}")
    extra = ["--constraints", "rules.yaml", "--report", "b.html", "--json"]
    runner = typer.testing.CliRunner()
    done = runner.invoke(app, ["timeseries", "backtest", "load.csv", *named, *quick, *extra])
    assert done.exit_code == 0, done.output
    page = Path("b.html").read_text()
    assert page.count('class="seen"') == 2 * 6  # what came, at each step of both series
    assert page.count('class="bars"') == page.count('class="dot"') == 10
    scores = json.loads(done.stdout)["scores"]
    assert f"{scores['seasonal naive']['CRPS']:.4g}" in page
    bad = runner.invoke(app, ["timeseries", "backtest", "load.csv", *named, *quick, "--report", "b.pdf"])
    assert (bad.exit_code, bad.stderr.count("\n")) == (2, 1)
    assert "--report: expected a file name ending in .html" in bad.stderr


def test_zarr_holds_what_netcdf_does(run: Run) -> None:
    pytest.importorskip("zarr")
    assert run("--out", "f.nc").exit_code == 0
    assert run("--out", "f.zarr").exit_code == 0
    with xr.open_zarr("f.zarr") as store, xr.open_dataset("f.nc") as file:
        np.testing.assert_array_equal(store["value"], file["value"])
        assert store.attrs["Conventions"] == "CF-1.11"
