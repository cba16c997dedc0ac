"""Train the shipped imputation model on set-a of PhysioNet 2012.

    python datasets/physionet2012.py --sets a b                  once: fetch the data into the cache
    python workflows/train_imputer.py --minutes 90 --out runs/imputer
    python workflows/train_imputer.py --minutes 90 --out runs/more --init scidiff/timeseries/weights/physionet2012
    python workflows/train_imputer.py --minutes 90 --out runs/csdi --network csdi
    python workflows/train_imputer.py --minutes 120 --out runs/imputer --resume          more of the same run
    python workflows/train_imputer.py --minutes 90 --out runs/imputer --data FOLDER      tables or archives of a folder

400 of the 4,000 stays are held out to watch; set-b is never looked at. The run's folder holds its record, its log, its
checkpoints and, at the end, `model/`, which `benchmarks/imputation.py --model` (or `--csdi`) takes.
"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
from _imputation_data import Stays, Units, folder_of, read_set
from _imputation_methods import standardise
from _training import account, parser, run

from scidiff.denoiser import Denoiser
from scidiff.noise import Noise
from scidiff.timeseries.batches import PanelBatches, Standardised, series
from scidiff.timeseries.model import ImputerConfig, ImputerModel, crps_normal, imputation_loss
from scidiff.timeseries.warm import warm_start
from scidiff.training.config import TrainingConfig
from scidiff.training.loop import train

HELD_OUT = 400
MINUTES = 60.0  # of a row, in the unit of the tables
SEEN = (0.1, 0.5, 0.9)  # shares of values hidden in validation
SIZES = {"panel": {}, "csdi": {"width": 64, "depth": 4, "heads": 8}}
PLAIN = {  # matrices that Muon leaves to AdamW: embeddings, read-outs and what the level of noise sets
    "panel": ("*variable*", "*value*", "*static*", "*row.weight", "*guess*", "*project*", "*level*", "*mix*",
              "*modulat*", "*condition*"),
    "csdi": ("*embed*", "*side_out*", "*head*", "*modulat*", "*condition*"),
}  # fmt: skip


def arguments() -> argparse.Namespace:
    found = parser(__doc__)
    found.add_argument("--network", choices=sorted(SIZES), default="panel")
    found.add_argument("--data", type=Path, help="folder with PhysioNet 2012 (default: the cache, else a download)")
    found.add_argument("--batch", type=int, default=16, help="stays in a batch")
    found.add_argument("--copies", type=int, help="noisy copies of each stay in a step; default 4, for csdi 1")
    found.add_argument("--stays", type=int, help="learn from so many stays (default: all but those held out)")
    found.add_argument("--init", type=Path, metavar="FOLDER", help="begin with these weights, variable by variable")
    found.add_argument("--rate", type=float, default=1.0, help="part of the usual learning rates, to go on gently")
    return found.parse_args()


def configuration(stays: Stays, network: str) -> ImputerConfig:
    """Names and scales of the training stays, which alone may set them."""
    units = Units.of(stays)
    return ImputerConfig(
        variables=stays.variables,
        means=tuple(units.mean.tolist()),
        stds=tuple(units.std.tolist()),
        static=stays.covariates,
        static_means=tuple(np.nanmean(stays.static, 0).tolist()),
        static_stds=tuple(np.nanstd(stays.static, 0).tolist()),
        step=MINUTES,
        network=network,
        **SIZES[network],
    )


def validate(denoiser: nn.Module, *, model: ImputerModel, data: Standardised, copies: int) -> dict[str, float]:
    """The loss, and MAE and CRPS of the first guess, where the network has one, of stays held out."""
    assert isinstance(denoiser, Denoiser)
    found: dict[str, float] = {}
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        for share in SEEN if model.config.network == "panel" else ():
            source, total = torch.Generator().manual_seed(3), torch.zeros(3)
            for first in range(0, len(data), 40):
                part = data[slice(first, first + 40)]
                hidden = part.observed & (torch.rand(part.observed.shape, generator=source) < share)
                context = denoiser.network.encode(series(part, visible=part.observed & ~hidden, asked=hidden))
                crps = crps_normal(part.values, context.location, context.scale)
                error = (part.values - context.location).abs()
                total += torch.stack([error[hidden].sum(), crps[hidden].sum(), hidden.sum()])
            found |= {f"mae {share:.0%}": float(total[0] / total[2]), f"crps {share:.0%}": float(total[1] / total[2])}
        batches = PanelBatches(data, size=16, seed=5, mixture={"random": 1.0})
        losses = []
        for place in range(batches.batches_per_epoch):
            batch = batches.at(place)
            noise = Noise(seed=0, index=batch.index)
            loss = imputation_loss(
                denoiser, model.processes, batch.x_0, batch.layout, noise, condition=batch.condition, copies=copies
            )  # fmt: skip
            losses.append(float(loss.mean()))
    return {**found, "loss": float(np.mean(losses))}


def main(options: argparse.Namespace) -> None:
    torch.manual_seed(options.seed)
    stays = read_set(folder_of(options.data), "a", left_out=())
    held_out = np.zeros(len(stays), dtype=bool)
    held_out[np.random.default_rng(7).permutation(len(stays))[:HELD_OUT]] = True
    learned, watched = stays[np.flatnonzero(~held_out)[: options.stays]], stays[np.flatnonzero(held_out)]
    copies = options.copies or (4 if options.network == "panel" else 1)
    config = TrainingConfig(
        max_minutes=options.minutes,
        optimiser="muon",
        learning_rate=2e-3 * options.rate,
        muon_learning_rate=5e-3 * options.rate,
        not_hidden=PLAIN[options.network],
        weight_decay=0.02,
        schedule="stable",
        decay_fraction=0.4,
        warmup_steps=40,
        ema_decay=0.998,
        precision="bfloat16",
        seed=options.seed,
        checkpoint_minutes=4,
        log_seconds=60,
    )
    card = {
        "data": "PhysioNet/CinC Challenge 2012, set-a, ODC-By 1.0 (Silva et al. 2012)",
        "stays": len(learned),
        "step_seconds": 60 * MINUTES,
        "init": str(options.init or "fresh weights"),
    }
    model = ImputerModel.create(configuration(learned, options.network))
    if options.init is not None:
        model = warm_start(ImputerModel.load(options.init), model.config)
    result = train(
        model.denoiser,
        model.processes,
        PanelBatches(standardise(model, learned), size=options.batch),
        config,
        out=options.out,
        resume=options.resume,
        objective=partial(imputation_loss, copies=copies),
        validate=partial(validate, model=model, data=standardise(model, watched), copies=copies),
        description=model.description(),
    )
    model.denoiser.load_state_dict(result.denoiser.state_dict())
    card |= account(result, config)
    ImputerModel(config=model.config, denoiser=model.denoiser, card=card).save(options.out / "model")
    print(options.out / "model")


if __name__ == "__main__":
    run(main, arguments())
