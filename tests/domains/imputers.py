"""What the tests of the imputers' networks share: a few standardised series with holes, and a model without zeros."""

from __future__ import annotations

import numpy as np
import torch

from scidiff.timeseries.batches import Standardised
from scidiff.timeseries.model import ImputerConfig, ImputerModel

S, L, V = 3, 7, 4
"""Series, rows and variables."""


def standardised() -> Standardised:
    """S series of L rows and V variables, three in five cells observed, with two covariates."""
    random = np.random.default_rng(0)
    observed = torch.tensor(random.random((S, L, V)) < 0.6)
    values = torch.tensor(random.standard_normal((S, L, V)), dtype=torch.float32)
    return Standardised(
        values=torch.where(observed, values, 0),
        observed=observed,
        times=torch.tensor(np.sort(random.random((S, L)) * 20, axis=1), dtype=torch.float32),
        rows=torch.ones(S, L, dtype=torch.bool),
        static=torch.tensor(random.standard_normal((S, 2, 2)), dtype=torch.float32),
    )


def configuration(**sizes: object) -> ImputerConfig:
    """Of a small network for such series."""
    names = {"variables": tuple("abcd"), "static": ("u", "v")}
    return ImputerConfig(**names, means=(0.0,) * V, stds=(1.0,) * V, width=16, depth=2, heads=2, **sizes)


def shaken(config: ImputerConfig) -> ImputerModel:
    """A fresh model with noise on all weights: fresh weights hold zeros, behind which a leak could hide."""
    torch.manual_seed(0)
    made = ImputerModel.create(config)
    with torch.no_grad():
        for parameter in made.denoiser.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return made
