"""Train a denoiser of windows of Kolmogorov flow: five fields, 0.3 apart, drawn together.

    python datasets/kolmogorov.py                                    once: simulate the data into the cache
    python workflows/train_windows.py --minutes 25 --out runs/windows

Every field of trajectories 0 to 111 is simulated for four more intervals, once, into the cache (eight minutes of a
core); 112 to 119 are watched, those to test on are never looked at. The loss is in units of what the denoiser of a
Gaussian field leaves that sees one frame alone.
"""

from __future__ import annotations

import sys
from argparse import Namespace
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1] / "datasets"))
from _training import account, of_fields, parser, run
from kolmogorov import FLOW, fetch, windows
from train_fluids import validate

from scidiff.fluids.model import prior_of
from scidiff.fluids.space_time import memory_of
from scidiff.fluids.windows import WindowBatches, WindowConfig, WindowModel, known_frames
from scidiff.objective import NormalLogSigma
from scidiff.objective import loss as objective_loss
from scidiff.schedules import Cosine
from scidiff.training.loop import train

FRAMES, INTERVAL = 5, 0.3
ERROR = 0.1
TIMES = NormalLogSigma(schedule=Cosine(), mean=0.0, std=1.5)


def watch(denoiser: nn.Module, *, model: WindowModel, watched: Tensor) -> dict[str, float]:
    """By level of noise, with no frame known and with the first."""
    first = torch.zeros(watched.shape[:2], dtype=torch.bool)
    first[:, 0] = True
    found = validate(denoiser, processes=model.processes, fields=watched)
    told = validate(denoiser, processes=model.processes, fields=watched, condition=known_frames(watched, first))
    return {**found, **{f"{name}, first known": value for name, value in told.items()}}


def main(options: Namespace) -> None:
    folder = fetch()
    fields = windows(folder, "train", frames=FRAMES, interval=INTERVAL).flatten(0, 1)
    scale = float(fields[:, 0].float().std())
    prior = prior_of(fields[:, :1].float() / scale)
    sizes = WindowConfig(
        shape=(64, 64),
        lengths=(2 * torch.pi, 2 * torch.pi),
        scale=scale,
        waves=FLOW["waves"],
        interval=INTERVAL,
        frames=FRAMES,
        error=ERROR,
    )
    model = WindowModel.create(sizes, prior, memory_of(fields, scale * prior.mean[0]), seed=options.seed)
    held = model.leaf(windows(folder, "validation", frames=FRAMES, interval=INTERVAL).flatten(0, 1)[::8].float())
    config = of_fields(
        minutes=options.minutes,
        seed=options.seed,
        learning_rate=1.5e-3,
        decay_fraction=0.4,
        checkpoint_minutes=2,
        validate_every=1000,
    )
    result = train(
        model.denoiser,
        model.processes,
        WindowBatches(fields, model, size=options.batch, seed=options.seed),
        config,
        out=options.out,
        resume=options.resume,
        objective=partial(objective_loss, times=TIMES),
        validate=partial(watch, model=model, watched=held),
    )
    model.denoiser.load_state_dict(result.denoiser.state_dict())
    card = {
        "data": "simulated Kolmogorov flow at Reynolds number 200 (datasets/kolmogorov.py), public domain",
        "licence": "MIT",
        "windows": len(fields),
        "times": {"mean": TIMES.mean, "std": TIMES.std},
        **account(result, config),
    }
    replace(model, card=card).save(options.out / "model")
    print(options.out / "model")


if __name__ == "__main__":
    options = parser(__doc__)
    options.add_argument("--batch", type=int, default=8, help="windows in a batch")
    run(main, options.parse_args())
