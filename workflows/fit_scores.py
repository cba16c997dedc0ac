"""Fit what each fragment adds to each property (`scidiff.molecules.scores`), and take the census (`.census`).

    python datasets/moses.py                     once: fetch MOSES into the cache
    python workflows/fit_scores.py [--molecules 44000] [--out FOLDER] [--cache FOLDER]

Writes scores.safetensors, scores.json and census.safetensors beside the weights in --out, by default the shipped ones.
Some minutes on one core; with the `encoded` folder of a run of train_molecules.py and its --molecules, one.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path

import torch

from scidiff import weights
from scidiff.molecules.census import Census
from scidiff.molecules.fit import encode_cached
from scidiff.molecules.readers import read_smiles
from scidiff.molecules.reference import locate
from scidiff.molecules.scores import Scores
from scidiff.molecules.telling import measured
from scidiff.molecules.vocabulary import Vocabulary

FOLDER = Path(__file__).parents[1] / "scidiff" / "molecules" / "weights" / "moses"
FITTED = 44_000  # molecules, at most, that scores are fitted to and judged by


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--molecules", type=int, default=44_000)
    parser.add_argument("--out", type=Path, default=FOLDER)
    parser.add_argument("--cache", type=Path, default=Path("runs/scores/encoded"))
    chosen = parser.parse_args()
    smiles = list(read_smiles(locate("train")))
    random.Random(2).shuffle(smiles)
    vocabulary = Vocabulary(tokens=tuple(weights.load(chosen.out).config["tokens"]))
    data = encode_cached(vocabulary, smiles[: chosen.molecules], chosen.cache)
    values = measured(vocabulary, data.classes, chosen.cache)
    found = Scores.fit(vocabulary, data.classes[:FITTED], values[:FITTED], source="the MOSES training set")
    found.save(chosen.out)
    Census.of(data.lengths, values).save(chosen.out)
    print(found.card)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
