r"""A few fields of a flow that follow each other, drawn together: a denoiser of a window of W frames.

Frames that are known are read without noise, and the network is told which they are (Höppe et al., "Diffusion models
for video prediction and infilling", arXiv 2206.07696): one network draws windows, goes on from any of their frames and
fills in between. Noise has the spectrum of the data and is independent from frame to frame, so that windows of one
trajectory see the same noise (`scidiff.fluids.composed`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from scidiff import weights as files
from scidiff.denoiser import Denoiser
from scidiff.fluids.fresh import fresh
from scidiff.fluids.gaussian_window import GaussianWindow
from scidiff.fluids.model import force_waves
from scidiff.fluids.space_time import SpaceTime
from scidiff.fluids.spectral import Box
from scidiff.fluids.symmetries import FlowBatches
from scidiff.networks.unet import UNet
from scidiff.noise import Noise
from scidiff.processes.base import Process
from scidiff.processes.coloured import ColouredGaussianProcess, Spectrum
from scidiff.processes.gaussian import GaussianProcess
from scidiff.processes.parametrisations import EDM
from scidiff.processes.stationary import Stationary
from scidiff.schedules import Cosine
from scidiff.state import Layout, State
from scidiff.training.batches import Batch

LEAF = "frames"
"""Vorticity over its scale, less the mean of the data: [B, L, H, W]."""


@dataclass(frozen=True, kw_only=True)
class WindowConfig:
    """What builds the network again.

    Attributes:
        shape: (H, W) of the fields.
        lengths: of the periodic box along y and x.
        scale: standard deviation of the vorticity, in its own unit.
        waves: of the force along y.
        interval: time from one frame to the next.
        frames: of a window.
        error: that known frames carry in training, as a part of what a linear prediction of each wave leaves.
        widths, blocks: of the network.
    """

    shape: tuple[int, int]
    lengths: tuple[float, float]
    scale: float
    waves: int
    interval: float
    frames: int
    error: float
    widths: tuple[int, ...] = (32, 64, 96)
    blocks: int = 2

    @property
    def box(self) -> Box:
        """The periodic box, with spectral derivatives."""
        return Box(shape=self.shape, lengths=self.lengths)


def known_frames(values: Tensor, known: Tensor) -> dict[str, Tensor]:
    """What a denoiser of frames is told: values [B, L, H, W], read where known, bool [B, L]."""
    return {"values": values, "known": known[:, :, None, None]}


class WindowDenoiser(Denoiser):
    """Clean estimates of windows [B, W, H, W'], some of whose frames may be known.

    The estimate of a Gaussian field, and the network's answer in units of what that leaves of each wave.

    Args:
        network: of the leaf, told [B, 4 W, H, W']: the estimate, which frames are known, and the estimate's velocities.
        prior: mean and spectrum of the data over the scale.
        memory: c_k of `SpaceTime`.
        config: sizes and units.
    """

    mean: Tensor

    def __init__(self, network: nn.Module, prior: Stationary, memory: Tensor, config: WindowConfig) -> None:
        super().__init__()
        self.network, self.gaussian = network, GaussianWindow(prior.variance[0], memory)
        self.register_buffer("mean", prior.mean.clone(), persistent=False)
        self._box, self._scale = config.box, config.scale

    def forward(self, x_t: State, t: Tensor, layout: Layout, condition: Any = None) -> State:
        """The condition is that of `known_frames`, or None."""
        x = x_t[LEAF]
        if condition is None:
            condition = known_frames(x, torch.zeros(x.shape[:2], dtype=torch.bool, device=x.device))
        known, values = condition["known"], condition["values"].to(x)
        x = torch.where(known, values, x)
        estimate, left = self.gaussian(x, known[:, :, 0, 0], *Cosine()(t))
        velocity = self._box.velocity(self._scale * (estimate + self.mean.to(x))).flatten(1, 2)
        told = torch.cat([estimate, known.expand_as(x).to(x), velocity], 1)
        output = self.network({LEAF: x}, t.to(x.dtype), layout, told)[LEAF].to(x)
        clean = estimate + torch.fft.irfft2(torch.fft.rfft2(output) * left, s=x.shape[-2:])
        return {LEAF: torch.where(known, values, clean)}


@dataclass(frozen=True, kw_only=True)
class WindowModel:
    """A denoiser of windows of the leaf `LEAF`, and what belongs to it.

    Attributes:
        config: sizes and units.
        prior: mean and spectrum of the data over the scale, of one channel.
        memory: c_k of `SpaceTime`, [W, H, W' // 2 + 1].
        denoiser: of windows.
        card: the model card.
    """

    config: WindowConfig
    prior: Stationary
    memory: Tensor
    denoiser: Denoiser
    card: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def create(
        cls,
        config: WindowConfig,
        prior: Stationary,
        memory: Tensor,
        *,
        seed: int = 0,
        card: Mapping[str, Any] | None = None,
    ) -> WindowModel:
        """A model with fresh weights, which draws windows of a Gaussian field with the data's spectrum and memory."""
        make = partial(
            UNet,
            leaf=LEAF,
            inputs=config.frames,
            outputs=config.frames,
            context=4 * config.frames,
            maps=force_waves(config.box, config.waves),
            widths=config.widths,
            blocks=config.blocks,
        )
        denoiser = WindowDenoiser(fresh(make, seed), prior, memory, config).eval()
        return cls(config=config, prior=prior, memory=memory, denoiser=denoiser, card=card or {})

    @property
    def process(self) -> GaussianProcess:
        """Of the leaf, whatever the number of frames."""
        return process_of(self.prior)

    @property
    def processes(self) -> Mapping[str, Process]:
        """The process by its leaf."""
        return {LEAF: self.process}

    def covariance(self, frames: int) -> SpaceTime:
        """Of a trajectory of so many frames, to second order."""
        return SpaceTime.of(self.prior.variance[0], self.memory, frames=frames, width=self.config.shape[1])

    def leaf(self, vorticity: Tensor) -> Tensor:
        """Vorticities [..., H, W'] in their own unit as the leaf has them."""
        return vorticity / self.config.scale - self.prior.mean[0].to(vorticity)

    def vorticity(self, leaf: Tensor) -> Tensor:
        """The inverse of `leaf`."""
        return self.config.scale * (leaf + self.prior.mean[0].to(leaf))

    def save(self, folder: Path) -> None:
        """Write the model to a folder of safetensors and JSON: the network in float16, the rest in float32."""
        tensors = {f"denoiser.{name}": value.half() for name, value in self.denoiser.state_dict().items()}
        tensors |= {"mean": self.prior.mean, "spectrum": self.prior.variance, "memory": self.memory}
        tensors = {name: value if value.dtype == torch.half else value.float() for name, value in tensors.items()}
        files.save(folder, files.Weights(tensors=tensors, config={"windows": asdict(self.config)}, card=self.card))

    @classmethod
    def load(cls, folder: Path, *, device: torch.device | str = "cpu") -> WindowModel:
        """Read a model from a folder; WeightsError says in one line what is wrong with it."""
        return cls.of(files.load(folder), folder, device=device)

    @classmethod
    def of(cls, held: files.Weights, folder: Path, *, device: torch.device | str = "cpu") -> WindowModel:
        """The model of weights that were read from a folder."""
        with files.expected("weights of windows of a flow", folder):
            config = WindowConfig(**held.fields("windows"))
            mean, spectrum, memory = (held.tensors[name].to(device) for name in ("mean", "spectrum", "memory"))
            model = cls.create(config, Stationary(mean=mean, variance=spectrum), memory, card=held.card)
            model.denoiser.load_state_dict(held.part("denoiser."))
        model.denoiser.to(device)
        return model


def process_of(prior: Stationary) -> GaussianProcess:
    """Noise with the spectrum of a prior, independent from frame to frame."""
    colour = Spectrum(variance=prior.variance)
    return ColouredGaussianProcess(schedule=Cosine(), parametrisation=EDM(sigma_data=1.0), colour=colour)


class WindowBatches(FlowBatches):
    """Windows of vorticity [S, W, H, W'] as the leaf has them, each moved by a symmetry, with some frames known.

    Half of the windows begin with known frames, a sixth have some anywhere, a third have none. Known frames carry an
    error of the spectrum of what a linear prediction leaves, drawn anew for every visit, as a trajectory's own do.

    Args:
        windows: in the unit of the data.
        model: that is to learn.
        size: windows a batch.
        seed: of the order, the symmetries, the choice of frames and the errors.
    """

    def __init__(self, windows: Tensor, model: WindowModel, *, size: int, seed: int = 0) -> None:
        super().__init__(windows, leaf=LEAF, waves=model.config.waves, size=size, seed=seed)
        self._model = model

    def move(self, chosen: Tensor, u: Tensor) -> Tensor:
        """As the leaf has them, float32."""
        return self._model.leaf(super().move(chosen, u).float())

    def at(self, position: int) -> Batch:
        """The batch at a position."""
        batch = super().at(position)
        x, noise = batch.x_0[LEAF], Noise(seed=self._seed, index=batch.index)
        told = known_frames(x + self._error(noise), chosen(noise, frames=x.shape[1]))
        return Batch(x_0=batch.x_0, layout=batch.layout, index=batch.index, condition=told)

    def _error(self, noise: Noise) -> Tensor:
        """[B, W, H, W']."""
        model, shape = self._model, (self._model.config.frames, *self._model.config.shape)
        rows = Layout.dense(len(noise.index), {"error": shape}).rows("error")
        left = (model.prior.variance[0] * (1 - model.memory[1].square())).clamp_min(0).sqrt()
        waves = torch.fft.rfft2(noise.at("error", 0, rows).normal()) * left.float()
        return model.config.error * torch.fft.irfft2(waves, s=shape[1:])


def chosen(noise: Noise, *, frames: int) -> Tensor:
    """Which frames of each window are known in training, never all: bool [B, W]."""
    rows = Layout.dense(len(noise.index), {"known": (2 + frames,)}).rows("known")
    u = noise.at("known", 0, rows).uniform()
    first = 1 + (u[:, 1] * (frames - 1)).long()
    begun = torch.arange(frames, device=u.device) < first[:, None]
    among = u[:, 2:] < 0.5
    among[:, -1] &= ~among.all(1)
    none = torch.zeros_like(among)
    return torch.where(u[:, :1] < 1 / 3, none, torch.where(u[:, :1] < 5 / 6, begun, among))
