"""`scidiff timeseries detect` from the outside."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import typer.testing

from scidiff.cli.main import app
from scidiff.timeseries.sample import sample_path

Run = Callable[..., typer.testing.Result]
VARIABLES = ["HR", "Temp", "MAP", "SysABP", "DiasABP"]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """On two stays, of which the first has a temperature in degrees Fahrenheit at minute 780."""
    monkeypatch.chdir(tmp_path)
    stays = pd.read_csv(sample_path())
    few = stays[stays.RecordID.isin(stays.RecordID.unique()[:2]) & stays.variable.isin(VARIABLES)].copy()
    wrong = few.index[(few.variable == "Temp") & (few.minute == 780)][0]
    few.loc[wrong, "value"] = 9 / 5 * few.loc[wrong, "value"] + 32
    few.to_csv("few.csv", index=False)
    runner = typer.testing.CliRunner()

    def call(*arguments: object, **more: Any) -> typer.testing.Result:
        return runner.invoke(app, ["timeseries", "detect", *map(str, arguments)], **more)

    return call


def test_a_temperature_in_fahrenheit_is_found(run: Run) -> None:
    done = run("few.csv", "--step", 60, "--no-train", "--checks", "value,stuck", "--out", "s.csv", "--json")
    assert done.exit_code == 0, done.output
    found = pd.read_csv("s.csv")
    assert found["flagged"].all()
    others = found[found["variable"] != "Temp"]
    # the hospital's own error: a mean pressure of 209 mmHg between 60 and 149
    assert [tuple(x) for x in others[["variable", "time", "value"]].to_numpy()] == [("MAP", 2520, 209)]
    (worst,) = found[found["variable"] == "Temp"].to_dict("records")
    assert worst["time"] == 780
    assert worst["value"] > 95
    assert 35 < worst["low"] < worst["expected"] < worst["high"] < 40
    account = json.loads(done.stdout)
    assert account["flagged"] == len(found) < 0.03 * account["values"]
    assert account["not_judged"] == 0
    assert sum(account["reasons"].values()) >= account["flagged"]


def test_all_values_come_with_their_scores_and_the_seed_decides(run: Run) -> None:
    short = ("few.csv", "--step", 60, "--no-train", "--samples", 10, "--checks", "value", "--all")
    first = run(*short)
    assert first.exit_code == 0, first.output
    came = pd.read_csv("few.csv")
    assert len(first.stdout.splitlines()) == 1 + len(came)
    assert run(*short).stdout == first.stdout
    assert run(*short, "--seed", 1).stdout != first.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("few.csv", "--checks", "values"), "checks among value, stuck, column"),
        (("few.csv", "--rate", "0"), "expected rate in (0, 1)"),
        (("few.csv", "--out", "s.nc"), "--out: expected a file name ending in .csv or .parquet, got 's.nc'"),
        (("none.csv",), "none.csv"),
        (("few.csv", "--out", "no/s.csv"), "cannot write no/s.csv"),
    ],
)
def test_what_cannot_be_done_is_one_line(run: Run, arguments: tuple[str, ...], words: str) -> None:
    done = run(*arguments, "--no-train")
    assert done.exit_code == 2
    assert words in done.stderr
    assert "Traceback" not in done.output
    assert not Path("s.csv").exists()
