"""Kolmogorov flow forward in time: trajectories that no weights have seen, from one field each, for 100 steps of 0.3.

    python benchmarks/fluids_rollout.py [--quick] [--seed N] [--json FILE] [--split validation] [--steps N] [--calls N]
                                        [--samples N] [--methods NAME,...] [--model FOLDER] [--windows FOLDER]
                                        --mean FOLDER

The truth is the simulator that made the data, from the same field.

* `scidiff`: `scidiff.fluids.rollout`, as the command does it, an ensemble.
* `windows`: windows of five fields drawn at once, each from the last two fields of the one before
  (`scidiff.fluids.windowed`).
* `network without noise`: the same network, as long trained on the same pairs with the same errors added, by least
  squares on the mean; one call a step.
* `linear`: each wave times its best factor. `persistence`: the start itself. `climatology`: fields of the training data
  at random, an ensemble.

Error: |mean - truth| / |truth|; a member's where there is an ensemble. CRPS (fair, of finite ensembles) in units of the
data's standard deviation. Spread: the ensemble's standard deviation over the error of its mean, 1 where calibrated.
Spectrum: mean |log10| of the ratio to the truth's over 1 to 30 waves, of the last half of the steps. Stable: the part
of trajectories whose enstrophy stays between half the least and twice the greatest of the training data's. Intervals
are 95 % (Student's t) over starts. `--quick` simulates a small data set and judges fields that the weights have seen.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from _running import Table, guarded, interval, options, publish, say
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1] / "datasets"))
from kolmogorov import fetch, later, read

from scidiff.errors import UserError
from scidiff.fluids import windowed
from scidiff.fluids.model import packaged
from scidiff.fluids.rollout import CALLS, Step, drawn, expected, seed_of, unrolled
from scidiff.fluids.transition import TransitionModel
from scidiff.fluids.windows import WindowModel
from scidiff.noise import Noise
from scidiff.state import Layout

WAVES = slice(1, 31)
LEADS = (1, 3, 5, 10, 20, 50, 100)
METHODS = ("scidiff", "windows", "network without noise", "linear", "persistence", "climatology")
ENSEMBLES = ("scidiff", "windows", "climatology")


@dataclass(frozen=True, kw_only=True)
class Bench:
    """What all methods share: weights, training data [S, H, W] in units of the scale, and how much is drawn."""

    model: TransitionModel
    windows: WindowModel | None
    mean: TransitionModel | None
    training: Tensor
    samples: int
    steps: int
    calls: int
    seed: int

    def truth(self, start: Tensor) -> Tensor:
        """By the simulator, from [H, W]: [steps + 1, H, W], in units of the scale."""
        scale, found = self.model.config.scale, [start[None]]
        for _ in range(self.steps):
            found.append(later(scale * found[-1], self.model.config.interval) / scale)
        return torch.cat(found)

    def step(self, method: str) -> Step:
        """A step of a method."""
        return {
            "scidiff": lambda: drawn(self.model, self.calls),
            "network without noise": lambda: expected(_needed(self.mean, "--mean")),
            "linear": lambda: lambda x, noise: self.model.predicted(x),
            "persistence": lambda: lambda x, noise: x,
            "climatology": lambda: self.random,
        }[method]()

    def random(self, x: Tensor, noise: Noise) -> Tensor:
        """Fields of the training data, one for each of x [B, 1, H, W]."""
        rows = Layout.dense(len(x), {"choice": (1,)}).rows("choice")
        chosen = noise.at("choice", 0, rows).uniform()[:, 0] * len(self.training)
        return self.training[chosen.long(), None]

    def forecast(self, method: str, start: Tensor, number: int) -> Tensor:
        """[S, steps + 1, H, W] from [H, W]."""
        count = self.samples if method in ENSEMBLES else 1
        index = number * self.samples + torch.arange(count)
        if method == "windows":
            model = _needed(self.windows, "--windows")
            first = self.model.config.scale * start[None, None]
            seed = seed_of(self.seed, number)
            found = windowed.rollout(model, first, steps=self.steps, samples=count, seed=seed).vorticity.float()
            return found / self.model.config.scale
        return unrolled(self.step(method), start.expand(count, -1, -1), index, seed=self.seed, steps=self.steps)


Weights = TypeVar("Weights")


def _needed(weights: Weights | None, option: str) -> Weights:
    if weights is None:
        raise UserError(f"expected weights of the methods that are compared, got no {option}")
    return weights


def judged(found: Tensor, truth: Tensor, bench: Bench) -> dict[str, Any]:
    """Scores by step of an ensemble [S, T, H, W], and over the last half of the steps."""
    count, size = len(found), truth.square().mean((1, 2))
    mean_error = (found.mean(0) - truth).square().mean((1, 2))
    member_error = (found - truth).square().mean((2, 3)).mean(0)
    scores = {"error": (mean_error / size).sqrt(), "member": (member_error / size).sqrt()}
    apart = torch.zeros_like(truth)
    if count > 1:
        weight = (2 * torch.arange(1, count + 1) - count - 1.0)[:, None, None, None]
        apart = (weight * found.sort(0).values).sum(0) / (count * (count - 1))
        spread = found.var(0).mean((1, 2)) * (count + 1) / count
        scores["spread"] = (spread / mean_error.clamp_min(1e-12)).sqrt()
    scores["CRPS"] = ((found - truth).abs().mean(0) - apart).mean((1, 2))
    late = truth.shape[0] // 2
    box = bench.model.config.box
    enstrophy = found.square().mean((2, 3)) / 2
    usual = bench.training.square().mean((1, 2)) / 2
    stable = (enstrophy > usual.min() / 2) & (enstrophy < 2 * usual.max())
    return {
        **{name: value.numpy() for name, value in scores.items()},
        "spectrum": box.spectrum(found[:, late:]).mean((0, 1))[WAVES].numpy(),
        "true spectrum": box.spectrum(truth[late:]).mean(0)[WAVES].numpy(),
        "stable": float(stable.all(1).double().mean()),
    }


def told(values: list[float]) -> str:
    mean, half = interval(values)
    return f"{mean:.3f} ± {half:.3f}"


def tables(found: dict[str, list[dict[str, Any]]], bench: Bench, where: str) -> list[dict[str, Any]]:
    """Error, CRPS and spread by step, and what holds of the late part."""
    leads = [lead for lead in LEADS if lead <= bench.steps]
    starts = len(next(iter(found.values())))
    drawn_from = f"{starts} starts of {starts} {where}, {bench.samples} members"
    kinds: list[tuple[str, str, Callable[[str], bool]]] = [
        ("error", "Error of the mean", lambda m: True),
        ("member", "Error of a member", lambda m: m in ENSEMBLES),
        ("CRPS", "CRPS", lambda m: True),
        ("spread", "Spread over error", lambda m: m in ENSEMBLES),
    ]
    out = []
    for name, title, of in kinds:
        chosen = {method: scores for method, scores in found.items() if of(method)}
        of_each = {m: [told([float(s[name][k]) for s in scores]) for k in leads] for m, scores in chosen.items()}
        rows = [[method, *cells] for method, cells in of_each.items()]
        columns = ["method", *(f"step {k}" for k in leads)]
        out.append({"title": f"{title} by step: {drawn_from}", "columns": columns, "rows": rows})
    late = []
    for method, scores in found.items():
        ratio = sum(s["spectrum"] for s in scores) / sum(s["true spectrum"] for s in scores)
        in_window = bench.windows.config.frames - windowed.HELD if bench.windows else 1
        calls = {"scidiff": bench.calls, "windows": windowed.CALLS / in_window, "network without noise": 1}.get(method)
        off = float(np.abs(np.log10(np.maximum(ratio, 1e-12))).mean())
        stable = float(np.mean([s["stable"] for s in scores]))
        late.append([method, off, f"{stable:.0%}", calls, float(np.mean([s["seconds"] for s in scores]))])
    columns = ["method", "spectrum, log10", "stable", "calls a step", "milliseconds a step and member"]
    title = f"After {bench.steps // 2} to {bench.steps} steps: {drawn_from}"
    return [*out, {"title": title, "columns": columns, "rows": late}]


def compared(bench: Bench, starts: Tensor, chosen: argparse.Namespace) -> list[Table]:
    """The tables of all methods."""
    found: dict[str, list[dict[str, Any]]] = {method: [] for method in chosen.methods}
    simulated = []
    for number, start in enumerate(starts):
        began = time.process_time()
        truth = bench.truth(start)
        simulated.append(1000 * (time.process_time() - began) / bench.steps)
        for method in chosen.methods:
            began = time.process_time()
            forecast = bench.forecast(method, start, number)
            seconds = 1000 * (time.process_time() - began) / bench.steps / len(forecast)
            found[method].append({**judged(forecast, truth, bench), "seconds": seconds})
        line = ", ".join(f"{m} {s[-1]['error'][-1]:.3f}" for m, s in found.items())
        say(f"start {number + 1} of {len(starts)}: {line}")
    where = "fields the weights have seen, quick" if chosen.quick else f"{chosen.split} trajectories"
    made = tables(found, bench, where)
    made[-1]["rows"].append(["simulator (the truth)", 0.0, "100%", None, float(np.mean(simulated))])
    return made


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = options(__doc__, "one start, 8 members, 5 steps")
    parser.add_argument("--split", choices=("validation", "test"), default="test")
    parser.add_argument("--starts", type=int, help="trajectories; default all")
    parser.add_argument("--steps", type=int, help="default 100")
    parser.add_argument("--samples", type=int, default=8, help="members of an ensemble")
    parser.add_argument("--calls", type=int, default=CALLS)
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument(
        "--model", type=Path, default=packaged("kolmogorov-step"), metavar="FOLDER", help="of train_transition.py"
    )
    parser.add_argument("--mean", type=Path, metavar="FOLDER", help="the same, trained with --mean")
    parser.add_argument("--windows", type=Path, metavar="FOLDER", help="of train_windows.py; default: the packaged")
    chosen = parser.parse_args(arguments)
    chosen.steps = chosen.steps or (5 if chosen.quick else 100)
    chosen.methods = chosen.methods.split(",")
    wrong = [name for name in chosen.methods if name not in METHODS]
    if wrong:
        parser.error(f"expected methods out of {', '.join(METHODS)}, got {wrong[0]!r}")
    return chosen


def run(chosen: argparse.Namespace) -> int:
    model, wanted = TransitionModel.load(chosen.model), chosen.methods
    mean = TransitionModel.load(_needed(chosen.mean, "--mean")) if "network without noise" in wanted else None
    folder = chosen.windows or packaged("kolmogorov-windows")
    windows = WindowModel.load(folder) if "windows" in wanted else None
    folder = fetch(trajectories=16, fields=2) if chosen.quick else fetch()
    training = read(folder, "train").flatten(0, 1) / model.config.scale
    starts = read(folder, chosen.split)[:, 0] / model.config.scale
    bench = Bench(
        model=model,
        windows=windows,
        mean=mean,
        training=training,
        samples=chosen.samples,
        steps=chosen.steps,
        calls=chosen.calls,
        seed=chosen.seed,
    )
    tables_ = compared(bench, starts[: 1 if chosen.quick else chosen.starts], chosen)
    return publish("fluids_rollout", chosen, tables_)


def main(arguments: list[str] | None = None) -> int:
    return guarded(run, parse(arguments))


if __name__ == "__main__":
    sys.exit(main())
