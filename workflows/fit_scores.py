"""Fit what each fragment adds to each property, which steered sampling tilts its draws by.

    python datasets/moses.py                     once: fetch MOSES into the cache
    python workflows/fit_scores.py [--molecules 40000]

A property y of a molecule with token counts n is approximated by  y ~ b + sum_k n_k s_k,  where s_k = t_k + g . f_k has
a part of its own and one that is shared through the atoms, rings and slots f_k of the token. Ridge regression, the
shared part hardly penalised, so that tokens seen seldom are scored by what they are made of. Writes scores.safetensors
and scores.json (R^2 on test molecules) into scidiff/molecules/weights/moses, some minutes on one core.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path

import numpy as np
import torch
from rdkit import Chem
from safetensors.numpy import save_file

from scidiff import atomic
from scidiff.molecules.enforcement import token
from scidiff.molecules.fragments import RING_LABELS, EncodeError, arity, skeleton
from scidiff.molecules.model import FragmentModel
from scidiff.molecules.properties import PROPERTIES
from scidiff.molecules.readers import read_smiles
from scidiff.molecules.reference import locate
from scidiff.molecules.tilting import SCORED, fingerprint
from scidiff.molecules.vocabulary import Vocabulary

FOLDER = Path(__file__).parents[1] / "scidiff" / "molecules" / "weights" / "moses"
ELEMENTS = ("C", "N", "O", "S", "F", "Cl", "Br")
PENALTY, SHARED_PENALTY = 3.0, 0.01


def made_of(text: str) -> list[float]:
    """Elements, rings, aromatic bonds in the Kekule form, hydrogens on N and O, and slots of a token."""
    adds = token(text)
    if text in RING_LABELS:
        return [0.0] * (len(ELEMENTS) + 3) + [1.0]
    mol = skeleton(text)
    polar = sum(a.GetTotalNumHs() for a in mol.GetAtoms() if a.GetSymbol() in "NO")
    double = sum(b.GetBondTypeAsDouble() > 1 for b in mol.GetBonds())
    return [
        *(float(adds.atoms.get(x, 0)) for x in ELEMENTS),
        float(adds.rings),
        float(polar),
        float(double),
        float(arity(text)),
    ]


def rows(vocabulary: Vocabulary, smiles: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Token counts [n, K] and properties [n, P] of the molecules that the vocabulary writes."""
    counts, values = [], []
    for text in smiles:
        mol = Chem.MolFromSmiles(text)
        try:
            classes = vocabulary.encode(mol)
        except EncodeError:
            continue
        counts.append(np.bincount(classes, minlength=len(vocabulary.tokens)))
        values.append([float(PROPERTIES[name].compute(mol)) for name in SCORED])
    return np.array(counts, np.float32), np.array(values)


def ridge(x: np.ndarray, y: np.ndarray, penalty: np.ndarray) -> np.ndarray:
    """(X'X + diag(penalty))^-1 X'y."""
    return np.linalg.solve((x.T @ x).astype(float) + np.diag(penalty), x.T.astype(float) @ y)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--molecules", type=int, default=40_000)
    molecules = parser.parse_args().molecules
    vocabulary = FragmentModel.load(FOLDER).vocabulary
    train, test = list(read_smiles(locate("train"))), list(read_smiles(locate("test")))
    counts, values = rows(vocabulary, random.Random(0).sample(train, molecules))
    shared = np.array([made_of(text) for text in vocabulary.tokens], np.float32)
    mean, spread = values.mean(0), values.std(0)
    x = np.concatenate([counts, counts @ shared, np.ones((len(counts), 1), np.float32)], 1)
    penalty = np.r_[np.full(counts.shape[1], PENALTY), np.full(shared.shape[1] + 1, SHARED_PENALTY)]
    solved = ridge(x, (values - mean) / spread, penalty)
    own, through = solved[: counts.shape[1]], solved[counts.shape[1] : -1]
    scores = (own + shared @ through) * spread
    intercept = solved[-1] * spread + mean
    counts, values = rows(vocabulary, random.Random(1).sample(test, 4000))
    left = values - counts @ scores - intercept
    r_squared = 1 - left.var(0) / values.var(0)
    save_file({"scores": np.ascontiguousarray(scores.T, np.float16)}, FOLDER / "scores.safetensors")
    card = {
        "what": "what each fragment adds to each property: ridge regression on token counts",
        "fitted": f"{molecules:,} random MOSES training molecules, workflows/fit_scores.py",
        "vocabulary_sha256": fingerprint(vocabulary),
        "properties": list(SCORED),
        "r_squared_on_4000_test_molecules": dict(zip(SCORED, np.round(r_squared, 3).tolist(), strict=True)),
    }
    atomic.write_json(FOLDER / "scores.json", card)
    print(card)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
