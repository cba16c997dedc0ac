"""Packaged weights go by their names; a folder of that name comes first."""

from pathlib import Path

import pytest
from rdkit import Chem
from rdkit.Chem import AllChem

from scidiff.molecules.generator import Generator
from scidiff.molecules.model import FragmentModel
from scidiff.molecules.quantum import ATOMS, QUANTUM
from scidiff.molecules.three_d.estimator import Estimator, chooser
from scidiff.molecules.three_d.generated import fragments_of_small_molecules
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


def test_the_model_that_is_told_of_values():
    told = FragmentModel.load(fragments_of_small_molecules(told=True))
    assert list(told.edges.of) == [*QUANTUM, ATOMS]
    assert told.census is not None
    assert told.census.names == (*QUANTUM, ATOMS)
    assert told.sums is not None
    assert told.sums.names == told.census.names
    assert told.scores is None  # which others read


def test_the_networks_that_read_values_learned_from_different_halves():
    judge, choosing = Estimator.load(), Estimator.load(chooser())
    assert "second half" in choosing.card["data"]
    assert "second" not in judge.card["data"]


@pytest.mark.parametrize("folder", [None, chooser()])
def test_a_network_that_reads_values(folder: Path | None):
    reader = Estimator.load(folder)
    assert set(reader.card["held out"]) == set(QUANTUM)
    mols = [Chem.AddHs(Chem.MolFromSmiles(smiles)) for smiles in ("CCCCCCO", "C")]
    for mol in mols:
        assert AllChem.EmbedMolecule(mol, randomSeed=1) == 0
    (alpha, gap, *_), (small, *_) = reader.values(mols)
    assert 60 < alpha < 85  # bohr^3; B3LYP gives 72.0, 13.2 for methane, and gaps of 9.3 and 13.7 eV
    assert small < 25
    assert 7 < gap < 12
