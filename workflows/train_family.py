"""Train the shipped denoiser of several Kolmogorov flows, which is told of each.

    python datasets/kolmogorov.py --trajectories 32 --fields 24 --reynolds 50 100 200 400 --waves 2       once, and
    ... --waves 4                                                          once: simulate the data into the cache
    python workflows/train_family.py --minutes 20 --out runs/family
    python workflows/train_family.py --minutes 40 --out runs/family --resume        more of the same run

Reynolds numbers 50, 100, 200 and 400, forces of two and four waves, on 32 x 32 points. Trajectories 28 and 29 of each
are watched, 30 and 31 are never looked at. How much noise the sampler puts back is chosen last: of `RATES` the one
whose draws, 16 of each flow that was learned from, are nearest to the flow's fields in spectrum and flatness.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1] / "datasets"))
from _training import of_fields, run
from kolmogorov import fetch, read
from train_fluids import TIMES, fields_parser, learn

from scidiff.denoiser import Denoiser
from scidiff.fluids import ensemble
from scidiff.fluids.constraints import Curl
from scidiff.fluids.family import FamilyConfig, FlowFamily
from scidiff.fluids.model import LEAF
from scidiff.fluids.navier_stokes import resampled
from scidiff.fluids.statistics import flatness, spectra_apart
from scidiff.fluids.telling import Facts, Learned, ToldBatches
from scidiff.objective import loss

REYNOLDS, WAVES = (50.0, 100.0, 200.0, 400.0), (2, 4)
SIZES: dict[str, Any] = {"trajectories": 32, "fields": 24, "reynolds": REYNOLDS}
POINTS = (32, 32)
RATES = (1.0, 2.0, 3.0, 5.0, 10.0)


def flows(split: str) -> Tensor:
    """Vorticities of a split: float32 [K, J, S, H, W]."""
    return torch.stack([resampled(read(fetch(**SIZES, waves=n), split), POINTS).flatten(1, 2) for n in WAVES])


def facts_of(fields: Tensor) -> Facts:
    """Of fields [K, J, S, H, W], K J S in a row."""
    waves, reynolds = torch.broadcast_tensors(torch.tensor(WAVES)[:, None], torch.tensor(REYNOLDS))
    count = fields.shape[2]
    return {name: of.flatten().repeat_interleave(count) for name, of in (("reynolds", reynolds), ("waves", waves))}


def told_loss(denoiser: Denoiser, processes: Mapping[str, Any], *data: Any, condition: Facts) -> Tensor:
    """The loss in units of what Wiener's filter of each field's own flow leaves."""
    return loss(denoiser, denoiser.processes(condition), *data, times=TIMES, condition=condition)


def with_noise(family: FlowFamily, fields: Tensor) -> FlowFamily:
    """The family with the rate of noise that was chosen, and on its card by how far fields are apart with each.

    That is the mean over flows of |log10| of the ratio of spectra, and that of the ratio of flatnesses.

    Args:
        family: that has learned.
        fields: [K, J, S, H, W] in units of the scale.
    """
    apart, config = {rate: torch.zeros(2, dtype=torch.float64) for rate in RATES}, family.config
    for n, of_force in zip(WAVES, fields.double(), strict=True):
        for reynolds, truth in zip(REYNOLDS, of_force, strict=True):
            model = family.told(reynolds=reynolds, waves=n)
            curl = Curl(leaf=LEAF, box=model.config.box)
            for rate in RATES:
                noisy = replace(model, config=replace(model.config, noise=rate))
                draws = ensemble.drawn(noisy, curl, samples=ensemble.TILE, seed=1, calls=ensemble.CALLS)[:, 0]
                steep = math.log10(flatness(curl.box, draws) / flatness(curl.box, truth))
                found = torch.tensor([spectra_apart(curl.box, draws, truth), abs(steep)], dtype=torch.float64)
                apart[rate] += found / (len(WAVES) * len(REYNOLDS))
    card = {**family.card, "spectrum and flatness, log10": {f"{rate:g}": off.tolist() for rate, off in apart.items()}}
    best = min(apart, key=lambda rate: float(apart[rate].sum()))
    return replace(family, config=replace(config, noise=best), card=card)


def main(options: argparse.Namespace) -> None:
    fields, watched = flows("train"), flows("validation")[:, :, ::2]
    scale = float(fields.std())
    fields, watched = fields / scale, watched / scale
    lengths = (2 * math.pi, 2 * math.pi)
    config = FamilyConfig(reynolds=REYNOLDS, waves=WAVES, shape=POINTS, lengths=lengths, scale=scale)
    learned = Learned.of(fields, reynolds=REYNOLDS, waves=WAVES)
    family, heard = FlowFamily.create(config, learned, seed=options.seed), facts_of(watched)
    rows = fields.flatten(0, 2)
    learn(
        family,
        ToldBatches(rows, told=facts_of(fields), leaf=LEAF, size=options.batch, seed=options.seed),
        of_fields(minutes=options.minutes, seed=options.seed),
        options,
        watched=watched.flatten(0, 2)[:, None],
        condition=heard,
        processes=family.denoiser.processes(heard),
        objective=told_loss,
        told={
            "data": "simulated Kolmogorov flows at Reynolds numbers 50 to 400 under forces of 2 and 4 waves "
            "(datasets/kolmogorov.py), public domain",
            "fields": len(rows),
        },
        finished=partial(with_noise, fields=fields),
    )


if __name__ == "__main__":
    run(main, fields_parser(__doc__).parse_args())
