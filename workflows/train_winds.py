"""Train the shipped denoiser of monthly winds.

    python datasets/winds.py                                once: fetch the data into the cache
    python workflows/train_winds.py --minutes 18 --out runs/winds

1982 to 1989 are learned from, 1990 is watched; 1991 and 1992, to test on, are never looked at. A field is shifted by up
to two columns along a parallel, drawn anew for every visit. The loss is in units of what Wiener's filter leaves.
"""

from __future__ import annotations

import hashlib
import sys
from argparse import Namespace
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1] / "datasets"))
from _training import account, run
from train_fluids import TIMES, arguments, validate
from winds import fetch, read

from scidiff.fluids.winds import LEAF, WindConfig, WindModel, climatology_of, covariance_of, eofs_of, seasons, stacked
from scidiff.noise import Noise
from scidiff.objective import loss as objective_loss
from scidiff.state import Layout
from scidiff.training.batches import Batch, permutation
from scidiff.training.config import TrainingConfig
from scidiff.training.loop import train

FARTHEST = 2  # columns


class WindBatches:
    """Fields [S, 1, 2 H, W] in batches of `size`, shuffled every epoch, each shifted a little along x."""

    def __init__(self, fields: Tensor, *, size: int, seed: int) -> None:
        self._fields, self._size, self._seed = fields, size, seed
        self.batches_per_epoch, self.samples_per_batch = len(fields) // size, float(size)
        digest = hashlib.sha256(f"{size} {seed}".encode())
        digest.update(fields.contiguous().view(torch.uint8).numpy().tobytes())
        self.fingerprint = digest.hexdigest()
        self._order = lru_cache(maxsize=2)(self._epoch)

    def _epoch(self, epoch: int) -> Tensor:
        return permutation(len(self._fields), seed=self._seed, epoch=epoch, kind="samples")

    def at(self, position: int) -> Batch:
        """The batch at a position."""
        epoch, place = divmod(position, self.batches_per_epoch)
        chosen = self._order(epoch)[place * self._size : (place + 1) * self._size]
        visit = (epoch * len(self._fields) + place * self._size + torch.arange(len(chosen))) % 2**32
        rows = Layout.dense(len(chosen), {"shift": (1,)}).rows("shift")
        uniform = Noise(seed=self._seed, index=visit).at("shift", 0, rows).uniform()[:, 0]
        shift = (uniform * (2 * FARTHEST + 1)).long() - FARTHEST
        moved = torch.stack([self._fields[k].roll(int(by), -1) for k, by in zip(chosen, shift, strict=True)])
        return Batch(x_0={LEAF: moved}, layout=Layout.dense(len(chosen), {LEAF: moved.shape[1:]}), index=visit)


def anomalies(path: Path, split: str, climatology: Tensor) -> Tensor:
    """What the climatology does not tell of a split's winds, m/s: float32 [S, 1, 2 H, W]."""
    winds, months = read(path, split)
    usual = (seasons(months) @ climatology.flatten(1)).unflatten(1, climatology.shape[1:])
    return stacked((winds.double() - usual).float())


def main(options: Namespace) -> None:
    path = fetch()
    climatology = climatology_of(*read(path, "train"))
    fields, watched = (anomalies(path, split, climatology) for split in ("train", "validation"))
    scale = float(fields.std())
    fields, watched = fields / scale, watched / scale
    config = TrainingConfig(
        max_minutes=options.minutes,
        learning_rate=6e-4,
        weight_decay=0.1,
        schedule="stable",
        decay_fraction=0.4,
        warmup_steps=100,
        ema_decay=0.998,
        precision="bfloat16",
        seed=options.seed,
        checkpoint_minutes=4,
        log_seconds=30,
        validate_every=150,
    )
    sizes = WindConfig(shape=(73, 144), west=20.0, scale=scale)
    model = WindModel.create(sizes, climatology, covariance_of(fields), eofs_of(fields), seed=options.seed)
    result = train(
        model.denoiser,
        model.processes,
        WindBatches(fields, size=options.batch, seed=options.seed),
        config,
        out=options.out,
        resume=options.resume,
        objective=partial(objective_loss, times=TIMES),
        validate=partial(validate, model=model, fields=watched),
    )
    model.denoiser.load_state_dict(result.denoiser.state_dict())
    card = {
        "data": "monthly winds of the U.S. Navy (FNOC), 1982 to 1989 (datasets/winds.py), public domain",
        "licence": "MIT",
        "fields": len(fields),
        "times": {"mean": TIMES.mean, "std": TIMES.std},
        **account(result, config),
    }
    replace(model, card=card).save(options.out / "model")
    print(options.out / "model")


if __name__ == "__main__":
    run(main, arguments(__doc__))
