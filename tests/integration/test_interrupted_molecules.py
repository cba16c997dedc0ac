"""Ctrl-C while molecules are drawn and certified."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from pathlib import Path

import pytest
import stand_in
from rdkit import Chem
from standing_in import STAND_IN, start

from scidiff.molecules import certified, generate, oracle
from scidiff.molecules.properties import Value


def test_ctrl_c_keeps_what_was_certified(tmp_path: Path) -> None:
    process = start(
        *("generate", "--num", "100000", "--out", "o.csv", "--report", "o.html", "--progress"),
        cwd=tmp_path,
        STAND_IN_DELAY="0.01",
    )
    assert process.stderr is not None
    line = ""
    while "certified" not in line:
        line = process.stderr.readline()
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    errors = process.communicate(timeout=60)[1]
    assert process.returncode == 130
    assert "Traceback" not in errors
    with (tmp_path / "o.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert rows
    assert f"certified {len(rows)}, drawn {len(rows)}, refused 0" in errors
    assert f"--start {len(rows)} goes on" in errors
    assert [int(row["index"]) for row in rows] == list(range(len(rows)))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["o.csv", "o.html"]


def test_ctrl_c_that_a_shell_ignores_stays_ignored(tmp_path: Path) -> None:
    """As for a run in a shell's background, which must outlive the Ctrl-C of what runs before it."""
    ignoring = "import signal, sys, runpy; signal.signal(signal.SIGINT, signal.SIG_IGN); sys.argv = sys.argv[1:]"
    code = f"{ignoring}; runpy.run_path(sys.argv[0], run_name='__main__')"
    arguments = ("generate", "--num", "200", "--no-unique", "--out", "o.smi", "--progress")
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(STAND_IN), "molecules", *arguments],
        cwd=tmp_path,
        env={**os.environ, "STAND_IN_DELAY": "0.01"},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    while "certified" not in process.stderr.readline():
        pass
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 0
    assert len((tmp_path / "o.smi").read_text().splitlines()) == 200


def test_ctrl_c_in_the_middle_of_a_search_neither_cuts_it_short_nor_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """RDKit catches SIGINT while it searches for substructures; here it comes in the middle of every property."""
    honest = oracle.compute
    finished: list[dict[str, Value]] = []

    def struck(mol: Chem.Mol, names: Iterable[str]) -> dict[str, Value]:
        names = tuple(names)
        if not names:
            return {}
        # To this thread, as in the program, whose other threads never see it: those of other tests here would.
        signal.pthread_kill(threading.get_ident(), signal.SIGINT)  # delivered at once unless it is held back
        time.sleep(0)
        finished.append(honest(mol, names))
        return finished[-1]

    monkeypatch.setattr(oracle, "compute", struck)
    with pytest.raises(certified.Interrupted) as caught:
        generate(num=5, properties=["qed"], source=stand_in.Sample())
    assert len(finished) == 1  # the molecule at hand was looked at to its end
    assert caught.value.generation.drawn == 0  # but is not in the account
    assert caught.value.generation.stopped == "interrupted"
    monkeypatch.setattr(oracle, "compute", honest)
    assert len(generate(num=5, properties=["qed"], source=stand_in.Sample()).molecules) == 5


def test_ctrl_c_in_a_search_of_rdkit_itself(tmp_path: Path) -> None:
    """The property takes most of the time of a draw here, so that Ctrl-C meets RDKit's own handler."""
    arguments = ("generate", "--num", "1000000", "--no-unique", "--properties", "qed", "--out", "o.smi", "--progress")
    process = start(*arguments, cwd=tmp_path)
    assert process.stderr is not None
    while "certified" not in process.stderr.readline():
        pass
    process.send_signal(signal.SIGINT)
    errors = process.communicate(timeout=120)[1]
    assert process.returncode == 130
    assert "interrupted, result may not include" not in errors
    assert (tmp_path / "o.smi").exists()
