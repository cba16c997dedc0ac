"""Train the shipped molecule model on MOSES.

    python datasets/moses.py                                     once: fetch MOSES into the cache
    python workflows/train_molecules.py --minutes 120 --out runs/moses
    python workflows/train_molecules.py --minutes 240 --out runs/moses --resume      more of the same run
    python workflows/train_molecules.py --minutes 60 --out runs/next --init scidiff/molecules/weights/moses

With `--told`, or from weights that can be, the model learns to be told of properties (`scidiff.molecules.edges`), which
are measured first, once: two minutes for 100,000 molecules on one core.

The run's folder holds its record, its log, its checkpoints and, at the end, `model/`, which `scidiff molecules generate
--model` takes. Two cores of a laptop see about 500 molecules a second, one about 300.
"""

from __future__ import annotations

import argparse
import random
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from _training import parser, run

from scidiff.molecules.fit import TOKENS, beginning, bounds, encode_cached, fit, recipe
from scidiff.molecules.model import FragmentModel
from scidiff.molecules.readers import read_smiles
from scidiff.molecules.reference import locate
from scidiff.molecules.telling import measured
from scidiff.molecules.vocabulary import Vocabulary

COUNTED = 200_000  # training molecules whose tokens are counted for the vocabulary
HELD_OUT = 8000
RATES = ("learning_rate", "muon_learning_rate")


def arguments() -> argparse.Namespace:
    found = parser(__doc__)
    found.add_argument("--molecules", type=int, default=None, help="train on so many random molecules (default: all)")
    found.add_argument("--init", type=Path, default=None, help="start from the weights of this folder")
    found.add_argument("--told", action="store_true", help="learn to be told of properties; kept if --init can be")
    found.add_argument("--rate", type=float, default=1.0, help="peak learning rates, in units of the recipe's")
    found.add_argument("--workers", type=int, default=2, help="processes that encode molecules")
    return found.parse_args()


def main(options: argparse.Namespace) -> None:
    cache = options.out / "encoded"
    smiles = list(read_smiles(locate("train")))
    counted = random.Random(1).sample(smiles, min(COUNTED, len(smiles)))
    random.Random(2).shuffle(smiles)
    start = None if options.init is None else FragmentModel.load(options.init)
    vocabulary = Vocabulary.build(counted, TOKENS, workers=options.workers) if start is None else start.vocabulary
    data = encode_cached(vocabulary, smiles[: options.molecules], cache, workers=options.workers)
    test = encode_cached(vocabulary, list(read_smiles(locate("test")))[:HELD_OUT], cache, workers=options.workers)
    print(f"{len(data.classes):,} molecules to learn, refused: {dict(data.refused) or 'none'}")
    if options.told or (start is not None and start.config.edges):
        measure = partial(measured, vocabulary, folder=cache, workers=options.workers)
        data, test = (replace(part, values=measure(part.classes)) for part in (data, test))
    model = beginning(vocabulary, data, start)
    print(f"before: {bounds(model, test, model.denoiser)}", flush=True)
    rates = {name: options.rate * getattr(recipe(minutes=1, seed=0), name) for name in RATES}
    config = recipe(minutes=options.minutes, seed=options.seed, **rates)
    fitted = fit(model, data, test, config, out=options.out, resume=options.resume)
    card = {**fitted.card, "torch": torch.__version__, "init": str(options.init or "fresh weights")}
    replace(fitted, card=card).save(options.out / "model")


if __name__ == "__main__":
    run(main, arguments())
