"""The imputation model: what it knows of the variables, its denoiser, its loss, and how it is kept on disk."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from scidiff import weights as files
from scidiff.denoiser import Denoiser, NetworkDenoiser
from scidiff.networks.coordinates import Coordinates
from scidiff.networks.csdi import CSDINetwork
from scidiff.networks.panel import PanelNetwork, Series
from scidiff.noise import Noise
from scidiff.objective import loss
from scidiff.processes.base import Process
from scidiff.processes.gaussian import GaussianProcess
from scidiff.processes.parametrisations import EDM
from scidiff.schedules import Cosine
from scidiff.state import Layout, State
from scidiff.timeseries.batches import LEAF
from scidiff.timeseries.recorded import Levels

COPIES = 4  # noisy copies of each series in a training step; what is known is encoded once for all


@dataclass(frozen=True, kw_only=True)
class ImputerConfig:
    """What builds the network again, and the scale of its inputs.

    Attributes:
        variables: names of the variables, in the order of the columns.
        means, stds: of each variable, in its own units, over what was observed in the training series.
        static: names of the static covariates.
        static_means, static_stds: of each.
        units: of the first guess of the network "panel": of what it adds to the line between neighbours, and of its
            scale, in standard deviations; 1 for each if there are none.
        step: the time between rows, in the units of the table, that the model counts in.
        levels: of each variable, the values that it takes (`recorded`), none of a continuous one; () if nobody looked.
        network: "panel", or "csdi" (`networks.csdi`), which has one half and no first guess.
        width, depth, heads: of the network; of "panel" its encoder.
        row_width, row_depth: of the denoiser of "panel".
    """

    variables: tuple[str, ...]
    means: tuple[float, ...]
    stds: tuple[float, ...]
    static: tuple[str, ...] = ()
    static_means: tuple[float, ...] = ()
    static_stds: tuple[float, ...] = ()
    units: tuple[float, ...] = ()
    step: float = 1.0
    levels: Levels = ()
    network: str = "panel"
    width: int = 128
    depth: int = 5
    heads: int = 4
    row_width: int = 128
    row_depth: int = 2


@dataclass(frozen=True, kw_only=True)
class ImputerModel:
    """A denoiser of panels and what belongs to it.

    Attributes:
        config: names, scales and sizes.
        denoiser: of the leaf `LEAF`, [S * draws, L, V], in the coordinates of `Coordinates`.
        card: the model card.
    """

    config: ImputerConfig
    denoiser: NetworkDenoiser
    card: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def create(cls, config: ImputerConfig, *, card: Mapping[str, Any] | None = None) -> ImputerModel:
        """A model with fresh weights."""
        with warnings.catch_warnings():  # a model without covariates has an empty matrix for them
            warnings.filterwarnings("ignore", message="Initializing zero-element tensors")
            network = _network(config)
        process = GaussianProcess(schedule=Cosine(), parametrisation=EDM(sigma_data=0.9))
        return cls(config=config, denoiser=NetworkDenoiser(network, {LEAF: process}), card=card or {})

    @property
    def processes(self) -> Mapping[str, Process]:
        """The process of each leaf."""
        return self.denoiser.processes

    def with_units(self, units: tuple[float, ...]) -> ImputerModel:
        """The same weights under other `units` (see `ImputerConfig`)."""
        other = ImputerModel.create(replace(self.config, units=units), card=self.card)
        other.denoiser.load_state_dict(self.denoiser.state_dict())
        other.denoiser.to(next(self.denoiser.parameters()).device).train(self.denoiser.training)
        return other

    def description(self) -> dict[str, Any]:
        """What `load` needs to build the model (JSON)."""
        return {"imputer": asdict(self.config)}

    @classmethod
    def load(cls, folder: Path, *, device: torch.device | str = "cpu") -> ImputerModel:
        """Read a model from a folder; WeightsError says in one line what is wrong with it."""
        held = files.load(folder, device=device)
        with files.expected("weights of an imputer", folder):
            fields = held.fields("imputer")
            fields["levels"] = tuple(map(tuple, fields.get("levels", ())))
            config = ImputerConfig(**fields)
            model = cls.create(config, card=held.card)
            model.denoiser.load_state_dict(held.part())
        model.denoiser.eval().to(device)
        return model

    def save(self, folder: Path, *, dtype: torch.dtype = torch.float16) -> None:
        """Write the model to a folder of safetensors and JSON."""
        tensors = {name: value.to(dtype) for name, value in self.denoiser.state_dict().items()}
        files.save(folder, files.Weights(tensors=tensors, config=self.description(), card=self.card))


def _network(config: ImputerConfig) -> nn.Module:
    """The network that a configuration names, with fresh weights."""
    sizes = {"variables": len(config.variables), "static": len(config.static), "width": config.width,
             "depth": config.depth, "heads": config.heads}  # fmt: skip
    if config.network == "csdi":
        return CSDINetwork(leaf=LEAF, **sizes)
    if config.network == "panel":
        rows = {"row_width": config.row_width, "row_depth": config.row_depth}
        return PanelNetwork(leaf=LEAF, units=config.units, **sizes, **rows)
    raise ValueError(f"expected the network panel or csdi, got {config.network!r}")


def crps_normal(x: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """CRPS of N(mean, std^2) at x (Gneiting & Raftery 2007, eq. 21):

    std (z (2 Phi(z) - 1) + 2 phi(z) - 1 / sqrt(pi)),   z = (x - mean) / std
    """
    z = (x - mean) / std
    density = torch.exp(-z.square() / 2) / math.sqrt(2 * math.pi)
    return std * (z * torch.erf(z / math.sqrt(2)) + 2 * density - 1 / math.sqrt(math.pi))


def imputation_loss(
    denoiser: Denoiser,
    processes: Mapping[str, Process],
    x_0: State,
    layout: Layout,
    noise: Noise,
    *,
    condition: Series,
    copies: int = COPIES,
) -> Tensor:
    """CRPS of the first guess, plus the denoising loss in its coordinates, the mean over `copies` noises: [S]."""
    rows = layout.rows(LEAF)
    context: Coordinates = denoiser.network.encode(condition)  # type: ignore[union-attr, operator]
    first = rows.mean(crps_normal(x_0[LEAF], context.location, context.scale))
    many = context.repeat(copies)
    with torch.no_grad():
        y = many.standardise(x_0[LEAF].repeat_interleave(copies, 0))
    repeated = Layout.dense(
        layout.batch * copies,
        {LEAF: rows.shape},
        masks=None if rows.mask is None else {LEAF: rows.mask.repeat_interleave(copies, 0)},
        device=y.device,
    )
    index = (noise.index[:, None] * copies + torch.arange(copies, device=y.device)).flatten()
    denoising = loss(denoiser, processes, {LEAF: y}, repeated, replace(noise, index=index), condition=many)
    return first + denoising.unflatten(0, (-1, copies)).mean(1)
