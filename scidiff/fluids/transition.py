r"""From one field of a flow to the next: a denoiser of the step, told where the flow stands.

    x_{n+1} = A x_n + m + c r,     A the linear prediction of each Fourier mode, r drawn by diffusion given x_n

(autoregressive conditional diffusion, Kohl et al., arXiv 2309.01745, in residual form). The noise has the spectrum of
r, so that a linear flow under Gaussian noise needs no network: one that answers 0 draws it. The network reads x_n and
the velocity that it stands for; in training x_n carries an error, as a rollout's own fields do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scidiff import weights as files
from scidiff.denoiser import NetworkDenoiser
from scidiff.fluids.fresh import fresh
from scidiff.fluids.model import force_waves, prior_of
from scidiff.fluids.spectral import Box
from scidiff.fluids.symmetries import FlowBatches
from scidiff.networks.unet import UNet
from scidiff.noise import Noise
from scidiff.processes.base import Process
from scidiff.processes.coloured import ColouredGaussianProcess, Spectrum
from scidiff.processes.parametrisations import EDM
from scidiff.schedules import Cosine
from scidiff.state import Layout
from scidiff.training.batches import Batch

LEAF = "change"


@dataclass(frozen=True, kw_only=True)
class TransitionConfig:
    """What builds the network again.

    Attributes:
        shape: (H, W) of the fields.
        lengths: of the periodic box along y and x.
        scale: standard deviation of the vorticity, in its own unit: x is vorticity / scale.
        waves: of the force along y.
        interval: time from one field to the next.
        change: c, the standard deviation of x_{n+1} - A x_n - m.
        error: standard deviation of the error that x_n carries in training, as a part of c.
        generative: the network was trained by diffusion; False: on the mean of x_{n+1} alone.
        widths, blocks: of the network.
    """

    shape: tuple[int, int]
    lengths: tuple[float, float]
    scale: float
    waves: int
    interval: float
    change: float
    error: float
    generative: bool = True
    widths: tuple[int, ...] = (32, 64, 64)
    blocks: int = 2

    @property
    def box(self) -> Box:
        """The periodic box, with spectral derivatives."""
        return Box(shape=self.shape, lengths=self.lengths)


@dataclass(frozen=True, kw_only=True)
class Linear:
    """What a Gaussian field tells of its next.

    Attributes:
        carried: A of each mode of `rfft2`, real [H, W // 2 + 1].
        mean: m, [1, H, W].
        spectrum: variance of each mode of r by the unitary `rfft2`, [1, H, W // 2 + 1].
        change: c.
    """

    carried: Tensor
    mean: Tensor
    spectrum: Tensor
    change: float

    @classmethod
    def of(cls, before: Tensor, after: Tensor) -> Linear:
        """The least-squares prediction of fields [S, H, W] from those before them, and what it leaves."""
        product, power = (torch.zeros(before.shape[-2], before.shape[-1] // 2 + 1).double() for _ in range(2))
        for old, new in zip(before.split(256), after.split(256), strict=True):
            waves, later = torch.fft.rfft2(old.double()), torch.fft.rfft2(new.double())
            product += (waves.conj() * later).real.sum(0)
            power += waves.abs().square().sum(0)
        carried = torch.where(power > 1e-9 * power.max(), product / power.clamp_min(1e-30), 0)
        carried = (carried + carried.flip(-2).roll(1, -2)) / 2
        rest = after - torch.fft.irfft2(torch.fft.rfft2(before) * carried.to(before), s=before.shape[-2:])
        prior = prior_of(rest[:, None])
        change = float((rest - prior.mean).std())
        spectrum = prior.variance / change**2
        return cls(carried=carried.float(), mean=prior.mean, spectrum=spectrum, change=change)


@dataclass(frozen=True, kw_only=True)
class TransitionModel:
    """A denoiser of the leaf `LEAF`, r: [B, 1, H, W], and what belongs to it.

    Attributes:
        config: sizes and units.
        linear: A and m, and r as a Gaussian field.
        denoiser: told `told(x_n)`.
        card: the model card.
    """

    config: TransitionConfig
    linear: Linear
    denoiser: NetworkDenoiser
    card: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def create(
        cls, config: TransitionConfig, linear: Linear, *, seed: int = 0, card: Mapping[str, Any] | None = None
    ) -> TransitionModel:
        """A model with fresh weights, which draws the Gaussian field r whatever it is told."""
        make = partial(
            UNet,
            leaf=LEAF,
            inputs=1,
            outputs=1,
            context=3,
            maps=force_waves(config.box, config.waves),
            widths=config.widths,
            blocks=config.blocks,
        )
        colour = Spectrum(variance=linear.spectrum)
        process = ColouredGaussianProcess(schedule=Cosine(), parametrisation=EDM(sigma_data=1.0), colour=colour)
        denoiser = NetworkDenoiser(fresh(make, seed), {LEAF: process}).eval()
        return cls(config=config, linear=linear, denoiser=denoiser, card=card or {})

    @property
    def processes(self) -> Mapping[str, Process]:
        """The process of the leaf."""
        return self.denoiser.processes

    def told(self, x: Tensor) -> Tensor:
        """What the network is told of fields [B, 1, H, W]: they and their velocity, [B, 3, H, W]."""
        return torch.cat([x, self.config.box.velocity(self.config.scale * x[:, 0])], 1)

    def predicted(self, x: Tensor) -> Tensor:
        """A x + m: [B, 1, H, W]."""
        found = torch.fft.irfft2(torch.fft.rfft2(x) * self.linear.carried.to(x), s=x.shape[-2:])
        return found + self.linear.mean.to(x)

    def save(self, folder: Path) -> None:
        """Write the model to a folder of safetensors and JSON: the network in float16, the rest in float32."""
        tensors = {f"denoiser.{name}": value.half() for name, value in self.denoiser.state_dict().items()}
        tensors |= {name: getattr(self.linear, name).float() for name in ("carried", "mean", "spectrum")}
        files.save(folder, files.Weights(tensors=tensors, config={"transition": asdict(self.config)}, card=self.card))

    @classmethod
    def load(cls, folder: Path, *, device: torch.device | str = "cpu") -> TransitionModel:
        """Read a model from a folder; WeightsError says in one line what is wrong with it."""
        return cls.of(files.load(folder), folder, device=device)

    @classmethod
    def of(cls, held: files.Weights, folder: Path, *, device: torch.device | str = "cpu") -> TransitionModel:
        """The model of weights that were read from a folder."""
        with files.expected("weights of a step in time", folder):
            config = TransitionConfig(**held.fields("transition"))
            known = {name: held.tensors[name].to(device) for name in ("carried", "mean", "spectrum")}
            model = cls.create(config, Linear(**known, change=config.change), card=held.card)
            model.denoiser.load_state_dict(held.part("denoiser."))
        model.denoiser.to(device)
        return model


class TransitionBatches(FlowBatches):
    """Pairs of fields [S, 2, H, W], one an interval after the other, as r and what is told, in units of the scale.

    Each pair is moved by a symmetry of the flow, and its first field carries an error of r's spectrum, drawn anew for
    every visit.

    Args:
        pairs: [S, 2, H, W].
        model: whose steps they are.
        size: pairs a batch.
        seed: of the order, the symmetries and the errors.
    """

    def __init__(self, pairs: Tensor, model: TransitionModel, *, size: int, seed: int = 0) -> None:
        super().__init__(pairs, leaf=LEAF, waves=model.config.waves, size=size, seed=seed)
        self._model = model

    def at(self, position: int) -> Batch:
        """The batch at a position."""
        batch, model = super().at(position), self._model
        before, after = batch.x_0[LEAF].split(1, 1)
        before = before + erring(model, Noise(seed=self._seed, index=batch.index))
        r = (after - model.predicted(before)) / model.config.change
        layout = Layout.dense(len(r), {LEAF: tuple(r.shape[1:])})
        return Batch(x_0={LEAF: r}, layout=layout, index=batch.index, condition=model.told(before))


def erring(model: TransitionModel, noise: Noise) -> Tensor:
    """Errors as a rollout's fields have, of r's spectrum: [B, 1, H, W]."""
    config = model.config
    rows = Layout.dense(len(noise.index), {"error": (1, *config.shape)}).rows("error")
    waves = torch.fft.rfft2(noise.at("error", 0, rows).normal()) * model.linear.spectrum.sqrt()
    return config.error * config.change * torch.fft.irfft2(waves, s=config.shape)
