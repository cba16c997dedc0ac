"""Train the network that reads quantum properties of QM9 from elements and positions.

    python datasets/qm9.py                                       once: fetch QM9 into the cache
    python workflows/train_properties.py --minutes 12 --out runs/properties
    python workflows/train_properties.py --minutes 24 --out runs/properties --resume          more of the same run
    python workflows/train_properties.py --minutes 12 --half second --out runs/chooser        the other network

It learns from the half of the training split that `workflows/train_towards.py` does not look at, and judges what that
makes; or from the second, which that learns from, and chooses among its draws: neither knows what the other has seen.
Molecules of the validation split are watched; those to test on are never looked at. The run's folder holds its record,
its log, its checkpoints and, at the end, `model/`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1] / "datasets"))
from _training import account, of_geometries, parser, run
from qm9 import fetch

from scidiff.molecules.quantum import QUANTUM, halves, quantum_values
from scidiff.molecules.three_d.estimator import (
    ORDER,
    Estimator,
    EstimatorConfig,
    EstimatorNetwork,
    Measured,
    MeasuredBatches,
    absolute_loss,
    read_measured,
)
from scidiff.training.config import TrainingConfig
from scidiff.training.loop import train

ATOMS = 1200  # in a batch
WATCHED, CHUNK = 2000, 64
HALVES = ("first", "second")


def arguments() -> argparse.Namespace:
    found = parser(__doc__)
    found.add_argument("--half", choices=HALVES, default=HALVES[0], help="of the training split, to learn from")
    return found.parse_args()


def recipe(*, minutes: float, seed: int) -> TrainingConfig:
    """The settings of the shipped weights."""
    return of_geometries(
        minutes=minutes,
        seed=seed,
        decay_fraction=0.4,
        ema_decay=0.995,
        checkpoint_minutes=3,
        validate_every=1500,
    )


def validate(network: nn.Module, *, sizes: Mapping[int, Measured]) -> dict[str, float]:
    """Mean absolute error of each property, in its unit."""
    estimator = Estimator(config=EstimatorConfig(), network=network)  # type: ignore[arg-type]
    errors = [
        np.abs(estimator.read(part.position[k : k + CHUNK], part.atom[k : k + CHUNK]) - part.value[k : k + CHUNK])
        for part in sizes.values()
        for k in range(0, len(part), CHUNK)
    ]
    means = np.concatenate(errors).mean(0)
    return {name: float(means[ORDER.index(name)]) for name in QUANTUM}


def main(options: argparse.Namespace) -> None:
    folder = fetch()
    values = quantum_values(folder / "train.npz")
    sizes = read_measured(folder / "train.npz", values, halves(len(values))[HALVES.index(options.half)])
    held = read_measured(folder / "valid.npz", quantum_values(folder / "valid.npz"), np.arange(WATCHED))
    torch.manual_seed(options.seed)
    config = EstimatorConfig()
    network = EstimatorNetwork(config)
    network.fit_reference(sizes)
    print(f"{sum(map(len, sizes.values())):,} molecules to learn", file=sys.stderr)
    training = recipe(minutes=options.minutes, seed=options.seed)
    result = train(
        network,  # type: ignore[arg-type]
        {},
        MeasuredBatches(sizes, network.scale, atoms=ATOMS, seed=options.seed),
        training,
        out=options.out,
        resume=options.resume,
        objective=absolute_loss,
        validate=partial(validate, sizes=held),
        description=Estimator(config=config, network=network).description(),
    )
    network.load_state_dict(result.denoiser.state_dict())
    card = {
        "data": f"QM9 (Ramakrishnan et al. 2014), {options.half} half of the training split of datasets/qm9.py, MIT",
        "molecules": sum(map(len, sizes.values())),
        **account(result, training),
    }
    Estimator(config=config, network=network, card=card).save(options.out / "model")
    print(options.out / "model")


if __name__ == "__main__":
    run(main, arguments())
