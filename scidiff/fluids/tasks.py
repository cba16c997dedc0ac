"""What `scidiff fluids` asks of a model, whichever it is: draw, certify, tell."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from scidiff import weights as files
from scidiff.errors import UserError
from scidiff.fluids import ensemble, fields
from scidiff.fluids.asked import Asked
from scidiff.fluids.ensemble import Ensemble
from scidiff.fluids.family import FlowFamily
from scidiff.fluids.model import FlowModel, packaged
from scidiff.fluids.pairs import PairModel
from scidiff.fluids.pictures import of_ensemble
from scidiff.fluids.report import Picture
from scidiff.fluids.transition import TransitionModel
from scidiff.fluids.windows import WindowModel
from scidiff.fluids.winds import WindModel

if TYPE_CHECKING:
    import xarray as xr

PACKAGED = ("kolmogorov", "kolmogorov-step", "kolmogorov-windows", "kolmogorov-told", "winds", "darcy")
Model = FlowModel | WindModel | PairModel | WindowModel | TransitionModel


def read(name: str, *, device: torch.device | str = "cpu") -> Model | FlowFamily:
    """Packaged weights by name, others by their folder; WeightsError says in one line what is wrong with them."""
    folder = packaged(name) if name in PACKAGED else Path(name)
    held = files.load(folder)
    kinds: dict[str, type[Model | FlowFamily]] = {
        "family": FlowFamily,
        "winds": WindModel,
        "pair": PairModel,
        "windows": WindowModel,
        "transition": TransitionModel,
    }
    kind = next((kinds[name] for name in kinds if name in held.config), FlowModel)
    return kind.of(held, folder, device=device)


def load(
    name: str, *, reynolds: float | None = None, waves: int | None = None, device: torch.device | str = "cpu"
) -> Model:
    """As `read`; weights of several flows are told of one.

    Args:
        name: of packaged weights, or a folder.
        reynolds, waves: of the flow; None for weights that are not told.
        device: where to compute.

    Raises:
        UserError: weights of several flows are not told of one that they know, or others are told.
    """
    model = read(name, device=device)
    if isinstance(model, FlowFamily):
        return model.told(reynolds=reynolds, waves=waves)
    for option, value in (("--reynolds", reynolds), ("--forcing-waves", waves)):
        if value is not None:
            raise UserError(f"{option}: expected with weights of several flows only, got it with {name}")
    return model


@dataclass(frozen=True, kw_only=True)
class FlowTask:
    """Flows under what was asked for."""

    model: FlowModel
    asked: Asked

    @property
    def card(self) -> Mapping[str, Any]:
        """Of the model."""
        return self.model.card

    @property
    def sensors(self) -> int:
        """How many values were measured."""
        return len(self.asked.sensors)

    def draw(
        self, *, samples: int, seed: int, calls: int | None, progress: Callable[[int, int], None] | None = None
    ) -> Ensemble:
        """The ensemble."""
        constraint, calls = self.asked.constraint(self.model.config), calls or ensemble.CALLS
        self.asked.refuse_unlike(self.model)
        return ensemble.draw(self.model, constraint, samples=samples, seed=seed, calls=calls, progress=progress)

    def certificate(self, found: Ensemble) -> dict[str, np.ndarray]:
        """How far each field is from each thing asked for, relative: name -> [S]."""
        return self.asked.certificate(found, self.model.config.lengths)

    def dataset(self, found: Ensemble, attributes: Mapping[str, Any]) -> xr.Dataset:
        """The ensemble over (realization, time, y, x)."""
        return fields.dataset(found, self.model.config, attributes)

    def pictures(self, found: Ensemble) -> tuple[Picture, ...]:
        """For the report."""
        return of_ensemble(found, self.asked, self.model)
