"""`scidiff benchmark` and the workflow, in a checkout made for the test."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from scidiff.cli.main import app

ROOT = Path(__file__).parents[2]
TOY = '''"""Measures nothing, quickly.

More.
"""
import argparse, json, sys
parser = argparse.ArgumentParser()
parser.add_argument("--quick", action="store_true")
parser.add_argument("--seed", type=int)
parser.add_argument("--json")
chosen = parser.parse_args()
table = {"title": "Toy", "columns": ["method", "error"], "rows": [["ours", 0.012345 + chosen.seed], ["peer", None]]}
with open(chosen.json, "w") as file:
    json.dump({"benchmark": "toy", "quick": chosen.quick, "seed": chosen.seed, "tables": [table]}, file)
sys.exit(CODE)
'''


@pytest.fixture
def checkout(tmp_path, monkeypatch) -> Path:
    root = tmp_path / "checkout"
    (root / "benchmarks").mkdir(parents=True)
    (root / "scidiff").symlink_to(ROOT / "scidiff")
    (root / "benchmarks" / "toy.py").write_text(TOY.replace("CODE", "0"))
    (root / "benchmarks" / "missed.py").write_text(TOY.replace("CODE", "1"))
    monkeypatch.chdir(root)
    return root


def call(*arguments: str) -> tuple[int, str, str]:
    done = subprocess.run(
        [sys.executable, "-m", "scidiff.cli.main", *arguments], capture_output=True, text=True, check=False, timeout=200
    )
    return done.returncode, done.stdout, done.stderr


def test_list(checkout):
    code, out, _ = call("benchmark", "list")
    assert code == 0
    assert out.splitlines() == ["missed  Measures nothing, quickly.", "toy     Measures nothing, quickly."]
    assert json.loads(call("benchmark", "list", "--json")[1])["toy"] == "Measures nothing, quickly."


def test_a_run_describes_itself(checkout):
    code, out, err = call("benchmark", "run", "toy", "--quick", "--seed", "3", "--json", "copy.json")
    assert (code, out.strip()) == (0, "results/toy-quick/result.json"), err
    result = json.loads((checkout / "results/toy-quick/result.json").read_text())
    assert result["quick"] is True
    assert json.loads((checkout / "copy.json").read_text()) == result
    record = json.loads((checkout / "results/toy-quick/run.json").read_text())
    assert record["config"] == {"benchmark": "toy", "quick": True}
    assert record["seed"] == 3
    assert len(record["inputs"]["toy.py"]["sha256"]) == 64
    assert record["results"] == {"exit": 0}
    assert record["seconds"] > 0


def test_a_missed_bar_and_an_unknown_name(checkout):
    assert call("benchmark", "run", "missed")[0] == 1
    code, _, err = call("benchmark", "run", "nothing")
    assert code == 2
    assert err.strip() == "error: expected a benchmark among missed, toy, got 'nothing'"


def test_outside_a_checkout(tmp_path, monkeypatch):
    from scidiff.cli import benchmark

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(benchmark, "__file__", str(tmp_path / "site-packages/scidiff/cli/benchmark.py"))
    result = CliRunner().invoke(app, ["benchmark", "list"])
    assert result.exit_code == 2
    assert "expected a checkout of scidiff around" in result.output
    assert result.output.count("\n") == 1


@pytest.mark.slow
def test_the_workflow_goes_from_raw_data_to_the_results(checkout):
    pytest.importorskip("snakemake")
    (checkout / "workflows").symlink_to(ROOT / "workflows")
    real = sorted((ROOT / "benchmarks").glob("*.py"))
    names = [path.stem for path in real if not path.stem.startswith("_")]
    for path in real:
        # a missed bar is shown in the table, not hidden
        text = "" if path.stem.startswith("_") else TOY.replace("CODE", str(int(path.stem == "solvers")))
        (checkout / "benchmarks" / path.name).write_text(text)
    (checkout / "datasets").mkdir()
    for name in ("moses", "physionet2012"):
        (checkout / "datasets" / f"{name}.py").write_text(
            "from pathlib import Path\nPath('manifest.json').write_text('{}')\nprint('.')\n"
        )
    places = "\n".join(f"<!-- table: {name} -->\nold\n<!-- end -->" for name in names)
    (checkout / "benchmarks/RESULTS.md").write_text(f"# Title\n{places}\nrest\n")
    code, _, err = call("benchmark", "tables")
    assert code == 0, err
    text = (checkout / "benchmarks/RESULTS.md").read_text()
    assert text.count("| ours | 0.0123 |") == len(names) >= 4
    assert "old" not in text
    assert text.endswith("rest\n")
    assert "Nothing to be done" in "".join(call("benchmark", "tables", "--dry-run")[1:])
    # the document is the same but the benchmark is not: it is measured again
    (checkout / "benchmarks/solvers.py").write_text(TOY.replace("CODE", "0").replace("0.012345", "0.5"))
    code, _, err = call("benchmark", "tables")
    assert code == 0, err
    assert (checkout / "benchmarks/RESULTS.md").read_text().count("| ours | 0.5 |") == 1
    bad = subprocess.run(
        [sys.executable, "-m", "snakemake", "-s", "workflows/Snakefile", "--cores", "1", "-n", "--config", "seed=-1"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert bad.returncode == 1
    assert "-1 is less than the minimum of 0" in bad.stdout + bad.stderr
