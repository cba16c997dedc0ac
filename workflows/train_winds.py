"""Train the shipped denoiser of monthly winds.

    python datasets/winds.py                                once: fetch the data into the cache
    python workflows/train_winds.py --minutes 18 --out runs/winds

1982 to 1989 are learned from, 1990 is watched; 1991 and 1992, to test on, are never looked at. A field is shifted by up
to two columns along a parallel, drawn anew for every visit. The loss is in units of what Wiener's filter leaves.
"""

from __future__ import annotations

import sys
from argparse import Namespace
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1] / "datasets"))
from _training import of_fields, run
from train_fluids import fields_parser, learn
from winds import fetch, read

from scidiff.fluids.symmetries import FieldBatches
from scidiff.fluids.winds import (
    LEAF,
    WindConfig,
    WindModel,
    climatology_of,
    covariance_of,
    eofs_of,
    inflation_of,
    seasons,
    stacked,
)

FARTHEST = 2  # columns


class WindBatches(FieldBatches):
    """Fields [S, 1, 2 H, W], each shifted a little along x."""

    key, draws = "shift", 1

    def move(self, chosen: Tensor, u: Tensor) -> Tensor:
        """Shifted by up to `FARTHEST` columns: [B, 1, 2 H, W]."""
        shift = (u[:, 0] * (2 * FARTHEST + 1)).long() - FARTHEST
        return torch.stack([field.roll(int(by), -1) for field, by in zip(self._fields[chosen], shift, strict=True)])


def anomalies(path: Path, split: str, climatology: Tensor) -> Tensor:
    """What the climatology does not tell of a split's winds, m/s: float32 [S, 1, 2 H, W]."""
    winds, months = read(path, split)
    usual = (seasons(months) @ climatology.flatten(1)).unflatten(1, climatology.shape[1:])
    return stacked((winds.double() - usual).float())


def main(options: Namespace) -> None:
    path = fetch()
    climatology = climatology_of(*read(path, "train"))
    fields, watched = (anomalies(path, split, climatology) for split in ("train", "validation"))
    size = float(fields.std())
    wider = {"training years": inflation_of(*read(path, "train")), "validation": float(watched.std()) / size}
    print(f"anomalies of unseen years, those of training years being 1: {wider}", file=sys.stderr)
    scale = size * wider["training years"]
    fields, watched = fields / size, watched / scale
    sizes = WindConfig(shape=(73, 144), west=20.0, scale=scale)
    learn(
        WindModel.create(sizes, climatology, covariance_of(fields), eofs_of(fields), seed=options.seed),
        WindBatches(fields, leaf=LEAF, size=options.batch, seed=options.seed, told=f"{options.batch} {options.seed}"),
        of_fields(
            minutes=options.minutes,
            seed=options.seed,
            learning_rate=6e-4,
            weight_decay=0.1,
            decay_fraction=0.4,
            validate_every=150,
        ),
        options,
        watched=watched,
        told={
            "data": "monthly winds of the U.S. Navy (FNOC), 1982 to 1989 (datasets/winds.py), public domain",
            "fields": len(fields),
            "anomalies of unseen years, in those of the training years": wider,
        },
    )


if __name__ == "__main__":
    run(main, fields_parser(__doc__).parse_args())
