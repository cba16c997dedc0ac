"""A denoiser of flow fields, and how it is kept on disk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scidiff import weights as files
from scidiff.denoiser import NetworkDenoiser
from scidiff.fluids.calibrated import Calibrated
from scidiff.fluids.covariance import Covariance, hermitian
from scidiff.fluids.fresh import Network, fresh, network
from scidiff.fluids.navier_stokes import NavierStokes, kolmogorov
from scidiff.fluids.spectral import Box
from scidiff.fluids.symmetries import symmetrised
from scidiff.processes.base import Process
from scidiff.processes.gaussian import GaussianProcess
from scidiff.processes.stationary import Stationary
from scidiff.schedules import Cosine

LEAF = "vorticity"


@dataclass(frozen=True, kw_only=True)
class FlowConfig:
    """What builds the network again.

    Attributes:
        shape: (H, W) of the fields.
        lengths: of the periodic box along y and x.
        scale: standard deviation of the vorticity, in its own unit: the denoiser sees vorticity / scale.
        waves: of the force along y, which the network is shown as cos(n y) and sin(n y).
        widths, blocks, network: as `scidiff.fluids.fresh.network` takes them.
        noise: of the reverse SDE that draws, chosen on trajectories that were watched.
        viscosity, drag, force: of the flow; the force along x is `force` sin(n y).
    """

    shape: tuple[int, int]
    lengths: tuple[float, float]
    scale: float
    waves: int
    widths: tuple[int, ...] = (64, 128, 128)
    blocks: int = 2
    network: Network = "unet"
    noise: float = 10.0
    viscosity: float = 0.005
    drag: float = 0.1
    force: float = 1.0

    @property
    def box(self) -> Box:
        """The periodic box, with spectral derivatives."""
        return Box(shape=self.shape, lengths=self.lengths)

    @property
    def equation(self) -> NavierStokes:
        """What the flow obeys, on half as many points again along each axis, where all waves of a field are kept."""
        height, width = self.shape
        box = Box(shape=(height * 3 // 2, width * 3 // 2), lengths=self.lengths)
        force = kolmogorov(box, waves=self.waves, amplitude=self.force)
        return NavierStokes(box=box, viscosity=self.viscosity, drag=self.drag, forcing=force)


@dataclass(frozen=True, kw_only=True)
class FlowModel:
    """A denoiser of vorticity and what belongs to it.

    Attributes:
        config: sizes and units.
        prior: mean and spectrum of the data, in units of the scale.
        covariance: of the data, which shifts along y change, in units of the scale; `Calibrated` once it was seen what
            the denoiser leaves of the data.
        denoiser: of the leaf `LEAF`, [B, 1, H, W], in units of the scale.
        card: the model card.
    """

    config: FlowConfig
    prior: Stationary
    covariance: Covariance
    denoiser: NetworkDenoiser
    card: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def create(
        cls,
        config: FlowConfig,
        prior: Stationary,
        *,
        covariance: Covariance | None = None,
        seed: int = 0,
        card: Mapping[str, Any] | None = None,
    ) -> FlowModel:
        """A model with fresh weights, whose denoiser is that of a Gaussian field with the prior's spectrum.

        Args:
            config: sizes and units.
            prior: mean and spectrum.
            covariance: None: that of the spectrum.
            seed: of the weights.
            card: the model card.
        """
        make = network(
            config.network,
            leaf=LEAF,
            inputs=2,
            outputs=1,
            maps=force_waves(config.box, config.waves),
            widths=config.widths,
            blocks=config.blocks,
        )
        process = GaussianProcess(schedule=Cosine(), parametrisation=prior)
        return cls(
            config=config,
            prior=prior,
            covariance=covariance or Covariance.stationary(prior.variance[0], config.shape[1]),
            denoiser=NetworkDenoiser(fresh(make, seed), {LEAF: process}).eval(),
            card=card or {},
        )

    @property
    def noise(self) -> float:
        """Of the reverse SDE."""
        return self.config.noise

    @property
    def processes(self) -> Mapping[str, Process]:
        """The process of the leaf."""
        return self.denoiser.processes

    def save(self, folder: Path) -> None:
        """Write the model to a folder of safetensors and JSON: the network in float16, the rest in float32."""
        tensors = {f"denoiser.{name}": value.half() for name, value in self.denoiser.state_dict().items()}
        tensors |= {"prior.mean": self.prior.mean.float(), "prior.variance": self.prior.variance.float()}
        tensors["covariance"] = torch.view_as_real(self.covariance.matrices()).float()
        if isinstance(self.covariance, Calibrated):
            tensors |= {"left.levels": self.covariance.levels, "left.share": self.covariance.share.half()}
        files.save(folder, files.Weights(tensors=tensors, config={"flow": asdict(self.config)}, card=self.card))

    @classmethod
    def load(cls, folder: Path, *, device: torch.device | str = "cpu") -> FlowModel:
        """Read a model from a folder; WeightsError says in one line what is wrong with it."""
        return cls.of(files.load(folder), folder, device=device)

    @classmethod
    def of(cls, held: files.Weights, folder: Path, *, device: torch.device | str = "cpu") -> FlowModel:
        """The model of weights that were read from a folder."""
        with files.expected("weights of a flow", folder):
            prior = Stationary(mean=held.tensors["prior.mean"], variance=held.tensors["prior.variance"])
            flow = held.fields("flow")
            if flow.pop("reynolds", None) is not None:  # once kept here; null if the network was told nothing
                raise ValueError("several flows with one covariance; train anew by workflows/train_family.py")
            config = FlowConfig(**flow)
            covariance = Covariance.from_matrices(hermitian(held.tensors["covariance"]), config.shape[1])
            if "left.share" in held.tensors:
                levels, share = held.tensors["left.levels"].double(), held.tensors["left.share"].double()
                covariance = Calibrated.of_shares(covariance, levels, share)
            model = cls.create(config, prior, covariance=covariance, card=held.card)
            model.denoiser.load_state_dict(held.part("denoiser."))
        model.denoiser.to(device)
        return model


def packaged(name: str = "kolmogorov") -> Path:
    """The folder of packaged weights, such as "kolmogorov" or "winds"."""
    return Path(str(resources.files("scidiff.fluids").joinpath("weights", name)))


def force_waves(box: Box, waves: int) -> Tensor:
    """cos(n y) and sin(n y) of n waves along y, which a network is shown: [2, H, W]."""
    y, _ = box.coordinates()
    phase = (2 * torch.pi * waves / box.lengths[0] * y)[:, None].expand(box.shape)
    return torch.stack([phase.cos(), phase.sin()])


def prior_of(fields: Tensor) -> Stationary:
    """The mean over x and all fields, and the spectrum about it: fields [S, C, H, W] of a flow that varies along y.

    The estimates of the two modes (k_y, k_x) and (-k_y, k_x) are averaged, which reflection makes equal.
    """
    mean = fields.double().mean((0, -1), keepdim=True)[0].expand(fields.shape[1:])
    power = torch.zeros(*fields.shape[1:-1], fields.shape[-1] // 2 + 1, dtype=torch.float64)
    for part in fields.split(256):
        power += torch.fft.rfft2(part.double() - mean, norm="ortho").abs().square().sum(0)
    power = power / len(fields)
    mirrored = power.flip(-2).roll(1, -2)
    variance = (power + mirrored) / 2
    return Stationary(
        mean=mean.float().contiguous(), variance=torch.where(variance > 1e-9 * variance.max(), variance, 0).float()
    )


def covariance_of(fields: Tensor, prior: Stationary, *, waves: int) -> Covariance:
    """The covariance of fields [S, H, W] about the mean of a prior, averaged over the symmetries of the flow."""
    found = Covariance.of(fields, prior.mean[0])
    return Covariance.from_matrices(symmetrised(found.matrices(), waves=waves), fields.shape[-1])
