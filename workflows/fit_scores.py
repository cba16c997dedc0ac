"""Fit what each fragment adds to each property, which steered sampling tilts its draws by (`scidiff.molecules.scores`).

    python datasets/moses.py                     once: fetch MOSES into the cache
    python workflows/fit_scores.py [--molecules 44000]

Writes scores.safetensors and scores.json into scidiff/molecules/weights/moses, some minutes on one core.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path

import torch

from scidiff.molecules.model import FragmentModel
from scidiff.molecules.readers import read_smiles
from scidiff.molecules.reference import locate
from scidiff.molecules.scores import Scores

FOLDER = Path(__file__).parents[1] / "scidiff" / "molecules" / "weights" / "moses"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--molecules", type=int, default=44_000)
    molecules = parser.parse_args().molecules
    smiles = random.Random(0).sample(list(read_smiles(locate("train"))), molecules)
    found = Scores.fit(FragmentModel.load(FOLDER).vocabulary, smiles, source="the MOSES training set")
    found.save(FOLDER)
    print(found.card)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
