"""`molecules generate --method steer` on the command line: exit codes, the pilot in the account, what is printed."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from test_constrained_molecules import TOKENS, folder, nitrogens, run  # noqa: F401

from scidiff.molecules import certified, generate, tilting


@pytest.fixture(autouse=True)
def scored(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scores of the small model's tokens: their nitrogens and carbons."""
    table = torch.tensor([[t.count("N"), t.upper().count("C")] for t in TOKENS], dtype=torch.float64)
    monkeypatch.setattr(tilting, "scores", lambda generator: table)


POLAR = "count([NX3]) >= 3"


def test_steered_molecules_are_certified_and_the_pilot_counts(folder: Path) -> None:  # noqa: F811
    done = run(
        "generate", "--num", 5, "--where", POLAR, "--method", "steer", "--no-unique", "--model", folder, "--json"
    )
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    pilot = found["steering"]["pilot_draws"]
    assert found["steering"]["used"]
    assert pilot >= 4 * 256
    assert pilot % 256 == 0
    assert found["oracle_calls_per_certified"] == pytest.approx((pilot + found["drawn"]) / 5)
    assert f"a pilot of {pilot} draws" in done.stderr
    worth = f"{found['effective_sample_size']:.2g}"
    assert f"molecules have weights (log_weight) and are worth {worth} independent draws" in done.stderr


def test_the_pilot_is_within_max_draws_and_shown(folder: Path) -> None:  # noqa: F811
    shown: list[tuple[int, int]] = []
    found = generate(
        num=500,
        where=[POLAR],
        model=folder,
        method="steer",
        unique=False,
        max_draws=4000,
        progress=lambda account: shown.append((account.effort.oracle_calls, account.drawn)),
    )
    pilot = dict(found.steering or {})["pilot_draws"]
    assert isinstance(pilot, int)
    assert 0 < pilot <= 2000
    assert pilot + found.drawn == found.effort.oracle_calls <= 4000
    assert shown[: pilot // 256] == [(256 * (k + 1), 0) for k in range(pilot // 256)]


def test_too_rare_ends_with_the_share_and_its_interval(folder: Path) -> None:  # noqa: F811
    options = ("--method", "steer", "--no-unique", "--max-draws", 8000, "--model", folder, "--out", "-")
    done = run("generate", "--num", 8000, "--where", POLAR, *options)
    assert done.exit_code == 3, done.output
    line = next(line for line in done.stderr.splitlines() if line.startswith("feasible share"))
    number = r"(-?[\d.e+-]+|-inf)"
    match = re.fullmatch(
        rf"feasible share {number} \[{number}, {number}\], log Z {number} \[{number}, {number}\], of .*", line
    )
    assert match, line
    share, low, high, log_z, log_low, log_high = map(float, match.groups())
    assert low < share < high
    assert log_low < log_z < log_high
    assert log_z == pytest.approx(torch.tensor(share).log().item(), abs=0.02)


def test_what_contradicts_itself_is_no_matter_of_steering(folder: Path) -> None:  # noqa: F811
    done = run("generate", "--num", 3, "--where", "qed >= 0.9 and qed <= 0.1", "--method", "steer", "--model", folder)
    assert done.exit_code == 2
    assert "contradict" in done.stderr


def test_only_steer_steers(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    def never(*_: object, **__: object) -> None:
        raise AssertionError("a pilot")

    monkeypatch.setattr(certified, "_steer", never)
    for method in ("exact", "enforce", "reject"):
        found = generate(num=2, where=[POLAR], model=folder, method=method, max_draws=20_000)
        assert found.steering is None
        assert all(nitrogens(molecule.smiles) >= 3 for molecule in found.molecules)


class _Half:
    """Every other draw is kept; its pilot spent 500 draws."""

    def steered(self, terms: object, **_: object) -> tilting.Steered:
        return tilting.Steered(source=self, record={"used": True}, calls=900, oracle_calls=500)  # type: ignore[arg-type]

    def stream(self, **_: object) -> Iterator[SimpleNamespace]:
        for index in itertools.count():
            yield SimpleNamespace(index=index, smiles="C", kept=index % 2 == 0, calls=2)


def test_a_pilot_leaves_fewer_draws() -> None:
    """Of 1,500 draws 1,000 are left, and 500 molecules come of them: 520 are too many."""
    found = generate(num=520, where=["qed >= 0"], method="steer", unique=False, max_draws=1500, source=_Half())
    assert (found.drawn, len(found.molecules)) == (1000, 500)
    assert found.stopped == "--max-draws 1500 reached, 500 of them by the pilot"
    assert (found.effort.calls, found.effort.oracle_calls) == (900 + 2000, 1500)
