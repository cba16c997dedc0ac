"""An ensemble of forecasting models that differ in their seeds alone (Lakshminarayanan et al. 2017, "deep ensembles").

A draw comes from one member: draw k from member k mod M. The draws are those of the mixture, whose spread holds what a
single network does not know of itself: by how much another, trained alike, would have forecast otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from scidiff import weights as files
from scidiff.timeseries import forecast_model
from scidiff.timeseries.base import Base
from scidiff.timeseries.forecast_model import STEPS, ForecastConfig, ForecastModel
from scidiff.timeseries.horizons import Horizons
from scidiff.timeseries.panel import Floats

MEMBERS = {"patches": 4, "recurrent": 1}  # by network; step by step, draws of many members cost as many times more
_FITTED = ("share", "spread", "steps", "variables", "usual", "trust")  # of a base forecast
_APART = 0xD1B54A32D192ED03  # between the seeds of members; another than between those of steps


@dataclass(frozen=True, kw_only=True)
class Ensemble:
    """M members that share their sizes and their base forecast.

    Attributes:
        members: one at least.
        card: the model card.
    """

    members: tuple[ForecastModel, ...]
    card: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.members:
            raise ValueError("expected at least one member, got none")

    @property
    def config(self) -> ForecastConfig:
        """Names and sizes."""
        return self.members[0].config

    @property
    def base(self) -> Base:
        """What the diffusion starts from."""
        return self.members[0].base

    @property
    def device(self) -> torch.device:
        return self.members[0].device

    def save(self, folder: Path) -> None:
        """Write the members to a folder of safetensors and JSON."""
        tensors = {f"base.{name}": torch.as_tensor(getattr(self.base, name)) for name in _FITTED}
        for k, member in enumerate(self.members):
            tensors |= {f"denoiser.{k}.{name}": value for name, value in member.denoiser.state_dict().items()}
        config = {"forecaster": asdict(self.config), "members": len(self.members)}
        files.save(folder, files.Weights(tensors=tensors, config=config, card=self.card))

    @classmethod
    def load(cls, folder: Path, *, device: torch.device | str = "cpu") -> Ensemble:
        """Read an ensemble from a folder; WeightsError says in one line what is wrong with it."""
        held = files.load(folder)
        with files.expected("weights of a forecaster", folder):
            config = ForecastConfig.read(held.config["forecaster"])
            fitted: dict[str, Any] = {name: held.tensors[f"base.{name}"].double().numpy() for name in _FITTED}
            fitted["trust"] = float(fitted["trust"])
            base = Base(**fitted, context=config.context, seasons=config.seasons)
            members = tuple(ForecastModel.create(config, base) for _ in range(held.config["members"]))
            for k, member in enumerate(members):
                member.denoiser.load_state_dict(held.part(f"denoiser.{k}."))
                member.denoiser.to(device)
            return cls(members=members, card=held.card)


def draw(ensemble: Ensemble, window: Horizons, *, draws: int, seed: int, steps: int = STEPS) -> Floats:
    """Draws of what follows one origin: [draws, H, V]; see `forecast_model.draw`."""
    count, told = len(ensemble.members), forecast_model.known_of(ensemble.members[0], window)  # the same of all members
    found = np.empty((draws, *window.target.shape[1:]))
    for k, member in enumerate(ensemble.members[:draws]):
        own = found[k::count]
        keys = {"draws": len(own), "seed": (seed + k * _APART) % 2**64}
        own[:] = forecast_model.draw(member, window, **keys, steps=steps, told=told)
    return found
