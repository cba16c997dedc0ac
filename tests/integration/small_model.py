"""A molecule model that is small and knows nothing: tests of what is done with a model need no more."""

from __future__ import annotations

import csv
import gzip
from pathlib import Path

import torch

from scidiff.molecules.model import FragmentModel, ModelConfig
from scidiff.molecules.vocabulary import Vocabulary

LENGTHS = (0, 0, 1, 2, 2, 1)  # molecules of 2 to 5 fragments: few calls of the network
SAMPLE = Path(__file__).parents[2] / "datasets" / "moses" / "sample.csv.gz"


def sample_smiles(count: int) -> list[str]:
    """The first rows of the vendored sample."""
    with gzip.open(SAMPLE, "rt") as stream:
        return [row["smiles"] for row, _ in zip(csv.DictReader(stream), range(count), strict=False)]


def make(folder: Path) -> Path:
    """Write the model to `folder`/small; returns that folder."""
    smiles = sample_smiles(200)
    vocabulary = Vocabulary.build(smiles, 120)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = FragmentModel.create(vocabulary, ModelConfig(width=32, depth=1, heads=2, lengths=LENGTHS))
    model.save(folder / "small")
    return folder / "small"
