"""Weights of several flows, which draw once they were told of one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from scidiff import weights as files
from scidiff.errors import UserError
from scidiff.fluids.covariance import hermitian
from scidiff.fluids.fresh import fresh, network
from scidiff.fluids.model import LEAF, FlowConfig, FlowModel, force_waves
from scidiff.fluids.spectral import Box
from scidiff.fluids.telling import Facts, Learned, ToldDenoiser


@dataclass(frozen=True, kw_only=True)
class FamilyConfig:
    """What builds the network of several flows again.

    Attributes:
        reynolds, waves: of the flows that were learned from, as `Learned` has them.
        shape, lengths, scale, widths, blocks, noise, drag, force: of all flows, as `FlowConfig` has them.
    """

    reynolds: tuple[float, ...]
    waves: tuple[int, ...]
    shape: tuple[int, int]
    lengths: tuple[float, float]
    scale: float
    widths: tuple[int, ...] = (64, 96, 128)
    blocks: int = 2
    noise: float = 10.0
    drag: float = 0.1
    force: float = 1.0

    def flow(self, reynolds: float, waves: int) -> FlowConfig:
        """Of one flow."""
        shared = {name: value for name, value in asdict(self).items() if name not in ("reynolds", "waves")}
        return FlowConfig(waves=waves, viscosity=1 / reynolds, **shared)


@dataclass(frozen=True, kw_only=True)
class FlowFamily:
    """A denoiser of vorticity of several flows and what belongs to it.

    Attributes:
        config: sizes, units and flows.
        learned: mean and covariance of each flow that was learned from, in units of the scale.
        denoiser: of the leaf `LEAF`, [B, 1, H, W], in units of the scale, of which each is told.
        card: the model card.
    """

    config: FamilyConfig
    learned: Learned
    denoiser: ToldDenoiser
    card: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def create(
        cls, config: FamilyConfig, learned: Learned, *, seed: int = 0, card: Mapping[str, Any] | None = None
    ) -> FlowFamily:
        """A family with fresh weights, whose denoiser of each flow is that of a Gaussian field with its spectrum.

        Args:
            config: sizes, units and flows.
            learned: mean and covariance of each.
            seed: of the weights.
            card: the model card.
        """
        make = network(
            "unet",
            leaf=LEAF,
            inputs=4,
            outputs=1,
            maps=None,
            widths=config.widths,
            blocks=config.blocks,
            facts=1 + len(config.waves),
        )
        box = Box(shape=config.shape, lengths=config.lengths)
        maps = torch.stack([force_waves(box, n) for n in config.waves])
        denoiser = ToldDenoiser(fresh(make, seed), learned, maps).eval()
        return cls(config=config, learned=learned, denoiser=denoiser, card=card or {})

    def told(self, *, reynolds: float | None, waves: int | None) -> FlowModel:
        """The model of one flow, which only draws, and whose mean and covariance are those of that flow.

        Args:
            reynolds: 1 / viscosity, between those that were learned from.
            waves: of the force along y, one that was learned; None: the only one.

        Raises:
            UserError: one of them is not given, or was not learned.
        """
        known, (low, *_, high) = self.config.waves, self.config.reynolds
        waves = known[0] if waves is None and len(known) == 1 else waves
        if waves not in known:
            listed = " or ".join(map(str, known))
            raise UserError(f"--forcing-waves: expected {listed}, as in training, got {_shown(waves)}")
        if reynolds is None or not low <= reynolds <= high:
            raise UserError(f"--reynolds: expected {low:g} to {high:g}, as in training, got {_shown(reynolds)}")
        device = self.denoiser.maps.device
        one: Facts = {
            "reynolds": torch.tensor([reynolds], dtype=torch.float64, device=device),
            "waves": torch.tensor([waves], device=device),
        }
        return FlowModel(
            config=self.config.flow(reynolds, waves),
            prior=self.learned.prior(one),
            covariance=self.learned.covariance(one),
            denoiser=self.denoiser.of(one).eval(),
            card=self.card,
        )

    def save(self, folder: Path) -> None:
        """Write the family to a folder of safetensors and JSON: the network in float16, the rest in float32."""
        tensors = {f"denoiser.{name}": value.half() for name, value in self.denoiser.state_dict().items()}
        tensors |= {"mean": self.learned.mean.float(), "variance": self.learned.variance.float()}
        tensors["covariance"] = torch.view_as_real(self.learned.matrices).float()
        files.save(folder, files.Weights(tensors=tensors, config={"family": asdict(self.config)}, card=self.card))

    @classmethod
    def load(cls, folder: Path, *, device: torch.device | str = "cpu") -> FlowFamily:
        """Read a family from a folder; WeightsError says in one line what is wrong with it."""
        return cls.of(files.load(folder), folder, device=device)

    @classmethod
    def of(cls, held: files.Weights, folder: Path, *, device: torch.device | str = "cpu") -> FlowFamily:
        """The family of weights that were read from a folder."""
        with files.expected("weights of several flows", folder):
            config = FamilyConfig(**held.fields("family"))
            learned = Learned(
                reynolds=config.reynolds,
                waves=config.waves,
                mean=held.tensors["mean"],
                variance=held.tensors["variance"],
                matrices=hermitian(held.tensors["covariance"]),
            )
            family = cls.create(config, learned, card=held.card)
            family.denoiser.load_state_dict(held.part("denoiser."))
        family.denoiser.to(device)
        return family


def _shown(value: float | None) -> str:
    return "none" if value is None else f"{value:g}"
