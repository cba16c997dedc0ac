"""Train the shipped denoiser of conformers on QM9.

    python datasets/qm9.py                                       once: fetch QM9 into the cache
    python workflows/train_three_d.py --minutes 45 --out runs/three_d
    python workflows/train_three_d.py --minutes 90 --out runs/three_d --resume          more of the same run

Molecules of the validation split are watched; those to test on are never looked at. The run's folder holds its record,
its log, its checkpoints and, at the end, `model/`.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1] / "datasets"))
from _training import account, of_geometries, parser, run
from qm9 import fetch

from scidiff.molecules.three_d.batches import LEAF, ConformerBatches, Conformers, condition_of, encode_cached
from scidiff.molecules.three_d.draws import positions
from scidiff.molecules.three_d.graphs import bonded
from scidiff.molecules.three_d.model import TIMES, ConformerConfig, ConformerModel, conformer_loss
from scidiff.noise import Noise
from scidiff.state import Layout
from scidiff.training.loop import train

ATOMS = 1200  # in a batch
WATCHED = 48  # molecules of each of three sizes
LEVELS = (0.03, 0.1, 0.3, 0.7)  # times at which validation looks


def arguments() -> argparse.Namespace:
    return parser(__doc__).parse_args()


def validate(denoiser: nn.Module, *, model: ConformerModel, parts: list[Conformers]) -> dict[str, float]:
    """Loss by time, and how far drawn bonds are from the true lengths, in angstrom."""
    losses: dict[float, list[float]] = {t: [] for t in LEVELS}
    apart = []
    process = model.processes[LEAF]
    for part in parts:
        condition, index = condition_of(part), torch.arange(len(part))
        x_0 = (condition["inverse"] @ torch.as_tensor(part.position)).flatten(0, 1)
        x = positions(denoiser, model.processes, condition, seed=1, index=index)  # type: ignore[arg-type]
        layout = Layout.ragged({LEAF: torch.full_like(index, x.shape[1])}, {LEAF: (3,)})
        rows = layout.rows(LEAF)
        for t in LEVELS:
            times = torch.full((len(part),), t, dtype=torch.float64)
            x_t = process.corrupt(x_0, times, rows, Noise(seed=2, index=index).at(LEAF, 0, rows))
            clean = denoiser({LEAF: x_t}, times, layout, condition)[LEAF]
            losses[t] += process.loss(clean, x_0, x_t, times, rows).tolist()
        b, i, j = np.nonzero(bonded(part.pair))
        drawn, true = (np.linalg.norm(y[b, i] - y[b, j], axis=-1) for y in (x.double().numpy(), part.position))
        apart.append(drawn - true)
    errors = np.abs(np.concatenate(apart))
    found = {f"loss at t {t:g}": float(np.mean(values)) for t, values in losses.items()}
    return found | {
        "bond error, median": float(np.median(errors)),
        "bond error, 99 %": float(np.quantile(errors, 0.99)),
    }


def main(options: argparse.Namespace) -> None:
    folder = fetch()
    data = encode_cached(folder / "train.npz", options.out.parent / "encoded-three_d")
    held_out = encode_cached(folder / "valid.npz", options.out.parent / "encoded-three_d")
    print(f"{len(data):,} molecules to learn, refused: {dict(data.refused) or 'none'}", file=sys.stderr)
    config = of_geometries(minutes=options.minutes, seed=options.seed)
    torch.manual_seed(options.seed)
    model = ConformerModel.create(ConformerConfig(largest=max(data.sizes)))
    result = train(
        model.denoiser,
        model.processes,
        ConformerBatches(data, atoms=ATOMS, seed=options.seed),
        config,
        out=options.out,
        resume=options.resume,
        objective=conformer_loss,
        validate=partial(validate, model=model, parts=held_out.commonest(WATCHED)),
        description=model.description(),
    )
    model.denoiser.load_state_dict(result.denoiser.state_dict())
    card = {
        "data": "QM9 (Ramakrishnan et al. 2014), training split of datasets/qm9.py, MIT",
        "molecules": len(data),
        "refused": dict(data.refused),
        "times": {"mean": TIMES.mean, "std": TIMES.std},
        **account(result, config),
    }
    replace(model, card=card).save(options.out / "model")
    print(options.out / "model")


if __name__ == "__main__":
    run(main, arguments())
