"""Train the shipped denoiser of Kolmogorov flow.

    python datasets/kolmogorov.py                                once: simulate the data into the cache
    python workflows/train_fluids.py --minutes 70 --out runs/fluids
    python workflows/train_fluids.py --minutes 120 --out runs/fluids --resume            more of the same run
    python workflows/train_fluids.py --minutes 60 --out runs/more --init runs/fluids/model     a run from its weights

`--network fno` takes a Fourier neural operator in place of the U-Net. Trajectories 112-119 are watched; those to test
on are never looked at. The run's folder holds its record, its log, its checkpoints and, at the end, `model/`. The loss
is in units of what Wiener's filter leaves: 1 is a Gaussian field's.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1] / "datasets"))
from _training import account, of_fields, parser, run
from kolmogorov import FLOW, fetch, read

from scidiff.fluids.calibrated import calibrated
from scidiff.fluids.family import FlowFamily
from scidiff.fluids.model import LEAF, FlowConfig, FlowModel, covariance_of, prior_of
from scidiff.fluids.pairs import PairModel
from scidiff.fluids.symmetries import FieldBatches, FlowBatches
from scidiff.fluids.winds import WindModel
from scidiff.noise import Noise
from scidiff.objective import NormalLogSigma
from scidiff.objective import loss as objective_loss
from scidiff.processes.base import Process
from scidiff.schedules import Cosine
from scidiff.state import Layout
from scidiff.training.config import TrainingConfig
from scidiff.training.loop import Objective, train

TIMES = NormalLogSigma(schedule=Cosine(), mean=-0.7, std=1.6)
OBJECTIVE = partial(objective_loss, times=TIMES)
LEVELS = (0.05, 0.2, 0.8, 3.0)  # sigma / alpha at which validation looks
SEEN = 896  # fields that tell what a network leaves
SIZES: dict[str, dict[str, Any]] = {"unet": {}, "fno": {"network": "fno", "widths": (32,), "blocks": 6}}


def fields_parser(told: str | None) -> argparse.ArgumentParser:
    """The options of a training on fields."""
    found = parser(told)
    found.add_argument("--batch", type=int, default=32, help="fields in a batch")
    return found


def validate(
    denoiser: nn.Module,
    *,
    processes: Mapping[str, Process],
    fields: Tensor,
    condition: Tensor | Mapping[str, Tensor] | None = None,
) -> dict[str, float]:
    """Squared error by level of noise, in units of what Wiener's filter leaves, of fields that are watched."""
    found, (leaf, process) = {}, next(iter(processes.items()))
    layout = Layout.dense(len(fields), {leaf: tuple(fields.shape[1:])})
    noise = Noise(seed=1, index=torch.arange(len(fields)))
    for level in LEVELS:
        t = Cosine().time(torch.full((len(fields),), level, dtype=torch.float64).log() * -2)
        x_t = process.corrupt(fields, t, layout.rows(leaf), noise.at(leaf, 0, layout.rows(leaf)))
        clean = denoiser({leaf: x_t}, t, layout, condition)[leaf]
        found[f"sigma {level:g}"] = float(process.loss(clean, fields, x_t, t, layout.rows(leaf)).mean())
    return found


def learn(
    model: FlowModel | PairModel | WindModel | FlowFamily,
    batches: FieldBatches,
    config: TrainingConfig,
    options: argparse.Namespace,
    *,
    watched: Tensor,
    told: Mapping[str, Any],
    condition: Mapping[str, Tensor] | None = None,
    processes: Mapping[str, Process] | None = None,
    objective: Objective = OBJECTIVE,
    finished: Callable[[Any], Any] = lambda model: model,
) -> None:
    """Train a model of fields and write it to the folder of the run.

    Args:
        model: that learns.
        batches, config, objective: as `train` takes them.
        options: of the command.
        watched: fields that it is measured on.
        told: of the data, for the card.
        condition: what the denoiser is told of the watched fields.
        processes: of the watched fields, if they are not those of the model.
        finished: takes the model that has learned, and gives the one that is written.
    """
    processes = model.processes if processes is None else processes
    result = train(
        model.denoiser,
        processes,
        batches,
        config,
        out=options.out,
        resume=options.resume,
        objective=objective,
        validate=partial(validate, processes=processes, fields=watched, condition=condition),
    )
    model.denoiser.load_state_dict(result.denoiser.state_dict())
    times = {"mean": TIMES.mean, "std": TIMES.std}
    card = {**told, "licence": "MIT", "times": times, **account(result, config)}
    model = finished(model)
    replace(model, card={**card, **model.card}).save(options.out / "model")
    print(options.out / "model")


def main(options: argparse.Namespace) -> None:
    folder = fetch()
    fields = read(folder, "train").flatten(0, 1)
    scale = float(fields.std())
    watched = read(folder, "validation").flatten(0, 1)[::8, None] / scale
    fields = fields / scale
    model = fresh_model(fields, scale, options, **SIZES[options.network])
    if options.init is not None:
        model.denoiser.load_state_dict(FlowModel.load(options.init).denoiser.state_dict())
    batches = FlowBatches(fields, leaf=LEAF, waves=FLOW["waves"], size=options.batch, seed=options.seed)
    learn(
        model,
        batches,
        of_fields(minutes=options.minutes, seed=options.seed),
        options,
        watched=watched,
        told={
            "data": "simulated Kolmogorov flow at Reynolds number 200 (datasets/kolmogorov.py), public domain",
            "fields": len(fields),
            "init": str(options.init or "fresh weights"),
        },
        finished=partial(looked_at, batches=batches, seed=options.seed),
    )


def looked_at(model: FlowModel, *, batches: FlowBatches, seed: int) -> FlowModel:
    """A model that knows what its network leaves of the fields that it learned from, as `SEEN` of them tell."""
    shown = [batches.at(k).x_0[LEAF] for k in range(-(-SEEN // int(batches.samples_per_batch)))]
    left = calibrated(
        model.covariance, model.denoiser, model.denoiser.processes[LEAF], torch.cat(shown)[:SEEN], leaf=LEAF, seed=seed
    )
    return replace(model, covariance=left)


def fresh_model(fields: Tensor, scale: float, options: argparse.Namespace, **settings: Any) -> FlowModel:
    """The model of fields [S, H, W], of standard deviation 1, before it has learned."""
    box, waves = (2 * torch.pi, 2 * torch.pi), FLOW["waves"]
    shape = (fields.shape[-2], fields.shape[-1])
    sizes = FlowConfig(shape=shape, lengths=box, scale=scale, waves=waves, **settings)
    prior = prior_of(fields[:, None])
    return FlowModel.create(sizes, prior, covariance=covariance_of(fields, prior, waves=waves), seed=options.seed)


if __name__ == "__main__":
    found = fields_parser(__doc__)
    found.add_argument("--network", choices=SIZES, default="unet", help="that learns")
    found.add_argument("--init", type=Path, default=None, help="start from the weights of this folder")
    run(main, found.parse_args())
