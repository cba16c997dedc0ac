"""Train the model of fragments of QM9 that is told of quantum properties.

    python datasets/qm9.py                                       once: fetch QM9 into the cache
    python workflows/train_towards.py --minutes 12 --out runs/towards
    python workflows/train_towards.py --minutes 24 --out runs/towards --resume          more of the same run

It learns from one half of the training split, so that networks that read properties can learn from the other
(`workflows/train_properties.py`) and judge what it makes. Molecules of the validation split are watched; those to test
on are never looked at. The run's folder holds its record, its log, its checkpoints and, at the end, `model/`.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "datasets"))
from _training import account, parser, run
from qm9 import fetch

from scidiff.molecules.census import Census
from scidiff.molecules.edges import Edges
from scidiff.molecules.fit import TOKENS, Encoded, bound, recipe
from scidiff.molecules.model import FragmentModel, ModelConfig
from scidiff.molecules.quantum import ATOMS, QUANTUM, halves, quantum_values
from scidiff.molecules.scores import Scores
from scidiff.molecules.telling import Told
from scidiff.molecules.vocabulary import MAX_LENGTH, Vocabulary, encode_many
from scidiff.training.loop import train

BATCH = 2048  # fragments
WIDTH = 192
HELD_OUT = 2000
NAMES = (*QUANTUM, ATOMS)
SOURCE = "QM9 (Ramakrishnan et al. 2014), half of the training split of datasets/qm9.py"
CHANCES = {**dict.fromkeys(QUANTUM, 0.2), ATOMS: 0.85}
"""To be told of each: mostly of the size, with one property or two, as users and the benchmark ask."""


def read(split: Path) -> tuple[list[str], np.ndarray]:
    """SMILES of a split and what is told of each: [M, P]."""
    with split.with_suffix(".csv").open(encoding="ascii") as file:
        smiles = [row["smiles"] for row in csv.DictReader(file)]
    with np.load(split) as held:
        atoms = held["atoms"].astype(np.float64)
    return smiles, np.column_stack([quantum_values(split), atoms])


def encoded(vocabulary: Vocabulary, smiles: list[str], values: np.ndarray) -> Encoded:
    """The molecules that the vocabulary writes, with what is told of each."""
    rows, kept, refused = np.full((len(smiles), MAX_LENGTH), -1, dtype=np.int16), [], Counter[str]()
    for place, (classes, reason) in enumerate(encode_many(vocabulary, smiles)):
        if classes is None:
            refused[reason.partition(":")[0]] += 1
        else:
            rows[place, : len(classes)] = classes
            kept.append(place)
    return Encoded(classes=rows[kept], refused=dict(refused), values=values[kept])


def arguments() -> argparse.Namespace:
    return parser(__doc__).parse_args()


def main(options: argparse.Namespace) -> None:
    folder = fetch()
    smiles, values = read(folder / "train.npz")
    half = np.random.default_rng(options.seed).permutation(halves(len(smiles))[1])  # in random order, for the census
    smiles, values = [smiles[k] for k in half], values[half]
    vocabulary = Vocabulary.build(smiles, TOKENS)
    data = encoded(vocabulary, smiles, values)
    held, told = read(folder / "valid.npz")
    held_out = encoded(vocabulary, held[:HELD_OUT], told[:HELD_OUT])
    print(f"{len(data.classes):,} molecules to learn, refused: {dict(data.refused) or 'none'}", file=sys.stderr)
    lengths = tuple(np.bincount(data.lengths, minlength=MAX_LENGTH + 1).tolist())
    torch.manual_seed(options.seed)
    model = FragmentModel.create(
        vocabulary, ModelConfig(width=WIDTH, lengths=lengths, edges=Edges.between(NAMES, values).of)
    )
    config = recipe(minutes=options.minutes, seed=options.seed, checkpoint_minutes=3, compile=options.minutes > 3)
    facts = partial(model.edges.pinned, chances=CHANCES)
    result = train(
        model.denoiser,
        model.processes,
        data.batches(tokens=BATCH, seed=options.seed),
        config,
        out=options.out,
        resume=options.resume,
        objective=Told(facts=facts),
        validate=lambda denoiser: {
            "held_out_bound_nats": bound(model, held_out, denoiser),
            "held_out_bound_told_nats": bound(model, held_out, denoiser, told=facts),
        },
        description=model.description(),
    )
    model.denoiser.load_state_dict(result.denoiser.state_dict())
    card = {
        "data": f"{SOURCE}, MIT",
        "molecules": len(data.classes),
        "refused": dict(data.refused),
        **account(result, config),
    }
    replace(model, card=card).save(options.out / "model")
    Census.of(data.lengths, data.values, NAMES).save(options.out / "model")
    Scores.fit(vocabulary, data.classes, data.values, source=SOURCE, names=NAMES).save(options.out / "model")
    print(options.out / "model")


if __name__ == "__main__":
    run(main, arguments())
