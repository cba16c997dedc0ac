"""The model of atoms, bonds and coordinates at once: its denoiser, its loss, and how it is kept on disk."""

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
from scidiff.molecules.three_d.joint.batches import SCALE
from scidiff.molecules.three_d.joint.tokens import CLASSES, ORDERS
from scidiff.networks.joint import JointTransformer
from scidiff.noise import Noise
from scidiff.objective import LogitNormalTimes, loss
from scidiff.processes.base import Process
from scidiff.processes.categorical import MaskedProcess
from scidiff.processes.gaussian import ZeroMeanGaussianProcess
from scidiff.processes.parametrisations import EDM
from scidiff.schedules import RectifiedFlow
from scidiff.state import Layout, State

SHIPPED = "qm9_joint"
STARTS = 1  # first rotations of the alignment of noise and data
TIMES = LogitNormalTimes(mean=-0.4, std=1.4)
WEIGHTS = {"pos": 1.0, "atom": 0.05, "bond": 0.05}
"""Of the leaves' losses: a mean square near one, and nats of a molecule, some twenty times that."""


@dataclass(frozen=True, kw_only=True)
class JointConfig:
    """What builds the network again, and the sizes it has seen.

    Attributes:
        sizes: pairs of a number of atoms, hydrogens counted, and how many molecules of the training data have it.
        width, depth, heads, channels, pair_width: of the network.
    """

    sizes: tuple[tuple[int, int], ...]
    width: int = 160
    depth: int = 6
    heads: int = 8
    channels: int = 16
    pair_width: int = 32


@dataclass(frozen=True, kw_only=True)
class JointModel:
    """A denoiser of {pos, atom, bond}.

    Attributes:
        config: sizes.
        denoiser: of the state, with rows as of `batches.layout_of`.
        card: the model card.
    """

    config: JointConfig
    denoiser: NetworkDenoiser
    card: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def create(cls, config: JointConfig, *, card: Mapping[str, Any] | None = None) -> JointModel:
        """A model with fresh weights."""
        sizes = {name: value for name, value in asdict(config).items() if name != "sizes"}
        network = JointTransformer(atom_classes=len(CLASSES), bond_classes=len(ORDERS), scale=SCALE, **sizes)
        processes = {
            "pos": ZeroMeanGaussianProcess(schedule=RectifiedFlow(), parametrisation=EDM(sigma_data=1.0)),
            "atom": MaskedProcess(classes=len(CLASSES)),
            "bond": MaskedProcess(classes=len(ORDERS)),
        }
        return cls(config=config, denoiser=NetworkDenoiser(network, processes), card=card or {})

    @property
    def processes(self) -> Mapping[str, Process]:
        """The processes of the leaves. Classes survive as positions do: alpha_t = 1 - t in all of them."""
        return self.denoiser.processes

    def description(self) -> dict[str, Any]:
        """What `load` needs to build the model (JSON)."""
        return {"joint": asdict(self.config)}

    @classmethod
    def load(cls, folder: Path | None = None, *, device: torch.device | str = "cpu") -> JointModel:
        """Read a model from a folder, or the packaged one; WeightsError says in one line what is wrong with it."""
        if folder is None:
            with resources.as_file(resources.files("scidiff.molecules.three_d") / "weights" / SHIPPED) as shipped:
                return cls.load(shipped, device=device)
        held = files.load(folder, device=device)
        with files.expected("weights of joint states", folder):
            told = held.fields("joint")
            config = JointConfig(**{**told, "sizes": tuple(map(tuple, told["sizes"]))})
            model = cls.create(config, card=held.card)
            model.denoiser.load_state_dict(held.part())
        model.denoiser.eval().to(device)
        return model

    def save(self, folder: Path, *, dtype: torch.dtype = torch.float16) -> None:
        """Write the model to a folder of safetensors and JSON."""
        tensors = {name: value.to(dtype) for name, value in self.denoiser.state_dict().items()}
        files.save(folder, files.Weights(tensors=tensors, config=self.description(), card=self.card))


def joint_loss(
    denoiser: Denoiser,
    processes: Mapping[str, Process],
    x_0: State,
    layout: Layout,
    noise: Noise,
    *,
    condition: Any = None,
) -> Tensor:
    """The loss of all leaves at one time, noise turned and its points exchanged towards the data: [B].

    The network gives points of the same classes the same answer, and nothing tells points of noise apart, so the
    marginals of the flow stay what they are, and its paths get straighter.
    """
    couplings = {"pos": EquivariantAlignment(starts=STARTS)}
    return loss(
        denoiser, processes, x_0, layout, noise, weights=WEIGHTS, times=TIMES, couplings=couplings, condition=condition
    )
