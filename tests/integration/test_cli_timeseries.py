"""`scidiff timeseries impute` from the outside: files in, files out, exit codes, Ctrl-C."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import typer.testing
import xarray as xr
from panels import waves

from scidiff.cli.main import app
from scidiff.timeseries import fit
from scidiff.timeseries.impute import Imputation
from scidiff.timeseries.imputer import DiffusionImputer
from scidiff.timeseries.learn import packaged
from scidiff.timeseries.sample import sample, sample_path
from scidiff.training import loop

Run = Callable[..., typer.testing.Result]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(tmp_path)
    waves(dated=False).to_csv("waves.csv", index=False)
    runner = typer.testing.CliRunner()

    def call(*arguments: object, quick: bool = True, **more: Any) -> typer.testing.Result:
        short = ["--max-steps", 1, "--samples", 10, "--steps", 2] if quick else []
        return runner.invoke(app, ["timeseries", "impute", *map(str, [*short, *arguments])], **more)

    return call


def test_a_table_comes_back_with_its_gaps_filled_and_quantiles_beside_it(run: Run) -> None:
    done = run("waves.csv", "--out", "o.csv", "--quantiles", "0.1,0.5,0.9", "--seed", 5)
    assert done.exit_code == 0, done.output
    came = [line.split(",") for line in Path("waves.csv").read_text().splitlines()]
    lines = [line.split(",") for line in Path("o.csv").read_text().splitlines()]
    assert lines[0] == ["id", "time", "a", "b", *(f"{v}_p{q}" for v in "ab" for q in (10, 50, 90))]
    for before, after in zip(came[1:], lines[1:], strict=True):
        assert after[:2] == before[:2]
        for column in (2, 3):
            bands = after[4 + 3 * (column - 2) :][:3]
            if before[column]:
                assert after[column] == before[column]
                assert bands == ["", "", ""]
            else:
                low, middle, high = map(float, bands)
                assert low < middle < high
                assert float(after[column]) == middle
    assert "8 series, 2 variables: observed 164, filled 92 with 10 samples each, left 0" in done.stderr


def test_the_python_call_is_the_command_and_draws_are_a_dataset(run: Run) -> None:
    assert run("waves.csv", "--out", "o.parquet", "--draws", "d.nc", "--seed", 5).exit_code == 0
    imputer = DiffusionImputer(max_steps=1, n_draws=10, steps=2, seed=5)
    table = pd.read_csv("waves.csv")
    quantiles = imputer.fit(table).impute_quantiles(table)
    pd.testing.assert_frame_equal(pd.read_parquet("o.parquet"), quantiles, check_dtype=False)
    with xr.open_dataset("d.nc") as draws:
        assert draws["value"].dims == ("series", "sample", "time", "variable")
        assert draws.attrs["seed"] == 5
        assert np.array_equal(draws["value"].to_numpy(), imputer.impute_samples(table)["value"].to_numpy())


def test_standard_input_and_output_carry_tables(run: Run) -> None:
    text = Path("waves.csv").read_bytes()
    through = run("-", input=text)
    assert through.exit_code == 0, through.output
    run("waves.csv", "--out", "o.csv")
    assert through.stdout == Path("o.csv").read_text()
    waves().to_parquet("waves.parquet")
    held = run("-", "--json", input=Path("waves.parquet").read_bytes())
    assert json.loads(held.stdout)["filled"] == 92
    broken = run("-", input=b"id,time,a\np,0,1\np,1,x\n")
    assert broken.exit_code == 2
    assert broken.stderr.startswith("error: standard input, line 3")


class _Page(HTMLParser):
    """Tags, texts, and what a page would fetch."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""
        self.fetched: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.fetched += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_report_is_one_file_with_series_and_calibration(run: Run) -> None:
    done = run("waves.csv", "--report", "r.html", "--json")
    assert done.exit_code == 0, done.output
    account = json.loads(done.stdout)
    page = _Page(Path("r.html").read_text())
    assert not page.fetched
    assert "script" not in page.tags
    assert page.tags.count("svg") == 6
    assert page.tags.count("circle") > 20
    overall = account["held_out"][-1]
    assert overall["variable"] == "all"
    assert overall["values"] == sum(row["values"] for row in account["held_out"][:-1]) > 5
    assert f"{overall['MAE']:.3f}" in page.text
    assert "p0" not in account["left_because"]
    nan = "nan"
    assert nan not in Path("r.html").read_text().lower()


def test_a_regular_grid_makes_rows_for_every_step(run: Run) -> None:
    table = waves(series=3, rows=12, gaps=0.0)
    table = table.drop(index=[3, 4, 20]).astype({"a": object})
    table.to_csv("holes.csv", index=False)
    assert run("holes.csv", "--step", 60, "--out", "o.csv").exit_code == 0
    filled = pd.read_csv("o.csv")
    assert len(filled) == 36
    assert filled[["a", "b"]].notna().all().all()
    assert filled.groupby("id")["time"].apply(list).map(lambda t: t == list(range(0, 720, 60))).all()
    assert len(pd.read_csv("holes.csv")) == 33
    assert run("holes.csv", "--step", 60, "--no-complete", "--out", "o.csv").exit_code == 0
    assert len(pd.read_csv("o.csv")) == 33
    waves(dated=True).to_parquet("dated.parquet")
    hourly = run("dated.parquet", "--step", "1h", "--json")
    assert json.loads(hourly.stdout)["cells"] == 256


def test_netcdf_comes_back_as_netcdf(run: Run) -> None:
    table = waves(gaps=0.3).set_index(["id", "time"]).to_xarray()
    table["a"].attrs["units"] = "mmHg"
    table.to_netcdf("waves.nc")
    assert run("waves.nc", "--out", "o.nc").exit_code == 0
    with xr.open_dataset("o.nc") as filled:
        assert filled["a"].attrs["units"] == "mmHg"
        assert filled["a"].notnull().all()
        seen = table["a"].notnull().to_numpy()
        assert np.array_equal(filled["a"].to_numpy()[seen], table["a"].to_numpy()[seen])
    refused = run("waves.nc", "--out", "o.csv")
    assert refused.exit_code == 2
    assert "ending in .nc" in refused.stderr


def test_a_model_is_kept_and_used_again_without_training(run: Run) -> None:
    assert run("waves.csv", "--run", "kept", "--out", "first.csv", "--seed", 2).exit_code == 0
    used = run("waves.csv", "--model", "kept/model", "--no-train", "--out", "again.csv", "--seed", 2, "--json")
    assert used.exit_code == 0, used.output
    assert Path("again.csv").read_text() == Path("first.csv").read_text()
    assert json.loads(used.stdout)["training"] == {}
    waves().rename(columns={"b": "c"}).to_csv("other.csv", index=False)
    partly = run("other.csv", "--model", "kept/model", "--no-train", "--out", "o.csv")
    assert partly.exit_code == 0
    assert "c: gaps left, since the model does not know it" in partly.stderr
    filled = pd.read_csv("o.csv")
    assert filled["a"].notna().all()
    assert filled["c"].isna().sum() == waves()["b"].isna().sum()
    warm = run("other.csv", "--model", "kept/model", "--out", "o.csv")
    assert "trained, since the weights do not know c" in warm.stderr
    assert pd.read_csv("o.csv")["c"].notna().all()


def test_ctrl_c_keeps_the_series_that_are_finished(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run("waves.csv", "--out", "whole.csv")
    assert whole.exit_code == 0
    put = Imputation._put

    def until_third(self: Imputation, found: Any, number: int, *rest: Any) -> None:
        if number == 3:
            raise KeyboardInterrupt
        put(self, found, number, *rest)

    monkeypatch.setattr(Imputation, "_put", until_third)
    done = run("waves.csv", "--out", "o.csv", "--report", "r.html")
    assert done.exit_code == 130
    assert "interrupted after 3 of 8 windows" in done.stderr
    expected, found = pd.read_csv("whole.csv"), pd.read_csv("o.csv")
    finished = found["id"].isin(["p0", "p1", "p2"])
    pd.testing.assert_frame_equal(found[finished], expected[finished])
    came = pd.read_csv("waves.csv")
    pd.testing.assert_frame_equal(found.loc[~finished, list(came)], came[~finished])


def test_ctrl_c_in_training_writes_nothing(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*arguments: Any, **more: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(fit, "train", stopped)
    assert run("waves.csv", "--out", "o.csv").exit_code == 130
    assert sorted(path.name for path in tmp_path.iterdir()) == ["waves.csv"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere.csv"], "cannot read nowhere.csv"),
        (["empty.csv"], "empty"),
        (["waves.csv", "--id", "name"], "'name'"),
        (["waves.csv", "--variables", "a,z"], "'z'"),
        (["waves.csv", "--samples", 1], "2 to 4096 samples"),
        (["waves.csv", "--quantiles", "5,95"], "between 0 and 1"),
        (["waves.csv", "--time-budget", "soon"], "--time-budget: expected a time such as"),
        (["waves.csv", "--step", "soon"], "--step: expected a number"),
        (["waves.csv", "--step", 0], "step: expected a number > 0"),
        (["waves.csv", "--out", "o.xyz"], "ending in .csv"),
        (["waves.csv", "--out", "no/where/o.csv"], "cannot write"),
        (["waves.csv", "--out", "o.nc"], "expected a table"),
        (["waves.csv", "--draws", "d.csv"], "ending in .nc"),
        (["waves.csv", "--report", "r.pdf"], "ending in .html"),
        (["waves.csv", "--out", "-", "--json"], "one of them on standard output"),
        (["waves.csv", "--no-train"], "training is forbidden|that the model knows"),
        (["waves.csv", "--model", "nowhere"], "nowhere"),
        (["waves.csv", "--static", "nowhere.csv"], "nowhere.csv"),
        (["hollow.csv"], "two observed values"),
    ],
)
def test_bad_input_is_one_clear_line_and_leaves_nothing(
    run: Run, tmp_path: Path, arguments: list[object], words: str
) -> None:
    import re

    (tmp_path / "empty.csv").touch()
    (tmp_path / "hollow.csv").write_text("id,time,a\np,0,\np,1,2.5\nq,0,\n")
    before = sorted(path.name for path in tmp_path.iterdir())
    done = run(*arguments)
    assert done.exit_code == 2, done.output
    assert re.search(words, done.stderr), done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("error: ")
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_a_budget_that_is_too_short_is_refused_with_one_that_is_not(run: Run) -> None:
    done = run("waves.csv", "--time-budget", "0.01s", quick=False)
    assert done.exit_code == 2
    assert "about 1m" in done.stderr


def test_a_run_folder_of_another_table_is_refused_and_one_that_was_cut_off_goes_on(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run("waves.csv", "--run", "kept", "--out", "first.csv").exit_code == 0
    assert run("waves.csv", "--run", "kept", "--out", "again.csv").exit_code == 0
    assert Path("again.csv").read_text() == Path("first.csv").read_text()
    waves(seed=9).to_csv("other.csv", index=False)
    refused = run("other.csv", "--run", "kept", "--out", "o.csv")
    assert refused.exit_code == 2
    assert "trained on this table" in refused.stderr
    step = loop._Run._step

    def until_second(self: Any, factor: float) -> None:
        step(self, factor)
        if self.state.step == 2:
            self.stop.signal = signal.SIGINT

    longer = ("--max-steps", 4, "--run", "cut", "--out", "cut.csv")
    with monkeypatch.context() as patch:
        patch.setattr(loop._Run, "_step", until_second)
        assert run("waves.csv", *longer).exit_code == 130
    assert not Path("cut.csv").exists()
    assert list(Path("cut/checkpoints").iterdir())
    assert run("waves.csv", *longer).exit_code == 0
    assert run("waves.csv", "--max-steps", 4, "--out", "whole.csv").exit_code == 0
    assert Path("cut.csv").read_text() == Path("whole.csv").read_text()


@pytest.mark.slow
def test_the_sample_is_imputed_within_its_budget(run: Run) -> None:
    import time

    began = time.monotonic()
    done = run("sample", "--step", 60, "--samples", 20, "--time-budget", "10m", "--out", "o.csv", "--json", quick=False)
    assert done.exit_code == 0, done.output
    assert time.monotonic() - began < 600
    panel, filled = sample(), pd.read_csv("o.csv")
    came = pd.DataFrame(
        {
            "RecordID": np.asarray(panel.ids)[panel.series].repeat(37).astype("int64"),
            "minute": panel.time.repeat(37),
            "variable": list(panel.variables) * len(panel.time),
            "came": panel.value.ravel(),
        }
    ).dropna()
    both = came.merge(filled, on=["RecordID", "minute", "variable"])
    assert len(both) == len(came)
    assert (both["came"] == both["value"]).all()
    account = json.loads(done.stdout)
    assert account["left"] == 0
    assert account["cells"] == account["observed"] + account["filled"]
    if packaged() is None:
        assert account["training"]["held_out_loss"] < account["training"]["held_out_loss_before"]


RULES = """
bounds: {HR: [70, 90], Temp: [35, 40]}
order: [[DiasABP, MAP, SysABP]]
"""


def test_every_sample_keeps_the_rules_and_what_was_observed_is_untouched(run: Run) -> None:
    names = ["HR", "Temp", "DiasABP", "MAP", "SysABP"]
    stays = pd.read_csv(sample_path())
    few = stays[stays.RecordID.isin(stays.RecordID.unique()[:5]) & stays.variable.isin(names)]
    few.to_csv("few.csv", index=False)
    Path("rules.yaml").write_text(RULES)
    call = ("few.csv", "--step", 60, "--no-train", "--samples", 12, "--steps", 3, "--draws", "d.nc", "--json")
    done = run(*call, "--constraints", "rules.yaml", "--report", "r.html", quick=False)
    assert done.exit_code == 0, done.output
    with xr.open_dataset("d.nc") as held:
        value, seen = held["value"].to_numpy(), held["observed"].to_numpy()
        place = {name: k for k, name in enumerate(held["variable"].to_numpy().tolist())}
    broken = 0
    for s in range(len(value)):
        for k in range(12):
            for t in range(value.shape[2]):
                x = value[s, k, t]
                made = ~seen[s, t] & ~np.isnan(x)  # a shorter series ends in NaN
                for name, low, high in (("HR", 70, 90), ("Temp", 35, 40)):
                    broken += bool(made[place[name]] and not low <= x[place[name]] <= high)
                for a, b in (("DiasABP", "MAP"), ("MAP", "SysABP")):
                    if made[place[a]] or made[place[b]]:
                        broken += not x[place[a]] <= x[place[b]] + 1e-9
    account = json.loads(done.stdout)["constraints"]
    assert set(account) == {
        *("HR >= 70", "HR <= 90", "Temp >= 35", "Temp <= 40"),
        *("DiasABP <= MAP", "DiasABP <= SysABP", "MAP <= SysABP"),
    }
    told = sum(one["draws"] for one in account.values())
    assert (broken, told) == (0, 0)
    assert "rules checked on 60 draws of 5 series: all hold" in done.stderr
    assert "<h2>Constraints</h2>" in Path("r.html").read_text()
    assert run(*call, quick=False).exit_code == 0
    with xr.open_dataset("d.nc") as free:
        other = free["value"].to_numpy()
    assert np.array_equal(np.where(seen[:, None], other, 0), np.where(seen[:, None], value, 0), equal_nan=True)
    outside = np.where(seen[:, None, :, place["HR"]], 80, other[..., place["HR"]])
    assert ((outside < 70) | (outside > 90)).any()  # the rules do something


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("bounds: {X: [0, 1]}", "expected rules about a, b, got one about X"),
        ("bounds: {a: [2, 1]}", "bounds.a: expected low <= high, got [2, 1]"),
        ("bounds: [", "rules.yaml: expected a YAML file of rules"),
        ("limits: {a: [0, 1]}", "rules.yaml: limits: Extra inputs are not permitted"),
    ],
)
def test_rules_that_cannot_be_used(run: Run, text: str, words: str) -> None:
    Path("rules.yaml").write_text(text)
    done = run("waves.csv", "--constraints", "rules.yaml", "--out", "o.csv")
    assert done.exit_code == 2
    assert words in done.stderr
    assert done.stderr.count("\n") == 1
    assert not Path("o.csv").exists()


def test_the_imputer_takes_rules_as_a_dictionary_and_says_what_came_of_them() -> None:
    table = waves(dated=False)
    rules = {"bounds": {"a": [-0.5, 0.5]}, "monotone": {"b": "increasing"}}
    imputer = DiffusionImputer(max_steps=1, n_draws=4, steps=2, constraints=rules).fit(table)
    draws = imputer.impute_samples(table)
    a = draws["value"].sel(variable="a").to_numpy()
    made = ~draws["observed"].sel(variable="a").to_numpy()
    assert (np.abs(a)[np.broadcast_to(made[:, None], a.shape)] <= 0.5).all()
    # waves go up and down: no sample can mend what was observed
    assert imputer.verdicts_ is not None
    assert imputer.verdicts_["b increasing"]["observed"]
    assert not imputer.verdicts_["a <= 0.5"]["draws"]


def test_calibrated_quantiles_need_pairs_and_series(run: Run) -> None:
    done = run("waves.csv", "--calibrate", "--quantiles", "0.1,0.9", "--out", "o.csv")
    assert done.exit_code == 2
    assert "expected hidden values of a variable in at least 18 series that training left out" in done.stderr
    uneven = run("waves.csv", "--calibrate", "--quantiles", "0.1,0.8", "--out", "o.csv")
    assert uneven.exit_code == 2
    assert uneven.stderr == "error: expected quantiles in pairs p and 1 - p to calibrate, got none at 0.2\n"
    assert not Path("o.csv").exists()
