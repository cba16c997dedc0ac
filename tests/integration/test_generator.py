"""Molecules from a network: the same whatever the batch, the cores and the place to start; refused if it is damaged."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
import torch
from rdkit import Chem

from scidiff.errors import UserError
from scidiff.molecules import generate
from scidiff.molecules.fragments import RING_LABELS
from scidiff.molecules.generator import TILE, Generator
from scidiff.molecules.model import FragmentModel, ModelConfig
from scidiff.molecules.vocabulary import Vocabulary
from scidiff.weights import WeightsError

TOKENS = (*RING_LABELS, "*C", "*N*", "*c1ccccc1", "[1*]C", "[1*]N", "[1*]F", "*C[1*]", "*O[1*]", "*C(*)[1*]", "[1*]Br")


@pytest.fixture(scope="module")
def model() -> FragmentModel:
    torch.manual_seed(0)
    config = ModelConfig(width=32, depth=2, heads=2, lengths=(0, 0, 4, 5, 6, 3, 1))
    fresh = FragmentModel.create(Vocabulary(tokens=TOKENS), config)
    for parameter in fresh.denoiser.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    fresh.denoiser.eval()
    return fresh


@pytest.fixture
def cores() -> Iterator[int]:
    before = torch.get_num_threads()
    yield before
    torch.set_num_threads(before)


def drawn(model: FragmentModel, number: int, *, start: int = 0, batch_size: int = TILE) -> list[tuple[int, str]]:
    stream = Generator(model=model).stream(seed=5, start=start, batch_size=batch_size)
    return [(one.index, one.smiles) for one in islice(stream, number)]


def test_the_same_molecules_whatever_the_batch_the_cores_and_the_start(model: FragmentModel, cores: int) -> None:
    torch.set_num_threads(1)
    whole = drawn(model, 2 * TILE + 20)
    assert [index for index, _ in whole] == list(range(2 * TILE + 20))
    assert len({text for _, text in whole}) > 100
    assert all(Chem.MolFromSmiles(text) is not None for _, text in whole)
    torch.set_num_threads(3)
    assert drawn(model, 2 * TILE + 20, batch_size=1000) == whole
    assert torch.get_num_threads() == 3
    assert drawn(model, 30, start=TILE - 7, batch_size=1) == whole[TILE - 7 : TILE + 23]
    alone = [(one.index, one.smiles) for one in Generator(model=model).tile(1, seed=5)]
    assert alone == whole[TILE : 2 * TILE]


def test_a_run_that_has_enough_leaves_no_work_behind(model: FragmentModel, cores: int) -> None:
    torch.set_num_threads(2)
    stream = Generator(model=model).stream(seed=5, batch_size=20 * TILE)
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    until = time.monotonic() + 60
    while any(thread.name.startswith("draw") for thread in threading.enumerate()) and time.monotonic() < until:
        time.sleep(0.05)
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("draw")]


def test_an_error_while_drawing_is_not_swallowed(model: FragmentModel, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise MemoryError("no room")

    monkeypatch.setattr(Generator, "_sequences", fail)
    with pytest.raises(MemoryError, match="no room"):
        next(Generator(model=model).stream(seed=5))


def test_a_damaged_description_is_refused_in_one_line(model: FragmentModel, tmp_path: Path) -> None:
    model.save(tmp_path / "whole")
    assert len(generate(num=3, model=tmp_path / "whole").molecules) == 3
    path = tmp_path / "whole" / "weights.json"
    record = json.loads(path.read_text())
    record["config"]["tokens"][-1] = "[1*]Cl"  # reads well, and is another model
    path.write_text(json.dumps(record))
    with pytest.raises(UserError, match=r"weights.json: expected the configuration that was written, got another"):
        generate(num=3, model=tmp_path / "whole")


@pytest.mark.parametrize("what", ["token", "lengths", "sizes"])
def test_a_description_of_no_model_is_refused_in_one_line(
    model: FragmentModel, tmp_path: Path, capfd: pytest.CaptureFixture[str], what: str
) -> None:
    wrong = {
        "token": replace(model, vocabulary=Vocabulary(tokens=(*TOKENS[:-1], "[1*]XX"))),
        "lengths": replace(model, config=replace(model.config, lengths=(0, 0))),
        "sizes": replace(model, config=replace(model.config, width=64)),
    }[what]
    wrong.save(tmp_path / "wrong")
    with pytest.raises(WeightsError, match="expected weights of a fragment model, got others") as caught:
        FragmentModel.load(tmp_path / "wrong")
    assert len(str(caught.value).splitlines()) == 1
    assert capfd.readouterr().err == ""
