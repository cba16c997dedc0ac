#!/usr/bin/env python3
"""Fit the solvers of `scidiff.solvers.recommended` and write their table.

    python workflows/fit_recommended.py [--calls 1 2 3 ...] [--out scidiff/solvers/recommended.json] [--seed N]

They are fitted to many random Gaussian mixtures at once, of 1 to 24 dimensions, 2 to 12 components, even and uneven
spectra, wide and narrow, near and far: no problem that `benchmarks/solvers.py` judges on is among them. Each number of
calls begins at the fit of the one before. The loss is shown on as many mixtures that were not fitted to besides. The
whole table takes about five minutes on one idle core.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from scidiff import atomic
from scidiff.noise import Noise
from scidiff.processes.gaussian import GaussianProcess
from scidiff.processes.parametrisations import Data
from scidiff.schedules import VPLinear
from scidiff.solvers.extrapolated import stretched, table
from scidiff.solvers.fitted import Problem, fit_numbers
from scidiff.solvers.mixture import GaussianMixture
from scidiff.state import Layout

SCHEDULE = VPLinear()
CALLS = (1, 2, 3, 5, 7, 10, 14, 20, 28, 40)
PARTS = {1: 8, 2: 24, 3: 16, 6: 12, 12: 8, 24: 6}  # dimension: mixtures
COMPONENTS = 12
STARTS = 32  # a mixture


def mixture(dimension: int, random: np.random.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Weights, means and deviations of a random mixture with mean 0 and variance 1 in the mean over coordinates."""
    count = int(random.integers(2, COMPONENTS + 1))
    weights = random.uniform(0.3, 1.3, COMPONENTS) * (np.arange(COMPONENTS) < count)
    weights /= weights.sum()
    spectrum = np.arange(1, dimension + 1) ** -random.uniform(0, 0.5)
    narrow = 10 ** random.uniform(-1.7, -0.1)
    between = random.uniform(0.2, 0.97)
    means = random.standard_normal((COMPONENTS, dimension)) * spectrum
    means -= weights @ means
    stds = narrow ** random.uniform(0, 1, (COMPONENTS, dimension)) * spectrum
    scale_means = math.sqrt(between / (weights @ means**2).mean())
    scale_stds = math.sqrt((1 - between) / (weights @ stds**2).mean())
    return torch.tensor(weights), torch.tensor(means * scale_means), torch.tensor(stds * scale_stds)


def problems(seed: int) -> list[Problem]:
    """The problems, those of one dimension together."""
    found = []
    process = GaussianProcess(schedule=SCHEDULE, parametrisation=Data(), dtype=torch.float64)
    for dimension, parts in PARTS.items():
        random = np.random.default_rng((seed, dimension))
        columns = zip(*(mixture(dimension, random) for _ in range(parts)), strict=True)
        weights, means, stds = (torch.stack(column).repeat_interleave(STARTS, 0) for column in columns)
        denoiser = GaussianMixture(SCHEDULE, weights=weights, means=means, stds=stds)
        batch = parts * STARTS
        layout = Layout.dense(batch, {"x": (dimension,)})
        noise = Noise(seed=seed, index=torch.arange(batch))
        found.append(Problem.solve(denoiser, process, layout, noise, parts=parts))
    return found


def mean_loss(judged: Sequence[Problem], numbers: Tensor) -> float:
    """What is minimised, the mean over the mixtures."""
    with torch.no_grad():
        return sum(float(each.loss(*table(SCHEDULE, numbers))) for each in judged) / sum(PARTS.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, nargs="+", default=CALLS)
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "scidiff/solvers/recommended.json")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--iterations", type=int, default=100)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    fitted_to, others = problems(chosen.seed), problems(chosen.seed + 1)
    fitted: dict[int, list[list[float]]] = {}
    numbers = torch.zeros(1, 3, dtype=torch.float64)
    for calls in chosen.calls:
        began = time.process_time()
        numbers = fit_numbers(fitted_to, stretched(numbers, calls), iterations=chosen.iterations)
        losses = ", ".join(f"{mean_loss(judged, numbers):.3f}" for judged in (fitted_to, others))
        print(f"{calls:3d} calls: losses {losses}, {time.process_time() - began:.0f} s of processor time", flush=True)
        fitted[calls] = [[round(number, 5) for number in row] for row in numbers.tolist()]
        atomic.write_text(chosen.out, json.dumps(fitted) + "\n")


if __name__ == "__main__":
    main()
