"""Train the shipped denoiser of atoms, bonds and coordinates at once on QM9.

    python datasets/qm9.py                                       once: fetch QM9 into the cache
    python workflows/train_joint.py --minutes 45 --out runs/joint
    python workflows/train_joint.py --minutes 90 --out runs/joint --resume            more of the same run

The layers begin as those of the shipped conformer model. Molecules of the validation split are watched; those to test
on are never looked at. The run's folder holds its record, its log, its checkpoints and, at the end, `model/`.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1] / "datasets"))
from _training import account, of_geometries, parser, run
from qm9 import fetch

from scidiff.coupling import EquivariantAlignment
from scidiff.molecules.three_d.joint.batches import (
    Joint,
    JointBatches,
    encode_cached,
    layout_of,
    state_of,
)
from scidiff.molecules.three_d.joint.model import STARTS, TIMES, WEIGHTS, JointConfig, JointModel, joint_loss
from scidiff.molecules.three_d.model import ConformerModel
from scidiff.noise import Noise
from scidiff.processes.gaussian import ZeroMeanGaussianProcess
from scidiff.state import Layout
from scidiff.training.loop import train

ATOMS = 1200  # in a batch
WATCHED = 48  # molecules of each of three sizes
LEVELS = (0.05, 0.2, 0.5, 0.8)  # times at which validation looks


def arguments() -> argparse.Namespace:
    return parser(__doc__).parse_args()


def begin_as_conformers(model: JointModel) -> int:
    """Give the body what the shipped conformer model has of the same name and shape; how many numbers that is."""
    told, own = ConformerModel.load().denoiser.state_dict(), model.denoiser.state_dict()
    named = {name.replace("network.", "network.body.", 1): value for name, value in told.items()}
    shared = {name: value for name, value in named.items() if name in own and own[name].shape == value.shape}
    model.denoiser.load_state_dict({**own, **shared})
    return sum(value.numel() for value in shared.values())


def aligned(model: JointModel, x_0: Tensor, t: Tensor, layout: Layout, noise: Noise) -> Tensor:
    """Positions at time t with noise turned towards the data, as in training."""
    process, rows = cast(ZeroMeanGaussianProcess, model.processes["pos"]), layout.rows("pos")
    unit = process.unit_noise(rows, noise.at("pos", 0, rows), dtype=x_0.dtype)
    return process.mix(x_0, EquivariantAlignment(starts=STARTS)(x_0, unit, rows), t, rows)


def validate(denoiser: nn.Module, *, model: JointModel, parts: list[Joint]) -> dict[str, float]:
    """The loss of positions, and nats of a hidden class of atoms and bonds, by time."""
    found: dict[str, list[float]] = {}
    for part in parts:
        x_0, count = state_of(part), len(part.atom)
        layout, noise = layout_of(part.atom.shape[1], count), Noise(seed=2, index=torch.arange(count))
        for t in LEVELS:
            times = torch.full((count,), t, dtype=torch.float64)
            x_t = {
                leaf: process.corrupt(x_0[leaf], times, layout.rows(leaf), noise.at(leaf, 0, layout.rows(leaf)))
                for leaf, process in model.processes.items()
            }
            x_t["pos"] = aligned(model, x_0["pos"], times, layout, noise)
            clean = denoiser(x_t, times, layout)
            for leaf, process in model.processes.items():
                value = process.loss(clean[leaf], x_0[leaf], x_t[leaf], times, layout.rows(leaf)).mean()
                nats = leaf != "pos"  # the rate of the bound is that of hidden ones over t
                value = value * count / len(x_0[leaf]) if nats else value
                found.setdefault(f"{leaf} at t {t:g}", []).append(float(value))
    return {name: sum(values) / len(values) for name, values in found.items()}


def main(options: argparse.Namespace) -> None:
    folder = fetch()
    data = encode_cached(folder / "train.npz", options.out.parent / "encoded-joint")
    held_out = encode_cached(folder / "valid.npz", options.out.parent / "encoded-joint")
    print(f"{len(data):,} molecules to learn, refused: {dict(data.refused) or 'none'}", file=sys.stderr)
    config = of_geometries(minutes=options.minutes, seed=options.seed)
    torch.manual_seed(options.seed)
    model = JointModel.create(JointConfig(sizes=tuple(data.counts.items())))
    shared = begin_as_conformers(model)
    result = train(
        model.denoiser,
        model.processes,
        JointBatches(data, atoms=ATOMS, seed=options.seed),
        config,
        out=options.out,
        resume=options.resume,
        objective=joint_loss,
        validate=partial(validate, model=model, parts=held_out.commonest(WATCHED)),
        description=model.description(),
    )
    model.denoiser.load_state_dict(result.denoiser.state_dict())
    card = {
        "data": "QM9 (Ramakrishnan et al. 2014), training split of datasets/qm9.py, MIT",
        "molecules": len(data),
        "refused": dict(data.refused),
        "numbers begun as those of the conformer model": shared,
        "times": {"mean": TIMES.mean, "std": TIMES.std},
        "weights of the leaves": WEIGHTS,
        **account(result, config),
    }
    replace(model, card=card).save(options.out / "model")
    print(options.out / "model")


if __name__ == "__main__":
    run(main, arguments())
