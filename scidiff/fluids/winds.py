r"""A denoiser of surface winds of the Earth, month by month.

    wind(month) = climatology(month) + scale x,    climatology(month) = sum_k c_k basis_k(month)

with a year's first two harmonics for a basis. The denoiser sees x, u above v as one field of 2 H rows: latitudes end at
the poles, longitudes go around. It is grid points that x lives on, not the sphere: a row counts as much as any other.

The network answers for what Wiener's filter by a covariance averaged over longitudes leaves. Stations are told to it in
the metric of that covariance blended with the first EOFs of the training months, which stand where they stand.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scidiff import weights as files
from scidiff.denoiser import NetworkDenoiser
from scidiff.fluids.blended import Blended
from scidiff.fluids.correlated import Correlated
from scidiff.fluids.covariance import Covariance
from scidiff.fluids.fresh import fresh
from scidiff.networks.zonal import ZonalUNet
from scidiff.processes.base import Process
from scidiff.processes.gaussian import GaussianProcess
from scidiff.schedules import Cosine

LEAF = "wind"
HARMONICS = 2
AXES = 64
"""Principal axes over y that are kept of each wave along x; the others share what variance is left."""
EOFS = 64
SHARE = 0.2
"""Of the covariance, that of the EOFs: best of 0.1 to 0.7 by kriging's error on 1990."""


@dataclass(frozen=True, kw_only=True)
class WindConfig:
    """What builds the network again.

    Attributes:
        shape: (H, W), latitudes from south to north pole, longitudes around.
        west: longitude of the first column, degrees east.
        scale: m/s that the denoiser sees as 1: the standard deviation of anomalies of years that the climatology has
            not seen, which is what the model is asked about.
        widths, blocks: of the network.
        noise: of the reverse SDE that draws, chosen on 1990.
    """

    shape: tuple[int, int]
    west: float
    scale: float
    widths: tuple[int, ...] = (32, 64, 64)
    blocks: int = 2
    noise: float = 10.0

    @property
    def latitudes(self) -> Tensor:
        """Degrees north, [H], float64."""
        return torch.linspace(-90, 90, self.shape[0], dtype=torch.float64)

    @property
    def longitudes(self) -> Tensor:
        """Degrees east, [W], float64."""
        return self.west + 360 / self.shape[1] * torch.arange(self.shape[1], dtype=torch.float64)


def seasons(months: Tensor) -> Tensor:
    """The basis of the year for months 0 to 11, [S]: float64 [S, 1 + 2 HARMONICS]."""
    angle = 2 * math.pi * (months.double() + 0.5) / 12
    waves = [wave(k * angle) for k in range(1, HARMONICS + 1) for wave in (torch.cos, torch.sin)]
    return torch.stack([torch.ones_like(angle), *waves], 1)


def climatology_of(winds: Tensor, months: Tensor) -> Tensor:
    """Least squares of winds [S, 2, H, W] on the seasons: c, [1 + 2 HARMONICS, 2, H, W]."""
    found = torch.linalg.lstsq(seasons(months), winds.double().flatten(1)).solution
    return found.unflatten(1, winds.shape[1:])


def inflation_of(winds: Tensor, months: Tensor) -> float:
    """How much larger anomalies are where the climatology has not seen the year, over those that it was fitted to.

    The root of the ratio of mean squares, each year of winds [12 Y, 2, H, W] left out in turn. Least squares takes a
    part of the anomalies of its months for climate, and the more so as the months of a year go together.
    """
    seen, unseen = winds.new_zeros((), dtype=torch.float64), winds.new_zeros((), dtype=torch.float64)
    for first in range(0, len(winds), 12):
        out = (torch.arange(len(winds)) // 12) == first // 12
        climatology = climatology_of(winds[~out], months[~out]).flatten(1)
        squares = (winds.double().flatten(1) - seasons(months) @ climatology).square().sum(1)
        seen, unseen = seen + squares[~out].mean(), unseen + squares[out].mean()
    return float((unseen / seen).sqrt())


def stacked(winds: Tensor) -> Tensor:
    """u above v: [..., 2, H, W] -> [..., 1, 2 H, W]."""
    return winds.flatten(-3, -2).unsqueeze(-3)


def covariance_of(fields: Tensor) -> tuple[Tensor, Tensor]:
    """The covariance of fields [S, 1, 2 H, W] without mean, averaged over longitudes and over neighbouring waves.

    Returns:
        Factors F_k [W // 2 + 1, 2 H, AXES], complex, and floors f_k [W // 2 + 1]: C_k = F_k F_k^* + f_k I.
    """
    raw = Covariance.of(fields[:, 0], torch.zeros_like(fields[0, 0])).matrices()
    around = torch.cat([raw[1:2].conj(), raw, raw[-2:-1].conj()])  # waves -1 and W / 2 + 1
    smooth = (around[:-2] + 2 * raw + around[2:]) / 4
    variance, axes = torch.linalg.eigh(smooth)
    rest, kept = variance[:, :-AXES], variance[:, -AXES:]
    floor = (rest.sum(1) / max(rest.shape[1], 1)).clamp_min(1e-6 * float(variance.max()))
    return axes[:, :, -AXES:] * (kept - floor[:, None]).clamp_min(0).sqrt()[:, None], floor


def eofs_of(fields: Tensor) -> Tensor:
    """The first principal patterns of fields [S, 1, 2 H, W] without mean, of their size: [E, 2 H, W]."""
    _, size, axes = torch.linalg.svd(fields.double().flatten(1), full_matrices=False)
    kept = size[:EOFS, None] * axes[:EOFS] / math.sqrt(len(fields))
    return kept.unflatten(1, fields.shape[2:])


@dataclass(frozen=True, kw_only=True)
class WindModel:
    """A denoiser of winds and what belongs to it.

    Attributes:
        config: sizes and units.
        climatology: c, [1 + 2 HARMONICS, 2, H, W], m/s.
        factors, floor: of the covariance averaged over longitudes, as `covariance_of` gives them.
        eofs: as `eofs_of` gives them.
        covariance: of both.
        denoiser: of the leaf `LEAF`, [B, 1, 2 H, W].
        card: the model card.
    """

    config: WindConfig
    climatology: Tensor
    factors: Tensor
    floor: Tensor
    eofs: Tensor
    covariance: Blended
    denoiser: NetworkDenoiser
    card: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def create(
        cls,
        config: WindConfig,
        climatology: Tensor,
        covariance: tuple[Tensor, Tensor],
        eofs: Tensor,
        *,
        seed: int = 0,
        card: Mapping[str, Any] | None = None,
    ) -> WindModel:
        """A model with fresh weights, whose denoiser is that of a Gaussian field."""
        factors, floor = covariance
        whole = factors @ factors.mH + torch.diag_embed(floor[:, None].expand(-1, factors.shape[1]))
        known = Covariance.from_matrices(whole, config.shape[1])
        make = partial(
            ZonalUNet,
            leaf=LEAF,
            components=2,
            kinds=2,
            maps=_maps(config, climatology),
            widths=config.widths,
            blocks=config.blocks,
        )
        process = GaussianProcess(schedule=Cosine(), parametrisation=Correlated(covariance=known))
        return cls(
            config=config,
            climatology=climatology,
            factors=factors,
            floor=floor,
            eofs=eofs,
            covariance=Blended(
                base=replace(known, variance=(1 - SHARE) * known.variance), patterns=math.sqrt(SHARE) * eofs.double()
            ),
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

    def usual(self, month: int) -> Tensor:
        """The climatology of a month 0 to 11, m/s: float64 [2, H, W]."""
        basis = seasons(torch.tensor([month])).to(self.climatology.device)[0]
        return (basis[:, None, None, None] * self.climatology.double()).sum(0)

    def save(self, folder: Path) -> None:
        """Write the model to a folder of safetensors and JSON: the climatology in float32, all else in float16."""
        tensors = {f"denoiser.{name}": value.half() for name, value in self.denoiser.state_dict().items()}
        tensors |= {"climatology": self.climatology.float(), "floor": self.floor.float()}
        tensors["eofs"] = self.eofs.half()
        tensors["factors"] = torch.view_as_real(self.factors).half()
        files.save(folder, files.Weights(tensors=tensors, config={"winds": asdict(self.config)}, card=self.card))

    @classmethod
    def load(cls, folder: Path, *, device: torch.device | str = "cpu") -> WindModel:
        """Read a model from a folder; WeightsError says in one line what is wrong with it."""
        return cls.of(files.load(folder), folder, device=device)

    @classmethod
    def of(cls, held: files.Weights, folder: Path, *, device: torch.device | str = "cpu") -> WindModel:
        """The model of weights that were read from a folder."""
        with files.expected("weights of winds", folder):
            factors = torch.view_as_complex(held.tensors["factors"].double())
            covariance = factors, held.tensors["floor"].double()
            config, climatology = WindConfig(**held.fields("winds")), held.tensors["climatology"]
            model = cls.create(config, climatology, covariance, held.tensors["eofs"], card=held.card)
            model.denoiser.load_state_dict(held.part("denoiser."))
        model.denoiser.to(device)
        return model


def _maps(config: WindConfig, climatology: Tensor) -> Tensor:
    """What is known of each place: the year's mean wind, its first harmonic's size, latitude and longitude."""
    mean, swing = climatology[0] / 5, climatology[1:3].norm(dim=0) / 5
    y, x = torch.meshgrid(torch.deg2rad(config.latitudes), torch.deg2rad(config.longitudes), indexing="ij")
    place = torch.stack([y.sin(), y.cos(), y.cos() * x.sin(), y.cos() * x.cos()])
    return torch.cat([mean.double(), swing.double(), place]).float()
