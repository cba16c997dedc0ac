"""Train a denoiser of a step in time of Kolmogorov flow, or the network without noise that it is compared to.

    python datasets/kolmogorov.py                                    once: simulate the data into the cache
    python workflows/train_transition.py --minutes 10 --out runs/transition
    python workflows/train_transition.py --minutes 10 --out runs/mean --mean        by least squares, on the mean

Every field of trajectories 0 to 111 is simulated for one more interval; 112 to 119 are watched, those to test on are
never looked at. The loss is in units of what the denoiser of a Gaussian field leaves.
"""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1] / "datasets"))
from _training import account, parser, run
from kolmogorov import FLOW, fetch, later, read
from train_fluids import validate

from scidiff.denoiser import Denoiser
from scidiff.fluids.transition import LEAF, Linear, TransitionBatches, TransitionConfig, TransitionModel
from scidiff.noise import Noise
from scidiff.objective import NormalLogSigma
from scidiff.objective import loss as objective_loss
from scidiff.processes.base import Process
from scidiff.schedules import Cosine
from scidiff.state import Layout, State
from scidiff.training.config import TrainingConfig
from scidiff.training.loop import train

INTERVAL = 0.3  # a field is off its next by half of its size
ERROR = 0.1
TIMES = NormalLogSigma(schedule=Cosine(), mean=0.0, std=1.5)


def squared_error(
    denoiser: Denoiser,
    processes: Mapping[str, Process],
    x_0: State,
    layout: Layout,
    noise: Noise,
    *,
    condition: Any = None,
) -> Tensor:
    """Of the prediction that sees no noisy state, the mean of r: [B]."""
    t = torch.ones(layout.batch, dtype=torch.float64)
    nothing = {LEAF: torch.zeros_like(x_0[LEAF])}
    clean = denoiser.forward_training(nothing, t, layout, noise, condition)
    return processes[LEAF].loss(clean[LEAF], x_0[LEAF], nothing[LEAF], t, layout.rows(LEAF))


def watch(denoiser: nn.Module, *, model: TransitionModel, before: Tensor, after: Tensor) -> dict[str, float]:
    """Of steps from fields without an error: by level of noise, and of the prediction that sees no noisy state."""
    r, told = (after - model.predicted(before)) / model.config.change, model.told(before)
    layout, noise = Layout.dense(len(r), {LEAF: tuple(r.shape[1:])}), Noise(seed=1, index=torch.arange(len(r)))
    mean = squared_error(denoiser, model.processes, {LEAF: r}, layout, noise, condition=told).mean()  # type: ignore[arg-type]
    if not model.config.generative:
        return {"mean": float(mean)}
    return {"mean": float(mean), **validate(denoiser, processes=model.processes, fields=r, condition=told)}


def main(options: Namespace) -> None:
    folder = fetch()
    fields = read(folder, "train").flatten(0, 1)
    scale = float(fields.std())
    pairs = torch.stack([fields, later(fields, INTERVAL)], 1) / scale
    held = read(folder, "validation").flatten(0, 1)[::8]
    watched = {"before": held[:, None] / scale, "after": later(held, INTERVAL)[:, None] / scale}
    config = TrainingConfig(
        max_minutes=options.minutes,
        learning_rate=1.5e-3,
        weight_decay=0.01,
        schedule="stable",
        decay_fraction=0.4,
        warmup_steps=100,
        ema_decay=0.998,
        seed=options.seed,
        checkpoint_minutes=2,
        log_seconds=30,
        validate_every=600,
    )
    linear = Linear.of(*pairs.unbind(1))
    sizes = TransitionConfig(
        shape=(64, 64),
        lengths=(2 * torch.pi, 2 * torch.pi),
        scale=scale,
        waves=FLOW["waves"],
        interval=INTERVAL,
        change=linear.change,
        error=ERROR,
        generative=not options.mean,
    )
    model = TransitionModel.create(sizes, linear, seed=options.seed)
    result = train(
        model.denoiser,
        model.processes,
        TransitionBatches(pairs, model, size=options.batch, seed=options.seed),
        config,
        out=options.out,
        resume=options.resume,
        objective=squared_error if options.mean else partial(objective_loss, times=TIMES),
        validate=partial(watch, model=model, **watched),
    )
    model.denoiser.load_state_dict(result.denoiser.state_dict())
    card = {
        "data": "simulated Kolmogorov flow at Reynolds number 200 (datasets/kolmogorov.py), public domain",
        "licence": "MIT",
        "pairs": len(pairs),
        "objective": "squared error of the mean" if options.mean else {"mean": TIMES.mean, "std": TIMES.std},
        **account(result, config),
    }
    replace(model, card=card).save(options.out / "model")
    print(options.out / "model")


if __name__ == "__main__":
    options = parser(__doc__)
    options.add_argument("--batch", type=int, default=8, help="pairs in a batch")
    options.add_argument("--mean", action="store_true", help="learn the mean of a step, without diffusion")
    run(main, options.parse_args())
