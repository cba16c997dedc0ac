"""A denoiser of two fields that an equation ties together, coefficient and solution (`scidiff.fluids.equations`).

One model of both answers forward and inverse questions, from values of either at any points, as DiffusionPDE does
(Huang et al. 2024). The network answers for what Wiener's filter by the joint covariance leaves.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scidiff import weights as files
from scidiff.denoiser import NetworkDenoiser
from scidiff.fluids.equations import EQUATIONS, Equation
from scidiff.fluids.fresh import Network, fresh, network
from scidiff.fluids.principal import Filtered, Principal, orthonormal
from scidiff.fluids.symmetries import FieldBatches
from scidiff.networks.unet import Convolution, WalledConvolution
from scidiff.noise import Noise
from scidiff.processes.base import Process
from scidiff.processes.gaussian import GaussianProcess
from scidiff.schedules import Cosine
from scidiff.state import Layout

LEAF = "pair"
AXES = 256
"""Principal axes of each field; what they leave of it is taken for white noise, which is the worse the more it is."""


@dataclass(frozen=True, kw_only=True)
class PairConfig:
    """What builds the network again.

    Attributes:
        equation: its name.
        shape: (N, N) of the fields.
        scale: standard deviations of coefficient and solution, which the denoiser sees as 1.
        widths, blocks, network: as `scidiff.fluids.fresh.network` takes them.
        noise: of the reverse SDE that draws.
    """

    equation: str
    shape: tuple[int, int]
    scale: tuple[float, float]
    widths: tuple[int, ...] = (32, 64, 128)
    blocks: int = 2
    network: Network = "unet"
    noise: float = 1.0

    @property
    def ties(self) -> Equation:
        """The equation."""
        return EQUATIONS[self.equation]


@dataclass(frozen=True, kw_only=True)
class PairModel:
    """A denoiser of pairs and what belongs to it.

    Attributes:
        config: sizes and units.
        mean: of coefficient and solution, [2, N, N], in their own units.
        covariance: of (pair - mean) / scale.
        denoiser: of the leaf `LEAF`, [B, 2, N, N], (pair - mean) / scale.
        card: the model card.
    """

    config: PairConfig
    mean: Tensor
    covariance: Principal
    denoiser: NetworkDenoiser
    card: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def create(
        cls,
        config: PairConfig,
        mean: Tensor,
        covariance: Principal,
        *,
        seed: int = 0,
        card: Mapping[str, Any] | None = None,
    ) -> PairModel:
        """A model with fresh weights, whose denoiser is that of Gaussian fields of the covariance."""
        periodic = config.ties.periodic
        make = network(
            config.network,
            leaf=LEAF,
            inputs=4,
            outputs=2,
            maps=_places(config.shape)[: 0 if periodic else 1],
            widths=config.widths,
            blocks=config.blocks,
            convolution=Convolution if periodic else WalledConvolution,
        )
        process = GaussianProcess(schedule=Cosine(), parametrisation=Filtered(covariance=covariance.single()))
        denoiser = NetworkDenoiser(fresh(make, seed), {LEAF: process}).eval()
        return cls(config=config, mean=mean, covariance=covariance, denoiser=denoiser, card=card or {})

    @property
    def noise(self) -> float:
        """Of the reverse SDE."""
        return self.config.noise

    @property
    def processes(self) -> Mapping[str, Process]:
        """The process of the leaf."""
        return self.denoiser.processes

    def scaled(self, pairs: Tensor) -> Tensor:
        """(pair - mean) / scale, of pairs [..., 2, N, N]."""
        return (pairs - self.mean.to(pairs)) / self._scale(pairs)

    def fields(self, x: Tensor) -> Tensor:
        """The inverse of `scaled`."""
        return self.mean.to(x) + self._scale(x) * x

    def _scale(self, like: Tensor) -> Tensor:
        return torch.tensor(self.config.scale, dtype=torch.float64).to(like)[:, None, None]

    def save(self, folder: Path) -> None:
        """Write the model to a folder of safetensors and JSON: network and axes in float16, the rest in float32."""
        tensors = {f"denoiser.{name}": value.half() for name, value in self.denoiser.state_dict().items()}
        tensors |= {"mean": self.mean.float(), "axes": self.covariance.axes.half()}
        tensors |= {name: getattr(self.covariance, name).float() for name in ("mixing", "variance", "floor")}
        files.save(folder, files.Weights(tensors=tensors, config={"pair": asdict(self.config)}, card=self.card))

    @classmethod
    def load(cls, folder: Path, *, device: torch.device | str = "cpu") -> PairModel:
        """Read a model from a folder; WeightsError says in one line what is wrong with it."""
        return cls.of(files.load(folder), folder, device=device)

    @classmethod
    def of(cls, held: files.Weights, folder: Path, *, device: torch.device | str = "cpu") -> PairModel:
        """The model of weights that were read from a folder."""
        with files.expected("weights of a coefficient and its solution", folder):
            parts = {name: held.tensors[name].double() for name in ("mixing", "variance", "floor")}
            covariance = Principal(axes=orthonormal(held.tensors["axes"]), **parts)
            model = cls.create(PairConfig(**held.fields("pair")), held.tensors["mean"], covariance, card=held.card)
            model.denoiser.load_state_dict(held.part("denoiser."))
        model.denoiser.to(device)
        return model


def moved(pairs: Tensor, u: Tensor, *, periodic: bool) -> Tensor:
    """Pairs [B, 2, N, N], each moved by a symmetry of the square, by uniform numbers u [B, 5].

    Transposed, turned upside down and left to right, each or not; if it is periodic also shifted, and then it is
    vorticity, whose sign a reflection changes.
    """
    points = torch.arange(pairs.shape[-1], device=pairs.device)
    across, down, left = (u[:, :3] < 0.5).unbind(1)
    shift = (u[:, 3:] * len(points)).long() if periodic else torch.zeros_like(u[:, 3:], dtype=torch.long)
    row, column = (torch.where(f[:, None], points.flip(0), points) for f in (down, left))
    row, column = ((at + by[:, None]) % len(points) for at, by in zip((row, column), shift.unbind(1), strict=True))
    turned = torch.where(across[:, None, None, None], pairs.mT, pairs)
    picked = torch.arange(len(pairs), device=pairs.device)[:, None, None, None]
    channel = torch.arange(pairs.shape[1], device=pairs.device)[:, None, None]
    found = turned[picked, channel, row[:, None, :, None], column[:, None, None, :]]
    odd = (across ^ down ^ left) & periodic
    return torch.where(odd[:, None, None, None], -found, found)


def symmetric(pairs: Tensor, *, periodic: bool) -> Tensor:
    """Pairs [S, 2, N, N] in all eight orientations, each shifted anew if they are periodic: [8 S, 2, N, N]."""
    rows = Layout.dense(len(pairs), {"shift": (2,)}).rows("shift")
    found = []
    for k, orientation in enumerate(product((0.25, 0.75), repeat=3)):
        shift = Noise(seed=0, index=torch.arange(len(pairs))).at("shift", k, rows).uniform()
        u = torch.cat([torch.tensor(orientation).expand(len(pairs), 3), shift.float()], 1)
        found.append(moved(pairs, u, periodic=periodic))
    return torch.cat(found)


def statistics(pairs: Tensor, *, periodic: bool, axes: int = AXES) -> tuple[Tensor, tuple[float, float], Principal]:
    """Mean [2, N, N], scale and covariance of pairs [S, 2, N, N] under the symmetries of the square.

    Args:
        pairs: of coefficient and solution.
        periodic: as `moved` has it.
        axes: principal axes of each field that the covariance keeps.
    """
    every = symmetric(pairs, periodic=periodic)
    mean = every.mean(0)
    every -= mean
    scale = every.square().mean((0, 2, 3), dtype=torch.float64).sqrt()
    every /= scale.float()[:, None, None]
    return mean, (float(scale[0]), float(scale[1])), Principal.of(every, axes)


class PairBatches(FieldBatches):
    """Pairs under the symmetries of the square.

    Args:
        pairs: [S, 2, N, N], (pair - mean) / scale.
        periodic: as `moved` has it.
        size: pairs a batch.
        seed: of the order and of the symmetries.
    """

    key, draws = "symmetry", 5

    def __init__(self, pairs: Tensor, *, periodic: bool, size: int, seed: int = 0) -> None:
        super().__init__(pairs, leaf=LEAF, size=size, seed=seed, told=f"{LEAF} {periodic} {size} {seed}")
        self._periodic = periodic

    def move(self, chosen: Tensor, u: Tensor) -> Tensor:
        """Moved, [B, 2, N, N]."""
        return moved(self._fields[chosen], u, periodic=self._periodic)


def _places(shape: tuple[int, int]) -> Tensor:
    """sin(pi y) sin(pi x), by which a network sees how far the walls are: [1, N, N]."""
    y, x = ((torch.arange(n) + 0.5) / n for n in shape)
    return ((math.pi * y).sin()[:, None] * (math.pi * x).sin())[None]
