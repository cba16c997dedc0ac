"""Two processes train as one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

sys.path.insert(0, str(Path(__file__).parent))
import train_tiny

pytestmark = pytest.mark.skipif(not torch.distributed.is_available(), reason="torch was built without distributed")


def losses(out: Path) -> list[float]:
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


def validations(out: Path) -> list[float]:
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [line["norm"] for line in lines if "norm" in line]


@pytest.mark.timeout(900)
@pytest.mark.parametrize("strategy", [[], ["--fsdp"]], ids=["ddp", "fsdp"])
def test_two_processes_train_as_one(tmp_path, capsys, strategy):
    """The same loss at every step, the same weights, one set of files; and a run may change its number of processes."""
    train_tiny.main(str(tmp_path / "one"), "20", "--float64")
    train_tiny.main(str(tmp_path / "two"), "5", "--float64")
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", train_tiny.__file__]
    done = subprocess.run(
        [*launch, str(tmp_path / "two"), "20", "--float64", "--resume", *strategy],
        capture_output=True, text=True, timeout=800, check=False, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    steps_and_samples = " ".join(capsys.readouterr().out.split()[:2])
    assert done.stdout.count(steps_and_samples) == 2  # both processes' lines may come as one
    single, double = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert len(single) == 20
    assert double == pytest.approx(single, rel=1e-10)
    a, b = (load_file(tmp_path / name / "weights" / "weights.safetensors") for name in ("one", "two"))
    for name, x in a.items():
        torch.testing.assert_close(x, b[name], rtol=1e-8, atol=1e-9)
    assert validations(tmp_path / "two")[-1] == pytest.approx(validations(tmp_path / "one")[-1], rel=1e-8)
    # and one process goes on from what two have written
    train_tiny.main(str(tmp_path / "two"), "21", "--float64", "--resume")
    assert len(losses(tmp_path / "two")) == 21
