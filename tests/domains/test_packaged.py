"""Packaged weights go by their names; a folder of that name comes first."""

from pathlib import Path

import pytest

from scidiff.molecules.generator import Generator
from scidiff.weights import WeightsError


def test_weights_are_found_by_name():
    default, named = Generator.load(), Generator.load(Path("moses"))
    assert named.model.vocabulary.tokens == default.model.vocabulary.tokens
    assert named.model.edges.of  # it can be told


def test_another_name_and_a_folder_without_weights_are_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(WeightsError, match="zinc"):
        Generator.load(Path("zinc"))
    (tmp_path / "moses").mkdir()
    with pytest.raises(WeightsError, match="moses"):
        Generator.load(Path("moses"))
