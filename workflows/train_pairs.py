"""Train a denoiser of coefficient and solution of an equation.

    python datasets/equations.py darcy                                   once: simulate the data into the cache
    python workflows/train_pairs.py darcy --minutes 9 --out runs/darcy
    python workflows/train_pairs.py darcy --minutes 20 --out runs/darcy --resume
    python workflows/train_pairs.py darcy --minutes 0 --out runs/darcy      no network: mean and joint covariance alone

Pairs 4096-4351 are watched; those to test on are never looked at. The loss is in units of what Wiener's filter leaves.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "datasets"))
from _training import of_fields, run
from equations import fetch, read
from train_fluids import fields_parser, learn

from scidiff.fluids.equations import EQUATIONS
from scidiff.fluids.pairs import AXES, PairBatches, PairConfig, PairModel, statistics


def main(options: argparse.Namespace) -> None:
    folder, periodic = fetch(options.equation), EQUATIONS[options.equation].periodic
    pairs, watched = (read(folder, split) for split in ("train", "validation"))
    mean, scale, covariance = statistics(pairs, periodic=periodic, axes=options.axes)
    told = {"data": f"{options.equation}, simulated by datasets/equations.py, public domain", "pairs": len(pairs)}
    sizes = PairConfig(equation=options.equation, shape=(pairs.shape[-2], pairs.shape[-1]), scale=scale)
    if options.minutes == 0:
        small = replace(sizes, widths=(8,), blocks=1)
        card = {**told, "licence": "MIT", "command": shlex.join(["python", *sys.argv])}
        PairModel.create(small, mean, covariance, card=card).save(options.out / "model")
        return
    model = PairModel.create(sizes, mean, covariance, seed=options.seed)
    learn(
        model,
        PairBatches(model.scaled(pairs), periodic=periodic, size=options.batch, seed=options.seed),
        of_fields(minutes=options.minutes, seed=options.seed, validate_every=200),
        options,
        watched=model.scaled(watched[::2]),
        told=told,
    )


if __name__ == "__main__":
    found = fields_parser(__doc__)
    found.add_argument("equation", choices=EQUATIONS)
    found.add_argument("--axes", type=int, default=AXES, help="principal axes of each field that the covariance keeps")
    run(main, found.parse_args())
