"""Train the property head of the shipped molecule model (`scidiff.molecules.head`).

    python datasets/moses.py                     once: fetch MOSES into the cache
    python workflows/fit_head.py --minutes 8 --out runs/head [--cache FOLDER] [--molecules N] [--model FOLDER]

Reads weights and scores of --model, by default the shipped ones, whose beliefs it learns from; writes the head into
`head/` beside them, or below --into. The `encoded` folder of a run of train_molecules.py and its --molecules save the
time to measure molecules. The card has R^2 on held-out molecules by the share of fragments hidden, beside that of
additive scores.
"""

from __future__ import annotations

import argparse
import random
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import cast

import torch
from _training import account, parser, run

from scidiff.denoiser import Denoiser
from scidiff.molecules.beliefs import HeadLoss, explained
from scidiff.molecules.fit import encode_cached
from scidiff.molecules.head import PropertyHead
from scidiff.molecules.model import FragmentModel
from scidiff.molecules.readers import read_smiles
from scidiff.molecules.reference import locate
from scidiff.molecules.telling import measured
from scidiff.training.config import TrainingConfig
from scidiff.training.loop import train

FOLDER = Path(__file__).parents[1] / "scidiff" / "molecules" / "weights" / "moses"
HELD_OUT = 8000
JUDGED = 2000  # held-out molecules, at each share of fragments hidden
TOKENS = 2048


def arguments() -> argparse.Namespace:
    found = parser(__doc__)
    found.add_argument("--molecules", type=int, default=100_000)
    found.add_argument("--model", type=Path, default=FOLDER)
    found.add_argument("--into", type=Path, help="write the head beside the weights of this folder; default: --model")
    found.add_argument("--cache", type=Path, default=Path("runs/scores/encoded"))
    return found.parse_args()


def main(options: argparse.Namespace) -> None:
    model = FragmentModel.load(options.model)
    if model.scores is None:
        raise SystemExit(f"error: {options.model}: expected scores of fragments: workflows/fit_scores.py makes them")
    smiles = list(read_smiles(locate("train")))
    random.Random(2).shuffle(smiles)
    encode = partial(encode_cached, model.vocabulary, folder=options.cache)
    data, test = encode(smiles[: options.molecules]), encode(list(read_smiles(locate("test")))[:HELD_OUT])
    measure = partial(measured, model.vocabulary, folder=options.cache)
    data, test = (replace(part, values=measure(part.classes)) for part in (data, test))
    test = replace(test, classes=test.classes[:JUDGED], values=test.values[:JUDGED])
    torch.manual_seed(options.seed)
    embedding = model.denoiser.get_parameter("network.embed.weight").detach()[:-1]
    head = PropertyHead.beginning(model.scores, torch.from_numpy(data.values), embedding)
    config = TrainingConfig(
        max_minutes=options.minutes,
        seed=options.seed,
        learning_rate=2e-3,
        schedule="cosine",
        ema_decay=0.995,
        log_seconds=30,
        checkpoint_minutes=2,
    )
    before = explained(model, head, test)
    result = train(
        cast(Denoiser, head),  # the loop trains any network whose loss is told of it
        model.processes,
        data.batches(tokens=TOKENS, seed=options.seed),
        config,
        out=options.out,
        resume=options.resume,
        objective=HeadLoss(model=model),
    )
    after = explained(model, cast(PropertyHead, result.denoiser), test)
    weights = dict(model.card)
    card = {
        **account(result, config),
        "data": f"{len(data.classes):,} molecules of the MOSES training set",
        "beliefs of": {name: weights[name] for name in ("held_out_bound_nats", "samples") if name in weights},
        "r_squared_by_share_hidden": after,
        "r_squared_of_additive_scores": before,
    }
    cast(PropertyHead, result.denoiser).save(options.into or options.model, model.vocabulary, card)
    for share, found in after.items():
        print(f"{share} hidden: {found}, additive scores: {before[share]}")


if __name__ == "__main__":
    run(main, arguments())
