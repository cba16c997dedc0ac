"""Held-out windows, and what they say of a network in training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from scidiff.denoiser import NetworkDenoiser
from scidiff.networks.forecast import ForecastNetwork
from scidiff.networks.recurrent import RecurrentNetwork
from scidiff.timeseries.base import scaled
from scidiff.timeseries.forecast_model import ForecastModel, known_of
from scidiff.timeseries.horizons import Horizons
from scidiff.timeseries.model import crps_normal

JUDGED = 512  # windows, at most; so many at once of one variable
_FAR = 30.0  # scales: targets farther out count as if they stood there
_PATIENCE = 15  # checks without a better one: enough
_SURE = 2.0  # standard errors of the mean over periods by which training has to help
_PERIODS = 4  # at least, to tell them


def periods(windows: Horizons) -> np.ndarray:
    """The time of each window, in horizons before the end: [N]. All series share it, as they share shocks."""
    return (1 - windows.place) // windows.margin


@dataclass(frozen=True, kw_only=True, eq=False)
class Examples:
    """N windows as the loss reads them.

    Attributes:
        target, mask: [N, H, V], in units of the contexts.
        known: by name, what is known of them.
    """

    target: Tensor
    mask: Tensor
    known: Mapping[str, Tensor]


def examples(model: ForecastModel, windows: Horizons) -> Examples:
    """Windows in the units and with the base forecast of a model."""
    context = scaled(windows.context, model.base.season)
    clipped = np.clip(context.standardise(windows.target), -_FAR, _FAR)
    target, mask = torch.from_numpy(np.nan_to_num(clipped)).float(), torch.from_numpy(~np.isnan(clipped))
    return Examples(target=target, mask=mask, known={**known_of(model, windows), "came": target, "seen": mask.float()})


@dataclass
class Judge:
    """Measures the held-out error of the first guess, and keeps the best weights, if they are sure to be better.

    Attributes:
        data: N windows.
        period: [N] windows of the same time have the same.
        apart: how many times the network reads a window.
        losses: of each check, mean CRPS of each window, in units of its context: [N].
        first, best: weights of the first check, and of the one with the smallest mean.
    """

    data: Examples
    period: np.ndarray
    apart: int
    losses: list[np.ndarray] = field(default_factory=list)
    first: dict[str, Tensor] = field(default_factory=dict)
    best: dict[str, Tensor] = field(default_factory=dict)

    def __call__(self, denoiser: nn.Module) -> Mapping[str, float]:
        self.losses.append(self.measure(denoiser))
        if self._least == len(self.losses) - 1:
            self.best = {name: tensor.detach().clone() for name, tensor in denoiser.state_dict().items()}
            self.first = self.first or self.best
        return {"held_out_crps": float(self.losses[-1].mean())}

    @property
    def _least(self) -> int:
        return int(np.argmin(np.nan_to_num([loss.mean() for loss in self.losses], nan=np.inf)))

    @property
    def chosen(self) -> int:
        """Which check, from 0 before training, has the weights that are kept."""
        return self._least if self.sure() else 0

    @property
    def weights(self) -> dict[str, Tensor]:
        """Those that are kept."""
        return self.best if self.sure() else self.first

    @property
    def able(self) -> bool:
        """Whether there are enough periods to be sure of anything."""
        return len(np.unique(self.period)) >= _PERIODS

    def sure(self) -> bool:
        """Whether the smallest mean is better than the first by more than chance, as periods tell it."""
        gain = self.losses[0] - self.losses[self._least]
        _, place = np.unique(self.period, return_inverse=True)
        each = np.bincount(place, gain) / np.bincount(place)
        return self.able and bool(each.mean() > _SURE * each.std(ddof=1) / len(each) ** 0.5)

    def enough(self) -> bool:
        """Whether the last checks were all worse than the best."""
        return len(self.losses) - 1 - self._least >= _PATIENCE

    @torch.no_grad()
    def measure(self, denoiser: nn.Module) -> np.ndarray:
        """Mean CRPS of the first guess of each held-out window, in units of its context: [N]."""
        device = next(denoiser.parameters()).device
        network = cast(ForecastNetwork | RecurrentNetwork, cast(NetworkDenoiser, denoiser).network)
        means = []
        for part in torch.arange(len(self.data.target)).split(max(JUDGED // self.apart, 1)):
            outlook = network.encode({name: value[part].to(device) for name, value in self.data.known.items()})
            mask = self.data.mask[part].to(device)
            found = crps_normal(self.data.target[part].to(device), outlook.location, outlook.scale) * mask
            means.append(found.double().sum((1, 2)) / mask.sum((1, 2)))
        return np.asarray(torch.cat(means).cpu())
