"""The model of coordinates given a molecule: its denoiser, its loss, and how it is kept on disk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scidiff import weights as files
from scidiff.coupling import EquivariantAlignment
from scidiff.denoiser import Denoiser, NetworkDenoiser
from scidiff.devices import check_device
from scidiff.errors import UserError, one_line
from scidiff.molecules.three_d.batches import LEAF
from scidiff.molecules.three_d.graphs import ATOM_CLASSES, ELEMENTS, PAIR_CLASSES
from scidiff.networks.geometric import EquivariantTransformer
from scidiff.noise import Noise
from scidiff.objective import LogitNormalTimes, loss
from scidiff.processes.base import Process
from scidiff.processes.gaussian import ZeroMeanGaussianProcess
from scidiff.processes.parametrisations import EDM
from scidiff.schedules import RectifiedFlow
from scidiff.state import Layout, State

SHIPPED = "qm9"
STARTS = 4  # first rotations of the alignment of noise and data
TIMES = LogitNormalTimes(mean=-0.8, std=1.4)


@dataclass(frozen=True, kw_only=True)
class ConformerConfig:
    """What builds the network again, and what it knows.

    Attributes:
        elements: atomic numbers.
        largest: atoms of a molecule at most, hydrogens counted: the most it has seen.
        width, depth, heads, channels, pair_width: of the network.
    """

    elements: tuple[int, ...] = ELEMENTS
    largest: int = 29
    width: int = 160
    depth: int = 6
    heads: int = 8
    channels: int = 16
    pair_width: int = 32


@dataclass(frozen=True, kw_only=True)
class ConformerModel:
    """A denoiser of positions in harmonic coordinates, told the molecule.

    Attributes:
        config: sizes and limits.
        denoiser: of the leaf `LEAF`, [N, 3], under a condition made by `batches.condition_of`.
        card: the model card.
    """

    config: ConformerConfig
    denoiser: NetworkDenoiser
    card: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def create(cls, config: ConformerConfig, *, card: Mapping[str, Any] | None = None) -> ConformerModel:
        """A model with fresh weights."""
        sizes = {name: value for name, value in asdict(config).items() if name not in ("elements", "largest")}
        network = EquivariantTransformer(leaf=LEAF, atom_classes=ATOM_CLASSES, pair_classes=PAIR_CLASSES, **sizes)
        process = ZeroMeanGaussianProcess(schedule=RectifiedFlow(), parametrisation=EDM(sigma_data=1.0))
        return cls(config=config, denoiser=NetworkDenoiser(network, {LEAF: process}), card=card or {})

    @property
    def processes(self) -> Mapping[str, Process]:
        """The process of the leaf."""
        return self.denoiser.processes

    def description(self) -> dict[str, Any]:
        """What `load` needs to build the model (JSON)."""
        return {"conformers": asdict(self.config)}

    @classmethod
    def load(cls, folder: Path | None = None, *, device: torch.device | str = "cpu") -> ConformerModel:
        """Read a model from a folder, or the packaged one; WeightsError says in one line what is wrong with it."""
        if folder is None:
            with resources.as_file(resources.files("scidiff.molecules.three_d") / "weights" / SHIPPED) as shipped:
                return cls.load(shipped, device=device)
        held = files.load(folder, device=device)
        with files.expected("weights of conformers", folder):
            model = cls.create(ConformerConfig(**held.fields("conformers")), card=held.card)
            model.denoiser.load_state_dict(held.part())
        model.denoiser.eval().to(device)
        return model

    def save(self, folder: Path, *, dtype: torch.dtype = torch.float16) -> None:
        """Write the model to a folder of safetensors and JSON."""
        tensors = {name: value.to(dtype) for name, value in self.denoiser.state_dict().items()}
        files.save(folder, files.Weights(tensors=tensors, config=self.description(), card=self.card))


def conformer_loss(
    denoiser: Denoiser,
    processes: Mapping[str, Process],
    x_0: State,
    layout: Layout,
    noise: Noise,
    *,
    condition: Mapping[str, Tensor],
) -> Tensor:
    """The flow-matching loss with noise turned towards the data, hydrogens of one atom changing places: [B].

    The molecule is the same after either, and so is the noise, since the harmonic coordinates are: the marginals of the
    flow stay what they are, and its paths get straighter.
    """
    rows = layout.rows(LEAF)
    kinds = condition["kind"][rows.owner, rows.local]
    couplings = {LEAF: EquivariantAlignment(starts=STARTS, kinds=kinds)}
    return loss(denoiser, processes, x_0, layout, noise, times=TIMES, couplings=couplings, condition=condition)


def load(folder: str | Path | None, device: str) -> ConformerModel:
    """The model in a folder, or the packaged one; UserError if it is missing, damaged or of another kind."""
    check_device(device)
    try:
        return ConformerModel.load(None if folder is None else Path(folder), device=device)
    except (ValueError, OSError) as error:
        where = f"the model in {folder}" if folder is not None else "the packaged model"
        raise UserError(f"cannot load {where}: {one_line(error)}") from error
