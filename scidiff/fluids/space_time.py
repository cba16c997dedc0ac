r"""A Gaussian field over time: stationary, its waves independent, each with a memory of its own.

    Cov[x_i, x_j] of a wave k  =  S_k c_k(|i - j|),     c_k(0) = 1

The memory is known for lags below W. Further ones follow from those of the autoregression of order W - 1 that has them
(Yule and Walker), which is the process of greatest entropy with that memory (Burg 1975), and Markov: what comes
depends on the last W - 1 fields alone. The symmetries of a flow (`scidiff.fluids.symmetries`) make c_k real.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

_RIDGE = 1e-6  # of a memory, white noise that keeps its matrices positive


@dataclass(frozen=True, kw_only=True, eq=False)
class SpaceTime:
    """The covariance of trajectories [N, L, H, W].

    Attributes:
        axes: of the memory of each wave, real [H, W // 2 + 1, L, L], orthonormal, an axis a column.
        variance: along them, [H, W // 2 + 1, L], >= 0, in units in which white noise has 1 (unitary `rfft2`).
        spectrum: S_k, [H, W // 2 + 1].
        width: W.
    """

    axes: Tensor
    variance: Tensor
    spectrum: Tensor
    width: int

    @classmethod
    def of(cls, spectrum: Tensor, memory: Tensor, *, frames: int, width: int) -> SpaceTime:
        """Of S_k [H, W // 2 + 1] and c_k at the first lags [W, H, W // 2 + 1], for so many frames."""
        share, axes = torch.linalg.eigh(matrices(memory, frames))
        return cls(
            axes=axes,
            variance=share.clamp_min(0) * spectrum.double()[..., None],
            spectrum=spectrum.double(),
            width=width,
        )

    def to(self, like: Tensor) -> SpaceTime:
        """The same, on the device of a tensor, in float64."""
        return replace(self, **{name: getattr(self, name).to(like.device) for name in ("axes", "variance", "spectrum")})

    def spread(self, x: Tensor) -> Tensor:
        """C x for trajectories x [..., L, H, W]."""
        return self._scaled(x, self.variance)

    def root(self, white: Tensor) -> Tensor:
        """Trajectories of covariance C from white noise [..., L, H, W]."""
        return self._scaled(white, self.variance.sqrt())

    def posterior(self, noise: Tensor) -> SpaceTime:
        """What is left once every frame was seen with noise of `noise` times the spectrum, >= 0; inf: all.

        The noise is white over time, so the axes stay.
        """
        noise = torch.as_tensor(noise, dtype=torch.float64, device=self.variance.device)
        loud = (noise * self.spectrum)[..., None]
        return replace(self, variance=torch.where(loud > 0, self.variance / (1 + self.variance / loud), 0))

    def filtered(self, x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """E[x_0 | alpha x_0 + sigma noise = x], Wiener's filter, noise as of `posterior`: [..., L, H, W], float64."""
        total = alpha.square() * self.variance + sigma.square() * self.spectrum[..., None]
        return self._scaled(x, torch.where(total > 0, alpha * self.variance / torch.where(total > 0, total, 1), 0))

    def lags(self) -> Lags:
        """The entries of C."""
        matrices = (self.axes * self.variance[..., None, :]) @ self.axes.mT
        waves = matrices.permute(2, 3, 0, 1)
        height = self.spectrum.shape[0]
        return Lags(values=torch.fft.irfft2(waves, s=(height, self.width)))

    def _scaled(self, x: Tensor, gain: Tensor) -> Tensor:
        """Each axis of each wave times a gain [H, W // 2 + 1, L]."""
        waves = torch.fft.rfft2(x.double()).movedim(-3, -1)[..., None, :]  # [..., H, K, 1, L]
        axes = self.axes.to(waves.dtype)
        found = ((waves @ axes) * gain[..., None, :]) @ axes.mT
        return torch.fft.irfft2(found[..., 0, :].movedim(-1, -3), s=x.shape[-2:])


@dataclass(frozen=True, kw_only=True)
class Lags:
    """The entries of a covariance that no shift in space changes.

    Attributes:
        values: between frames and by distance along y and x, [L, L, H, W].
    """

    values: Tensor

    def between(self, a: Tensor, b: Tensor) -> Tensor:
        """Between places [..., A] and [..., B] of the flattened trajectory: [..., A, B]."""
        _, _, height, width = self.values.shape
        (i, y, x), (j, v, u) = (_split(place, height, width) for place in (a, b))
        found = self.values[
            i[..., :, None],
            j[..., None, :],
            (v[..., None, :] - y[..., :, None]) % height,
            (u[..., None, :] - x[..., :, None]) % width,
        ]
        return found


def _split(place: Tensor, height: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Frame, line and column of a place."""
    return place // (height * width), place // width % height, place % width


def matrices(memory: Tensor, frames: int) -> Tensor:
    """The memory between frames, from that at the first lags [W, H, W' // 2 + 1]: float64 [H, W' // 2 + 1, L, L]."""
    memory = memory.double().movedim(0, -1) / (1 + _RIDGE)
    memory[..., 0] = 1
    apart = (torch.arange(frames)[:, None] - torch.arange(frames)).abs()
    return extended(memory, frames)[..., apart]


def extended(memory: Tensor, frames: int) -> Tensor:
    """c at lags 0 to frames - 1 from those it is known at: [..., W] -> [..., frames], by the autoregression."""
    known = memory.shape[-1]
    if frames <= known:
        return memory[..., :frames]
    order = known - 1
    apart = (torch.arange(order)[:, None] - torch.arange(order)).abs()
    weights = torch.linalg.solve(memory[..., apart], memory[..., 1:])
    found = list(memory.unbind(-1))
    for _ in range(frames - known):
        found.append(sum(weights[..., j] * found[-1 - j] for j in range(order)))
    return torch.stack(found, -1)


def memory_of(windows: Tensor, mean: Tensor) -> Tensor:
    """c_k of windows [S, W, H, W'] about a mean [H, W']: [W, H, W' // 2 + 1].

    Waves without variance have no memory. The estimates of the modes (k_y, k_x) and (-k_y, k_x) are averaged.
    """
    frames = windows.shape[1]
    total = torch.zeros(frames, windows.shape[-2], windows.shape[-1] // 2 + 1, dtype=torch.float64)
    for part in windows.split(64):
        waves = torch.fft.rfft2(part.double() - mean.double())
        for lag in range(frames):
            pairs = (waves[:, : frames - lag].conj() * waves[:, lag:]).real
            total[lag] += pairs.mean(1).sum(0)
    total = (total + total.flip(-2).roll(1, -2)) / 2
    known = total[0] > 1e-9 * total[0].max()
    none = torch.zeros_like(total)
    none[0] = 1
    return torch.where(known, total / torch.where(known, total[0], 1), none)
